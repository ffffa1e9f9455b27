//! The queue of a receiver that publishes to RabbitMQ: messages go through a spool while the broker does not take
//! them.
//!
//! * A message goes to the broker. It goes to the [`Spool`] instead, and is durable there, if the broker is known to
//!   be unavailable, refuses it, or does not confirm it within `publish_timeout`. Without a spool these cases are
//!   errors.
//! * After a message stayed unconfirmed, the queue does not wait for the broker again until it has confirmed another
//!   one.
//! * Spooled messages are forwarded in order of arrival, with confirms and at a bounded rate, as soon as the broker
//!   takes messages, also after a crash. A crash between confirm and settlement forwards a message twice. No crash
//!   loses one.
//! * A message that is refused is forwarded again after growing delays. RabbitMQ refuses a message if one of the queues
//!   does that are bound for it, and the others have it by then. Workers recognise such repeated jobs without a fetch.
//! * Duplicates are recognised for `queue.dedup_window`. With a spool they are recognised after a restart, too.

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

/// The maximum number of spooled messages that are forwarded at the same time.
pub const DRAIN_BATCH: usize = 64;
/// The interval at which the drain checks an unavailable broker.
const BROKER_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The delay after the broker did not take a message.
const ERROR_DELAY: Duration = Duration::from_secs(1);
/// The delays until a refused message is forwarded again: each is twice as long as the one before. A refusal may come from
/// one queue only, and all others get the message again each time.
const FIRST_REFUSED_DELAY: Duration = Duration::from_secs(5);
const MAX_REFUSED_DELAY: Duration = Duration::from_mins(10);
/// The interval at which dedup keys are saved. Keys that are not saved yet are lost in a crash.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);
/// The time after the last refusal for which the health report mentions it.
const REFUSAL_REPORT_TIME: Duration = Duration::from_mins(1);
/// The maximum time for the tasks to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// RabbitMQ with an optional spool. See the [module](self).
#[derive(Debug)]
pub struct SpooledQueue {
    broker: Arc<RabbitMqQueue>,
    spool: Option<Arc<Spool>>,
    dedup: DedupWindow,
    health: Health,
    /// True if the broker left a message unconfirmed and has confirmed none since.
    unresponsive: AtomicBool,
    refused_at: Mutex<Option<Instant>>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl SpooledQueue {
    /// Puts `spool` before `broker` and starts to forward its messages, at most `drain_rate` of them a second.
    pub fn new(
        broker: Arc<RabbitMqQueue>,
        spool: Option<(Arc<Spool>, NonZeroU32)>,
        config: &QueueConfig,
        clock: Clock,
        health: Health,
        lifecycle: &Lifecycle,
    ) -> Arc<Self> {
        let (spool, rate) = spool.unzip();
        let this = Arc::new(Self {
            broker,
            spool,
            dedup: DedupWindow::new(config.dedup_window, clock),
            health,
            unresponsive: AtomicBool::new(false),
            refused_at: Mutex::new(None),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        this.spawn(lifecycle, "queue maintenance", Self::maintain);
        if let (Some(spool), Some(rate)) = (&this.spool, rate) {
            // A rate over time sees the first delivery in the spool only if the counter was there before.
            counter!("polyhook_spooled_total").increment(0);
            let spool = Arc::clone(spool);
            this.spawn(lifecycle, "spool drain", async move |this| this.drain(&spool, rate).await);
        }
        this
    }

    /// Runs a task until this queue is closed.
    fn spawn<F>(
        self: &Arc<Self>,
        lifecycle: &Lifecycle,
        name: &'static str,
        task: impl FnOnce(Arc<Self>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let (closing, draining) = (self.closing.clone(), lifecycle.draining());
        let task = self.tasks.track_future(task(Arc::clone(self)));
        lifecycle.spawn_service(name, async move {
            tokio::select! {
                () = task => {}
                () = closing.cancelled() => {}
            }
            // A queue may close before the drain. Its tasks must not look as if they had failed.
            if closing.is_cancelled() {
                draining.cancelled().await;
            }
        });
    }

    async fn publish_or_spool(&self, message: Message) -> Result<(), QueueError> {
        let Some(spool) = &self.spool else { return self.publish_to_broker(&message).await };
        let unresponsive = self.unresponsive.load(Ordering::Relaxed);
        let broker_error = if unresponsive {
            QueueError::Unavailable("the broker leaves messages unconfirmed".to_owned())
        } else {
            match self.publish_to_broker(&message).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            }
        };
        match spool.put(message.clone()).await {
            Ok(()) => {
                counter!("polyhook_spooled_total").increment(1);
                tracing::debug!(event.id = message.id, error = %broker_error, "the broker did not confirm a delivery, so it is in the spool");
                Ok(())
            }
            // The broker is the only place that is left to try.
            Err(error) if unresponsive => self.publish_to_broker(&message).await.map_err(|_| error),
            Err(error) => Err(QueueError::Unavailable(format!("{broker_error}; {error}"))),
        }
    }

    async fn publish_to_broker(&self, message: &Message) -> Result<(), QueueError> {
        let published = self.broker.publish_event(message).await;
        self.on_published(&published);
        published
    }

    /// Updates the state of the broker after it took or did not take a message.
    fn on_published(&self, published: &Result<(), QueueError>) {
        match published {
            Ok(()) => self.unresponsive.store(false, Ordering::Relaxed),
            Err(QueueError::Timeout(_)) => self.unresponsive.store(true, Ordering::Relaxed),
            Err(QueueError::Refused(why)) => {
                *self.refused_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
                self.health.set_degraded("publishing", format!("the broker refuses messages: {why}"));
            }
            Err(_) => {}
        }
    }

    /// Reports the broker's state to the health checks if there is a spool.
    fn report_broker(&self, broker: &Result<(), QueueError>) {
        match broker {
            _ if self.spool.is_none() => {}
            Ok(()) => self.health.clear("broker"),
            Err(error) => self.health.set_degraded("broker", format!("{error}; deliveries go to the spool")),
        }
    }

    /// Saves dedup keys, reports the state of the broker, and clears expired conditions.
    async fn maintain(self: Arc<Self>) {
        if let Some(spool) = &self.spool {
            match spool.remembered_keys().await {
                Ok(saved) => saved.iter().for_each(|(at, keys)| self.dedup.restore(*at, keys)),
                Err(error) => {
                    tracing::warn!(%error, "the dedup keys of earlier deliveries cannot be read, so a late duplicate may be forwarded");
                }
            }
        }
        loop {
            sleep(SAVE_INTERVAL).await;
            self.save_dedup_keys().await;
            // Reported here, too, because there may be no readiness probes.
            self.report_broker(&self.broker.ready().await);
            let mut refused_at = self.refused_at.lock().unwrap_or_else(PoisonError::into_inner);
            if refused_at.is_some_and(|at| at.elapsed() > REFUSAL_REPORT_TIME) {
                *refused_at = None;
                drop(refused_at);
                self.health.clear("publishing");
            }
        }
    }

    async fn save_dedup_keys(&self) {
        let Some(spool) = &self.spool else { return };
        let keys = self.dedup.take_unsaved();
        // The operations that need the spool report its errors.
        if !keys.is_empty() && spool.remember_keys(keys).await.is_err() {
            tracing::debug!("dedup keys could not be saved");
        }
    }

    async fn drain(self: Arc<Self>, spool: &Spool, rate: NonZeroU32) {
        let rate = drain_limiter(rate);
        let mut failure_logged = false;
        loop {
            while self.broker.ready().await.is_err() {
                sleep(BROKER_POLL_INTERVAL).await;
            }
            let forwarded = async {
                let batch = spool.lease(DRAIN_BATCH).await?;
                forward(batch, &self.broker, spool, &rate, |published| self.on_published(published)).await
            };
            match forwarded.await {
                Ok(_) => failure_logged = false,
                Err(error) => {
                    if !failure_logged {
                        tracing::warn!(%error, "spooled messages could not be forwarded; polyhook tries again");
                    }
                    failure_logged = true;
                    sleep(ERROR_DELAY).await;
                }
            }
        }
    }
}

/// Returns the rate limiter for forwarding.
pub fn drain_limiter(per_second: NonZeroU32) -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(per_second).allow_burst(NonZeroU32::MIN))
}

/// Forwards leased messages in order and returns the number that the broker has confirmed. An error means that the
/// caller should pause. Unconfirmed messages stay in the spool.
pub async fn forward(
    batch: Vec<Job>,
    broker: &RabbitMqQueue,
    spool: &Spool,
    rate: &DefaultDirectRateLimiter,
    on_published: impl Fn(&Result<(), QueueError>),
) -> Result<usize, QueueError> {
    for _ in &batch {
        rate.until_ready().await;
    }
    let published = join_all(batch.iter().map(|job| broker.publish_event_in_order(&job.message))).await;
    let mut confirmed = 0;
    let mut broker_failure = None;
    let settled = join_all(batch.into_iter().zip(published).map(|(job, published)| {
        on_published(&published);
        let outcome = match published {
            Ok(()) => {
                confirmed += 1;
                JobOutcome::Done
            }
            // The broker may still take other messages, so this one must not block them.
            Err(QueueError::Refused(_)) => {
                let mut history = job.history;
                let after = refused_delay(history.failures);
                history.failures += 1;
                JobOutcome::Retry { after, history }
            }
            Err(error) => {
                broker_failure = Some(error);
                JobOutcome::Release
            }
        };
        spool.settle(job.lease, outcome)
    }))
    .await;
    // A message whose settlement failed is forwarded again.
    if let Some(error) = broker_failure.or_else(|| settled.into_iter().find_map(Result::err)) {
        return Err(error);
    }
    Ok(confirmed)
}

/// Returns the delay after the refusal that follows this number of others.
fn refused_delay(earlier: usize) -> Duration {
    let doublings = u32::try_from(earlier.min(16)).unwrap_or_default();
    (FIRST_REFUSED_DELAY * 2_u32.pow(doublings)).min(MAX_REFUSED_DELAY)
}

#[async_trait]
impl Queue for SpooledQueue {
    async fn publish(&self, message: Message) -> Result<Published, QueueError> {
        if self.closing.is_cancelled() {
            return Err(QueueError::Closed);
        }
        let dedup = message.dedup;
        // Boxed, because the future is large and would be moved several times.
        self.dedup.publish_once(dedup, Box::pin(self.publish_or_spool(message))).await
    }

    async fn publish_delayed(&self, message: Message, delay: Duration) -> Result<Published, QueueError> {
        // Not spooled: the job that publishes it is repeated.
        let dedup = message.dedup;
        self.dedup.publish_once(dedup, self.broker.publish_job_later(&message, delay)).await
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
            Ok(()) => self.health.clear("spool"),
            Err(error) => self.health.set_degraded(
                "spool",
                format!("{error}; while the broker takes messages the spool is not needed; otherwise deliveries are answered 503"),
            ),
        }
        self.report_broker(&broker);
        match (broker, spool) {
            (Ok(()), _) | (Err(_), Ok(())) => Ok(()),
            (Err(broker), Err(spool)) => Err(QueueError::Unavailable(format!("{broker}; {spool}"))),
        }
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError> {
        self.broker.dead_letters().await
    }

    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        // The spool first, because messages move from the spool to the broker.
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
            tracing::debug!(%error, "the usage of the spool cannot be read");
        }
        self.broker.depths().await
    }

    async fn oldest_age(&self) -> Result<Option<Duration>, QueueError> {
        self.broker.oldest_age().await
    }

    async fn close(&self) {
        self.closing.cancel();
        self.tasks.close();
        if timeout(CLOSE_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("the spool's tasks did not end in time");
        }
        self.save_dedup_keys().await;
        self.broker.close().await;
        if let Some(spool) = &self.spool {
            spool.close().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_message_is_forwarded_less_and_less_often() {
        let delays: Vec<_> = (0..9).map(|earlier| refused_delay(earlier).as_secs()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(refused_delay(usize::MAX), MAX_REFUSED_DELAY);
    }
}
