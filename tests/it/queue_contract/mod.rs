//! The contract of `queue::Queue` as tests that every backend runs.
//!
//! A backend implements [`QueueUnderTest`] and invokes `mod mine { crate::queue_contract::contract_suite!(super::Mine); }`.
//! The constants of the trait state where backends may differ, such as in the recognition of duplicates.

use std::{
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use polyhook::{
    event::{CONVERSATION_COMPLETED, DedupKey, Event},
    queue::{
        Announced, Announcement, Attempt, DeadLetter, History, Job, JobOutcome, LeaseId, Message, Published,
        Queue, QueueKind,
    },
};
use tokio::time::timeout;

pub(crate) mod dead_lettering;
pub(crate) mod erasure;
pub(crate) mod leases;
pub(crate) mod publishing;
pub(crate) mod waiting_and_closing;

/// A backend's storage, on which the suite opens queues. Dropping it removes the storage.
pub(crate) trait QueueUnderTest: Send + Sync + Sized + 'static {
    /// True if `publish` recognises duplicates.
    const RECOGNISES_DUPLICATES: bool;
    /// The result of announcing while no queue is bound for announcements.
    const UNBOUND_ANNOUNCEMENT: Announced;
    /// The maximum distance between a dead letter's place in the list and its place of arrival. RabbitMQ may deliver returned
    /// messages in another order.
    const MAX_DISORDER: usize = 128;
    /// True if `erase` searches jobs.
    const SEARCHES_JOBS: bool = false;
    /// The shortest delay of the retry schedule, which the backend offers exactly.
    const SHORT_DELAY: Duration = Duration::from_secs(1);
    /// A delay of the retry schedule that is longer than any test.
    const LONG_DELAY: Duration = Duration::from_mins(10);

    /// Creates empty storage.
    fn start() -> impl Future<Output = Self> + Send;
    /// Opens a queue on the storage, as another process would.
    fn open(&self) -> impl Future<Output = Arc<dyn Queue>> + Send;
}

/// Declares one test for each guarantee of the contract.
macro_rules! contract_suite {
    ($backend:ty) => {
        $crate::queue_contract::contract_suite!(@tests $backend:
            publishing:
                delivers_a_job_unchanged
                keeps_an_event_without_a_job
                makes_one_job_of_duplicates
                makes_two_jobs_of_one_id_with_two_bodies
                delivers_each_job_of_many_publishers_once
                reports_one_of_concurrent_duplicates_as_new
                accepts_an_announcement_repeatedly
                counts_messages_by_kind;
            leases:
                leases_each_job_to_one_consumer
                removes_a_finished_job
                delivers_a_released_job_again_at_once
                delays_a_retry_and_keeps_its_history
                delivers_a_delayed_job_at_its_time
                keeps_a_delayed_job_across_a_restart
                keeps_a_long_history
                settles_a_lease_once;
            dead_lettering:
                keeps_a_dead_letter_across_a_restart
                lists_dead_letters_with_message_and_history
                keeps_dead_letters_that_are_only_read
                replay_moves_a_dead_letter_and_restarts_its_schedule
                removes_a_discarded_dead_letter
                a_cursor_ends_although_replayed_jobs_die_again;
            erasure:
                erases_the_messages_about_a_conversation;
            waiting_and_closing:
                loses_no_job_of_a_cancelled_wait
                wakes_a_waiting_consumer
                close_hands_back_all_jobs
                close_ends_waiting_consumers
                reports_readiness;
        );
    };
    (@tests $backend:ty: $($module:ident: $($guarantee:ident)*;)*) => {
        $($(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $guarantee() {
                $crate::queue_contract::$module::$guarantee::<$backend>().await;
            }
        )*)*
    };
}

pub(crate) use contract_suite;

/// Bounds each step. It is long enough for a busy machine and shorter than any lease, so that a job that is delivered only
/// because its lease has expired comes too late.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);

/// The time in which an unexpected job would arrive.
const QUIET_PERIOD: Duration = Duration::from_millis(700);

pub(crate) fn message(id: &str, body: &[u8]) -> Message {
    Message {
        id: id.to_owned(),
        dedup: DedupKey::new(id, body),
        kind: CONVERSATION_COMPLETED.to_owned(),
        environment: "live".to_owned(),
        conversation_id: Event::read(body).conversation_id,
        received_at: "2026-11-22T10:20:30.123Z".parse().unwrap(),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body: Bytes::copy_from_slice(body),
    }
}

pub(crate) fn event(id: &str) -> Message {
    Message { kind: "handoff.created".to_owned(), ..message(id, b"{}") }
}

pub(crate) fn history(failures: usize) -> History {
    let mut history = History::default();
    for n in 1..=failures {
        history.push(Attempt {
            at: Timestamp::from_millisecond(1_790_000_000_000 + i64::try_from(n).unwrap()).unwrap(),
            reason: "rate_limited".into(),
            detail: format!("try {n}: PolyAI asked to wait — \"später\""),
            status: (n % 2 == 1).then_some(429),
            correlation_id: (n % 2 == 1).then(|| format!("corr-{n}")),
        });
    }
    history
}

pub(crate) fn announcement(id: &str) -> Announcement {
    Announcement {
        id: id.to_owned(),
        kind: "conversation.ready".to_owned(),
        environment: "live".to_owned(),
        subject: "CA1".to_owned(),
        time: "2026-11-22T10:20:30.123Z".parse().unwrap(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        body: Bytes::from_static(br#"{"specversion":"1.0"}"#),
    }
}

pub(crate) async fn take(queue: &Arc<dyn Queue>) -> Job {
    timeout(STEP_TIMEOUT, queue.next()).await.expect("a job in time").expect("an open queue")
}

/// Returns the depths of all kinds, as `Queue::depths` does, if no job is published for later.
pub(crate) fn depths(fetch: u64, retry: u64, dead: u64, unrouted: u64) -> [(QueueKind, u64); 5] {
    [
        (QueueKind::Fetch, fetch),
        (QueueKind::Retry, retry),
        (QueueKind::Refresh, 0),
        (QueueKind::Dead, dead),
        (QueueKind::Unrouted, unrouted),
    ]
}

/// Adds jobs that are published for later.
pub(crate) fn with_delayed<const N: usize>(
    mut depths: [(QueueKind, u64); N],
    delayed: u64,
) -> [(QueueKind, u64); N] {
    depths.iter_mut().filter(|(kind, _)| *kind == QueueKind::Refresh).for_each(|depth| depth.1 = delayed);
    depths
}

pub(crate) async fn assert_empty(queue: &Arc<dyn Queue>) {
    if let Ok(job) = timeout(QUIET_PERIOD, queue.next()).await {
        panic!("an unexpected job: {job:?}");
    }
}

async fn publish(queue: &Arc<dyn Queue>, message: Message) -> Published {
    timeout(STEP_TIMEOUT, queue.publish(message)).await.expect("an answer in time").expect("published")
}

async fn settle(queue: &Arc<dyn Queue>, lease: LeaseId, outcome: JobOutcome) {
    queue.settle(lease, outcome).await.expect("settled");
}

/// Waits for the expected depths: some backends count with a delay.
pub(crate) async fn assert_depths(queue: &Arc<dyn Queue>, wanted: [(QueueKind, u64); 5]) {
    let wanted = HashMap::from(wanted);
    let deadline = Instant::now() + STEP_TIMEOUT;
    loop {
        let found: HashMap<_, _> = queue.depths().await.expect("depths").into_iter().collect();
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "depths are {found:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Returns all dead letters without changing them.
pub(crate) async fn dead_letters(queue: &dyn Queue) -> Vec<DeadLetter> {
    let mut cursor = queue.dead_letters().await.expect("dead letters");
    let mut found = Vec::new();
    while let Some(letter) = timeout(STEP_TIMEOUT, cursor.next()).await.expect("in time").expect("a letter") {
        found.push(letter);
    }
    cursor.close().await;
    found
}
