//! Tasks that keep a connection open for as long as the queue is.
//!
//! A keeper connects, prepares what the connection's role needs, watches the connection, and starts again after a
//! jittered wait that grows to five seconds. It publishes the result as a [`ConnectionState`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    broker::Broker,
    connection::{Connection, ConnectionState},
    topology::Topology,
};

/// The longest wait between two attempts.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(5);
/// Bounds the declaration of all exchanges and queues. A node that is cut off from its cluster never ends it.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(20);
/// The waits start short again after a connection that lasted this long.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// The purpose of a connection, with what it needs before it is used.
pub(super) enum ConnectionRole {
    /// Publishes. Declares the topology first.
    Publish(Topology),
    /// Consumes. Waits until the publishing connection has declared the topology.
    Consume(Topology, watch::Receiver<ConnectionState>),
    /// Follows tail events. Declares their exchange.
    Follow(Topology),
}

impl ConnectionRole {
    fn name(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Consume(..) => "consume",
            Self::Follow(_) => "tail",
        }
    }

    async fn wait_for_topology(&mut self) {
        if let Self::Consume(_, publishing) = self {
            // Fails when the publishing connection's keeper has ended. This keeper is then asked to end, too.
            let _ = publishing.wait_for(ConnectionState::is_up).await;
        }
    }

    async fn prepare(&mut self, connection: &Connection) -> Result<(), String> {
        match self {
            Self::Publish(topology) => topology.declare(connection).await,
            Self::Consume(..) => Ok(()),
            Self::Follow(topology) => topology.declare_tail(&connection.channel().await?).await,
        }
    }

    /// Checks what the role needs until the connection ends.
    async fn monitor(&self, connection: &Connection) {
        let check = async {
            match self {
                Self::Publish(topology) => topology.monitor(connection).await,
                Self::Consume(topology, _) => topology.monitor_consumer(connection).await,
                Self::Follow(_) => {}
            }
        };
        tokio::select! {
            _ = connection.ended() => {}
            () = check => {}
        }
    }
}

/// Keeps a connection open until `disconnecting`.
pub(super) async fn keep_connected(
    broker: Arc<Broker>,
    mut role: ConnectionRole,
    state: watch::Sender<ConnectionState>,
    disconnecting: CancellationToken,
) {
    let mut failures = 0_u32;
    loop {
        let started_at = Instant::now();
        let connected = tokio::select! {
            () = disconnecting.cancelled() => return,
            connected = connect(&broker, &mut role) => connected,
        };
        let reason = match connected {
            Ok(connection) => {
                let Some(reason) = use_connection(connection, &role, &state, &disconnecting).await else {
                    return;
                };
                if started_at.elapsed() > STABLE_AFTER {
                    failures = 0;
                }
                reason
            }
            Err(reason) => reason.into(),
        };
        let delay = reconnect_delay(failures, broker.node_count());
        failures = failures.saturating_add(1);
        tracing::warn!(
            connection = role.name(),
            failures,
            wait_ms = delay.as_millis(),
            "no connection to the broker: {reason}"
        );
        state.send_replace(ConnectionState::Down(reason));
        broker.failure_is_published();
        tokio::select! {
            () = disconnecting.cancelled() => return,
            () = tokio::time::sleep(delay) => {}
        }
    }
}

/// Publishes a connection to its users until it ends. Returns the reason, or `None` if the queue is closed.
async fn use_connection(
    connection: Arc<Connection>,
    role: &ConnectionRole,
    state: &watch::Sender<ConnectionState>,
    disconnecting: &CancellationToken,
) -> Option<Arc<str>> {
    tracing::info!(broker = connection.node(), connection = role.name(), "connected to the broker");
    state.send_replace(ConnectionState::Up(Arc::clone(&connection)));
    let watched = async { tokio::join!(connection.watch(), role.monitor(&connection)).0 };
    let reason = tokio::select! {
        () = disconnecting.cancelled() => None,
        reason = watched => Some(reason),
    };
    let shown = reason.clone().unwrap_or_else(|| "the queue is closed".into());
    state.send_replace(ConnectionState::Down(shown));
    connection.close().await;
    reason
}

async fn connect(broker: &Broker, role: &mut ConnectionRole) -> Result<Arc<Connection>, String> {
    role.wait_for_topology().await;
    let (connection, socket, node) = broker.connect(role.name()).await.map_err(|error| error.to_string())?;
    let connection = Connection::new(connection, socket, node);
    let prepared = timeout(PREPARE_TIMEOUT, role.prepare(&connection)).await;
    let reason = match prepared {
        Ok(Ok(())) => return Ok(Arc::new(connection)),
        Ok(Err(reason)) => reason,
        Err(_) => format!("{} does not declare queues within {PREPARE_TIMEOUT:?}", connection.node()),
    };
    connection.close().await;
    Err(reason)
}

/// Returns the wait before the next attempt after `failures` earlier ones. Every node gets an attempt before it grows.
fn reconnect_delay(failures: u32, nodes: usize) -> Duration {
    let rounds = failures / u32::try_from(nodes).unwrap_or(1).max(1);
    let longest = Duration::from_millis(100).saturating_mul(1 << rounds.min(10)).min(MAX_RECONNECT_DELAY);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delay_grows_to_a_limit_once_every_node_was_tried() {
        for failures in [0, 1, 2] {
            assert!(reconnect_delay(failures, 3) <= Duration::from_millis(100));
        }
        assert!(reconnect_delay(9, 3) > reconnect_delay(0, 3));
        for failures in [60, 10_000, u32::MAX] {
            let delay = reconnect_delay(failures, 1);
            assert!(delay <= MAX_RECONNECT_DELAY && delay >= MAX_RECONNECT_DELAY / 2, "{delay:?}");
        }
    }
}
