//! An open queue with a prefix of its own, messages for it, and a plain AMQP client.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use lapin::{
    Acker, BasicProperties, Channel, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use polyhook::{
    clock::Clock,
    event::{DedupKey, Event},
    health::Health,
    lifecycle::Lifecycle,
    queue::{
        Announcement, Attempt, History, Job, Message, Queue, QueueConfig, QueueKind, QueueUrls,
        rabbitmq::{CONSUMER_TIMEOUT, OpenError, RabbitMqOptions, RabbitMqQueue},
        spooled::SpooledQueue,
    },
    secret::Secret,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::support::rabbit::{Node, SHARED_NODE, unique_prefix};

/// Bounds each wait of a test.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// The number of messages in each queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Depths {
    pub(crate) fetch: u64,
    pub(crate) retry: u64,
    pub(crate) dead: u64,
    pub(crate) unrouted: u64,
}

pub(crate) const EMPTY: Depths = Depths { fetch: 0, retry: 0, dead: 0, unrouted: 0 };

/// An open queue with a prefix of its own.
pub(crate) struct TestQueue {
    pub(crate) queue: Arc<SpooledQueue>,
    pub(crate) prefix: String,
    pub(crate) lifecycle: Lifecycle,
}

/// Returns a configuration for one broker.
pub(crate) fn config(url: &str, prefix: &str) -> QueueConfig {
    QueueConfig {
        url: QueueUrls::One(Secret::new(url)),
        prefix: prefix.to_owned(),
        publish_timeout: Duration::from_secs(5),
        ..QueueConfig::default()
    }
}

/// Opens a queue without waiting for the broker.
pub(crate) fn try_open(config: &QueueConfig) -> Result<TestQueue, OpenError> {
    let lifecycle = Lifecycle::new();
    let options = RabbitMqOptions {
        config,
        delays: [1, 600].map(Duration::from_secs).to_vec(),
        refresh_delays: vec![Duration::from_mins(10)],
        consume: Some(4),
        consumer_timeout: CONSUMER_TIMEOUT,
        only_publishes: false,
        clock: Clock::System,
    };
    open(options, lifecycle)
}

/// Opens a queue with `options`, without waiting for the broker.
pub(crate) fn open(options: RabbitMqOptions<'_>, lifecycle: Lifecycle) -> Result<TestQueue, OpenError> {
    let config = options.config;
    let broker = RabbitMqQueue::open(options, &lifecycle)?;
    let queue = SpooledQueue::new(broker, None, config, Clock::System, Health::default(), &lifecycle);
    Ok(TestQueue { queue, prefix: config.prefix.clone(), lifecycle })
}

impl TestQueue {
    /// Opens a queue on the shared node.
    pub(crate) async fn new() -> Self {
        Self::on(&SHARED_NODE).await
    }

    /// Opens a queue on `node`.
    pub(crate) async fn on(node: &Node) -> Self {
        Self::with(&config(&node.url(), &unique_prefix())).await
    }

    /// Opens a queue with `config` and waits until it is ready.
    pub(crate) async fn with(config: &QueueConfig) -> Self {
        let test = try_open(config).unwrap();
        test.wait_until_ready().await;
        test
    }

    /// Waits until `ready` succeeds.
    pub(crate) async fn wait_until_ready(&self) {
        self.eventually("ready", async || self.queue.ready().await.map_err(|error| error.to_string())).await;
    }

    /// Waits until `ready` fails with an error that contains `text`.
    pub(crate) async fn wait_until_unready(&self, text: &str) {
        self.eventually(text, async || match self.queue.ready().await {
            Err(error) if error.to_string().contains(text) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// Repeats `check` until it succeeds; `what` names the expected state.
    pub(crate) async fn eventually(&self, what: &str, check: impl AsyncFn() -> Result<(), String>) {
        let deadline = Instant::now() + TEST_TIMEOUT;
        while let Err(found) = check().await {
            assert!(Instant::now() < deadline, "not {what} in time: {found}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Returns the name of an exchange or a queue of this test.
    pub(crate) fn object_name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    /// Waits for the next job.
    pub(crate) async fn next_job(&self) -> Job {
        timeout(TEST_TIMEOUT, self.queue.next()).await.expect("a job in time").expect("an open queue")
    }

    /// Waits until the queues hold as many messages as `wanted` says.
    pub(crate) async fn wait_for_depths(&self, wanted: Depths) {
        let Depths { fetch, retry, dead, unrouted } = wanted;
        let wanted = [
            (QueueKind::Fetch, fetch),
            (QueueKind::Retry, retry),
            (QueueKind::Dead, dead),
            (QueueKind::Unrouted, unrouted),
            (QueueKind::Refresh, 0),
        ];
        self.eventually(&format!("{wanted:?}"), async || match self.queue.depths().await {
            Ok(found) if found == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
}

pub(crate) fn message(id: &str, body: &str) -> Message {
    Message {
        id: id.to_owned(),
        dedup: DedupKey::new(id, body.as_bytes()),
        kind: "conversation.completed".to_owned(),
        environment: "live".to_owned(),
        conversation_id: Event::read(body.as_bytes()).conversation_id,
        received_at: "2026-11-22T10:20:30.123456Z".parse().unwrap(),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        content_type: "application/json".to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

/// Runs all futures in tasks of their own and returns their results in the order in which they end.
pub(crate) async fn join_all_tasks<F>(tasks: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tasks.into_iter().collect::<JoinSet<_>>().join_all().await
}

pub(crate) fn event(kind: &str, id: &str) -> Message {
    Message { kind: kind.to_owned(), ..message(id, "{}") }
}

/// Returns a history of failed attempts.
pub(crate) fn history(failures: usize) -> History {
    let mut history = History::default();
    for _ in 0..failures {
        history.push(Attempt {
            at: "2026-11-22T10:20:31Z".parse().unwrap(),
            reason: "unknown_project".into(),
            detail: "no [[projects]] entry for PROJECT-1: add one".to_owned(),
            status: Some(404),
            correlation_id: Some("corr-1".to_owned()),
        });
    }
    history
}

pub(crate) fn announcement() -> Announcement {
    Announcement {
        id: "ready-1".to_owned(),
        kind: "conversation.ready".to_owned(),
        environment: "live".to_owned(),
        subject: "CA1".to_owned(),
        time: "2026-11-22T10:20:30Z".parse().unwrap(),
        traceparent: None,
        body: Bytes::from_static(br#"{"specversion":"1.0"}"#),
    }
}

/// A client of the shared node that is not polyhook.
pub(crate) struct PlainClient {
    pub(crate) connection: Connection,
    pub(crate) channel: Channel,
}

impl PlainClient {
    pub(crate) async fn new() -> Self {
        let connection =
            Connection::connect(&SHARED_NODE.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { connection, channel }
    }

    /// Declares a durable queue.
    pub(crate) async fn declare_queue(&self, name: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await.unwrap();
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await.unwrap();
    }

    /// Waits for a message in `queue` and removes it.
    pub(crate) async fn receive(&self, queue: &str) -> BasicGetMessage {
        get(&self.channel, queue, BasicGetOptions { no_ack: true }).await
    }

    pub(crate) async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
    }
}

/// Waits for a message in `queue` and takes it. The broker keeps it until it is settled or `channel` ends.
pub(crate) async fn take(channel: &Channel, queue: &str) -> Acker {
    get(channel, queue, BasicGetOptions::default()).await.delivery.acker
}

async fn get(channel: &Channel, queue: &str, options: BasicGetOptions) -> BasicGetMessage {
    let deadline = Instant::now() + TEST_TIMEOUT;
    loop {
        if let Some(found) = channel.basic_get(queue.into(), options).await.unwrap() {
            return found;
        }
        assert!(Instant::now() < deadline, "{queue} stays empty");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Returns the headers; a value that is not a string appears in its debug form.
pub(crate) fn headers(properties: &BasicProperties) -> HashMap<String, String> {
    let table = properties.headers().as_ref().unwrap();
    table
        .into_iter()
        .map(|(key, value)| {
            let value = match value {
                AMQPValue::LongString(text) => text.to_string(),
                other => format!("{other:?}"),
            };
            (key.to_string(), value)
        })
        .collect()
}
