//! What every queue promises (`queue::Queue`), told as tests that each backend runs.
//!
//! A backend joins with a [`QueueUnderTest`] of its own and `mod mine { crate::queue_contract::contract_suite!(super::Mine); }`.
//! Where two backends may differ (does it recognise duplicates? how fine are its delays?) the harness says
//! so in a constant; everything else is the same for all.

use std::{
    collections::{HashMap, HashSet},
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use jiff::Timestamp;
use polyhook::{
    clock::Clock,
    event::{CONVERSATION_COMPLETED, DedupKey, Event},
    queue::{
        Announced, Announcement, Attempt, DeadLetter, History, Job, JobOutcome, LeaseId, Message, Published,
        Queue, QueueError, QueueKind,
    },
};
use tokio::{task::JoinSet, time::timeout};

/// How the suite gets queues of one kind. Dropping it removes the store.
pub(crate) trait QueueUnderTest: Send + Sync + Sized + 'static {
    /// Whether `publish` tells a duplicate from a new message.
    const RECOGNISES_DUPLICATES: bool;
    /// What becomes of an announcement that nobody has asked for.
    const UNASKED_ANNOUNCEMENT: Announced;
    /// By how many places a dead letter may stand elsewhere than it came: what RabbitMQ is handed back, it may give out among
    /// its neighbours.
    const DISORDER: usize = 128;
    /// Whether `erase` looks into jobs.
    const SEARCHES_JOBS: bool = false;
    /// A wait that the backend offers exactly (the shortest rung of its ladder).
    const SHORT_WAIT: Duration = Duration::from_secs(1);
    /// A wait that the backend offers and no test lives to see.
    const LONG_WAIT: Duration = Duration::from_mins(10);

    /// An empty store of its own.
    fn start() -> impl Future<Output = Self> + Send;
    /// A queue on that store, as another process would open it.
    fn open(&self) -> impl Future<Output = Arc<dyn Queue>> + Send;
}

/// Makes one test of each promise for a backend.
macro_rules! contract_suite {
    ($backend:ty) => {
        $crate::queue_contract::contract_suite!(@tests $backend:
            a_job_comes_out_as_it_went_in
            an_event_that_asks_for_nothing_is_kept_but_no_job
            a_duplicate_is_one_job
            one_id_with_two_bodies_is_two_jobs
            many_publishers_lose_and_double_nothing
            the_same_message_at_once_is_new_once
            a_lease_has_one_holder
            done_is_over
            released_comes_back_at_once
            a_retry_waits_and_remembers
            a_long_history_survives
            dead_stays_dead
            dead_letters_are_listed_as_they_died
            a_dead_letter_that_is_left_alone_stays
            a_replay_is_a_move_and_begins_the_ladder_anew
            a_dropped_dead_letter_is_gone
            a_walk_ends_although_what_it_replays_dies_again
            what_is_about_a_conversation_is_erased
            a_lease_ends_once
            an_abandoned_wait_loses_nothing
            a_waiting_consumer_is_woken
            closing_hands_everything_back
            closing_wakes_those_who_wait
            announcements_are_taken_again_and_again
            ready_says_so
            depths_count
        );
    };
    (@tests $backend:ty: $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $promise() {
                $crate::queue_contract::$promise::<$backend>().await;
            }
        )*
    };
}
pub(crate) use contract_suite;

/// Long enough for a busy machine, shorter than any lease: what comes back only because a lease ran out
/// comes too late.
const SOON: Duration = Duration::from_secs(15);
/// Long enough for something wrong to show.
const A_WHILE: Duration = Duration::from_millis(700);

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
            detail: format!("try {n}: PolyAI asked for patience — \"später\""),
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
    timeout(SOON, queue.next()).await.expect("a job in time").expect("an open queue")
}

pub(crate) async fn assert_empty(queue: &Arc<dyn Queue>) {
    if let Ok(job) = timeout(A_WHILE, queue.next()).await {
        panic!("a job that should not be there: {job:?}");
    }
}

async fn publish(queue: &Arc<dyn Queue>, message: Message) -> Published {
    timeout(SOON, queue.publish(message)).await.expect("an answer in time").expect("published")
}

async fn settle(queue: &Arc<dyn Queue>, lease: LeaseId, outcome: JobOutcome) {
    queue.settle(lease, outcome).await.expect("settled");
}

/// Depths are counted a little later than they change in some backends.
pub(crate) async fn assert_depths(queue: &Arc<dyn Queue>, wanted: [(QueueKind, u64); 4]) {
    let wanted = HashMap::from(wanted);
    let deadline = Instant::now() + SOON;
    loop {
        let found: HashMap<_, _> = queue.depths().await.expect("depths").into_iter().collect();
        if found == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "depths are {found:?}, not {wanted:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) async fn a_job_comes_out_as_it_went_in<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let big: Vec<u8> = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (n, body) in [b"" as &[u8], b"{}", &every_byte, "{\"naïve\":\"\u{1f4de}\0\"}".as_bytes(), &big]
        .into_iter()
        .enumerate()
    {
        let sent = Message {
            kind: "conversation.completed.v2".to_owned(),
            environment: "pre-release".to_owned(),
            traceparent: (n % 2 == 0)
                .then(|| "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
            content_type: "application/json; charset=utf-8".to_owned(),
            ..message(&format!("evt_{n}"), body)
        };
        assert_eq!(publish(&queue, sent.clone()).await, Published::New);
        let job = take(&queue).await;
        assert!(job.message == sent, "body {n} or its properties changed");
        assert_eq!(job.history, History::default());
        settle(&queue, job.lease, JobOutcome::Done).await;
    }
    queue.close().await;
}

pub(crate) async fn an_event_that_asks_for_nothing_is_kept_but_no_job<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    for id in ["evt_a", "evt_b"] {
        assert_eq!(publish(&queue, event(id)).await, Published::New);
    }
    assert_empty(&queue).await;
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 0), (QueueKind::Retry, 0), (QueueKind::Dead, 0), (QueueKind::Unrouted, 2)],
    )
    .await;
    queue.close().await;
}

pub(crate) async fn a_duplicate_is_one_job<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    if !B::RECOGNISES_DUPLICATES {
        // Such a backend leaves it to the archive, which is idempotent: there is no promise to check.
        return;
    }
    let again = Published::Duplicate;
    assert_eq!(publish(&queue, message("evt_1", b"{}")).await, Published::New);
    assert_eq!(publish(&queue, message("evt_1", b"{}")).await, again);
    let job = take(&queue).await;
    assert_eq!(publish(&queue, message("evt_1", b"{}")).await, again, "while it is being worked on");
    settle(&queue, job.lease, JobOutcome::Done).await;
    assert_eq!(publish(&queue, message("evt_1", b"{}")).await, again, "when it is done");
    assert_empty(&queue).await;
    queue.close().await;
}

pub(crate) async fn one_id_with_two_bodies_is_two_jobs<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    assert_eq!(publish(&queue, message("evt_1", b"{\"a\":1}")).await, Published::New);
    assert_eq!(publish(&queue, message("evt_1", b"{\"a\":2}")).await, Published::New);
    let bodies: HashSet<_> = [take(&queue).await.message.body, take(&queue).await.message.body].into();
    assert_eq!(bodies.len(), 2);
    queue.close().await;
}

pub(crate) async fn many_publishers_lose_and_double_nothing<B: QueueUnderTest>() {
    const PUBLISHERS: usize = 64;
    const EACH: usize = 50;
    let backend = B::start().await;
    let queue = backend.open().await;
    let mut publishers = JoinSet::new();
    for p in 0..PUBLISHERS {
        let queue = Arc::clone(&queue);
        publishers.spawn(async move {
            for n in 0..EACH {
                let body = format!("{{\"p\":{p},\"n\":{n}}}");
                assert_eq!(
                    publish(&queue, message(&format!("evt_{p}_{n}"), body.as_bytes())).await,
                    Published::New
                );
            }
        });
    }
    let mut seen = HashSet::new();
    for _ in 0..PUBLISHERS * EACH {
        let job = take(&queue).await;
        assert_eq!(job.message.dedup, DedupKey::new(&job.message.id, &job.message.body), "bodies mixed up");
        assert!(seen.insert(job.message.id), "handed out twice");
        settle(&queue, job.lease, JobOutcome::Done).await;
    }
    while let Some(publisher) = publishers.join_next().await {
        publisher.unwrap();
    }
    assert_empty(&queue).await;
    queue.close().await;
}

pub(crate) async fn the_same_message_at_once_is_new_once<B: QueueUnderTest>() {
    let backend = B::start().await;
    if !B::RECOGNISES_DUPLICATES {
        return;
    }
    let queues = [backend.open().await, backend.open().await];
    let mut publishers = JoinSet::new();
    for n in 0..100 {
        let queue = Arc::clone(&queues[n % 2]);
        publishers.spawn(async move { publish(&queue, message("evt_1", b"{}")).await });
    }
    let published = publishers.join_all().await;
    assert_eq!(published.iter().filter(|published| **published == Published::New).count(), 1);
    take(&queues[0]).await;
    assert_empty(&queues[1]).await;
    for queue in queues {
        queue.close().await;
    }
}

pub(crate) async fn a_lease_has_one_holder<B: QueueUnderTest>() {
    const JOBS: usize = 200;
    let backend = B::start().await;
    let queues = [backend.open().await, backend.open().await];
    for n in 0..JOBS {
        publish(&queues[0], message(&format!("evt_{n}"), b"{}")).await;
    }
    let (taken, mut jobs) = tokio::sync::mpsc::unbounded_channel();
    let mut consumers = JoinSet::new();
    for n in 0..16 {
        let (queue, taken) = (Arc::clone(&queues[n % 2]), taken.clone());
        consumers.spawn(async move {
            while let Ok(job) = queue.next().await {
                taken.send((n % 2, job)).unwrap();
            }
        });
    }
    let mut held = HashMap::new();
    while held.len() < JOBS {
        let (holder, job) = timeout(SOON, jobs.recv()).await.expect("a job in time").unwrap();
        assert!(held.insert(job.message.id, (holder, job.lease)).is_none(), "two hold one job");
    }
    assert!(timeout(A_WHILE, jobs.recv()).await.is_err(), "two hold one job");
    for (holder, lease) in held.into_values() {
        settle(&queues[holder], lease, JobOutcome::Done).await;
    }
    for queue in queues {
        queue.close().await;
    }
    consumers.join_all().await;
}

pub(crate) async fn done_is_over<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    publish(&queue, message("evt_1", b"{}")).await;
    let job = take(&queue).await;
    settle(&queue, job.lease, JobOutcome::Done).await;
    assert_empty(&queue).await;
    queue.close().await;
    let queue = backend.open().await;
    assert_empty(&queue).await;
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 0), (QueueKind::Retry, 0), (QueueKind::Dead, 0), (QueueKind::Unrouted, 0)],
    )
    .await;
    queue.close().await;
}

pub(crate) async fn released_comes_back_at_once<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let sent = message("evt_1", b"{}");
    publish(&queue, sent.clone()).await;
    for _ in 0..5 {
        let job = take(&queue).await;
        assert_eq!(job.message, sent);
        assert_eq!(job.history, History::default(), "a release is no failure");
        settle(&queue, job.lease, JobOutcome::Release).await;
    }
    queue.close().await;
}

pub(crate) async fn a_retry_waits_and_remembers<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let sent = Message { traceparent: Some("00-1-2-01".to_owned()), ..message("evt_1", b"\0{}\xff") };
    publish(&queue, sent.clone()).await;
    let mut job = take(&queue).await;
    for failures in 1..=3 {
        let started = Instant::now();
        settle(&queue, job.lease, JobOutcome::Retry { after: B::SHORT_WAIT, history: history(failures) })
            .await;
        job = take(&queue).await;
        let waited = started.elapsed();
        assert!(waited >= B::SHORT_WAIT.mul_f64(0.9), "came back after {waited:?}");
        assert!(waited <= B::SHORT_WAIT + Duration::from_secs(5), "came back after {waited:?}");
        assert_eq!(job.message, sent);
        assert_eq!(job.history, history(failures));
    }
    // A release forgets nothing of it, nor does a queue that ends.
    settle(&queue, job.lease, JobOutcome::Release).await;
    assert_eq!(take(&queue).await.history, history(3));
    queue.close().await;
    let queue = backend.open().await;
    assert_eq!(take(&queue).await.history, history(3));
    queue.close().await;
}

pub(crate) async fn a_long_history_survives<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    publish(&queue, message("evt_1", b"{}")).await;
    let mut long = history(40);
    for attempt in &mut long.attempts {
        attempt.detail = "long ".repeat(200);
    }
    let job = take(&queue).await;
    settle(&queue, job.lease, JobOutcome::Retry { after: B::SHORT_WAIT, history: long.clone() }).await;
    assert_eq!(take(&queue).await.history, long);
    queue.close().await;
}

pub(crate) async fn dead_stays_dead<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    publish(&queue, message("evt_1", b"{}")).await;
    let job = take(&queue).await;
    settle(&queue, job.lease, JobOutcome::Dead { history: history(2) }).await;
    assert_empty(&queue).await;
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 0), (QueueKind::Retry, 0), (QueueKind::Dead, 1), (QueueKind::Unrouted, 0)],
    )
    .await;
    queue.close().await;
    let queue = backend.open().await;
    assert_empty(&queue).await;
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 0), (QueueKind::Retry, 0), (QueueKind::Dead, 1), (QueueKind::Unrouted, 0)],
    )
    .await;
    queue.close().await;
}

/// All dead letters, left where they are.
pub(crate) async fn dead_letters(queue: &dyn Queue) -> Vec<DeadLetter> {
    let mut walk = queue.dead_letters().await.expect("dead letters");
    let mut found = Vec::new();
    while let Some(letter) = timeout(SOON, walk.next()).await.expect("in time").expect("a letter") {
        found.push(letter);
    }
    walk.close().await;
    found
}

/// Makes dead letters, in this order.
async fn bury(queue: &Arc<dyn Queue>, messages: impl IntoIterator<Item = Message>) {
    for message in messages {
        publish(queue, message).await;
        let job = take(queue).await;
        settle(queue, job.lease, JobOutcome::Dead { history: history(2) }).await;
    }
}

async fn assert_dead(queue: &Arc<dyn Queue>, dead: u64) {
    assert_depths(
        queue,
        [(QueueKind::Fetch, 0), (QueueKind::Retry, 0), (QueueKind::Dead, dead), (QueueKind::Unrouted, 0)],
    )
    .await;
}

fn ids(letters: &[DeadLetter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.message.id.as_str()).collect()
}

pub(crate) async fn dead_letters_are_listed_as_they_died<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    assert_eq!(dead_letters(&*queue).await, []);
    // More than a page, in numbers and in bytes.
    let sent: Vec<_> = (0..300)
        .map(|n| {
            let body = vec![b'x'; if n < 4 { 1 << 20 } else { n }];
            Message { traceparent: Some("00-1-2-01".to_owned()), ..message(&format!("evt_{n}"), &body) }
        })
        .collect();
    bury(&queue, sent.clone()).await;
    let other = backend.open().await;
    assert_dead(&other, 300).await;
    let walk = other.dead_letters().await.unwrap();
    assert_eq!(walk.total(), 300);
    walk.close().await;
    assert_dead(&other, 300).await;
    let mut found = dead_letters(&*other).await;
    assert_eq!(found.len(), 300);
    let place = |letter: &DeadLetter| sent.iter().position(|sent| sent.id == letter.message.id).unwrap();
    for (at, letter) in found.iter().enumerate() {
        assert!(place(letter).abs_diff(at) <= B::DISORDER, "{:?}", ids(&found));
    }
    found.sort_by_key(place);
    for (letter, sent) in found.iter().zip(&sent) {
        assert!(letter.message == *sent, "{} or its properties changed", sent.id);
        assert_eq!(letter.history, history(2));
        assert_eq!((letter.reason(), letter.since()), ("rate_limited", history(2).attempts[1].at));
        assert_eq!(letter.correlation_id(), Some("corr-1"), "the latest there is");
    }
    queue.close().await;
    other.close().await;
}

pub(crate) async fn a_dead_letter_that_is_left_alone_stays<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    bury(&queue, ["a", "b", "c"].map(|id| message(id, b"{}"))).await;
    for closed in [true, false] {
        let mut walk = queue.dead_letters().await.unwrap();
        assert_eq!(walk.next().await.unwrap().unwrap().message.id, "a");
        assert_eq!(walk.next().await.unwrap().unwrap().message.id, "b");
        if closed {
            walk.close().await;
        } else {
            drop(walk);
        }
        assert_dead(&queue, 3).await;
        assert_empty(&queue).await;
    }
    assert_eq!(ids(&dead_letters(&*queue).await), ["a", "b", "c"]);
    queue.close().await;
}

pub(crate) async fn a_replay_is_a_move_and_begins_the_ladder_anew<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    bury(&queue, ["a", "b", "c"].map(|id| message(id, b"{\"n\":1}"))).await;
    let before = Clock::System.now();
    let mut walk = queue.dead_letters().await.unwrap();
    while let Some(letter) = walk.next().await.unwrap() {
        if letter.message.id == "b" {
            walk.replay(letter).await.expect("replayed");
        }
    }
    walk.close().await;
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 1), (QueueKind::Retry, 0), (QueueKind::Dead, 2), (QueueKind::Unrouted, 0)],
    )
    .await;
    let job = take(&queue).await;
    assert_eq!(job.message, message("b", b"{\"n\":1}"));
    let History { failures, waits, attempts, failures_before_replay, replays } = &job.history;
    assert_eq!((*failures, *waits, *failures_before_replay), (0, 0, 2), "the ladder begins anew");
    assert_eq!(*attempts, history(2).attempts, "the story goes on");
    assert!(replays.len() == 1 && replays[0] >= before, "{replays:?}");
    assert_empty(&queue).await;

    // Dead again, it is a letter again, with all of it, and can be replayed again.
    let mut again = job.history.clone();
    again.push(history(1).attempts.remove(0));
    settle(&queue, job.lease, JobOutcome::Dead { history: again.clone() }).await;
    assert_dead(&queue, 3).await;
    let found = dead_letters(&*queue).await;
    let letter = found.iter().find(|letter| letter.message.id == "b").unwrap();
    assert_eq!((&letter.history, letter.history.attempt_count()), (&again, 3));
    let mut walk = queue.dead_letters().await.unwrap();
    while let Some(letter) = walk.next().await.unwrap() {
        walk.replay(letter).await.expect("replayed");
    }
    walk.close().await;
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 3), (QueueKind::Retry, 0), (QueueKind::Dead, 0), (QueueKind::Unrouted, 0)],
    )
    .await;
    let jobs = [take(&queue).await, take(&queue).await, take(&queue).await];
    let job = jobs.iter().find(|job| job.message.id == "b").unwrap();
    assert_eq!((job.history.failures_before_replay, job.history.replays.len()), (3, 2));
    queue.close().await;
}

pub(crate) async fn a_dropped_dead_letter_is_gone<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    bury(&queue, ["a", "b", "c"].map(|id| message(id, b"{}"))).await;
    let mut walk = queue.dead_letters().await.unwrap();
    while let Some(letter) = walk.next().await.unwrap() {
        if letter.message.id != "b" {
            walk.discard(letter).await.expect("dropped");
        }
    }
    walk.close().await;
    assert_dead(&queue, 1).await;
    assert_eq!(ids(&dead_letters(&*queue).await), ["b"]);
    // A late retry of PolyAI's does not bring it back.
    assert_eq!(publish(&queue, message("a", b"{}")).await, Published::Duplicate);
    assert_empty(&queue).await;
    queue.close().await;
}

pub(crate) async fn a_walk_ends_although_what_it_replays_dies_again<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    bury(&queue, (0..20).map(|n| message(&format!("evt_{n}"), b"{}"))).await;
    let mut walk = queue.dead_letters().await.unwrap();
    let mut met = 0;
    while let Some(letter) = walk.next().await.unwrap() {
        met += 1;
        assert!(met <= 20, "met again");
        walk.replay(letter).await.expect("replayed");
        let job = take(&queue).await;
        settle(&queue, job.lease, JobOutcome::Dead { history: job.history }).await;
        bury(&queue, [message(&format!("new_{met}"), b"{}")]).await;
    }
    walk.close().await;
    assert_eq!(met, 20);
    assert_dead(&queue, 40).await;
    queue.close().await;
}

pub(crate) async fn a_lease_ends_once<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let outcomes = [
        JobOutcome::Done,
        JobOutcome::Release,
        JobOutcome::Retry { after: B::LONG_WAIT, history: history(1) },
        JobOutcome::Dead { history: history(1) },
    ];
    for (number, outcome) in outcomes.into_iter().enumerate() {
        // Something new each time, or what was released is found again.
        publish(&queue, message(&format!("evt_{number}"), b"{}")).await;
        let job = take(&queue).await;
        settle(&queue, job.lease, outcome.clone()).await;
        for second in [outcome.clone(), JobOutcome::Done, JobOutcome::Release] {
            let error = queue.settle(job.lease, second).await.expect_err("settled twice");
            assert!(matches!(error, QueueError::LeaseLost), "{outcome:?}: {error}");
        }
        if matches!(outcome, JobOutcome::Release) {
            let again = take(&queue).await;
            assert_ne!(again.lease, job.lease, "a lease is named once");
            let error = queue.settle(job.lease, JobOutcome::Done).await.expect_err("somebody else's job");
            assert!(matches!(error, QueueError::LeaseLost), "{error}");
            settle(&queue, again.lease, JobOutcome::Done).await;
        }
    }
    let error = queue.settle(LeaseId(u64::MAX), JobOutcome::Done).await.expect_err("nobody's lease");
    assert!(matches!(error, QueueError::LeaseLost), "{error}");
    queue.close().await;
}

pub(crate) async fn an_abandoned_wait_loses_nothing<B: QueueUnderTest>() {
    const JOBS: usize = 300;
    let backend = B::start().await;
    let queue = backend.open().await;
    let publisher = {
        let queue = Arc::clone(&queue);
        async move {
            for n in 0..JOBS {
                publish(&queue, message(&format!("evt_{n}"), b"{}")).await;
            }
        }
    };
    let consumer = {
        let queue = Arc::clone(&queue);
        async move {
            let deadline = Instant::now() + SOON;
            let mut seen = HashSet::new();
            let mut rounds = 0u64;
            while seen.len() < JOBS {
                assert!(Instant::now() < deadline, "only {} of {JOBS} came out", seen.len());
                rounds += 1;
                // Between not even polled twice and just about answered.
                let patience = Duration::from_micros(rounds * 37 % 1500);
                if let Ok(job) = timeout(patience, queue.next()).await {
                    let job = job.expect("an open queue");
                    assert!(seen.insert(job.message.id), "handed out twice");
                    settle(&queue, job.lease, JobOutcome::Done).await;
                }
            }
        }
    };
    tokio::join!(publisher, consumer);
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 0), (QueueKind::Retry, 0), (QueueKind::Dead, 0), (QueueKind::Unrouted, 0)],
    )
    .await;
    queue.close().await;
}

pub(crate) async fn a_waiting_consumer_is_woken<B: QueueUnderTest>() {
    let backend = B::start().await;
    let (near, far) = (backend.open().await, backend.open().await);
    for (n, publisher) in [&near, &far].into_iter().enumerate() {
        let job = async {
            let job = take(&near).await;
            settle(&near, job.lease, JobOutcome::Done).await;
            Instant::now()
        };
        let sent = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            publish(publisher, message(&format!("evt_{n}"), b"{}")).await;
            Instant::now()
        };
        let (came, sent) = tokio::join!(job, sent);
        let waited = came.saturating_duration_since(sent);
        assert!(waited < Duration::from_secs(2), "woken after {waited:?}");
    }
    near.close().await;
    far.close().await;
}

pub(crate) async fn closing_hands_everything_back<B: QueueUnderTest>() {
    let backend = B::start().await;
    let (first, second) = (backend.open().await, backend.open().await);
    for n in 0..5 {
        publish(&first, message(&format!("evt_{n}"), b"{}")).await;
    }
    let held = [take(&first).await, take(&first).await, take(&first).await];
    first.close().await;
    assert!(matches!(first.next().await, Err(QueueError::Closed)));
    assert!(first.settle(held[0].lease, JobOutcome::Done).await.is_err(), "it is somebody else's now");
    let mut seen = HashSet::new();
    for _ in 0..5 {
        let job = take(&second).await;
        assert_eq!(job.history, History::default(), "a shutdown is no failure");
        assert!(seen.insert(job.message.id));
        settle(&second, job.lease, JobOutcome::Done).await;
    }
    // Once more does no harm.
    first.close().await;
    second.close().await;
}

pub(crate) async fn closing_wakes_those_who_wait<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let queue = Arc::clone(&queue);
        waiting.spawn(async move { queue.next().await });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    timeout(SOON, queue.close()).await.expect("closed in time");
    for ended in timeout(SOON, waiting.join_all()).await.expect("woken in time") {
        assert!(matches!(ended, Err(QueueError::Closed)), "{ended:?}");
    }
}

pub(crate) async fn what_is_about_a_conversation_is_erased<B: QueueUnderTest>() {
    const ID: &str = "CA0123456789";
    let backend = B::start().await;
    let queue = backend.open().await;
    let named = |id: &str| format!(r#"{{"data":{{"conversation_id":"{id}","from":"+441234"}}}}"#);
    let about = |event: &str, id: &str| message(event, named(id).as_bytes());
    for id in [ID, "CA01234567890", "CA-another"] {
        publish(&queue, about(&format!("dead-{id}"), id)).await;
        let job = take(&queue).await;
        settle(&queue, job.lease, JobOutcome::Dead { history: history(1) }).await;
        let kept = Message { kind: "handoff.created".to_owned(), ..about(&format!("event-{id}"), id) };
        publish(&queue, kept).await;
    }
    for (event, outcome) in [
        ("done", JobOutcome::Done),
        ("dead", JobOutcome::Dead { history: history(2) }),
        ("retry", JobOutcome::Retry { after: B::LONG_WAIT, history: history(1) }),
    ] {
        publish(&queue, about(event, ID)).await;
        let job = take(&queue).await;
        settle(&queue, job.lease, outcome).await;
    }
    publish(&queue, about("leased", ID)).await;
    let leased = take(&queue).await;
    publish(&queue, about("waiting", ID)).await;
    queue.announce(announcement("ready-1")).await.unwrap();
    let ours = Announcement { subject: ID.to_owned(), ..announcement("ready-2") };
    queue.announce(ours.clone()).await.unwrap();
    let erased = Announcement { kind: "conversation.erased".to_owned(), id: "gone".to_owned(), ..ours };
    queue.announce(erased).await.unwrap();

    let found = queue.erase(ID, true).await.expect("looked through");
    let searched = |count| if B::SEARCHES_JOBS { count } else { 0 };
    assert_eq!((found.dead_letters, found.events), (2, 1), "{found:?}");
    assert_eq!((found.jobs, found.announcements), (searched(3), searched(1)), "{found:?}");
    assert_eq!(dead_letters(&*queue).await.len(), 4, "a look removes nothing");
    let removed = queue.erase(ID, false).await.expect("erased");
    assert_eq!((removed.total(), removed.dead_letters), (found.total(), 2), "{removed:?}");
    let left = dead_letters(&*queue).await;
    let left: Vec<_> = left.iter().map(|letter| letter.message.id.as_str()).collect();
    assert_eq!(left, ["dead-CA01234567890", "dead-CA-another"]);
    let jobs = 2 - searched(2);
    let retry = 1 - searched(1);
    assert_depths(
        &queue,
        [(QueueKind::Fetch, jobs), (QueueKind::Retry, retry), (QueueKind::Dead, 2), (QueueKind::Unrouted, 2)],
    )
    .await;
    assert_eq!(queue.erase(ID, false).await.unwrap().total(), 0, "there is no more");
    if B::SEARCHES_JOBS {
        assert!(matches!(queue.settle(leased.lease, JobOutcome::Done).await, Err(QueueError::LeaseLost)));
        assert_empty(&queue).await;
    }
    if B::RECOGNISES_DUPLICATES {
        for late in ["done", "dead", "waiting", "leased"] {
            let late = queue.publish(about(late, ID)).await.unwrap();
            assert_eq!(late, Published::Duplicate, "PolyAI's retries bring nothing back");
        }
    }
    queue.close().await;
}

pub(crate) async fn announcements_are_taken_again_and_again<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    for _ in 0..2 {
        let announced = queue.announce(announcement("ready-1")).await.expect("announced");
        assert_eq!(announced, B::UNASKED_ANNOUNCEMENT);
    }
    assert_empty(&queue).await;
    queue.close().await;
}

pub(crate) async fn ready_says_so<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    for _ in 0..3 {
        queue.ready().await.expect("ready");
    }
    queue.close().await;
    assert!(queue.ready().await.is_err(), "a closed queue is ready for nothing");
    assert!(queue.publish(message("evt_1", b"{}")).await.is_err(), "a closed queue keeps nothing");
}

pub(crate) async fn depths_count<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    assert_depths(&queue, QueueKind::ALL.map(|lane| (lane, 0))).await;
    for n in 0..5 {
        publish(&queue, message(&format!("evt_{n}"), b"{}")).await;
    }
    publish(&queue, event("evt_event")).await;
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 5), (QueueKind::Retry, 0), (QueueKind::Dead, 0), (QueueKind::Unrouted, 1)],
    )
    .await;
    for outcome in [
        JobOutcome::Done,
        JobOutcome::Retry { after: B::LONG_WAIT, history: history(1) },
        JobOutcome::Dead { history: history(1) },
    ] {
        let job = take(&queue).await;
        settle(&queue, job.lease, outcome).await;
    }
    let _leased = take(&queue).await;
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 2), (QueueKind::Retry, 1), (QueueKind::Dead, 1), (QueueKind::Unrouted, 1)],
    )
    .await;
    queue.close().await;
}
