//! The public listener, where PolyAI's deliveries and requests to the trigger arrive, and the admin listener.
//!
//! [`Receiver`] guarantees to PolyAI that 204 means durable, and that every request is answered within
//! `server.ack_budget`. If polyhook itself fails, the answer is 503 with `Retry-After`, never a 4xx: PolyAI sends a
//! delivery again after a 503 and drops it after most 4xx.
//!
//! A request passes these files:
//! 1. `server.rs` accepts the connection.
//! 2. `answer.rs` handles the request in a task of its own, catches panics, counts, logs and builds the response.
//! 3. `delivery.rs` copies what it needs of the head and refuses what no body could make genuine: a missing or malformed
//!    signature, or on the path of the trigger a wrong token (`bearer.rs`). Then it reads the body (`body.rs`), verifies the
//!    signature over the raw bytes, and only then looks inside. `trigger.rs` makes an event of a request to the trigger.
//! 4. `publish.rs` publishes the message and waits until the queue reports it durable.
//!
//! Bounds: the bodies in memory hold at most 64 MiB together, at most `server.max_in_flight` deliveries wait for the
//! queue, and a connection that does not finish its header within the ack budget is closed.

pub mod admin;
mod answer;
mod bearer;
mod body;
mod clock_skew;
mod config;
mod configured_secrets;
mod delivery;
mod discard;
mod outcome;
mod publish;
mod secrets;
mod secrets_file;
mod server;
mod timing;
mod trigger;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::Full;
use hyper::{body::Body, service::Service};
use metrics::gauge;
use tokio::{sync::Semaphore, task::JoinHandle};

use self::{answer::DeliveryMetrics, body::BodyMemory, clock_skew::ClockSkewDetector, outcome::Outcome};
use crate::{clock::Clock, health::Health, lifecycle::Lifecycle, queue::Queue};

pub(crate) use bearer::{ActiveTokens, TokenError, token_problem};
pub(crate) use config::addresses_overlap;
pub use config::{
    AdminConfig, MAX_ACK_BUDGET, MIN_ACK_BUDGET, OnMismatch, POLYAI_TIMEOUT, ServerConfig, SignatureConfig,
    TriggerConfig,
};
pub(crate) use configured_secrets::{ConfiguredSecrets, SecretKind};
pub use outcome::is_receiver_answer;
pub(crate) use secrets::{ReloadedSecrets, SecretsConfig};
pub use secrets_file::{MAX_RETRY_WINDOW, RotationSummary, SecretEntry, SecretsFile, SecretsFileError};
pub use server::{ConnectionLimits, RequestBody, serve};

/// Bytes of bodies that may be in memory at the same time, over all requests.
const MAX_BODY_MEMORY_BYTES: usize = 64 << 20;

/// The public listener: verifies deliveries and publishes them to the queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Receiver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// `server.path` without a slash at its end.
    path: String,
    /// The tasks of requests. A drain waits for them.
    requests: Lifecycle,
    queue: Arc<dyn Queue>,
    secrets: ReloadedSecrets<SignatureConfig>,
    trigger: Option<Trigger>,
    clock_skew: ClockSkewDetector,
    clock: Clock,
    ack_budget: Duration,
    body_limit: usize,
    in_flight: Semaphore,
    max_in_flight: usize,
    metrics: OnceLock<DeliveryMetrics>,
    body_memory: Arc<BodyMemory>,
}

/// The path on which a token holder names a conversation.
#[derive(Debug)]
struct Trigger {
    /// `trigger.path` without a slash at its end.
    path: String,
    tokens: ReloadedSecrets<TriggerConfig>,
}

/// A path of the public listener, and what verifies its requests.
#[derive(Clone, Copy, Debug)]
enum Endpoint<'a> {
    /// `server.path`: signatures.
    Webhook,
    /// `trigger.path`: these tokens.
    Trigger(&'a ReloadedSecrets<TriggerConfig>),
}

/// The sections of the configuration that a receiver needs.
#[derive(Clone, Copy, Debug)]
pub struct ReceiverConfig<'a> {
    /// The limits, and the path of deliveries.
    pub server: &'a ServerConfig,
    /// The verification of deliveries.
    pub signature: &'a SignatureConfig,
    /// The path and the tokens of the trigger.
    pub trigger: &'a TriggerConfig,
}

impl Inner {
    fn metrics(&self) -> &DeliveryMetrics {
        self.metrics.get_or_init(DeliveryMetrics::new)
    }
}

impl Receiver {
    /// Creates a receiver that publishes to `queue` and reports conditions to `health`. A drain of `lifecycle` waits for its
    /// open requests.
    pub fn new(
        ReceiverConfig { server, signature, trigger }: ReceiverConfig<'_>,
        queue: Arc<dyn Queue>,
        clock: Clock,
        health: &Health,
        lifecycle: &Lifecycle,
    ) -> Self {
        let max_in_flight = server.max_in_flight.min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            path: server.path.trim_end_matches('/').to_owned(),
            requests: lifecycle.clone(),
            queue,
            secrets: ReloadedSecrets::new(signature, clock.clone(), health.clone()),
            trigger: trigger.is_on().then(|| Trigger {
                path: trigger.path.trim_end_matches('/').to_owned(),
                tokens: ReloadedSecrets::new(trigger, clock.clone(), health.clone()),
            }),
            clock_skew: ClockSkewDetector::new(health.clone()),
            clock,
            ack_budget: server.ack_budget,
            body_limit: usize::try_from(server.body_limit.as_u64()).unwrap_or(usize::MAX),
            in_flight: Semaphore::new(max_in_flight),
            max_in_flight,
            metrics: OnceLock::new(),
            body_memory: BodyMemory::new(MAX_BODY_MEMORY_BYTES),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Reads the files of signing secrets and tokens again and expires old clock observations. Call it every second, and on
    /// SIGHUP.
    pub async fn refresh(&self) {
        let tokens = async {
            if let Some(trigger) = &self.inner.trigger {
                trigger.tokens.reload().await;
            }
        };
        // At the same time, because one of the files may hang for a while.
        tokio::join!(self.inner.secrets.reload(), tokens);
        self.inner.clock_skew.expire(self.inner.clock.now());
    }

    /// Sets the gauges of deliveries in flight and of body memory.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn update_gauges(&self) {
        let Inner { in_flight, max_in_flight, body_memory, .. } = &*self.inner;
        let in_flight = max_in_flight - in_flight.available_permits();
        gauge!("polyhook_deliveries_in_flight").set(in_flight as f64);
        gauge!("polyhook_body_bytes").set(body_memory.used() as f64);
    }

    /// Answers one request. The returned future only waits for the answer: the request is handled in a task of its own,
    /// so a client that hangs up does not stop a delivery that is being published, nor its count and its log line.
    pub fn handle<B>(&self, request: Request<B>) -> PendingAnswer
    where
        B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
    {
        let version = request.version();
        // In a box, because the runtime moves a task several times, and this one is large.
        let answer = Box::pin(answer::answer(self.clone(), request));
        PendingAnswer { version, task: self.inner.requests.spawn_tracked(answer) }
    }

    /// Returns the endpoint at `path`, with or without a slash at its end.
    fn endpoint(&self, path: &str) -> Option<Endpoint<'_>> {
        let is_at = |own: &str| path.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest == "/");
        if is_at(&self.inner.path) {
            return Some(Endpoint::Webhook);
        }
        let trigger = self.inner.trigger.as_ref().filter(|trigger| is_at(&trigger.path))?;
        Some(Endpoint::Trigger(&trigger.tokens))
    }

    /// Returns the path of deliveries, or that of the trigger.
    fn path_of(&self, is_trigger: bool) -> &str {
        let trigger = self.inner.trigger.as_ref().filter(|_| is_trigger);
        trigger.map_or(&self.inner.path, |trigger| &trigger.path)
    }
}

impl Service<Request<RequestBody>> for Receiver {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = PendingAnswer;

    fn call(&self, request: Request<RequestBody>) -> PendingAnswer {
        self.handle(request)
    }
}

/// The answer to a request that is being handled.
#[derive(Debug)]
pub struct PendingAnswer {
    version: Version,
    task: JoinHandle<Response<Full<Bytes>>>,
}

impl Future for PendingAnswer {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The task catches panics itself, so it fails only if the runtime ends.
        let answer = ready!(Pin::new(&mut self.task).poll(context));
        Poll::Ready(Ok(answer.unwrap_or_else(|_| Outcome::Panicked.response(self.version, false))))
    }
}
