//! What can be seen of a broker over AMQP, for `polyhook doctor`.
//!
//! Nothing of polyhook's is made or changed: what is missing stays missing, no message of anybody's is taken, and
//! nothing is published to an exchange that somebody may have bound to. What has to be tried is tried on a queue of
//! our own, which is exclusive and so goes with the connection, and by removing bindings that do not exist: the
//! broker checks the same permissions for that.
//!
//! AMQP shows neither policies nor bindings.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ErrorKind,
    options::{
        BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeUnbindOptions,
        QueueDeclareOptions,
    },
    types::{FieldTable, ShortString},
};
use tokio::time::{Instant, timeout};

use super::{
    OpenError,
    endpoint::{Broker, Plug},
    topology::{Object, Topology},
};
use crate::queue::QueueConfig;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);
const GOODBYE: Duration = Duration::from_secs(1);
/// No binding has it.
const NO_KEY: &str = "polyhook.doctor.nothing";

/// What was found.
#[derive(Debug)]
pub struct ProbeReport {
    /// Each node, in the order of `queue.url`, and why it cannot be connected to, if it cannot.
    pub nodes: Vec<(String, Result<(), String>)>,
    /// The rest, from the first node that let us in.
    pub details: Option<BrokerDetails>,
}

/// What a connection shows.
#[derive(Debug)]
pub struct BrokerDetails {
    /// Whom the broker takes us for.
    pub user: String,
    /// Where we are.
    pub vhost: String,
    /// polyhook's exchanges and queues.
    pub objects: Vec<(&'static str, String, ObjectState)>,
    /// Permissions that are missing.
    pub missing_permissions: Vec<MissingPermission>,
    /// How long a message took there and back, or why it did not come.
    pub round_trip: Result<Duration, RoundTripError>,
}

/// What an exchange or queue is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// As it has to be; of a queue, its messages and its consumers.
    AsExpected(Option<(u32, u32)>),
    /// Not there.
    Missing,
    /// There, but not as it has to be: the broker's words.
    Different(String),
    /// We may not see whether it is as it has to be.
    Denied,
    /// The broker says something else.
    Unclear(String),
}

/// A permission that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPermission {
    /// `configure`, `write` or `read`.
    pub permission: &'static str,
    /// On what.
    pub object: String,
}

/// Why no message came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundTripError {
    /// `connection.blocked`: short of memory or disk.
    Blocked,
    /// A permission is missing, and said so elsewhere.
    Denied,
    /// Something else.
    Other(String),
}

/// Connects to every node and looks around in the first that answers.
pub async fn probe(config: &QueueConfig, delays: &[Duration]) -> Result<ProbeReport, OpenError> {
    let topology = Topology::new(&config.prefix, delays)?;
    let broker = Broker::new(config, None)?;
    let places: Vec<_> = broker.places().map(str::to_owned).collect();
    let (mut nodes, mut details) = (Vec::new(), None);
    for place in places {
        // Each connect is the next one's turn, so this is the node of that name.
        let connected = match broker.connect("doctor").await {
            Ok((connection, plug, _)) => {
                if details.is_none() {
                    details = Some(look_around(&connection, config, &topology).await);
                }
                close(&connection, &plug).await;
                Ok(())
            }
            Err(reason) => Err(reason),
        };
        nodes.push((place, connected));
    }
    Ok(ProbeReport { nodes, details })
}

async fn close(connection: &Connection, plug: &Plug) {
    let _ = timeout(GOODBYE, connection.close(200, "OK".into())).await;
    plug.pull();
}

async fn look_around(connection: &Connection, config: &QueueConfig, topology: &Topology) -> BrokerDetails {
    let mut objects = Vec::new();
    for object in topology.objects() {
        let state = state(connection, &object).await;
        objects.push((object.what(), object.name.to_string(), state));
    }
    let queue = ShortString::from(format!("{}.doctor.{}", config.prefix, uuid::Uuid::new_v4().simple()));
    let mut missing_permissions = permissions(connection, topology, &queue).await;
    // Last: a broker that is short of memory reads nothing more from a connection that has published.
    let round_trip = round_trip(connection, &queue, &mut missing_permissions).await;
    let status = connection.status();
    BrokerDetails {
        user: status.username(),
        vhost: status.vhost().to_string(),
        objects,
        missing_permissions,
        round_trip,
    }
}

/// First whether it is there, so that nothing is made; then whether it is the same.
async fn state(connection: &Connection, object: &Object) -> ObjectState {
    let look = ask(connection, async |channel| object.look(channel).await).await;
    let counts = match look {
        Ok(queue) => queue.map(|queue| (queue.message_count(), queue.consumer_count())),
        Err(Said { code: Some(404), .. }) => return ObjectState::Missing,
        Err(Said { code: Some(403), .. }) => return ObjectState::Denied,
        Err(Said { text, .. }) => return ObjectState::Unclear(text),
    };
    match ask(connection, async |channel| object.declare(channel).await).await {
        Ok(_) => ObjectState::AsExpected(counts),
        Err(Said { code: Some(406), text }) => ObjectState::Different(text),
        Err(Said { code: Some(403), .. }) => ObjectState::Denied,
        Err(Said { text, .. }) => ObjectState::Unclear(text),
    }
}

/// What of its own the broker does not let us do.
async fn permissions(
    connection: &Connection,
    topology: &Topology,
    queue: &ShortString,
) -> Vec<MissingPermission> {
    let (events, conversations) = (&topology.events, &topology.conversations);
    let mut denied = Vec::new();
    let mut note = |said: Result<(), Said>, what: &[(&'static str, &ShortString)]| {
        let Err(Said { code: Some(403), text }) = said else { return };
        // Of two permissions that are needed, the broker names the thing that lacks its own.
        let found = what.iter().find(|(_, on)| text.contains(&format!("'{on}'"))).or(what.first());
        let Some((permission, on)) = found else { return };
        let missing = MissingPermission { permission, object: on.to_string() };
        if !denied.contains(&missing) {
            denied.push(missing);
        }
    };
    let made = ask(connection, async |channel| declare_own(channel, queue).await).await;
    note(made, &[("configure", queue)]);
    let unbound = ask(connection, async |channel| {
        channel.queue_unbind(queue.clone(), events.clone(), NO_KEY.into(), FieldTable::default()).await
    });
    note(unbound.await, &[("write", queue), ("read", events)]);
    for (to, from) in [(events, conversations), (conversations, events)] {
        let unbound = ask(connection, async |channel| {
            let options = ExchangeUnbindOptions::default();
            channel
                .exchange_unbind(to.clone(), from.clone(), NO_KEY.into(), options, FieldTable::default())
                .await
        });
        note(unbound.await, &[("write", to), ("read", from)]);
    }
    denied
}

async fn declare_own(channel: &Channel, queue: &ShortString) -> lapin::Result<()> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), options, FieldTable::default()).await.map(drop)
}

/// Sends a message to our own queue, waits for the confirm, and takes it again.
async fn round_trip(
    connection: &Connection,
    queue: &ShortString,
    denied: &mut Vec<MissingPermission>,
) -> Result<Duration, RoundTripError> {
    if denied.iter().any(|denied| denied.permission == "configure") {
        return Err(RoundTripError::Denied);
    }
    let started = Instant::now();
    let mut missing = |permission, on: &str| {
        denied.push(MissingPermission { permission, object: on.to_owned() });
        RoundTripError::Denied
    };
    let sent = ask(connection, async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default();
        channel.basic_publish("".into(), queue.clone(), options, b"polyhook doctor", properties).await?.await
    });
    let blocked = async {
        while !connection.status().blocked() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let confirmed = tokio::select! {
        sent = sent => sent,
        () = blocked => return Err(RoundTripError::Blocked),
    };
    match confirmed {
        Ok(Confirmation::Ack(None)) => {}
        Ok(_) => return Err(RoundTripError::Other("the broker did not take a message".to_owned())),
        // What the broker calls the default exchange in a permission.
        Err(Said { code: Some(403), .. }) => return Err(missing("write", "amq.default")),
        Err(Said { text, .. }) => return Err(RoundTripError::Other(text)),
    }
    let got = ask(connection, async |channel| {
        channel.basic_get(queue.clone(), BasicGetOptions { no_ack: true }).await
    });
    match got.await {
        Ok(Some(_)) => Ok(started.elapsed()),
        Ok(None) => Err(RoundTripError::Other(
            "a message that was confirmed is not in its queue: a policy drops messages".to_owned(),
        )),
        Err(Said { code: Some(403), .. }) => Err(missing("read", queue.as_str())),
        Err(Said { text, .. }) => Err(RoundTripError::Other(text)),
    }
}

/// What the broker answered instead.
struct Said {
    code: Option<u16>,
    text: String,
}

/// One question on a channel of its own, which a refusal closes.
async fn ask<T>(
    connection: &Connection,
    question: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
) -> Result<T, Said> {
    let asked = async {
        let channel = connection.create_channel().await?;
        question(&channel).await
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::ProtocolError(said) => {
                Said { code: Some(said.get_id()), text: said.get_message().to_string() }
            }
            _ => Said { code: None, text: error.to_string() },
        }),
        Err(_) => Err(Said { code: None, text: format!("no answer within {PATIENCE:?}") }),
    }
}
