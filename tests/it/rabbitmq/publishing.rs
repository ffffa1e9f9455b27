//! Published events and announcements as another client of the broker receives them.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use lapin::types::FieldTable;
use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{
        Announced, Announcement, Message, Published, Queue,
        rabbitmq::{CONSUMER_TIMEOUT, RabbitMqOptions},
    },
};

use super::harness::{
    PlainClient, TestQueue, announcement, config, headers, join_all_tasks, message, open, try_open,
};
use crate::support::rabbit::{SHARED_NODE, unique_prefix};

#[tokio::test(flavor = "multi_thread")]
async fn publishes_an_event_with_the_documented_properties() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    let inbox = test.object_name("inbox");
    client.declare_queue(&inbox, FieldTable::default()).await;
    client.bind(&inbox, &test.object_name("events"), "conversation.completed.live").await;
    let body = r#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"},  "spaces":"kept"}"#;
    assert_eq!(test.queue.publish(message("evt_1", body)).await.unwrap(), Published::New);

    let got = client.receive(&inbox).await;
    assert_eq!(got.data, body.as_bytes());
    assert_eq!(got.routing_key.as_str(), "conversation.completed.live");
    let properties = &got.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "evt_1");
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "CA1");
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "conversation.completed");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "polyhook");
    assert_eq!((*properties.delivery_mode(), *properties.timestamp()), (Some(2), Some(1_795_342_830)));
    let wanted = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("polyhook-received-at", "2026-11-22T10:20:30.123456Z"),
    ];
    assert_eq!(headers(properties), wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    test.queue.close().await;
}

/// After `ready` has succeeded once, publishing must not fail with an older connection error.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stores_messages_as_soon_as_it_reports_ready() {
    let config = config(&SHARED_NODE.url(), &unique_prefix());
    for round in 0..20 {
        let test = Arc::new(try_open(&config).unwrap());
        while test.queue.ready().await.is_err() {
            tokio::task::yield_now().await;
        }
        let publish = |n| {
            let test = Arc::clone(&test);
            async move { test.queue.publish(message(&format!("evt_{round}_{n}"), "{}")).await.unwrap() }
        };
        for published in join_all_tasks((0..8).map(publish)).await {
            assert_eq!(published, Published::New);
        }
        test.queue.close().await;
    }
}

/// A process that only publishes negotiates small frames. The largest body a receiver accepts takes many of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn publishes_the_largest_message_in_small_frames() {
    let reader = TestQueue::new().await;
    let config = config(&SHARED_NODE.url(), &reader.prefix);
    let delays = [1, 600].map(Duration::from_secs).to_vec();
    let options = RabbitMqOptions {
        config: &config,
        delays,
        refresh_delays: Vec::new(),
        consume: None,
        consumer_timeout: CONSUMER_TIMEOUT,
        only_publishes: true,
        clock: Clock::System,
    };
    let writer = open(options, Lifecycle::new()).unwrap();
    writer.wait_until_ready().await;
    let long = |length| "x".repeat(length);
    let body = format!("{{\"conversation_id\":\"{}\",\"x\":\"{}\"}}", long(255), long(1 << 20));
    let sent =
        Message { traceparent: Some(long(255)), content_type: long(255), ..message(&long(255), &body) };
    assert_eq!(writer.queue.publish(sent.clone()).await.unwrap(), Published::New);
    assert!(reader.next_job().await.message == sent, "the message has changed on the way");
}

#[tokio::test(flavor = "multi_thread")]
async fn delivers_an_announcement_to_the_bound_queue_only() {
    let (test, client) = (TestQueue::new().await, PlainClient::new().await);
    assert_eq!(test.queue.announce(announcement()).await.unwrap(), Announced::Unrouted);
    let inbox = test.object_name("inbox");
    client.declare_queue(&inbox, FieldTable::default()).await;
    client.bind(&inbox, &test.object_name("conversations"), "conversation.ready.#").await;
    // Half of the announcements are unrouted at the same time: each caller gets its own result.
    let mixed = (0..40).map(|n| {
        let environment = if n % 2 == 0 { "live" } else { "elsewhere" };
        let kind = if n % 2 == 0 { "conversation.ready" } else { "nothing.bound" };
        test.queue.announce(Announcement {
            environment: environment.to_owned(),
            kind: kind.to_owned(),
            ..announcement()
        })
    });
    for (n, announced) in join_all(mixed).await.into_iter().enumerate() {
        let wanted = if n % 2 == 0 { Announced::Delivered } else { Announced::Unrouted };
        assert_eq!(announced.unwrap(), wanted, "{n}");
    }
    let got = client.receive(&inbox).await;
    assert_eq!(got.routing_key.as_str(), "conversation.ready.live");
    assert_eq!(got.properties.message_id().as_ref().unwrap().as_str(), "ready-1");
    assert_eq!(
        got.properties.content_type().as_ref().unwrap().as_str(),
        "application/cloudevents+json; charset=utf-8"
    );
    assert_eq!(headers(&got.properties)["cloudEvents:subject"], "CA1");
    test.queue.close().await;
}
