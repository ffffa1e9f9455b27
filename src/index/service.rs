//! The service that keeps the index current.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use jiff::Timestamp;
use metrics::{gauge, histogram};
use tokio::time::{Instant, sleep};

use super::{
    DayUpdate, Index, IndexError, LastIndexPass,
    progress::{DueDate, PROGRESS_OBJECT, Progress},
};
use crate::{
    archive::{ArchiveError, ConversationChange, ProjectDay, check_due},
    health::Health,
    lifecycle::Lifecycle,
};

/// The name of the lease, and of the condition in health reports.
const LEASE_NAME: &str = "index";
/// The delay after a failed pass, and after a failed attempt to take the lease.
const RETRY_DELAY: Duration = Duration::from_secs(30);
/// The number of changes that are listed at once.
const MAX_LISTED_CHANGES: usize = 10_000;
/// The time of a pass for the comparison of days with the archive.
const CHECK_TIME: Duration = Duration::from_mins(1);
/// The interval at which days are looked for that were not compared.
const SCAN_INTERVAL: Duration = Duration::from_mins(15);
/// A day is not updated again for this many times the duration of its last update, so that a large day costs little.
const PAUSE_FACTOR: u32 = 20;
/// The longest pause between two updates of a day.
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// The number of failures and of conversations that are named.
const MAX_NAMED: usize = 5;

/// The service. See the [module](super).
#[derive(Clone, Debug)]
pub struct IndexService {
    index: Index,
    /// The account and the id of each project whose days are compared.
    projects: Vec<(String, String)>,
    every: Duration,
    health: Health,
}

/// The result of a pass. It is complete without failures.
#[derive(Clone, Debug, Default)]
pub struct IndexPassReport {
    /// The conversations that were read.
    pub read: usize,
    /// The calls that were removed.
    pub removed: usize,
    /// The days that were updated or compared.
    pub days: usize,
    /// The changes that wait for the next pass.
    pub changes: usize,
    /// The reasons why something was not updated.
    pub failures: Vec<String>,
    /// The conversations that cannot be read, each with the reason.
    pub unreadable: Vec<String>,
    newest_archived_at: Option<Timestamp>,
}

/// What a process remembers between two passes.
#[derive(Debug, Default)]
struct PassState {
    /// The end of the pause of each day that was updated.
    paused_until: HashMap<ProjectDay, Instant>,
    /// The days to compare.
    due: VecDeque<DueDay>,
    scanned_at: Option<Instant>,
    /// The end of the last pass without a failure, or the start of the first one that failed.
    last_success: Option<Timestamp>,
}

#[derive(Clone, Debug)]
struct DueDay {
    account_id: String,
    project_id: String,
    due: DueDate,
}

impl IndexService {
    /// Creates the service. `projects` are the account and the id of each project.
    pub fn new(index: Index, projects: Vec<(String, String)>, every: Duration, health: Health) -> Self {
        Self { index, projects, every, health }
    }

    /// Keeps the index current until the drain.
    pub async fn run(self, lifecycle: Lifecycle) {
        let (draining, clock) = (lifecycle.draining(), self.index.clock.clone());
        let mut state = PassState::default();
        loop {
            let is_due = |note: Option<&str>| check_due(note, clock.now(), self.every);
            let lease = tokio::select! {
                () = draining.cancelled() => return,
                lease = self.index.archive.lease(LEASE_NAME, is_due) => lease,
            };
            let mut lease = match lease {
                Ok(lease) => lease,
                Err(error) => {
                    self.degrade(&format!("its lease in the archive cannot be taken: {error}"));
                    tokio::select! {
                        () = draining.cancelled() => return,
                        () = sleep(RETRY_DELAY) => continue,
                    }
                }
            };
            let started_at = clock.now();
            let report = tokio::select! {
                () = draining.cancelled() => None,
                () = lease.lost() => None,
                report = self.run_pass(&mut state) => Some(report),
            };
            let is_complete = report.as_ref().is_some_and(|report| report.failures.is_empty());
            lease.end(LEASE_NAME, is_complete.then(|| started_at.to_string())).await;
            match report {
                None if draining.is_cancelled() => return,
                None => tracing::warn!("the lease for the index was lost; another process continues"),
                Some(report) => self.publish(&report, &state),
            }
            if !is_complete {
                tokio::select! {
                    () = draining.cancelled() => return,
                    () = sleep(RETRY_DELAY.min(self.every)) => {}
                }
            }
        }
    }

    /// Makes one pass now. Waits while another process makes one.
    ///
    /// # Errors
    ///
    /// The lease cannot be taken, or was lost.
    pub async fn run_once(&self) -> Result<IndexPassReport, String> {
        let lease = self.index.archive.lease(LEASE_NAME, |_| Ok(())).await;
        let mut lease = lease.map_err(|error| format!("the lease of the index cannot be taken: {error}"))?;
        let (started_at, mut state) = (self.index.clock.now(), PassState::default());
        let report = tokio::select! {
            () = lease.lost() => return Err("the lease of the index was lost; run the command again".to_owned()),
            report = self.run_pass(&mut state) => report,
        };
        lease.end(LEASE_NAME, report.failures.is_empty().then(|| started_at.to_string())).await;
        self.publish(&report, &state);
        Ok(report)
    }

    async fn run_pass(&self, state: &mut PassState) -> IndexPassReport {
        let (started_at, mut report) = (self.index.clock.now(), IndexPassReport::default());
        let mut progress = match self.index.archive.read_private(PROGRESS_OBJECT).await {
            Ok(object) => Progress::parse(&object.unwrap_or_default(), &format!("{:?}", self.index.stamp)),
            Err(error) => {
                state.last_success.get_or_insert(started_at);
                report.failures.push(format!("the archive cannot be read: {error}"));
                return report;
            }
        };
        let before = progress.clone();
        let updated = async {
            self.apply_changes(state, &mut report).await?;
            self.check_days(state, &mut progress, &mut report).await
        };
        if let Err(error) = updated.await {
            report.failures.push(error.to_string());
        }
        self.note_pass(state, &mut progress, &report, started_at);
        if progress != before {
            let saved = self.index.archive.write_private(PROGRESS_OBJECT, progress.to_json()).await;
            report.failures.extend(saved.err().map(|error| format!("the progress cannot be saved: {error}")));
        }
        report
    }

    /// Updates the days that have changes, the newest first, until no change is left that can be applied now.
    async fn apply_changes(
        &self,
        state: &mut PassState,
        report: &mut IndexPassReport,
    ) -> Result<(), IndexError> {
        state.paused_until.retain(|_, until| *until > Instant::now());
        loop {
            let changes =
                self.index.archive.list_changes(MAX_LISTED_CHANGES).await.map_err(IndexError::listing)?;
            let (listed, mut waiting) = (changes.len(), 0);
            let mut days: BTreeMap<ProjectDay, Vec<ConversationChange>> = BTreeMap::new();
            for change in changes {
                days.entry(change.day.clone()).or_default().push(change);
            }
            let mut days: Vec<_> = days.into_iter().collect();
            days.sort_by_key(|(day, _)| std::cmp::Reverse(day.date()));
            for (day, changes) in days {
                waiting += if state.paused_until.contains_key(&day) {
                    changes.len()
                } else {
                    self.apply_to_day(&day, changes, state, report).await?
                };
                report.changes = waiting;
            }
            if listed < MAX_LISTED_CHANGES || waiting == listed {
                return Ok(());
            }
        }
    }

    /// Updates a day, and then removes the notes of its changes. Returns the number of those that stay.
    async fn apply_to_day(
        &self,
        day: &ProjectDay,
        changes: Vec<ConversationChange>,
        state: &mut PassState,
        report: &mut IndexPassReport,
    ) -> Result<usize, IndexError> {
        let started_at = Instant::now();
        let names: HashSet<_> = changes.iter().map(|change| change.name.clone()).collect();
        let update = match self.index.update_folders(day, names.into_iter().collect()).await {
            Ok(update) => update,
            Err(error) if self.index.is_archive_unreachable(&error).await => return Err(error),
            Err(error) => {
                report.failures.push(error.to_string());
                return Ok(changes.len());
            }
        };
        let elapsed = started_at.elapsed();
        state.paused_until.insert(day.clone(), Instant::now() + (elapsed * PAUSE_FACTOR).min(MAX_PAUSE));
        // What cannot be read now is tried again. What a person must repair has another change afterwards.
        let is_kept = |change: &ConversationChange| {
            update
                .unreadable
                .iter()
                .any(|unreadable| unreadable.is_temporary && unreadable.name == change.name)
        };
        let (kept, done): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_kept);
        report.add(day, &update, elapsed);
        self.index.archive.remove_changes(&done).await.map_err(|error| IndexError::archive(day, error))?;
        Ok(kept.len())
    }

    /// Compares days with the archive for a limited time.
    async fn check_days(
        &self,
        state: &mut PassState,
        progress: &mut Progress,
        report: &mut IndexPassReport,
    ) -> Result<(), IndexError> {
        let deadline = Instant::now() + CHECK_TIME;
        if state.scanned_at.is_none_or(|at| at.elapsed() >= SCAN_INTERVAL) {
            state.due = self.list_due_days(progress).await.map_err(IndexError::listing)?;
            state.scanned_at = Some(Instant::now());
        }
        while let Some(DueDay { account_id, project_id, due }) = state.due.front().cloned()
            && Instant::now() < deadline
        {
            let day = ProjectDay::new(&account_id, &project_id, due.date);
            let started_at = Instant::now();
            match self.index.check_day(&day, Some(deadline), |_| ()).await {
                Ok(update) => {
                    report.add(&day, &update, started_at.elapsed());
                    if update.is_unfinished {
                        return Ok(());
                    }
                    if !update.unreadable.iter().any(|unreadable| unreadable.is_temporary) {
                        progress.project(&account_id, &project_id).note(due, self.index.clock.now());
                    }
                }
                Err(error) if self.index.is_archive_unreachable(&error).await => return Err(error),
                // The next search finds it again.
                Err(error) => report.failures.push(error.to_string()),
            }
            state.due.pop_front();
        }
        Ok(())
    }

    /// Lists the days to compare, newest first.
    async fn list_due_days(&self, progress: &mut Progress) -> Result<VecDeque<DueDay>, ArchiveError> {
        let (mut days, now) = (Vec::new(), self.index.clock.now());
        for (account_id, project_id) in &self.projects {
            let archived = self.index.archive.list_dates(account_id, project_id).await?;
            let indexed = self.index.list_indexed_dates(account_id, project_id).await?;
            let due = progress.project(account_id, project_id).due(&archived, &indexed, now);
            days.extend(due.into_iter().map(|due| DueDay {
                account_id: account_id.clone(),
                project_id: project_id.clone(),
                due,
            }));
        }
        days.sort_by_key(|day| std::cmp::Reverse(day.due.date));
        Ok(days.into())
    }

    fn note_pass(
        &self,
        state: &mut PassState,
        progress: &mut Progress,
        report: &IndexPassReport,
        started_at: Timestamp,
    ) {
        let last = progress.last_pass.take();
        if report.failures.is_empty() {
            state.last_success = Some(self.index.clock.now());
        } else {
            let before = last.as_ref().and_then(|last| last.completed_at);
            state.last_success.get_or_insert(before.unwrap_or(started_at));
        }
        let newest_before = last.and_then(|last| last.newest_archived_at);
        progress.last_pass = Some(LastIndexPass {
            started_at,
            completed_at: state.last_success,
            newest_archived_at: report.newest_archived_at.max(newest_before),
            changes: report.changes as u64,
            days: state.due.len() as u64,
            failure: report.failures.first().cloned(),
        });
    }

    /// Writes the result to the log, the metrics and `/readyz`.
    #[expect(clippy::cast_precision_loss, reason = "counts and seconds since 1970 fit")]
    fn publish(&self, report: &IndexPassReport, state: &PassState) {
        let IndexPassReport { read, removed, days, changes, failures, unreadable, .. } = report;
        gauge!("polyhook_index_changes").set(*changes as f64);
        if let Some(at) = state.last_success {
            gauge!("polyhook_index_last_success_timestamp_seconds").set(at.as_second() as f64);
        }
        if *days > 0 {
            tracing::info!(
                read,
                removed,
                days,
                changes,
                "index updated: {read} conversations read, {days} days"
            );
        }
        for failure in failures.iter().take(MAX_NAMED) {
            tracing::warn!("the index is not current: {failure}");
        }
        for conversation in unreadable.iter().take(MAX_NAMED) {
            tracing::warn!("the index lacks a conversation: {conversation}");
        }
        if failures.is_empty() {
            self.health.clear(LEASE_NAME);
        } else {
            let named: Vec<_> = failures.iter().take(MAX_NAMED).map(String::as_str).collect();
            self.degrade(&named.join("; "));
        }
    }

    fn degrade(&self, reason: &str) {
        self.health.set_degraded(LEASE_NAME, format!("new calls may be missing from the index: {reason}"));
    }
}

impl IndexPassReport {
    fn add(&mut self, day: &ProjectDay, update: &DayUpdate, elapsed: Duration) {
        self.days += 1;
        self.read += update.read;
        self.removed += update.removed;
        self.newest_archived_at = self.newest_archived_at.max(update.newest_archived_at);
        let folder = day.folder();
        let unreadable = update.unreadable.iter();
        self.unreadable.extend(unreadable.map(|found| format!("{folder}/{}: {}", found.name, found.reason)));
        histogram!("polyhook_index_update_seconds").record(elapsed);
    }
}
