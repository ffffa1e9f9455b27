//! Guarantees about leases and outcomes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polyhook::event::CONVERSATION_DISCOVERED;
use polyhook::queue::{History, JobOutcome, LeaseId, Message, Published, Queue, QueueError};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{
    QUIET_PERIOD, QueueUnderTest, STEP_TIMEOUT, assert_depths, assert_empty, depths, history, message,
    publish, settle, take, with_delayed,
};

pub(crate) async fn leases_each_job_to_one_consumer<B: QueueUnderTest>() {
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
        let (holder, job) = timeout(STEP_TIMEOUT, jobs.recv()).await.expect("a job in time").unwrap();
        assert!(held.insert(job.message.id, (holder, job.lease)).is_none(), "a job has two holders");
    }
    assert!(timeout(QUIET_PERIOD, jobs.recv()).await.is_err(), "a job has two holders");
    for (holder, lease) in held.into_values() {
        settle(&queues[holder], lease, JobOutcome::Done).await;
    }
    for queue in queues {
        queue.close().await;
    }
    consumers.join_all().await;
}

pub(crate) async fn removes_a_finished_job<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    publish(&queue, message("evt_1", b"{}")).await;
    let job = take(&queue).await;
    settle(&queue, job.lease, JobOutcome::Done).await;
    assert_empty(&queue).await;
    queue.close().await;
    let queue = backend.open().await;
    assert_empty(&queue).await;
    assert_depths(&queue, depths(0, 0, 0, 0)).await;
    queue.close().await;
}

pub(crate) async fn delivers_a_released_job_again_at_once<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let sent = message("evt_1", b"{}");
    publish(&queue, sent.clone()).await;
    for _ in 0..5 {
        let job = take(&queue).await;
        assert_eq!(job.message, sent);
        assert_eq!(job.history, History::default(), "a release does not count as a failure");
        settle(&queue, job.lease, JobOutcome::Release).await;
    }
    queue.close().await;
}

pub(crate) async fn delays_a_retry_and_keeps_its_history<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let sent = Message { traceparent: Some("00-1-2-01".to_owned()), ..message("evt_1", b"\0{}\xff") };
    publish(&queue, sent.clone()).await;
    let mut job = take(&queue).await;
    for failures in 1..=3 {
        let started = Instant::now();
        settle(&queue, job.lease, JobOutcome::Retry { after: B::SHORT_DELAY, history: history(failures) })
            .await;
        job = take(&queue).await;
        let waited = started.elapsed();
        assert!(waited >= B::SHORT_DELAY.mul_f64(0.9), "came back after {waited:?}");
        assert!(waited <= B::SHORT_DELAY + Duration::from_secs(5), "came back after {waited:?}");
        assert_eq!(job.message, sent);
        assert_eq!(job.history, history(failures));
    }
    // The history survives a release and the end of a queue.
    settle(&queue, job.lease, JobOutcome::Release).await;
    assert_eq!(take(&queue).await.history, history(3));
    queue.close().await;
    let queue = backend.open().await;
    assert_eq!(take(&queue).await.history, history(3));
    queue.close().await;
}

pub(crate) async fn delivers_a_delayed_job_at_its_time<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let discovered = |id: &str| Message { kind: CONVERSATION_DISCOVERED.to_owned(), ..message(id, b"{}") };
    // One that waits for longer does not hold up another one.
    delay(&queue, discovered("late"), B::LONG_DELAY).await;
    let started = Instant::now();
    let sent = discovered("soon");
    assert_eq!(delay(&queue, sent.clone(), B::SHORT_DELAY).await, Published::New);
    if B::RECOGNISES_DUPLICATES {
        assert_eq!(delay(&queue, sent.clone(), B::SHORT_DELAY).await, Published::Duplicate);
        assert_eq!(publish(&queue, sent.clone()).await, Published::Duplicate);
    }
    let job = take(&queue).await;
    assert!(started.elapsed() >= B::SHORT_DELAY.mul_f64(0.9), "came after {:?}", started.elapsed());
    assert_eq!((job.message, job.history), (sent, History::default()));
    // It is a job like others.
    let retry = JobOutcome::Retry { after: B::LONG_DELAY, history: history(1) };
    settle(&queue, job.lease, retry).await;
    assert_depths(&queue, with_delayed(depths(0, 1, 0, 0), 1)).await;
    queue.close().await;
}

pub(crate) async fn keeps_a_delayed_job_across_a_restart<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    delay(&queue, message("late", b"{}"), B::LONG_DELAY).await;
    delay(&queue, message("soon", b"{}"), B::SHORT_DELAY * 2).await;
    assert_depths(&queue, with_delayed(depths(0, 0, 0, 0), 2)).await;
    queue.close().await;
    let queue = backend.open().await;
    let job = take(&queue).await;
    assert_eq!(job.message.id, "soon");
    settle(&queue, job.lease, JobOutcome::Done).await;
    assert_depths(&queue, with_delayed(depths(0, 0, 0, 0), 1)).await;
    queue.close().await;
}

async fn delay(queue: &Arc<dyn Queue>, message: Message, delay: Duration) -> Published {
    let published = queue.publish_delayed(message, delay);
    timeout(STEP_TIMEOUT, published).await.expect("an answer in time").expect("published")
}

pub(crate) async fn keeps_a_long_history<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    publish(&queue, message("evt_1", b"{}")).await;
    let mut long = history(40);
    for attempt in &mut long.attempts {
        attempt.detail = "long ".repeat(200);
    }
    let job = take(&queue).await;
    settle(&queue, job.lease, JobOutcome::Retry { after: B::SHORT_DELAY, history: long.clone() }).await;
    assert_eq!(take(&queue).await.history, long);
    queue.close().await;
}

pub(crate) async fn settles_a_lease_once<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let outcomes = [
        JobOutcome::Done,
        JobOutcome::Release,
        JobOutcome::Retry { after: B::LONG_DELAY, history: history(1) },
        JobOutcome::Dead { history: history(1) },
    ];
    for (number, outcome) in outcomes.into_iter().enumerate() {
        // A new message each time; otherwise the released job would be delivered.
        publish(&queue, message(&format!("evt_{number}"), b"{}")).await;
        let job = take(&queue).await;
        settle(&queue, job.lease, outcome.clone()).await;
        for second in [outcome.clone(), JobOutcome::Done, JobOutcome::Release] {
            let error = queue.settle(job.lease, second).await.expect_err("settled twice");
            assert!(matches!(error, QueueError::LeaseLost), "{outcome:?}: {error}");
        }
        if matches!(outcome, JobOutcome::Release) {
            let again = take(&queue).await;
            assert_ne!(again.lease, job.lease, "a lease id is never used twice");
            let error = queue.settle(job.lease, JobOutcome::Done).await.expect_err("another lease's job");
            assert!(matches!(error, QueueError::LeaseLost), "{error}");
            settle(&queue, again.lease, JobOutcome::Done).await;
        }
    }
    let error = queue.settle(LeaseId(u64::MAX), JobOutcome::Done).await.expect_err("an unknown lease");
    assert!(matches!(error, QueueError::LeaseLost), "{error}");
    queue.close().await;
}
