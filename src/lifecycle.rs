//! How the process lives and ends.
//!
//! Every background task is spawned on one [`Lifecycle`]. A first SIGTERM or SIGINT starts the drain: the
//! token of [`Lifecycle::draining`] fires, services stop taking new work and finish what they hold. The
//! drain has a bound; a second signal ends it at once. A service task that ends or panics while nobody
//! asked it to takes the process down, loudly: half a service is worse than a restart.

use std::{future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Mutex,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long in-flight work may take after the first signal.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);

/// The tracker of all background tasks.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    tracker: TaskTracker,
    draining: CancellationToken,
    failed: CancellationToken,
    signals: Arc<Mutex<Option<Signals>>>,
}

/// How the process came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownOutcome {
    /// All tasks ended within the bound.
    Drained,
    /// The bound ran out, or a second signal came.
    Aborted,
    /// A service task died.
    Failed,
}

impl Lifecycle {
    /// Nothing runs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A lifecycle whose tasks outlive this one's: same signals and failures, but waited for separately (see
    /// [`Lifecycle::wait`]). For what the others need until their own end, such as the queue.
    #[must_use]
    pub fn with_own_tracker(&self) -> Self {
        Self { tracker: TaskTracker::new(), ..self.clone() }
    }

    /// Waits until all tasks have ended; the drain must have started.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Fires when the drain starts. Services stop taking new work then.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Starts the drain, as the first signal does.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Runs a task that must not end before the drain. If it does, or panics, the process ends.
    pub fn spawn_service<F>(&self, name: &'static str, service: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Self { draining, failed, .. } = self.clone();
        self.tracker.spawn(async move {
            let outcome = AssertUnwindSafe(service).catch_unwind().await;
            if outcome.is_err() {
                tracing::error!(
                    service = name,
                    "a service panicked; the process ends so that it is restarted whole"
                );
                failed.cancel();
            } else if !draining.is_cancelled() {
                tracing::error!(
                    service = name,
                    "a service ended by itself; the process ends so that it is restarted whole"
                );
                failed.cancel();
            }
        });
    }

    /// Runs a task that ends by itself (one connection, one job). A panic in it is logged and ends it alone.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task panicked");
            }
        })
    }

    /// Takes signals from here on, for [`Lifecycle::run_until_shutdown`] to act on. As the first process of a
    /// container one has no default for SIGTERM: what came while services start would be ignored.
    pub fn install_signal_handlers(&self) {
        if let Ok(mut signals) = self.signals.try_lock() {
            signals.get_or_insert_with(Signals::new);
        }
    }

    /// Waits for a signal (or a failed service), then drains.
    pub async fn run_until_shutdown(&self) -> ShutdownOutcome {
        let mut signals = self.signals.lock().await;
        let signals = signals.get_or_insert_with(Signals::new);
        tokio::select! {
            name = signals.next() => tracing::info!(signal = name, "draining: no new work is taken; a second signal aborts"),
            () = self.failed.cancelled() => {}
            () = self.draining.cancelled() => {}
        }
        self.draining.cancel();
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => {}
            () = tokio::time::sleep(DRAIN_TIMEOUT) => {
                tracing::warn!(tasks = self.tracker.len(), "the drain took too long; what is unfinished is done again after the restart");
                return ShutdownOutcome::Aborted;
            }
            name = signals.next() => {
                tracing::warn!(signal = name, "aborted by a second signal");
                return ShutdownOutcome::Aborted;
            }
        }
        if self.failed.is_cancelled() { ShutdownOutcome::Failed } else { ShutdownOutcome::Drained }
    }
}

/// SIGHUP, which asks a service to read its files again. From the first one on it no longer ends the process.
#[derive(Debug)]
pub struct HangupSignals(Option<Signal>);

impl HangupSignals {
    /// Takes SIGHUP from here on; what comes after is remembered.
    #[must_use]
    pub fn install() -> Self {
        Self(signal(SignalKind::hangup()).ok())
    }

    /// The next one.
    pub async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
}

/// SIGTERM and SIGINT, as one stream. What comes after it was made is remembered.
#[derive(Debug)]
struct Signals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
}

impl Signals {
    fn new() -> Self {
        Self {
            terminate: signal(SignalKind::terminate()).ok(),
            interrupt: signal(SignalKind::interrupt()).ok(),
        }
    }

    async fn next(&mut self) -> &'static str {
        async fn of(signal: &mut Option<Signal>) {
            match signal {
                Some(signal) => drop(signal.recv().await),
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = of(&mut self.terminate) => "SIGTERM",
            () = of(&mut self.interrupt) => "SIGINT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drains_when_asked() {
        let lifecycle = Lifecycle::new();
        let draining = lifecycle.draining();
        lifecycle.spawn_service("patient", async move { draining.cancelled().await });
        lifecycle.drain();
        assert_eq!(lifecycle.run_until_shutdown().await, ShutdownOutcome::Drained);
    }

    #[tokio::test]
    async fn a_service_that_dies_takes_the_process_with_it() {
        for panics in [true, false] {
            let lifecycle = Lifecycle::new();
            lifecycle.spawn_service("mortal", async move { assert!(!panics, "on purpose") });
            assert_eq!(lifecycle.run_until_shutdown().await, ShutdownOutcome::Failed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_has_a_bound() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("stubborn", std::future::pending());
        lifecycle.drain();
        assert_eq!(lifecycle.run_until_shutdown().await, ShutdownOutcome::Aborted);
    }
}
