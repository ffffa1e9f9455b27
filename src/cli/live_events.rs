//! Shows the events of a running process, with the lines of `tail`.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    app::OpenQueue,
    config::Config,
    queue::{QueueBackend, TailEvent, sqlite},
};

/// The level of the log beside these lines: warnings, errors, and the end of what a warning reported.
pub(super) const LOG_LEVEL: &str = "warn,polyhook::health=info,polyhook::lifecycle=info,polyhook::queue=info";
/// Time between two looks for new events.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time to show the last events. A terminal may take no more text.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// The source of a process's events. It keeps what happens before the events are shown.
pub(super) enum EventSource {
    /// The file of the embedded queue, once it can be opened, from a time on.
    File { path: PathBuf, since: Timestamp, follower: Option<Box<sqlite::Follower>> },
    /// This process's own events, on RabbitMQ.
    Process(mpsc::Receiver<TailEvent>),
    /// Neither.
    None,
}

impl EventSource {
    /// Returns the events of `queue`: those in a file from `since` on, those of RabbitMQ from now on.
    pub(super) fn open(config: &Config, queue: &OpenQueue, since: Timestamp) -> Self {
        match (config.queue.backend(), &queue.broker) {
            (Ok(QueueBackend::Sqlite(path)), _) => Self::File { path, since, follower: None },
            (_, Some(broker)) => Self::Process(broker.own_events()),
            _ => Self::None,
        }
    }

    /// Returns new events. An error of the file is in the log of the queue, too, so it is not reported here.
    fn poll(&mut self) -> Vec<TailEvent> {
        match self {
            Self::File { path, since, follower } => {
                if follower.is_none() {
                    *follower = sqlite::Follower::open(path, *since).ok().map(Box::new);
                }
                follower.as_mut().and_then(|follower| follower.poll().ok()).unwrap_or_default()
            }
            Self::Process(events) => std::iter::from_fn(|| events.try_recv().ok()).collect(),
            Self::None => Vec::new(),
        }
    }
}

/// A thread that shows events until it is stopped.
#[derive(Debug)]
pub(super) struct LiveEvents {
    stopped: Arc<AtomicBool>,
    /// The number of finished looks for new events.
    looks: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl LiveEvents {
    /// Shows the events of `source` with `show`.
    pub(super) fn start(mut source: EventSource, mut show: impl FnMut(&TailEvent) + Send + 'static) -> Self {
        let (stopped, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (is_stopped, finished) = (Arc::clone(&stopped), Arc::clone(&looks));
        let thread = tokio::task::spawn_blocking(move || {
            loop {
                // Read first: the last look comes after the stop.
                let is_last = is_stopped.load(Ordering::Relaxed);
                source.poll().iter().for_each(&mut show);
                finished.fetch_add(1, Ordering::Relaxed);
                if is_last {
                    return;
                }
                std::thread::sleep(POLL_INTERVAL);
            }
        });
        Self { stopped, looks, thread }
    }

    /// Waits until everything that has happened is shown, at most one second.
    pub(super) async fn flush(&self) {
        // A look that is going on may have begun too early.
        let enough = self.looks.load(Ordering::Relaxed) + 2;
        let shown = async {
            while self.looks.load(Ordering::Relaxed) < enough {
                sleep(POLL_INTERVAL / 10).await;
            }
        };
        let _ = timeout(STOP_TIMEOUT, shown).await;
    }

    /// Shows the last events and ends. Waits at most one second.
    pub(super) async fn stop(mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = timeout(STOP_TIMEOUT, &mut self.thread).await;
    }
}

impl Drop for LiveEvents {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
