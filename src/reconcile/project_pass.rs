//! One pass of the service over one project: reads what is due of PolyAI's list, and follows the calls that had not settled.
//!
//! New windows, windows that failed before and calls are worked on at the same time, so none of them waits for another. What
//! is not done by the deadline stays in the [`ProjectProgress`].

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use metrics::counter;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use super::{
    PassError, PassOutcome, PassSummary, QueueingLimits, ReconcileConfig, ReconcilePass,
    archived::ArchivedConversations,
    pass::{publish_discovery, waiting_jobs},
    progress::{ProjectProgress, UnreadableEntry, UnsettledCall, Window, join_neighbours},
};
use crate::polyai::{Api, ConversationHint, ErrorKind, ListQuery, ListWindow, ListedConversation, Project};

/// Windows of old calls wait while more jobs than this do. So an archive that lacks weeks is filled gradually, and webhooks
/// do not wait behind old calls.
const MAX_BACKLOG: u64 = 1_000;
/// After this number of failed windows in a row the others wait for the next pass.
const MAX_FAILURES_IN_A_ROW: usize = 3;
/// The time for which new windows wait for the retries of others.
const HEAD_START: Duration = Duration::from_secs(5);
/// The number of calls that are followed at the same time.
const CONCURRENT_CALLS: usize = 8;
/// A call that is in progress for longer is queued, so that the worker reports it. No phone call lasts a day.
const MAX_CALL: Duration = Duration::from_hours(24);

/// A listed call that PolyAI does not know by its id is asked for again up to this age.
const MAX_UNKNOWN: Duration = Duration::from_hours(1);

/// The parameters of a pass over a project.
pub(super) struct ProjectPass<'a> {
    pub(super) pass: &'a ReconcilePass<'a>,
    pub(super) project: &'a Project,
    pub(super) config: &'a ReconcileConfig,
    /// `None`: everything is worked on, however long that takes.
    pub(super) deadline: Option<Instant>,
}

/// The result of a pass over a project. The windows that failed are in its progress.
#[derive(Debug, Default)]
pub(super) struct ProjectOutcome {
    pub(super) summary: PassSummary,
    /// The reasons why something was not compared or not queued, except the failures of windows.
    pub(super) failures: Vec<String>,
    /// The windows that could not be read because of these failures.
    pub(super) blocked_windows: usize,
    /// True if a window failed in this pass.
    pub(super) has_failed_windows: bool,
    /// True if the deadline came first.
    pub(super) is_interrupted: bool,
}

/// The result of reading several windows.
#[derive(Debug, Default)]
struct ReadWindows {
    summary: PassSummary,
    /// The windows that were not read, for no fault of their own.
    unread: Vec<Window>,
    failed: Vec<Window>,
    read: usize,
    failures: Vec<String>,
    is_interrupted: bool,
    unsettled: Vec<ListedConversation>,
    /// The conversations of recent windows that were queued for the first time, with their starts.
    found: Vec<(String, Timestamp)>,
    first_unreadable: Option<String>,
    api: Option<Api>,
}

/// The result of following calls.
#[derive(Debug, Default)]
struct FollowedCalls {
    summary: PassSummary,
    unsettled: Vec<UnsettledCall>,
    failures: Vec<String>,
}

impl ProjectPass<'_> {
    /// Works on everything that is due in `progress`, and returns what is left.
    pub(super) async fn run(self, mut progress: ProjectProgress) -> (ProjectProgress, ProjectOutcome) {
        let now = self.pass.clock.now();
        let calls = std::mem::take(&mut progress.calls);
        let followed_ids: HashSet<_> = calls.iter().map(|call| call.id.clone()).collect();
        let (untried, retries) = (progress.take_untried(), progress.take_retries(now));
        let (mut new, mut old, followed) = if progress.filters_by_time {
            // Retries come first, but nothing waits long for them.
            let (done, wait) = oneshot::channel::<()>();
            let retries = async {
                let read = self.read(retries).await;
                drop(done);
                read
            };
            let untried = async {
                let _ = timeout(HEAD_START, wait).await;
                self.read(untried).await
            };
            tokio::join!(untried, retries, self.follow(calls))
        } else {
            let all = retries.into_iter().chain(untried).collect();
            let (read, followed) =
                tokio::join!(self.read_at_once(all, progress.patience()), self.follow(calls));
            (read, ReadWindows::default(), followed)
        };
        let mut rest = ReadWindows::default();
        if progress.filters_by_time && [&new, &old].iter().any(|read| read.api == Some(Api::Data)) {
            let unread = std::mem::take(&mut new.unread).into_iter().chain(std::mem::take(&mut old.unread));
            rest = self.read_at_once(unread.collect(), progress.patience()).await;
        }
        let mut outcome = ProjectOutcome {
            summary: followed.summary,
            failures: followed.failures,
            ..ProjectOutcome::default()
        };
        progress.calls = followed.unsettled;
        let is_served = new.read + old.read + rest.read > 0;
        let (mut failed, mut blocked) = (Vec::new(), Vec::new());
        for read in [new, old, rest] {
            if !read.failures.is_empty() {
                blocked.extend(read.unread.iter().cloned());
            }
            outcome.summary.add(&read.summary);
            outcome.failures.extend(read.failures);
            outcome.is_interrupted |= read.is_interrupted;
            progress.windows.extend(read.unread);
            failed.extend(read.failed);
            progress.follow(read.unsettled, now);
            for (_, started_at) in read.found.iter().filter(|(id, _)| !followed_ids.contains(id)) {
                progress.note_if_late(*started_at, now);
            }
            progress.note_api(read.api);
            if let Some(place) = read.first_unreadable {
                progress.unreadable = Some(UnreadableEntry { place, seen_at: now });
            }
        }
        outcome.has_failed_windows = !failed.is_empty();
        // Those that failed before are counted already.
        blocked.retain(|window| window.failure.is_none());
        join_neighbours(&mut blocked);
        outcome.blocked_windows = blocked.len();
        progress.add_failed(failed, is_served, now, self.config.every);
        progress.adapt_windows(outcome.is_interrupted);
        (progress, outcome)
    }

    /// Reads windows in turn, those with new calls first. Without room for old calls it reads only these.
    async fn read(&self, mut windows: Vec<Window>) -> ReadWindows {
        let mut result = ReadWindows::default();
        let (mut failures_in_a_row, mut has_room) = (0, true);
        let now = self.pass.clock.now();
        windows.sort_by_key(|window| !window.is_recent(now));
        let mut windows = windows.into_iter();
        for mut window in windows.by_ref() {
            if self.is_over() {
                result.unread.push(window);
                break;
            }
            let mut is_recent = window.is_recent(now);
            if !is_recent {
                has_room = has_room && self.has_room(&mut result).await;
            }
            if !is_recent && !has_room {
                let (recent, old) = window.split_recent(now);
                result.unread.extend(old);
                let Some(recent) = recent else { continue };
                (window, is_recent) = (recent, true);
            }
            let query = ListQuery {
                started: window.from..window.to,
                environments: vec![window.environment.clone()],
                failed_before: window.failure.is_some(),
            };
            let Some(mut outcome) = self.until_deadline(self.compare(query, is_recent)).await else {
                result.is_interrupted = true;
                result.unread.push(window);
                break;
            };
            result.api = outcome.api.or(result.api);
            let failures = std::mem::take(&mut outcome.failures);
            if is_recent && window.failure.is_none() {
                let found = std::mem::take(&mut outcome.first_queued).into_iter();
                result.found.extend(found.filter_map(|call| Some((call.conversation_id, call.started_at?))));
            }
            result.add(outcome);
            if failures.is_empty() {
                result.read += 1;
                failures_in_a_row = 0;
            } else if let Some(failed) = self.failed_parts(&window, &failures) {
                let failed_length: Duration = failed.iter().map(Window::length).sum();
                if failed_length < window.length() {
                    result.read += 1;
                }
                result.failed.extend(failed);
                failures_in_a_row += 1;
            } else {
                result.failures.extend(failures.iter().map(|error| self.describe(error)));
                result.unread.push(window);
                break;
            }
            // This list has all windows.
            if failures_in_a_row == MAX_FAILURES_IN_A_ROW || result.api == Some(Api::Data) {
                break;
            }
        }
        result.unread.extend(windows);
        result
    }

    /// Reads one list that has all of the windows. It cannot be continued, so it may take `patience` times as long.
    async fn read_at_once(&self, mut windows: Vec<Window>, patience: u32) -> ReadWindows {
        let mut result = ReadWindows::default();
        let now = self.pass.clock.now();
        let mut is_recent = windows.iter().all(|window| window.is_recent(now));
        if !is_recent && !self.has_room(&mut result).await {
            let (recent, old): (Vec<_>, Vec<_>) =
                windows.into_iter().map(|window| window.split_recent(now)).unzip();
            result.unread.extend(old.into_iter().flatten());
            (windows, is_recent) = (recent.into_iter().flatten().collect(), true);
        }
        let from = windows.iter().map(|window| window.from).min();
        let to = windows.iter().map(|window| window.to).max();
        let (Some(from), Some(to)) = (from, to) else { return result };
        let mut environments: Vec<_> = windows.iter().map(|window| window.environment.clone()).collect();
        environments.sort();
        environments.dedup();
        let failed_before = windows.iter().all(|window| window.failure.is_some());
        let query = ListQuery { started: from..to, environments, failed_before };
        let deadline = self.deadline.map(|deadline| {
            let now = Instant::now();
            now + deadline.saturating_duration_since(now) * patience
        });
        let Some(mut outcome) = until(deadline, self.compare(query, is_recent)).await else {
            result.unread.extend(windows);
            return ReadWindows { is_interrupted: true, ..result };
        };
        result.api = outcome.api;
        let failures = std::mem::take(&mut outcome.failures);
        result.add(outcome);
        if failures.is_empty() {
            result.read = windows.len();
        } else if failures.iter().all(PassError::is_of_window) {
            let (reason, now) = (failures.first().map(list_error).unwrap_or_default(), self.pass.clock.now());
            let failed = |window: &Window| window.failed(window.from..window.to, reason.clone(), now);
            result.failed = windows.iter().map(failed).collect();
        } else {
            result.failures.extend(failures.iter().map(|error| self.describe(error)));
            result.unread.extend(windows);
        }
        result
    }

    /// Returns the parts of a window that cannot be listed, or `None` if something else failed.
    fn failed_parts(&self, window: &Window, failures: &[PassError]) -> Option<Vec<Window>> {
        let now = self.pass.clock.now();
        let mut parts = Vec::new();
        for error in failures {
            let PassError::List(failure) = error else { return None };
            if !error.is_of_window() {
                return None;
            }
            let part =
                |part: &ListWindow| window.failed(part.started.clone(), failure.error.to_string(), now);
            parts.extend(failure.windows.iter().map(part));
        }
        Some(parts)
    }

    async fn compare(&self, query: ListQuery, is_recent: bool) -> PassOutcome {
        let max_backlog = (!is_recent).then_some(MAX_BACKLOG);
        let pass = ReconcilePass { limits: &QueueingLimits { rate: None, max_backlog }, ..*self.pass };
        let mut last = PassSummary::default();
        let count = |summary: &PassSummary, _| {
            counter!("polyhook_reconcile_listed_total").increment(summary.listed - last.listed);
            // Conversations that an earlier pass has queued are not counted again.
            counter!("polyhook_reconcile_missing_total").increment(summary.queued - last.queued);
            last = *summary;
        };
        pass.run(self.project, query, count).await
    }

    /// Returns whether more may be queued. Without a deadline, waits for that.
    async fn has_room(&self, result: &mut ReadWindows) -> bool {
        let Some(queue) = self.pass.queue else { return true };
        let room = match self.deadline {
            Some(_) => waiting_jobs(queue).await.map(|jobs| jobs <= MAX_BACKLOG),
            None => super::pass::wait_for_room(queue, MAX_BACKLOG).await.map(|_| true),
        };
        room.unwrap_or_else(|error| {
            result.failures.push(self.describe(error));
            false
        })
    }

    /// Looks at each call: whether it is archived by now, and else whether it is over.
    async fn follow(&self, calls: Vec<UnsettledCall>) -> FollowedCalls {
        let mut result = FollowedCalls::default();
        if calls.is_empty() {
            return result;
        }
        let followed = stream::iter(calls).map(async |call| {
            let mut summary = PassSummary::default();
            let next = self.until_deadline(self.follow_call(&call, &mut summary)).await;
            (next.unwrap_or_else(|| Ok(Some(call.clone()))).map_err(|error| (call, error)), summary)
        });
        let mut followed = std::pin::pin!(followed.buffer_unordered(CONCURRENT_CALLS));
        let mut errors = Vec::new();
        while let Some((next, summary)) = followed.next().await {
            result.summary.add(&summary);
            match next {
                Ok(call) => result.unsettled.extend(call),
                Err((call, error)) => {
                    result.unsettled.push(call);
                    errors.push(error);
                }
            }
        }
        if let Some(error) = errors.first() {
            let calls = match errors.len() {
                1 => "a call".to_owned(),
                count => format!("{count} calls"),
            };
            result.failures.push(self.describe(format!("{calls} cannot be followed to the end: {error}")));
        }
        result
    }

    /// Returns the call if it is to be looked at again. One that has settled is queued, unless it is archived.
    async fn follow_call(
        &self,
        call: &UnsettledCall,
        summary: &mut PassSummary,
    ) -> Result<Option<UnsettledCall>, String> {
        let now = self.pass.clock.now();
        if now < call.look_at {
            return Ok(Some(call.clone()));
        }
        let mut listed = call.to_listed();
        if call.ended_at.is_none() && !self.is_older_than(call, MAX_CALL) {
            if self.archived(&listed).await?.is_final(&listed).await.map_err(text)? {
                return Ok(None);
            }
            let hint = ConversationHint {
                started_at: call.started_at,
                known_at: call.listed_at,
                environments: call.environment.as_slice(),
                was_listed: true,
            };
            match self.pass.polyai.conversation(self.project, &call.id, &hint).await {
                Ok(conversation) => {
                    listed.in_progress = conversation.info.in_progress;
                    listed.ended_at = conversation.info.ended_at();
                }
                // It was listed, so the answer may be a wrong one. Later lists decide whether the call exists.
                Err(error) if error.kind == ErrorKind::UnknownConversation => {
                    let is_gone = self.is_older_than(call, MAX_UNKNOWN);
                    return Ok((!is_gone).then(|| call.seen(&listed, now, self.config.every)));
                }
                Err(error) => return Err(text(error)),
            }
        } else {
            listed.in_progress = false;
        }
        if self.pass.is_unsettled(&listed) {
            summary.unsettled += 1;
            return Ok(Some(call.seen(&listed, now, self.config.every)));
        }
        let mut archived = self.archived(&listed).await?;
        let missing = self.pass.compare(&listed, self.project, &mut archived, summary).await.map_err(text)?;
        if let (Some(discovery), Some(queue)) = (missing, self.pass.queue) {
            publish_discovery(queue, &discovery, self.pass.clock).await.map_err(text)?;
            counter!("polyhook_reconcile_missing_total").increment(1);
            summary.queued += 1;
        }
        Ok(None)
    }

    async fn archived(&self, listed: &ListedConversation) -> Result<ArchivedConversations<'_>, String> {
        let at = listed.started_at.unwrap_or_else(|| self.pass.clock.now());
        ArchivedConversations::open(self.pass.archive, self.project, &(at..at)).await.map_err(text)
    }

    fn is_older_than(&self, call: &UnsettledCall, limit: Duration) -> bool {
        let age = self.pass.clock.now().duration_since(call.started_at.unwrap_or(call.listed_at));
        Duration::try_from(age).is_ok_and(|age| age > limit)
    }

    fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    async fn until_deadline<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        until(self.deadline, work).await
    }

    fn describe(&self, error: impl std::fmt::Display) -> String {
        super::service::describe(self.project, error)
    }
}

impl ReadWindows {
    fn add(&mut self, outcome: PassOutcome) {
        self.summary.add(&outcome.summary);
        self.unsettled.extend(outcome.unsettled);
        self.first_unreadable = outcome.first_unreadable.or(self.first_unreadable.take());
    }
}

async fn until<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

/// Returns the reason of a failed window without its name.
fn list_error(error: &PassError) -> String {
    match error {
        PassError::List(failure) => failure.error.to_string(),
        other => other.to_string(),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
