//! Guarantees about waiting consumers and closed queues.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use polyhook::queue::{History, JobOutcome, QueueError};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{QueueUnderTest, STEP_TIMEOUT, assert_depths, depths, message, publish, settle, take};

pub(crate) async fn loses_no_job_of_a_cancelled_wait<B: QueueUnderTest>() {
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
            let deadline = Instant::now() + STEP_TIMEOUT;
            let mut seen = HashSet::new();
            let mut rounds = 0u64;
            while seen.len() < JOBS {
                assert!(Instant::now() < deadline, "only {} of {JOBS} came out", seen.len());
                rounds += 1;
                // Between a single poll and almost long enough for a job.
                let patience = Duration::from_micros(rounds * 37 % 1500);
                if let Ok(job) = timeout(patience, queue.next()).await {
                    let job = job.expect("an open queue");
                    assert!(seen.insert(job.message.id), "delivered twice");
                    settle(&queue, job.lease, JobOutcome::Done).await;
                }
            }
        }
    };
    tokio::join!(publisher, consumer);
    assert_depths(&queue, depths(0, 0, 0, 0)).await;
    queue.close().await;
}

pub(crate) async fn wakes_a_waiting_consumer<B: QueueUnderTest>() {
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
        assert!(waited < Duration::from_secs(10), "woken after {waited:?}");
    }
    near.close().await;
    far.close().await;
}

pub(crate) async fn close_hands_back_all_jobs<B: QueueUnderTest>() {
    let backend = B::start().await;
    let (first, second) = (backend.open().await, backend.open().await);
    for n in 0..5 {
        publish(&first, message(&format!("evt_{n}"), b"{}")).await;
    }
    let held = [take(&first).await, take(&first).await, take(&first).await];
    first.close().await;
    assert!(matches!(first.next().await, Err(QueueError::Closed)));
    assert!(first.settle(held[0].lease, JobOutcome::Done).await.is_err(), "the lease is lost");
    let mut seen = HashSet::new();
    for _ in 0..5 {
        let job = take(&second).await;
        assert_eq!(job.history, History::default(), "a shutdown does not count as a failure");
        assert!(seen.insert(job.message.id));
        settle(&second, job.lease, JobOutcome::Done).await;
    }
    // Closing twice does no harm.
    first.close().await;
    second.close().await;
}

pub(crate) async fn close_ends_waiting_consumers<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    let mut waiting = JoinSet::new();
    for _ in 0..4 {
        let queue = Arc::clone(&queue);
        waiting.spawn(async move { queue.next().await });
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    timeout(STEP_TIMEOUT, queue.close()).await.expect("closed in time");
    for ended in timeout(STEP_TIMEOUT, waiting.join_all()).await.expect("woken in time") {
        assert!(matches!(ended, Err(QueueError::Closed)), "{ended:?}");
    }
}

pub(crate) async fn reports_readiness<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    for _ in 0..3 {
        queue.ready().await.expect("ready");
    }
    queue.close().await;
    assert!(queue.ready().await.is_err(), "a closed queue is not ready");
    assert!(queue.publish(message("evt_1", b"{}")).await.is_err(), "a closed queue stores nothing");
}
