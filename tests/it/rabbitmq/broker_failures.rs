//! A broker that is killed, frozen, short of memory or not started yet.
//!
//! These tests use the exclusive node, because they disturb all its clients.

use std::{collections::HashSet, sync::Arc, time::Duration};

use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{JobOutcome, Published, Queue, QueueConfig, QueueError, QueueKind, rabbitmq::RabbitMqOptions},
};
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::harness::{Depths, EMPTY, TestQueue, config, history, join_all_tasks, message, open, try_open};
use crate::support::{
    rabbit::{Node, exclusive_node, unique_prefix},
    timing::assert_faster_than,
};

/// Publishing fails without waiting for a timeout.
async fn assert_fails_fast(test: &TestQueue) {
    assert_faster_than(Duration::from_millis(500), async || {
        for n in 0..20 {
            let error = test.queue.publish(message(&format!("evt_fast{n}"), "{}")).await.unwrap_err();
            assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn loses_no_confirmed_message_when_the_broker_is_killed() {
    let node = exclusive_node().await;
    let test = Arc::new(TestQueue::on(&node).await);
    test.queue.publish(message("evt_held", "{}")).await.unwrap();
    let held = test.next_job().await;

    // The broker is killed under load. Every confirmed message must be there afterwards.
    let load = (0..16).map(|task| {
        let test = Arc::clone(&test);
        async move {
            let (mut stored, mut failed) = (Vec::new(), 0);
            for n in 0..400 {
                let id = format!("evt_{task}_{n}");
                if test.queue.publish(message(&id, "{}")).await.is_ok() {
                    stored.push(id);
                } else {
                    failed += 1;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            (stored, failed)
        }
    });
    let killing = async {
        sleep(Duration::from_millis(400)).await;
        block_in_place(|| node.kill());
    };
    let (results, ()) = tokio::join!(join_all_tasks(load), killing);
    let (mut stored, mut failed) = (Vec::new(), 0);
    for (some, more) in results {
        stored.extend(some);
        failed += more;
    }
    assert!(failed > 0, "the broker was killed after the load, so the test shows nothing");
    test.wait_until_unready("127.0.0.1").await;
    assert_fails_fast(&test).await;
    assert!(matches!(test.queue.settle(held.lease, JobOutcome::Done).await, Err(QueueError::LeaseLost)));

    block_in_place(|| node.restart());
    test.wait_until_ready().await;
    // A message that failed is not remembered as a duplicate.
    assert_eq!(test.queue.publish(message("evt_fast0", "{}")).await.unwrap(), Published::New);
    stored.extend(["evt_held".to_owned(), "evt_fast0".to_owned()]);
    let mut missing: HashSet<_> = stored.into_iter().collect();
    while !missing.is_empty() {
        let job = test.next_job().await;
        missing.remove(&job.message.id);
        test.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn notices_a_frozen_broker_and_its_return() {
    let node = exclusive_node().await;
    let slow =
        QueueConfig { publish_timeout: Duration::from_secs(1), ..config(&node.url(), &unique_prefix()) };
    let test = TestQueue::with(&slow).await;
    node.pause();
    let start = Instant::now();
    let error = test.queue.publish(message("evt_1", "{}")).await.unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error:?}");
    // The publish timeout, and a tolerance for a busy machine.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    test.wait_until_unready("").await;
    assert!(start.elapsed() < Duration::from_secs(25), "noticed after {:?}", start.elapsed());
    assert_fails_fast(&test).await;
    // Attempts to connect to the frozen broker time out and leave no thread behind.
    sleep(Duration::from_secs(12)).await;
    // Other tests have threads, too, but not for long.
    test.eventually("without a thread for each attempt", async || match io_threads() {
        ..=6 => Ok(()),
        more => Err(format!("lapin has {more} threads")),
    })
    .await;
    node.resume();
    test.wait_until_ready().await;
    assert_eq!(test.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    test.queue.close().await;
}

/// Returns the number of lapin's I/O threads in this process.
fn io_threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("lapin-io-loop"))
        .count()
}

/// RabbitMQ writes the queue that was declared last to disk up to a second later. If it is killed before, that queue comes
/// back empty and without a leader, although messages were confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_the_messages_of_a_new_queue_when_the_broker_is_killed() {
    let node = exclusive_node().await;
    let prefix = unique_prefix();
    let kill_and_restart = async |test: &TestQueue| {
        block_in_place(|| node.kill());
        block_in_place(|| node.restart());
        test.wait_until_ready().await;
    };

    // The queue of the longest delay is declared last.
    let test = TestQueue::with(&config(&node.url(), &prefix)).await;
    test.queue.publish(message("evt_first", "{}")).await.unwrap();
    let job = test.next_job().await;
    let retry = JobOutcome::Retry { after: Duration::from_mins(10), history: history(1) };
    test.queue.settle(job.lease, retry).await.unwrap();
    let later = message("evt_later", "{}");
    assert_eq!(test.queue.publish_delayed(later, Duration::from_mins(10)).await.unwrap(), Published::New);
    kill_and_restart(&test).await;
    test.eventually("delayed", async || {
        let depths = test.queue.depths().await.map_err(|error| error.to_string())?;
        // The job's acknowledgement may be lost with the broker: then the job is in two queues.
        let kept = [QueueKind::Retry, QueueKind::Refresh].map(|kind| depths.contains(&(kind, 1)));
        if kept == [true, true] { Ok(()) } else { Err(format!("{depths:?}")) }
    })
    .await;

    // A queue that was deleted is declared alone.
    let fetch = format!("{prefix}.fetch");
    block_in_place(|| node.ctl(&["delete_queue", &fetch]));
    test.eventually("published", async || {
        let published = test.queue.publish(message("evt_second", "{}")).await;
        published.map(drop).map_err(|error| error.to_string())
    })
    .await;
    kill_and_restart(&test).await;
    while test.next_job().await.message.id != "evt_second" {}
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fails_at_once_while_the_broker_is_short_of_memory() {
    let node = exclusive_node().await;
    let test = TestQueue::on(&node).await;
    test.queue.publish(message("evt_held", "{}")).await.unwrap();
    let held = test.next_job().await;
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.0001"]));
    // The broker blocks a connection when it publishes next. That message fails as soon as the connection is blocked.
    let start = Instant::now();
    while test.queue.publish(message(&format!("evt_{}", fastrand::u64(..)), "{}")).await.is_ok() {
        assert!(start.elapsed() < Duration::from_secs(10), "the broker raises no memory alarm");
        sleep(Duration::from_millis(50)).await;
    }
    test.wait_until_unready("takes no messages").await;
    assert_fails_fast(&test).await;
    // Acknowledgements still work: they have a connection of their own.
    test.queue.settle(held.lease, JobOutcome::Done).await.unwrap();
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.6"]));
    test.wait_until_ready().await;
    assert_eq!(test.queue.publish(message("evt_after", "{}")).await.unwrap(), Published::New);

    // A blocked queue can be closed.
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.0001"]));
    while test.queue.publish(message(&format!("evt_{}", fastrand::u64(..)), "{}")).await.is_ok() {
        sleep(Duration::from_millis(50)).await;
    }
    let start = Instant::now();
    test.queue.close().await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.6"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connects_to_a_broker_that_starts_later() {
    let node = exclusive_node().await;
    block_in_place(|| node.stop());
    let start = Instant::now();
    let test = try_open(&config(&node.url(), &unique_prefix())).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    test.wait_until_unready("cannot be reached").await;
    assert_fails_fast(&test).await;
    block_in_place(|| node.restart());
    test.wait_until_ready().await;
    assert_eq!(test.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    test.next_job().await;
    test.queue.close().await;
}

/// Sets the time after which the broker takes back a job, for new connections. Makes it check often.
fn set_consumer_timeout(node: &Node, timeout_ms: u32) {
    let set = format!(
        "application:set_env(rabbit, channel_tick_interval, 200), application:set_env(rabbit, consumer_timeout, {timeout_ms})."
    );
    block_in_place(|| node.ctl(&["eval", &set]));
}

/// RabbitMQ 4.3 cancels the consumer of a job that it takes back, as it does when a queue is deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_that_outlasts_the_consumer_timeout_is_not_duplicated() {
    let node = exclusive_node().await;
    set_consumer_timeout(&node, 3000);
    let options = RabbitMqOptions {
        config: &config(&node.url(), &unique_prefix()),
        delays: vec![Duration::from_secs(1)],
        refresh_delays: vec![Duration::from_mins(1)],
        consume: Some(4),
        consumer_timeout: Duration::from_secs(3),
        only_publishes: false,
        clock: Clock::System,
    };
    let test = open(options, Lifecycle::new()).unwrap();
    test.wait_until_ready().await;
    test.queue.publish(message("evt_1", "{}")).await.unwrap();
    let job = test.next_job().await;
    set_consumer_timeout(&node, 1_800_000);

    let mut again = test.next_job().await;
    assert_eq!(again.message, job.message);
    let result = test.queue.settle(job.lease, JobOutcome::Done).await;
    assert!(matches!(result, Err(QueueError::LeaseLost)), "{result:?}");
    test.wait_for_depths(Depths { fetch: 1, ..EMPTY }).await;
    while test.queue.settle(again.lease, JobOutcome::Done).await.is_err() {
        // The timeout was still short when this process connected again.
        again = test.next_job().await;
    }
    test.wait_for_depths(EMPTY).await;
    test.queue.close().await;
}
