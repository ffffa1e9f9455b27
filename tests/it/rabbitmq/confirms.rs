//! Each caller gets the broker's answer to its own message.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use lapin::{
    options::ExchangeDeleteOptions,
    types::{AMQPValue, FieldTable},
};
use polyhook::queue::{Message, Published, Queue, QueueError};
use tokio::{
    task::{JoinSet, block_in_place},
    time::{sleep, timeout},
};

use super::harness::{Depths, EMPTY, PlainClient, TestQueue, event, join_all_tasks, message};
use crate::support::rabbit::SHARED_NODE;

/// RabbitMQ confirms the messages of a channel in order. A customer's queue for other events that confirms nothing, such as
/// one that lost its majority, must not keep calls from being durable.
#[tokio::test(flavor = "multi_thread")]
async fn publishes_calls_while_a_queue_for_other_events_confirms_nothing() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let customer_queue = test.object_name("customer");
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    client.declare_queue(&customer_queue, quorum).await;
    client.bind(&customer_queue, &test.object_name("events"), "handoff.#").await;
    let call_queue_process = |what: &str| {
        block_in_place(|| SHARED_NODE.ctl(&["eval", &format!("sys:{what}('%2F_{customer_queue}').")]))
    };
    call_queue_process("suspend");

    let mut unconfirmed = JoinSet::new();
    for n in 0..4 {
        let (queue, handoff) = (Arc::clone(&test.queue), event("handoff.created", &format!("evt_held_{n}")));
        unconfirmed.spawn(async move { queue.publish(handoff).await });
    }
    sleep(Duration::from_millis(100)).await;
    for n in 0..20 {
        let published = test.queue.publish(message(&format!("evt_{n}"), "{}")).await;
        assert_eq!(published.unwrap(), Published::New);
    }
    // They would also have ended if the others had waited for their publish timeout.
    assert!(
        unconfirmed.try_join_next().is_none(),
        "the other messages waited for the suspended queue, or it confirmed a message"
    );

    call_queue_process("resume");
    // On a busy machine the confirms may come after the publish timeout.
    for ended in unconfirmed.join_all().await {
        assert!(matches!(ended, Ok(Published::New) | Err(QueueError::Timeout(_))), "{ended:?}");
    }
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn matches_each_confirm_to_its_message() {
    const TASKS: usize = 64;
    const EACH: usize = 150;
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let (fine, full) = (test.object_name("fine"), test.object_name("full"));
    client.declare_queue(&fine, FieldTable::default()).await;
    client.bind(&fine, &test.object_name("events"), "fine.#").await;
    let mut narrow = FieldTable::default();
    narrow.insert("x-max-length".into(), 1.into());
    narrow.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    client.declare_queue(&full, narrow).await;
    client.bind(&full, &test.object_name("events"), "full.#").await;
    test.queue.publish(event("full", "fills-the-queue")).await.unwrap();

    let publishers = (0..TASKS).map(|task| {
        let queue = Arc::clone(&test.queue);
        async move {
            let mut stored = Vec::new();
            for n in 0..EACH {
                let kind = if fastrand::bool() { "fine" } else { "full" };
                let id = format!("{kind}-{task}-{n}");
                match queue.publish(event(kind, &id)).await {
                    Ok(published) => {
                        assert_eq!(
                            (published, kind),
                            (Published::New, "fine"),
                            "a nacked message was confirmed"
                        );
                        stored.push(id);
                    }
                    Err(error) => {
                        assert!(matches!(error, QueueError::Refused(_)), "{error}");
                        assert_eq!(kind, "full", "a stored message was refused");
                    }
                }
            }
            stored
        }
    });
    let stored: Vec<_> = join_all_tasks(publishers).await.into_iter().flatten().collect();
    let mut found = HashSet::new();
    for _ in 0..stored.len() {
        found.insert(client.receive(&fine).await.properties.message_id().as_ref().unwrap().to_string());
    }
    assert_eq!(found, stored.into_iter().collect());
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn never_reports_a_returned_message_as_stored() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let options = ExchangeDeleteOptions::default();
    client.channel.exchange_delete(test.object_name("unrouted").as_str().into(), options).await.unwrap();
    let mixed = (0..200).map(|n| {
        let kind = if n % 10 == 0 { "nothing.bound" } else { "conversation.completed" };
        let queue = Arc::clone(&test.queue);
        async move { (n, queue.publish(event(kind, &format!("evt_{n}"))).await) }
    });
    let (mut stored, mut returned) = (0, 0);
    for (n, published) in join_all(mixed).await {
        match published {
            // A stored message may be reported as refused because of another one, never the other way round.
            Ok(_) => {
                assert_ne!(n % 10, 0, "a returned message was confirmed");
                stored += 1;
            }
            Err(QueueError::Refused(reason)) => {
                assert!(reason.contains("alternate exchange"), "{reason}");
                returned += 1;
            }
            // The connection is replaced; the new one declares what is missing.
            Err(error) => assert!(matches!(error, QueueError::Unavailable(_)), "{error}"),
        }
    }
    assert!(stored < 200 && returned > 0, "{stored} stored, {returned} returned");
    // The alternate exchange is declared again, so publishing works again.
    test.eventually("declared again", async || {
        let published = test.queue.publish(event("nothing.bound", "evt_last")).await;
        published.map(drop).map_err(|error| error.to_string())
    })
    .await;
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stores_one_of_many_simultaneous_copies() {
    let test = TestQueue::new().await;
    for round in 0..20 {
        let sent = message(&format!("evt_{round}"), "{}");
        let publishers = (0..32).map(|_| {
            let (queue, sent) = (Arc::clone(&test.queue), sent.clone());
            async move { queue.publish(sent).await.unwrap() }
        });
        let published = join_all_tasks(publishers).await;
        let new = published.iter().filter(|published| **published == Published::New).count();
        assert_eq!(new, 1, "{published:?}");
        assert_eq!(test.queue.publish(sent).await.unwrap(), Published::Duplicate);
    }
    test.wait_for_depths(Depths { fetch: 20, ..EMPTY }).await;
    // A refused message is not remembered as a duplicate.
    let long = Message { kind: "k".repeat(300), ..message("evt_x", "{}") };
    for _ in 0..2 {
        assert!(matches!(test.queue.publish(long.clone()).await, Err(QueueError::Refused(_))));
    }
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_for_other_callers_when_one_stops_waiting() {
    let test = TestQueue::new().await;
    let sent = message("evt_1", "{}");
    for n in 0..200 {
        let hurried =
            timeout(Duration::from_micros(n * 10), test.queue.publish(message(&format!("evt_h{n}"), "{}")));
        let first = timeout(Duration::from_micros(n * 10), test.queue.publish(sent.clone()));
        let second = test.queue.publish(sent.clone());
        let (_, _, second) = tokio::join!(hurried, first, second);
        second.unwrap();
    }
    assert_eq!(test.queue.publish(sent).await.unwrap(), Published::Duplicate);
    test.queue.close().await;
}
