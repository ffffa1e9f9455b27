//! The public listener, where PolyAI's deliveries arrive, and the admin listener.
//!
//! [`Receiver`] guarantees to PolyAI that 204 means durable, and that every request is answered within
//! `server.ack_budget`. If polyhook itself fails, the answer is 503 with `Retry-After`, never a 4xx: PolyAI sends a
//! delivery again after a 503 and drops it after most 4xx.
//!
//! A request passes these files:
//! 1. `server.rs` accepts the connection.
//! 2. `answer.rs` sets the deadline and catches panics. At the end it counts, logs and builds the response.
//! 3. `delivery.rs` reads the body, verifies the signature over the raw bytes, and only then looks inside.
//! 4. `publish.rs` publishes the message and waits until the queue reports it durable.
//!
//! Bounds: the bodies in memory hold at most 64 MiB together, at most `server.max_in_flight` deliveries wait for the
//! queue, and a connection that does not finish its header within the ack budget is closed.

pub mod admin;
mod answer;
mod clock_skew;
mod config;
mod delivery;
mod outcome;
mod publish;
mod secrets;
mod secrets_file;
mod server;
mod timing;

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::post};
use metrics::gauge;
use tokio::sync::Semaphore;

use self::{clock_skew::ClockSkewDetector, secrets::SigningSecrets};
use crate::{clock::Clock, health::Health, queue::Queue};

pub use config::{AdminConfig, OnMismatch, ServerConfig, SignatureConfig};
pub use outcome::is_receiver_answer;
pub use secrets_file::{MAX_RETRY_WINDOW, RotationSummary, SecretEntry, SecretsFile, SecretsFileError};
pub use server::serve;

/// Bytes of bodies that may be in memory at the same time, over all requests.
const MAX_BODY_MEMORY_BYTES: usize = 64 << 20;

/// The public listener: verifies deliveries and publishes them to the queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Receiver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Arc<dyn Queue>,
    secrets: SigningSecrets,
    clock_skew: ClockSkewDetector,
    clock: Clock,
    ack_budget: Duration,
    body_limit: usize,
    in_flight: Semaphore,
    max_in_flight: usize,
    /// One permit is one KiB of body in memory.
    body_budget: Arc<Semaphore>,
}

impl Receiver {
    /// Creates a receiver that accepts what `signature` allows, publishes to `queue` and reports conditions to `health`.
    pub fn new(
        server: &ServerConfig,
        signature: &SignatureConfig,
        queue: Arc<dyn Queue>,
        clock: Clock,
        health: &Health,
    ) -> Self {
        let max_in_flight = server.max_in_flight.min(Semaphore::MAX_PERMITS);
        let inner = Inner {
            queue,
            secrets: SigningSecrets::new(signature, clock.clone(), health.clone()),
            clock_skew: ClockSkewDetector::new(health.clone()),
            clock,
            ack_budget: server.ack_budget,
            body_limit: usize::try_from(server.body_limit.as_u64()).unwrap_or(usize::MAX),
            in_flight: Semaphore::new(max_in_flight),
            max_in_flight,
            body_budget: Arc::new(Semaphore::new(MAX_BODY_MEMORY_BYTES / 1024)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Reads the file of signing secrets again and expires old clock observations. Call it every second, and on SIGHUP.
    pub async fn refresh(&self) {
        self.inner.secrets.reload().await;
        self.inner.clock_skew.expire(self.inner.clock.now());
    }

    /// Sets the gauges of deliveries in flight and of body memory.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn update_gauges(&self) {
        let Inner { in_flight, max_in_flight, body_budget, .. } = &*self.inner;
        let in_flight = max_in_flight - in_flight.available_permits();
        gauge!("polyhook_deliveries_in_flight").set(in_flight as f64);
        let body_bytes = MAX_BODY_MEMORY_BYTES - body_budget.available_permits() * 1024;
        gauge!("polyhook_body_bytes").set(body_bytes as f64);
    }

    /// Returns the public listener's routes: `path`, with or without a slash at its end.
    pub fn router(&self, path: &str) -> Router {
        let path = path.trim_end_matches('/');
        let mut router = Router::new().route(&format!("{path}/"), post(answer::delivery));
        if !path.is_empty() {
            router = router.route(path, post(answer::delivery));
        }
        router
            .method_not_allowed_fallback(answer::method_not_allowed)
            .fallback(answer::not_found)
            .with_state(self.clone())
    }
}
