//! Guarantees about publishing, duplicates and counting.

use std::collections::HashSet;
use std::sync::Arc;

use polyhook::event::DedupKey;
use polyhook::queue::{History, JobOutcome, Message, Published, QueueKind};
use tokio::task::JoinSet;

use super::{
    QueueUnderTest, announcement, assert_depths, assert_empty, depths, event, history, message, publish,
    settle, take,
};

pub(crate) async fn delivers_a_job_unchanged<B: QueueUnderTest>() {
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

pub(crate) async fn keeps_an_event_without_a_job<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    for id in ["evt_a", "evt_b"] {
        assert_eq!(publish(&queue, event(id)).await, Published::New);
    }
    assert_empty(&queue).await;
    assert_depths(&queue, depths(0, 0, 0, 2)).await;
    queue.close().await;
}

pub(crate) async fn makes_one_job_of_duplicates<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    if !B::RECOGNISES_DUPLICATES {
        // Such a backend relies on the idempotent archive.
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

pub(crate) async fn makes_two_jobs_of_one_id_with_two_bodies<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    assert_eq!(publish(&queue, message("evt_1", b"{\"a\":1}")).await, Published::New);
    assert_eq!(publish(&queue, message("evt_1", b"{\"a\":2}")).await, Published::New);
    let bodies: HashSet<_> = [take(&queue).await.message.body, take(&queue).await.message.body].into();
    assert_eq!(bodies.len(), 2);
    queue.close().await;
}

pub(crate) async fn delivers_each_job_of_many_publishers_once<B: QueueUnderTest>() {
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
        assert_eq!(
            job.message.dedup,
            DedupKey::new(&job.message.id, &job.message.body),
            "the body belongs to another message"
        );
        assert!(seen.insert(job.message.id), "delivered twice");
        settle(&queue, job.lease, JobOutcome::Done).await;
    }
    while let Some(publisher) = publishers.join_next().await {
        publisher.unwrap();
    }
    assert_empty(&queue).await;
    queue.close().await;
}

pub(crate) async fn reports_one_of_concurrent_duplicates_as_new<B: QueueUnderTest>() {
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

pub(crate) async fn accepts_an_announcement_repeatedly<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    for _ in 0..2 {
        let announced = queue.announce(announcement("ready-1")).await.expect("announced");
        assert_eq!(announced, B::UNBOUND_ANNOUNCEMENT);
    }
    assert_empty(&queue).await;
    queue.close().await;
}

pub(crate) async fn counts_messages_by_kind<B: QueueUnderTest>() {
    let backend = B::start().await;
    let queue = backend.open().await;
    assert_depths(&queue, QueueKind::ALL.map(|kind| (kind, 0))).await;
    for n in 0..5 {
        publish(&queue, message(&format!("evt_{n}"), b"{}")).await;
    }
    publish(&queue, event("evt_event")).await;
    assert_depths(&queue, depths(5, 0, 0, 1)).await;
    for outcome in [
        JobOutcome::Done,
        JobOutcome::Retry { after: B::LONG_DELAY, history: history(1) },
        JobOutcome::Dead { history: history(1) },
    ] {
        let job = take(&queue).await;
        settle(&queue, job.lease, outcome).await;
    }
    let _leased = take(&queue).await;
    assert_depths(&queue, depths(2, 1, 1, 1)).await;
    queue.close().await;
}
