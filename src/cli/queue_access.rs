//! Access to the configured queue for the duration of one command.

use std::{
    fmt::Display,
    io::{self, IsTerminal},
    path::Path,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use super::{CliError, output};
use crate::{
    app,
    clock::Clock,
    config::{Config, Roles},
    health::Health,
    lifecycle::Lifecycle,
    queue::{Queue, sqlite},
};

/// Time for the queue to become ready for a command.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// A person waits longer than this only with an explanation.
const NOTE_AFTER: Duration = Duration::from_secs(1);
/// The interval at which the state of the queue is checked.
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

/// Waits until the queue can store messages. Fails at once if the broker refuses connections.
pub(super) async fn wait_until_ready(queue: &dyn Queue) -> Result<(), CliError> {
    let ready = async {
        while queue.ready().await.is_err() && !queue.refuses_connections() {
            tokio::time::sleep(READY_POLL_INTERVAL).await;
        }
    };
    wait_for_broker(ready).await;
    // Asks once more for the reason.
    queue.ready().await.map_err(|error| unavailable(&error))
}

/// Waits for `ready`, but not longer than [`READY_TIMEOUT`]. A person who waits at a terminal sees why.
pub(super) async fn wait_for_broker<T>(ready: impl Future<Output = T>) -> Option<T> {
    let mut ready = pin!(tokio::time::timeout(READY_TIMEOUT, ready));
    let first = tokio::time::timeout(NOTE_AFTER, &mut ready).await;
    if let Ok(result) = first {
        return result.ok();
    }
    if io::stderr().is_terminal() {
        output::note("waiting for the broker …");
    }
    ready.await.ok()
}

/// Returns the error of a command for a queue that it cannot use.
pub(super) fn unavailable(reason: &impl Display) -> CliError {
    CliError::Failed(format!(
        "queue.url: {reason}; fix that and run the command again, or find the cause with `polyhook doctor`"
    ))
}

/// Returns an error if the file of the embedded queue does not exist.
pub(super) fn require_queue_file(path: &Path) -> Result<(), CliError> {
    sqlite::require_file(path).map_err(|error| CliError::Failed(format!("queue.url: {error}")))
}
