//! Following a queue file.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{
        JobOutcome, Message, Queue, TailEvent, TailEventKind,
        sqlite::{Follower, SqliteOptions, SqliteQueue},
    },
};
use tokio::{
    task::{JoinSet, block_in_place},
    time::sleep,
};

use super::{BODY, assert_every_kind, cause_every_kind};
use crate::{
    queue_contract::{message, take},
    rabbitmq::join_all_tasks,
};

fn open(path: &Path) -> Arc<SqliteQueue> {
    let options = SqliteOptions { publish_timeout: Duration::from_secs(10), ..SqliteOptions::default() };
    SqliteQueue::open(path, options, &Lifecycle::new()).unwrap()
}

fn ids(events: &[TailEvent]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_every_event_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let queue: Arc<dyn Queue> = open(&path);
    let mut follower = Follower::open(&path, Timestamp::UNIX_EPOCH).unwrap();
    let mut events = Vec::new();
    cause_every_kind(&queue, async || events.extend(follower.poll().unwrap())).await;
    assert_every_kind(&events);
    queue.ready().await.unwrap();
    assert_eq!(follower.poll().unwrap(), [], "nothing has happened since");
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn begins_at_the_requested_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let queue: Arc<dyn Queue> = open(&path);
    cause_every_kind(&queue, async || ()).await;

    let mut from_the_start = Follower::open(&path, Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!(from_the_start.poll().unwrap().len(), 8);
    let mut from_now = Follower::open(&path, Clock::System.now()).unwrap();
    assert_eq!(from_now.poll().unwrap(), []);
    let job = Message { received_at: Clock::System.now(), ..message("evt_new", BODY) };
    queue.publish(job).await.unwrap();
    for follower in [&mut from_the_start, &mut from_now] {
        assert_eq!(ids(&follower.poll().unwrap()), ["evt_new"]);
    }
    queue.settle(take(&queue).await.lease, JobOutcome::Release).await.unwrap();
    assert_eq!(from_now.poll().unwrap(), [], "a released job has no outcome");

    // Discarding a dead letter is not an outcome of a job.
    let mut letters = queue.dead_letters().await.unwrap();
    let letter = letters.next().await.unwrap().unwrap();
    letters.discard(letter).await.unwrap();
    letters.close().await;
    assert_eq!(from_now.poll().unwrap(), []);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn follows_a_file_that_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let queue: Arc<dyn Queue> = open(&path);
    let mut follower = Follower::open(&path, Timestamp::UNIX_EPOCH).unwrap();
    for id in ["evt_1", "evt_2"] {
        queue.publish(message(id, BODY)).await.unwrap();
    }
    assert_eq!(ids(&follower.poll().unwrap()), ["evt_1", "evt_2"]);
    queue.close().await;
    for file in fs::read_dir(folder.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(follower.poll().is_err(), "the file does not exist");
    let queue: Arc<dyn Queue> = open(&path);
    queue.publish(message("evt_3", BODY)).await.unwrap();
    assert_eq!(ids(&follower.poll().unwrap()), ["evt_3"]);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_each_of_thousands_of_jobs_once() {
    const JOBS: usize = 3000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let queue: Arc<dyn Queue> = open(&path);
    let mut follower = Follower::open(&path, Timestamp::UNIX_EPOCH).unwrap();
    let work = {
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
    let mut work = JoinSet::from_iter([work]);
    let (mut delivered, mut done) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + Duration::from_mins(1);
    while done.len() < JOBS {
        assert!(Instant::now() < deadline, "{} delivered, {} done", delivered.len(), done.len());
        for event in block_in_place(|| follower.poll()).unwrap() {
            if event.what == TailEventKind::Done { &mut done } else { &mut delivered }.push(event.id);
        }
        sleep(Duration::from_millis(5)).await;
    }
    work.join_next().await.unwrap().unwrap();
    assert_eq!(follower.poll().unwrap(), []);
    for ids in [delivered, done] {
        assert_eq!((ids.iter().collect::<BTreeSet<_>>().len(), ids.len()), (JOBS, JOBS));
    }
    queue.close().await;
}
