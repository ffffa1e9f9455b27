//! Following a queue on RabbitMQ.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use polyhook::{
    clock::Clock,
    console::{LiveFeed, LiveLine},
    lifecycle::Lifecycle,
    queue::{Announced, Queue, QueueError, TailMessage, rabbitmq::Follower},
};
use tokio::{
    task::block_in_place,
    time::{sleep, timeout},
};

use super::{BODY, assert_every_kind, cause_every_kind};
use crate::{
    queue_contract::{announcement, event, message},
    rabbitmq::{Depths, EMPTY, TEST_TIMEOUT, TestQueue, config, join_all_tasks},
    support::rabbit::{SHARED_NODE, exclusive_node, unique_prefix},
};

/// Longer than the pause of a publisher whose last tail event was returned, because no follower was bound.
const PUBLISHER_PAUSE: Duration = Duration::from_millis(1200);

async fn follow(url: &str, prefix: &str) -> Follower {
    let mut follower = Follower::open(&config(url, prefix), &Lifecycle::new()).unwrap();
    timeout(TEST_TIMEOUT, follower.wait_until_ready()).await.expect("ready in time");
    sleep(PUBLISHER_PAUSE).await;
    follower
}

async fn next(follower: &mut Follower) -> TailMessage {
    timeout(TEST_TIMEOUT, follower.next()).await.expect("a tail message in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reports_every_event_once_to_each_follower() {
    let test = TestQueue::on(&SHARED_NODE).await;
    let queue: Arc<dyn Queue> = Arc::clone(&test.queue) as _;
    // There is no follower yet.
    queue.publish(event("evt_before")).await.unwrap();
    let mut first = follow(&SHARED_NODE.url(), &test.prefix).await;
    let mut second = follow(&SHARED_NODE.url(), &test.prefix).await;
    cause_every_kind(&queue, async || ()).await;
    for follower in [&mut first, &mut second] {
        let mut events = Vec::new();
        while events.len() < 8 {
            match next(follower).await {
                // The publisher may report it only when there is a follower.
                TailMessage::Event(event) if event.id == "evt_before" => {}
                TailMessage::Event(event) => events.push(*event),
                other => panic!("{other:?}"),
            }
        }
        assert_every_kind(&events);
    }
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_changes_neither_queues_nor_results() {
    let test = TestQueue::on(&SHARED_NODE).await;
    let mut follower = follow(&SHARED_NODE.url(), &test.prefix).await;
    let queue = &test.queue;
    // An event that no customer's queue is bound for is kept, although a follower sees it.
    queue.publish(event("evt_event")).await.unwrap();
    assert!(matches!(next(&mut follower).await, TailMessage::Event(event) if event.id == "evt_event"));
    test.wait_for_depths(Depths { unrouted: 1, ..EMPTY }).await;
    // Publishing a job fails if its queue is missing.
    let fetch = test.object_name("fetch");
    block_in_place(|| SHARED_NODE.ctl(&["delete_queue", &fetch]));
    let error = queue.publish(message("evt_job", BODY)).await.unwrap_err();
    assert!(matches!(error, QueueError::Refused(_) | QueueError::Unavailable(_)), "{error:?}");
    test.eventually("declared again", async || {
        let published = queue.publish(message("evt_job", BODY)).await;
        published.map(drop).map_err(|error| error.to_string())
    })
    .await;
    // An announcement without a customer's queue is unrouted.
    let announced = queue.announce(announcement("ready-1")).await.unwrap();
    assert_eq!(announced, Announced::Unrouted);
    queue.close().await;
}

/// Publishes as fast as possible and returns the events per second.
async fn publish_rate(test: &Arc<TestQueue>, name: &str, count: usize) -> f64 {
    let start = Instant::now();
    let tasks = (0..64).map(|task| {
        let (test, name) = (Arc::clone(test), name.to_owned());
        async move {
            for n in 0..count / 64 {
                test.queue.publish(event(&format!("{name}_{task}_{n}"))).await.unwrap();
            }
        }
    });
    join_all_tasks(tasks).await;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = count as f64 / start.elapsed().as_secs_f64();
    rate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_that_reads_nothing_delays_no_publisher_and_counts_missed_events() {
    // Half as many again as the queue of a follower holds.
    const EVENTS: usize = 64 * 250;
    const PARTS: usize = 10;
    let test = Arc::new(TestQueue::on(&SHARED_NODE).await);
    let alone = publish_rate(&test, "alone", EVENTS / 2).await;
    let mut follower = follow(&SHARED_NODE.url(), &test.prefix).await;
    let mut rates = Vec::new();
    for part in 0..PARTS {
        rates.push(publish_rate(&test, &format!("followed_{part}"), EVENTS / PARTS).await);
    }
    // The follower's queue is full during the last parts. Other work on the machine may delay one of them, and a publisher that waits
    // for the follower is slow in all.
    let with_follower = rates[PARTS - 3..].iter().copied().fold(0.0, f64::max);
    eprintln!("{alone:.0}/s without a follower, {rates:.0?}/s with one that reads nothing");
    assert!(with_follower > alone / 3.0, "{alone:.0}/s without a follower, {rates:.0?}/s with one");

    let depths = block_in_place(|| SHARED_NODE.ctl(&["list_queues", "name", "messages", "exclusive"]));
    let waiting: Vec<u64> = depths
        .lines()
        .filter(|line| line.starts_with(&test.object_name("tail.")))
        .map(|line| line.split_whitespace().nth(1).unwrap().parse().unwrap())
        .collect();
    assert!(waiting.len() == 1 && waiting[0] <= 10_000 + 256, "one bounded queue: {depths}");

    sleep(PUBLISHER_PAUSE).await;
    test.queue.publish(event("last")).await.unwrap();
    let (mut received, mut missed) = (0, 0);
    loop {
        match next(&mut follower).await {
            TailMessage::Event(event) if event.id == "last" => break,
            TailMessage::Event(_) => received += 1,
            TailMessage::Missed(count) => missed += count,
            TailMessage::Interrupted(reason) => panic!("{reason}"),
        }
    }
    assert_eq!(received + missed, EVENTS as u64, "{received} received, {missed} missed");
    assert!(missed > 0, "the follower missed nothing, so the test shows nothing");
    eprintln!("{received} received, {missed} missed");
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_follower_continues_after_the_broker_restarts() {
    let node = exclusive_node().await;
    let (url, prefix) = (node.url(), unique_prefix());
    let test = TestQueue::with(&config(&url, &prefix)).await;
    let mut follower = follow(&url, &prefix).await;
    test.queue.publish(event("evt_1")).await.unwrap();
    assert!(matches!(next(&mut follower).await, TailMessage::Event(event) if event.id == "evt_1"));
    block_in_place(|| node.kill());
    assert!(matches!(next(&mut follower).await, TailMessage::Interrupted(_)));
    block_in_place(|| node.restart());
    test.wait_until_ready().await;
    let mut number = 1;
    let received = loop {
        number += 1;
        // Fails until the queue and the follower have connected again.
        let _ = test.queue.publish(event(&format!("evt_{number}"))).await;
        if let Ok(received) = timeout(Duration::from_millis(500), follower.next()).await {
            break received;
        }
        assert!(number < 60, "the follower receives nothing after the restart");
    };
    assert!(matches!(received, TailMessage::Event(_) | TailMessage::Missed(_)), "{received:?}");
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_live_view_shows_the_events_of_other_processes() {
    let test = TestQueue::on(&SHARED_NODE).await;
    let lifecycle = Lifecycle::new();
    let feed =
        LiveFeed::new(&config(&SHARED_NODE.url(), &test.prefix), Clock::System, lifecycle.clone()).unwrap();
    let mut viewer = feed.watch(None).unwrap();
    // The publisher notices a follower within a second.
    let seen = async {
        for number in 1.. {
            test.queue.publish(event(&format!("evt_{number}"))).await.unwrap();
            let Ok((lines, _)) = timeout(PUBLISHER_PAUSE, viewer.next(100)).await else { continue };
            if lines.iter().any(|line| matches!(&**line, LiveLine::Event(_))) {
                return;
            }
        }
    };
    timeout(TEST_TIMEOUT, seen).await.expect("the event in time");
    lifecycle.drain();
    timeout(TEST_TIMEOUT, lifecycle.wait()).await.expect("the follower ends with the drain");
    test.queue.close().await;
}
