//! Following a queue: everything is told, once, and nothing becomes of it but that.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use polyhook::{
    lifecycle::Lifecycle,
    queue::{
        JobOutcome, Message, Queue, QueueError, TailEvent, TailEventKind, TailMessage,
        rabbitmq::Follower as BrokerFollower,
        sqlite::{Follower as FileFollower, SqliteOptions, SqliteQueue},
    },
};
use tokio::{
    task::{JoinSet, block_in_place},
    time::{sleep, timeout},
};

use crate::{
    queue_contract::{announcement, event, history, message, take},
    rabbitmq::{Depths, EMPTY, TEST_TIMEOUT, TestQueue, config, join_all_tasks},
    support::rabbit::{SHARED_NODE, exclusive_node, unique_prefix},
};

const BODY: &[u8] = br#"{"data":{"conversation_id":"CA1","project_id":"P1","transcript":"private"}}"#;
/// How long nobody is told anything after a note came back.
const QUIET: Duration = Duration::from_millis(1200);

/// Does one of each; after each step `seen` gets its turn.
async fn act(queue: &Arc<dyn Queue>, mut seen: impl AsyncFnMut()) {
    let job = async |id: &str| {
        queue.publish(message(id, BODY)).await.unwrap();
    };
    job("evt_done").await;
    seen().await;
    queue.settle(take(queue).await.lease, JobOutcome::Done).await.unwrap();
    seen().await;
    job("evt_retry").await;
    let retry = JobOutcome::Retry { after: Duration::from_mins(10), history: history(1) };
    queue.settle(take(queue).await.lease, retry).await.unwrap();
    seen().await;
    job("evt_dead").await;
    queue.settle(take(queue).await.lease, JobOutcome::Dead { history: history(2) }).await.unwrap();
    seen().await;
    queue.publish(event("evt_event")).await.unwrap();
    queue.announce(announcement("ready-1")).await.unwrap();
    seen().await;
}

/// What [`act`] is to be told as.
#[track_caller]
fn assert_told(notes: &[TailEvent]) {
    let told: Vec<_> = notes.iter().map(|note| (note.what.label(), note.id.as_str())).collect();
    let expected = BTreeSet::from([
        ("delivery", "evt_done"),
        ("done", "evt_done"),
        ("delivery", "evt_retry"),
        ("retry", "evt_retry"),
        ("delivery", "evt_dead"),
        ("dead", "evt_dead"),
        ("delivery", "evt_event"),
        ("ready", "ready-1"),
    ]);
    assert_eq!((told.iter().copied().collect::<BTreeSet<_>>(), told.len()), (expected, 8), "{told:?}");
    for note in notes {
        let about = note.conversation_id.as_deref();
        assert_eq!(about, (note.id != "evt_event").then_some("CA1"), "{note:?}");
        assert_eq!(note.environment, "live");
        assert!(!serde_json::to_string(note).unwrap().contains("private"), "{note:?}");
        if note.id.starts_with("evt_") && note.id != "evt_event" {
            assert_eq!(note.project_id.as_deref(), Some("P1"), "{note:?}");
        }
    }
    let one = |what| notes.iter().find(|note| note.what == what).unwrap();
    let (done, retry, dead) = (one(TailEventKind::Done), one(TailEventKind::Retry), one(TailEventKind::Dead));
    assert_eq!((done.attempt, retry.attempt, dead.attempt), (Some(1), Some(1), Some(2)));
    assert_eq!((retry.reason.as_deref(), retry.status), (Some("rate_limited"), Some(429)));
    assert_eq!((dead.reason.as_deref(), dead.status, dead.retry_at), (Some("rate_limited"), None, None));
    assert!(retry.retry_at.is_some() && done.after_ms.is_some());
    assert_eq!(one(TailEventKind::Ready).kind, "conversation.ready");
}

fn open(path: &std::path::Path) -> Arc<SqliteQueue> {
    let options = SqliteOptions { publish_timeout: Duration::from_secs(10), ..SqliteOptions::default() };
    SqliteQueue::open(path, options, &Lifecycle::new()).unwrap()
}

fn ids(notes: &[TailEvent]) -> Vec<&str> {
    notes.iter().map(|note| note.id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_tells_everything_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let queue: Arc<dyn Queue> = open(&path);
    let mut follower = FileFollower::open(&path, Timestamp::UNIX_EPOCH).unwrap();
    let mut notes = Vec::new();
    act(&queue, async || notes.extend(follower.poll().unwrap())).await;
    assert_told(&notes);
    queue.ready().await.unwrap();
    assert_eq!(follower.poll().unwrap(), [], "nothing has happened since");

    // Who comes later is told where things stand, from a time on, and what happens then.
    let mut later = FileFollower::open(&path, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(later.poll().unwrap().len(), 8);
    let mut now = FileFollower::open(&path, polyhook::clock::Clock::System.now()).unwrap();
    assert_eq!(now.poll().unwrap(), []);
    let job = Message { received_at: polyhook::clock::Clock::System.now(), ..message("evt_new", BODY) };
    queue.publish(job).await.unwrap();
    for follower in [&mut later, &mut now] {
        assert_eq!(ids(&follower.poll().unwrap()), ["evt_new"]);
    }
    queue.settle(take(&queue).await.lease, JobOutcome::Release).await.unwrap();
    assert_eq!(now.poll().unwrap(), [], "nothing has ended");

    // A dead letter that is dropped is not done by anybody.
    let mut letters = queue.dead_letters().await.unwrap();
    let letter = letters.next().await.unwrap().unwrap();
    letters.discard(letter).await.unwrap();
    letters.close().await;
    assert_eq!(now.poll().unwrap(), []);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_is_followed_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let queue: Arc<dyn Queue> = open(&path);
    let mut follower = FileFollower::open(&path, Timestamp::UNIX_EPOCH).unwrap();
    for id in ["evt_1", "evt_2"] {
        queue.publish(message(id, BODY)).await.unwrap();
    }
    assert_eq!(ids(&follower.poll().unwrap()), ["evt_1", "evt_2"]);
    queue.close().await;
    for file in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(follower.poll().is_err(), "it is gone");
    let queue: Arc<dyn Queue> = open(&path);
    queue.publish(message("evt_3", BODY)).await.unwrap();
    assert_eq!(ids(&follower.poll().unwrap()), ["evt_3"]);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_jobs_are_told_once_each() {
    const JOBS: usize = 3000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let queue: Arc<dyn Queue> = open(&path);
    let mut follower = FileFollower::open(&path, Timestamp::UNIX_EPOCH).unwrap();
    let working = {
        let queue = Arc::clone(&queue);
        async move {
            let publish = (0..JOBS).map(|n| {
                let queue = Arc::clone(&queue);
                async move { queue.publish(message(&format!("evt_{n}"), BODY)).await.unwrap() }
            });
            join_all_tasks(publish).await;
            for _ in 0..JOBS {
                queue.settle(take(&queue).await.lease, JobOutcome::Done).await.unwrap();
            }
        }
    };
    let mut working = JoinSet::from_iter([working]);
    let (mut delivered, mut done) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_mins(1);
    while done.len() < JOBS {
        assert!(Instant::now() < deadline, "{} delivered, {} done", delivered.len(), done.len());
        for note in block_in_place(|| follower.poll()).unwrap() {
            if note.what == TailEventKind::Done { &mut done } else { &mut delivered }.push(note.id);
        }
        sleep(Duration::from_millis(5)).await;
    }
    working.join_next().await.unwrap().unwrap();
    assert_eq!(follower.poll().unwrap(), []);
    for ids in [delivered, done] {
        assert_eq!((ids.iter().collect::<BTreeSet<_>>().len(), ids.len()), (JOBS, JOBS));
    }
    queue.close().await;
}

async fn follow(url: &str, prefix: &str) -> BrokerFollower {
    let mut follower = BrokerFollower::open(&config(url, prefix), &Lifecycle::new()).unwrap();
    timeout(TEST_TIMEOUT, follower.wait_until_ready()).await.expect("ready in time");
    sleep(QUIET).await;
    follower
}

async fn next(follower: &mut BrokerFollower) -> TailMessage {
    timeout(TEST_TIMEOUT, follower.next()).await.expect("told in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_broker_tells_everything_once() {
    let bench = TestQueue::on(&SHARED_NODE).await;
    let queue: Arc<dyn Queue> = Arc::clone(&bench.queue) as _;
    // Nobody listens yet.
    queue.publish(event("evt_before")).await.unwrap();
    let mut one = follow(&SHARED_NODE.url(), &bench.prefix).await;
    let mut other = follow(&SHARED_NODE.url(), &bench.prefix).await;
    act(&queue, async || ()).await;
    for follower in [&mut one, &mut other] {
        let mut notes = Vec::new();
        while notes.len() < 8 {
            match next(follower).await {
                TailMessage::Event(note) => notes.push(*note),
                told => panic!("{told:?}"),
            }
        }
        assert_told(&notes);
    }
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_takes_nothing_and_hides_nothing() {
    let bench = TestQueue::on(&SHARED_NODE).await;
    let mut follower = follow(&SHARED_NODE.url(), &bench.prefix).await;
    let queue = &bench.queue;
    // What nobody has bound is kept all the same.
    queue.publish(event("evt_event")).await.unwrap();
    assert!(matches!(next(&mut follower).await, TailMessage::Event(note) if note.id == "evt_event"));
    bench.assert_depths(Depths { unrouted: 1, ..EMPTY }).await;
    // A job whose queue is missing comes back to its publisher.
    let fetch = format!("{}.fetch", bench.prefix);
    block_in_place(|| SHARED_NODE.ctl(&["delete_queue", &fetch]));
    let error = queue.publish(message("evt_job", BODY)).await.unwrap_err();
    assert!(matches!(error, QueueError::Refused(_) | QueueError::Unavailable(_)), "{error:?}");
    bench
        .eventually("declared again", async || {
            let published = queue.publish(message("evt_job", BODY)).await;
            published.map(drop).map_err(|error| error.to_string())
        })
        .await;
    // An announcement that nobody wants is known as one.
    let announced = queue.announce(announcement("ready-1")).await.unwrap();
    assert_eq!(announced, polyhook::queue::Announced::Unrouted);
    queue.close().await;
}

/// Publishes as fast as it goes; how many a second.
async fn rate(bench: &Arc<TestQueue>, name: &str, count: usize) -> f64 {
    let begun = Instant::now();
    let tasks = (0..64).map(|task| {
        let (bench, name) = (Arc::clone(bench), name.to_owned());
        async move {
            for n in 0..count / 64 {
                bench.queue.publish(event(&format!("{name}_{task}_{n}"))).await.unwrap();
            }
        }
    });
    join_all_tasks(tasks).await;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    rate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_that_takes_nothing_holds_up_nobody_and_knows_what_it_missed() {
    const EVENTS: usize = 64 * 400;
    let bench = Arc::new(TestQueue::on(&SHARED_NODE).await);
    let alone = rate(&bench, "alone", EVENTS).await;
    let mut follower = follow(&SHARED_NODE.url(), &bench.prefix).await;
    let watched = rate(&bench, "watched", EVENTS).await;
    eprintln!("{alone:.0}/s alone, {watched:.0}/s with a follower that takes nothing");
    assert!(watched > alone / 3.0, "{alone:.0}/s alone, {watched:.0}/s watched");

    let depth = block_in_place(|| SHARED_NODE.ctl(&["list_queues", "name", "messages", "exclusive"]));
    let waiting: Vec<u64> = depth
        .lines()
        .filter(|line| line.starts_with(&format!("{}.tail.", bench.prefix)))
        .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(waiting.len() == 1 && waiting[0] <= 10_000 + 256, "bounded: {depth}");

    sleep(QUIET).await;
    bench.queue.publish(event("last")).await.unwrap();
    let (mut told, mut missed) = (0, 0);
    loop {
        match next(&mut follower).await {
            TailMessage::Event(note) if note.id == "last" => break,
            TailMessage::Event(_) => told += 1,
            TailMessage::Missed(count) => missed += count,
            TailMessage::Interrupted(reason) => panic!("{reason}"),
        }
    }
    assert_eq!(told + missed, EVENTS as u64, "{told} told, {missed} missed");
    assert!(missed > 0, "so few are no test");
    eprintln!("{told} told, {missed} missed");
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_outlives_the_broker() {
    let broker = exclusive_node().await;
    let (url, prefix) = (broker.url(), unique_prefix());
    let bench = TestQueue::with(&config(&url, &prefix)).await;
    let mut follower = follow(&url, &prefix).await;
    bench.queue.publish(event("evt_1")).await.unwrap();
    assert!(matches!(next(&mut follower).await, TailMessage::Event(note) if note.id == "evt_1"));
    block_in_place(|| broker.kill());
    assert!(matches!(next(&mut follower).await, TailMessage::Interrupted(_)));
    block_in_place(|| broker.restart());
    bench.wait_until_ready().await;
    let mut number = 1;
    let told = loop {
        number += 1;
        // Until both have connected again.
        let _ = bench.queue.publish(event(&format!("evt_{number}"))).await;
        if let Ok(told) = timeout(Duration::from_millis(500), follower.next()).await {
            break told;
        }
        assert!(number < 60, "it does not come back");
    };
    assert!(matches!(told, TailMessage::Event(_) | TailMessage::Missed(_)), "{told:?}");
    bench.queue.close().await;
}
