//! One connection to the broker, from its handshake to its end.
//!
//! Publishing and consuming have a connection each: a broker that is short of memory or disk stops reading from
//! connections that publish, and acknowledgements must still get through. Tasks see a [`ConnectionState`]: there is a
//! prepared [`Connection`], or there is none and a reason. The first error ends a connection for all its users.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt;
use lapin::{Channel, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::broker::{CONNECT_TIMEOUT, SocketHandle};

/// The interval at which the status is checked; lapin reports not every end as an event.
const STATUS_CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Bounds the AMQP close handshake.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection, or the reason why there is none.
#[derive(Clone, Debug)]
pub(super) enum ConnectionState {
    /// There is no connection.
    Down(Arc<str>),
    /// There is a connection, and its topology is declared.
    Up(Arc<Connection>),
}

impl ConnectionState {
    /// Returns a channel on which a keeper publishes the state of its connection.
    pub(super) fn connecting() -> (watch::Sender<Self>, watch::Receiver<Self>) {
        watch::channel(Self::Down("connecting to the broker".into()))
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self, Self::Up(_))
    }

    /// Returns true if `connection` is the present one.
    pub(super) fn is(&self, connection: &Arc<Connection>) -> bool {
        matches!(self, Self::Up(current) if Arc::ptr_eq(current, connection))
    }
}

/// An open connection.
pub(super) struct Connection {
    amqp: lapin::Connection,
    socket: SocketHandle,
    /// The node's URL without user and password.
    node: String,
    blocked: watch::Sender<Option<Arc<str>>>,
    ended: CancellationToken,
    end_reason: OnceLock<Arc<str>>,
    publishing_channels: AtomicUsize,
}

impl Connection {
    pub(super) fn new(amqp: lapin::Connection, socket: SocketHandle, node: String) -> Self {
        Self {
            amqp,
            socket,
            node,
            blocked: watch::Sender::new(None),
            ended: CancellationToken::new(),
            end_reason: OnceLock::new(),
            publishing_channels: AtomicUsize::new(0),
        }
    }

    /// Returns the node's URL without user and password.
    pub(super) fn node(&self) -> &str {
        &self.node
    }

    /// Opens a channel.
    pub(super) async fn channel(&self) -> Result<Channel, String> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.amqp.create_channel()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(format!("{} opens no channel: {error}", self.node)),
            Err(_) => Err(format!("{} opens no channel within {CONNECT_TIMEOUT:?}", self.node)),
        }
    }

    /// Gives the connection up; its keeper opens a new one and prepares it again. The first reason is kept.
    pub(super) fn fail(&self, reason: impl Into<Arc<str>>) {
        self.end_reason.get_or_init(|| reason.into());
        self.ended.cancel();
    }

    /// Waits for the end of the connection and returns its reason.
    pub(super) async fn ended(&self) -> Arc<str> {
        self.ended.cancelled().await;
        self.end_reason.get().cloned().unwrap_or_else(|| "the connection ended".into())
    }

    /// Returns an error text while the broker accepts no messages from this connection (`connection.blocked`: it is
    /// short of memory or disk).
    pub(super) fn blocked(&self) -> Option<String> {
        let reason = self.blocked.borrow().clone();
        match reason {
            None if !self.amqp.status().blocked() => None,
            reason => Some(format!(
                "{} takes no messages ({}): give it memory or disk, or raise its limits",
                self.node,
                reason.as_deref().unwrap_or("blocked")
            )),
        }
    }

    /// Returns a receiver that changes when the broker blocks or unblocks the connection.
    pub(super) fn watch_blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.blocked.subscribe()
    }

    /// Counts a publishing channel until the returned guard is dropped.
    pub(super) fn count_channel(self: &Arc<Self>) -> PublishingChannel {
        self.publishing_channels.fetch_add(1, Ordering::SeqCst);
        PublishingChannel(Arc::clone(self))
    }

    /// Returns the number of open publishing channels.
    pub(super) fn publishing_channels(&self) -> usize {
        self.publishing_channels.load(Ordering::SeqCst)
    }

    /// Handles the connection's events until it ends, and returns the reason.
    pub(super) async fn watch(&self) -> Arc<str> {
        let mut events = pin!(self.amqp.events_listener());
        let mut status_check = tokio::time::interval(STATUS_CHECK_INTERVAL);
        loop {
            tokio::select! {
                reason = self.ended() => return reason,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(broker = self.node, reason, "the broker takes no messages; deliveries are refused until it does");
                        self.blocked.send_replace(Some(reason.into()));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!(broker = self.node, "the broker takes messages again");
                        self.blocked.send_replace(None);
                    }
                    Some(Event::Error(error)) => self.fail(format!("lost {}: {error}", self.node)),
                    _ => {}
                },
                _ = status_check.tick() => if !self.amqp.status().connected() {
                    self.fail(format!("lost {}: the connection was closed", self.node));
                },
            }
        }
    }

    /// Closes the connection. A broker that is frozen or has blocked the connection does not answer the close; the
    /// socket is shut down in any case.
    pub(super) async fn close(&self) {
        self.fail("the queue is closed");
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.amqp.close(200, "OK".into())).await;
        self.socket.shut_down();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("node", &self.node).finish_non_exhaustive()
    }
}

/// A guard that counts a publishing channel; see [`Connection::count_channel`].
pub(super) struct PublishingChannel(Arc<Connection>);

impl Drop for PublishingChannel {
    fn drop(&mut self) {
        self.0.publishing_channels.fetch_sub(1, Ordering::SeqCst);
    }
}
