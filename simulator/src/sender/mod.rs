//! The sender of deliveries. It signs and retries as PolyAI does.
//!
//! By the reference of August 2026 a receiver must answer within a timeout (5 s unless the endpoint sets another one).
//! After a timeout, a network error, 408, 429 or 5xx, PolyAI sends the event again after 1 min, 5 min, 15 min, 1 h and 4 h.
//! After any other answer it does not retry. Each attempt is signed with its own timestamp.
//!
//! With a rate, the sender is an open loop: it sends on schedule, independent of the outcome of earlier deliveries.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

mod options;
mod reordering;
mod report;
mod secret;
mod summary;

pub use options::SenderOptions;
pub use report::{AttemptOutcome, DeliveryReport};
pub use secret::SigningSecret;
pub use summary::{DeliverySummary, LatencyPercentiles};

use crate::{
    clock::Clock,
    delivery::Delivery,
    signing::{
        EVENT_ID_HEADER, SIGNATURE_HEADER, SignatureForm, SignedBody, TIMESTAMP_HEADER, sign_delivery,
    },
};

/// The largest `time_scale` that is used.
const MAX_TIME_SCALE: f64 = 1e6;

/// A target and the options for deliveries to it. Clones share their connections and their concurrency limit.
#[derive(Clone, Debug)]
pub struct Sender {
    target: Url,
    secret: SigningSecret,
    options: Arc<SenderOptions>,
    headers: HeaderMap,
    client: reqwest::Client,
    clock: Clock,
    attempt_permits: Arc<Semaphore>,
}

impl Sender {
    /// A sender to `target`. Fails if the system's certificates cannot be read. The process must have installed a default
    /// rustls provider.
    #[expect(
        clippy::disallowed_methods,
        reason = "this client stands for PolyAI: no redirects, one timeout for each attempt, and none of polyhook's policy"
    )]
    pub fn new(
        target: Url,
        secret: impl Into<SigningSecret>,
        options: SenderOptions,
        clock: Clock,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("polyhook-simulator/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .pool_max_idle_per_host(options.concurrency.max(1))
            .build()?;
        let headers = options
            .headers
            .iter()
            .filter_map(|(name, value)| {
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?))
            })
            .collect();
        Ok(Self {
            target,
            secret: secret.into(),
            headers,
            client,
            clock,
            attempt_permits: Arc::new(Semaphore::new(options.concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            options: Arc::new(options),
        })
    }

    /// Sends until the event is accepted, is refused, or was sent as often as PolyAI does.
    pub async fn deliver(&self, delivery: Delivery) -> DeliveryReport {
        self.deliver_with(self.acquire_permit().await, delivery, false).await
    }

    /// Sends all `deliveries` and waits for the last retry. The options add duplicates and change the order. Memory grows
    /// with the number of deliveries that wait for a retry, not with the number of deliveries.
    pub async fn run<S>(&self, deliveries: S) -> DeliverySummary
    where
        S: Stream<Item = Delivery> + Send,
    {
        self.run_with(deliveries, |_| ()).await
    }

    /// Like [`Sender::run`], and calls `on_end` with each report when its delivery ends.
    pub async fn run_with<S, F>(&self, deliveries: S, on_end: F) -> DeliverySummary
    where
        S: Stream<Item = Delivery> + Send,
        F: Fn(&DeliveryReport) + Send,
    {
        let started = Instant::now();
        let mut summary = DeliverySummary::default();
        let mut running = FuturesUnordered::new();
        let deliveries = reordering::duplicate_and_reorder(deliveries, &self.options);
        let mut deliveries = std::pin::pin!(deliveries);
        let mut sent = 0u32;
        let schedule_start = tokio::time::Instant::now();
        loop {
            let due = self.options.rate.filter(|rate| *rate > 0.0).map(|rate| f64::from(sent) / rate);
            let next = async {
                let (delivery, duplicate) = deliveries.next().await?;
                if let Some(due) = due {
                    tokio::time::sleep_until(schedule_start + Duration::from_secs_f64(due)).await;
                }
                Some((self.acquire_permit().await, delivery, duplicate))
            };
            let mut next = std::pin::pin!(next);
            // The running deliveries make progress while the next one waits.
            let upcoming = loop {
                tokio::select! {
                    upcoming = &mut next => break upcoming,
                    Some(report) = running.next() => {
                        on_end(&report);
                        summary.add(&report);
                    }
                }
            };
            let Some((permit, delivery, duplicate)) = upcoming else { break };
            sent = sent.saturating_add(1);
            running.push(self.deliver_with(permit, delivery, duplicate));
        }
        while let Some(report) = running.next().await {
            on_end(&report);
            summary.add(&report);
        }
        summary.finish(started.elapsed());
        summary
    }

    /// Waits until another attempt may start. The semaphore is never closed, so this is never `None`.
    async fn acquire_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.attempt_permits).acquire_owned().await.ok()
    }

    async fn deliver_with(
        &self,
        mut permit: Option<OwnedSemaphorePermit>,
        delivery: Delivery,
        duplicate: bool,
    ) -> DeliveryReport {
        let Delivery { event_id, kind, conversation_id, body } = delivery;
        let mut earlier = Vec::new();
        let (outcome, latency) = loop {
            let (outcome, latency) = self.attempt(&event_id, body.clone()).await;
            // Other deliveries may be sent while this one waits for its next attempt.
            drop(permit.take());
            let wait = self.options.delays.get(earlier.len()).filter(|_| outcome.retried());
            let Some(wait) = wait else { break (outcome, latency) };
            earlier.push(outcome);
            tokio::time::sleep(wait.mul_f64(self.options.time_scale.clamp(0.0, MAX_TIME_SCALE))).await;
            permit = self.acquire_permit().await;
        };
        DeliveryReport {
            id: event_id,
            event_type: kind,
            conversation_id,
            tries: u32::try_from(earlier.len()).unwrap_or(u32::MAX).saturating_add(1),
            outcome,
            earlier,
            latency_ms: f64::from(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX)) / 1000.0,
            duplicate,
        }
    }

    /// Signs and sends once.
    async fn attempt(&self, event_id: &str, body: Bytes) -> (AttemptOutcome, Duration) {
        let SenderOptions { form, tampering, .. } = *self.options;
        let now = self.clock.now().as_second();
        let SignedBody { signature, timestamp, body } =
            sign_delivery(&self.secret.get(), form, now, body, tampering);
        let mut request = self
            .client
            .post(self.target.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, "application/json");
        if let Some(signature) = signature {
            request = request.header(SIGNATURE_HEADER, signature);
        }
        if let Some(seconds) = timestamp {
            request = request.header(TIMESTAMP_HEADER, seconds);
        }
        if form == SignatureForm::Timestamped {
            request = request.header(EVENT_ID_HEADER, event_id);
        }
        let started = Instant::now();
        let exchange = async {
            let response = request.body(body).send().await?;
            let status = response.status().as_u16();
            // The answer counts once its body was read completely. The content is not used.
            response.bytes().await?;
            Ok::<_, reqwest::Error>(status)
        };
        let outcome = match tokio::time::timeout(self.options.timeout, exchange).await {
            Ok(Ok(status)) => AttemptOutcome::Answered { status },
            Ok(Err(_)) => AttemptOutcome::Network,
            Err(_) => AttemptOutcome::Timeout,
        };
        (outcome, started.elapsed())
    }
}
