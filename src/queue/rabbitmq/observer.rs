//! Counting polyhook's queues and workers from outside, for `polyhook status` and `polyhook queue move`.
//!
//! An observer declares nothing and consumes nothing: it asks only for the counts of queues by their names
//! (`queue.declare` with `passive`), for which a user needs no permission but that on the virtual host. Jobs that
//! consumers hold are not counted, and the broker updates the counts of a quorum queue only every five seconds.

use std::time::Duration;

use lapin::{
    Connection,
    options::QueueDeclareOptions,
    types::{FieldTable, ShortString},
};
use tokio::{sync::Mutex, time::timeout};

use super::{
    broker::{Broker, SocketHandle},
    error::{ConnectError, OpenError},
    request::{BrokerError, with_channel},
    topology::{DelayQueue, Topology},
};
use crate::queue::QueueConfig;

/// Bounds the AMQP close handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts the queues on a connection of its own, which it keeps. Dropping it closes the connection.
pub struct BrokerObserver {
    broker: Broker,
    topology: Topology,
    connected: Mutex<Option<ObserverConnection>>,
}

struct ObserverConnection {
    amqp: Connection,
    socket: SocketHandle,
    node: String,
    version: Option<String>,
}

impl Drop for ObserverConnection {
    fn drop(&mut self) {
        self.socket.shut_down();
    }
}

/// The number of messages in each queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerStatus {
    /// URL of the node without user and password.
    pub node: String,
    /// Product and version of the node, if it reports them.
    pub version: Option<String>,
    /// Jobs that no worker holds and that could be delivered now.
    pub waiting: u64,
    /// The workers that consume jobs.
    pub consumers: u64,
    /// Jobs that failed and wait for their next attempt, in the queues of the given delays.
    pub retry: u64,
    /// Jobs that are published for a later time and wait for it, in the queues of the given delays.
    pub refresh: u64,
    /// Dead letters.
    pub dead: u64,
    /// Events for which no queue is bound.
    pub unrouted: u64,
}

impl std::fmt::Debug for BrokerObserver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerObserver").field("topology", &self.topology).finish_non_exhaustive()
    }
}

impl BrokerObserver {
    /// Checks the configuration without connecting. Delayed jobs are counted in the queues of these delays only.
    pub fn new(
        config: &QueueConfig,
        delays: &[Duration],
        refresh_delays: &[Duration],
    ) -> Result<Self, OpenError> {
        let topology = Topology::new(&config.prefix, delays, refresh_delays)?;
        Ok(Self { broker: Broker::new(config, None)?, topology, connected: Mutex::default() })
    }

    /// Counts all queues. Connects if there is no connection. The error says what to do.
    pub async fn read(&self) -> Result<BrokerStatus, String> {
        self.with_connection(async |connection| self.count_all(connection).await).await
    }

    /// Counts the workers that consume jobs; 0 if the queue of jobs does not exist. Connects like [`Self::read`].
    pub async fn count_workers(&self) -> Result<u64, String> {
        let fetch = &self.topology.fetch;
        let counted = self.with_connection(async |connection| count(connection, fetch).await).await?;
        Ok(counted.map_or(0, |(_, consumers)| consumers))
    }

    async fn with_connection<T>(
        &self,
        read: impl AsyncFnOnce(&ObserverConnection) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut connected = self.connected.lock().await;
        // Taken out, so that a cancelled or failed read leaves no broken connection.
        let connection = match connected.take().filter(|connection| connection.amqp.status().connected()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let result = read(&connection).await?;
        *connected = Some(connection);
        Ok(result)
    }

    /// Closes the connection.
    pub async fn close(&self) {
        if let Some(connection) = self.connected.lock().await.take() {
            let _ = timeout(CLOSE_TIMEOUT, connection.amqp.close(200, "OK".into())).await;
        }
    }

    /// Connects to the first node that accepts a connection. Returns the error of the first node if none does.
    async fn connect(&self) -> Result<ObserverConnection, String> {
        let mut first_error = None;
        for _ in 0..self.broker.node_count() {
            match self.broker.connect("status").await {
                Ok((amqp, socket, node)) => {
                    let version = self.broker.server_version(&node).await;
                    return Ok(ObserverConnection { amqp, socket, node, version });
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(match first_error {
            Some(error @ ConnectError { fix: Some(_), .. }) => error.to_string(),
            Some(ConnectError { reason, .. }) => format!("{reason}; start the broker, or correct queue.url"),
            None => "queue.url names no broker".to_owned(),
        })
    }

    async fn count_all(&self, connection: &ObserverConnection) -> Result<BrokerStatus, String> {
        let Topology { fetch, dead, unrouted, delay_queues, refresh_queues, .. } = &self.topology;
        let Some((waiting, consumers)) = count(connection, fetch).await? else {
            return Err(format!(
                "the queue `{fetch}` does not exist on {}; start `polyhook run` or `work`, which declares it, or correct queue.prefix",
                connection.node
            ));
        };
        let sum = async |queues: &[DelayQueue]| {
            let mut sum = 0;
            for queue in queues {
                sum += count_messages(connection, &queue.name).await?;
            }
            Ok::<_, String>(sum)
        };
        Ok(BrokerStatus {
            node: connection.node.clone(),
            version: connection.version.clone(),
            waiting,
            consumers,
            retry: sum(delay_queues).await?,
            refresh: sum(refresh_queues).await?,
            dead: count_messages(connection, dead).await?,
            unrouted: count_messages(connection, unrouted).await?,
        })
    }
}

/// Returns the number of messages in a queue; 0 if it is not declared.
async fn count_messages(connection: &ObserverConnection, queue: &ShortString) -> Result<u64, String> {
    Ok(count(connection, queue).await?.map_or(0, |(messages, _)| messages))
}

/// Returns the numbers of messages and consumers of a queue, or `None` if it does not exist.
async fn count(connection: &ObserverConnection, queue: &ShortString) -> Result<Option<(u64, u64)>, String> {
    let counted = with_channel(&connection.amqp, async |channel| {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let counted = channel.queue_declare(queue.clone(), passive, FieldTable::default()).await?;
        // A connection that is kept has a limited number of channels.
        let _ = channel.close(200, "OK".into()).await;
        Ok((u64::from(counted.message_count()), u64::from(counted.consumer_count())))
    });
    match counted.await {
        Ok(counts) => Ok(Some(counts)),
        Err(BrokerError { code: Some(404), .. }) => Ok(None),
        Err(BrokerError { text, .. }) => Err(format!(
            "{} does not count `{queue}` ({text}); find out why with `polyhook doctor`",
            connection.node
        )),
    }
}
