//! Starts the worker.

use std::sync::Arc;

use super::{Context, Resources};

pub(super) fn start(context: &Context<'_>, resources: &Resources) {
    let Context { config, queue, clock, lifecycle, .. } = context;
    let worker = resources.worker(config, Arc::clone(queue), clock.clone());
    lifecycle.spawn_service("worker", worker.run(lifecycle.clone()));
    tracing::info!(
        concurrency = config.worker.concurrency,
        environments = config.worker.environments.join(","),
        archive = config.archive.url,
        "fetching conversations"
    );
}
