//! Compares `docs/asyncapi.yaml` with the exchanges and queues that polyhook declares, and with every kind of message that it
//! publishes.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicConsumeOptions, BasicGetOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use polyhook::{clock::Clock, config::Config, secret::Secret};
use polyhook_simulator::{CallInfo, CallScript, Channel, Delivery, EventOptions, LaterChange, NewCall};
use serde_json::{Map, Value, json};
use tokio::{task::block_in_place, time::timeout};

use super::{SchemaCheck, TestSystem, document, eventually, short_call};
use crate::support::{process::http_request, rabbit::SHARED_NODE};

const TIMEOUT: Duration = Duration::from_secs(30);
const TRIGGER: &str = "/polyai-trigger";
const TOKEN: &str = "a-trigger-token-of-tests";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_and_messages_are_as_documented() {
    let document = document("asyncapi.yaml");
    assert_eq!(Config::default().queue.prefix, "polyhook", "the document uses the default prefix");
    let system = TestSystem::start(&SHARED_NODE, |config| {
        config.reconcile.every = Duration::from_secs(1);
        config.reconcile.settle = Duration::ZERO;
        config.trigger.path = TRIGGER.to_owned();
        config.trigger.token = Some(Secret::new(TOKEN));
    })
    .await;

    let (declared, published) = tokio::join!(async { block_in_place(|| declared(&system)) }, async {
        published(&system, &document).await
    });
    let documented = documented(&system, &document);
    for (kind, documented, declared) in [
        ("exchange", &documented.exchanges, &declared.exchanges),
        ("queue", &documented.queues, &declared.queues),
    ] {
        assert_eq!(
            documented.keys().collect::<Vec<_>>(),
            declared.keys().collect::<Vec<_>>(),
            "documented and declared {kind}s differ"
        );
        for (name, documented) in documented {
            assert_eq!(
                documented, &declared[name],
                "the {kind} {name}: documented and declared properties differ"
            );
        }
    }
    assert_eq!(documented.bindings, declared.bindings, "documented and declared bindings differ");

    check_messages(&document, &published);
    let is_triggered =
        |message: &&Published| message.body.windows(14).any(|part| part == br#""by":"trigger""#);
    assert_eq!(published.iter().filter(is_triggered).count(), 1, "a request that is repeated is one event");
    system.shut_down().await;
}

/// The exchanges, queues and bindings of a broker.
#[derive(Default)]
struct Topology {
    exchanges: BTreeMap<String, Value>,
    queues: BTreeMap<String, Value>,
    bindings: BTreeSet<String>,
}

fn channels(document: &Value) -> &Map<String, Value> {
    document["channels"].as_object().unwrap()
}

/// Reads the documented topology, with the prefix of `system`.
fn documented(system: &TestSystem, document: &Value) -> Topology {
    let mut found = Topology::default();
    for (channel, about) in channels(document) {
        let amqp = &about["bindings"]["amqp"];
        let none = json!({});
        let arguments = about.get("x-arguments").unwrap_or(&none);
        let delays =
            about["parameters"]["delay"]["enum"].as_array().cloned().unwrap_or_else(|| vec!["".into()]);
        for delay in delays.iter().map(|delay| delay.as_str().unwrap()) {
            let name = |of: &Value| system.prefixed(&of["name"].as_str().unwrap().replace("{delay}", delay));
            let arguments: Map<_, _> = arguments
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| (key.clone(), argument(system, value, delay)))
                .collect();
            if amqp["is"] == "queue" {
                let queue = &amqp["queue"];
                assert_eq!(
                    about["address"].as_str().map(|address| address.replace("{delay}", delay)),
                    queue["name"].as_str().map(|name| name.replace("{delay}", delay)),
                    "{channel}"
                );
                assert_eq!(queue["exclusive"], false, "{channel}: a quorum queue cannot be exclusive");
                let as_is = json!({
                    "durable": queue["durable"], "auto_delete": queue["autoDelete"], "arguments": arguments,
                });
                assert!(found.queues.insert(name(queue), as_is).is_none(), "{channel} is documented twice");
                for binding in about["x-bindings"].as_array().into_iter().flatten() {
                    let exchange = system.prefixed(binding["exchange"].as_str().unwrap());
                    let arguments = binding.get("arguments").unwrap_or(&none);
                    found.bindings.insert(format!(
                        "{exchange} {} {} {arguments}",
                        binding["routingKey"].as_str().unwrap(),
                        name(queue)
                    ));
                }
            } else {
                let exchange = &amqp["exchange"];
                let as_is = json!({
                    "type": exchange["type"], "durable": exchange["durable"], "auto_delete": exchange["autoDelete"],
                    "arguments": arguments,
                });
                let before = found.exchanges.insert(name(exchange), as_is.clone());
                assert!(
                    before.is_none_or(|before| before == as_is),
                    "{channel}: the exchange is documented differently elsewhere"
                );
            }
        }
    }
    found
}

fn argument(system: &TestSystem, documented: &Value, delay: &str) -> Value {
    match documented.as_str() {
        Some("{delay}") => {
            u64::try_from(humantime::parse_duration(delay).unwrap().as_millis()).unwrap().into()
        }
        Some(text) => system.prefixed(text).into(),
        None => documented.clone(),
    }
}

fn declared(system: &TestSystem) -> Topology {
    let prefix = format!("{}.", system.config.queue.prefix);
    let ours = |row: &Value, name: &str| row[name].as_str().is_some_and(|name| name.starts_with(&prefix));
    let list = |what: &str, columns: &[&str]| -> Vec<Value> {
        serde_json::from_str(&SHARED_NODE.ctl(&[&[what, "--formatter", "json"], columns].concat())).unwrap()
    };
    let (queues, exchanges, bindings) = thread::scope(|scope| {
        let queues = scope.spawn(|| list("list_queues", &["name", "durable", "auto_delete", "arguments"]));
        let exchanges =
            scope.spawn(|| list("list_exchanges", &["name", "type", "durable", "auto_delete", "arguments"]));
        let bindings =
            list("list_bindings", &["source_name", "destination_name", "routing_key", "arguments"]);
        (queues.join().unwrap(), exchanges.join().unwrap(), bindings)
    });
    let by_name = |rows: Vec<Value>| {
        rows.into_iter()
            .filter(|row| ours(row, "name"))
            .map(|mut row| {
                row["arguments"] = arguments(&row);
                let name = row.as_object_mut().unwrap().remove("name").unwrap();
                (name.as_str().unwrap().to_owned(), row)
            })
            .collect()
    };
    let bindings = bindings.iter().filter(|row| ours(row, "source_name") && ours(row, "destination_name"));
    Topology {
        bindings: bindings
            .map(|row| {
                let text = |name: &str| row[name].as_str().unwrap();
                let (from, to) = (text("source_name"), text("destination_name"));
                format!("{from} {} {to} {}", text("routing_key"), arguments(row))
            })
            .collect(),
        queues: by_name(queues),
        exchanges: by_name(exchanges),
    }
}

/// Converts arguments, which `rabbitmqctl` prints as `[name, type, value]`.
fn arguments(row: &Value) -> Value {
    let pairs = row["arguments"].as_array().unwrap().iter();
    pairs.map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[2].clone())).collect()
}

/// A message as a consumer receives it.
#[derive(Debug)]
struct Published {
    /// The channel in the document.
    channel: String,
    routing_key: String,
    headers: Value,
    properties: Value,
    body: Vec<u8>,
}

impl Published {
    fn new(channel: &str, routing_key: &str, properties: &BasicProperties, body: Vec<u8>) -> Self {
        let text =
            |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| text.as_str().to_owned());
        let mut all = json!({
            "message_id": text(properties.message_id()), "type": text(properties.kind()),
            "timestamp": properties.timestamp(), "content_type": text(properties.content_type()),
            "app_id": text(properties.app_id()), "delivery_mode": properties.delivery_mode(),
            "expiration": text(properties.expiration()), "content_encoding": text(properties.content_encoding()),
            "priority": properties.priority(), "correlation_id": text(properties.correlation_id()),
            "reply_to": text(properties.reply_to()), "user_id": text(properties.user_id()),
        });
        all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let headers = properties.headers().clone().unwrap_or_default();
        // RabbitMQ's own headers begin with `x-`.
        let headers = headers.inner().iter().filter(|(name, _)| !name.as_str().starts_with("x-")).map(
            |(name, value)| {
                let value: Value = match value {
                    AMQPValue::LongString(text) => text.to_string().into(),
                    AMQPValue::LongLongInt(number) => (*number).into(),
                    other => panic!("a header of another type: {name} {other:?}"),
                };
                (name.to_string(), value)
            },
        );
        let (channel, routing_key) = (channel.to_owned(), routing_key.to_owned());
        Self { channel, routing_key, headers: headers.collect(), properties: all, body }
    }
}

/// Returns the documented channel of a message: among the channels of its exchange, the one with the longest matching address,
/// up to the first parameter.
fn channel_of<'a>(system: &TestSystem, document: &'a Value, exchange: &str, routing_key: &str) -> &'a str {
    let prefix_len = |address: &str| address.split('{').next().unwrap_or_default().len();
    let matching = channels(document).iter().filter(|(_, about)| {
        let address = about["address"].as_str().unwrap();
        about["bindings"]["amqp"]["exchange"]["name"]
            .as_str()
            .is_some_and(|name| system.prefixed(name) == exchange)
            && routing_key.starts_with(&address[..prefix_len(address)])
    });
    let longest = matching.max_by_key(|(_, about)| prefix_len(about["address"].as_str().unwrap()));
    longest.unwrap_or_else(|| panic!("no documented channel for {routing_key} in {exchange}")).0
}

/// Makes polyhook publish every kind of message, and returns them.
async fn published(system: &TestSystem, document: &Value) -> Vec<Published> {
    let connection = Connection::connect(&SHARED_NODE.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();

    // Before a queue is bound for alerts.
    let alert = Delivery::alert("PROJECT-1", 1, Clock::System.now(), &EventOptions::default());
    system.send(alert.clone()).await;
    let unrouted = wait_for_message(system, &channel, "unrouted", "polyhook.unrouted").await;
    assert_eq!(unrouted.body, alert.body);

    let mut messages = consume_all_exchanges(system, &channel).await;
    let dead = cause_dead_letter(system, &channel).await;
    let calls = cause_messages(system).await;
    let mut published = vec![unrouted, dead, wait_for_retry(system, &channel, document).await];

    let mut not_ready: BTreeSet<_> = calls.iter().map(|call| call.id.clone()).collect();
    let mut changed = false;
    loop {
        let message = timeout(TIMEOUT, messages.next()).await.expect("every kind of message");
        let message = message.unwrap().unwrap();
        let routing_key = message.routing_key.as_str();
        let channel = channel_of(system, document, message.exchange.as_str(), routing_key);
        let message = Published::new(channel, routing_key, &message.properties, message.data);
        if channel == "conversationReady" {
            not_ready.remove(message.properties["correlation_id"].as_str().unwrap());
        }
        published.push(message);
        match channel {
            "conversationErased" => break,
            "conversationUpdated" => system.erase(&calls[0]).await,
            _ if not_ready.is_empty() && !changed => {
                changed = true;
                change(system, &calls[0]).await;
            }
            _ => {}
        }
    }
    published.push(refresh_of_an_archived_call(system, &connection).await);
    published
}

async fn refresh_of_an_archived_call(system: &TestSystem, connection: &Connection) -> Published {
    // The delay queues of the retries are still read on the other channel.
    let channel = connection.create_channel().await.unwrap();
    wait_for_message(system, &channel, "fetchRefresh", "polyhook.fetch.retry.refresh1h").await
}

/// Makes PolyAI change a conversation, and sends another event about it.
async fn change(system: &TestSystem, call: &CallInfo) {
    let change = LaterChange { after: None, after_requests: None, more_turns: 1, summarised: false };
    let script = CallScript { change: Some(change), ..CallScript::default() };
    system.sim.state().set_script(&call.id, script);
    let options = EventOptions { seed: 2, ..EventOptions::default() };
    system.send(Delivery::completed(call, &options)).await;
}

async fn consume_all_exchanges(system: &TestSystem, channel: &lapin::Channel) -> lapin::Consumer {
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let inbox = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
    let inbox = inbox.name().clone();
    for exchange in ["polyhook.events", "polyhook.conversations", "polyhook.tail"] {
        let exchange = system.prefixed(exchange).into();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(inbox.clone(), exchange, "#".into(), options, arguments).await.unwrap();
    }
    // Without a bound queue, polyhook publishes no tail events for a second.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    channel.basic_consume(inbox, "".into(), no_ack, FieldTable::default()).await.unwrap()
}

/// Causes a dead letter: for a while, PolyAI rejects the key.
async fn cause_dead_letter(system: &TestSystem, channel: &lapin::Channel) -> Published {
    let key = system.sim.api_key();
    system.sim.state().set_api_key(None, "another-key".to_owned());
    system.announce_call(&system.add_call(Channel::Webchat)).await;
    let dead = wait_for_message(system, channel, "dead", "polyhook.dead").await;
    system.sim.state().set_api_key(None, key.to_owned());
    dead
}

/// Causes an event and a retry of every kind. Returns the calls that will be archived; the last one is only
/// found by reconciliation.
async fn cause_messages(system: &TestSystem) -> [CallInfo; 4] {
    let (chat, voice) = (system.add_call(Channel::Webchat), system.add_call(Channel::Voice));
    system.announce_call(&voice).await;
    system.announce_call(&chat).await;
    system.send(Delivery::handoff(&voice, &EventOptions::default())).await;
    system.send(Delivery::new("evt-not-json", "", &b"\x00 not JSON"[..])).await;
    let script = CallScript { in_progress_for: Some(Duration::from_hours(1)), ..CallScript::default() };
    let in_progress = NewCall { script: Some(script), ..short_call(Channel::Webchat) };
    let in_progress = system.sim.state().add_call(&in_progress).unwrap();
    system.announce_call(&in_progress).await;
    let triggered = system.add_call(Channel::Chat);
    let body = json!({ "conversation_id": triggered.id, "environment": "live" }).to_string();
    let headers = format!("authorization: Bearer {TOKEN}\r\n");
    for _ in 0..2 {
        let to = system.app.public_address().unwrap();
        let answer = block_in_place(|| http_request(to, "POST", TRIGGER, &headers, body.as_bytes()));
        assert_eq!(answer, Some((204, String::new())));
    }
    // Reconciliation lists what has started since its last pass, a second ago.
    let unannounced = NewCall { started_at: Some(Clock::System.now()), ..short_call(Channel::Chat) };
    let unannounced = system.sim.state().add_call(&unannounced).unwrap();
    [chat, voice, triggered, unannounced]
}

/// Waits for a retry with every documented header. What reconciliation has found belongs to no trace.
async fn wait_for_retry(system: &TestSystem, channel: &lapin::Channel, document: &Value) -> Published {
    let delays = delays(document);
    loop {
        for delay in &delays {
            let queue = format!("polyhook.fetch.retry.{delay}");
            if let Some(found) = get(system, channel, "fetchRetry", &queue).await
                && found.headers.get("traceparent").is_some()
            {
                return found;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn delays(document: &Value) -> Vec<String> {
    serde_json::from_value(document["channels"]["fetchRetry"]["parameters"]["delay"]["enum"].clone()).unwrap()
}

async fn wait_for_message(
    system: &TestSystem,
    channel: &lapin::Channel,
    documented: &str,
    queue: &str,
) -> Published {
    let found = std::cell::RefCell::new(None);
    eventually(queue, async || {
        let message = get(system, channel, documented, queue).await;
        found.replace(message);
        found.borrow().is_some()
    })
    .await;
    found.into_inner().unwrap()
}

async fn get(
    system: &TestSystem,
    channel: &lapin::Channel,
    documented: &str,
    queue: &str,
) -> Option<Published> {
    // Not acknowledged: the message returns to its queue when the channel is closed.
    let options = BasicGetOptions { no_ack: false };
    let message = channel.basic_get(system.prefixed(queue).into(), options).await.unwrap()?.delivery;
    Some(Published::new(documented, message.routing_key.as_str(), &message.properties, message.data))
}

/// Returns the documented name of a message.
fn message_of<'a>(document: &'a Value, message: &Published) -> &'a str {
    let messages = document["channels"][&message.channel]["messages"].as_object().unwrap();
    let kind = |name: &str| &document["components"]["messages"][name]["bindings"]["amqp"]["messageType"];
    let with_type = messages.keys().find(|name| *kind(name) == message.properties["type"]);
    let without_type = || messages.keys().find(|name| kind(name).is_null());
    with_type.or_else(without_type).unwrap_or_else(|| panic!("not documented: {message:?}"))
}

fn check_messages(document: &Value, published: &[Published]) {
    let mut checks = Vec::new();
    let mut published_names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for message in published {
        let name = message_of(document, message);
        let about = &document["components"]["messages"][name];
        let mut check = |part: &str, instance: Value| {
            let schema = format!("asyncapi.yaml#/components/messages/{name}/{part}");
            checks.push(SchemaCheck { schema, closed: true, instances: vec![instance] });
        };
        check("x-properties", message.properties.clone());
        if about.get("headers").is_some() {
            check("headers", message.headers.clone());
        } else {
            assert_eq!(message.headers, json!({}), "the headers are not documented");
        }
        if let Ok(body) = serde_json::from_slice(&message.body) {
            check("payload", body);
        } else {
            assert_eq!(message.routing_key, "unparsed.unknown");
        }
        for (part, instance) in [("x-properties", &message.properties), ("headers", &message.headers)] {
            // Grouped by schema, because several messages may share one.
            if let Some(schema) = about[part]["$ref"].as_str() {
                let names = instance.as_object().unwrap().keys().cloned();
                published_names.entry(schema.to_owned()).or_default().extend(names);
            }
        }
        published_names.entry("messages".to_owned()).or_default().insert(name.to_owned());

        // The properties that the document promises for the sender.
        let reference = json!({ "$ref": format!("#/channels/{}", message.channel) });
        let operations = document["operations"].as_object().unwrap().values();
        let sends = operations.clone().find(|it| it["action"] == "send" && it["channel"] == reference);
        if let Some(operation) = sends {
            let bindings = operation["bindings"]["$ref"].as_str();
            let bindings = bindings.map_or(&operation["bindings"], |it| document.pointer(&it[1..]).unwrap());
            let mode = message.properties["delivery_mode"].as_u64().unwrap_or(1);
            assert_eq!(bindings["amqp"]["deliveryMode"], mode, "{message:?}");
            assert_eq!(
                bindings["amqp"]["timestamp"],
                message.properties["timestamp"].is_u64(),
                "{message:?}"
            );
        }
        if name.starts_with("conversation") {
            assert_eq!(about["contentType"], message.properties["content_type"]);
        }
    }
    SchemaCheck::assert_valid(&checks);

    let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let messages = names(&document["components"]["messages"]);
    assert_eq!(
        published_names.remove("messages").unwrap(),
        messages,
        "documented and published messages differ"
    );
    for (schema, published_names) in published_names {
        let documented = names(&document.pointer(&schema[1..]).unwrap()["properties"]);
        assert_eq!(published_names, documented, "documented and published names of {schema} differ");
    }
}
