//! Why a try failed, and what follows.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;

use crate::{
    archive::ArchiveError,
    polyai::{Advice, ApiError, ErrorKind, UnknownProject},
    queue::{Attempt, QueueError},
};

/// How long a project that does not answer is left alone by new jobs.
const HELD_UP: Duration = Duration::from_secs(5);

/// A try that did not end in the archive.
#[derive(Clone, Debug)]
pub struct JobFailure {
    /// A constant word, also a metric label.
    pub reason: &'static str,
    /// What happened, what it means, what to do. Nothing private.
    pub detail: String,
    /// PolyAI's HTTP status.
    pub status: Option<u16>,
    /// PolyAI's `X-PolyAI-Correlation-Id`.
    pub correlation_id: Option<String>,
    /// What follows.
    pub next: RetryDecision,
}

/// What follows a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// The next rung of the ladder, or a known time; a dead letter once the ladder is climbed.
    Retry(Option<Duration>),
    /// The next rung of the ladder, but no later than this; never a dead letter. For what comes with time.
    Wait(Duration),
    /// Not tried at all: come back then, and count no failure.
    Postpone(Duration),
    /// A dead letter at once: only a person can help.
    Dead,
}

impl JobFailure {
    pub(super) fn new(reason: &'static str, detail: impl Into<String>, next: RetryDecision) -> Self {
        Self { reason, detail: detail.into(), status: None, correlation_id: None, next }
    }

    /// So many jobs of this project wait for PolyAI that it is not asked for more.
    pub(super) fn held_up(project: &str) -> Self {
        Self::new(
            "held_up",
            format!("PolyAI is slow to answer for project {project}; it is asked again later"),
            RetryDecision::Postpone(HELD_UP),
        )
    }

    pub(super) fn panicked() -> Self {
        Self::new(
            "panicked",
            "a bug in polyhook; the log has the place. Please report it, update, then replay",
            RetryDecision::Retry(None),
        )
    }

    /// As the job's history keeps it.
    pub fn attempt(&self, at: Timestamp) -> Attempt {
        Attempt {
            at,
            reason: Cow::Borrowed(self.reason),
            detail: self.detail.clone(),
            status: self.status,
            correlation_id: self.correlation_id.clone(),
        }
    }
}

impl From<ApiError> for JobFailure {
    fn from(error: ApiError) -> Self {
        let next = match error.advice() {
            // PolyAI was not asked at all.
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
