//! Access to the configured queue for the duration of one command.

use std::{fmt::Display, path::Path, sync::Arc, time::Duration};

use super::CliError;
use crate::{
    app,
    clock::Clock,
    config::{Config, Roles},
    health::Health,
    lifecycle::Lifecycle,
    queue::Queue,
};

/// Time for the queue to become ready for a command.
pub(super) const READY_TIMEOUT: Duration = Duration::from_secs(10);
const READY_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Opens the configured queue, runs `command` and closes the queue, also after an error.
pub(super) async fn with_queue<T>(
    config: &Config,
    roles: Roles,
    clock: Clock,
    command: impl AsyncFnOnce(&Arc<dyn Queue>, &Lifecycle) -> Result<T, CliError>,
) -> Result<T, CliError> {
    let lifecycle = Lifecycle::new();
    let queue = app::open_queue(config, roles, clock, &Health::default(), &lifecycle)?.queue;
    let result = command(&queue, &lifecycle).await;
    lifecycle.drain();
    queue.close().await;
    lifecycle.wait().await;
    result
}

/// Waits until the queue can store messages.
pub(super) async fn wait_until_ready(queue: &dyn Queue) -> Result<(), CliError> {
    let ready = tokio::time::timeout(READY_TIMEOUT, async {
        while queue.ready().await.is_err() {
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    });
    if ready.await.is_ok() {
        return Ok(());
    }
    // Asks once more for the reason.
    queue.ready().await.map_err(|error| unavailable(&error))
}

/// Returns the error of a command for a queue that it cannot use.
pub(super) fn unavailable(reason: &impl Display) -> CliError {
    CliError::Failed(format!(
        "queue.url: {reason}; fix that and run the command again, or find the cause with `polyhook doctor`"
    ))
}

/// Returns an error if the file of the embedded queue does not exist. Opening the queue would create it and so hide a
/// wrong path.
pub(super) fn require_queue_file(path: &Path) -> Result<(), CliError> {
    if path.exists() {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "queue.url: there is no queue file {}; run this command where the service runs, with the same configuration",
        path.display()
    )))
}
