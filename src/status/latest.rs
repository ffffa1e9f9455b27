//! The latest readings of all sources, for many readers at the same time.
//!
//! Each source is read by a task of its own, at most one at a time, so many readers cost as much as one. A reader waits for a
//! short time and then gets what is known: a source that is slow or away delays none of the others.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::timeout};

use super::{Readings, Source, StatusReader, StatusReport};
use crate::lifecycle::Lifecycle;

/// Keeps the latest reading of each source.
#[derive(Debug)]
pub struct LatestStatus {
    reader: Arc<StatusReader>,
    lifecycle: Lifecycle,
    state: Arc<watch::Sender<State>>,
}

/// What is known, and what is being read.
#[derive(Debug, Default)]
struct State {
    readings: Readings,
    reads: [SourceRead; Source::ALL.len()],
}

#[derive(Debug, Default)]
struct SourceRead {
    /// The start of the last read, on the clock of [`crate::clock::Clock::elapsed`].
    started_at: Option<Duration>,
    /// The start of the read whose result is known.
    known_since: Option<Duration>,
    /// The read that is going on.
    task: Option<JoinHandle<()>>,
}

impl SourceRead {
    fn is_running(&self) -> bool {
        self.task.as_ref().is_some_and(|task| !task.is_finished())
    }
}

/// A source that has not answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LateSource {
    /// The source.
    pub source: Source,
    /// The age of its last reading, which the report has instead. `None`: it has not been read yet.
    pub age: Option<Duration>,
}

impl LatestStatus {
    /// Reads nothing yet.
    pub fn new(reader: StatusReader, lifecycle: Lifecycle) -> Self {
        Self { reader: Arc::new(reader), lifecycle, state: Arc::new(watch::Sender::new(State::default())) }
    }

    /// Reads those of `sources` whose last reading is at least `max_age` old. Waits for them, but not longer than `patience`.
    pub async fn refresh(&self, sources: &[Source], max_age: Duration, patience: Duration) {
        self.start_reads(sources, max_age);
        let mut state = self.state.subscribe();
        let is_read =
            |state: &State| !sources.iter().any(|source| state.reads[*source as usize].is_running());
        let _ = timeout(patience, state.wait_for(is_read)).await;
    }

    /// Returns what is known now.
    pub fn report(&self) -> StatusReport {
        self.reader.report(&self.state.borrow().readings, self.reader.clock.now())
    }

    /// Returns the sources that are being read now.
    pub fn late_sources(&self) -> Vec<LateSource> {
        let now = self.reader.clock.elapsed();
        let state = self.state.borrow();
        let late = Source::ALL.into_iter().filter(|source| state.reads[*source as usize].is_running());
        late.map(|source| {
            let known_since = state.reads[source as usize].known_since;
            LateSource { source, age: known_since.map(|since| now.saturating_sub(since)) }
        })
        .collect()
    }

    fn start_reads(&self, sources: &[Source], max_age: Duration) {
        let now = self.reader.clock.elapsed();
        self.state.send_if_modified(|state| {
            for source in sources {
                let read = &mut state.reads[*source as usize];
                let is_due = read.started_at.is_none_or(|at| now.saturating_sub(at) >= max_age);
                if is_due && !read.is_running() {
                    read.started_at = Some(now);
                    read.task = Some(self.spawn_read(*source, now));
                }
            }
            // Nothing is known yet that a reader waits for.
            false
        });
    }

    fn spawn_read(&self, source: Source, started_at: Duration) -> JoinHandle<()> {
        let (reader, state, draining) =
            (Arc::clone(&self.reader), Arc::clone(&self.state), self.lifecycle.draining());
        self.lifecycle.spawn("status of a source", async move {
            // The shutdown waits for no source.
            let Some(reading) = draining.run_until_cancelled(reader.read_source(source)).await else {
                return;
            };
            state.send_modify(|state| {
                state.readings.insert(reading);
                let read = &mut state.reads[source as usize];
                (read.known_since, read.task) = (Some(started_at), None);
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use jiff::Timestamp;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        archive::{ArchiveConfig, ArchiveReader},
        clock::Clock,
        status::{ArchiveSource, Part, QueueSource},
    };

    const LONG: Duration = Duration::from_secs(30);

    /// A process that accepts connections and never answers, and the number of its connections.
    async fn silent_process(lifecycle: &Lifecycle) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let count = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::clone(&count);
        let accept = async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                open.push(stream);
            }
        };
        lifecycle.spawn("silent process", lifecycle.draining().run_until_cancelled_owned(accept).map(drop));
        (url, count)
    }

    #[tokio::test]
    async fn a_slow_source_delays_no_reader_and_many_readers_read_it_once() {
        let folder = tempfile::tempdir().unwrap();
        let lifecycle = Lifecycle::new();
        let (admin, connections) = silent_process(&lifecycle).await;
        let url = format!("file:{}", folder.path().display());
        let config = ArchiveConfig { url: url.clone(), ..ArchiveConfig::default() };
        let reader = ArchiveReader::open(&config).map_err(|error| error.to_string());
        let archive = ArchiveSource { url, reader, reconciles: true, has_index: true };
        let queue = QueueSource::File(folder.path().join("queue.db"));
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let reader = StatusReader::new(queue, None, archive, admin, clock.clone());
        let latest = LatestStatus::new(reader, lifecycle.clone());

        // The other sources are read without the patience that the process would need.
        let others = Source::ALL.into_iter().filter(|source| *source != Source::Process).collect::<Vec<_>>();
        latest.refresh(&others, Duration::ZERO, LONG).await;
        let readers = (0..50).map(|_| latest.refresh(&Source::ALL, Duration::from_secs(1), Duration::ZERO));
        futures_util::future::join_all(readers).await;
        let report = latest.report();
        assert!(matches!(&report.queue, Part::Failed(why) if why.contains("queue.db")), "{:?}", report.queue);
        assert!(matches!(report.last_pass, Part::Absent { state: "none", .. }), "{:?}", report.last_pass);
        assert!(matches!(report.process, Part::Absent { state: "pending", .. }), "{:?}", report.process);
        assert_eq!(latest.late_sources(), [LateSource { source: Source::Process, age: None }]);

        // The question ends with its own time limit, and its reading says so.
        latest.refresh(&[Source::Process], Duration::from_secs(1), LONG).await;
        assert!(matches!(&latest.report().process, Part::Failed(why) if why.contains("does not answer")));
        assert_eq!(connections.load(Ordering::SeqCst), 2, "/readyz and /metrics, once each");

        clock.advance(Duration::from_secs(1));
        latest.refresh(&[Source::Process], Duration::from_secs(1), Duration::ZERO).await;
        assert_eq!(
            latest.late_sources(),
            [LateSource { source: Source::Process, age: Some(Duration::from_secs(1)) }],
            "what is known stays until the next reading"
        );
        lifecycle.drain();
        lifecycle.wait().await;
    }
}
