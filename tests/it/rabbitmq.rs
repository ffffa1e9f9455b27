//! The queue on RabbitMQ: what goes over the wire, and what the broker keeps.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{
        BasicGetOptions, BasicPublishOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
        QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};
use polyhook::{
    clock::Clock,
    event::{DedupKey, Event},
    health::Health,
    lifecycle::Lifecycle,
    queue::{
        Announced, Announcement, Attempt, History, Job, JobOutcome, Message, Published, Queue, QueueConfig,
        QueueError, QueueKind, QueueUrls,
        rabbitmq::{OpenError, RabbitMqOptions, RabbitMqQueue},
        spooled::SpooledQueue,
    },
    secret::Secret,
};
use serde_json::Value;
use tokio::{
    task::{JoinSet, block_in_place},
    time::{Instant, sleep, timeout},
};

use crate::support::rabbit::{Node, SHARED_NODE, unique_prefix};

pub(crate) const SOON: Duration = Duration::from_secs(20);

/// An open queue with a prefix of its own.
pub(crate) struct Bench {
    pub(crate) queue: Arc<SpooledQueue>,
    pub(crate) prefix: String,
    lifecycle: Lifecycle,
}

pub(crate) fn config(url: &str, prefix: &str) -> QueueConfig {
    QueueConfig {
        url: QueueUrls::One(Secret::new(url)),
        prefix: prefix.to_owned(),
        publish_timeout: Duration::from_secs(5),
        ..QueueConfig::default()
    }
}

pub(crate) fn try_open(config: &QueueConfig) -> Result<Bench, OpenError> {
    let lifecycle = Lifecycle::new();
    let options = RabbitMqOptions {
        config,
        delays: [1, 600].map(Duration::from_secs).to_vec(),
        consume: Some(4),
        only_publishes: false,
        clock: Clock::System,
    };
    open(options, lifecycle)
}

fn open(options: RabbitMqOptions<'_>, lifecycle: Lifecycle) -> Result<Bench, OpenError> {
    let config = options.config;
    let broker = RabbitMqQueue::open(options, &lifecycle)?;
    let queue = SpooledQueue::new(broker, None, config, Clock::System, Health::default(), &lifecycle);
    Ok(Bench { queue, prefix: config.prefix.clone(), lifecycle })
}

impl Bench {
    /// On the shared node.
    async fn new() -> Self {
        Self::on(&SHARED_NODE).await
    }

    pub(crate) async fn on(node: &Node) -> Self {
        Self::with(&config(&node.url(), &unique_prefix())).await
    }

    pub(crate) async fn with(config: &QueueConfig) -> Self {
        let bench = try_open(config).unwrap();
        bench.becomes_ready().await;
        bench
    }

    pub(crate) async fn becomes_ready(&self) {
        self.eventually("ready", async || self.queue.ready().await.map_err(|error| error.to_string())).await;
    }

    /// Waits until `ready` fails with a text that holds `text`.
    pub(crate) async fn becomes_unready(&self, text: &str) {
        self.eventually(text, async || match self.queue.ready().await {
            Err(error) if error.to_string().contains(text) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    pub(crate) async fn eventually(&self, what: &str, check: impl AsyncFn() -> Result<(), String>) {
        let deadline = Instant::now() + SOON;
        while let Err(found) = check().await {
            assert!(Instant::now() < deadline, "not {what} in time: {found}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn name(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }

    pub(crate) async fn take(&self) -> Job {
        timeout(SOON, self.queue.next()).await.expect("a job in time").expect("an open queue")
    }

    pub(crate) async fn assert_depths(&self, wanted: [(QueueKind, u64); 4]) {
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

/// Runs all in tasks of their own; what they return comes in the order in which they end.
pub(crate) async fn at_once<F>(tasks: impl IntoIterator<Item = F>) -> Vec<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tasks.into_iter().collect::<JoinSet<_>>().join_all().await
}

fn event(kind: &str, id: &str) -> Message {
    Message { kind: kind.to_owned(), ..message(id, "{}") }
}

pub(crate) fn history(failures: usize) -> History {
    let mut history = History::default();
    for _ in 0..failures {
        history.push(Attempt {
            at: "2026-11-22T10:20:31Z".parse().unwrap(),
            reason: "unknown_project".into(),
            detail: "no [[projects]] entry for PROJECT-1: add one, then replay".to_owned(),
            status: Some(404),
            correlation_id: Some("corr-1".to_owned()),
        });
    }
    history
}

fn announcement() -> Announcement {
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

/// Somebody else, with a plain client.
pub(crate) struct Customer {
    _connection: Connection,
    channel: Channel,
}

impl Customer {
    pub(crate) async fn new() -> Self {
        let connection =
            Connection::connect(&SHARED_NODE.url(), ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { _connection: connection, channel }
    }

    pub(crate) async fn queue(&self, name: &str, arguments: FieldTable) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, arguments).await.unwrap();
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str, key: &str) {
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        self.channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await.unwrap();
    }

    pub(crate) async fn get(&self, queue: &str) -> BasicGetMessage {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(found) =
                self.channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap()
            {
                return found;
            }
            assert!(Instant::now() < deadline, "nothing in {queue}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        self.channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.unwrap();
    }
}

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

fn listed(what: &str, columns: &[&str], prefix: &str) -> HashMap<String, Value> {
    let rows = SHARED_NODE.ctl(&[&[what, "--formatter", "json", "name"], columns].concat());
    let rows: Vec<Value> = serde_json::from_str(&rows).unwrap();
    rows.into_iter()
        .filter_map(|row| {
            let name = row["name"].as_str()?.strip_prefix(prefix)?.strip_prefix('.')?.to_owned();
            Some((name, row))
        })
        .collect()
}

/// `rabbitmqctl` prints arguments as `[name, type, value]`.
fn argument(row: &Value, name: &str) -> Value {
    let arguments = row["arguments"].as_array().unwrap();
    arguments.iter().find(|argument| argument[0] == name).map_or(Value::Null, |argument| argument[2].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topology_is_as_documented() {
    let bench = Bench::new().await;
    let queues = listed("list_queues", &["type", "durable", "arguments"], &bench.prefix);
    let mut names: Vec<_> = queues.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["dead", "fetch", "fetch.retry.10m", "fetch.retry.1s", "unrouted"]);
    for (name, row) in &queues {
        assert_eq!((row["type"].as_str(), row["durable"].as_bool()), (Some("quorum"), Some(true)), "{name}");
        assert!(argument(row, "x-delivery-limit").as_i64().unwrap() >= 100, "{name}: 4.x drops after 20");
    }
    for (name, target) in [("fetch", "dead"), ("fetch.retry.1s", "fetch"), ("fetch.retry.10m", "fetch")] {
        let row = &queues[name];
        assert_eq!(argument(row, "x-dead-letter-exchange"), "", "{name}");
        assert_eq!(argument(row, "x-dead-letter-routing-key"), bench.name(target), "{name}");
        assert_eq!(argument(row, "x-dead-letter-strategy"), "at-least-once", "{name}");
        assert_eq!(argument(row, "x-overflow"), "reject-publish", "{name}");
    }
    assert_eq!(argument(&queues["fetch.retry.1s"], "x-message-ttl"), 1000);
    assert_eq!(argument(&queues["fetch.retry.10m"], "x-message-ttl"), 600_000);

    let exchanges = listed("list_exchanges", &["type", "durable", "arguments"], &bench.prefix);
    for (name, kind) in [("events", "topic"), ("conversations", "topic"), ("unrouted", "headers")] {
        let row = &exchanges[name];
        assert_eq!((row["type"].as_str(), row["durable"].as_bool()), (Some(kind), Some(true)), "{name}");
    }
    assert_eq!(argument(&exchanges["events"], "alternate-exchange"), bench.name("unrouted"));
    bench.queue.close().await;
}

/// RabbitMQ confirms in order on a channel. A customer's queue for other events that confirms nothing, such as one that
/// lost its majority, must not keep calls from being durable.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_confirms_nothing_holds_up_no_call() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    let theirs = bench.name("customer");
    let mut quorum = FieldTable::default();
    quorum.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    customer.queue(&theirs, quorum).await;
    customer.bind(&theirs, &bench.name("events"), "handoff.#").await;
    let their_server =
        |what: &str| block_in_place(|| SHARED_NODE.ctl(&["eval", &format!("sys:{what}('%2F_{theirs}').")]));
    their_server("suspend");

    let mut held_up = JoinSet::new();
    for n in 0..4 {
        let (queue, handoff) = (Arc::clone(&bench.queue), event("handoff.created", &format!("evt_held_{n}")));
        held_up.spawn(async move { queue.publish(handoff).await });
    }
    sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    for n in 0..20 {
        let published = bench.queue.publish(message(&format!("evt_{n}"), "{}")).await;
        assert_eq!(published.unwrap(), Published::New);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(held_up.try_join_next().is_none(), "they were confirmed, so this has shown nothing");

    their_server("resume");
    // Unless that took longer than anybody waits.
    for ended in held_up.join_all().await {
        assert!(matches!(ended, Ok(Published::New) | Err(QueueError::Timeout(_))), "{ended:?}");
    }
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_carries_what_the_contract_says() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    let inbox = bench.name("inbox");
    customer.queue(&inbox, FieldTable::default()).await;
    customer.bind(&inbox, &bench.name("events"), "conversation.completed.live").await;
    let body = r#"{"type":"conversation.completed","data":{"conversation_id":"CA1"},  "spaces":"kept"}"#;
    assert_eq!(bench.queue.publish(message("evt_1", body)).await.unwrap(), Published::New);

    let got = customer.get(&inbox).await;
    assert_eq!(got.data, body.as_bytes());
    assert_eq!(got.routing_key.as_str(), "conversation.completed.live");
    let properties = &got.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "evt_1");
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "conversation.completed");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(properties.app_id().as_ref().unwrap().as_str(), "polyhook");
    assert_eq!((*properties.delivery_mode(), *properties.timestamp()), (Some(2), Some(1_795_342_830)));
    let wanted = [
        ("cloudEvents:specversion", "1.0"),
        ("cloudEvents:id", "evt_1"),
        ("cloudEvents:source", "urn:polyai:webhooks"),
        ("cloudEvents:type", "conversation.completed"),
        ("cloudEvents:subject", "CA1"),
        ("cloudEvents:time", "2026-11-22T10:20:30.123456Z"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("polyhook-received-at", "2026-11-22T10:20:30.123456Z"),
        ("polyhook-environment", "live"),
    ];
    assert_eq!(headers(properties), wanted.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    bench.queue.close().await;
}

/// Who was told that the queue is ready is not refused for what was the matter before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_comes_right_after_readiness_is_stored() {
    let config = config(&SHARED_NODE.url(), &unique_prefix());
    for round in 0..20 {
        let bench = Arc::new(try_open(&config).unwrap());
        while bench.queue.ready().await.is_err() {
            tokio::task::yield_now().await;
        }
        let publish = |n| {
            let bench = Arc::clone(&bench);
            async move { bench.queue.publish(message(&format!("evt_{round}_{n}"), "{}")).await.unwrap() }
        };
        for published in at_once((0..8).map(publish)).await {
            assert_eq!(published, Published::New);
        }
        bench.queue.close().await;
    }
}

/// Who only publishes asks for small frames; a receiver's greatest body goes through in many.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn small_frames_carry_the_greatest_body() {
    let reader = Bench::new().await;
    let config = config(&SHARED_NODE.url(), &reader.prefix);
    let delays = [1, 600].map(Duration::from_secs).to_vec();
    let options = RabbitMqOptions {
        config: &config,
        delays,
        consume: None,
        only_publishes: true,
        clock: Clock::System,
    };
    let writer = open(options, Lifecycle::new()).unwrap();
    writer.becomes_ready().await;
    let long = |length| "x".repeat(length);
    let body = format!("{{\"conversation_id\":\"{}\",\"x\":\"{}\"}}", long(255), long(1 << 20));
    let sent =
        Message { traceparent: Some(long(255)), content_type: long(255), ..message(&long(255), &body) };
    assert_eq!(writer.queue.publish(sent.clone()).await.unwrap(), Published::New);
    assert!(reader.take().await.message == sent, "it came out as another");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_reaches_those_who_ask() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    assert_eq!(bench.queue.announce(announcement()).await.unwrap(), Announced::Unrouted);
    let inbox = bench.name("inbox");
    customer.queue(&inbox, FieldTable::default()).await;
    customer.bind(&inbox, &bench.name("conversations"), "conversation.ready.#").await;
    // Some unrouted ones at the same time: what is returned belongs to the right one.
    let mixed = (0..40).map(|n| {
        let environment = if n % 2 == 0 { "live" } else { "elsewhere" };
        let kind = if n % 2 == 0 { "conversation.ready" } else { "nobody.asked" };
        bench.queue.announce(Announcement {
            environment: environment.to_owned(),
            kind: kind.to_owned(),
            ..announcement()
        })
    });
    for (n, announced) in join_all(mixed).await.into_iter().enumerate() {
        let wanted = if n % 2 == 0 { Announced::Delivered } else { Announced::Unrouted };
        assert_eq!(announced.unwrap(), wanted, "{n}");
    }
    let got = customer.get(&inbox).await;
    assert_eq!(got.routing_key.as_str(), "conversation.ready.live");
    assert_eq!(got.properties.message_id().as_ref().unwrap().as_str(), "ready-1");
    assert_eq!(
        got.properties.content_type().as_ref().unwrap().as_str(),
        "application/cloudevents+json; charset=utf-8"
    );
    assert_eq!(headers(&got.properties)["cloudEvents:subject"], "CA1");
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_confirm_is_for_the_right_message() {
    const TASKS: usize = 64;
    const EACH: usize = 150;
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    let (fine, full) = (bench.name("fine"), bench.name("full"));
    customer.queue(&fine, FieldTable::default()).await;
    customer.bind(&fine, &bench.name("events"), "fine.#").await;
    let mut narrow = FieldTable::default();
    narrow.insert("x-max-length".into(), 1.into());
    narrow.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    customer.queue(&full, narrow).await;
    customer.bind(&full, &bench.name("events"), "full.#").await;
    bench.queue.publish(event("full", "the one that fits")).await.unwrap();

    let publishers = (0..TASKS).map(|task| {
        let queue = Arc::clone(&bench.queue);
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
    let stored: Vec<_> = at_once(publishers).await.into_iter().flatten().collect();
    let mut found = std::collections::HashSet::new();
    for _ in 0..stored.len() {
        found.insert(customer.get(&fine).await.properties.message_id().as_ref().unwrap().to_string());
    }
    assert_eq!(found, stored.into_iter().collect());
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_returned_message_is_not_stored() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    let options = ExchangeDeleteOptions::default();
    customer.channel.exchange_delete(bench.name("unrouted").as_str().into(), options).await.unwrap();
    let mixed = (0..200).map(|n| {
        let kind = if n % 10 == 0 { "nobody.asked" } else { "conversation.completed" };
        let queue = Arc::clone(&bench.queue);
        async move { (n, queue.publish(event(kind, &format!("evt_{n}"))).await) }
    });
    let (mut stored, mut returned) = (0, 0);
    for (n, published) in join_all(mixed).await {
        match published {
            // A stored one may be refused because of its neighbour, never the other way round.
            Ok(_) => {
                assert_ne!(n % 10, 0, "a returned message was confirmed");
                stored += 1;
            }
            Err(QueueError::Refused(why)) => {
                assert!(why.contains("alternate exchange"), "{why}");
                returned += 1;
            }
            // The connection is given up for a new one, which declares what is missing.
            Err(error) => assert!(matches!(error, QueueError::Unavailable(_)), "{error}"),
        }
    }
    assert!(stored < 200 && returned > 0, "{stored} stored, {returned} returned");
    // Nobody needs to be unlucky for ever.
    bench
        .eventually("declared again", async || {
            let published = bench.queue.publish(event("nobody.asked", "evt_last")).await;
            published.map(drop).map_err(|error| error.to_string())
        })
        .await;
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_is_new() {
    let bench = Bench::new().await;
    for round in 0..20 {
        let sent = message(&format!("evt_{round}"), "{}");
        let publishers = (0..32).map(|_| {
            let (queue, sent) = (Arc::clone(&bench.queue), sent.clone());
            async move { queue.publish(sent).await.unwrap() }
        });
        let published = at_once(publishers).await;
        let new = published.iter().filter(|published| **published == Published::New).count();
        assert_eq!(new, 1, "{published:?}");
        assert_eq!(bench.queue.publish(sent).await.unwrap(), Published::Duplicate);
    }
    bench
        .assert_depths([
            (QueueKind::Fetch, 20),
            (QueueKind::Retry, 0),
            (QueueKind::Dead, 0),
            (QueueKind::Unrouted, 0),
        ])
        .await;
    // A refused one was no first.
    let long = Message { kind: "k".repeat(300), ..message("evt_x", "{}") };
    for _ in 0..2 {
        assert!(matches!(bench.queue.publish(long.clone()).await, Err(QueueError::Refused(_))));
    }
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_hangs_up_takes_nobody_with_it() {
    let bench = Bench::new().await;
    let sent = message("evt_1", "{}");
    for n in 0..200 {
        let hurried =
            timeout(Duration::from_micros(n * 10), bench.queue.publish(message(&format!("evt_h{n}"), "{}")));
        let first = timeout(Duration::from_micros(n * 10), bench.queue.publish(sent.clone()));
        let second = bench.queue.publish(sent.clone());
        let (_, _, second) = tokio::join!(hurried, first, second);
        second.unwrap();
    }
    assert_eq!(bench.queue.publish(sent).await.unwrap(), Published::Duplicate);
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_comes_back_when_it_should_with_its_history() {
    let bench = Bench::new().await;
    let sent = message("evt_1", r#"{"data":{}}"#);
    bench.queue.publish(sent.clone()).await.unwrap();
    let mut job = bench.take().await;
    for (failures, after) in [(1, 1000), (2, 400), (3, 1500)].map(|(n, ms)| (n, Duration::from_millis(ms))) {
        let begun = Instant::now();
        let outcome = JobOutcome::Retry { after, history: history(failures) };
        bench.queue.settle(job.lease, outcome).await.unwrap();
        job = bench.take().await;
        let waited = begun.elapsed();
        assert!(waited >= after && waited < after + Duration::from_secs(3), "{after:?}: {waited:?}");
        assert_eq!((&job.message, &job.history), (&sent, &history(failures)));
    }
    bench.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    bench
        .assert_depths([
            (QueueKind::Fetch, 0),
            (QueueKind::Retry, 0),
            (QueueKind::Dead, 0),
            (QueueKind::Unrouted, 0),
        ])
        .await;
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_says_why() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    bench.queue.publish(message("evt_1", "{}")).await.unwrap();
    let job = bench.take().await;
    bench.queue.settle(job.lease, JobOutcome::Dead { history: history(3) }).await.unwrap();
    let dead = customer.get(&bench.name("dead")).await;
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
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anybody_may_publish_a_job() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    let body = br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}"#;
    let mut odd = FieldTable::default();
    odd.insert("polyhook-history".into(), AMQPValue::LongString("{not json".into()));
    odd.insert("polyhook-environment".into(), AMQPValue::Boolean(true));
    odd.insert("polyhook-received-at".into(), AMQPValue::LongString("\u{0}".into()));
    for (properties, body) in [
        (BasicProperties::default(), &body[..]),
        (BasicProperties::default().with_headers(odd).with_timestamp(u64::MAX), b"\xff no json"),
        (BasicProperties::default().with_type("".into()).with_message_id("a b".into()), b""),
    ] {
        customer.publish("", &bench.name("fetch"), body, properties).await;
        let job = bench.take().await;
        assert_eq!(job.message.body, body);
        assert!(job.message.id.starts_with("sha256:"));
        assert_eq!(job.history, History::default());
        let retry = JobOutcome::Retry { after: Duration::from_millis(100), history: history(1) };
        bench.queue.settle(job.lease, retry).await.unwrap();
        let again = bench.take().await;
        assert_eq!(
            (again.message.body, again.message.id, again.history),
            (job.message.body, job.message.id, history(1))
        );
        bench.queue.settle(again.lease, JobOutcome::Dead { history: history(2) }).await.unwrap();
    }
    bench
        .assert_depths([
            (QueueKind::Fetch, 0),
            (QueueKind::Retry, 0),
            (QueueKind::Dead, 3),
            (QueueKind::Unrouted, 0),
        ])
        .await;
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_no_job_takes_none() {
    let idle = Bench::new().await;
    let busy = Bench::with(&config(&SHARED_NODE.url(), &idle.prefix)).await;
    for n in 0..10 {
        idle.queue.publish(message(&format!("evt_{n}"), "{}")).await.unwrap();
    }
    for _ in 0..10 {
        let job = busy.take().await;
        busy.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    idle.queue.close().await;
    busy.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_hands_back_at_once_what_nobody_has_begun() {
    let ending = Bench::new().await;
    for n in 0..4 {
        ending.queue.publish(message(&format!("evt_{n}"), "{}")).await.unwrap();
    }
    let running = ending.take().await;
    // All four are in its hands, and nobody else gets one.
    ending
        .assert_depths([
            (QueueKind::Fetch, 4),
            (QueueKind::Retry, 0),
            (QueueKind::Dead, 0),
            (QueueKind::Unrouted, 0),
        ])
        .await;
    let other = Bench::with(&config(&SHARED_NODE.url(), &ending.prefix)).await;
    assert!(timeout(Duration::from_millis(300), other.queue.next()).await.is_err());
    ending.lifecycle.drain();
    for _ in 0..3 {
        let job = other.take().await;
        assert_ne!(job.message.id, running.message.id);
        other.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    // What runs may end well.
    ending.queue.settle(running.lease, JobOutcome::Done).await.unwrap();
    other
        .assert_depths([
            (QueueKind::Fetch, 0),
            (QueueKind::Retry, 0),
            (QueueKind::Dead, 0),
            (QueueKind::Unrouted, 0),
        ])
        .await;
    ending.queue.close().await;
    other.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_deletes_is_declared_again() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    let delete = QueueDeleteOptions::default();
    bench.queue.publish(message("evt_1", "{}")).await.unwrap();
    let job = bench.take().await;

    // The queue that a retry waits in: the job keeps its lease, and the second attempt works.
    customer.channel.queue_delete(bench.name("fetch.retry.1s").as_str().into(), delete).await.unwrap();
    let retry = JobOutcome::Retry { after: Duration::from_millis(500), history: history(1) };
    let error = bench.queue.settle(job.lease, retry.clone()).await.unwrap_err();
    assert!(error.to_string().contains("fetch.retry.1s"), "{error}");
    bench
        .eventually("settled", async || {
            bench.queue.settle(job.lease, retry.clone()).await.map_err(|error| error.to_string())
        })
        .await;
    let job = bench.take().await;
    assert_eq!(job.history, history(1));
    bench.queue.settle(job.lease, JobOutcome::Done).await.unwrap();

    // The exchange, and the queue the jobs come from.
    let exchange = bench.name("events");
    customer
        .channel
        .exchange_delete(exchange.as_str().into(), ExchangeDeleteOptions::default())
        .await
        .unwrap();
    customer.channel.queue_delete(bench.name("fetch").as_str().into(), delete).await.unwrap();
    bench
        .eventually("published", async || {
            bench.queue.publish(message("evt_2", "{}")).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
    bench
        .eventually("delivered", async || {
            let n = fastrand::u64(..);
            bench
                .queue
                .publish(message(&format!("evt_{n}"), "{}"))
                .await
                .map_err(|error| error.to_string())?;
            let job = timeout(Duration::from_secs(1), bench.queue.next()).await.map_err(|_| "no job yet")?;
            drop(job);
            Ok(())
        })
        .await;
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_fetch_queue_or_binding_is_noticed_though_others_take_the_events() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    let (mine, fetch, events) = (bench.name("mine"), bench.name("fetch"), bench.name("events"));
    customer.queue(&mine, FieldTable::default()).await;
    customer.bind(&mine, &events, "conversation.#").await;
    let kept = async || {
        bench.queue.publish(message(&format!("evt_{}", fastrand::u64(..)), "{}")).await.ok();
        match bench.queue.depths().await {
            Ok(depths) if depths[0].1 > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    customer.channel.queue_delete(fetch.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    bench.eventually("declared again", kept).await;
    customer.channel.queue_purge(fetch.as_str().into(), QueuePurgeOptions::default()).await.unwrap();
    let key = "conversation.completed.#";
    let (queue, exchange) = (fetch.as_str().into(), events.as_str().into());
    customer.channel.queue_unbind(queue, exchange, key.into(), FieldTable::default()).await.unwrap();
    bench.eventually("bound again", kept).await;
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_end_cannot_be_recorded_comes_back() {
    let (bench, customer) = (Bench::new().await, Customer::new().await);
    bench.queue.publish(message("evt_1", "{}")).await.unwrap();
    let job = bench.take().await;
    customer
        .channel
        .queue_delete(bench.name("dead").as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
    bench.queue.settle(job.lease, JobOutcome::Dead { history: history(1) }).await.unwrap_err();
    let again = bench.take().await;
    assert_eq!(again.message, job.message);
    assert!(matches!(bench.queue.settle(job.lease, JobOutcome::Done).await, Err(QueueError::LeaseLost)));
    bench.queue.settle(again.lease, JobOutcome::Dead { history: history(1) }).await.unwrap();
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_already_and_differs_is_named() {
    let (customer, prefix) = (Customer::new().await, unique_prefix());
    let fetch = format!("{prefix}.fetch");
    customer.queue(&fetch, FieldTable::default()).await;
    let bench = try_open(&config(&SHARED_NODE.url(), &prefix)).unwrap();
    bench.becomes_unready(&format!("the queue `{fetch}` exists with other properties")).await;
    let error = bench.queue.publish(message("evt_1", "{}")).await.unwrap_err();
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    customer.channel.queue_delete(fetch.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    bench.becomes_ready().await;
    assert_eq!(bench.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_says_so_without_the_password() {
    let url = SHARED_NODE.url().replace("guest:guest", "guest:hunter2hunter2");
    let bench = try_open(&config(&url, &unique_prefix())).unwrap();
    bench.becomes_unready("check user and password").await;
    let error = bench.queue.ready().await.unwrap_err();
    assert!(!error.to_string().contains("hunter2"), "{error}");
    bench.queue.close().await;
    let nowhere = try_open(&config(&SHARED_NODE.url().replace("%2f", "nowhere"), &unique_prefix())).unwrap();
    nowhere.becomes_unready("virtual host").await;
    nowhere.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_takes_over() {
    let urls = ["amqp://127.0.0.1:1", &SHARED_NODE.url(), "amqp://127.0.0.1:2"];
    let list = QueueUrls::Many(urls.into_iter().map(Secret::new).collect());
    let bench = Bench::with(&QueueConfig { url: list, ..config("", &unique_prefix()) }).await;
    assert_eq!(bench.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    bench.queue.close().await;
}
