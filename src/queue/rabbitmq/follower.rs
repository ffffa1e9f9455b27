//! Following the tail events of receivers and workers (`tail_publisher.rs`).
//!
//! A follower reads from an exclusive queue that the broker deletes with the connection. The queue is bound to
//! `<prefix>.tail` alone, so events, jobs and announcements do not depend on it. Its name begins with the prefix, so that a
//! user with permissions for nothing else can follow. It holds at most [`MAX_QUEUED_EVENTS`] and drops the oldest first,
//! which bounds what a slow or frozen follower costs the broker.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::sync::watch;

use super::{
    broker::Broker,
    connection::{Connection, ConnectionState},
    connection_keeper::{ConnectionRole, keep_connected},
    error::OpenError,
    tail_publisher::NumberedEvent,
    tasks::BackgroundTasks,
    topology::Topology,
};
use crate::{
    lifecycle::Lifecycle,
    queue::{QueueConfig, TailMessage},
};

/// The interval at which it is checked whether the broker refuses connections.
const REFUSAL_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Events that may wait in the broker.
const MAX_QUEUED_EVENTS: i32 = 10_000;
/// Events that the broker may send ahead.
const PREFETCH: u16 = 256;

/// A follower of the broker's tail events, on a connection of its own. Dropping it closes the connection.
#[derive(Debug)]
pub struct Follower {
    topology: Topology,
    state: watch::Receiver<ConnectionState>,
    consumer: Option<(Arc<Connection>, Consumer)>,
    /// The next expected number of each sender.
    next_numbers: HashMap<u64, u64>,
    /// The message to return next.
    buffered: Option<TailMessage>,
    broker: Arc<Broker>,
    tasks: BackgroundTasks,
}

impl Follower {
    /// Checks the configuration and starts to connect. Does not wait for the broker.
    pub fn open(config: &QueueConfig, lifecycle: &Lifecycle) -> Result<Self, OpenError> {
        let topology = Topology::new(&config.prefix, &[], &[])?;
        let broker = Arc::new(Broker::new(config, None)?);
        let tasks = BackgroundTasks::new(lifecycle);
        let (sender, state) = ConnectionState::connecting();
        let role = ConnectionRole::Follow(topology.clone());
        let keeper = keep_connected(Arc::clone(&broker), role, sender, tasks.disconnecting.clone());
        tasks.spawn_keeper("queue connection (tail)", keeper);
        let next_numbers = HashMap::new();
        Ok(Self { topology, state, consumer: None, next_numbers, buffered: None, broker, tasks })
    }

    /// Waits until the queue is bound. Senders notice a new follower within a second, so events that happen more than a
    /// second later are reported.
    pub async fn wait_until_ready(&mut self) {
        while self.consumer.is_none() {
            let Ok(ConnectionState::Up(connection)) =
                self.state.wait_for(ConnectionState::is_up).await.map(|state| state.clone())
            else {
                // The connection's keeper has ended, because the process is shutting down.
                return std::future::pending().await;
            };
            match self.consume(&connection).await {
                Ok(consumer) => self.consumer = Some((connection, consumer)),
                Err(reason) => self.give_up(&connection, reason).await,
            }
        }
    }

    /// Waits until every node of the broker refuses connections.
    pub fn refused(&self) -> impl Future<Output = ()> + Send + use<> {
        let broker = Arc::clone(&self.broker);
        async move {
            while !broker.refuses_connections() {
                tokio::time::sleep(REFUSAL_POLL_INTERVAL).await;
            }
        }
    }

    /// Returns the reason why it is not [ready](Self::wait_until_ready).
    pub fn not_ready_reason(&self) -> String {
        match &*self.state.borrow() {
            ConnectionState::Up(_) => "the broker does not give us a queue for tail events".to_owned(),
            ConnectionState::Down(reason) => reason.to_string(),
        }
    }

    /// Waits for the next message. Safe to cancel.
    pub async fn next(&mut self) -> TailMessage {
        loop {
            if let Some(message) = self.buffered.take() {
                return message;
            }
            self.wait_until_ready().await;
            let Some((connection, consumer)) = &mut self.consumer else { continue };
            let (connection, received) = (Arc::clone(connection), consumer.next().await);
            let Some(Ok(delivery)) = received else {
                self.consumer = None;
                let reason = "the connection to the broker was interrupted; events are missing here";
                self.buffered = Some(TailMessage::Interrupted(reason.to_owned()));
                self.give_up(
                    &connection,
                    "the queue for tail events is missing; it is declared again".to_owned(),
                )
                .await;
                continue;
            };
            // If this fails, the event is deleted with the queue; this process has already read it.
            let _ = delivery.acker.ack(BasicAckOptions::default()).await;
            if let Some(message) = self.parse(&delivery) {
                return message;
            }
        }
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.tasks.close().await;
    }

    /// Gives a connection up and waits until its keeper has noticed.
    async fn give_up(&mut self, connection: &Arc<Connection>, reason: String) {
        connection.fail(reason);
        // Fails when the keeper has ended, which `wait_until_ready` handles.
        let _ = self.state.wait_for(|state| !state.is(connection)).await;
    }

    async fn consume(&self, connection: &Connection) -> Result<Consumer, String> {
        let channel = connection.channel().await?;
        let refused = |error: lapin::Error| format!("the broker does not let us follow tail events: {error}");
        let mut bounded = FieldTable::default();
        bounded.insert("x-max-length".into(), MAX_QUEUED_EVENTS.into());
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
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(refused)?;
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        channel.basic_consume(queue, "".into(), options, FieldTable::default()).await.map_err(refused)
    }

    /// Returns an event, or first the number of missing events before it. Ignores messages that are not tail events, because
    /// anyone may publish to the exchange.
    fn parse(&mut self, delivery: &Delivery) -> Option<TailMessage> {
        let NumberedEvent { sender, number, event } = serde_json::from_slice(&delivery.data).ok()?;
        let expected = self.next_numbers.insert(sender, number + 1);
        let message = TailMessage::Event(Box::new(event));
        match expected.and_then(|expected| number.checked_sub(expected)) {
            Some(missed @ 1..) => {
                self.buffered = Some(message);
                Some(TailMessage::Missed(missed))
            }
            _ => Some(message),
        }
    }
}
