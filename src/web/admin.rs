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
use bytes::Bytes;
use hyper_util::service::TowerToHyperService;
use metrics::gauge;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{ConnectionLimits, Receiver, ServerConfig, server::MAX_HEADER_BYTES};
use crate::{health::Health, queue::Queue, telemetry};

/// Time that the queue has to answer a probe or a scrape.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

/// Connections of probes and scrapes at the same time.
const MAX_CONNECTIONS: usize = 64;

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
    /// Returns the limits of the admin listener's connections.
    pub fn connection_limits(server: &ServerConfig) -> ConnectionLimits {
        ConnectionLimits {
            transfer_timeout: server.ack_budget,
            idle_timeout: server.idle_timeout,
            max_connections: MAX_CONNECTIONS,
            max_header_bytes: MAX_HEADER_BYTES,
            half_close: true,
        }
    }

    /// Returns the admin listener's routes.
    pub fn service(self) -> TowerToHyperService<Router> {
        let router = Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics).with_state(Arc::new(Scraper::new(self.clone()))));
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

async fn metrics(State(scraper): State<Arc<Scraper>>) -> Response {
    let content_type = [("content-type", "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, scraper.scrape().await).into_response()
}

/// Renders the metrics for one request at a time.
#[derive(Debug)]
struct Scraper {
    admin: Admin,
    /// The time when the last rendering started, and its text.
    last: Mutex<Option<(Instant, Bytes)>>,
}

impl Scraper {
    fn new(admin: Admin) -> Self {
        Self { admin, last: Mutex::new(None) }
    }

    /// Returns the text of all metrics. Requests that have waited for a rendering share the next one, so that any number
    /// of them needs one thread.
    async fn scrape(&self) -> Bytes {
        let requested = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((_, text)) = last.as_ref().filter(|(started, _)| *started >= requested) {
            return text.clone();
        }
        let started = Instant::now();
        let text = self.render().await;
        *last = Some((started, text.clone()));
        text
    }

    async fn render(&self) -> Bytes {
        let Admin { receiver, queue, metrics, .. } = &self.admin;
        if let Some(receiver) = receiver {
            receiver.update_gauges();
        }
        let (depths, oldest) =
            tokio::join!(timeout(QUEUE_TIMEOUT, queue.depths()), timeout(QUEUE_TIMEOUT, queue.oldest_age()));
        if let Ok(Ok(depths)) = depths {
            for (queue, depth) in depths {
                #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
                gauge!("polyhook_queue_depth", "queue" => queue.label()).set(depth as f64);
            }
        }
        match oldest {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(age))) => gauge!("polyhook_queue_oldest_age_seconds").set(age.as_secs_f64()),
            // The last value would look as if it were measured now.
            Ok(Err(_)) | Err(_) => gauge!("polyhook_queue_oldest_age_seconds").set(f64::NAN),
        }
        // This reads /proc, which takes a while with many open connections.
        let _ = tokio::task::spawn_blocking(telemetry::update_process_metrics).await;
        metrics.render().into()
    }
}
