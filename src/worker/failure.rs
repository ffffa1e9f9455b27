//! The failure of a job, and what happens to the job then.

use std::{borrow::Cow, time::Duration};

use jiff::Timestamp;
use metrics::counter;

use crate::{
    archive::ArchiveError,
    polyai::{Advice, ApiError, ErrorKind, MAX_RETRY_AFTER, UnknownProject},
    queue::{Attempt, History, JobOutcome, QueueError},
    retry::RetrySchedule,
};

/// The time for which further jobs of a project that does not answer are postponed.
const HELD_UP_DELAY: Duration = Duration::from_secs(5);
/// The longest time for which a call may be in progress. No phone call lasts a day, so a person should look.
const IN_PROGRESS_LIMIT: Duration = Duration::from_hours(24);
/// The longest time between two looks at a call in progress, so that it is archived soon after its end.
const LONGEST_WAIT_FOR_END: Duration = Duration::from_mins(1);
/// The same from [`LONG_CALL`] on. Few calls last so long, and some are never reported as ended.
const LONGEST_WAIT_FOR_LONG_CALL: Duration = Duration::from_mins(5);
const LONG_CALL: Duration = Duration::from_hours(3);
/// The metric label of an attempt that did not begin.
pub(super) const POSTPONED: &str = "postponed";

/// The failure of one attempt.
#[derive(Clone, Debug)]
pub struct JobFailure {
    /// A constant word, also a metric label.
    pub reason: &'static str,
    /// A sentence for a person: what failed, what it means, what to do. Contains no private data.
    pub detail: String,
    /// PolyAI's HTTP status.
    pub status: Option<u16>,
    /// The `X-PolyAI-Correlation-Id` of the answer, or of the request if there was none.
    pub correlation_id: Option<String>,
    /// The decision about the job.
    pub next: RetryDecision,
}

/// The decision about a job after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryDecision {
    /// Retry after the next delay of the schedule, or after the given time if that is longer. At the end of the schedule
    /// the job is a dead letter.
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
            format!("PolyAI is slow to answer for project {project}, and enough of its jobs wait"),
            RetryDecision::Postpone(HELD_UP_DELAY),
        )
    }

    /// Checks that PolyAI did not ask for a later attempt. RabbitMQ returns a job at the latest after the longest delay of
    /// the schedule. A longer wait than PolyAI has asked for means that the clock was wrong or was set back.
    pub(super) fn check_due(history: &History, now: Timestamp) -> Result<(), Self> {
        let until_due = |from: Timestamp| Duration::try_from(history.not_before?.duration_since(from)).ok();
        let asked = history.attempts.last().and_then(|last| until_due(last.at));
        let longest = asked.unwrap_or(MAX_RETRY_AFTER).min(MAX_RETRY_AFTER);
        match until_due(now).filter(|left| !left.is_zero() && *left <= longest) {
            None => Ok(()),
            Some(left) => Err(Self::new(
                "paused",
                "not attempted yet, because PolyAI asked to wait",
                RetryDecision::Postpone(left),
            )),
        }
    }

    /// Creates the failure of a job whose conversation another job is fetching, or has fetched a moment ago.
    pub(super) fn coalesced(after: Duration) -> Self {
        Self::new(
            "being_fetched",
            "another job of the same conversation comes first; this one needs no fetch if that one began after its event arrived",
            RetryDecision::Postpone(after),
        )
    }

    /// Creates the failure of a job whose event arrived `age` ago and whose call has not ended.
    pub(super) fn still_in_progress(age: Duration) -> Self {
        let Some(left) = IN_PROGRESS_LIMIT.checked_sub(age).filter(|left| !left.is_zero()) else {
            return Self::new(
                "in_progress",
                "PolyAI has reported this conversation as in progress for over a day: ask their support",
                RetryDecision::Dead,
            );
        };
        let longest = if age < LONG_CALL { LONGEST_WAIT_FOR_END } else { LONGEST_WAIT_FOR_LONG_CALL };
        Self::new("in_progress", "the call is still in progress", RetryDecision::Wait(left.min(longest)))
    }

    pub(super) fn panicked() -> Self {
        Self::new(
            "panicked",
            "a bug in polyhook; the log names the place. please report it and update",
            RetryDecision::Retry(None),
        )
    }

    pub(super) fn attempt_timed_out(limit: Duration) -> Self {
        Self::new(
            "timeout",
            format!("the attempt did not end within {limit:?}: does the archive's disk or bucket answer?"),
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
        history.correct_times(now);
        let delay = match self.next {
            RetryDecision::Postpone(after) => return (POSTPONED, JobOutcome::Retry { after, history }),
            RetryDecision::Dead => {
                history.push(self.attempt(now));
                None
            }
            RetryDecision::Retry(requested) => {
                history.push(self.attempt(now));
                // Waits do not count: a call of an hour must not use up the attempts for failures after it.
                let scheduled = schedule.delay(history.counted_failures());
                let requested = requested.unwrap_or_default();
                let is_later = scheduled.is_some_and(|delay| requested > delay);
                history.not_before = now.checked_add(requested).ok().filter(|_| is_later);
                scheduled.map(|delay| delay.max(requested))
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

    /// Combines the errors of several projects of which none had the conversation. The reason is that of an error that may
    /// pass, or else of one that prevented an answer. The job is a dead letter at once only if every error is final.
    /// `unknown` is given if the event names a project that is not configured.
    pub(super) fn of_all_projects(errors: Vec<(&str, ApiError)>, unknown: Option<&UnknownProject>) -> Self {
        let projects: Vec<_> = errors.iter().map(|(project, _)| *project).collect();
        let projects = projects.join(", ");
        let rank = |(_, error): &(&str, ApiError)| match (error.kind, error.advice()) {
            (ErrorKind::UnknownProject, _) => 0,
            (ErrorKind::UnknownConversation, _) => 1,
            (_, Advice::GiveUp) => 2,
            (_, Advice::Retry(_)) => 3,
        };
        let is_denied = errors.iter().all(|error| rank(error) <= 1);
        let is_final = errors.iter().all(|(_, error)| error.advice() == Advice::GiveUp);
        let Some((project, error)) = errors.into_iter().max_by_key(rank) else {
            return Self::new("unknown_project", "no project is configured", RetryDecision::Dead);
        };
        let failure = Self::from(error);
        let next = match failure.next {
            RetryDecision::Dead if !is_final => RetryDecision::Retry(None),
            next => next,
        };
        let (reason, event) = match unknown {
            Some(UnknownProject { account, project }) => (
                if is_denied { "unknown_project" } else { failure.reason },
                format!(
                    "the event names account {account:?}, project {project:?}, which is not configured under these names \
                     (add it to [[projects]])"
                ),
            ),
            None => (failure.reason, "the event names no project".to_owned()),
        };
        let detail =
            format!("{event}, and none of {projects} has the conversation; {project}: {}", failure.detail);
        Self { reason, detail, next, ..failure }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::RetryConfig;

    fn schedule() -> RetrySchedule {
        let delays = [10, 60, 300].map(Duration::from_secs).to_vec();
        RetrySchedule::new(&RetryConfig { delays, jitter: 0.0 })
    }

    /// Returns the wait after the `failures`-th failure with such a decision.
    fn wait(next: RetryDecision, failures: usize) -> Option<Duration> {
        let history = History { failures: failures - 1, ..History::default() };
        let failure = JobFailure::new("api_unavailable", "", next);
        match failure.settlement(&schedule(), history, Timestamp::UNIX_EPOCH).1 {
            JobOutcome::Retry { after, .. } => Some(after),
            _ => None,
        }
    }

    #[test]
    fn looks_at_a_call_in_progress_every_minute() {
        let wait = |age: u64, waits| {
            let history = History { waits, ..History::default() };
            let failure = JobFailure::still_in_progress(Duration::from_secs(age));
            match failure
                .settlement(
                    &RetrySchedule::new(&RetryConfig { jitter: 0.0, ..RetryConfig::default() }),
                    history,
                    Timestamp::UNIX_EPOCH,
                )
                .1
            {
                JobOutcome::Retry { after, .. } => Some(after.as_secs()),
                _ => None,
            }
        };
        assert_eq!(
            [0, 1, 2, 6, 90].map(|waits| wait(600, waits)),
            [Some(10), Some(60), Some(60), Some(60), Some(60)]
        );
        assert_eq!(
            [(3 * 3600, 200), (24 * 3600 - 7, 400), (24 * 3600, 400)].map(|(age, waits)| wait(age, waits)),
            [Some(300), Some(7), None]
        );
    }

    #[test]
    fn waits_for_the_later_of_header_and_schedule() {
        let seconds = Duration::from_secs;
        for (requested, waits) in [
            (None, [10, 60, 300]),
            (Some(0), [10, 60, 300]),
            (Some(1), [10, 60, 300]),
            (Some(90), [90, 90, 300]),
            (Some(3600), [3600, 3600, 3600]),
        ] {
            let next = RetryDecision::Retry(requested.map(seconds));
            for (failures, expected) in waits.into_iter().enumerate() {
                assert_eq!(wait(next, failures + 1), Some(seconds(expected)), "{requested:?}");
            }
            assert_eq!(wait(next, 4), None, "{requested:?}: a header adds no attempts");
        }
    }

    #[test]
    fn a_queue_that_returns_a_job_too_early_does_not_shorten_the_header() {
        let seconds = |seconds| Timestamp::UNIX_EPOCH + Duration::from_secs(seconds);
        let settle = |requested| {
            let next = RetryDecision::Retry(Some(Duration::from_secs(requested)));
            let failure = JobFailure::new("api_unavailable", "", next);
            match failure.settlement(&schedule(), History::default(), seconds(0)).1 {
                JobOutcome::Retry { history, .. } => history,
                outcome => panic!("{outcome:?}"),
            }
        };
        assert_eq!(settle(10).not_before, None, "the schedule is as long");
        let mut history = settle(90);
        let early = JobFailure::check_due(&history, seconds(60)).unwrap_err();
        assert_eq!(early.next, RetryDecision::Postpone(Duration::from_secs(30)));
        let (label, outcome) = early.settlement(&schedule(), history.clone(), seconds(60));
        assert!(
            label == "postponed"
                && matches!(outcome, JobOutcome::Retry { history: same, .. } if same == history)
        );
        assert!(JobFailure::check_due(&history, seconds(90)).is_ok());
        history.replay(seconds(1));
        assert!(JobFailure::check_due(&history, seconds(1)).is_ok(), "a person asked for it");
    }

    #[test]
    fn a_wrong_clock_parks_no_job() {
        let written_ahead = Some(Timestamp::UNIX_EPOCH + Duration::from_hours(400 * 24));
        let history = History { not_before: written_ahead, ..History::default() };
        assert!(JobFailure::check_due(&history, Timestamp::UNIX_EPOCH).is_ok());
        // Set back by half an hour after a `Retry-After` of 90 s.
        let minutes = |minutes| Timestamp::UNIX_EPOCH + Duration::from_mins(minutes);
        let mut history = History::default();
        history.push(JobFailure::panicked().attempt(minutes(60)));
        history.not_before = Some(minutes(60) + Duration::from_secs(90));
        assert!(JobFailure::check_due(&history, minutes(61)).is_err());
        assert!(JobFailure::check_due(&history, minutes(30)).is_ok());
    }

    fn error(kind: ErrorKind, status: u16, code: &str) -> ApiError {
        ApiError {
            kind,
            status: Some(status),
            in_envelope: true,
            code: Some(code.to_owned()),
            correlation_id: None,
            retry_after: None,
            host: "api.example".to_owned(),
            detail: None,
            key_worked: false,
        }
    }

    #[test]
    fn several_projects_make_a_dead_letter_at_once_only_if_all_errors_are_final() {
        let unknown = || error(ErrorKind::UnknownConversation, 404, "CONVERSATIONS_NOT_FOUND");
        let no_project = || error(ErrorKind::UnknownProject, 404, "PROJECT_NOT_FOUND");
        let rejected = || error(ErrorKind::KeyRejected, 401, "AUTH_USER_UNAUTHORIZED");
        let failing = || error(ErrorKind::Unavailable, 503, "INTERNAL_ERROR");
        let retry = RetryDecision::Retry(None);
        for (errors, reason, next) in [
            (vec![unknown(), unknown()], "unknown_conversation", retry),
            (vec![no_project(), unknown()], "unknown_conversation", retry),
            (vec![unknown(), no_project()], "unknown_conversation", retry),
            (vec![no_project(), no_project()], "unknown_project", RetryDecision::Dead),
            (vec![rejected(), unknown()], "key_rejected", retry),
            (vec![rejected(), rejected()], "key_rejected", RetryDecision::Dead),
            (vec![rejected(), no_project()], "key_rejected", RetryDecision::Dead),
            (vec![failing(), rejected()], "api_unavailable", retry),
        ] {
            let failure = JobFailure::of_all_projects(errors.into_iter().map(|e| ("one", e)).collect(), None);
            assert_eq!((failure.reason, failure.next), (reason, next));
        }
    }
}
