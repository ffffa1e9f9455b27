//! The failure of a job, and what happens to the job then.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use metrics::counter;

use crate::{
    archive::ArchiveError,
    polyai::{Advice, ApiError, ErrorKind, UnknownProject},
    queue::{Attempt, History, JobOutcome, QueueError},
    retry::RetrySchedule,
};

/// The time for which further jobs of a project that does not answer are postponed.
const HELD_UP_DELAY: Duration = Duration::from_secs(5);
/// The bounds of a `Retry-After`. Without them, zero would cause a tight loop, and a century a lost job.
const MIN_REQUESTED_DELAY: Duration = Duration::from_secs(1);
const MAX_REQUESTED_DELAY: Duration = Duration::from_hours(24);

/// The failure of one attempt.
#[derive(Clone, Debug)]
pub struct JobFailure {
    /// A constant word, also a metric label.
    pub reason: &'static str,
    /// A sentence for a person: what failed, what it means, what to do. Contains no private data.
    pub detail: String,
    /// PolyAI's HTTP status.
    pub status: Option<u16>,
    /// PolyAI's `X-PolyAI-Correlation-Id`.
    pub correlation_id: Option<String>,
    /// The decision about the job.
    pub next: RetryDecision,
}

/// The decision about a job after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Retry after the next delay of the schedule, or after the given time. At the end of the schedule the job is a dead
    /// letter.
    Retry(Option<Duration>),
    /// Retry after the next delay of the schedule, but at the latest after the given time; never a dead letter. For
    /// something that only takes time.
    Wait(Duration),
    /// Retry after the given time, and count no failure: nothing was attempted.
    Postpone(Duration),
    /// Make the job a dead letter at once: only a person can fix the cause.
    Dead,
}

impl JobFailure {
    pub(super) fn new(reason: &'static str, detail: impl Into<String>, next: RetryDecision) -> Self {
        Self { reason, detail: detail.into(), status: None, correlation_id: None, next }
    }

    /// Creates the failure of a job that does not start because too many jobs of its project wait for PolyAI.
    pub(super) fn held_up(project: &str) -> Self {
        Self::new(
            "held_up",
            format!(
                "PolyAI is slow to answer for project {project}; the job is tried again in a few seconds"
            ),
            RetryDecision::Postpone(HELD_UP_DELAY),
        )
    }

    pub(super) fn panicked() -> Self {
        Self::new(
            "panicked",
            "a bug in polyhook; the log names the place. Please report it, update, then replay",
            RetryDecision::Retry(None),
        )
    }

    /// Returns the entry for the history of the job.
    pub fn attempt(&self, at: Timestamp) -> Attempt {
        Attempt {
            at,
            reason: Cow::Borrowed(self.reason),
            detail: self.detail.clone(),
            status: self.status,
            correlation_id: self.correlation_id.clone(),
        }
    }

    /// Adds the failure to the history of its job and returns the metric label and the outcome for the queue.
    pub(super) fn settlement(
        &self,
        schedule: &RetrySchedule,
        mut history: History,
        now: Timestamp,
    ) -> (&'static str, JobOutcome) {
        let delay = match self.next {
            RetryDecision::Postpone(after) => return ("postponed", JobOutcome::Retry { after, history }),
            RetryDecision::Dead => {
                history.push(self.attempt(now));
                None
            }
            RetryDecision::Retry(requested) => {
                history.push(self.attempt(now));
                // Waits do not count: a call of an hour must not use up the attempts for failures after it.
                let scheduled = schedule.delay(history.failures.saturating_sub(history.waits));
                scheduled.map(|delay| {
                    requested.map_or(delay, |after| after.clamp(MIN_REQUESTED_DELAY, MAX_REQUESTED_DELAY))
                })
            }
            RetryDecision::Wait(limit) => {
                history.push_wait(self.attempt(now));
                let scheduled = schedule.delay(history.waits).or_else(|| schedule.last_delay());
                Some(scheduled.unwrap_or(limit).min(limit))
            }
        };
        let Some(after) = delay else {
            counter!("polyhook_dead_letters_total", "reason" => self.reason).increment(1);
            return ("dead", JobOutcome::Dead { history });
        };
        ("retried", JobOutcome::Retry { after, history })
    }

    /// Combines the errors of several projects of which none had the conversation. An error that may pass comes first,
    /// then one that prevented an answer. Only if all projects deny the conversation, it is unknown.
    pub(super) fn of_all_projects(errors: Vec<(&str, ApiError)>) -> Self {
        let projects: Vec<_> = errors.iter().map(|(project, _)| *project).collect();
        let projects = projects.join(", ");
        let rank = |(_, error): &(&str, ApiError)| match (error.advice(), error.kind) {
            (Advice::Retry(_), _) => 2,
            (Advice::GiveUp, ErrorKind::UnknownConversation | ErrorKind::UnknownProject) => 0,
            (Advice::GiveUp, _) => 1,
        };
        let Some((project, error)) = errors.into_iter().max_by_key(rank) else {
            return Self::new("unknown_project", "no project is configured", RetryDecision::Dead);
        };
        let failure = Self::from(error);
        let detail = format!(
            "the event names no project, and none of {projects} has the conversation; {project}: {}",
            failure.detail
        );
        Self { detail, ..failure }
    }
}

impl From<ApiError> for JobFailure {
    fn from(error: ApiError) -> Self {
        let next = match error.advice() {
            // No request was sent.
            Advice::Retry(after) if error.kind == ErrorKind::Paused => {
                RetryDecision::Postpone(after.unwrap_or_default())
            }
            Advice::Retry(after) => RetryDecision::Retry(after),
            Advice::GiveUp => RetryDecision::Dead,
        };
        Self {
            reason: error.kind.label(),
            detail: error.to_string(),
            status: error.status,
            correlation_id: error.correlation_id,
            next,
        }
    }
}

impl From<UnknownProject> for JobFailure {
    fn from(unknown: UnknownProject) -> Self {
        Self::new("unknown_project", unknown.to_string(), RetryDecision::Dead)
    }
}

impl From<ArchiveError> for JobFailure {
    fn from(error: ArchiveError) -> Self {
        Self::new("archive", error.to_string(), RetryDecision::Retry(None))
    }
}

impl From<QueueError> for JobFailure {
    fn from(error: QueueError) -> Self {
        Self::new("announce", format!("archived, but not announced: {error}"), RetryDecision::Retry(None))
    }
}
