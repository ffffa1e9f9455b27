//! Background tasks, signals and the shutdown of the process.
//!
//! Every background task is spawned on a [`Lifecycle`]. The first SIGTERM or SIGINT starts the drain: the token of
//! [`Lifecycle::draining`] is cancelled, services stop taking new work and finish the work they have. The drain takes
//! at most [`DRAIN_TIMEOUT`]; a second signal ends it at once. If a service task ends or panics before the drain, the
//! whole process ends with an error and can be restarted: a process in which one service is missing would be worse.
//!
//! SIGHUP has two meanings. A process that a person started on a terminal gets it when the terminal is closed: it drains,
//! as on SIGTERM. A service has no terminal and reads its files of secrets again ([`HangupSignals`]).

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    process,
    sync::{Arc, Once},
    thread,
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::Mutex,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::terminal;

/// Time that work in progress has after the first signal.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(8);
/// Time from the first signal until a process ends in any case. A shutdown in which every step takes its full time ends before.
const FORCED_EXIT_TIMEOUT: Duration = Duration::from_secs(16);
/// Time from a second signal until a process ends in any case: a queue may take two seconds to close, and the log one.
const FORCED_ABORT_TIMEOUT: Duration = Duration::from_secs(4);

/// Tracks all background tasks and tells them when to stop. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    tracker: TaskTracker,
    draining: CancellationToken,
    failed: CancellationToken,
    signals: Arc<Mutex<Option<TerminationSignals>>>,
}

/// The result of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownOutcome {
    /// All tasks ended in time.
    Drained,
    /// The drain took too long, or a second signal came.
    Aborted,
    /// A service task ended or panicked before the drain.
    Failed,
}

impl ShutdownOutcome {
    /// Returns what it means for the work of the process.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Drained => "all work in progress is finished or back in the queue",
            Self::Aborted => "unfinished work is repeated after the next start",
            Self::Failed => "a service failed; unfinished work is repeated after the next start",
        }
    }
}

impl Lifecycle {
    /// Creates a lifecycle without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a lifecycle with the same signals and failures whose tasks are waited for separately, with
    /// [`Lifecycle::wait`]. It is for tasks that the others need until they have ended, such as those of the queue.
    #[must_use]
    pub fn with_own_tracker(&self) -> Self {
        Self { tracker: TaskTracker::new(), ..self.clone() }
    }

    /// Waits until all tasks have ended. The drain must have started.
    pub async fn wait(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Returns a token that is cancelled when the drain starts. Services then stop taking new work.
    pub fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Starts the drain, as the first signal does.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Spawns a task that must not end before the drain. If it does, or if it panics, the process ends.
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
                    "a service panicked; the process ends so that it can be restarted"
                );
                failed.cancel();
            } else if !draining.is_cancelled() {
                tracing::error!(
                    service = name,
                    "a service ended before the shutdown; the process ends so that it can be restarted"
                );
                failed.cancel();
            }
        });
    }

    /// Spawns a task that ends by itself, such as one connection or one job. A panic is logged and ends only this task.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(async move {
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                tracing::error!(task = name, "the task {name} panicked; the process continues");
            }
        })
    }

    /// Spawns a task that the drain waits for, and whose result the caller reads.
    pub fn spawn_tracked<F>(&self, task: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Records signals from now on, for [`Lifecycle::run_until_shutdown`]. The first process of a container has no
    /// default action for SIGTERM, so without this a signal that arrives while services start would be ignored.
    pub fn install_signal_handlers(&self) {
        if let Ok(mut signals) = self.signals.try_lock() {
            signals.get_or_insert_with(TerminationSignals::install);
        }
    }

    /// Waits for a signal or a failed service, then drains.
    pub async fn run_until_shutdown(&self) -> ShutdownOutcome {
        let mut signals = self.signals.lock().await;
        let signals = signals.get_or_insert_with(TerminationSignals::install);
        tokio::select! {
            name = signals.first() => tracing::info!(signal = name, "draining: no new work is taken; a second signal aborts"),
            () = self.failed.cancelled() => {}
            () = self.draining.cancelled() => {}
        }
        self.draining.cancel();
        self.tracker.close();
        tokio::select! {
            () = self.tracker.wait() => {}
            () = sleep(DRAIN_TIMEOUT) => {
                tracing::warn!(tasks = self.tracker.len(), "the drain took too long; unfinished work is repeated after the restart");
                return ShutdownOutcome::Aborted;
            }
            name = signals.abort() => {
                tracing::warn!(signal = name, "aborted by a second signal");
                return ShutdownOutcome::Aborted;
            }
        }
        if self.failed.is_cancelled() { ShutdownOutcome::Failed } else { ShutdownOutcome::Drained }
    }
}

/// A stream of SIGHUP, which asks a service to read its files again. While it is installed, SIGHUP does not end the
/// process. On a terminal it is empty, because SIGHUP then means that the terminal was closed.
#[derive(Debug)]
pub struct HangupSignals(Option<Signal>);

impl HangupSignals {
    /// Records SIGHUP from now on.
    #[must_use]
    pub fn install() -> Self {
        Self(if terminal::is_attached() { None } else { signal(SignalKind::hangup()).ok() })
    }

    /// Waits for the next SIGHUP.
    pub async fn next(&mut self) {
        receive(&mut self.0).await;
    }
}

/// A stream of SIGTERM, SIGINT and, on a terminal, SIGHUP. Signals that arrive after its creation are recorded.
#[derive(Debug)]
pub struct TerminationSignals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    hangup: Option<Signal>,
}

impl TerminationSignals {
    /// Records signals from now on. They no longer end the process by themselves, so a thread ends it after
    /// `FORCED_EXIT_TIMEOUT` if the shutdown hangs.
    #[must_use]
    pub fn install() -> Self {
        static FORCED_EXIT: Once = Once::new();
        FORCED_EXIT.call_once(force_exit_after_signal);
        Self::record()
    }

    fn record() -> Self {
        let record = |kind| signal(kind).ok();
        Self {
            terminate: record(SignalKind::terminate()),
            interrupt: record(SignalKind::interrupt()),
            hangup: if terminal::is_attached() { record(SignalKind::hangup()) } else { None },
        }
    }

    /// Waits for a signal that asks the process to end, which for a service starts the drain.
    pub async fn first(&mut self) -> &'static str {
        tokio::select! {
            () = receive(&mut self.hangup) => "SIGHUP",
            name = Self::ending(&mut self.terminate, &mut self.interrupt) => name,
        }
    }

    /// Waits for a signal that aborts the drain. SIGHUP does not: the system and the shell each send one when a terminal
    /// is closed.
    async fn abort(&mut self) -> &'static str {
        Self::ending(&mut self.terminate, &mut self.interrupt).await
    }

    async fn ending(terminate: &mut Option<Signal>, interrupt: &mut Option<Signal>) -> &'static str {
        tokio::select! {
            () = receive(terminate) => "SIGTERM",
            () = receive(interrupt) => "SIGINT",
        }
    }
}

/// Starts a thread that ends the process some time after a signal. The threads of the runtime may all hang then, for example
/// because they write to a terminal that takes no more text (Ctrl-S), so it has a runtime of its own.
fn force_exit_after_signal() {
    let wait_and_exit = || {
        let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            let mut signals = TerminationSignals::record();
            signals.first().await;
            if timeout(FORCED_EXIT_TIMEOUT, signals.abort()).await.is_ok() {
                sleep(FORCED_ABORT_TIMEOUT).await;
            }
        });
        process::exit(1);
    };
    // Without the thread, a shutdown that hangs needs a SIGKILL.
    let _ = thread::Builder::new().name("forced exit".to_owned()).spawn(wait_and_exit);
}

/// Waits for the next signal of a stream.
async fn receive(stream: &mut Option<Signal>) {
    match stream {
        Some(stream) => drop(stream.recv().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn drain_ends_a_service() {
        let lifecycle = Lifecycle::new();
        let draining = lifecycle.draining();
        lifecycle.spawn_service("service", async move { draining.cancelled().await });
        lifecycle.drain();
        assert_eq!(lifecycle.run_until_shutdown().await, ShutdownOutcome::Drained);
    }

    #[tokio::test]
    async fn a_service_that_ends_early_fails_the_process() {
        for panics in [true, false] {
            let lifecycle = Lifecycle::new();
            lifecycle.spawn_service("service", async move { assert!(!panics, "on purpose") });
            assert_eq!(lifecycle.run_until_shutdown().await, ShutdownOutcome::Failed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn drain_is_aborted_after_its_timeout() {
        let lifecycle = Lifecycle::new();
        lifecycle.spawn("endless", std::future::pending());
        lifecycle.drain();
        assert_eq!(lifecycle.run_until_shutdown().await, ShutdownOutcome::Aborted);
    }
}
