//! The queue on RabbitMQ.
//!
//! What is promised, and where it is kept:
//!
//! * A published message is durable: persistent, mandatory, and the confirm is read in full (`publisher.rs`); and the queue it is
//!   in is one that the broker will know again, should it be killed now (`topology.rs`).
//! * Trouble is told at once where it is known: while the broker is away, or takes nothing because it is
//!   short of memory or disk, publishing fails without waiting. `publish_timeout` bounds the rest. A message
//!   that timed out may still arrive: a duplicate, never a loss.
//! * Nobody has to restart us: connections come back by themselves (`connection.rs`), and declare what is
//!   missing (`topology.rs`).
//! * A job leaves the fetch queue only when it is acknowledged. A retry and a dead letter are confirmed in
//!   their new queue first; where that fails the job keeps its lease for ten seconds, in which settling may
//!   be tried again, and then goes back to the broker. AMQP does not confirm the acknowledgement itself: one
//!   that is lost with its connection means that the job is done again, which the archive does not mind.
//! * Duplicates are not recognised here: that is the part of who publishes (`queue::spooled`).
//!
//! The broker must be one that may be trusted with the jobs' content: bodies travel as PolyAI sent them.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use lapin::{
    options::{BasicAckOptions, BasicNackOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use metrics::gauge;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    connection::{Link, Role, Session},
    consumer::Taker,
    desk::Desk,
    endpoint::Broker,
    notes::Notes,
    publisher::{Manner, Parcel, Publishers, Receipt},
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

mod connection;
mod consumer;
mod dead;
mod desk;
mod endpoint;
mod message;
mod notes;
pub mod probe;
mod publisher;
mod tail;
mod tls;
mod topology;

pub use tail::Follower;

/// Deliveries, by two tasks, and two more for those that ask for no fetch, so that a customer's queue for these keeps no call
/// from being durable: with four, each finds half as much to do whenever it is woken, and waking is what costs.
const EVENTS: Manner = Manner { tasks: 2, window: 256 };
/// Announcements, and retries and dead letters, each on channels of their own: a customer's queue that confirms
/// nothing must not keep jobs from their retries. One message at a time on a channel, so that what is returned is
/// known exactly.
const OTHERS: Manner = Manner { tasks: 4, window: 1 };
/// What has to keep its order: one task, one channel.
const IN_ORDER: Manner = Manner { tasks: 1, window: 128 };
/// Where nothing is read, nobody can send a longer frame, and the properties of an event need a tenth of it. lapin keeps
/// room for 64 frames: 2 MiB instead of 8 with RabbitMQ's 128 KiB.
const PUBLISHER_FRAME_MAX: u32 = 32 << 10;
/// A connection is not given up for a message that came back more often than this: who comes back again and
/// again must not take the others with it.
const REDECLARE_EVERY: Duration = Duration::from_secs(10);
/// How long counting may take.
const COUNT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the tasks have to end, twice: first those that use the connections, then those that keep them.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(1500);

/// What [`RabbitMqQueue::open`] needs.
#[derive(Debug)]
pub struct RabbitMqOptions<'a> {
    /// `[queue]`
    pub config: &'a QueueConfig,
    /// The waits that retries may have: the ladder of `[retry]`.
    pub delays: Vec<Duration>,
    /// How many jobs this process may hold at a time; `None` takes none.
    pub consume: Option<usize>,
    /// Nothing will be read from a queue, neither jobs nor dead letters.
    pub only_publishes: bool,
    /// Says when a message of somebody else's was received.
    pub clock: Clock,
}

/// Why the queue cannot be opened; a matter of configuration, always. A broker that is away is none.
#[derive(Debug, Error)]
pub enum OpenError {
    /// No URL at all.
    #[error(
        "queue.url names no broker: write \"amqps://user:password@host/vhost\", or \"sqlite:PATH\" for the embedded queue"
    )]
    NoUrl,
    /// A URL that is none.
    #[error(
        "URL {number} of queue.url cannot be used: {reason}; write amqps://user:password@host:port/vhost, special characters percent-encoded"
    )]
    Url {
        /// Counted from one.
        number: usize,
        /// What is wrong, without the URL: it holds the password.
        reason: String,
    },
    /// A file that is not there or may not be read.
    #[error("queue.{key}: {} cannot be read: {source}", path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Certificates or keys that do not work.
    #[error("{0}")]
    Tls(String),
    /// A prefix that no name can begin with.
    #[error("queue.prefix must be 1 to 64 letters, digits, dots, dashes or underscores")]
    Prefix,
}

/// See the [module](self).
#[derive(Debug)]
pub struct RabbitMqQueue {
    topology: Topology,
    publish_timeout: Duration,
    link: watch::Receiver<Link>,
    jobs: Publishers,
    events: Publishers,
    in_order: Publishers,
    announcements: Publishers,
    others: Arc<Publishers>,
    notes: Notes,
    desk: Arc<Desk>,
    redeclared_at: Mutex<Option<Instant>>,
    clock: Clock,
    services: Services,
}

/// The tasks, and how they end: those that use the connections first.
#[derive(Debug)]
struct Services {
    lifecycle: Lifecycle,
    closing: CancellationToken,
    users: TaskTracker,
    hangup: CancellationToken,
    keepers: TaskTracker,
}

impl Services {
    fn new(lifecycle: &Lifecycle) -> Self {
        Self {
            lifecycle: lifecycle.clone(),
            closing: CancellationToken::new(),
            users: TaskTracker::new(),
            hangup: CancellationToken::new(),
            keepers: TaskTracker::new(),
        }
    }

    fn spawn(
        &self,
        tracker: &TaskTracker,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = tracker.track_future(task);
        let (closing, draining) = (self.closing.clone(), self.lifecycle.draining());
        self.lifecycle.spawn_service(name, async move {
            task.await;
            // One that ends by itself is the lifecycle's to report; one that was asked to end before the
            // drain has not failed.
            if closing.is_cancelled() {
                draining.cancelled().await;
            }
        });
    }

    async fn close(&self) {
        for (token, tracker) in [(&self.closing, &self.users), (&self.hangup, &self.keepers)] {
            token.cancel();
            tracker.close();
            if tokio::time::timeout(CLOSE_TIMEOUT, tracker.wait()).await.is_err() {
                tracing::warn!(tasks = tracker.len(), "the queue's tasks did not end in time");
            }
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.closing.cancel();
        self.hangup.cancel();
    }
}

impl RabbitMqQueue {
    /// Checks the configuration and starts the tasks that connect. Returns at once, whether the broker is
    /// there or not: [`Queue::ready`] tells. Call it within a tokio runtime.
    pub fn open(options: RabbitMqOptions<'_>, lifecycle: &Lifecycle) -> Result<Arc<Self>, OpenError> {
        let RabbitMqOptions { config, delays, consume, only_publishes, clock } = options;
        let topology = Topology::new(&config.prefix, &delays)?;
        let broker = Arc::new(Broker::new(config, only_publishes.then_some(PUBLISHER_FRAME_MAX))?);
        let services = Services::new(lifecycle);
        let desk = Arc::new(Desk::default());
        let connecting = || watch::channel(Link::away("connecting to the broker"));

        let (sender, link) = connecting();
        let role = Role::Publish(topology.clone());
        let keeper = connection::keep(Arc::clone(&broker), role, sender, services.hangup.clone());
        services.spawn(&services.keepers, "queue connection (publish)", keeper);
        let (jobs, job_tasks) = Publishers::new(EVENTS, &link, &services.closing);
        let (events, event_tasks) = Publishers::new(EVENTS, &link, &services.closing);
        let (in_order, in_order_tasks) = Publishers::new(IN_ORDER, &link, &services.closing);
        let (others, other_tasks) = Publishers::new(OTHERS, &link, &services.closing);
        let others = Arc::new(others);
        let (announcements, announcement_tasks) = Publishers::new(OTHERS, &link, &services.closing);
        let (note_publishers, note_tasks) = Publishers::new(notes::MANNER, &link, &services.closing);
        let tasks = [job_tasks, event_tasks, in_order_tasks, other_tasks, announcement_tasks, note_tasks];
        for task in tasks.into_iter().flatten() {
            services.spawn(&services.users, "queue publisher", task.run());
        }
        let (notes, telling) = Notes::new(topology.tail.clone(), note_publishers, services.closing.clone());
        services.spawn(&services.users, "queue notes", telling);

        if let Some(prefetch) = consume {
            let (sender, consuming) = connecting();
            let role = Role::Consume(link.clone());
            let keeper = connection::keep(broker, role, sender, services.hangup.clone());
            services.spawn(&services.keepers, "queue connection (consume)", keeper);
            let taker = Taker {
                queue: topology.fetch.clone(),
                // Zero would be "no limit".
                prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX).max(1),
                desk: Arc::clone(&desk),
                clock: clock.clone(),
                link: consuming,
                publishing: link.clone(),
                publishers: Arc::clone(&others),
                draining: lifecycle.draining(),
                closing: services.closing.clone(),
            };
            services.spawn(&services.users, "queue consumer", taker.run());
        }

        let publish_timeout = config.publish_timeout;
        let redeclared_at = Mutex::new(None);
        Ok(Arc::new(Self {
            topology,
            publish_timeout,
            link,
            jobs,
            events,
            in_order,
            announcements,
            others,
            notes,
            desk,
            redeclared_at,
            clock,
            services,
        }))
    }

    /// The connection, if messages can be sent over it now.
    fn session(&self) -> Result<Arc<Session>, QueueError> {
        if self.services.closing.is_cancelled() {
            return Err(QueueError::Closed);
        }
        match &*self.link.borrow() {
            Link::Away(reason) => Err(QueueError::Unavailable(reason.to_string())),
            Link::Up(session) => match session.blocked() {
                Some(reason) => Err(QueueError::Unavailable(reason)),
                None => Ok(Arc::clone(session)),
            },
        }
    }

    /// Makes an event durable within the publish timeout.
    pub(super) async fn publish_event(&self, message: &Message) -> Result<(), QueueError> {
        let triggers_fetch = event::triggers_fetch(&message.kind);
        let publishers = if triggers_fetch { &self.jobs } else { &self.events };
        self.in_time(self.store_by(publishers, message)).await
    }

    /// The same; of several that are asked for at once the first is published first.
    pub(super) async fn publish_event_in_order(&self, message: &Message) -> Result<(), QueueError> {
        self.in_time(self.store_by(&self.in_order, message)).await
    }

    async fn store_by(&self, publishers: &Publishers, message: &Message) -> Result<(), QueueError> {
        let session = self.session()?;
        let parcel = Parcel {
            exchange: self.topology.events.clone(),
            routing_key: message::short(&message.routing_key(), "routing key").map_err(refused)?,
            properties: message::event(message).map_err(refused)?,
            body: message.body.clone(),
        };
        match publishers.publish(parcel).await? {
            Receipt::Stored => {
                if self.notes.are_wanted() {
                    self.notes.tell(TailEvent::delivery(message, self.clock.now()));
                }
                Ok(())
            }
            Receipt::Returned => {
                let Topology { events, fetch, unrouted, .. } = &self.topology;
                let why = format!(
                    "a message was returned by `{events}`: no queue takes it, so `{fetch}`, or the alternate exchange `{unrouted}`, or a binding is missing (deleted, or a policy?); all are declared again"
                );
                let mut redeclared_at = self.redeclared_at.lock().unwrap_or_else(PoisonError::into_inner);
                if redeclared_at.is_none_or(|at| at.elapsed() > REDECLARE_EVERY) {
                    *redeclared_at = Some(Instant::now());
                    session.fail(why.clone());
                }
                Err(QueueError::Refused(why))
            }
        }
    }

    /// Stores a message in one queue, by the default exchange.
    async fn store_in(
        &self,
        queue: &ShortString,
        parcel: impl FnOnce(ShortString, ShortString) -> Parcel,
    ) -> Result<(), QueueError> {
        self.session()?;
        let published = self.others.publish(parcel(ShortString::default(), queue.clone()));
        match self.in_time(published).await? {
            Receipt::Stored => Ok(()),
            Receipt::Returned => {
                if let Link::Up(session) = &*self.link.borrow() {
                    session.fail(format!("the queue `{queue}` is gone; it is declared again"));
                }
                Err(QueueError::Refused(format!("there is no queue `{queue}`")))
            }
        }
    }

    /// Publishes a job anew, with its history, where it waits or stays.
    async fn relay(&self, message: &Message, outcome: &JobOutcome) -> Result<(), QueueError> {
        let (queue, properties) = match outcome {
            JobOutcome::Done | JobOutcome::Release => return Ok(()),
            JobOutcome::Retry { after, history } => {
                let Some((rung, stay)) = self.topology.rung(*after) else {
                    return Err(QueueError::Refused("there is no queue to wait in".to_owned()));
                };
                (&rung.queue, message::retry(message, history, stay))
            }
            JobOutcome::Dead { history } => (&self.topology.dead, message::dead(message, history)),
        };
        let (properties, body) = (properties.map_err(refused)?, message.body.clone());
        self.store_in(queue, |exchange, routing_key| Parcel { exchange, routing_key, properties, body }).await
    }

    fn note_end(&self, message: &Message, before: &History, outcome: &JobOutcome) {
        let now = self.clock.now();
        self.notes.tell(match outcome {
            JobOutcome::Release => return,
            JobOutcome::Done => TailEvent::done(message, before, now),
            JobOutcome::Retry { after, history } => TailEvent::retry(message, history, *after, now),
            JobOutcome::Dead { history } => TailEvent::dead(message, history, now),
        });
    }

    async fn in_time<T>(&self, task: impl Future<Output = Result<T, QueueError>>) -> Result<T, QueueError> {
        match tokio::time::timeout(self.publish_timeout, task).await {
            Ok(answer) => answer,
            Err(_) => Err(QueueError::Timeout(self.publish_timeout)),
        }
    }

    async fn count(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        let link = self.link.borrow().clone();
        let session = match link {
            Link::Up(session) => session,
            Link::Away(reason) => return Err(QueueError::Unavailable(reason.to_string())),
        };
        let channel = session.channel().await.map_err(QueueError::Unavailable)?;
        let count = async |queue: &ShortString| {
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            match channel.queue_declare(queue.clone(), passive, FieldTable::default()).await {
                Ok(queue) => Ok(u64::from(queue.message_count())),
                Err(error) => Err(QueueError::Unavailable(format!("`{queue}` cannot be counted: {error}"))),
            }
        };
        let mut waiting = 0;
        for rung in &self.topology.rungs {
            waiting += count(&rung.queue).await?;
        }
        // The broker counts what can be taken; what this process holds is taken, but not done.
        let fetch = count(&self.topology.fetch).await? + self.desk.holds();
        Ok(vec![
            (QueueKind::Fetch, fetch),
            (QueueKind::Retry, waiting),
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
        self.session()?;
        let noted = self.notes.are_wanted().then(|| announcement.clone());
        let parcel = Parcel {
            exchange: self.topology.conversations.clone(),
            routing_key: message::short(&announcement.routing_key(), "routing key").map_err(refused)?,
            properties: message::announcement(&announcement).map_err(refused)?,
            body: announcement.body,
        };
        let announced = match self.in_time(self.announcements.publish(parcel)).await? {
            Receipt::Stored => Announced::Delivered,
            Receipt::Returned => Announced::Unrouted,
        };
        if let Some(announcement) = noted {
            self.notes.tell(TailEvent::ready(&announcement, self.clock.now()));
        }
        Ok(announced)
    }

    async fn next(&self) -> Result<Job, QueueError> {
        self.desk.next().await
    }

    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        let ending = self.desk.end(lease)?;
        let Some(held) = ending.held() else { return Err(QueueError::LeaseLost) };
        if !held.acker.usable() {
            ending.done();
            return Err(QueueError::LeaseLost);
        }
        self.relay(&held.message, &outcome).await?;
        let told = match outcome {
            JobOutcome::Release => held.acker.nack(BasicNackOptions { requeue: true, multiple: false }).await,
            _ => held.acker.ack(BasicAckOptions { multiple: false }).await,
        };
        let noted = self.notes.are_wanted().then(|| (held.message.clone(), held.history.clone()));
        ending.done();
        match told {
            Ok(true) => {
                if let Some((message, before)) = noted {
                    self.note_end(&message, &before, &outcome);
                }
                Ok(())
            }
            Ok(false) | Err(_) => Err(QueueError::LeaseLost),
        }
    }

    async fn ready(&self) -> Result<(), QueueError> {
        let session = self.session()?;
        if session.publishing_channels() == 0 {
            return Err(QueueError::Unavailable(
                "connected, but no publishing channel is open yet".to_owned(),
            ));
        }
        Ok(())
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError> {
        Ok(Box::new(dead::Letters::open(self, &self.topology.dead).await?))
    }

    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        let Topology { dead, unrouted, .. } = &self.topology;
        let dead_letters = dead::erase(self, dead, conversation_id, dry_run).await?;
        let events = dead::erase(self, unrouted, conversation_id, dry_run).await?;
        // To look through these would be to take jobs from workers, and out of their order.
        let depths = self.depths().await?;
        let jobs = depths.iter().filter(|(lane, _)| matches!(lane, QueueKind::Fetch | QueueKind::Retry));
        let unsearched = jobs.map(|(_, depth)| depth).sum();
        Ok(ErasedMessages { dead_letters, events, unsearched, ..ErasedMessages::default() })
    }

    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        gauge!("polyhook_jobs_held").set(self.desk.holds() as f64);
        if self.services.closing.is_cancelled() {
            return Err(QueueError::Closed);
        }
        match tokio::time::timeout(COUNT_TIMEOUT, self.count()).await {
            Ok(counted) => counted,
            Err(_) => Err(QueueError::Timeout(COUNT_TIMEOUT)),
        }
    }

    async fn close(&self) {
        self.services.closing.cancel();
        self.desk.close();
        self.services.close().await;
    }
}
