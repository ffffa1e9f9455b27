//! Measures the free space of each local disk that polyhook writes to, so that an alert can fire before it is full.

use std::{path::PathBuf, time::Duration};

use metrics::gauge;

use super::Context;
use crate::{
    config::{Config, Roles},
    disk,
    lifecycle::Lifecycle,
    queue::QueueBackend,
};

const INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn start(context: &Context<'_>, roles: Roles) {
    let lifecycle = &context.lifecycle;
    lifecycle.spawn_service("disk_metrics", measure(local_paths(context.config, roles), lifecycle.clone()));
}

/// Returns the local paths that polyhook writes to, with their metric labels.
fn local_paths(config: &Config, roles: Roles) -> Vec<(&'static str, PathBuf)> {
    let mut paths = Vec::new();
    match config.queue.backend() {
        Ok(QueueBackend::Sqlite(path)) => paths.push(("queue", path)),
        Ok(QueueBackend::RabbitMq) if roles.receive && !config.spool.path.as_os_str().is_empty() => {
            paths.push(("spool", config.spool.path.clone()));
        }
        _ => {}
    }
    if roles.work || roles.reconcile {
        paths.extend(config.archive.folder().map(|folder| ("archive", folder)));
    }
    paths
}

/// Measures until the drain. A disk that does not answer delays only the measurements of the others.
async fn measure(paths: Vec<(&'static str, PathBuf)>, lifecycle: Lifecycle) {
    let draining = lifecycle.draining();
    let measure = async {
        loop {
            for (label, path) in &paths {
                let path = path.clone();
                let free = tokio::task::spawn_blocking(move || {
                    disk::free_bytes(&disk::nearest_existing_folder(&path))
                });
                if let Ok(Some(bytes)) = free.await {
                    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
                    gauge!("polyhook_disk_free_bytes", "what" => *label).set(bytes as f64);
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = draining.cancelled() => {}
        () = measure => {}
    }
}
