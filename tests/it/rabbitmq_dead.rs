//! Dead letters on RabbitMQ that polyhook did not make, and what a walk through them means for others.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicNackOptions, BasicPublishOptions},
};
use polyhook::queue::{JobOutcome, Queue, QueueError, QueueKind};
use tokio::time::sleep;

use crate::{
    queue_contract::{dead_letters, history},
    rabbitmq::{Bench, message},
    support::rabbit::SHARED_NODE,
};

/// A plain client.
async fn stranger() -> (Connection, Channel) {
    let connection = Connection::connect(&SHARED_NODE.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

async fn bury(bench: &Bench, ids: &[&str]) {
    for id in ids {
        bench.queue.publish(message(id, "{}")).await.unwrap();
        let job = bench.take().await;
        bench.queue.settle(job.lease, JobOutcome::Dead { history: history(1) }).await.unwrap();
    }
    bench.assert_depths(depths(0, ids.len() as u64)).await;
}

fn depths(fetch: u64, dead: u64) -> [(QueueKind, u64); 4] {
    [(QueueKind::Fetch, fetch), (QueueKind::Retry, 0), (QueueKind::Dead, dead), (QueueKind::Unrouted, 0)]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_workers_lost_too_often_says_so() {
    let bench = Bench::on(&SHARED_NODE).await;
    let (_connection, channel) = stranger().await;
    let sent = message("evt_1", "{}");
    bench.queue.publish(sent.clone()).await.unwrap();
    let fetch = format!("{}.fetch", bench.prefix);
    // The broker counts how often it comes back, and has its limit.
    for _ in 0..=100 {
        let got = channel.basic_get(fetch.as_str().into(), BasicGetOptions::default()).await.unwrap();
        let nack = BasicNackOptions { requeue: true, multiple: false };
        got.expect("not dead yet").delivery.acker.nack(nack).await.unwrap();
    }
    bench.assert_depths(depths(0, 1)).await;
    let letter = dead_letters(&*bench.queue).await.remove(0);
    assert_eq!((letter.reason(), &letter.message), ("delivery_limit", &sent));
    assert!(letter.since() > sent.received_at && letter.history.attempts[0].detail.contains("workers"));
    // Its replay is a message like any other, with all its lives.
    let mut walk = bench.queue.dead_letters().await.unwrap();
    let letter = walk.next().await.unwrap().unwrap();
    walk.replay(letter).await.unwrap();
    walk.close().await;
    for _ in 0..3 {
        let job = bench.take().await;
        assert_eq!((&job.message, job.history.failures_before_replay), (&sent, 1));
        bench.queue.settle(job.lease, JobOutcome::Release).await.unwrap();
    }
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_s_letter_is_read_and_replayed() {
    let bench = Bench::on(&SHARED_NODE).await;
    let (_connection, channel) = stranger().await;
    let body = br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}"#;
    let dead = format!("{}.dead", bench.prefix);
    let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    channel.basic_publish("".into(), dead.as_str().into(), options, body, properties).await.unwrap();
    bench.assert_depths(depths(0, 1)).await;
    let mut walk = bench.queue.dead_letters().await.unwrap();
    let letter = walk.next().await.unwrap().unwrap();
    assert_eq!(
        (letter.reason(), letter.history.attempt_count(), letter.correlation_id()),
        ("unknown", 0, None)
    );
    walk.replay(letter).await.unwrap();
    walk.close().await;
    let job = bench.take().await;
    assert_eq!(
        (job.message.routing_key().as_str(), job.message.body),
        ("conversation.completed.live", Bytes::from_static(body))
    );
    bench.assert_depths(depths(1, 0)).await;
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_walks_share_the_letters_and_double_none() {
    let bench = Bench::on(&SHARED_NODE).await;
    let ids: Vec<_> = (0..200).map(|n| format!("evt_{n}")).collect();
    bury(&bench, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut one = bench.queue.dead_letters().await.unwrap();
    let mut two = bench.queue.dead_letters().await.unwrap();
    let mut met = [BTreeSet::new(), BTreeSet::new()];
    loop {
        // One replays what it meets, the other only looks.
        let letters = (one.next().await.unwrap(), two.next().await.unwrap());
        for (letter, met) in [&letters.0, &letters.1].into_iter().zip(&mut met) {
            met.extend(letter.as_ref().map(|letter| letter.message.id.clone()));
        }
        match letters {
            (None, None) => break,
            (Some(letter), _) => one.replay(letter).await.unwrap(),
            _ => {}
        }
    }
    let [replayed, seen] = &met;
    assert!(replayed.is_disjoint(seen) && !seen.is_empty(), "one letter was given to both");
    assert_eq!(replayed | seen, ids.into_iter().collect());
    // A third sees nothing while the second holds them.
    assert_eq!(dead_letters(&*bench.queue).await, []);
    one.close().await;
    two.close().await;
    bench.assert_depths(depths(replayed.len() as u64, seen.len() as u64)).await;
    assert_eq!(dead_letters(&*bench.queue).await.len(), seen.len());
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_the_fetch_queue_refuses_stays_dead() {
    let bench = Bench::on(&SHARED_NODE).await;
    bury(&bench, &["a", "b"]).await;
    let (policy, pattern) = (format!("full-{}", bench.prefix), format!("^{}.fetch$", bench.prefix));
    let set = ["set_policy", "--apply-to", "queues", &policy, &pattern, r#"{"max-length":1}"#];
    tokio::task::block_in_place(|| SHARED_NODE.ctl(&set));
    // The broker begins to refuse a little after it is full.
    let (_connection, channel) = stranger().await;
    let fetch = format!("{}.fetch", bench.prefix);
    for _ in 0..10 {
        let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
        channel.basic_publish("".into(), fetch.as_str().into(), options, b"{}", properties).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    let mut walk = bench.queue.dead_letters().await.unwrap();
    for _ in 0..2 {
        let letter = walk.next().await.unwrap().unwrap();
        let error = walk.replay(letter).await.expect_err("the queue is full");
        assert!(matches!(error, QueueError::Refused(_)), "{error:?}");
    }
    walk.close().await;
    bench
        .eventually("back", async || match dead_letters(&*bench.queue).await.len() {
            2 => Ok(()),
            other => Err(other.to_string()),
        })
        .await;
    tokio::task::block_in_place(|| SHARED_NODE.ctl(&["clear_policy", &policy]));
    bench.queue.close().await;
}
