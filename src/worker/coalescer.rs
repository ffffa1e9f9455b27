//! Coalesces the jobs of one conversation: it is fetched by one job at a time, and one fetch answers many jobs.
//!
//! A conversation may have any number of jobs: an event is replayed under other ids, a spool repeats what RabbitMQ did not
//! confirm, and reconciliation finds what a webhook announced, too. The rules:
//!
//! * While a job fetches the conversation, the others go back to the queue. That uses up none of their attempts.
//! * A fetch answers every job whose event had arrived when the fetch began ([`AnswerNeed`]). Such a job is done when the
//!   fetch succeeded. When it failed, the job gets the same failure; its own history and schedule decide what follows.
//! * An event that arrives later may mean new data, so it leads to another fetch. The pauses between such fetches grow, and
//!   all events that arrive during a pause share the next fetch.
//!
//! The memory belongs to one process, is bounded, and may be lost at any time. Between processes the same is known from the
//! manifest, and the archive has a lock ([`Archive::try_fetch_lock`](crate::archive::Archive::try_fetch_lock)).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    failure::{JobFailure, RetryDecision},
    request::{FetchOutcome, FetchRequest},
};
use crate::{archive::Manifest, queue::History};

/// The shortest and the longest time until a job looks again if the conversation is still being fetched. In between it is
/// half the time for which that has lasted, so that thousands of such jobs cause little work during a long download.
const MIN_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_mins(1);
/// The pause after a fetch, before the next one that a later event causes. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);
/// After this time without a fetch the pauses start again.
const PAUSE_RESET: Duration = Duration::from_mins(10);
/// The number of conversations in memory.
const MAX_CONVERSATIONS: usize = 8192;
/// The beginning of an event id that polyhook made from the body of an event.
const HASHED_ID: &str = "sha256:";

/// The conditions under which a fetch answers a job.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerNeed<'a> {
    event_id: Option<&'a str>,
    received_at: Timestamp,
    /// The receipt of the event, the last attempt of the job, or its last replay: the fetch must be later.
    after: Timestamp,
    /// True if the job was neither attempted nor replayed.
    is_first_attempt: bool,
    /// True if no attempt follows. It archives the conversation even without a recording.
    pub(super) is_last_attempt: bool,
    /// The largest difference between the clocks of receivers and workers.
    clock_tolerance: Duration,
}

impl<'a> AnswerNeed<'a> {
    /// Returns the need of a job.
    pub(super) fn of(
        request: &'a FetchRequest,
        history: &History,
        is_last_attempt: bool,
        clock_tolerance: Duration,
    ) -> Self {
        let attempted_at = history.attempts.last().map(|attempt| attempt.at);
        let replayed_at = history.replays.last().copied();
        let latest = attempted_at.max(replayed_at);
        Self {
            event_id: request.event_id.as_deref(),
            received_at: request.received_at,
            after: request.received_at.max(latest.unwrap_or(Timestamp::MIN)),
            is_first_attempt: latest.is_none(),
            is_last_attempt,
            clock_tolerance,
        }
    }

    /// Returns whether an archived copy makes a fetch unnecessary, as far as its time is concerned.
    pub(super) fn is_met_by(&self, manifest: &Manifest, now: Timestamp) -> bool {
        let event_id = manifest.provenance.event_id.as_deref();
        self.is_met(manifest.timings.fetched_at, event_id, manifest.timings.received_at, now)
    }

    /// Returns whether the event of this job had arrived when a fetch began. `event_id` and `received_at` are those of the
    /// event that caused the fetch. A fetch in the future says that a clock was wrong, and answers nothing.
    fn is_met(
        &self,
        began: Timestamp,
        event_id: Option<&str>,
        received_at: Option<Timestamp>,
        now: Timestamp,
    ) -> bool {
        if began > now {
            return false;
        }
        let is_same_event = self.is_first_attempt
            && event_id.is_some()
            && event_id == self.event_id
            && (!event_id.is_some_and(|id| id.starts_with(HASHED_ID))
                || received_at.map(Timestamp::as_millisecond) == Some(self.received_at.as_millisecond()));
        let latest = self.after.checked_add(self.clock_tolerance).unwrap_or(Timestamp::MAX);
        is_same_event || latest < began
    }
}

/// The decision about a job before it fetches anything.
#[derive(Debug)]
pub(super) enum Admission {
    /// The job fetches the conversation.
    Fetch(FetchSlot),
    /// A fetch has answered the job already.
    Answered(Result<(), JobFailure>),
    /// The job looks again after this time.
    Wait(Duration),
}

/// SHA-256 of ids, which may be long.
type IdHash = [u8; 32];

/// The jobs of a worker by conversation; see the [module](self).
#[derive(Debug, Default)]
pub(super) struct JobCoalescer {
    conversations: Mutex<HashMap<IdHash, ConversationState>>,
}

#[derive(Debug, Default)]
struct ConversationState {
    /// The time since which a job of this worker has been fetching the conversation.
    running_since: Option<Instant>,
    /// The time since which another worker has been fetching it, and the time at which this worker looks again.
    locked: Option<(Instant, Instant)>,
    last: Option<FinishedFetch>,
    /// The number of fetches in a row.
    in_a_row: u32,
}

/// The last fetch of a conversation.
#[derive(Debug)]
struct FinishedFetch {
    /// The account and the project that the event named.
    scope: IdHash,
    began: Timestamp,
    ended: Instant,
    event_id: Option<String>,
    received_at: Timestamp,
    was_last_attempt: bool,
    result: Result<(), JobFailure>,
}

impl ConversationState {
    /// Returns the end of the pause before the next fetch that a later event causes.
    fn pause_end(&self) -> Option<Instant> {
        let last = self.last.as_ref()?;
        let doublings = self.in_a_row.saturating_sub(1).min(16);
        Some(last.ended + (FIRST_PAUSE * (1 << doublings)).min(MAX_PAUSE))
    }
}

impl FinishedFetch {
    /// Returns the result for another job, if this fetch answers it.
    fn answer(&self, need: &AnswerNeed<'_>, now: Timestamp) -> Option<Result<(), JobFailure>> {
        if !need.is_met(self.began, self.event_id.as_deref(), Some(self.received_at), now) {
            return None;
        }
        // Every attempt of a schedule is a new one: only a failure in the second half of the delay may stand for it.
        let is_recent = now.duration_since(self.began) <= self.began.duration_since(need.after);
        let is_shared =
            (need.is_first_attempt || is_recent) && (self.was_last_attempt || !need.is_last_attempt);
        (self.result.is_ok() || is_shared).then(|| self.result.clone())
    }
}

impl JobCoalescer {
    /// Decides about a job.
    pub(super) fn admit(
        self: &Arc<Self>,
        request: &FetchRequest,
        need: &AnswerNeed<'_>,
        now: Timestamp,
    ) -> Admission {
        let key = hash([Some(request.conversation_id.as_str())]);
        let scope = hash([request.account_id.as_deref(), request.project_id.as_deref()]);
        let mut conversations = self.conversations();
        make_room(&mut conversations);
        let state = conversations.entry(key).or_default();
        if let Some(since) = state.running_since {
            return Admission::Wait(wait_time(since));
        }
        if let Some(left) = state.locked.and_then(|(_, until)| time_left(until)) {
            return Admission::Wait(left);
        }
        if !request.force()
            && let Some(last) = state.last.as_ref().filter(|last| last.scope == scope)
        {
            if let Some(result) = last.answer(need, now) {
                return Admission::Answered(result);
            }
            // A retry comes at the time of its schedule.
            if need.is_first_attempt
                && let Some(left) = state.pause_end().and_then(time_left)
            {
                return Admission::Wait(left);
            }
        }
        state.running_since = Some(Instant::now());
        Admission::Fetch(FetchSlot { coalescer: Arc::clone(self), key, scope, began: OnceLock::new() })
    }

    fn conversations(&self) -> MutexGuard<'_, HashMap<IdHash, ConversationState>> {
        self.conversations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of a job to fetch its conversation. It ends when the slot is dropped.
#[derive(Debug)]
pub(super) struct FetchSlot {
    coalescer: Arc<JobCoalescer>,
    key: IdHash,
    scope: IdHash,
    began: OnceLock<Timestamp>,
}

impl FetchSlot {
    /// Records the time from which on PolyAI's answer is known: the begin of the fetch, or that of the fetch of a copy that
    /// is archived. Without it the result of the job answers no other job.
    pub(super) fn set_began(&self, at: Timestamp) {
        // The first time counts.
        let _ = self.began.set(at);
    }

    /// Records that another worker fetches the conversation. Returns the time until this worker looks again.
    pub(super) fn wait_for_other_worker(&self) -> Duration {
        let now = Instant::now();
        let mut conversations = self.coalescer.conversations();
        let Some(state) = conversations.get_mut(&self.key) else { return MIN_WAIT };
        let since = state.locked.map_or(now, |(since, _)| since);
        let wait = wait_time(since);
        state.locked = Some((since, now + wait));
        wait
    }

    /// Records the result for other jobs.
    pub(super) fn finish(
        self,
        request: &FetchRequest,
        need: &AnswerNeed<'_>,
        result: &Result<FetchOutcome, JobFailure>,
    ) {
        let mut conversations = self.coalescer.conversations();
        let Some(state) = conversations.get_mut(&self.key) else { return };
        state.locked = None;
        let result = match result {
            // An erasure may be lifted. A job that was postponed has attempted nothing.
            Ok(FetchOutcome::Erased) | Err(JobFailure { next: RetryDecision::Postpone(_), .. }) => return,
            Ok(_) => Ok(()),
            Err(failure) => Err(failure.clone()),
        };
        let Some(began) = self.began.get().copied() else { return };
        let ended = Instant::now();
        let is_in_a_row =
            state.last.as_ref().is_some_and(|last| ended.duration_since(last.ended) < PAUSE_RESET);
        state.in_a_row = if is_in_a_row { state.in_a_row.saturating_add(1) } else { 1 };
        state.last = Some(FinishedFetch {
            scope: self.scope,
            began,
            ended,
            event_id: request.event_id.clone(),
            received_at: request.received_at,
            was_last_attempt: need.is_last_attempt,
            result,
        });
    }
}

impl Drop for FetchSlot {
    fn drop(&mut self) {
        let mut conversations = self.coalescer.conversations();
        let Some(state) = conversations.get_mut(&self.key) else { return };
        state.running_since = None;
        if state.last.is_none() && state.locked.is_none() {
            conversations.remove(&self.key);
        }
    }
}

/// Forgets conversations if there are too many: first those without a recent fetch, then all that are not being fetched.
fn make_room(conversations: &mut HashMap<IdHash, ConversationState>) {
    if conversations.len() < MAX_CONVERSATIONS {
        return;
    }
    conversations.retain(|_, state| {
        state.running_since.is_some()
            || state.last.as_ref().is_some_and(|last| last.ended.elapsed() < PAUSE_RESET)
    });
    if conversations.len() >= MAX_CONVERSATIONS {
        conversations.retain(|_, state| state.running_since.is_some());
    }
}

fn time_left(until: Instant) -> Option<Duration> {
    until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
}

/// Returns the time until a job looks again at a conversation that has been fetched since then.
fn wait_time(since: Instant) -> Duration {
    (since.elapsed() / 2).clamp(MIN_WAIT, MAX_WAIT)
}

fn hash<const N: usize>(ids: [Option<&str>; N]) -> IdHash {
    let mut hash = Sha256::new();
    for id in ids {
        hash.update(id.map_or(u64::MAX, |id| id.len() as u64).to_be_bytes());
        hash.update(id.unwrap_or_default());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests;
