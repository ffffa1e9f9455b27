//! RabbitMQ with a spool before it: what a receiver publishes through.
//!
//! * A message goes to the broker. What it does not confirm within `publish_timeout`, or refuses, or, while it is
//!   known to be away, at once, goes to the [`Spool`] and is durable there. Without one it is an error.
//! * A broker that left a message unconfirmed is not waited for again until it has confirmed one.
//! * What is spooled is handed on in order of arrival, with confirms, at a bounded rate, as soon as the broker
//!   takes messages, also after a crash. A crash in between hands a message on twice, never not at all.
//! * Duplicates are recognised for `queue.dedup_window`; with a spool, also after a restart.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use metrics::counter;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Announced, Announcement, DeadLetters, ErasedMessages, Job, JobOutcome, LeaseId, Message, Published,
    Queue, QueueConfig, QueueError, QueueKind, dedup::DedupWindow, rabbitmq::RabbitMqQueue, spool::Spool,
};
use crate::{clock::Clock, health::Health, lifecycle::Lifecycle};

/// How many spooled messages may be on their way to the broker.
pub const DRAIN_BATCH: usize = 64;
/// How often it is looked whether the broker is back.
const LOOK: Duration = Duration::from_millis(200);
/// The pause after a message that the broker did not take, and until a refused one is tried again.
const PAUSE: Duration = Duration::from_secs(1);
const REFUSED_PAUSE: Duration = Duration::from_secs(5);
/// How often keys of duplicates are saved. What was learnt since is forgotten in a crash.
const SAVE: Duration = Duration::from_secs(1);
/// For how long a refusal is told of after the last one.
const TOLD: Duration = Duration::from_mins(1);
/// How long the tasks may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// See the [module](self).
#[derive(Debug)]
pub struct SpooledQueue {
    broker: Arc<RabbitMqQueue>,
    spool: Option<Arc<Spool>>,
    recent: DedupWindow,
    health: Health,
    /// The broker left a message unconfirmed, and has confirmed none since.
    silent: AtomicBool,
    refused_at: Mutex<Option<Instant>>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl SpooledQueue {
    /// Puts `spool` before `broker` and starts to hand on what it holds, at most `drain_rate` messages a second.
    pub fn new(
        broker: Arc<RabbitMqQueue>,
        spool: Option<(Arc<Spool>, NonZeroU32)>,
        config: &QueueConfig,
        clock: Clock,
        health: Health,
        life: &Lifecycle,
    ) -> Arc<Self> {
        let (spool, rate) = spool.unzip();
        let this = Arc::new(Self {
            broker,
            spool,
            recent: DedupWindow::new(config.dedup_window, clock),
            health,
            silent: AtomicBool::new(false),
            refused_at: Mutex::new(None),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        this.spawn(life, "queue keeper", Self::keep);
        if let (Some(spool), Some(rate)) = (&this.spool, rate) {
            let spool = Arc::clone(spool);
            this.spawn(life, "spool drain", async move |this| this.drain(&spool, rate).await);
        }
        this
    }

    /// Runs a task of this queue's until it is closed.
    fn spawn<F>(self: &Arc<Self>, life: &Lifecycle, name: &'static str, task: impl FnOnce(Arc<Self>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (closing, draining) = (self.closing.clone(), life.draining());
        let task = self.tasks.track_future(task(Arc::clone(self)));
        life.spawn_service(name, async move {
            tokio::select! {
                () = task => {}
                () = closing.cancelled() => {}
            }
            // Closed before the drain is no failure.
            if closing.is_cancelled() {
                draining.cancelled().await;
            }
        });
    }

    async fn store(&self, message: Message) -> Result<(), QueueError> {
        let Some(spool) = &self.spool else { return self.publish_now(&message).await };
        let silent = self.silent.load(Ordering::Relaxed);
        let not_taken = if silent {
            QueueError::Unavailable("the broker leaves messages unconfirmed".to_owned())
        } else {
            match self.publish_now(&message).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            }
        };
        match spool.put(message.clone()).await {
            Ok(()) => {
                counter!("polyhook_spooled_total").increment(1);
                tracing::debug!(event.id = message.id, error = %not_taken, "spooled");
                Ok(())
            }
            // What else is there to try?
            Err(error) if silent => self.publish_now(&message).await.map_err(|_| error),
            Err(error) => Err(QueueError::Unavailable(format!("{not_taken}; {error}"))),
        }
    }

    async fn publish_now(&self, message: &Message) -> Result<(), QueueError> {
        let published = self.broker.publish_event(message).await;
        self.heard(&published);
        published
    }

    /// Draws conclusions from what the broker made of a message.
    fn heard(&self, published: &Result<(), QueueError>) {
        match published {
            Ok(()) => self.silent.store(false, Ordering::Relaxed),
            Err(QueueError::Timeout(_)) => self.silent.store(true, Ordering::Relaxed),
            Err(QueueError::Refused(why)) => {
                *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                self.health.degraded("publishing", format!("the broker refuses messages: {why}"));
            }
            Err(_) => {}
        }
    }

    /// Says whether the broker is there, where a spool stands in for it.
    fn tell_of(&self, broker: &Result<(), QueueError>) {
        match broker {
            _ if self.spool.is_none() => {}
            Ok(()) => self.health.well("broker"),
            Err(error) => self.health.degraded("broker", format!("{error}; deliveries go to the spool")),
        }
    }

    /// Saves the keys of duplicates, says how the broker is, and clears what is over.
    async fn keep(self: Arc<Self>) {
        if let Some(spool) = &self.spool {
            match spool.remembered().await {
                Ok(saved) => saved.iter().for_each(|(at, keys)| self.recent.restore(*at, keys)),
                Err(error) => {
                    tracing::warn!(%error, "which deliveries came before the start is not known: a late duplicate may get through");
                }
            }
        }
        loop {
            sleep(SAVE).await;
            self.save().await;
            // Also where nobody asks whether it is ready.
            self.tell_of(&self.broker.ready().await);
            let mut refused_at = self.refused_at.lock().unwrap_or_else(PoisonError::into_inner);
            if refused_at.is_some_and(|at| at.elapsed() > TOLD) {
                *refused_at = None;
                drop(refused_at);
                self.health.well("publishing");
            }
        }
    }

    async fn save(&self) {
        let Some(spool) = &self.spool else { return };
        let keys = self.recent.take_unsaved();
        // Trouble of the spool is told by who needs it.
        if !keys.is_empty() && spool.remember(keys).await.is_err() {
            tracing::debug!("keys of duplicates could not be saved");
        }
    }

    async fn drain(self: Arc<Self>, spool: &Spool, rate: NonZeroU32) {
        let rate = drain_limiter(rate);
        loop {
            while self.broker.ready().await.is_err() {
                sleep(LOOK).await;
            }
            let moved = async {
                let batch = spool.lease(DRAIN_BATCH).await?;
                forward(batch, &self.broker, spool, &rate, |published| self.heard(published)).await
            };
            if let Err(error) = moved.await {
                tracing::debug!(%error, "the spool is handed on later");
                sleep(PAUSE).await;
            }
        }
    }
}

/// How fast the spool is handed on.
pub fn drain_limiter(per_second: NonZeroU32) -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(per_second).allow_burst(NonZeroU32::MIN))
}

/// Hands leased messages on, in order; how many the broker has confirmed. An error says that it is no use to
/// go on at once; what was not confirmed stays in the spool.
pub async fn forward(
    batch: Vec<Job>,
    broker: &RabbitMqQueue,
    spool: &Spool,
    rate: &DefaultDirectRateLimiter,
    heard: impl Fn(&Result<(), QueueError>),
) -> Result<usize, QueueError> {
    for _ in &batch {
        rate.until_ready().await;
    }
    let published = join_all(batch.iter().map(|job| broker.publish_event_in_order(&job.message))).await;
    let mut moved = 0;
    let mut trouble = None;
    let settled = join_all(batch.into_iter().zip(published).map(|(job, published)| {
        heard(&published);
        let outcome = match published {
            Ok(()) => {
                moved += 1;
                JobOutcome::Done
            }
            // Others may be taken: it must not stand in their way.
            Err(QueueError::Refused(_)) => JobOutcome::Retry { after: REFUSED_PAUSE, history: job.history },
            Err(error) => {
                trouble = Some(error);
                JobOutcome::Release
            }
        };
        spool.settle(job.lease, outcome)
    }))
    .await;
    // One that is not settled is handed on again.
    if let Some(error) = trouble.or_else(|| settled.into_iter().find_map(Result::err)) {
        return Err(error);
    }
    Ok(moved)
}

#[async_trait]
impl Queue for SpooledQueue {
    async fn publish(&self, message: Message) -> Result<Published, QueueError> {
        if self.closing.is_cancelled() {
            return Err(QueueError::Closed);
        }
        let dedup = message.dedup;
        // Boxed, because it is large and would be moved several times.
        self.recent.publish_once(dedup, Box::pin(self.store(message))).await
    }

    async fn announce(&self, announcement: Announcement) -> Result<Announced, QueueError> {
        self.broker.announce(announcement).await
    }

    async fn next(&self) -> Result<Job, QueueError> {
        self.broker.next().await
    }

    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        self.broker.settle(lease, outcome).await
    }

    async fn ready(&self) -> Result<(), QueueError> {
        let broker = self.broker.ready().await;
        let Some(spool) = &self.spool else { return broker };
        let spool = spool.ready().await;
        match &spool {
            Ok(()) => self.health.well("spool"),
            Err(error) => self.health.degraded(
                "spool",
                format!("{error}; while the broker takes messages nothing depends on it, else deliveries are answered 503"),
            ),
        }
        self.tell_of(&broker);
        match (broker, spool) {
            (Ok(()), _) | (Err(_), Ok(())) => Ok(()),
            (Err(broker), Err(spool)) => Err(QueueError::Unavailable(format!("{broker}; {spool}"))),
        }
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError> {
        self.broker.dead_letters().await
    }

    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        // First where a message comes from, then where it goes.
        let spooled = match &self.spool {
            Some(spool) => spool.erase(conversation_id, dry_run).await?,
            None => ErasedMessages::default(),
        };
        let erased = self.broker.erase(conversation_id, dry_run).await?;
        Ok(ErasedMessages { jobs: erased.jobs + spooled.jobs, ..erased })
    }

    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        if let Some(spool) = &self.spool
            && let Err(error) = spool.usage().await
        {
            tracing::debug!(%error, "the spool could not be counted");
        }
        self.broker.depths().await
    }

    async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        if timeout(CLOSE_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("the spool's tasks did not end in time");
        }
        self.save().await;
        self.broker.close().await;
        if let Some(spool) = &self.spool {
            spool.close().await;
        }
    }
}
