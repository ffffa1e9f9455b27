//! Leased jobs: retries, dead letters, jobs of other publishers, and drains.

use std::time::Duration;

use lapin::{
    BasicProperties,
    options::QueueDeleteOptions,
    types::{AMQPValue, FieldTable},
};
use polyhook::{
    clock::Clock,
    queue::{History, JobOutcome, Message, Queue, QueueError},
};
use tokio::time::{Instant, timeout};

use super::harness::{Depths, EMPTY, PlainClient, TestQueue, config, headers, history, message};
use crate::support::rabbit::SHARED_NODE;

#[tokio::test(flavor = "multi_thread")]
async fn redelivers_a_retry_after_its_delay_with_its_history() {
    let test = TestQueue::new().await;
    let sent = message("evt_1", r#"{"data":{}}"#);
    test.queue.publish(sent.clone()).await.unwrap();
    let mut job = test.next_job().await;
    for (failures, after) in [(1, 1000), (2, 400), (3, 1500)].map(|(n, ms)| (n, Duration::from_millis(ms))) {
        let start = Instant::now();
        let outcome = JobOutcome::Retry { after, history: history(failures) };
        test.queue.settle(job.lease, outcome).await.unwrap();
        job = test.next_job().await;
        let waited = start.elapsed();
        assert!(waited >= after && waited < after + Duration::from_secs(5), "{after:?}: {waited:?}");
        assert_eq!((&job.message, &job.history), (&sent, &history(failures)));
    }
    test.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    test.wait_for_depths(EMPTY).await;
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_the_reason_of_a_dead_letter_into_headers() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    test.queue.publish(message("evt_1", "{}")).await.unwrap();
    let job = test.next_job().await;
    test.queue.settle(job.lease, JobOutcome::Dead { history: history(3) }).await.unwrap();
    let dead = client.receive(&test.object_name("dead")).await;
    let headers = headers(&dead.properties);
    assert_eq!(headers["polyhook-reason"], "unknown_project");
    assert!(headers["polyhook-detail"].contains("PROJECT-1"));
    assert_eq!(headers["polyhook-failures"], "LongLongInt(3)");
    assert_eq!(headers["polyhook-correlation-id"], "corr-1");
    assert_eq!(serde_json::from_str::<History>(&headers["polyhook-history"]).unwrap(), history(3));
    assert_eq!(
        (&dead.data[..], dead.properties.message_id().as_ref().unwrap().as_str()),
        (&b"{}"[..], "evt_1")
    );
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accepts_jobs_of_other_publishers() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let body = br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}"#;
    let mut odd = FieldTable::default();
    odd.insert("polyhook-history".into(), AMQPValue::LongString("{not json".into()));
    odd.insert("polyhook-received-at".into(), AMQPValue::LongString("\u{0}".into()));
    for (properties, body) in [
        (BasicProperties::default(), &body[..]),
        (BasicProperties::default().with_headers(odd).with_timestamp(u64::MAX), b"\xff no json"),
        (BasicProperties::default().with_type("".into()).with_message_id("a b".into()), b""),
    ] {
        client.publish("", &test.object_name("fetch"), body, properties).await;
        let job = test.next_job().await;
        assert_eq!(job.message.body, body);
        assert!(job.message.id.starts_with("sha256:"));
        assert_eq!(job.history, History::default());
        let retry = JobOutcome::Retry { after: Duration::from_millis(100), history: history(1) };
        test.queue.settle(job.lease, retry).await.unwrap();
        let again = test.next_job().await;
        assert_eq!(
            (again.message.body, again.message.id, again.history),
            (job.message.body, job.message.id, history(1))
        );
        test.queue.settle(again.lease, JobOutcome::Dead { history: history(2) }).await.unwrap();
    }
    test.wait_for_depths(Depths { dead: 3, ..EMPTY }).await;
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn takes_no_jobs_before_the_first_request() {
    let idle = TestQueue::new().await;
    let busy = TestQueue::with(&config(&SHARED_NODE.url(), &idle.prefix)).await;
    for n in 0..10 {
        idle.queue.publish(message(&format!("evt_{n}"), "{}")).await.unwrap();
    }
    for _ in 0..10 {
        let job = busy.next_job().await;
        busy.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    idle.queue.close().await;
    busy.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn returns_waiting_jobs_at_once_when_it_drains() {
    let draining = TestQueue::new().await;
    for n in 0..4 {
        draining.queue.publish(message(&format!("evt_{n}"), "{}")).await.unwrap();
    }
    let running = draining.next_job().await;
    // This process has prefetched all four, so no other process gets one.
    draining.wait_for_depths(Depths { fetch: 4, ..EMPTY }).await;
    let other = TestQueue::with(&config(&SHARED_NODE.url(), &draining.prefix)).await;
    assert!(timeout(Duration::from_millis(300), other.queue.next()).await.is_err());
    draining.lifecycle.drain();
    for _ in 0..3 {
        let job = other.next_job().await;
        assert_ne!(job.message.id, running.message.id);
        other.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    // The running job may still be settled.
    draining.queue.settle(running.lease, JobOutcome::Done).await.unwrap();
    other.wait_for_depths(EMPTY).await;
    draining.queue.close().await;
    other.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivers_a_job_whose_outcome_cannot_be_stored() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    test.queue.publish(message("evt_1", "{}")).await.unwrap();
    let job = test.next_job().await;
    client
        .channel
        .queue_delete(test.object_name("dead").as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    test.queue.settle(job.lease, JobOutcome::Dead { history: history(1) }).await.unwrap_err();
    let again = test.next_job().await;
    assert_eq!(again.message, job.message);
    assert!(matches!(test.queue.settle(job.lease, JobOutcome::Done).await, Err(QueueError::LeaseLost)));
    test.queue.settle(again.lease, JobOutcome::Dead { history: history(1) }).await.unwrap();
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_job_is_at_most_as_old_as_the_one_that_was_delivered_last() {
    let test = TestQueue::new().await;
    let now = Clock::System.now();
    // The broker would deliver a job that waits to a worker that has room for it.
    assert_eq!(test.queue.oldest_age().await.unwrap(), Some(Duration::ZERO));
    for age in [600, 500, 400, 300, 200, 100] {
        let received_at = now - Duration::from_secs(age);
        test.queue.publish(Message { received_at, ..message(&format!("evt_{age}"), "{}") }).await.unwrap();
    }
    let mut jobs = vec![test.next_job().await];
    let expect_age = async |seconds: u64| {
        let expected = seconds..seconds + 90;
        test.eventually("the age", async || match test.queue.oldest_age().await {
            Ok(Some(age)) if expected.contains(&age.as_secs()) => Ok(()),
            other => Err(format!("{other:?} is not about {seconds} s")),
        })
        .await;
    };
    // The worker holds three more jobs that it has not begun.
    expect_age(500).await;
    while jobs.len() < 4 {
        jobs.push(test.next_job().await);
    }
    // Two jobs wait in the broker, which tells their number a few seconds later, and not their age.
    expect_age(300).await;
    for job in jobs {
        test.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    for _ in 0..2 {
        let job = test.next_job().await;
        test.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    assert_eq!(test.queue.oldest_age().await.unwrap(), Some(Duration::ZERO));
    test.queue.close().await;
}
