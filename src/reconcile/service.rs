//! The service that reconciles every `every`.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use metrics::gauge;
use tokio::time::{Instant, sleep, timeout};

use super::{
    PassSummary, QueueingLimits, ReconcileConfig, ReconcilePass,
    progress::{Progress, ProjectProgress},
    project_pass::{ProjectOutcome, ProjectPass},
};
use crate::{
    archive::{Archive, check_due},
    clock::Clock,
    event::DiscoverySource,
    health::Health,
    lifecycle::Lifecycle,
    polyai::{PolyAiClient, Project},
    queue::Queue,
};

/// The name of the lease, and of the condition in health reports.
const LEASE_NAME: &str = "reconcile";
/// The delay after a failed pass, and after a failed attempt to take the lease.
const RETRY_DELAY: Duration = Duration::from_secs(30);
/// The time for which the first pass waits for the queue, and the interval at which it is checked.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(20);
const QUEUE_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The name of the object that keeps the progress.
pub(super) const PROGRESS_OBJECT: &str = "reconcile-progress";
/// The shortest interval: `every` may be zero for `polyhook reconcile`.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time that a pass may take. Longer intervals give it their whole length.
const MIN_PASS_TIME: Duration = Duration::from_mins(1);
/// The number of projects that are worked on at the same time.
const CONCURRENT_PROJECTS: usize = 8;
/// The number of failures that `/readyz` names.
const MAX_NAMED_FAILURES: usize = 5;

/// The reconciliation service. See the [module](super).
#[derive(Clone, Debug)]
pub struct ReconcileService {
    config: ReconcileConfig,
    environments: Vec<String>,
    polyai: Arc<PolyAiClient>,
    archive: Archive,
    queue: Arc<dyn Queue>,
    clock: Clock,
    health: Health,
}

/// The result of a pass over all projects. It is complete without failures.
#[derive(Debug, Default, serde::Serialize)]
pub struct PassReport {
    /// The counts.
    #[serde(flatten)]
    pub summary: PassSummary,
    /// The parts that were not compared or not queued, in this pass or an earlier one, each with its project and the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// The place of an unreadable entry of each project's list, if one was found within the lookback.
    #[serde(skip)]
    unreadable: Vec<String>,
    /// The number of windows that could not be read so far. `None`: unknown.
    #[serde(skip)]
    failed_windows: Option<usize>,
    /// Of these, the windows that were not read because their project, the archive or the queue failed.
    #[serde(skip)]
    blocked_windows: usize,
    /// The end of the last complete pass, or if there was none, the start of the first one that failed.
    #[serde(skip)]
    last_success: Option<Timestamp>,
    /// True if nothing failed in this pass, and everything that is due was done.
    #[serde(skip)]
    is_complete: bool,
}

/// The scope of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What is due, for about the time until the next pass.
    Due,
    /// The whole lookback, however long it takes.
    Lookback,
}

impl ReconcileService {
    /// Creates the service for the projects of `polyai` and the environments that the worker wants.
    pub fn new(
        config: ReconcileConfig,
        environments: Vec<String>,
        polyai: Arc<PolyAiClient>,
        archive: Archive,
        queue: Arc<dyn Queue>,
        clock: Clock,
        health: Health,
    ) -> Self {
        Self { config, environments, polyai, archive, queue, clock, health }
    }

    /// Reconciles until the drain.
    pub async fn run(self, lifecycle: Lifecycle) {
        let draining = lifecycle.draining();
        tokio::select! {
            () = draining.cancelled() => return,
            () = self.wait_for_queue() => {}
        }
        loop {
            let lease = tokio::select! {
                () = draining.cancelled() => return,
                lease = self.archive.lease(LEASE_NAME, |note| self.is_due(note)) => lease,
            };
            let mut lease = match lease {
                Ok(lease) => lease,
                Err(error) => {
                    self.health.set_degraded(
                        LEASE_NAME,
                        format!("reconciliation is paused, because its lease in the archive cannot be taken: {error}"),
                    );
                    tokio::select! {
                        () = draining.cancelled() => return,
                        () = sleep(RETRY_DELAY) => continue,
                    }
                }
            };
            let started_at = self.clock.now();
            let report = tokio::select! {
                () = draining.cancelled() => None,
                () = lease.lost() => None,
                report = self.run_pass(Scope::Due) => Some(report),
            };
            let complete = report.as_ref().is_some_and(|report| report.is_complete);
            let pause = if report.as_ref().is_some_and(|report| report.failures.is_empty()) {
                Duration::ZERO
            } else {
                RETRY_DELAY.min(self.config.every)
            };
            lease.end(LEASE_NAME, complete.then(|| started_at.to_string())).await;
            match report {
                None if draining.is_cancelled() => return,
                None => tracing::warn!("the lease for reconciliation was lost; another process continues"),
                Some(report) => self.publish(&report),
            }
            if !complete {
                tokio::select! {
                    () = draining.cancelled() => return,
                    () = sleep(pause) => {}
                }
            }
        }
    }

    /// Waits until the queue can store messages, for a limited time. A pass that begins before the first connection to the
    /// broker would fail.
    async fn wait_for_queue(&self) {
        let ready = async {
            while self.queue.ready().await.is_err() {
                sleep(QUEUE_POLL_INTERVAL).await;
            }
        };
        // If the queue stays away, the pass reports the reason.
        let _ = timeout(QUEUE_TIMEOUT, ready).await;
    }

    /// Makes one pass now. Waits while another process makes one.
    ///
    /// # Errors
    ///
    /// The lease cannot be taken, or was lost.
    pub async fn run_once(&self, scope: Scope) -> Result<PassReport, String> {
        let mut lease =
            self.archive.lease(LEASE_NAME, |_| Ok(())).await.map_err(|error| error.to_string())?;
        let started_at = self.clock.now();
        let report = tokio::select! {
            () = lease.lost() => return Err("the lease for reconciliation was lost".to_owned()),
            report = self.run_pass(scope) => report,
        };
        lease.end(LEASE_NAME, report.is_complete.then(|| started_at.to_string())).await;
        self.publish(&report);
        Ok(report)
    }

    /// Returns `Ok` if a pass is due according to the note of the last one. Otherwise returns the delay until then.
    fn is_due(&self, note: Option<&str>) -> Result<(), Duration> {
        check_due(note, self.clock.now(), self.config.every.max(MIN_INTERVAL))
    }

    async fn run_pass(&self, scope: Scope) -> PassReport {
        let now = self.clock.now();
        let limits = QueueingLimits::default();
        let pass = ReconcilePass {
            polyai: &self.polyai,
            archive: &self.archive,
            queue: Some(&*self.queue),
            clock: &self.clock,
            settle: self.config.settle,
            source: DiscoverySource::Reconcile,
            requested_at: None,
            queued: None,
            limits: &limits,
        };
        let deadline = (scope == Scope::Due).then(|| Instant::now() + self.config.every.max(MIN_PASS_TIME));
        let mut known = match self.archive.read_private(PROGRESS_OBJECT).await {
            Ok(object) => object.map_or_else(Progress::default, |object| Progress::parse(&object)),
            Err(error) => {
                let failures = vec![format!("the progress of reconciliation cannot be read: {error}")];
                return PassReport { failures, ..PassReport::default() };
            }
        };
        let projects = self.polyai.projects().iter().map(|project| {
            let (account_id, project_id) = (project.account_id(), project.project_id());
            let mut progress = known
                .take(account_id, project_id)
                .unwrap_or_else(|| ProjectProgress::new(account_id, project_id, project.uses_v3()));
            if scope == Scope::Lookback {
                progress.restart(now, &self.config, &self.environments);
            } else {
                progress.schedule(now, &self.config, &self.environments);
            }
            (project, progress)
        });
        let passes: Vec<_> = projects
            .map(|(project, progress)| {
                ProjectPass { pass: &pass, project, config: &self.config, deadline }.run(progress)
            })
            .collect();
        let projects: Vec<_> = stream::iter(passes).buffered(CONCURRENT_PROJECTS).collect().await;
        let mut report = PassReport { is_complete: true, failed_windows: Some(0), ..PassReport::default() };
        let mut progress = Vec::with_capacity(projects.len());
        for (project, (project_progress, outcome)) in self.polyai.projects().iter().zip(projects) {
            report.add(project, &project_progress, outcome, now, &self.config);
            progress.push(project_progress);
        }
        let mut results = std::mem::take(&mut known.results);
        results.blocked_windows = report.blocked_windows;
        let success_before = results.last_success();
        results.note(&report.failures, now, self.clock.now());
        report.last_success = results.last_success();
        let progress = Progress::new(progress, results);
        let saved = self.archive.write_private(PROGRESS_OBJECT, progress.to_json()).await;
        if let Err(error) = saved {
            report.failures.push(format!("the progress of reconciliation cannot be saved: {error}"));
            report.is_complete = false;
            report.last_success = success_before;
        }
        report
    }

    /// Writes the result to the log, the metrics and `/readyz`.
    #[expect(clippy::cast_precision_loss, reason = "counts and seconds since 1970 fit")]
    fn publish(&self, report: &PassReport) {
        let PassReport { summary, failures, unreadable, failed_windows, last_success, .. } = report;
        if let Some(windows) = failed_windows {
            gauge!("polyhook_reconcile_failed_windows").set(*windows as f64);
        }
        tracing::info!(
            listed = summary.listed,
            archived = summary.archived,
            missing = summary.missing,
            outdated = summary.outdated,
            unsettled = summary.unsettled,
            erased = summary.erased,
            queued = summary.queued,
            queued_before = summary.queued_before,
            unreadable = summary.unreadable,
            failures = failures.len(),
            "reconciled: {} conversations listed, {} missing, {} queued",
            summary.listed,
            summary.missing,
            summary.queued
        );
        let mut problems: Vec<_> = failures.iter().take(MAX_NAMED_FAILURES).cloned().collect();
        if let Some(more @ 1..) = failures.len().checked_sub(MAX_NAMED_FAILURES) {
            problems.push(format!("and {more} more"));
        }
        for failure in &problems {
            tracing::warn!("reconciliation is not complete: {failure}");
        }
        if let Some(place) = unreadable.first() {
            problems.push(format!("entries of PolyAI's lists cannot be read, such as {place}"));
        }
        if problems.is_empty() {
            self.health.clear(LEASE_NAME);
        } else {
            self.health.set_degraded(
                LEASE_NAME,
                format!("conversations that no webhook announced may stay missing: {}", problems.join("; ")),
            );
        }
        // Without a value, no alert would report a process whose passes have all failed.
        if let Some(at) = last_success {
            gauge!("polyhook_reconcile_last_success_timestamp_seconds").set(at.as_second() as f64);
        }
    }
}

impl PassReport {
    fn add(
        &mut self,
        project: &Project,
        progress: &ProjectProgress,
        outcome: ProjectOutcome,
        now: Timestamp,
        config: &ReconcileConfig,
    ) {
        self.is_complete &=
            outcome.failures.is_empty() && !outcome.has_failed_windows && !outcome.is_interrupted;
        self.summary.add(&outcome.summary);
        self.failures.extend(outcome.failures);
        for window in progress.failed_windows() {
            let reason = window.failure.as_ref().map_or("", |failure| &failure.reason);
            let failure = format!("the conversations of {window} cannot be listed: {reason}");
            self.failures.push(describe(project, failure));
            self.failed_windows = self.failed_windows.map(|windows| windows + 1);
        }
        self.blocked_windows += outcome.blocked_windows;
        self.failed_windows = self.failed_windows.map(|windows| windows + outcome.blocked_windows);
        let is_recent = |at: Timestamp| {
            Duration::try_from(now.duration_since(at)).is_ok_and(|age| age <= config.lookback)
        };
        let unreadable = progress.unreadable.as_ref().filter(|entry| is_recent(entry.seen_at));
        self.unreadable.extend(unreadable.map(|entry| entry.place.clone()));
    }
}

/// Describes a failure of a project's pass in one line.
pub(super) fn describe(project: &Project, error: impl std::fmt::Display) -> String {
    format!("project {}: {error}", project.project_id())
}
