//! Publishing messages to the exchanges and queues of the topology.
//!
//! `Ok` means that the broker has confirmed the message in every queue it was routed to. Each call takes no longer than the
//! publish timeout and fails at once while the connection is down or blocked. If a message is returned although a queue
//! must take it, the connection is replaced: the new one declares what is missing.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use lapin::{BasicProperties, types::ShortString};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    confirm::OutgoingMessage,
    connection::{Connection, ConnectionState},
    message,
    publisher::Publishers,
    publisher_groups::PublisherGroups,
    topology::Topology,
    unconfirmed::PublishResult,
};
use crate::{
    event,
    queue::{Announced, Announcement, JobOutcome, Message, QueueError},
};

/// Returned messages end the connection at most this often. Otherwise a publisher of unroutable messages would interrupt
/// all others again and again.
const MIN_REDECLARE_INTERVAL: Duration = Duration::from_secs(10);

/// Publishes everything that has to be confirmed; see the [module](self).
#[derive(Debug)]
pub(super) struct MessagePublisher {
    pub(super) topology: Topology,
    publish_timeout: Duration,
    /// The state of the publishing connection.
    pub(super) connection_state: watch::Receiver<ConnectionState>,
    pub(super) groups: PublisherGroups,
    redeclared_at: Mutex<Option<Instant>>,
    closing: CancellationToken,
}

impl MessagePublisher {
    pub(super) fn new(
        topology: Topology,
        publish_timeout: Duration,
        connection_state: watch::Receiver<ConnectionState>,
        groups: PublisherGroups,
        closing: CancellationToken,
    ) -> Self {
        let redeclared_at = Mutex::new(None);
        Self { topology, publish_timeout, connection_state, groups, redeclared_at, closing }
    }

    /// Returns the publishing connection if messages can be sent over it now.
    pub(super) fn connection(&self) -> Result<Arc<Connection>, QueueError> {
        if self.closing.is_cancelled() {
            return Err(QueueError::Closed);
        }
        match &*self.connection_state.borrow() {
            ConnectionState::Down(reason) => Err(QueueError::Unavailable(reason.to_string())),
            ConnectionState::Up(connection) => match connection.blocked() {
                Some(reason) => Err(QueueError::Unavailable(reason)),
                None => Ok(Arc::clone(connection)),
            },
        }
    }

    /// Makes an event durable within the publish timeout.
    pub(super) async fn publish_event(&self, message: &Message) -> Result<(), QueueError> {
        let triggers_fetch = event::triggers_fetch(&message.kind);
        let publishers = if triggers_fetch { &self.groups.jobs } else { &self.groups.events };
        self.publish_event_with(publishers, message).await
    }

    /// Makes an event durable within the publish timeout. Events are published in the order of the calls.
    pub(super) async fn publish_event_in_order(&self, message: &Message) -> Result<(), QueueError> {
        self.publish_event_with(&self.groups.in_order, message).await
    }

    async fn publish_event_with(&self, publishers: &Publishers, message: &Message) -> Result<(), QueueError> {
        let connection = self.connection()?;
        let published = publishers.publish(self.outgoing_event(message)?);
        match self.in_time(published).await? {
            PublishResult::Stored => Ok(()),
            PublishResult::Returned => Err(self.on_returned_event(&connection)),
        }
    }

    fn outgoing_event(&self, message: &Message) -> Result<Box<OutgoingMessage>, QueueError> {
        Ok(Box::new(OutgoingMessage {
            exchange: self.topology.events.clone(),
            routing_key: message::short(&message.routing_key(), "routing key")?,
            properties: message::event(message)?,
            body: message.body.clone(),
        }))
    }

    /// Replaces the connection, so that the new one declares what is missing, and returns the error for the publisher.
    fn on_returned_event(&self, connection: &Connection) -> QueueError {
        let Topology { events, fetch, unrouted, .. } = &self.topology;
        let reason = format!(
            "a message was returned by `{events}`: no queue takes it, so `{fetch}`, or the alternate exchange `{unrouted}`, or a binding is missing (deleted, or a policy?); all are declared again"
        );
        let mut redeclared_at = self.redeclared_at.lock().unwrap_or_else(PoisonError::into_inner);
        if redeclared_at.is_none_or(|at| at.elapsed() > MIN_REDECLARE_INTERVAL) {
            *redeclared_at = Some(Instant::now());
            connection.fail(reason.clone());
        }
        QueueError::Refused(reason)
    }

    /// Publishes an announcement within the publish timeout and returns whether any queue was bound for it.
    pub(super) async fn announce(&self, announcement: Announcement) -> Result<Announced, QueueError> {
        self.connection()?;
        let outgoing = OutgoingMessage {
            exchange: self.topology.conversations.clone(),
            routing_key: message::short(&announcement.routing_key(), "routing key")?,
            properties: message::announcement(&announcement)?,
            body: announcement.body,
        };
        Ok(match self.in_time(self.groups.announcements.publish(Box::new(outgoing))).await? {
            PublishResult::Stored => Announced::Delivered,
            PublishResult::Returned => Announced::Unrouted,
        })
    }

    /// Stores a message in one queue through the default exchange.
    pub(super) async fn publish_to_queue(
        &self,
        queue: &ShortString,
        properties: BasicProperties,
        body: Bytes,
    ) -> Result<(), QueueError> {
        self.connection()?;
        let (exchange, routing_key) = (ShortString::default(), queue.clone());
        let outgoing = OutgoingMessage { exchange, routing_key, properties, body };
        match self.in_time(self.groups.jobs_again.publish(Box::new(outgoing))).await? {
            PublishResult::Stored => Ok(()),
            PublishResult::Returned => {
                if let ConnectionState::Up(connection) = &*self.connection_state.borrow() {
                    connection.fail(format!("the queue `{queue}` is missing; it is declared again"));
                }
                Err(QueueError::Refused(format!("there is no queue `{queue}`")))
            }
        }
    }

    /// Publishes a job with its history to the queue that its outcome asks for.
    pub(super) async fn publish_outcome(
        &self,
        message: &Message,
        outcome: &JobOutcome,
    ) -> Result<(), QueueError> {
        let (queue, properties) = match outcome {
            JobOutcome::Done | JobOutcome::Release => return Ok(()),
            JobOutcome::Retry { after, history } => {
                let Some((queue, expiration)) = self.topology.delay_queue(*after) else {
                    return Err(QueueError::Refused("there is no delay queue".to_owned()));
                };
                (&queue.name, message::retry(message, history, expiration))
            }
            JobOutcome::Dead { history } => (&self.topology.dead, message::dead(message, history)),
        };
        self.publish_to_queue(queue, properties?, message.body.clone()).await
    }

    async fn in_time<T>(&self, task: impl Future<Output = Result<T, QueueError>>) -> Result<T, QueueError> {
        match tokio::time::timeout(self.publish_timeout, task).await {
            Ok(result) => result,
            Err(_) => Err(QueueError::Timeout(self.publish_timeout)),
        }
    }
}
