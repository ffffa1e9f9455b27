//! Signs and posts deliveries, and tries again as PolyAI does.
//!
//! By the reference of August 2026 a delivery is answered within a timeout (5 s unless the endpoint says
//! otherwise); after a timeout, a network error, 408, 429 or 5xx it is sent again after 1 min, 5 min, 15 min,
//! 1 h and 4 h, and after any other answer never. Each attempt is signed with its own timestamp. The sender
//! is an open loop: at a rate it sends when it is time to, whatever became of the deliveries before.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use url::Url;

use super::{
    clock::Clock,
    delivery::Delivery,
    signing::{
        EVENT_ID_HEADER, SIGNATURE_HEADER, SignatureForm, SignedBody, TIMESTAMP_HEADER, Tampering,
        sign_delivery,
    },
    summary::DeliverySummary,
};

/// Reports that a listener may fall behind.
const REPORTS: usize = 16_384;

/// How deliveries are made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SenderOptions {
    /// `timestamped` (the reference) or `body` (the quickstart, which knows no other header either).
    pub form: SignatureForm,
    /// How long an answer may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The waits before the second attempt, the third and so on.
    #[serde(with = "super::durations")]
    pub delays: Vec<Duration>,
    /// Multiplies the waits: 0.001 makes a minute 60 ms.
    pub time_scale: f64,
    /// First attempts per second; as fast as the concurrency allows where absent.
    pub rate: Option<f64>,
    /// Most attempts at a time.
    pub concurrency: usize,
    /// The share of deliveries that are sent twice, the copy right after.
    pub duplicates: f64,
    /// Deliveries are shuffled within a window of so many; 0 or 1 keeps their order.
    pub reorder: usize,
    /// Sent along, as the endpoint's own headers are.
    pub headers: BTreeMap<String, String>,
    /// Decides duplicates and order.
    pub seed: u64,
    /// Every attempt is wrong on purpose.
    #[serde(skip)]
    pub tampering: Option<Tampering>,
}

impl Default for SenderOptions {
    fn default() -> Self {
        Self {
            form: SignatureForm::Timestamped,
            timeout: Duration::from_secs(5),
            delays: [60, 300, 900, 3_600, 14_400].map(Duration::from_secs).to_vec(),
            time_scale: 1.0,
            rate: None,
            concurrency: 64,
            duplicates: 0.0,
            reorder: 0,
            headers: BTreeMap::new(),
            seed: 1,
            tampering: None,
        }
    }
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// An HTTP status.
    Status(u16),
    /// None in time.
    Timeout,
    /// No connection, or one that broke.
    Network,
}

impl AttemptOutcome {
    /// Whether PolyAI takes it for a yes.
    pub fn accepted(self) -> bool {
        matches!(self, Self::Status(200..=299))
    }

    /// Whether PolyAI sends the event again.
    pub fn retried(self) -> bool {
        matches!(self, Self::Timeout | Self::Network | Self::Status(408 | 429 | 500..=599))
    }
}

/// What became of one delivery.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryReport {
    /// The event's id.
    pub event_id: String,
    /// The event's type.
    pub kind: String,
    /// What it was about.
    pub conversation_id: Option<String>,
    /// How often it was sent.
    pub attempts: u32,
    /// How the last attempt ended.
    pub answer: AttemptOutcome,
    /// How every attempt before that ended.
    pub earlier: Vec<AttemptOutcome>,
    /// From sending to answer, of the last attempt, in microseconds.
    pub latency_us: u64,
    /// Whether it is a copy made on demand.
    pub duplicate: bool,
}

/// The secret that the next attempt is signed with. Clones share it: a rotation also changes the secret that
/// retries of older deliveries are signed with. It does not print itself, because `polyhook send` signs with
/// real secrets.
#[derive(Clone)]
pub struct SigningSecret(Arc<Mutex<String>>);

impl SigningSecret {
    pub(crate) fn get(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, secret: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = secret;
    }
}

impl<S: Into<String>> From<S> for SigningSecret {
    fn from(secret: S) -> Self {
        Self(Arc::new(Mutex::new(secret.into())))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A target and how to deliver to it. Clones share their connections and their limit.
#[derive(Clone, Debug)]
pub struct Sender {
    target: Url,
    secret: SigningSecret,
    options: Arc<SenderOptions>,
    headers: HeaderMap,
    client: reqwest::Client,
    clock: Clock,
    slots: Arc<Semaphore>,
    reports: broadcast::Sender<DeliveryReport>,
}

impl Sender {
    /// A sender to `target`. Fails if the system's certificates cannot be read; needs a default rustls
    /// provider to have been installed.
    #[expect(
        clippy::disallowed_methods,
        reason = "PolyAI's side of the wire: no redirects, its own timeout per attempt, and nothing of our client's policy"
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
            slots: Arc::new(Semaphore::new(options.concurrency.clamp(1, Semaphore::MAX_PERMITS))),
            reports: broadcast::channel(REPORTS).0,
            options: Arc::new(options),
        })
    }

    /// The report of every delivery that comes to its end from now on.
    pub fn reports(&self) -> broadcast::Receiver<DeliveryReport> {
        self.reports.subscribe()
    }

    /// Sends until it is accepted, refused, or has been tried as often as PolyAI does.
    pub async fn deliver(&self, delivery: Delivery) -> DeliveryReport {
        self.deliver_in(self.slot().await, delivery, false).await
    }

    /// Delivers everything `deliveries` gives, at the rate and with the accidents of the options, and waits
    /// for the last retry. Memory does not depend on how many there are, but on how many await a retry.
    pub async fn run<S>(&self, deliveries: S) -> DeliverySummary
    where
        S: Stream<Item = Delivery> + Send,
    {
        self.run_with(deliveries, |_| ()).await
    }

    /// [`Sender::run`], and `ended` sees every report on the way.
    pub async fn run_with<S, F>(&self, deliveries: S, ended: F) -> DeliverySummary
    where
        S: Stream<Item = Delivery> + Send,
        F: Fn(&DeliveryReport) + Send,
    {
        let started = Instant::now();
        let mut summary = DeliverySummary::default();
        let mut running = FuturesUnordered::new();
        let order = super::order::disorder(deliveries, &self.options);
        let mut order = std::pin::pin!(order);
        let mut sent = 0u32;
        let first = tokio::time::Instant::now();
        loop {
            let due = self.options.rate.filter(|rate| *rate > 0.0).map(|rate| f64::from(sent) / rate);
            let next = async {
                let (delivery, duplicate) = order.next().await?;
                if let Some(due) = due {
                    tokio::time::sleep_until(first + Duration::from_secs_f64(due)).await;
                }
                Some((self.slot().await, delivery, duplicate))
            };
            let mut next = std::pin::pin!(next);
            // The deliveries under way go on while the next one waits for its turn.
            let upcoming = loop {
                tokio::select! {
                    upcoming = &mut next => break upcoming,
                    Some(report) = running.next() => {
                        ended(&report);
                        summary.add(&report);
                    }
                }
            };
            let Some((slot, delivery, duplicate)) = upcoming else { break };
            sent = sent.saturating_add(1);
            running.push(self.deliver_in(slot, delivery, duplicate));
        }
        while let Some(report) = running.next().await {
            ended(&report);
            summary.add(&report);
        }
        summary.finish(started.elapsed());
        summary
    }

    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    async fn deliver_in(
        &self,
        slot: Option<OwnedSemaphorePermit>,
        delivery: Delivery,
        duplicate: bool,
    ) -> DeliveryReport {
        let Delivery { event_id, kind, conversation_id, body } = delivery;
        let mut earlier = Vec::new();
        let mut slot = slot;
        let (answer, latency) = loop {
            let (answer, latency) = self.attempt(&event_id, body.clone()).await;
            // A delivery that waits for its next attempt is in nobody's way.
            drop(slot.take());
            let wait = self.options.delays.get(earlier.len()).filter(|_| answer.retried());
            let Some(wait) = wait else { break (answer, latency) };
            earlier.push(answer);
            tokio::time::sleep(wait.mul_f64(self.options.time_scale.clamp(0.0, 1e6))).await;
            slot = self.slot().await;
        };
        let report = DeliveryReport {
            event_id,
            kind,
            conversation_id,
            attempts: u32::try_from(earlier.len()).unwrap_or(u32::MAX).saturating_add(1),
            answer,
            earlier,
            latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
            duplicate,
        };
        // Nobody has to listen.
        let _ = self.reports.send(report.clone());
        report
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
            // An answer is an answer once it has been read; what it says does not matter.
            response.bytes().await?;
            Ok::<_, reqwest::Error>(status)
        };
        let answer = match tokio::time::timeout(self.options.timeout, exchange).await {
            Ok(Ok(status)) => AttemptOutcome::Status(status),
            Ok(Err(_)) => AttemptOutcome::Network,
            Err(_) => AttemptOutcome::Timeout,
        };
        (answer, started.elapsed())
    }
}
