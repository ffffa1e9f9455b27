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

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use metrics::gauge;
use tokio::sync::mpsc;

use self::{
    broker::Broker,
    connection::ConnectionState,
    connection_keeper::{ConnectionRole, keep_connected},
    consumer::JobConsumer,
    dead_letters::DeadLetterCursor,
    in_flight::InFlightJobs,
    message_publisher::MessagePublisher,
    publisher_groups::PublisherGroups,
    tail_publisher::TailPublisher,
    tasks::BackgroundTasks,
    topology::{DelayQueue, Topology},
};
use crate::{
    clock::Clock,
    lifecycle::Lifecycle,
    problem::Problem,
    queue::{
        Announced, Announcement, DeadLetters, ErasedMessages, History, Job, JobOutcome, LeaseId, Message,
        Published, Queue, QueueConfig, QueueError, QueueKind, StoredMessage, TailEvent, age,
        stored::Destination,
    },
};

mod broker;
mod confirm;
mod connection;
mod connection_keeper;
mod consumer;
mod dead_letters;
mod error;
mod follower;
mod in_flight;
mod message;
mod message_publisher;
mod observer;
mod permissions;
pub mod probe;
mod publisher;
mod publisher_groups;
mod request;
mod server_version;
mod tail_publisher;
mod tasks;
mod tls;
mod topology;
mod unconfirmed;

pub use self::{
    error::OpenError,
    follower::Follower,
    observer::{BrokerObserver, BrokerStatus},
};

/// The frame size of a process that only publishes. The properties of an event need a tenth of it, and longer frames can
/// only come from messages that are read. lapin keeps buffers for 64 frames: 2 MiB instead of 8 MiB with RabbitMQ's 128 KiB.
const PUBLISHER_FRAME_MAX: u32 = 32 << 10;
/// The time after which RabbitMQ takes a job back that no worker has settled. From 4.3 on a consumer asks for it; up to 4.2 it is
/// the default of the broker's `consumer_timeout`.
pub const CONSUMER_TIMEOUT: Duration = Duration::from_mins(30);
/// Bounds the counting of all queues.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);

/// The arguments of [`RabbitMqQueue::open`].
#[derive(Debug)]
pub struct RabbitMqOptions<'a> {
    /// `[queue]`
    pub config: &'a QueueConfig,
    /// The delays of the retry schedule, `[retry]`.
    pub delays: Vec<Duration>,
    /// The longest delays of jobs that are published for later, `[refresh]`. Empty: this process publishes none.
    pub refresh_delays: Vec<Duration>,
    /// The maximum number of jobs that this process holds at a time. `None`: it consumes no jobs.
    pub consume: Option<usize>,
    /// Usually [`CONSUMER_TIMEOUT`].
    pub consumer_timeout: Duration,
    /// Promises that this process reads neither jobs nor dead letters.
    pub only_publishes: bool,
    /// Provides the time of receipt of messages that carry none.
    pub clock: Clock,
}

/// A queue on RabbitMQ; see the [module](self).
#[derive(Debug)]
pub struct RabbitMqQueue {
    publisher: MessagePublisher,
    tail: TailPublisher,
    jobs: Arc<InFlightJobs>,
    /// The maximum number of jobs that it holds. `None`: it consumes no jobs.
    max_jobs: Option<usize>,
    clock: Clock,
    broker: Arc<Broker>,
    tasks: BackgroundTasks,
}

/// Returns everything for which [`RabbitMqQueue::open`] would refuse the configuration. Reads files, but connects to nothing.
pub fn check_config(config: &QueueConfig) -> Vec<Problem> {
    let topology = Topology::new(&config.prefix, &[], &[]).err();
    let broker = Broker::new_or_errors(config, None).err();
    topology.into_iter().chain(broker.into_iter().flatten()).map(Problem::from).collect()
}

impl RabbitMqQueue {
    /// Checks the configuration and starts the tasks that connect. Does not wait for the broker; [`Queue::ready`] reports
    /// its state. Call it within a tokio runtime.
    pub fn open(options: RabbitMqOptions<'_>, lifecycle: &Lifecycle) -> Result<Arc<Self>, OpenError> {
        let RabbitMqOptions {
            config,
            delays,
            refresh_delays,
            consume,
            consumer_timeout,
            only_publishes,
            clock,
        } = options;
        let topology = Topology::new(&config.prefix, &delays, &refresh_delays)?;
        let broker = Arc::new(Broker::new(config, only_publishes.then_some(PUBLISHER_FRAME_MAX))?);
        let tasks = BackgroundTasks::new(lifecycle);

        let (sender, publishing) = ConnectionState::connecting();
        let role = ConnectionRole::Publish(topology.clone());
        let keeper = keep_connected(Arc::clone(&broker), role, sender, tasks.disconnecting.clone());
        tasks.spawn_keeper("queue connection (publish)", keeper);
        let (publishers, tail_publishers) = PublisherGroups::start(&publishing, &tasks);
        let (tail, tail_task) =
            TailPublisher::new(topology.tail.clone(), tail_publishers, tasks.closing.clone());
        tasks.spawn_user("tail publisher", tail_task);

        let publisher = MessagePublisher::new(
            topology,
            config.publish_timeout,
            publishing,
            publishers,
            tasks.closing.clone(),
        );
        let jobs = Arc::default();
        let queue =
            Self { publisher, tail, jobs, max_jobs: consume, clock, broker: Arc::clone(&broker), tasks };
        if let Some(max_jobs) = consume {
            queue.start_consumer(broker, max_jobs, consumer_timeout, lifecycle);
        }
        Ok(Arc::new(queue))
    }

    fn start_consumer(
        &self,
        broker: Arc<Broker>,
        max_jobs: usize,
        consumer_timeout: Duration,
        lifecycle: &Lifecycle,
    ) {
        let (sender, consuming) = ConnectionState::connecting();
        let topology = self.publisher.topology.clone();
        let role = ConnectionRole::Consume(topology, self.publisher.connection_state.clone());
        let keeper = keep_connected(broker, role, sender, self.tasks.disconnecting.clone());
        self.tasks.spawn_keeper("queue connection (consume)", keeper);
        let consumer = JobConsumer {
            queue: self.publisher.topology.fetch.clone(),
            dead: self.publisher.topology.dead.clone(),
            // A prefetch of zero would mean "no limit".
            prefetch: u16::try_from(max_jobs).unwrap_or(u16::MAX).max(1),
            consumer_timeout,
            jobs: Arc::clone(&self.jobs),
            clock: self.clock.clone(),
            consuming,
            publishing: self.publisher.connection_state.clone(),
            publishers: Arc::clone(&self.publisher.groups.jobs_again),
            draining: lifecycle.draining(),
            closing: self.tasks.closing.clone(),
        };
        self.tasks.spawn_user("queue consumer", consumer.run());
    }

    /// Makes an event durable within the publish timeout.
    pub(super) async fn publish_event(&self, message: &Message) -> Result<(), QueueError> {
        self.publisher.publish_event(message).await?;
        self.send_delivery_event(message);
        Ok(())
    }

    /// Makes an event durable within the publish timeout. Events are published in the order of the calls.
    pub(super) async fn publish_event_in_order(&self, message: &Message) -> Result<(), QueueError> {
        self.publisher.publish_event_in_order(message).await?;
        self.send_delivery_event(message);
        Ok(())
    }

    /// Makes a job durable that can be consumed after `delay`.
    pub(super) async fn publish_job_later(
        &self,
        message: &Message,
        delay: Duration,
    ) -> Result<(), QueueError> {
        let Some((queue, expiration)) = self.publisher.topology.refresh_queue(delay) else {
            return Err(QueueError::Refused("this process has no queue for delayed jobs".to_owned()));
        };
        let properties = message::retry(message, &History::default(), expiration)?;
        self.publisher.publish_to_queue(&queue.name, properties, message.body.clone()).await
    }

    /// Makes a message of another queue durable at its [`Destination`]. `Ok` means that the broker has confirmed it.
    ///
    /// A delayed job waits in the shortest delay queue that is long enough, or in the longest one.
    pub(super) async fn import(&self, stored: &StoredMessage) -> Result<(), QueueError> {
        let (StoredMessage { message, history, .. }, publisher) = (stored, &self.publisher);
        let history = history.clone();
        match stored.destination(self.clock.now()) {
            Destination::Events => publisher.publish_event_in_order(message).await,
            Destination::Jobs => {
                let job = message::job(message, &history)?;
                publisher.publish_to_queue(&publisher.topology.fetch, job, message.body.clone()).await
            }
            Destination::DelayedJobs(delay)
                if history == History::default() && publisher.topology.refresh_queue(delay).is_some() =>
            {
                self.publish_job_later(message, delay).await
            }
            Destination::DelayedJobs(after) => {
                publisher.publish_outcome(message, &JobOutcome::Retry { after, history }).await
            }
            Destination::DeadLetters => {
                publisher.publish_outcome(message, &JobOutcome::Dead { history }).await
            }
        }
    }

    /// Returns the events of this process from now on, for its own terminal. Only the first caller gets them. Events that
    /// it does not read in time are dropped.
    pub fn own_events(&self) -> mpsc::Receiver<TailEvent> {
        self.tail.own_events()
    }

    fn send_delivery_event(&self, message: &Message) {
        if self.tail.wants_events() {
            self.tail.send(TailEvent::delivery(message, self.clock.now()));
        }
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

    /// Opens a channel on the publishing connection.
    async fn channel(&self) -> Result<Channel, QueueError> {
        let state = self.publisher.connection_state.borrow().clone();
        match state {
            ConnectionState::Up(connection) => connection.channel().await.map_err(QueueError::Unavailable),
            ConnectionState::Down(reason) => Err(QueueError::Unavailable(reason.to_string())),
        }
    }

    async fn count_all(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        let channel = self.channel().await?;
        let count = async |queue: &ShortString| count(&channel, queue).await;
        let count_all = async |queues: &[DelayQueue]| {
            let mut sum = 0;
            for queue in queues {
                sum += count(&queue.name).await?;
            }
            Ok::<_, QueueError>(sum)
        };
        let Topology { delay_queues, refresh_queues, .. } = &self.publisher.topology;
        let retries = count_all(delay_queues).await?;
        // The broker counts only messages that no consumer holds, so the jobs of this process are added.
        let fetch = count(&self.publisher.topology.fetch).await? + self.jobs.count();
        let mut depths = vec![
            (QueueKind::Fetch, fetch),
            (QueueKind::Retry, retries),
            (QueueKind::Dead, count(&self.publisher.topology.dead).await?),
            (QueueKind::Unrouted, count(&self.publisher.topology.unrouted).await?),
        ];
        // A process without these queues does not know how many jobs wait there.
        if !refresh_queues.is_empty() {
            depths.push((QueueKind::Refresh, count_all(refresh_queues).await?));
        }
        Ok(depths)
    }

    /// Returns the time since which the oldest job waits, at the earliest. `None`: no job waits.
    async fn waiting_since(&self, max_jobs: usize) -> Result<Option<Timestamp>, QueueError> {
        if let ConnectionState::Down(reason) = &*self.publisher.connection_state.borrow() {
            return Err(QueueError::Unavailable(reason.to_string()));
        }
        if let Some(since) = self.jobs.waiting_since() {
            return Ok(Some(since));
        }
        // Jobs leave the broker in the order of their arrival, so those that wait arrived after the last one that left.
        let Some(since) = self.jobs.full_since(max_jobs) else { return Ok(None) };
        let waiting = count(&self.channel().await?, &self.publisher.topology.fetch).await?;
        Ok((waiting > 0).then_some(since))
    }
}

/// Returns the number of messages in a queue, without those that consumers hold.
async fn count(channel: &Channel, queue: &ShortString) -> Result<u64, QueueError> {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match channel.queue_declare(queue.clone(), passive, FieldTable::default()).await {
        Ok(queue) => Ok(u64::from(queue.message_count())),
        Err(error) => Err(QueueError::Unavailable(format!("`{queue}` cannot be counted: {error}"))),
    }
}

#[async_trait]
impl Queue for RabbitMqQueue {
    async fn publish(&self, message: Message) -> Result<Published, QueueError> {
        self.publish_event(&message).await.map(|()| Published::New)
    }

    async fn publish_delayed(&self, message: Message, delay: Duration) -> Result<Published, QueueError> {
        self.publish_job_later(&message, delay).await.map(|()| Published::New)
    }

    async fn announce(&self, announcement: Announcement) -> Result<Announced, QueueError> {
        let for_tail = self.tail.wants_events().then(|| announcement.clone());
        let announced = self.publisher.announce(announcement).await?;
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
        self.publisher.publish_outcome(&job.message, &outcome).await?;
        let acknowledged = match outcome {
            JobOutcome::Release => job.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await,
            _ => job.acker.ack(BasicAckOptions { multiple: false }).await,
        };
        let for_tail = self.tail.wants_events().then(|| (job.message.clone(), job.history.clone()));
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
        let connection = self.publisher.connection()?;
        if connection.publishing_channels() == 0 {
            return Err(QueueError::Unavailable(
                "connected, but no publishing channel is open yet".to_owned(),
            ));
        }
        Ok(())
    }

    fn refuses_connections(&self) -> bool {
        self.broker.refuses_connections()
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError> {
        Ok(Box::new(
            DeadLetterCursor::open(&self.publisher, &self.clock, &self.publisher.topology.dead).await?,
        ))
    }

    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        let Topology { dead, unrouted, .. } = &self.publisher.topology;
        let erase =
            |queue| dead_letters::erase(&self.publisher, &self.clock, queue, conversation_id, dry_run);
        let (dead_letters, events) = (erase(dead).await?, erase(unrouted).await?);
        // Searching the other queues would take jobs from workers and change their order.
        let depths = self.depths().await?;
        let is_of_jobs = |queue| matches!(queue, QueueKind::Fetch | QueueKind::Retry | QueueKind::Refresh);
        let jobs = depths.iter().filter(|(queue, _)| is_of_jobs(*queue));
        let unsearched = jobs.map(|(_, depth)| depth).sum();
        Ok(ErasedMessages { dead_letters, events, unsearched, ..ErasedMessages::default() })
    }

    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        if self.max_jobs.is_some() {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge!("polyhook_jobs_held").set(self.jobs.count() as f64);
        }
        if self.tasks.closing.is_cancelled() {
            return Err(QueueError::Closed);
        }
        match tokio::time::timeout(COUNT_TIMEOUT, self.count_all()).await {
            Ok(counts) => counts,
            Err(_) => Err(QueueError::Timeout(COUNT_TIMEOUT)),
        }
    }

    async fn oldest_age(&self) -> Result<Option<Duration>, QueueError> {
        let Some(max_jobs) = self.max_jobs else { return Ok(None) };
        let now = self.clock.now();
        match tokio::time::timeout(COUNT_TIMEOUT, self.waiting_since(max_jobs)).await {
            Ok(since) => Ok(Some(age(since?.unwrap_or(now), now))),
            Err(_) => Err(QueueError::Timeout(COUNT_TIMEOUT)),
        }
    }

    async fn close(&self) {
        self.tasks.closing.cancel();
        self.jobs.close();
        self.tasks.close().await;
    }
}
