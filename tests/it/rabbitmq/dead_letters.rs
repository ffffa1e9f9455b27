//! Dead letters that another program or the broker made, and cursors that share a queue.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use lapin::{BasicProperties, options::BasicNackOptions};
use polyhook::queue::{JobOutcome, Queue, QueueError};
use tokio::{task::block_in_place, time::sleep};

use super::harness::{Depths, EMPTY, PlainClient, TestQueue, message, take};
use crate::{
    queue_contract::{dead_letters, history},
    support::rabbit::SHARED_NODE,
};

async fn make_dead_letters(test: &TestQueue, ids: &[&str]) {
    for id in ids {
        test.queue.publish(message(id, "{}")).await.unwrap();
        let job = test.next_job().await;
        test.queue.settle(job.lease, JobOutcome::Dead { history: history(1) }).await.unwrap();
    }
    test.wait_for_depths(Depths { dead: ids.len() as u64, ..EMPTY }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_the_delivery_limit_as_the_reason() {
    let test = TestQueue::on(&SHARED_NODE).await;
    let client = PlainClient::new().await;
    let sent = message("evt_1", r#"{"environment":"live"}"#);
    test.queue.publish(sent.clone()).await.unwrap();
    let fetch = test.object_name("fetch");
    // The broker counts how often a channel ends that has the message, up to a limit.
    for _ in 0..=100 {
        let channel = client.connection.create_channel().await.unwrap();
        take(&channel, &fetch).await;
        channel.close(200, "OK".into()).await.unwrap();
    }
    test.wait_for_depths(Depths { dead: 1, ..EMPTY }).await;
    let letter = dead_letters(&*test.queue).await.remove(0);
    assert_eq!((letter.reason(), &letter.message), ("delivery_limit", &sent));
    assert!(letter.since() > sent.received_at && letter.history.attempts[0].detail.contains("workers"));
    // A replayed message starts with a delivery count of zero.
    let mut cursor = test.queue.dead_letters().await.unwrap();
    let letter = cursor.next().await.unwrap().unwrap();
    cursor.replay(letter).await.unwrap();
    cursor.close().await;
    for _ in 0..3 {
        let job = test.next_job().await;
        assert_eq!((&job.message, job.history.failures_before_replay), (&sent, 1));
        test.queue.settle(job.lease, JobOutcome::Release).await.unwrap();
    }
    test.queue.close().await;
}

/// Since RabbitMQ 4.3, a message that a consumer returns, or holds for too long, may be delivered for ever.
#[tokio::test(flavor = "multi_thread")]
async fn makes_a_dead_letter_of_a_job_that_was_returned_too_often() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let sent = message("evt_1", r#"{"environment":"live"}"#);
    test.queue.publish(sent.clone()).await.unwrap();
    let fetch = test.object_name("fetch");
    for _ in 0..=100 {
        let nack = BasicNackOptions { requeue: true, multiple: false };
        take(&client.channel, &fetch).await.nack(nack).await.unwrap();
    }
    tokio::select! {
        job = test.queue.next() => panic!("it is a job again: {job:?}"),
        () = test.wait_for_depths(Depths { dead: 1, ..EMPTY }) => {}
    }
    let letter = dead_letters(&*test.queue).await.remove(0);
    assert_eq!((letter.reason(), &letter.message), ("delivery_limit", &sent));
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_a_dead_letter_of_another_publisher() {
    let test = TestQueue::on(&SHARED_NODE).await;
    let client = PlainClient::new().await;
    let body = br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}"#;
    let dead = test.object_name("dead");
    client.publish("", &dead, body, BasicProperties::default()).await;
    test.wait_for_depths(Depths { dead: 1, ..EMPTY }).await;
    let mut cursor = test.queue.dead_letters().await.unwrap();
    let letter = cursor.next().await.unwrap().unwrap();
    assert_eq!(
        (letter.reason(), letter.history.attempt_count(), letter.correlation_id()),
        ("unknown", 0, None)
    );
    cursor.replay(letter).await.unwrap();
    cursor.close().await;
    let job = test.next_job().await;
    assert_eq!(
        (job.message.routing_key().as_str(), job.message.body),
        ("conversation.completed.live", Bytes::from_static(body))
    );
    test.wait_for_depths(Depths { fetch: 1, ..EMPTY }).await;
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_the_dead_letters_between_two_cursors() {
    let test = TestQueue::on(&SHARED_NODE).await;
    let ids: Vec<_> = (0..200).map(|n| format!("evt_{n}")).collect();
    make_dead_letters(&test, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut replaying = test.queue.dead_letters().await.unwrap();
    let mut reading = test.queue.dead_letters().await.unwrap();
    let mut read = [BTreeSet::new(), BTreeSet::new()];
    loop {
        // The first cursor replays its letters, the second only reads them.
        let letters = (replaying.next().await.unwrap(), reading.next().await.unwrap());
        for (letter, read) in [&letters.0, &letters.1].into_iter().zip(&mut read) {
            read.extend(letter.as_ref().map(|letter| letter.message.id.clone()));
        }
        match letters {
            (None, None) => break,
            (Some(letter), _) => replaying.replay(letter).await.unwrap(),
            _ => {}
        }
    }
    let [replayed, seen] = &read;
    assert!(replayed.is_disjoint(seen) && !seen.is_empty(), "both cursors got the same letter");
    assert_eq!(replayed | seen, ids.into_iter().collect());
    // A third cursor sees nothing while the second holds the letters.
    assert_eq!(dead_letters(&*test.queue).await, []);
    replaying.close().await;
    reading.close().await;
    test.wait_for_depths(Depths { fetch: replayed.len() as u64, dead: seen.len() as u64, ..EMPTY }).await;
    assert_eq!(dead_letters(&*test.queue).await.len(), seen.len());
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_a_dead_letter_that_the_fetch_queue_rejects() {
    let test = TestQueue::on(&SHARED_NODE).await;
    make_dead_letters(&test, &["a", "b"]).await;
    let (policy, pattern) = (format!("full-{}", test.prefix), format!("^{}.fetch$", test.prefix));
    let set = ["set_policy", "--apply-to", "queues", &policy, &pattern, r#"{"max-length":1}"#];
    block_in_place(|| SHARED_NODE.ctl(&set));
    // The broker begins to reject messages a little after the queue is full.
    let client = PlainClient::new().await;
    let fetch = test.object_name("fetch");
    for _ in 0..10 {
        client.publish("", &fetch, b"{}", BasicProperties::default()).await;
        sleep(Duration::from_millis(20)).await;
    }
    let mut cursor = test.queue.dead_letters().await.unwrap();
    for _ in 0..2 {
        let letter = cursor.next().await.unwrap().unwrap();
        let error = cursor.replay(letter).await.expect_err("the queue is full");
        assert!(matches!(error, QueueError::Refused(_)), "{error:?}");
    }
    cursor.close().await;
    test.eventually("returned", async || match dead_letters(&*test.queue).await.len() {
        2 => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    block_in_place(|| SHARED_NODE.ctl(&["clear_policy", &policy]));
    test.queue.close().await;
}
