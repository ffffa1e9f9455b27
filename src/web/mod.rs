//! The public listener, where PolyAI's deliveries enter, and the admin listener.
//!
//! A request goes through a deadline (`answer`), is read and verified by the
//! `SignedDelivery` extractor (body limit, then signature over the raw bytes, and
//! only then a lenient look inside), and is published by the handler (`ingest`). A 204 leaves only after
//! the queue has said "durable". Whatever happens, an answer leaves within `ack_budget`, and our own trouble
//! is a 503 with `Retry-After`, never a 4xx: PolyAI retries the one and throws the event away on the other.
//!
//! Bounds: bodies being read hold at most 64 MiB together, at most `max_in_flight` deliveries wait for the
//! queue, and a connection that does not finish its header within the ack budget is closed.

pub mod admin;
mod answer;
mod config;
mod delivery;
mod ingest;
mod secrets;
mod secrets_file;
mod server;
mod skew;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware, routing::post};
use metrics::gauge;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;

use self::{secrets::Secrets, skew::Skew};
use crate::{clock::Clock, health::Health, queue::Queue};

pub use answer::is_receiver_answer;
pub use config::{AdminConfig, OnMismatch, ServerConfig, SignatureConfig};
pub use secrets_file::{MAX_RETRY_WINDOW, RotationSummary, SecretEntry, SecretsFile, SecretsFileError};
pub use server::serve;

/// How many bytes of bodies may be in memory at a time, over all requests.
const BODY_BUDGET_BYTES: usize = 64 << 20;

/// What the receiver needs; cheap to clone.
#[derive(Clone, Debug)]
pub struct Receiver {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    queue: Arc<dyn Queue>,
    secrets: Secrets,
    skew: Skew,
    clock: Clock,
    ack_budget: Duration,
    body_limit: usize,
    in_flight: Semaphore,
    max_in_flight: usize,
    /// One permit is one KiB of body held in memory.
    body_budget: Arc<Semaphore>,
}

impl Receiver {
    /// A receiver that publishes to `queue` what `signature` accepts, and reports to `health`.
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
            secrets: Secrets::new(signature, clock.clone(), health.clone()),
            skew: Skew::new(health.clone()),
            clock,
            ack_budget: server.ack_budget,
            body_limit: usize::try_from(server.body_limit.as_u64()).unwrap_or(usize::MAX),
            in_flight: Semaphore::new(max_in_flight),
            max_in_flight,
            body_budget: Arc::new(Semaphore::new(BODY_BUDGET_BYTES / 1024)),
        };
        Self { inner: Arc::new(inner) }
    }

    /// What is due every second, and when somebody asks for it: reads the file of signing secrets again, lets
    /// go of what has expired.
    pub async fn refresh(&self) {
        self.inner.secrets.reload().await;
        self.inner.skew.expire(self.inner.clock.now());
    }

    /// Sets the gauges of what is bounded here to what is in use now.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    fn measure(&self) {
        let Inner { in_flight, max_in_flight, body_budget, .. } = &*self.inner;
        let in_flight = max_in_flight - in_flight.available_permits();
        gauge!("polyhook_deliveries_in_flight").set(in_flight as f64);
        let body_bytes = BODY_BUDGET_BYTES - body_budget.available_permits() * 1024;
        gauge!("polyhook_body_bytes").set(body_bytes as f64);
    }

    /// The public listener's routes: the one path, with or without a slash at its end.
    pub fn router(&self, path: &str) -> Router {
        let path = path.trim_end_matches('/');
        let ingest = || post(ingest::ingest);
        let mut router = Router::new().route(&format!("{path}/"), ingest());
        if !path.is_empty() {
            router = router.route(path, ingest());
        }
        router
            .method_not_allowed_fallback(answer::method_not_allowed)
            .fallback(answer::not_found)
            .layer(CatchPanicLayer::custom(answer::panicked))
            .layer(middleware::from_fn_with_state(self.clone(), answer::answer_in_time))
            .with_state(self.clone())
    }
}
