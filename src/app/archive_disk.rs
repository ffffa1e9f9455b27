//! Reports a full or read-only disk of a `file:` archive, until it can be written again.

use std::time::Duration;

use super::Context;
use crate::{archive::Archive, health::Health, lifecycle::Lifecycle};

/// The name of the condition in health reports.
const CONDITION: &str = "archive";
/// The interval of the checks.
const INTERVAL: Duration = Duration::from_secs(10);
/// The interval of the checks while the archive cannot be written.
const DEGRADED_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn start(context: &Context<'_>, archive: Archive) {
    let Context { health, lifecycle, .. } = context;
    lifecycle.spawn_service("archive_disk", watch(archive, health.clone(), lifecycle.clone()));
}

/// Checks the disk until the drain: at intervals, and after each write that fails.
async fn watch(archive: Archive, health: Health, lifecycle: Lifecycle) {
    let draining = lifecycle.draining();
    let watch = async {
        loop {
            let interval = match archive.check_disk().await {
                Ok(()) => {
                    health.clear(CONDITION);
                    INTERVAL
                }
                Err(error) => {
                    health.set_degraded(
                        CONDITION,
                        format!("{error}. Until then jobs fail to archive and are tried again; deliveries are accepted as long as the queue has space"),
                    );
                    DEGRADED_INTERVAL
                }
            };
            tokio::select! {
                () = archive.write_failed() => {}
                () = tokio::time::sleep(interval) => {}
            }
        }
    };
    tokio::select! {
        () = draining.cancelled() => {}
        () = watch => {}
    }
}
