//! `/livez`, `/readyz` and `/metrics`, on a listener of their own that is never public.
//!
//! Liveness says that the process answers; it does not look at the queue, because restarting polyhook heals no
//! broker. Readiness is the truth about promise 1: ready means that a delivery could be made durable now. Below it
//! stands what a person should know of all the same ([`Health`]), a line each.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Receiver;
use crate::{health::Health, queue::Queue, telemetry};

const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// What the admin listener looks at.
#[derive(Clone)]
pub struct Admin {
    /// Must be able to take a message for the process to be ready.
    pub queue: Arc<dyn Queue>,
    /// Says how full it is, if the process has one.
    pub receiver: Option<Receiver>,
    /// Renders what was measured.
    pub metrics: PrometheusHandle,
    /// Once it fires the process is no longer ready.
    pub draining: CancellationToken,
    /// What is wrong although the process is ready.
    pub health: Health,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Admin {
    /// The admin listener's routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self)
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    match timeout(READY_TIMEOUT, admin.queue.ready()).await {
        Ok(Ok(())) => with_conditions("ready", &admin.health).into_response(),
        Ok(Err(error)) => {
            let text = with_conditions(&format!("not ready: {error}"), &admin.health);
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the queue does not answer\n").into_response(),
    }
}

/// A line, and one more for each open condition.
fn with_conditions(line: &str, health: &Health) -> String {
    let conditions =
        health.conditions().into_iter().map(|(what, text)| format!("degraded: {what}: {text}\n"));
    std::iter::once(format!("{line}\n")).chain(conditions).collect()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    if let Some(receiver) = &admin.receiver {
        receiver.measure();
    }
    if let Ok(Ok(depths)) = timeout(READY_TIMEOUT, admin.queue.depths()).await {
        for (lane, depth) in depths {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge!("polyhook_queue_depth", "queue" => lane.label()).set(depth as f64);
        }
    }
    // It looks into /proc, which takes a while where many connections are open.
    let _ = tokio::task::spawn_blocking(telemetry::update_process_metrics).await;
    let content_type = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, admin.metrics.render()).into_response()
}
