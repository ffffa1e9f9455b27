//! `docs/asyncapi.yaml` against a broker that polyhook has used, and against every kind of message it publishes.

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
use polyhook::{clock::Clock, config::Config};
use polyhook_simulator::{CallScript, Channel, Delivery, EventOptions, NewCall};
use serde_json::{Map, Value, json};
use tokio::{task::block_in_place, time::timeout};

use super::{Held, World, document, eventually, short};
use crate::support::rabbit::SHARED_NODE;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_and_messages_are_as_documented() {
    let document = document("asyncapi.yaml");
    assert_eq!(Config::default().queue.prefix, "polyhook", "the document has the default's names");
    let world = World::start(&SHARED_NODE, |config| {
        config.reconcile.every = Duration::from_secs(1);
        config.reconcile.settle = Duration::ZERO;
    })
    .await;

    let (declared, published) = tokio::join!(async { block_in_place(|| declared(&world)) }, async {
        published(&world, &document).await
    });
    let documented = documented(&world, &document);
    for (what, documented, declared) in [
        ("exchange", &documented.exchanges, &declared.exchanges),
        ("queue", &documented.queues, &declared.queues),
    ] {
        assert_eq!(
            documented.keys().collect::<Vec<_>>(),
            declared.keys().collect::<Vec<_>>(),
            "each {what} is documented, and there"
        );
        for (name, documented) in documented {
            assert_eq!(documented, &declared[name], "the {what} {name}: documented, and declared");
        }
    }
    assert_eq!(documented.bindings, declared.bindings, "bindings: documented, and there");

    check_messages(&document, &published);
    world.end().await;
}

/// What stands on the broker.
#[derive(Default)]
struct Topology {
    exchanges: BTreeMap<String, Value>,
    queues: BTreeMap<String, Value>,
    bindings: BTreeSet<String>,
}

fn channels(document: &Value) -> &Map<String, Value> {
    document["channels"].as_object().unwrap()
}

/// With the names of this world's prefix.
fn documented(world: &World, document: &Value) -> Topology {
    let mut found = Topology::default();
    for (channel, about) in channels(document) {
        let amqp = &about["bindings"]["amqp"];
        let none = json!({});
        let arguments = about.get("x-arguments").unwrap_or(&none);
        let delays =
            about["parameters"]["delay"]["enum"].as_array().cloned().unwrap_or_else(|| vec!["".into()]);
        for delay in delays.iter().map(|delay| delay.as_str().unwrap()) {
            let name = |of: &Value| world.name(&of["name"].as_str().unwrap().replace("{delay}", delay));
            let arguments: Map<_, _> = arguments
                .as_object()
                .unwrap()
                .iter()
                .map(|(key, value)| (key.clone(), argument(world, value, delay)))
                .collect();
            if amqp["is"] == "queue" {
                let queue = &amqp["queue"];
                assert_eq!(
                    about["address"].as_str().map(|address| address.replace("{delay}", delay)),
                    queue["name"].as_str().map(|name| name.replace("{delay}", delay)),
                    "{channel}"
                );
                assert_eq!(queue["exclusive"], false, "{channel}: a quorum queue cannot be");
                let as_is = json!({
                    "durable": queue["durable"], "auto_delete": queue["autoDelete"], "arguments": arguments,
                });
                assert!(found.queues.insert(name(queue), as_is).is_none(), "{channel} is documented twice");
                for binding in about["x-bindings"].as_array().into_iter().flatten() {
                    let exchange = world.name(binding["exchange"].as_str().unwrap());
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
                assert!(before.is_none_or(|before| before == as_is), "{channel} says it otherwise");
            }
        }
    }
    found
}

fn argument(world: &World, documented: &Value, delay: &str) -> Value {
    match documented.as_str() {
        Some("{delay}") => {
            u64::try_from(humantime::parse_duration(delay).unwrap().as_millis()).unwrap().into()
        }
        Some(text) => world.name(text).into(),
        None => documented.clone(),
    }
}

fn declared(world: &World) -> Topology {
    let prefix = format!("{}.", world.config.queue.prefix);
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

/// `rabbitmqctl` prints them as `[name, type, value]`.
fn arguments(row: &Value) -> Value {
    let pairs = row["arguments"].as_array().unwrap().iter();
    pairs.map(|pair| (pair[0].as_str().unwrap().to_owned(), pair[2].clone())).collect()
}

/// A message as a consumer sees it.
#[derive(Debug)]
struct Seen {
    /// In the document.
    channel: String,
    routing_key: String,
    headers: Value,
    properties: Value,
    body: Vec<u8>,
}

impl Seen {
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
        // What begins so is RabbitMQ's own.
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

/// The channel a message came over: that of its exchange whose address, up to its first parameter, is the longest that fits.
fn channel_of<'a>(world: &World, document: &'a Value, exchange: &str, routing_key: &str) -> &'a str {
    let begins = |address: &str| address.split('{').next().unwrap_or_default().len();
    let fits = channels(document).iter().filter(|(_, about)| {
        let address = about["address"].as_str().unwrap();
        about["bindings"]["amqp"]["exchange"]["name"]
            .as_str()
            .is_some_and(|name| world.name(name) == exchange)
            && routing_key.starts_with(&address[..begins(address)])
    });
    let longest = fits.max_by_key(|(_, about)| begins(about["address"].as_str().unwrap()));
    longest.unwrap_or_else(|| panic!("nothing documented about {routing_key} in {exchange}")).0
}

/// Makes polyhook publish one of everything.
async fn published(world: &World, document: &Value) -> Vec<Seen> {
    let connection = Connection::connect(&SHARED_NODE.url(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = EventOptions::default();

    // Before anybody asks for it.
    let alert = Delivery::alert("PROJECT-1", 1, Clock::System.now(), &options);
    world.send(alert.clone()).await;
    let unrouted = got(world, &channel, "unrouted", "polyhook.unrouted").await;
    assert_eq!(unrouted.body, alert.body);

    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let inbox = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
    let inbox = inbox.name().clone();
    for exchange in ["polyhook.events", "polyhook.conversations", "polyhook.tail"] {
        let exchange = world.name(exchange).into();
        let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind(inbox.clone(), exchange, "#".into(), options, arguments).await.unwrap();
    }
    // While nobody has bound a queue for notes, none is told for a second.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let no_ack = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mut messages = channel.basic_consume(inbox, "".into(), no_ack, FieldTable::default()).await.unwrap();

    let (voice, chat) = (world.call(Channel::Voice), world.call(Channel::Webchat));
    world.deliver(&voice).await;
    world.deliver(&chat).await;
    world.send(Delivery::handoff(&voice, &options)).await;
    world.send(Delivery::new("evt-no-json", "", &b"\x00 no JSON"[..])).await;
    let unknown = br#"{"type":"conversation.completed","data":{"conversation_id":"CA-nobody-knows","environment":"live"}}"#;
    world.send(Delivery::new("evt-unknown", "conversation.completed", &unknown[..])).await;
    let script = CallScript { in_progress_for: Some(Duration::from_hours(1)), ..CallScript::default() };
    let going_on = NewCall { script: Some(script), ..short(Channel::Webchat) };
    let going_on = world.sim.state().add_call(&going_on).unwrap();
    world.deliver(&going_on).await;
    // Nobody delivers this one.
    let silent = world.call(Channel::Chat);

    let mut seen = vec![unrouted, got(world, &channel, "dead", "polyhook.dead").await];
    let retried = delays(document);
    seen.push(
        async {
            loop {
                for delay in &retried {
                    let queue = format!("polyhook.fetch.retry.{delay}");
                    if let Some(found) = get(world, &channel, "fetchRetry", &queue).await {
                        return found;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        .await,
    );

    let mut erased = false;
    let mut missing: BTreeSet<_> = [&voice.id, &chat.id, &silent.id].into_iter().cloned().collect();
    loop {
        let message = timeout(SOON, messages.next()).await.expect("one of everything").unwrap().unwrap();
        let routing_key = message.routing_key.as_str();
        let channel = channel_of(world, document, message.exchange.as_str(), routing_key);
        let message = Seen::new(channel, routing_key, &message.properties, message.data);
        if channel == "conversationReady" {
            missing.remove(message.headers["cloudEvents:subject"].as_str().unwrap());
        }
        let last = channel == "conversationErased";
        seen.push(message);
        if last {
            return seen;
        }
        if missing.is_empty() && !erased {
            erased = true;
            world.erase(&chat).await;
        }
    }
}

fn delays(document: &Value) -> Vec<String> {
    serde_json::from_value(document["channels"]["fetchRetry"]["parameters"]["delay"]["enum"].clone()).unwrap()
}

async fn got(world: &World, channel: &lapin::Channel, documented: &str, queue: &str) -> Seen {
    let found = std::cell::RefCell::new(None);
    eventually(queue, async || {
        let message = get(world, channel, documented, queue).await;
        found.replace(message);
        found.borrow().is_some()
    })
    .await;
    found.into_inner().unwrap()
}

async fn get(world: &World, channel: &lapin::Channel, documented: &str, queue: &str) -> Option<Seen> {
    // It goes back when the channel is closed.
    let options = BasicGetOptions { no_ack: false };
    let message = channel.basic_get(world.name(queue).into(), options).await.unwrap()?.delivery;
    Some(Seen::new(documented, message.routing_key.as_str(), &message.properties, message.data))
}

/// The name of what the document calls such a message.
fn message_of<'a>(document: &'a Value, seen: &Seen) -> &'a str {
    let messages = document["channels"][&seen.channel]["messages"].as_object().unwrap();
    let kind = |name: &str| &document["components"]["messages"][name]["bindings"]["amqp"]["messageType"];
    let named = messages.keys().find(|name| *kind(name) == seen.properties["type"]);
    let nameless = || messages.keys().find(|name| kind(name).is_null());
    named.or_else(nameless).unwrap_or_else(|| panic!("not documented: {seen:?}"))
}

fn check_messages(document: &Value, published: &[Seen]) {
    let mut held = Vec::new();
    let mut met: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for seen in published {
        let name = message_of(document, seen);
        let about = &document["components"]["messages"][name];
        let mut keep = |part: &str, instance: Value| {
            let schema = format!("asyncapi.yaml#/components/messages/{name}/{part}");
            held.push(Held { schema, closed: true, instances: vec![instance] });
        };
        keep("x-properties", seen.properties.clone());
        if about.get("headers").is_some() {
            keep("headers", seen.headers.clone());
        } else {
            assert_eq!(seen.headers, json!({}), "headers that are not documented");
        }
        if let Ok(body) = serde_json::from_slice(&seen.body) {
            keep("payload", body);
        } else {
            assert_eq!(seen.routing_key, "unparsed.unknown");
        }
        for (part, instance) in [("x-properties", &seen.properties), ("headers", &seen.headers)] {
            // By the schema, which several messages may share.
            if let Some(schema) = about[part]["$ref"].as_str() {
                let names = instance.as_object().unwrap().keys().cloned();
                met.entry(schema.to_owned()).or_default().extend(names);
            }
        }
        met.entry("messages".to_owned()).or_default().insert(name.to_owned());

        // What a sender says of itself.
        let reference = json!({ "$ref": format!("#/channels/{}", seen.channel) });
        let operations = document["operations"].as_object().unwrap().values();
        let sends = operations.clone().find(|it| it["action"] == "send" && it["channel"] == reference);
        if let Some(operation) = sends {
            let bindings = operation["bindings"]["$ref"].as_str();
            let bindings = bindings.map_or(&operation["bindings"], |it| document.pointer(&it[1..]).unwrap());
            let mode = seen.properties["delivery_mode"].as_u64().unwrap_or(1);
            assert_eq!(bindings["amqp"]["deliveryMode"], mode, "{seen:?}");
            assert_eq!(bindings["amqp"]["timestamp"], seen.properties["timestamp"].is_u64(), "{seen:?}");
        }
        if name.starts_with("conversation") {
            assert_eq!(about["contentType"], seen.properties["content_type"]);
        }
    }
    Held::assert_good(&held);

    let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let messages = names(&document["components"]["messages"]);
    assert_eq!(met.remove("messages").unwrap(), messages, "each message that is documented was published");
    for (schema, met) in met {
        let documented = names(&document.pointer(&schema[1..]).unwrap()["properties"]);
        assert_eq!(met, documented, "each name in {schema} was published");
    }
}
