//! The queue on RabbitMQ.
//!
//! Guarantees, and the files that implement them:
//!
//! * A published message is durable: it is persistent and mandatory, and its confirm is read in full (`publisher.rs`). The
//!   broker remembers its queue even if it is killed right after declaring it (`topology.rs`).
//! * Known failures are reported at once: while the broker is unreachable, or accepts no messages because it is short of
//!   memory or disk, publishing fails without waiting. `publish_timeout` bounds everything else. A message that timed out
//!   may still arrive: that is a duplicate, never a loss.
//! * Connections are restored without a restart (`connection_keeper.rs`), and missing objects are declared again
//!   (`topology.rs`).
//! * A job leaves the fetch queue only when it is acknowledged. A retry or a dead letter is confirmed in its new queue
//!   first. If that fails, the job keeps its lease for ten seconds, in which it may be settled again, and then goes back to
//!   the broker. AMQP does not confirm acknowledgements: if one is lost with its connection, the job is done again, and the
//!   archive is idempotent.
//! * Duplicates are not recognised here. The publisher's side does that (`queue::spooled`).
//!
//! Message bodies travel as PolyAI sent them, so the broker must be trusted with the content of conversations.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lapin::{
    options::{BasicAckOptions, BasicNackOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use metrics::gauge;
use tokio::sync::watch;

use self::{
    broker::Broker,
    connection::{Connection, ConnectionState},
    connection_keeper::{ConnectionRole, keep_connected},
    consumer::JobConsumer,
    dead_letters::DeadLetterCursor,
    in_flight::InFlightJobs,
    publisher::{OutgoingMessage, PublishResult, Publishers},
    publisher_groups::PublisherGroups,
    tail_publisher::TailPublisher,
    tasks::BackgroundTasks,
    topology::Topology,
};
use crate::{
    clock::Clock,
    event,
    lifecycle::Lifecycle,
    queue::{
        Announced, Announcement, DeadLetters, ErasedMessages, History, Job, JobOutcome, LeaseId, Message,
        Published, Queue, QueueConfig, QueueError, QueueKind, TailEvent,
    },
};

mod broker;
mod connection;
mod connection_keeper;
mod consumer;
mod dead_letters;
mod error;
mod follower;
mod in_flight;
mod message;
pub mod probe;
mod publisher;
mod publisher_groups;
mod tail_publisher;
mod tasks;
mod tls;
mod topology;

pub use self::{error::OpenError, follower::Follower};

/// The frame size of a process that only publishes. The properties of an event need a tenth of it, and longer frames can
/// only come from messages that are read. lapin keeps buffers for 64 frames: 2 MiB instead of 8 MiB with RabbitMQ's 128 KiB.
const PUBLISHER_FRAME_MAX: u32 = 32 << 10;
/// Returned messages end the connection at most this often. Otherwise a publisher of unroutable messages would interrupt
/// all others again and again.
const MIN_REDECLARE_INTERVAL: Duration = Duration::from_secs(10);
/// Bounds the counting of all queues.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// The arguments of [`RabbitMqQueue::open`].
#[derive(Debug)]
pub struct RabbitMqOptions<'a> {
    /// `[queue]`
    pub config: &'a QueueConfig,
    /// The delays of the retry schedule, `[retry]`.
    pub delays: Vec<Duration>,
    /// The maximum number of jobs that this process holds at a time. `None`: it consumes no jobs.
    pub consume: Option<usize>,
    /// Promises that this process reads neither jobs nor dead letters.
    pub only_publishes: bool,
    /// Provides the time of receipt of messages that carry none.
    pub clock: Clock,
}

/// A queue on RabbitMQ; see the [module](self).
#[derive(Debug)]
pub struct RabbitMqQueue {
    topology: Topology,
    publish_timeout: Duration,
    /// The state of the publishing connection.
    publishing: watch::Receiver<ConnectionState>,
    publishers: PublisherGroups,
    tail: TailPublisher,
    jobs: Arc<InFlightJobs>,
    redeclared_at: Mutex<Option<Instant>>,
    clock: Clock,
    tasks: BackgroundTasks,
}

impl RabbitMqQueue {
    /// Checks the configuration and starts the tasks that connect. Does not wait for the broker; [`Queue::ready`] reports
    /// its state. Call it within a tokio runtime.
    pub fn open(options: RabbitMqOptions<'_>, lifecycle: &Lifecycle) -> Result<Arc<Self>, OpenError> {
        let RabbitMqOptions { config, delays, consume, only_publishes, clock } = options;
        let topology = Topology::new(&config.prefix, &delays)?;
        let broker = Arc::new(Broker::new(config, only_publishes.then_some(PUBLISHER_FRAME_MAX))?);
        let tasks = BackgroundTasks::new(lifecycle);

        let (sender, publishing) = ConnectionState::connecting();
        let role = ConnectionRole::Publish(topology.clone());
        let keeper = keep_connected(Arc::clone(&broker), role, sender, tasks.disconnecting.clone());
        tasks.spawn_keeper("queue connection (publish)", keeper);
        let (publishers, tail_publishers) = PublisherGroups::start(&publishing, &tasks);
        let (tail, tail_task) =
            TailPublisher::new(topology.tail.clone(), tail_publishers, tasks.closing.clone());
        tasks.spawn_user("queue notes", tail_task);

        let queue = Self {
            topology,
            publish_timeout: config.publish_timeout,
            publishing,
            publishers,
            tail,
            jobs: Arc::default(),
            redeclared_at: Mutex::new(None),
            clock,
            tasks,
        };
        if let Some(max_jobs) = consume {
            queue.start_consumer(broker, max_jobs, lifecycle);
        }
        Ok(Arc::new(queue))
    }

    fn start_consumer(&self, broker: Arc<Broker>, max_jobs: usize, lifecycle: &Lifecycle) {
        let (sender, consuming) = ConnectionState::connecting();
        let role = ConnectionRole::Consume(self.publishing.clone());
        let keeper = keep_connected(broker, role, sender, self.tasks.disconnecting.clone());
        self.tasks.spawn_keeper("queue connection (consume)", keeper);
        let consumer = JobConsumer {
            queue: self.topology.fetch.clone(),
            // A prefetch of zero would mean "no limit".
            prefetch: u16::try_from(max_jobs).unwrap_or(u16::MAX).max(1),
            jobs: Arc::clone(&self.jobs),
            clock: self.clock.clone(),
            consuming,
            publishing: self.publishing.clone(),
            publishers: Arc::clone(&self.publishers.jobs_again),
            draining: lifecycle.draining(),
            closing: self.tasks.closing.clone(),
        };
        self.tasks.spawn_user("queue consumer", consumer.run());
    }

    /// Returns the publishing connection if messages can be sent over it now.
    fn connection(&self) -> Result<Arc<Connection>, QueueError> {
        if self.tasks.closing.is_cancelled() {
            return Err(QueueError::Closed);
        }
        match &*self.publishing.borrow() {
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
        let publishers = if triggers_fetch { &self.publishers.jobs } else { &self.publishers.events };
        self.in_time(self.publish_event_with(publishers, message)).await
    }

    /// Makes an event durable within the publish timeout. Events are published in the order of the calls.
    pub(super) async fn publish_event_in_order(&self, message: &Message) -> Result<(), QueueError> {
        self.in_time(self.publish_event_with(&self.publishers.in_order, message)).await
    }

    async fn publish_event_with(&self, publishers: &Publishers, message: &Message) -> Result<(), QueueError> {
        let connection = self.connection()?;
        let outgoing = OutgoingMessage {
            exchange: self.topology.events.clone(),
            routing_key: message::short(&message.routing_key(), "routing key").map_err(refused)?,
            properties: message::event(message).map_err(refused)?,
            body: message.body.clone(),
        };
        match publishers.publish(outgoing).await? {
            PublishResult::Stored => {
                if self.tail.has_followers() {
                    self.tail.send(TailEvent::delivery(message, self.clock.now()));
                }
                Ok(())
            }
            PublishResult::Returned => {
                let Topology { events, fetch, unrouted, .. } = &self.topology;
                let reason = format!(
                    "a message was returned by `{events}`: no queue takes it, so `{fetch}`, or the alternate exchange `{unrouted}`, or a binding is missing (deleted, or a policy?); all are declared again"
                );
                let mut redeclared_at = self.redeclared_at.lock().unwrap_or_else(PoisonError::into_inner);
                if redeclared_at.is_none_or(|at| at.elapsed() > MIN_REDECLARE_INTERVAL) {
                    *redeclared_at = Some(Instant::now());
                    connection.fail(reason.clone());
                }
                Err(QueueError::Refused(reason))
            }
        }
    }

    /// Stores a message in one queue through the default exchange.
    async fn publish_to_queue(
        &self,
        queue: &ShortString,
        message: impl FnOnce(ShortString, ShortString) -> OutgoingMessage,
    ) -> Result<(), QueueError> {
        self.connection()?;
        let published = self.publishers.jobs_again.publish(message(ShortString::default(), queue.clone()));
        match self.in_time(published).await? {
            PublishResult::Stored => Ok(()),
            PublishResult::Returned => {
                if let ConnectionState::Up(connection) = &*self.publishing.borrow() {
                    connection.fail(format!("the queue `{queue}` is missing; it is declared again"));
                }
                Err(QueueError::Refused(format!("there is no queue `{queue}`")))
            }
        }
    }

    /// Publishes a job with its history to the queue that its outcome asks for.
    async fn publish_outcome(&self, message: &Message, outcome: &JobOutcome) -> Result<(), QueueError> {
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
        let (properties, body) = (properties.map_err(refused)?, message.body.clone());
        self.publish_to_queue(queue, |exchange, routing_key| OutgoingMessage {
            exchange,
            routing_key,
            properties,
            body,
        })
        .await
    }

    fn send_tail_event(&self, message: &Message, history: &History, outcome: &JobOutcome) {
        let now = self.clock.now();
        self.tail.send(match outcome {
            JobOutcome::Release => return,
            JobOutcome::Done => TailEvent::done(message, history, now),
            JobOutcome::Retry { after, history } => TailEvent::retry(message, history, *after, now),
            JobOutcome::Dead { history } => TailEvent::dead(message, history, now),
        });
    }

    async fn in_time<T>(&self, task: impl Future<Output = Result<T, QueueError>>) -> Result<T, QueueError> {
        match tokio::time::timeout(self.publish_timeout, task).await {
            Ok(result) => result,
            Err(_) => Err(QueueError::Timeout(self.publish_timeout)),
        }
    }

    async fn count_all(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        let state = self.publishing.borrow().clone();
        let connection = match state {
            ConnectionState::Up(connection) => connection,
            ConnectionState::Down(reason) => return Err(QueueError::Unavailable(reason.to_string())),
        };
        let channel = connection.channel().await.map_err(QueueError::Unavailable)?;
        let count = async |queue: &ShortString| {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            match channel.queue_declare(queue.clone(), passive, FieldTable::default()).await {
                Ok(queue) => Ok(u64::from(queue.message_count())),
                Err(error) => Err(QueueError::Unavailable(format!("`{queue}` cannot be counted: {error}"))),
            }
        };
        let mut delayed = 0;
        for queue in &self.topology.delay_queues {
            delayed += count(&queue.name).await?;
        }
        // The broker counts only messages that no consumer holds, so the jobs of this process are added.
        let fetch = count(&self.topology.fetch).await? + self.jobs.count();
        Ok(vec![
            (QueueKind::Fetch, fetch),
            (QueueKind::Retry, delayed),
            (QueueKind::Dead, count(&self.topology.dead).await?),
            (QueueKind::Unrouted, count(&self.topology.unrouted).await?),
        ])
    }
}

fn refused(error: message::TooLong) -> QueueError {
    QueueError::Refused(error.to_string())
}

#[async_trait]
impl Queue for RabbitMqQueue {
    async fn publish(&self, message: Message) -> Result<Published, QueueError> {
        self.publish_event(&message).await.map(|()| Published::New)
    }

    async fn announce(&self, announcement: Announcement) -> Result<Announced, QueueError> {
        self.connection()?;
        let for_tail = self.tail.has_followers().then(|| announcement.clone());
        let outgoing = OutgoingMessage {
            exchange: self.topology.conversations.clone(),
            routing_key: message::short(&announcement.routing_key(), "routing key").map_err(refused)?,
            properties: message::announcement(&announcement).map_err(refused)?,
            body: announcement.body,
        };
        let announced = match self.in_time(self.publishers.announcements.publish(outgoing)).await? {
            PublishResult::Stored => Announced::Delivered,
            PublishResult::Returned => Announced::Unrouted,
        };
        if let Some(announcement) = for_tail {
            self.tail.send(TailEvent::ready(&announcement, self.clock.now()));
        }
        Ok(announced)
    }

    async fn next(&self) -> Result<Job, QueueError> {
        self.jobs.next().await
    }

    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        let settlement = self.jobs.begin_settlement(lease)?;
        let Some(job) = settlement.job() else { return Err(QueueError::LeaseLost) };
        if !job.acker.usable() {
            settlement.finish();
            return Err(QueueError::LeaseLost);
        }
        self.publish_outcome(&job.message, &outcome).await?;
        let acknowledged = match outcome {
            JobOutcome::Release => job.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await,
            _ => job.acker.ack(BasicAckOptions { multiple: false }).await,
        };
        let for_tail = self.tail.has_followers().then(|| (job.message.clone(), job.history.clone()));
        settlement.finish();
        match acknowledged {
            Ok(true) => {
                if let Some((message, history)) = for_tail {
                    self.send_tail_event(&message, &history, &outcome);
                }
                Ok(())
            }
            Ok(false) | Err(_) => Err(QueueError::LeaseLost),
        }
    }

    async fn ready(&self) -> Result<(), QueueError> {
        let connection = self.connection()?;
        if connection.publishing_channels() == 0 {
            return Err(QueueError::Unavailable(
                "connected, but no publishing channel is open yet".to_owned(),
            ));
        }
        Ok(())
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError> {
        Ok(Box::new(DeadLetterCursor::open(self, &self.topology.dead).await?))
    }

    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        let Topology { dead, unrouted, .. } = &self.topology;
        let dead_letters = dead_letters::erase(self, dead, conversation_id, dry_run).await?;
        let events = dead_letters::erase(self, unrouted, conversation_id, dry_run).await?;
        // Searching the other queues would take jobs from workers and change their order.
        let depths = self.depths().await?;
        let jobs = depths.iter().filter(|(queue, _)| matches!(queue, QueueKind::Fetch | QueueKind::Retry));
        let unsearched = jobs.map(|(_, depth)| depth).sum();
        Ok(ErasedMessages { dead_letters, events, unsearched, ..ErasedMessages::default() })
    }

    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        gauge!("polyhook_jobs_held").set(self.jobs.count() as f64);
        if self.tasks.closing.is_cancelled() {
            return Err(QueueError::Closed);
        }
        match tokio::time::timeout(COUNT_TIMEOUT, self.count_all()).await {
            Ok(counts) => counts,
            Err(_) => Err(QueueError::Timeout(COUNT_TIMEOUT)),
        }
    }

    async fn close(&self) {
        self.tasks.closing.cancel();
        self.jobs.close();
        self.tasks.close().await;
    }
}
