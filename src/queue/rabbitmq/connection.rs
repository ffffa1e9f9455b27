//! Keeping a connection up, for ever.
//!
//! Publishing and consuming have a connection each: a broker that is short of memory or disk stops reading
//! from those that publish, and acknowledgements must go on then. One task a connection connects, prepares
//! what the role needs, watches, and begins again, with a jittered wait that grows to five seconds. Others
//! see a [`Link`]: there is a [`Session`], or there is none and a reason.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use lapin::{Channel, Connection, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    endpoint::{Broker, CONNECT_TIMEOUT, Plug},
    topology::Topology,
};

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A connection that lived this long was a good one: the next waits are short again.
const SETTLED: Duration = Duration::from_secs(10);
/// How often the state is looked at, where lapin tells nothing of it.
const LOOK: Duration = Duration::from_millis(250);
/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Whether there is a connection.
#[derive(Clone, Debug)]
pub(super) enum Link {
    /// No, and why.
    Away(Arc<str>),
    /// Yes.
    Up(Arc<Session>),
}

impl Link {
    pub(super) fn away(reason: impl Into<Arc<str>>) -> Self {
        Self::Away(reason.into())
    }
}

/// One connection, prepared, from its beginning to its end.
pub(super) struct Session {
    connection: Connection,
    plug: Plug,
    /// The node, without user and password.
    place: String,
    blocked: watch::Sender<Option<Arc<str>>>,
    ended: CancellationToken,
    reason: OnceLock<Arc<str>>,
    publishing: AtomicUsize,
}

impl Session {
    /// A new channel.
    pub(super) async fn channel(&self) -> Result<Channel, String> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.connection.create_channel()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(format!("{} opens no channel: {error}", self.place)),
            Err(_) => Err(format!("{} opens no channel within {CONNECT_TIMEOUT:?}", self.place)),
        }
    }

    /// Gives the connection up; its keeper makes a new one, and prepares it again. The first reason counts.
    pub(super) fn fail(&self, reason: impl Into<Arc<str>>) {
        self.reason.get_or_init(|| reason.into());
        self.ended.cancel();
    }

    /// Waits for the end and says why.
    pub(super) async fn ended(&self) -> Arc<str> {
        self.ended.cancelled().await;
        self.reason.get().cloned().unwrap_or_else(|| "the connection ended".into())
    }

    /// Why the broker takes nothing from us at present (`connection.blocked`: short of memory or disk).
    pub(super) fn blocked(&self) -> Option<String> {
        let reason = self.blocked.borrow().clone();
        match reason {
            None if !self.connection.status().blocked() => None,
            reason => Some(format!(
                "{} takes no messages ({}): give it memory or disk, or raise its limits",
                self.place,
                reason.as_deref().unwrap_or("blocked")
            )),
        }
    }

    /// Tells when the broker blocks or unblocks us.
    pub(super) fn watch_blocked(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.blocked.subscribe()
    }

    /// Counts one publishing channel for as long as the token lives.
    pub(super) fn count_channel(self: &Arc<Self>) -> PublishingChannel {
        self.publishing.fetch_add(1, Ordering::SeqCst);
        PublishingChannel(Arc::clone(self))
    }

    /// How many publishing channels are open.
    pub(super) fn publishing_channels(&self) -> usize {
        self.publishing.load(Ordering::SeqCst)
    }

    /// Watches the connection until it ends.
    async fn watch(&self) -> Arc<str> {
        let mut events = pin!(self.connection.events_listener());
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                reason = self.ended() => return reason,
                event = events.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(broker = self.place, reason, "the broker takes no messages; deliveries are refused until it does");
                        self.blocked.send_replace(Some(reason.into()));
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!(broker = self.place, "the broker takes messages again");
                        self.blocked.send_replace(None);
                    }
                    Some(Event::Error(error)) => self.fail(format!("lost {}: {error}", self.place)),
                    _ => {}
                },
                _ = look.tick() => if !self.connection.status().connected() {
                    self.fail(format!("lost {}: the connection was closed", self.place));
                },
            }
        }
    }

    async fn close(&self) {
        self.fail("the queue is closed");
        // Unanswered where the broker is frozen or has blocked us: then the socket is just shut.
        let _ = tokio::time::timeout(GOODBYE, self.connection.close(200, "OK".into())).await;
        self.plug.pull();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("place", &self.place).finish_non_exhaustive()
    }
}

/// See [`Session::count_channel`].
pub(super) struct PublishingChannel(Arc<Session>);

impl Drop for PublishingChannel {
    fn drop(&mut self) {
        self.0.publishing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a connection is for, and what must be there before it is used.
pub(super) enum Role {
    /// Publishes; declares the topology first.
    Publish(Topology),
    /// Consumes; waits until the other has declared the topology.
    Consume(watch::Receiver<Link>),
    /// Follows what others tell; declares what that takes.
    Follow(Topology),
}

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Self::Publish(_) => "publish",
            Self::Consume(_) => "consume",
            Self::Follow(_) => "tail",
        }
    }

    async fn prepare(&mut self, session: &Session) -> Result<(), String> {
        match self {
            Self::Publish(topology) => topology.declare(session).await,
            Self::Consume(_) => Ok(()),
            Self::Follow(topology) => topology.declare_tail(&session.channel().await?).await,
        }
    }

    /// Until the session's end.
    async fn look_after(&self, session: &Session) {
        if let Self::Publish(topology) = self {
            tokio::select! {
                _ = session.ended() => {}
                () = topology.look_after(session) => {}
            }
        }
    }

    async fn wait_for_turn(&mut self) {
        if let Self::Consume(publishing) = self {
            // An error is the end of the other connection's keeper: the same end is on its way to us.
            let _ = publishing.wait_for(|link| matches!(link, Link::Up(_))).await;
        }
    }
}

/// Keeps a connection up until `hangup`.
pub(super) async fn keep(
    broker: Arc<Broker>,
    mut role: Role,
    link: watch::Sender<Link>,
    hangup: CancellationToken,
) {
    let mut failures = 0_u32;
    loop {
        let begun = Instant::now();
        let outcome = tokio::select! {
            () = hangup.cancelled() => return,
            session = establish(&broker, &mut role) => session,
        };
        let reason = match outcome {
            Ok(session) => {
                tracing::info!(broker = session.place, connection = role.name(), "connected to the broker");
                link.send_replace(Link::Up(Arc::clone(&session)));
                let watched = async { tokio::join!(session.watch(), role.look_after(&session)).0 };
                let reason = tokio::select! {
                    () = hangup.cancelled() => None,
                    reason = watched => Some(reason),
                };
                link.send_replace(Link::Away(reason.clone().unwrap_or_else(|| "the queue is closed".into())));
                session.close().await;
                let Some(reason) = reason else { return };
                if begun.elapsed() > SETTLED {
                    failures = 0;
                }
                reason
            }
            Err(reason) => reason.into(),
        };
        let wait = pause(failures, broker.nodes());
        failures = failures.saturating_add(1);
        tracing::warn!(
            connection = role.name(),
            reason = &*reason,
            failures,
            wait_ms = wait.as_millis(),
            "no connection to the broker"
        );
        link.send_replace(Link::Away(reason));
        tokio::select! {
            () = hangup.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn establish(broker: &Broker, role: &mut Role) -> Result<Arc<Session>, String> {
    role.wait_for_turn().await;
    let (connection, plug, place) = broker.connect(role.name()).await?;
    let session = Session {
        connection,
        plug,
        place,
        blocked: watch::Sender::new(None),
        ended: CancellationToken::new(),
        reason: OnceLock::new(),
        publishing: AtomicUsize::new(0),
    };
    if let Err(reason) = role.prepare(&session).await {
        session.close().await;
        return Err(reason);
    }
    Ok(Arc::new(session))
}

/// The wait after the `failures`-th failure (0 is the first): every node gets a try before it grows.
fn pause(failures: u32, nodes: usize) -> Duration {
    let rounds = failures / u32::try_from(nodes).unwrap_or(1).max(1);
    let longest = Duration::from_millis(100).saturating_mul(1 << rounds.min(10)).min(LONGEST_WAIT);
    longest.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_after_every_node_had_its_try() {
        for failures in [0, 1, 2] {
            assert!(pause(failures, 3) <= Duration::from_millis(100));
        }
        assert!(pause(9, 3) > pause(0, 3));
        for failures in [60, 10_000, u32::MAX] {
            let wait = pause(failures, 1);
            assert!(wait <= LONGEST_WAIT && wait >= LONGEST_WAIT / 2, "{wait:?}");
        }
    }
}
