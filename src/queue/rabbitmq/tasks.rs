//! The background tasks of an open queue and their ordered end.

use std::time::Duration;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::lifecycle::Lifecycle;

/// Bounds each of the two phases of [`BackgroundTasks::close`].
const PHASE_CLOSE_TIMEOUT: Duration = Duration::from_millis(1500);

/// The tasks of a queue. They end in two phases: first those that use the connections, then those that keep the
/// connections. Dropping it asks all of them to end.
#[derive(Debug)]
pub(super) struct BackgroundTasks {
    lifecycle: Lifecycle,
    /// Ends the tasks that use connections.
    pub(super) closing: CancellationToken,
    connection_users: TaskTracker,
    /// Ends the tasks that keep connections.
    pub(super) disconnecting: CancellationToken,
    connection_keepers: TaskTracker,
}

impl BackgroundTasks {
    pub(super) fn new(lifecycle: &Lifecycle) -> Self {
        Self {
            lifecycle: lifecycle.clone(),
            closing: CancellationToken::new(),
            connection_users: TaskTracker::new(),
            disconnecting: CancellationToken::new(),
            connection_keepers: TaskTracker::new(),
        }
    }

    /// Starts a task that uses a connection.
    pub(super) fn spawn_user(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(&self.connection_users, name, task);
    }

    /// Starts a task that keeps a connection.
    pub(super) fn spawn_keeper(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn(&self.connection_keepers, name, task);
    }

    fn spawn(
        &self,
        tracker: &TaskTracker,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let task = tracker.track_future(task);
        let (closing, draining) = (self.closing.clone(), self.lifecycle.draining());
        self.lifecycle.spawn_service(name, async move {
            task.await;
            // The lifecycle reports a service that ends before the drain as failed. A task that was asked to end
            // has not failed, so it waits for the drain.
            if closing.is_cancelled() {
                draining.cancelled().await;
            }
        });
    }

    /// Asks all tasks to end and waits for them, for a bounded time.
    pub(super) async fn close(&self) {
        for (token, tracker) in
            [(&self.closing, &self.connection_users), (&self.disconnecting, &self.connection_keepers)]
        {
            token.cancel();
            tracker.close();
            if tokio::time::timeout(PHASE_CLOSE_TIMEOUT, tracker.wait()).await.is_err() {
                tracing::warn!(tasks = tracker.len(), "the queue's tasks did not end in time");
            }
        }
    }
}

impl Drop for BackgroundTasks {
    fn drop(&mut self) {
        self.closing.cancel();
        self.disconnecting.cancel();
    }
}
