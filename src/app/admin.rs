//! Starts the admin listener and the maintenance of its metrics.

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;

use super::{BoundListener, Context};
use crate::{
    lifecycle::Lifecycle,
    web::{self, Receiver, admin::Admin},
};

/// Interval at which the recorder aggregates measured durations.
const METRICS_UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

pub(super) fn start(
    context: &Context<'_>,
    bound: BoundListener,
    metrics: PrometheusHandle,
    receiver: Option<Receiver>,
) {
    let Context { config, queue, health, lifecycle, .. } = context;
    lifecycle.spawn_service("metrics", maintain_metrics(metrics.clone(), lifecycle.clone()));
    let admin = Admin {
        queue: Arc::clone(queue),
        receiver,
        metrics,
        draining: lifecycle.draining(),
        health: health.clone(),
    };
    let limits = Admin::connection_limits(&config.server);
    let service = admin.service();
    let serve = web::serve("admin", bound.listener, move |_| service.clone(), limits, lifecycle.clone());
    lifecycle.spawn_service("admin", serve);
    tracing::info!(address = %bound.address, "serving /livez, /readyz and /metrics");
}

/// Aggregates measured durations until the drain. Without it, the recorder keeps each single duration until the next
/// scrape, which may never come.
async fn maintain_metrics(metrics: PrometheusHandle, lifecycle: Lifecycle) {
    let draining = lifecycle.draining();
    while tokio::time::timeout(METRICS_UPKEEP_INTERVAL, draining.cancelled()).await.is_err() {
        metrics.run_upkeep();
    }
}
