//! Following what receivers and workers tell of themselves (`notes.rs`).
//!
//! Through a queue of our own that the broker removes with our connection, bound to `<prefix>.tail` alone: what
//! becomes of events, jobs and announcements does not depend on it. Its name begins with the prefix, so that a user
//! who may use nothing else can follow. It holds [`LONGEST`] notes at most and drops
//! the oldest for the newest, so a follower that is slow, or frozen, costs the broker no more than that.

use std::{collections::HashMap, sync::Arc};

use futures_util::StreamExt;
use lapin::{
    Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::sync::watch;

use super::{
    OpenError, Services,
    connection::{self, Link, Role, Session},
    endpoint::Broker,
    notes::Numbered,
    topology::Topology,
};
use crate::{
    lifecycle::Lifecycle,
    queue::{QueueConfig, TailMessage},
};

/// How many notes may wait in the broker.
const LONGEST: i32 = 10_000;
/// How many the broker sends ahead.
const WINDOW: u16 = 256;

/// A connection of its own that sees what happens. Dropping it ends it.
#[derive(Debug)]
pub struct Follower {
    topology: Topology,
    link: watch::Receiver<Link>,
    feed: Option<(Arc<Session>, Consumer)>,
    /// The next number of each who tells.
    next: HashMap<u64, u64>,
    waiting: Option<TailMessage>,
    services: Services,
}

impl Follower {
    /// Checks the configuration and starts to connect. Returns at once, whether the broker is there or not.
    pub fn open(config: &QueueConfig, lifecycle: &Lifecycle) -> Result<Self, OpenError> {
        let topology = Topology::new(&config.prefix, &[])?;
        let broker = Arc::new(Broker::new(config, None)?);
        let services = Services::new(lifecycle);
        let (sender, link) = watch::channel(Link::away("connecting to the broker"));
        let role = Role::Follow(topology.clone());
        let keeper = connection::keep(broker, role, sender, services.hangup.clone());
        services.spawn(&services.keepers, "queue connection (tail)", keeper);
        Ok(Self { topology, link, feed: None, next: HashMap::new(), waiting: None, services })
    }

    /// Waits until everything that happens from now on (or a second later) will be told.
    pub async fn wait_until_ready(&mut self) {
        while self.feed.is_none() {
            let Ok(Link::Up(session)) =
                self.link.wait_for(|link| matches!(link, Link::Up(_))).await.map(|link| link.clone())
            else {
                // Nothing keeps the connection any more: that is the end.
                return std::future::pending().await;
            };
            match self.consume(&session).await {
                Ok(consumer) => self.feed = Some((session, consumer)),
                Err(reason) => self.give_up(&session, reason).await,
            }
        }
    }

    /// Why it is not [ready](Self::wait_until_ready).
    pub fn not_ready_reason(&self) -> String {
        match &*self.link.borrow() {
            Link::Up(_) => "the broker gives us no queue to follow with".to_owned(),
            Link::Away(reason) => reason.to_string(),
        }
    }

    /// The next thing there is to tell. Safe to cancel.
    pub async fn next(&mut self) -> TailMessage {
        loop {
            if let Some(told) = self.waiting.take() {
                return told;
            }
            self.wait_until_ready().await;
            let Some((session, consumer)) = &mut self.feed else { continue };
            let (session, come) = (Arc::clone(session), consumer.next().await);
            let Some(Ok(delivery)) = come else {
                self.feed = None;
                let reason = "what happens cannot be followed for now, and is not told later";
                self.waiting = Some(TailMessage::Interrupted(reason.to_owned()));
                session.fail("the tail's queue is gone; there will be another");
                self.wait_for_end_of(&session).await;
                continue;
            };
            // Unacknowledged it is dropped with the queue; there is nothing to be done about it.
            let _ = delivery.acker.ack(BasicAckOptions::default()).await;
            if let Some(told) = self.read(&delivery) {
                return told;
            }
        }
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.services.close().await;
    }

    async fn give_up(&mut self, session: &Arc<Session>, reason: String) {
        session.fail(reason);
        self.wait_for_end_of(session).await;
    }

    async fn wait_for_end_of(&mut self, session: &Arc<Session>) {
        let over = |link: &Link| !matches!(link, Link::Up(current) if Arc::ptr_eq(current, session));
        // An error is the end of the connection's keeper, which `ready` finds out.
        let _ = self.link.wait_for(over).await;
    }

    async fn consume(&self, session: &Session) -> Result<Consumer, String> {
        let channel = session.channel().await?;
        let refused = |error: lapin::Error| format!("the broker lets us follow nothing: {error}");
        let mut bounded = FieldTable::default();
        bounded.insert("x-max-length".into(), LONGEST.into());
        bounded.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let (exchange, all) = (self.topology.tail.clone(), "#".into());
        let name = ShortString::from(format!("{exchange}.{}", uuid::Uuid::new_v4().simple()));
        let queue = channel.queue_declare(name, options, bounded).await.map_err(refused)?.name().clone();
        channel
            .queue_bind(queue.clone(), exchange, all, QueueBindOptions::default(), FieldTable::default())
            .await
            .map_err(refused)?;
        channel.basic_qos(WINDOW, BasicQosOptions::default()).await.map_err(refused)?;
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.map_err(refused)
    }

    /// The note, after how many were missed before it. What is none is somebody else's.
    fn read(&mut self, delivery: &Delivery) -> Option<TailMessage> {
        let Numbered { from, number, note } = serde_json::from_slice(&delivery.data).ok()?;
        let expected = self.next.insert(from, number + 1);
        let note = TailMessage::Event(Box::new(note));
        match expected.and_then(|expected| number.checked_sub(expected)) {
            Some(missed @ 1..) => {
                self.waiting = Some(note);
                Some(TailMessage::Missed(missed))
            }
            _ => Some(note),
        }
    }
}
