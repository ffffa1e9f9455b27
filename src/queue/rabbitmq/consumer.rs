//! Consuming jobs from the fetch queue.
//!
//! This process holds at most `prefetch` jobs. A job is acknowledged when its outcome is recorded, never earlier. All jobs
//! come through one channel; when the channel ends, however it ends, the broker delivers them again.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt;
use lapin::{
    Acker, Channel, Consumer, ErrorKind,
    message::Delivery,
    options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use metrics::counter;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    confirm::OutgoingMessage,
    connection::{Connection, ConnectionState},
    in_flight::{InFlightJob, InFlightJobs},
    message,
    publisher::Publishers,
    topology::FETCH_DELIVERY_LIMIT,
    unconfirmed::PublishResult,
};
use crate::{
    clock::Clock,
    queue::{Job, LeaseId},
    shell,
};

/// The interval at which jobs are looked for that have to go back to the broker, or into a queue that was deleted.
const OVERDUE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Bounds each of these: cancelling the consumer, closing its channel, and publishing a job.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(1);

/// The task that consumes jobs.
pub(super) struct JobConsumer {
    pub(super) queue: ShortString,
    /// The queue of dead letters.
    pub(super) dead: ShortString,
    pub(super) prefetch: u16,
    pub(super) consumer_timeout: Duration,
    pub(super) jobs: Arc<InFlightJobs>,
    pub(super) clock: Clock,
    /// The state of the consuming connection.
    pub(super) consuming: watch::Receiver<ConnectionState>,
    /// The state of the publishing connection, which declares the topology.
    pub(super) publishing: watch::Receiver<ConnectionState>,
    /// Publishes dead letters, and jobs again that this process held when their queue was deleted.
    pub(super) publishers: Arc<Publishers>,
    /// No new jobs are wanted; running ones continue.
    pub(super) draining: CancellationToken,
    pub(super) closing: CancellationToken,
}

/// The reason why a channel is no longer used.
enum ChannelEnd {
    /// The queue is closed.
    QueueClosed,
    /// The channel or its connection has failed. The broker has the jobs.
    Lost(String),
    /// The broker has cancelled the consumer because the queue was deleted. Only this process has the jobs.
    QueueDeleted(String),
}

impl From<String> for ChannelEnd {
    fn from(reason: String) -> Self {
        Self::Lost(reason)
    }
}

impl JobConsumer {
    /// Consumes jobs until the queue is closed.
    pub(super) async fn run(mut self) {
        tokio::select! {
            () = self.closing.cancelled() => return,
            () = self.jobs.first_request() => {}
        }
        while let Some(connection) = self.wait_for_connection().await {
            let reason = match self.use_channel(&connection).await {
                ChannelEnd::QueueClosed => break,
                ChannelEnd::Lost(reason) => {
                    self.jobs.forget_all();
                    reason
                }
                ChannelEnd::QueueDeleted(reason) => {
                    self.jobs.orphan_all();
                    reason
                }
            };
            connection.fail(reason);
            self.wait_for_connection_loss(&connection).await;
        }
        self.publish_orphans().await;
        while let Some((message, _)) = self.jobs.take_orphan() {
            tracing::error!(
                event.id = message.id,
                "a job is lost: its queue was deleted, and it could not be published again; archive and announce its conversation \
                 with: polyhook fetch {}",
                shell::last_argument(message.conversation_id.as_deref().unwrap_or("ID"))
            );
        }
    }

    /// Publishes jobs whose queue was deleted into the new queue. After the first one that cannot be published, it keeps the rest for
    /// the next call: the broker is away, or the queue is not declared yet.
    async fn publish_orphans(&self) {
        while let Some((message, history)) = self.jobs.take_orphan() {
            let Ok(properties) = message::job(&message, &history) else { continue };
            let (exchange, routing_key) = (ShortString::default(), self.queue.clone());
            let outgoing = OutgoingMessage { exchange, routing_key, properties, body: message.body.clone() };
            let published = timeout(HAND_BACK_TIMEOUT, self.publishers.publish(Box::new(outgoing))).await;
            if !matches!(published, Ok(Ok(PublishResult::Stored))) {
                self.jobs.return_orphan((message, history));
                return;
            }
            tracing::warn!(event.id = message.id, "published a job of the deleted queue again");
        }
    }

    /// Waits for a connection. Returns `None` once the queue is closed.
    async fn wait_for_connection(&mut self) -> Option<Arc<Connection>> {
        tokio::select! {
            biased;
            () = self.closing.cancelled() => None,
            state = self.consuming.wait_for(ConnectionState::is_up) => match &*state.ok()? {
                ConnectionState::Up(connection) => Some(Arc::clone(connection)),
                ConnectionState::Down(_) => None,
            },
        }
    }

    async fn wait_for_connection_loss(&mut self, connection: &Arc<Connection>) {
        tokio::select! {
            () = self.closing.cancelled() => {}
            // Fails when the connection's keeper has ended. This task is then asked to end, too.
            _ = self.consuming.wait_for(|state| !state.is(connection)) => {}
        }
    }

    /// Consumes jobs through one channel until it ends.
    async fn use_channel(&self, connection: &Arc<Connection>) -> ChannelEnd {
        match self.consume(connection).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn consume(&self, connection: &Arc<Connection>) -> Result<ChannelEnd, ChannelEnd> {
        let channel = connection.channel().await?;
        let mut consumer = self.start_consumer(&channel).await?;
        let mut overdue_check = tokio::time::interval(OVERDUE_CHECK_INTERVAL);
        let mut draining = false;
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {
                    self.hand_back_all(&channel, &consumer).await;
                    return Ok(ChannelEnd::QueueClosed);
                }
                reason = connection.ended() => return Err(ChannelEnd::Lost(reason.to_string())),
                () = self.draining.cancelled(), if !draining => {
                    draining = true;
                    self.hand_back_waiting(&channel, &consumer).await;
                }
                delivery = consumer.next(), if !draining => match delivery {
                    Some(Ok(delivery)) => self.on_delivery(delivery).await,
                    Some(Err(error)) => {
                        return Err(ChannelEnd::Lost(format!("consuming jobs from `{}` ended: {error}", self.queue)));
                    }
                    None => return Err(self.explain_end(&channel)),
                },
                _ = overdue_check.tick() => {
                    self.publish_orphans().await;
                    for job in hand_back(self.jobs.take_overdue()).await {
                        tracing::warn!(event.id = job.message.id, "the outcome of a job could not be recorded; the broker delivers the job again");
                    }
                }
            }
        }
    }

    async fn start_consumer(&self, channel: &Channel) -> Result<Consumer, String> {
        let (qos, options) = (BasicQosOptions::default(), BasicConsumeOptions::default());
        let mut arguments = FieldTable::default();
        let timeout_ms = i64::try_from(self.consumer_timeout.as_millis()).unwrap_or(i64::MAX);
        arguments.insert("x-consumer-timeout".into(), timeout_ms.into());
        let consumer = match channel.basic_qos(self.prefetch, qos).await {
            Ok(()) => channel.basic_consume(self.queue.clone(), "".into(), options, arguments).await,
            Err(error) => Err(error),
        };
        consumer.map_err(|error| {
            if let ErrorKind::ProtocolError(answer) = error.kind()
                && answer.get_id() == 404
                && let ConnectionState::Up(declaring) = &*self.publishing.borrow()
            {
                // The queue was deleted while this process was connected. Queues are declared on connecting.
                declaring.fail(format!("the queue `{}` is missing; it is declared again", self.queue));
            }
            format!("the broker does not let us consume jobs from `{}`: {error}", self.queue)
        })
    }

    async fn on_delivery(&self, delivery: Delivery) {
        let (acker, earlier_deliveries) = (delivery.acker.clone(), message::earlier_deliveries(&delivery));
        let dead_lettered_at = message::dead_lettered_at(&delivery.properties);
        let job = self.parse(delivery);
        if earlier_deliveries > FETCH_DELIVERY_LIMIT && self.dead_letter(&acker, &job).await {
            return;
        }
        let since = job.history.leasable_since(dead_lettered_at.unwrap_or(job.message.received_at));
        self.jobs.add(acker, job, since);
    }

    /// Makes a dead letter of a job that was delivered too often. Returns false if the broker did not store it.
    async fn dead_letter(&self, acker: &Acker, job: &Job) -> bool {
        let mut history = job.history.clone();
        history.push(message::delivery_limit_attempt(self.clock.now()));
        let Ok(properties) = message::dead(&job.message, &history) else { return false };
        let (exchange, routing_key) = (ShortString::default(), self.dead.clone());
        let outgoing = OutgoingMessage { exchange, routing_key, properties, body: job.message.body.clone() };
        let stored = timeout(HAND_BACK_TIMEOUT, self.publishers.publish(Box::new(outgoing))).await;
        if !matches!(stored, Ok(Ok(PublishResult::Stored))) {
            return false;
        }
        tracing::error!(
            event.id = job.message.id,
            "a job was delivered too often and is a dead letter; see why with: polyhook dead show {}",
            shell::last_argument(&job.message.id)
        );
        counter!("polyhook_dead_letters_total", "reason" => "delivery_limit").increment(1);
        // If the acknowledgement is lost, there will be a second dead letter.
        let _ = acker.ack(BasicAckOptions::default()).await;
        true
    }

    /// Returns why the consumer has ended. If its channel is alive, the broker has cancelled it, and does not say why: because the
    /// queue was deleted, or because a job was held for longer than the consumer timeout (RabbitMQ 4.3; earlier versions end the
    /// channel). The age of the jobs tells these apart. To ask whether the queue exists would not: the broker cancels consumers
    /// before it deletes the queue, and another process may have declared it again.
    fn explain_end(&self, channel: &Channel) -> ChannelEnd {
        if !channel.status().connected() {
            ChannelEnd::Lost("the channel for consuming jobs ended".to_owned())
        } else if self.jobs.longest_hold() > self.consumer_timeout / 2 {
            ChannelEnd::Lost(format!(
                "the broker has taken back a job of `{}` that was held for {:?}",
                self.queue, self.consumer_timeout
            ))
        } else {
            ChannelEnd::QueueDeleted(format!("the queue `{}` was deleted; it is declared again", self.queue))
        }
    }

    fn parse(&self, delivery: Delivery) -> Job {
        let (message, history) = message::read(
            &delivery.properties,
            delivery.routing_key.as_str(),
            delivery.data,
            self.clock.now(),
        );
        Job { message, history, lease: LeaseId(0) }
    }

    /// Stops consuming and returns the jobs that no worker has begun. Jobs that arrive meanwhile go back when the
    /// channel closes.
    async fn hand_back_waiting(&self, channel: &Channel, consumer: &Consumer) {
        let cancelled = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        if timeout(HAND_BACK_TIMEOUT, cancelled).await.is_ok() {
            hand_back(self.jobs.take_waiting()).await;
        }
    }

    /// Stops consuming and closes the channel, which returns all jobs at once.
    async fn hand_back_all(&self, channel: &Channel, consumer: &Consumer) {
        self.jobs.forget_all();
        let close = async {
            channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            channel.close(200, "OK".into()).await
        };
        if !matches!(timeout(HAND_BACK_TIMEOUT, close).await, Ok(Ok(()))) {
            tracing::debug!(
                "the broker did not confirm the close; it delivers the jobs again when the connection ends"
            );
        }
    }
}

/// Hands jobs back to the broker. Returns those for which that worked.
async fn hand_back(jobs: Vec<InFlightJob>) -> Vec<InFlightJob> {
    let mut handed_back = Vec::new();
    for job in jobs {
        if job.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await.is_ok() {
            handed_back.push(job);
        }
    }
    handed_back
}
