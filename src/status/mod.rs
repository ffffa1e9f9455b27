//! The state of an installation: what waits, what runs, what failed, and since when.
//!
//! A [`StatusReader`] only looks. It takes, delays and changes no message, and creates no file, no queue and no object. It
//! asks all sources at the same time and waits for each for a bounded time, so a source that fails or hangs hides none of
//! the others: its part of the [`StatusReport`] is the reason.
//!
//! What the sources know:
//!
//! * The file of the embedded queue has everything, whether a process has it open or not.
//! * RabbitMQ counts its queues over AMQP. It tells neither the age of a message nor how many jobs consumers hold, unless
//!   one takes a message. Workers know both for themselves, so these come from the running process, if it is a worker.
//! * The archive has the progress of reconciliation and of the index, and the reports of audits.

#[cfg(test)]
pub(crate) mod fixture;
mod headline;
mod latest;
mod process;
mod report;
mod sentences;

use std::{collections::BTreeMap, error::Error, path::PathBuf, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::{sync::Mutex, time::timeout};

use self::process::ProcessSource;
pub use self::{
    headline::{findings, headline},
    latest::{LateSource, LatestStatus},
    report::{
        Condition, DeliveryCounts, Part, ProcessCounts, ProcessStatus, QueueStatus, SpoolStatus,
        StatusReport, Versions,
    },
    sentences::{AgeFormat, Sentence, Tone, Topic, sentences},
};
use crate::{
    archive::{ArchiveError, ArchiveReader},
    clock::Clock,
    index::LastIndexPass,
    queue::{
        rabbitmq::{BrokerObserver, BrokerStatus},
        spool,
        sqlite::{self, FileStatus},
    },
    reconcile::{LastAudit, LastPass},
};

/// Bounds the reading of the queue. The connection to one node of the broker may take five seconds of it.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(8);
/// Bounds the reading of the spool, whose file another process may lock for a moment.
const SPOOL_TIMEOUT: Duration = Duration::from_secs(6);
/// Bounds each of three reads of the archive.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(6);
/// The time after which the last audit is read again.
const AUDIT_MAX_AGE: Duration = Duration::from_mins(1);

const NO_WORKER: &str = "RabbitMQ does not report it";
const ASK_A_WORKER: &str = "RabbitMQ does not report it, and no worker answers at admin.listen; \
    run this command beside a worker";

/// The queue of an installation.
#[derive(Debug)]
pub enum QueueSource {
    /// The file of the embedded queue.
    File(PathBuf),
    /// RabbitMQ.
    Broker(Box<BrokerObserver>),
}

/// The spool's file, if the receiver has one.
#[derive(Clone, Debug)]
pub struct SpoolSource {
    /// The file.
    pub path: PathBuf,
    /// Its maximum size.
    pub max_bytes: u64,
}

/// The archive.
#[derive(Clone, Debug)]
pub struct ArchiveSource {
    /// The URL, for messages.
    pub url: String,
    /// The archive, or the reason why it cannot be opened.
    pub reader: Result<ArchiveReader, String>,
    /// True if `run` and `work` reconcile.
    pub reconciles: bool,
    /// True if processes that reconcile keep the index current.
    pub has_index: bool,
}

/// A source of a status, which can be read by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file of the embedded queue, or RabbitMQ.
    Queue,
    /// The spool's file.
    Spool,
    /// The progress of reconciliation in the archive.
    LastPass,
    /// The reports of audits in the archive.
    LastAudit,
    /// The progress of the index in the archive.
    Index,
    /// The running process.
    Process,
}

impl Source {
    /// All sources.
    pub const ALL: [Self; 6] =
        [Self::Queue, Self::Spool, Self::LastPass, Self::LastAudit, Self::Index, Self::Process];

    /// Returns its name, as the subject of a sentence.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "The queue",
            Self::Spool => "The spool",
            Self::LastPass | Self::LastAudit | Self::Index => "The archive",
            Self::Process => "The process",
        }
    }
}

/// Reads the state of an installation. It keeps the connection to the broker and the last audit, so one reader serves many
/// reports.
#[derive(Debug)]
pub struct StatusReader {
    queue: QueueSource,
    spool: Option<SpoolSource>,
    archive: ArchiveSource,
    process: ProcessSource,
    last_audit: Mutex<Option<(Duration, Part<LastAudit>)>>,
    clock: Clock,
}

impl StatusReader {
    /// Opens nothing yet. `admin` is the URL of the admin listener, without a path.
    pub fn new(
        queue: QueueSource,
        spool: Option<SpoolSource>,
        archive: ArchiveSource,
        admin: String,
        clock: Clock,
    ) -> Self {
        Self {
            queue,
            spool,
            archive,
            process: ProcessSource::new(admin),
            last_audit: Mutex::default(),
            clock,
        }
    }

    /// Reads all sources.
    pub async fn read(&self) -> StatusReport {
        let mut readings = Readings::default();
        for reading in join_all(Source::ALL.map(|source| self.read_source(source))).await {
            readings.insert(reading);
        }
        self.report(&readings, self.clock.now())
    }

    /// Reads one source.
    async fn read_source(&self, source: Source) -> Reading {
        let now = self.clock.now();
        match source {
            Source::Queue => Reading::Queue(self.read_queue(now).await),
            Source::Spool => Reading::Spool(self.read_spool(now).await),
            Source::LastPass => Reading::LastPass(self.read_last_pass().await),
            Source::LastAudit => Reading::LastAudit(self.read_last_audit().await),
            Source::Index => Reading::Index(self.archive.read_index().await),
            Source::Process => Reading::Process(self.process.read().await),
        }
    }

    /// Composes a report from readings.
    fn report(&self, readings: &Readings, now: Timestamp) -> StatusReport {
        let process = or_pending(readings.process.as_ref());
        let broker = match &readings.queue {
            Some(Ok(QueueReading::Broker(status))) => status.version.clone(),
            _ => None,
        };
        let queue = match readings.queue.clone() {
            Some(Ok(QueueReading::File(status))) => {
                Part::Known(QueueStatus::of_file(&self.queue, status, now))
            }
            Some(Ok(QueueReading::Broker(status))) => {
                Part::Known(QueueStatus::of_broker(status, process.known()))
            }
            Some(Err(error)) => Part::Failed(error),
            None => or_pending(None),
        };
        let version = process.known().and_then(|process| process.version.clone());
        let mut report = StatusReport {
            complete: true,
            checked_at: now,
            versions: Versions { polyhook: env!("CARGO_PKG_VERSION"), process: version, broker },
            queue,
            spool: or_pending(readings.spool.as_ref()),
            last_pass: or_pending(readings.last_pass.as_ref()),
            last_audit: or_pending(readings.last_audit.as_ref()),
            index: or_pending(readings.index.as_ref()),
            process,
        };
        let failed_parts = report.errors().count();
        report.complete = failed_parts == 0;
        report
    }

    /// Closes the connection to the broker.
    pub async fn close(&self) {
        if let QueueSource::Broker(observer) = &self.queue {
            observer.close().await;
        }
    }

    async fn read_queue(&self, now: Timestamp) -> Result<QueueReading, String> {
        let read = async {
            match &self.queue {
                QueueSource::Broker(observer) => observer.read().await.map(QueueReading::Broker),
                QueueSource::File(path) => {
                    sqlite::require_file(path)?;
                    let path = path.clone();
                    blocking(move || sqlite::read_status(&path, now)).await.map(QueueReading::File)
                }
            }
        };
        timeout(QUEUE_TIMEOUT, read).await.unwrap_or_else(|_| {
            Err(match &self.queue {
                QueueSource::File(path) => stuck(path),
                QueueSource::Broker(_) => format!(
                    "the broker does not answer within {QUEUE_TIMEOUT:?}; find out why with `polyhook doctor`"
                ),
            })
        })
    }

    async fn read_spool(&self, now: Timestamp) -> Part<SpoolStatus> {
        let Some(SpoolSource { path, max_bytes }) = self.spool.clone() else {
            return Part::absent(
                "off",
                match &self.queue {
                    QueueSource::File(_) => "not needed by the embedded queue",
                    QueueSource::Broker(_) => "off (spool.path is empty)",
                },
            );
        };
        if !path.exists() {
            let text = format!("no file {}; each receiver has its own", path.display());
            return Part::absent("none", text);
        }
        let file = path.clone();
        match timeout(SPOOL_TIMEOUT, blocking(move || spool::read_usage(&file))).await {
            Ok(Ok(usage)) => Part::Known(SpoolStatus {
                path: path.display().to_string(),
                messages: usage.messages,
                bytes: usage.bytes,
                max_bytes,
                oldest_age_ms: usage.oldest.map(|oldest| age_ms(oldest, now)),
            }),
            Ok(Err(error)) => Part::Failed(error),
            Err(_) => Part::Failed(stuck(&path)),
        }
    }

    async fn read_last_pass(&self) -> Part<LastPass> {
        match self.archive.read(LastPass::read, "none yet").await {
            Part::Absent { .. } if !self.archive.reconciles => {
                Part::absent("off", "off (reconcile.every = 0s)")
            }
            part => part,
        }
    }

    /// Lists the reports, which takes as long as there are many. So an audit is read again after [`AUDIT_MAX_AGE`].
    async fn read_last_audit(&self) -> Part<LastAudit> {
        let now = self.clock.elapsed();
        let mut last = self.last_audit.lock().await;
        if let Some((read_at, audit)) = &*last
            && now.saturating_sub(*read_at) < AUDIT_MAX_AGE
        {
            return audit.clone();
        }
        let none = "none; `polyhook audit` compares a day with PolyAI's list";
        let audit = self.archive.read(LastAudit::read, none).await;
        if !matches!(audit, Part::Failed(_)) {
            *last = Some((now, audit.clone()));
        }
        audit
    }
}

impl ArchiveSource {
    async fn read_index(&self) -> Part<LastIndexPass> {
        if !self.has_index {
            return Part::absent("off", "off (index.enabled = false)");
        }
        self.read(LastIndexPass::read, "none yet").await
    }

    async fn read<T>(
        &self,
        read: impl AsyncFnOnce(&ArchiveReader) -> Result<Option<T>, ArchiveError>,
        none: &str,
    ) -> Part<T> {
        let found = match &self.reader {
            Ok(reader) => timeout(ARCHIVE_TIMEOUT, read(reader)).await,
            Err(error) => return Part::Failed(error.clone()),
        };
        match found {
            Ok(Ok(Some(found))) => Part::Known(found),
            Ok(Ok(None)) if self.reader.as_ref().is_ok_and(|reader| !reader.exists()) => {
                Part::absent("not_here", format!("the archive {} does not exist here", self.url))
            }
            Ok(Ok(None)) => Part::absent("none", none),
            Ok(Err(error)) => Part::Failed(self.describe(&error)),
            Err(_) => Part::Failed(format!(
                "{} does not answer within {ARCHIVE_TIMEOUT:?}; find out why with `polyhook doctor`",
                self.url
            )),
        }
    }

    /// Describes an error by its innermost cause: the outer ones name requests and retries.
    fn describe(&self, error: &ArchiveError) -> String {
        let mut cause: &dyn Error = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let advice = match error {
            ArchiveError::Denied(_) => "check the credentials and permissions of [archive]",
            _ => "check archive.url and the network, or run `polyhook doctor`",
        };
        let cause = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{} cannot be read ({cause}); {advice}", self.url)
    }
}

#[derive(Clone, Debug)]
enum QueueReading {
    File(FileStatus),
    Broker(BrokerStatus),
}

/// The result of reading one source.
#[derive(Debug)]
enum Reading {
    Queue(Result<QueueReading, String>),
    Spool(Part<SpoolStatus>),
    LastPass(Part<LastPass>),
    LastAudit(Part<LastAudit>),
    Index(Part<LastIndexPass>),
    Process(Part<ProcessStatus>),
}

/// The last reading of each source, if there is one.
#[derive(Debug, Default)]
struct Readings {
    queue: Option<Result<QueueReading, String>>,
    spool: Option<Part<SpoolStatus>>,
    last_pass: Option<Part<LastPass>>,
    last_audit: Option<Part<LastAudit>>,
    index: Option<Part<LastIndexPass>>,
    process: Option<Part<ProcessStatus>>,
}

impl Readings {
    fn insert(&mut self, reading: Reading) {
        match reading {
            Reading::Queue(queue) => self.queue = Some(queue),
            Reading::Spool(spool) => self.spool = Some(spool),
            Reading::LastPass(pass) => self.last_pass = Some(pass),
            Reading::LastAudit(audit) => self.last_audit = Some(audit),
            Reading::Index(pass) => self.index = Some(pass),
            Reading::Process(process) => self.process = Some(process),
        }
    }
}

fn or_pending<T: Clone>(part: Option<&Part<T>>) -> Part<T> {
    part.cloned().unwrap_or_else(|| Part::absent("pending", "not known yet: it is being read"))
}

impl QueueStatus {
    fn of_file(source: &QueueSource, status: FileStatus, now: Timestamp) -> Self {
        let FileStatus { waiting, waiting_since, leased, retry, refresh, dead, stored } = status;
        let address = match source {
            QueueSource::File(path) => path.display().to_string(),
            QueueSource::Broker(_) => String::new(),
        };
        Self {
            backend: "sqlite",
            address,
            workers: None,
            waiting_jobs: waiting,
            oldest_age_ms: waiting_since.map(|since| age_ms(since, now)),
            in_flight_jobs: Some(leased),
            delayed_jobs: retry + refresh,
            retry_jobs: retry,
            refresh_jobs: refresh,
            dead_letters: dead,
            unrouted_events: stored,
            unknown: BTreeMap::new(),
        }
    }

    /// Adds what a worker process knows to the counts of the broker.
    fn of_broker(status: BrokerStatus, process: Option<&ProcessStatus>) -> Self {
        let BrokerStatus { node, waiting, consumers, retry, refresh, dead, unrouted, .. } = status;
        let held_jobs = process.and_then(|process| process.held_jobs);
        let in_flight_jobs = held_jobs.or((consumers == 0).then_some(0));
        let oldest_age_ms = process.and_then(|process| process.oldest_age_ms).filter(|_| waiting > 0);
        let mut unknown = BTreeMap::new();
        if in_flight_jobs.is_none() {
            unknown.insert("in_flight_jobs", ASK_A_WORKER);
        }
        if waiting > 0 && oldest_age_ms.is_none() {
            unknown.insert("oldest_age_ms", if consumers == 0 { NO_WORKER } else { ASK_A_WORKER });
        }
        Self {
            backend: "rabbitmq",
            address: node,
            workers: Some(consumers),
            waiting_jobs: waiting,
            oldest_age_ms,
            in_flight_jobs,
            delayed_jobs: retry + refresh,
            retry_jobs: retry,
            refresh_jobs: refresh,
            dead_letters: dead,
            unrouted_events: unrouted,
            unknown,
        }
    }
}

fn age_ms(since: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(since).as_millis()).unwrap_or(0)
}

fn stuck(path: &std::path::Path) -> String {
    format!("{} cannot be read in time; check its disk, and which process locks it", path.display())
}

async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|error| Err(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::ArchiveConfig;

    #[tokio::test]
    async fn the_last_audit_is_read_once_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let reports = folder.path().join("audits");
        std::fs::create_dir(&reports).unwrap();
        let save = |date: &str| {
            let report = format!(
                r#"{{"date":"{date}","audited_at":"2026-11-30T00:00:00Z","complete":true,"deep":false,"listed":1,"archived":1}}"#
            );
            std::fs::write(reports.join(format!("date={date}.json")), report).unwrap();
        };
        let url = format!("file:{}", folder.path().display());
        let config = ArchiveConfig { url: url.clone(), ..ArchiveConfig::default() };
        let reader = ArchiveReader::open(&config).map_err(|error| error.to_string());
        let archive = ArchiveSource { url, reader, reconciles: true, has_index: true };
        let queue = QueueSource::File(folder.path().join("queue.db"));
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let status = StatusReader::new(queue, None, archive, "http://127.0.0.1:9".to_owned(), clock.clone());
        let date = async || status.read().await.last_audit.known().map(|audit| audit.date.to_string());

        save("2026-11-01");
        assert_eq!(date().await.as_deref(), Some("2026-11-01"));
        std::fs::remove_file(reports.join("date=2026-11-01.json")).unwrap();
        save("2026-11-02");
        clock.advance(AUDIT_MAX_AGE / 2);
        assert_eq!(date().await.as_deref(), Some("2026-11-01"), "not listed again");
        clock.advance(AUDIT_MAX_AGE / 2);
        assert_eq!(date().await.as_deref(), Some("2026-11-02"));
    }
}
