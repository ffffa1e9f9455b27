//! The exchanges and queues on the broker, and their repair.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use lapin::{
    options::{ExchangeDeleteOptions, QueueDeleteOptions, QueuePurgeOptions},
    types::FieldTable,
};
use polyhook::queue::{JobOutcome, Published, Queue, QueueError};
use serde_json::Value;
use tokio::time::timeout;

use super::harness::{PlainClient, TestQueue, config, history, message, try_open};
use crate::support::rabbit::{SHARED_NODE, unique_prefix};

/// Lists the exchanges or queues of one test by their names without the prefix.
fn list_objects(what: &str, columns: &[&str], prefix: &str) -> HashMap<String, Value> {
    let rows = SHARED_NODE.ctl(&[&[what, "--formatter", "json", "name"], columns].concat());
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    rows.into_iter()
        .filter_map(|row| {
            let name = row["name"].as_str()?.strip_prefix(prefix)?.strip_prefix('.')?.to_owned();
            Some((name, row))
        })
        .collect()
}

/// Returns an argument of a declared object. `rabbitmqctl` prints arguments as `[name, type, value]`.
fn argument(row: &Value, name: &str) -> Value {
    let arguments = row["arguments"].as_array().unwrap();
    arguments.iter().find(|argument| argument[0] == name).map_or(Value::Null, |argument| argument[2].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn declares_the_documented_topology() {
    let test = TestQueue::new().await;
    let queues = list_objects("list_queues", &["type", "durable", "arguments"], &test.prefix);
    let mut names: Vec<_> = queues.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["dead", "fetch", "fetch.retry.10m", "fetch.retry.1s", "fetch.retry.refresh10m", "unrouted"]
    );
    for (name, row) in &queues {
        assert_eq!((row["type"].as_str(), row["durable"].as_bool()), (Some("quorum"), Some(true)), "{name}");
        assert!(
            argument(row, "x-delivery-limit").as_i64().unwrap() >= 100,
            "{name}: RabbitMQ 4 drops messages after 20 deliveries by default"
        );
    }
    for (name, target) in [
        ("fetch", "dead"),
        ("fetch.retry.1s", "fetch"),
        ("fetch.retry.10m", "fetch"),
        ("fetch.retry.refresh10m", "fetch"),
    ] {
        let row = &queues[name];
        assert_eq!(argument(row, "x-dead-letter-exchange"), "", "{name}");
        assert_eq!(argument(row, "x-dead-letter-routing-key"), test.object_name(target), "{name}");
        assert_eq!(argument(row, "x-dead-letter-strategy"), "at-least-once", "{name}");
        assert_eq!(argument(row, "x-overflow"), "reject-publish", "{name}");
    }
    assert_eq!(argument(&queues["fetch.retry.1s"], "x-message-ttl"), 1000);
    assert_eq!(argument(&queues["fetch.retry.10m"], "x-message-ttl"), 600_000);

    let exchanges = list_objects("list_exchanges", &["type", "durable", "arguments"], &test.prefix);
    for (name, kind) in [("events", "topic"), ("conversations", "topic"), ("unrouted", "headers")] {
        let row = &exchanges[name];
        assert_eq!((row["type"].as_str(), row["durable"].as_bool()), (Some(kind), Some(true)), "{name}");
    }
    assert_eq!(argument(&exchanges["events"], "alternate-exchange"), test.object_name("unrouted"));
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn declares_deleted_queues_and_exchanges_again() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let delete = QueueDeleteOptions::default();
    test.queue.publish(message("evt_1", "{}")).await.unwrap();
    let job = test.next_job().await;

    // If a delay queue is missing, the job keeps its lease, and settling it again works.
    client.channel.queue_delete(test.object_name("fetch.retry.1s").as_str().into(), delete).await.unwrap();
    let retry = JobOutcome::Retry { after: Duration::from_millis(500), history: history(1) };
    let error = test.queue.settle(job.lease, retry.clone()).await.unwrap_err();
    assert!(error.to_string().contains("fetch.retry.1s"), "{error}");
    test.eventually("settled", async || {
        test.queue.settle(job.lease, retry.clone()).await.map_err(|error| error.to_string())
    })
    .await;
    let job = test.next_job().await;
    assert_eq!(job.history, history(1));
    test.queue.settle(job.lease, JobOutcome::Done).await.unwrap();

    // The exchange for events, and the fetch queue.
    let exchange = test.object_name("events");
    client.channel.exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    client.channel.queue_delete(test.object_name("fetch").as_str().into(), delete).await.unwrap();
    test.eventually("published", async || {
        test.queue.publish(message("evt_2", "{}")).await.map(drop).map_err(|error| error.to_string())
    })
    .await;
    test.eventually("delivered", async || {
        let n = fastrand::u64(..);
        test.queue.publish(message(&format!("evt_{n}"), "{}")).await.map_err(|error| error.to_string())?;
        let job = timeout(Duration::from_secs(1), test.queue.next()).await.map_err(|_| "no job yet")?;
        drop(job);
        Ok(())
    })
    .await;
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restores_a_missing_fetch_queue_or_binding_although_other_queues_take_the_events() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let (mine, fetch, events) =
        (test.object_name("mine"), test.object_name("fetch"), test.object_name("events"));
    client.declare_queue(&mine, FieldTable::default()).await;
    client.bind(&mine, &events, "conversation.#").await;
    let kept = async || {
        test.queue.publish(message(&format!("evt_{}", fastrand::u64(..)), "{}")).await.ok();
        match test.queue.depths().await {
            Ok(depths) if depths[0].1 > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    client.channel.queue_delete(fetch.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    test.eventually("declared again", kept).await;
    client.channel.queue_purge(fetch.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    let key = "conversation.completed.#";
    let (queue, exchange) = (fetch.as_str().into(), events.as_str().into());
    client.channel.queue_unbind(queue, exchange, key.into(), FieldTable::default()).await.unwrap();
    test.eventually("bound again", kept).await;
    test.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_an_existing_queue_that_has_other_properties() {
    let (client, prefix) = (PlainClient::new().await, unique_prefix());
    let fetch = format!("{prefix}.fetch");
    client.declare_queue(&fetch, FieldTable::default()).await;
    let test = try_open(&config(&SHARED_NODE.url(), &prefix)).unwrap();
    test.wait_until_unready(&format!("the queue `{fetch}` exists with other properties")).await;
    let error = test.queue.publish(message("evt_1", "{}")).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    client.channel.queue_delete(fetch.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    test.wait_until_ready().await;
    assert_eq!(test.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    test.queue.close().await;
}

/// The broker has nothing of the jobs that a process holds when their queue is deleted. Another process may declare the queue first.
#[tokio::test(flavor = "multi_thread")]
async fn held_jobs_of_a_deleted_queue_are_published_again() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let other = TestQueue::with(&config(&SHARED_NODE.url(), &test.prefix)).await;
    for round in 0..2 {
        let ids: BTreeSet<_> = (0..4).map(|n| format!("evt_{round}_{n}")).collect();
        for id in &ids {
            test.queue.publish(message(id, "{}")).await.unwrap();
        }
        let mut not_held = ids.clone();
        while !not_held.is_empty() {
            let job = test.next_job().await;
            if !not_held.remove(&job.message.id) {
                test.queue.settle(job.lease, JobOutcome::Done).await.ok();
            }
        }
        let delete = client
            .channel
            .queue_delete(test.object_name("fetch").as_str().into(), QueueDeleteOptions::default());
        delete.await.unwrap();
        let declared = test.eventually("declared by another process", async || {
            let published = other.queue.publish(message(&format!("evt_other_{round}"), "{}")).await;
            published.map(drop).map_err(|error| error.to_string())
        });
        declared.await;
        let mut missing = ids.clone();
        while !missing.is_empty() {
            let job = test.next_job().await;
            missing.remove(&job.message.id);
            test.queue.settle(job.lease, JobOutcome::Done).await.ok();
        }
    }
    test.queue.close().await;
    other.queue.close().await;
}
