//! A probe of the broker over AMQP, for `polyhook doctor`.
//!
//! The probe does not create or change any of polyhook's objects: missing ones stay missing, it consumes no message of
//! others, and publishes nothing to an exchange that a customer may have bound to. It tests permissions on an exclusive
//! queue of its own, which is deleted with the connection, and by removing bindings that do not exist, for which the broker
//! checks the same permissions.
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
    broker::{Broker, SocketHandle},
    error::OpenError,
    topology::{Topology, TopologyObject},
};
use crate::queue::QueueConfig;

/// Bounds each request to the broker.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const BLOCKED_CHECK_INTERVAL: Duration = Duration::from_millis(20);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// A routing key that no binding has.
const UNUSED_KEY: &str = "polyhook.doctor.nothing";

/// The result of a probe.
#[derive(Debug)]
pub struct ProbeReport {
    /// The URL of each node, in the order of `queue.url`, and the error if the connection failed.
    pub nodes: Vec<(String, Result<(), String>)>,
    /// Details from the first node that accepted a connection.
    pub details: Option<BrokerDetails>,
}

/// The facts that a connection shows.
#[derive(Debug)]
pub struct BrokerDetails {
    /// The user that the broker has authenticated.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
    /// polyhook's exchanges and queues: type, name, state.
    pub objects: Vec<(&'static str, String, ObjectState)>,
    /// Permissions that are missing.
    pub missing_permissions: Vec<MissingPermission>,
    /// The time that a message took to the broker and back, or an error.
    pub round_trip: Result<Duration, RoundTripError>,
}

/// The state of an exchange or queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectState {
    /// It has the required properties. For a queue: the number of messages and consumers.
    AsExpected(Option<(u32, u32)>),
    /// It does not exist.
    Missing,
    /// It exists with other properties, in the broker's words.
    Different(String),
    /// The user has no permission to check it.
    Denied,
    /// The broker gave another answer.
    Unclear(String),
}

/// A permission that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPermission {
    /// `configure`, `write` or `read`.
    pub permission: &'static str,
    /// The exchange or queue.
    pub object: String,
}

/// An error of the round trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundTripError {
    /// `connection.blocked`: short of memory or disk.
    Blocked,
    /// A permission is missing; it is listed in [`BrokerDetails::missing_permissions`].
    Denied,
    /// Another error.
    Other(String),
}

/// Connects to every node and inspects the first one that accepts a connection.
pub async fn probe(
    config: &QueueConfig,
    delays: &[Duration],
    refresh_delays: &[Duration],
) -> Result<ProbeReport, OpenError> {
    let topology = Topology::new(&config.prefix, delays, refresh_delays)?;
    let broker = Broker::new(config, None)?;
    let urls: Vec<_> = broker.display_urls().map(str::to_owned).collect();
    let (mut nodes, mut details) = (Vec::new(), None);
    for url in urls {
        // The broker's nodes are used in turn, so this connects to the node of that URL.
        let connected = match broker.connect("doctor").await {
            Ok((connection, socket, _)) => {
                if details.is_none() {
                    details = Some(inspect(&connection, config, &topology).await);
                }
                close(&connection, &socket).await;
                Ok(())
            }
            Err(reason) => Err(reason),
        };
        nodes.push((url, connected));
    }
    Ok(ProbeReport { nodes, details })
}

async fn close(connection: &Connection, socket: &SocketHandle) {
    let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "OK".into())).await;
    socket.shut_down();
}

async fn inspect(connection: &Connection, config: &QueueConfig, topology: &Topology) -> BrokerDetails {
    let mut objects = Vec::new();
    for object in topology.objects() {
        let state = object_state(connection, &object).await;
        objects.push((object.object_type(), object.name.to_string(), state));
    }
    let queue = ShortString::from(format!("{}.doctor.{}", config.prefix, uuid::Uuid::new_v4().simple()));
    let mut missing_permissions = permissions(connection, topology, &queue).await;
    // The round trip is last, because a broker that is short of memory stops reading from a connection that has published.
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

/// Checks first that an object exists, so that nothing is created, and then its properties.
async fn object_state(connection: &Connection, object: &TopologyObject) -> ObjectState {
    let found = with_channel(connection, async |channel| object.inspect(channel).await).await;
    let counts = match found {
        Ok(queue) => queue.map(|queue| (queue.message_count(), queue.consumer_count())),
        Err(BrokerError { code: Some(404), .. }) => return ObjectState::Missing,
        Err(BrokerError { code: Some(403), .. }) => return ObjectState::Denied,
        Err(BrokerError { text, .. }) => return ObjectState::Unclear(text),
    };
    match with_channel(connection, async |channel| object.declare(channel).await).await {
        Ok(_) => ObjectState::AsExpected(counts),
        Err(BrokerError { code: Some(406), text }) => ObjectState::Different(text),
        Err(BrokerError { code: Some(403), .. }) => ObjectState::Denied,
        Err(BrokerError { text, .. }) => ObjectState::Unclear(text),
    }
}

/// Returns the permissions that the user lacks for polyhook's exchanges and for a queue under the prefix.
async fn permissions(
    connection: &Connection,
    topology: &Topology,
    queue: &ShortString,
) -> Vec<MissingPermission> {
    let (events, conversations) = (&topology.events, &topology.conversations);
    let mut denied = Vec::new();
    let mut record = |result: Result<(), BrokerError>, needed: &[(&'static str, &ShortString)]| {
        let Err(BrokerError { code: Some(403), text }) = result else { return };
        // If an operation needs two permissions, the broker names the object whose permission is missing.
        let found = needed.iter().find(|(_, on)| text.contains(&format!("'{on}'"))).or(needed.first());
        let Some((permission, on)) = found else { return };
        let missing = MissingPermission { permission, object: on.to_string() };
        if !denied.contains(&missing) {
            denied.push(missing);
        }
    };
    let declared = with_channel(connection, async |channel| declare_exclusive(channel, queue).await).await;
    record(declared, &[("configure", queue)]);
    let unbound = with_channel(connection, async |channel| {
        channel.queue_unbind(queue.clone(), events.clone(), UNUSED_KEY.into(), FieldTable::default()).await
    });
    record(unbound.await, &[("write", queue), ("read", events)]);
    for (to, from) in [(events, conversations), (conversations, events)] {
        let unbound = with_channel(connection, async |channel| {
            let options = ExchangeUnbindOptions::default();
            channel
                .exchange_unbind(to.clone(), from.clone(), UNUSED_KEY.into(), options, FieldTable::default())
                .await
        });
        record(unbound.await, &[("write", to), ("read", from)]);
    }
    denied
}

async fn declare_exclusive(channel: &Channel, queue: &ShortString) -> lapin::Result<()> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), options, FieldTable::default()).await.map(drop)
}

/// Publishes a message to the probe's own queue, waits for the confirm, and reads the message.
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
    let sent = with_channel(connection, async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default();
        channel.basic_publish("".into(), queue.clone(), options, b"polyhook doctor", properties).await?.await
    });
    let blocked = async {
        while !connection.status().blocked() {
            tokio::time::sleep(BLOCKED_CHECK_INTERVAL).await;
        }
    };
    let confirmed = tokio::select! {
        sent = sent => sent,
        () = blocked => return Err(RoundTripError::Blocked),
    };
    match confirmed {
        Ok(Confirmation::Ack(None)) => {}
        Ok(_) => return Err(RoundTripError::Other("the broker did not store a message".to_owned())),
        // In permissions, the default exchange is called `amq.default`.
        Err(BrokerError { code: Some(403), .. }) => return Err(missing("write", "amq.default")),
        Err(BrokerError { text, .. }) => return Err(RoundTripError::Other(text)),
    }
    let got = with_channel(connection, async |channel| {
        channel.basic_get(queue.clone(), BasicGetOptions { no_ack: true }).await
    });
    match got.await {
        Ok(Some(_)) => Ok(started.elapsed()),
        Ok(None) => Err(RoundTripError::Other(
            "a message that was confirmed is not in its queue: a policy drops messages".to_owned(),
        )),
        Err(BrokerError { code: Some(403), .. }) => Err(missing("read", queue.as_str())),
        Err(BrokerError { text, .. }) => Err(RoundTripError::Other(text)),
    }
}

/// An error answer of the broker.
struct BrokerError {
    /// The AMQP reply code.
    code: Option<u16>,
    text: String,
}

/// Runs a request on a channel of its own, because the broker closes the channel of a refused request.
async fn with_channel<T>(
    connection: &Connection,
    request: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
) -> Result<T, BrokerError> {
    let answer = async {
        let channel = connection.create_channel().await?;
        request(&channel).await
    };
    match timeout(REQUEST_TIMEOUT, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(match error.kind() {
            ErrorKind::ProtocolError(answer) => {
                BrokerError { code: Some(answer.get_id()), text: answer.get_message().to_string() }
            }
            _ => BrokerError { code: None, text: error.to_string() },
        }),
        Err(_) => Err(BrokerError { code: None, text: format!("no answer within {REQUEST_TIMEOUT:?}") }),
    }
}
