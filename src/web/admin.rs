//! `/livez`, `/readyz` and `/metrics`, on a separate listener that must not be public.
//!
//! `/livez` reports that the process answers. It does not look at the queue, because a restart of polyhook does not
//! repair a broker. `/readyz` reports whether a delivery could be made durable now. Below that line it lists the open
//! conditions of [`Health`], one per line, which do not change the status.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::service::TowerToHyperService;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Receiver;
use crate::{health::Health, queue::Queue, telemetry};

/// Time that the queue has to answer a probe or a scrape.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// Everything that the admin listener reports on.
#[derive(Clone)]
pub struct Admin {
    /// The process is ready while this queue can accept a message.
    pub queue: Arc<dyn Queue>,
    /// The receiver whose gauges are updated on a scrape, if the process has one.
    pub receiver: Option<Receiver>,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    /// The process is not ready after this token is cancelled.
    pub draining: CancellationToken,
    /// Conditions that a person should fix although the process is ready.
    pub health: Health,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Admin {
    /// Returns the admin listener's routes.
    pub fn service(self) -> TowerToHyperService<Router> {
        let router = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics));
        TowerToHyperService::new(router.with_state(self))
    }
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.draining.is_cancelled() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response();
    }
    match timeout(QUEUE_TIMEOUT, admin.queue.ready()).await {
        Ok(Ok(())) => with_conditions("ready", &admin.health).into_response(),
        Ok(Err(error)) => {
            let text = with_conditions(&format!("not ready: {error}"), &admin.health);
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "not ready: the queue does not answer\n").into_response(),
    }
}

/// Returns `line`, followed by one line for each open condition.
fn with_conditions(line: &str, health: &Health) -> String {
    let conditions =
        health.conditions().into_iter().map(|(what, text)| format!("degraded: {what}: {text}\n"));
    std::iter::once(format!("{line}\n")).chain(conditions).collect()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    if let Some(receiver) = &admin.receiver {
        receiver.update_gauges();
    }
    if let Ok(Ok(depths)) = timeout(QUEUE_TIMEOUT, admin.queue.depths()).await {
        for (queue, depth) in depths {
            #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
            gauge!("polyhook_queue_depth", "queue" => queue.label()).set(depth as f64);
        }
    }
    // This reads /proc, which takes a while with many open connections.
    let _ = tokio::task::spawn_blocking(telemetry::update_process_metrics).await;
    let content_type = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, admin.metrics.render()).into_response()
}
