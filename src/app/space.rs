//! Measures the free space of every local disk that something of ours lies on, for who is warned before it is full.

use std::{path::PathBuf, time::Duration};

use metrics::gauge;

use crate::{
    config::{Config, Roles},
    disk,
    lifecycle::Lifecycle,
    queue::QueueBackend,
};

const EVERY: Duration = Duration::from_secs(10);

/// What lies on local disks, by the metric's label.
pub(super) fn local(config: &Config, roles: Roles) -> Vec<(&'static str, PathBuf)> {
    let mut local = Vec::new();
    match config.queue.backend() {
        Ok(QueueBackend::Sqlite(path)) => local.push(("queue", path)),
        Ok(QueueBackend::RabbitMq) if roles.receive && !config.spool.path.as_os_str().is_empty() => {
            local.push(("spool", config.spool.path.clone()));
        }
        _ => {}
    }
    if roles.work || roles.reconcile {
        local.extend(config.archive.folder().map(|folder| ("archive", folder)));
    }
    local
}

/// Goes on until the drain. A disk that does not answer keeps the others from being measured, and nothing else.
pub(super) async fn watch(local: Vec<(&'static str, PathBuf)>, lifecycle: Lifecycle) {
    let draining = lifecycle.draining();
    let watch = async {
        loop {
            for (what, path) in &local {
                let path = path.clone();
                let free = tokio::task::spawn_blocking(move || {
                    disk::free_bytes(&disk::nearest_existing_folder(&path))
                })
                .await;
                if let Ok(Some(bytes)) = free {
                    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
                    gauge!("polyhook_disk_free_bytes", "what" => *what).set(bytes as f64);
                }
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        () = draining.cancelled() => {}
        () = watch => {}
    }
}
