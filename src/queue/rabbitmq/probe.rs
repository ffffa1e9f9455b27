//! A probe of the broker over AMQP, for `polyhook doctor`.
//!
//! The probe does not create or change any of polyhook's objects: missing ones stay missing, it consumes no message of
//! others, and publishes nothing to an exchange that a customer may have bound to. It needs no permission that the user's
//! role does not need (`permissions`).
//!
//! AMQP shows neither policies nor bindings.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use tokio::time::{Instant, timeout};

pub use super::permissions::{BrokerUser, MissingPermission};
use super::{
    broker::{Broker, SocketHandle},
    error::OpenError,
    permissions::{self, DEFAULT_EXCHANGE, Permission},
    request::{BrokerError, with_channel},
    topology::{Topology, TopologyObject},
};
use crate::queue::QueueConfig;

const BLOCKED_CHECK_INTERVAL: Duration = Duration::from_millis(20);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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
    /// The name of the user that the broker has authenticated.
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
    Missing {
        /// The user may create it.
        may_create: bool,
    },
    /// It exists with other properties, in the broker's words.
    Different(String),
    /// The user has no permission to declare it; it is listed in [`BrokerDetails::missing_permissions`].
    Denied,
    /// The broker gave another answer.
    Unclear(String),
}

/// An error of the round trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoundTripError {
    /// `connection.blocked`: short of memory or disk.
    Blocked,
    /// A permission is missing; it is listed in [`BrokerDetails::missing_permissions`].
    Denied,
    /// The exchange for the message does not exist yet.
    Undeclared,
    /// Another error.
    Other(String),
}

/// Connects to every node and inspects the first one that accepts a connection, for what `user` needs there.
pub async fn probe(
    config: &QueueConfig,
    delays: &[Duration],
    refresh_delays: &[Duration],
    user: BrokerUser,
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
                    details = Some(inspect(&connection, &topology, user).await);
                }
                close(&connection, &socket).await;
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        };
        nodes.push((url, connected));
    }
    Ok(ProbeReport { nodes, details })
}

async fn close(connection: &Connection, socket: &SocketHandle) {
    let _ = timeout(CLOSE_TIMEOUT, connection.close(200, "OK".into())).await;
    socket.shut_down();
}

async fn inspect(connection: &Connection, topology: &Topology, user: BrokerUser) -> BrokerDetails {
    let (mut objects, mut missing_permissions) = (Vec::new(), Vec::new());
    for object in topology.objects() {
        let state = object_state(connection, &object).await;
        let missing = MissingPermission::new(Permission::Configure, object.name.as_str());
        // Exchange and queue may share a name.
        if state == ObjectState::Denied && !missing_permissions.contains(&missing) {
            missing_permissions.push(missing);
        }
        objects.push((object.object_type(), object.name.to_string(), state));
    }
    // The name of a follower's queue, so that an operator needs no permission for another one.
    let queue = ShortString::from(format!("{}.{}", topology.tail, uuid::Uuid::new_v4().simple()));
    missing_permissions.extend(permissions::missing(connection, topology, &queue, user).await);
    // The round trip is last, because a broker that is short of memory stops reading from a connection that has published.
    let round_trip = round_trip(connection, topology, &queue, user).await;
    if user.needs_default_exchange() && round_trip == Err(RoundTripError::Denied) {
        missing_permissions.push(MissingPermission::new(Permission::Write, DEFAULT_EXCHANGE));
    }
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
        Err(BrokerError { code: Some(404), .. }) => return missing_object_state(connection, object).await,
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

/// Finds out whether the user may create an object, without creating it.
async fn missing_object_state(connection: &Connection, object: &TopologyObject) -> ObjectState {
    let is_denied = async |all_arguments| {
        let declared =
            with_channel(connection, async |channel| object.declare_invalid(channel, all_arguments).await);
        matches!(declared.await, Err(BrokerError { code: Some(403), .. }))
    };
    if is_denied(false).await {
        return ObjectState::Denied;
    }
    ObjectState::Missing { may_create: !is_denied(true).await }
}

async fn declare_exclusive(channel: &Channel, queue: &ShortString) -> lapin::Result<()> {
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.clone(), options, FieldTable::default()).await.map(drop)
}

/// Measures the way of a message to the broker and back: through a queue of its own if the user may use one, or else as
/// an unroutable message, which the broker returns.
async fn round_trip(
    connection: &Connection,
    topology: &Topology,
    queue: &ShortString,
    user: BrokerUser,
) -> Result<Duration, RoundTripError> {
    let own = with_channel(connection, async |channel| declare_exclusive(channel, queue).await).await;
    if own.is_ok() {
        match round_trip_through(connection, queue).await {
            Err(RoundTripError::Denied) => {}
            result => return result,
        }
    }
    let exchange = if user.needs_default_exchange() { "" } else { topology.unrouted.as_str() };
    let started = Instant::now();
    // No binding of the exchange `unrouted` fits a message without its header.
    publish(connection, exchange, &format!("{queue}.nothing")).await.map(|_| started.elapsed())
}

/// Publishes a message to the queue and reads it.
async fn round_trip_through(
    connection: &Connection,
    queue: &ShortString,
) -> Result<Duration, RoundTripError> {
    let started = Instant::now();
    if !matches!(publish(connection, "", queue.as_str()).await?, Confirmation::Ack(None)) {
        return Err(RoundTripError::Other("the broker did not store a message".to_owned()));
    }
    let got = with_channel(connection, async |channel| {
        channel.basic_get(queue.clone(), BasicGetOptions { no_ack: true }).await
    });
    match got.await {
        Ok(Some(_)) => Ok(started.elapsed()),
        Ok(None) => Err(RoundTripError::Other(
            "a message that was confirmed is not in its queue: a policy drops messages".to_owned(),
        )),
        Err(error) => Err(error.into()),
    }
}

/// Publishes a message and waits for the broker's answer.
async fn publish(
    connection: &Connection,
    exchange: &str,
    routing_key: &str,
) -> Result<Confirmation, RoundTripError> {
    let sent = with_channel(connection, async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let (exchange, routing_key, properties) =
            (exchange.into(), routing_key.into(), BasicProperties::default());
        channel.basic_publish(exchange, routing_key, options, b"polyhook doctor", properties).await?.await
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
    match confirmed? {
        Confirmation::Nack(_) => Err(RoundTripError::Other("the broker refused a message".to_owned())),
        confirmation => Ok(confirmation),
    }
}

impl From<BrokerError> for RoundTripError {
    fn from(error: BrokerError) -> Self {
        match error.code {
            Some(403) => Self::Denied,
            Some(404) => Self::Undeclared,
            _ => Self::Other(error.text),
        }
    }
}
