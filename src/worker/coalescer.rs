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

/// What a fetch must fulfil to answer a job.
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
mod tests {
    use super::*;
    use crate::{archive::Trigger, event::Discovery, queue::Attempt};

    const TOLERANCE: Duration = Duration::from_millis(100);

    fn at(seconds: f64) -> Timestamp {
        Timestamp::from_millisecond(1_790_000_000_000).unwrap() + Duration::from_secs_f64(seconds)
    }

    fn request(event_id: &str, received_at: f64) -> FetchRequest {
        FetchRequest {
            conversation_id: "CA1".to_owned(),
            account_id: None,
            project_id: None,
            trigger: Trigger::Webhook,
            event_id: Some(event_id.to_owned()),
            received_at: at(received_at),
            started_at: None,
            traceparent: None,
            any_environment: false,
            discovery: None,
        }
    }

    fn attempted(seconds: f64) -> History {
        let mut history = History::default();
        history.push(Attempt {
            at: at(seconds),
            reason: "network".into(),
            detail: String::new(),
            status: None,
            correlation_id: None,
        });
        history
    }

    fn need<'a>(request: &'a FetchRequest, history: &History) -> AnswerNeed<'a> {
        AnswerNeed::of(request, history, history.failures >= 2, TOLERANCE)
    }

    /// Ends a fetch that is not the last attempt of its job.
    fn finish(slot: FetchSlot, request: &FetchRequest, result: &Result<FetchOutcome, JobFailure>) {
        slot.finish(request, &need(request, &History::default()), result);
    }

    fn failure() -> JobFailure {
        JobFailure::new("network", "no answer", RetryDecision::Retry(None))
    }

    /// One worker, whose wall clock is given with each call.
    #[derive(Default)]
    struct World(Arc<JobCoalescer>);

    impl World {
        fn admit_with(&self, request: &FetchRequest, history: &History, now: f64) -> Admission {
            self.0.admit(request, &need(request, history), at(now))
        }

        fn admit(&self, event_id: &str, received_at: f64, now: f64) -> Admission {
            self.admit_with(&request(event_id, received_at), &History::default(), now)
        }

        fn fetch(&self, event_id: &str, received_at: f64, result: &Result<FetchOutcome, JobFailure>) {
            let request = request(event_id, received_at);
            let Admission::Fetch(slot) = self.admit(event_id, received_at, received_at + 0.2) else {
                panic!("not admitted")
            };
            slot.set_began(at(received_at + 0.2));
            finish(slot, &request, result);
        }
    }

    fn is_done(admission: &Admission) -> bool {
        matches!(admission, Admission::Answered(Ok(())))
    }

    fn waits(admission: &Admission) -> Duration {
        let Admission::Wait(time) = admission else { panic!("{admission:?}") };
        *time
    }

    #[tokio::test(start_paused = true)]
    async fn one_job_at_a_time_fetches_a_conversation() {
        let world = World::default();
        let Admission::Fetch(slot) = world.admit("a", 0.0, 0.1) else { panic!("not admitted") };
        assert_eq!(waits(&world.admit("b", 0.0, 0.2)), MIN_WAIT);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(waits(&world.admit("b", 0.0, 0.2)), Duration::from_secs(15), "half the time so far");
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(waits(&world.admit("b", 0.0, 0.2)), MAX_WAIT);
        let forced = FetchRequest {
            discovery: Some(Discovery { force: true, ..Discovery::default() }),
            ..request("c", 0.0)
        };
        waits(&world.admit_with(&forced, &History::default(), 0.2));
        let other = FetchRequest { conversation_id: "CA2".to_owned(), ..request("a", 0.0) };
        assert!(matches!(world.admit_with(&other, &History::default(), 0.2), Admission::Fetch(_)));
        drop(slot);
        assert!(matches!(world.admit("b", 0.0, 0.3), Admission::Fetch(_)), "its job ended without a result");
    }

    #[tokio::test(start_paused = true)]
    async fn a_fetch_answers_the_jobs_that_waited_when_it_began() {
        let world = World::default();
        world.fetch("a", 1.0, &Ok(FetchOutcome::Skipped));
        assert!(is_done(&world.admit("b", 0.5, 3.0)));
        assert!(is_done(&world.admit("b", 1.05, 3.0)));
        assert!(is_done(&world.admit("a", 1.3, 3.0)), "the same event again");
        assert!(!is_done(&world.admit("b", 1.15, 3.0)), "within the tolerance of the clocks");
        assert!(!is_done(&world.admit("b", 1.3, 3.0)), "it arrived later");
        assert!(!is_done(&world.admit("b", 0.5, 1.1)), "the clock was set back");
        let forced = FetchRequest {
            discovery: Some(Discovery { force: true, ..Discovery::default() }),
            ..request("b", 0.5)
        };
        assert!(matches!(world.admit_with(&forced, &History::default(), 3.0), Admission::Fetch(_)));
        let other = FetchRequest { project_id: Some("PROJECT-2".to_owned()), ..request("b", 0.5) };
        assert!(matches!(world.admit_with(&other, &History::default(), 3.0), Admission::Fetch(_)));
        let mut replayed = attempted(0.6);
        replayed.replay(at(2.0));
        let replay = world.admit_with(&request("a", 0.5), &replayed, 3.0);
        assert!(matches!(replay, Admission::Fetch(_)), "a person asked after the fetch");
    }

    #[tokio::test(start_paused = true)]
    async fn an_id_that_is_a_hash_of_the_body_does_not_identify_a_delivery() {
        let world = World::default();
        world.fetch("sha256:00", 1.0, &Ok(FetchOutcome::Skipped));
        assert!(is_done(&world.admit("sha256:00", 1.0, 3.0)), "the same delivery");
        assert!(!is_done(&world.admit("sha256:00", 1.3, 3.0)), "the same body, sent again");
    }

    #[tokio::test(start_paused = true)]
    async fn fetches_of_later_events_have_growing_pauses() {
        let world = World::default();
        let mut fetches = 0;
        let mut now = 0.0;
        // An event every 100 ms for an hour.
        while now < 3600.0 {
            if let Admission::Fetch(slot) = world.admit(&format!("evt {now}"), now, now) {
                fetches += 1;
                slot.set_began(at(now));
                finish(slot, &request("evt", now), &Ok(FetchOutcome::Skipped));
            }
            now += 0.1;
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert!((60..70).contains(&fetches), "{fetches}");
        tokio::time::advance(PAUSE_RESET).await;
        world.fetch("later", now + 700.0, &Ok(FetchOutcome::Skipped));
        assert_eq!(waits(&world.admit("next", now + 700.5, now + 700.5)), FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_share_a_failure_and_keep_their_schedules() {
        let world = World::default();
        world.fetch("a", 1.0, &Err(failure()));
        let shared = world.admit("b", 0.5, 1.5);
        assert!(matches!(&shared, Admission::Answered(Err(failure)) if failure.reason == "network"));
        // The retry of the job that failed is due before the pause ends.
        assert!(matches!(world.admit_with(&request("a", 1.0), &attempted(1.3), 1.4), Admission::Fetch(_)));
        waits(&world.admit("c", 1.3, 1.4));

        let Admission::Fetch(slot) = world.admit_with(&request("a", 1.0), &attempted(1.3), 11.3) else {
            panic!("not admitted")
        };
        slot.set_began(at(11.3));
        finish(slot, &request("a", 1.0), &Err(failure()));
        let retry = |now| world.admit_with(&request("b", 0.5), &attempted(1.5), now);
        assert!(matches!(retry(11.5), Admission::Answered(Err(_))), "failed a moment ago");
        assert!(matches!(retry(60.0), Admission::Fetch(_)), "a failure of long ago is no attempt");
        assert!(is_done(&{
            world.fetch_retry(70.0);
            retry(200.0)
        }));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_attempt_of_a_job_shares_only_the_failure_of_a_last_attempt() {
        let world = World::default();
        let mut last = attempted(1.0);
        last.push(last.attempts[0].clone());
        world.fetch("a", 1.5, &Err(failure()));
        let Admission::Fetch(slot) = world.admit_with(&request("b", 0.5), &last, 1.8) else {
            panic!("its conversation is archived without a recording in this attempt")
        };
        slot.set_began(at(1.8));
        slot.finish(&request("b", 0.5), &need(&request("b", 0.5), &last), &Err(failure()));
        let other = world.admit_with(&request("c", 0.5), &last, 2.0);
        assert!(matches!(other, Admission::Answered(Err(_))), "{other:?}");
    }

    impl World {
        fn fetch_retry(&self, now: f64) {
            let request = request("a", 1.0);
            let Admission::Fetch(slot) = self.admit_with(&request, &attempted(now - 5.0), now) else {
                panic!("not admitted")
            };
            slot.set_began(at(now));
            finish(slot, &request, &Ok(FetchOutcome::Skipped));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn results_without_a_fetch_answer_no_other_job() {
        let world = World::default();
        world.fetch("a", 1.0, &Ok(FetchOutcome::Erased));
        assert!(matches!(world.admit("b", 0.5, 3.0), Admission::Fetch(_)));
        world.fetch("a", 1.0, &Err(JobFailure::held_up("desk")));
        assert!(matches!(world.admit("b", 0.5, 3.0), Admission::Fetch(_)));
        assert!(world.0.conversations().is_empty(), "nothing is remembered");
    }

    #[tokio::test(start_paused = true)]
    async fn looks_seldom_at_a_conversation_that_another_worker_fetches() {
        let world = World::default();
        let Admission::Fetch(slot) = world.admit("a", 0.0, 4.0) else { panic!("not admitted") };
        assert_eq!(slot.wait_for_other_worker(), MIN_WAIT);
        drop(slot);
        assert_eq!(waits(&world.admit("b", 3.9, 4.0)), MIN_WAIT);
        tokio::time::advance(Duration::from_secs(8)).await;
        let Admission::Fetch(slot) = world.admit("b", 3.9, 12.0) else { panic!("not admitted") };
        assert_eq!(slot.wait_for_other_worker(), Duration::from_secs(4), "half the time so far");
        drop(slot);
        tokio::time::advance(Duration::from_secs(4)).await;
        assert!(matches!(world.admit("b", 3.9, 16.0), Admission::Fetch(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let world = World::default();
        for n in 0..MAX_CONVERSATIONS * 2 {
            let request = FetchRequest { conversation_id: format!("CA{n}"), ..request("a", 0.0) };
            let Admission::Fetch(slot) = world.admit_with(&request, &History::default(), 1.0) else {
                panic!("not admitted")
            };
            slot.set_began(at(1.0));
            finish(slot, &request, &Ok(FetchOutcome::Skipped));
        }
        assert!(world.0.conversations().len() <= MAX_CONVERSATIONS);
    }
}
