//! The embedded queue: one SQLite file on a local disk, without a broker. This is the default.
//!
//! * **Durability**: the file uses a write-ahead log with `synchronous=FULL`, and a publish is answered after the
//!   fsync of its commit. One thread writes (`writer.rs`), and one commit serves all callers that wait at that
//!   moment.
//! * **Leases**: the lease of a claimed job is extended while this queue lives. If its process dies, the job returns
//!   within [`SqliteOptions::lease`]. After [`Queue::close`] it returns at once.
//! * **Several processes** of one machine may share the file. A waiting consumer gets jobs of its own process at once
//!   and polls for those of other processes four times a second.
//! * **Errors of the file** (disk full, read-only, locked, damaged) are returned to the callers of that moment. When
//!   the cause is gone the queue works again without a restart. If the file is deleted while it is in use, the queue
//!   restores it with all its messages from the connection that is still open.
//! * **A full file or disk**: messages are refused while there is still room to lease, settle and delete others.
//! * **Retention**: a done job's body is deleted at once. Its metadata, and the key that identifies its duplicates,
//!   stay for [`SqliteOptions::retention`]. Announcements, and events that do not ask for a fetch, stay for that time
//!   with their bodies. Dead letters stay until they are replayed or dropped; a dropped one counts as done.
//! * **Deletion**: deleted rows are overwritten with zeros. The write-ahead log may still hold copies of them, and
//!   [`Queue::erase`] empties it as well.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use metrics::gauge;
use rusqlite::Connection;
use tokio::{
    sync::{Mutex, Semaphore, oneshot},
    time::timeout,
};

use super::{
    Announced, Announcement, DeadLetters, ErasedMessages, Job, JobOutcome, LeaseId, Message, Published,
    Queue, QueueConfig, QueueError, QueueKind, age,
};
use crate::{clock::Clock, lifecycle::Lifecycle};

mod cleanup;
mod dead;
mod error;
mod exclusive;
mod follow;
mod follow_task;
mod queue_file;
mod read;
mod request;
mod reserve;
mod schema;
mod writer;

pub use error::OpenError;
pub use exclusive::{ExclusiveQueueFile, read_counts};
pub use follow::Follower;
pub use read::{FileStatus, FileUsage, check_file, read_status, read_usage, require_file, verify};

use queue_file::QueueFile;
use request::{PendingWrite, WriteAttributes, WriterRequest};
use writer::Writer;

/// The maximum number of writes that wait for the thread. Further callers wait for a permit, within the same timeout.
/// Settlements need none: the leases bound their number, and the writer must learn of each, because it extends a lease
/// until then.
const MAX_PENDING_WRITES: usize = 1024;
/// The maximum time that [`Queue::ready`] waits for its write.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// The maximum number of rows that one write erases while other requests wait.
const MAX_ERASE_ROWS: usize = 500;
/// The maximum time for which readers of the file may delay the emptying of its log.
const EMPTY_LOG_TIMEOUT: Duration = Duration::from_secs(10);

/// The options of the embedded queue.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// See [`QueueConfig::retention`].
    pub retention: Duration,
    /// The maximum time that a caller waits for its commit before it gets [`QueueError::Timeout`]. It is also the
    /// maximum time that the queue waits for a file that another process has locked.
    pub publish_timeout: Duration,
    /// The duration of a lease. It is extended every third of this time, and a job of a dead process returns after
    /// it.
    pub lease: Duration,
    /// The interval at which expired rows are deleted.
    pub cleanup_interval: Duration,
    /// The maximum size of the file, after which messages are refused. A small part of it is reserved for taking them out.
    /// `None`: no limit. The write-ahead log needs some MB more.
    pub max_bytes: Option<u64>,
    /// Makes every message a job, whatever its event type. The spool needs this, because it forwards all messages.
    pub every_message_is_a_job: bool,
    /// Starts even if the file cannot be used yet, and opens it as soon as it can.
    pub start_without_file: bool,
    /// The clock for all stored times.
    pub clock: Clock,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self::new(&QueueConfig::default(), Clock::default())
    }
}

impl SqliteOptions {
    /// Takes the options from a configuration.
    pub fn new(config: &QueueConfig, clock: Clock) -> Self {
        Self {
            retention: config.retention,
            publish_timeout: config.publish_timeout,
            lease: Duration::from_secs(30),
            cleanup_interval: Duration::from_mins(1),
            max_bytes: None,
            every_message_is_a_job: false,
            start_without_file: false,
            clock,
        }
    }
}

/// The embedded queue. If it is dropped without [`Queue::close`], its leases expire as if the process had died.
pub struct SqliteQueue {
    path: PathBuf,
    options: SqliteOptions,
    requests: mpsc::Sender<WriterRequest>,
    permits: Arc<Semaphore>,
    commits: Arc<AtomicU64>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteQueue")
            .field("path", &self.path)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl SqliteQueue {
    /// Opens the file and starts the writer thread. Creates the file (mode 0600) and its folders if they are missing.
    ///
    /// Blocks for the time of a few writes and must be called within a tokio runtime. If the thread dies before the
    /// drain, `lifecycle` ends the process.
    pub fn open(path: &Path, options: SqliteOptions, lifecycle: &Lifecycle) -> Result<Arc<Self>, OpenError> {
        let (requests, received) = mpsc::channel();
        let commits = Arc::new(AtomicU64::new(0));
        let writer = Writer::new(
            path.to_owned(),
            options.clone(),
            (received, requests.clone()),
            Arc::clone(&commits),
        )?;
        let (alive, ended) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("queue-writer".to_owned())
            .spawn(move || {
                // Dropped when the thread ends, also after a panic.
                let _alive = alive;
                writer.run();
            })
            .map_err(OpenError::Thread)?;
        let draining = lifecycle.draining();
        lifecycle.spawn_service("queue writer", async move {
            tokio::select! {
                _ = ended => {}
                () = draining.cancelled() => {}
            }
        });
        Ok(Arc::new(Self {
            path: path.to_owned(),
            options,
            requests,
            permits: Arc::new(Semaphore::new(MAX_PENDING_WRITES)),
            commits,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// Returns the number of committed transactions. Under load it is far smaller than the number of messages.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Returns up to `limit` announcements with row numbers above `seq` (0: from the start), in order. Row numbers
    /// rise and are never reused. Times have millisecond precision.
    pub async fn announcements_after(
        &self,
        seq: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Announcement)>, QueueError> {
        self.query(move |connection| read::announcements_after(connection, seq, limit)).await
    }

    /// Stores a list of dedup keys, independent of the messages, for the duration of the retention.
    pub(super) async fn remember_keys(&self, keys: Vec<u8>) -> Result<(), QueueError> {
        let attributes = WriteAttributes::addition(keys.len());
        self.submit(move |file| file.remember(&keys), self.options.publish_timeout, attributes).await
    }

    /// Returns an error if the file cannot be written, not even to take messages out.
    pub(super) async fn check_writable(&self) -> Result<(), QueueError> {
        self.write(QueueFile::touch).await
    }

    /// Returns all lists of keys that [`SqliteQueue::remember_keys`] stored within the retention, oldest first, with
    /// their times.
    pub(super) async fn remembered_keys(&self) -> Result<Vec<(Timestamp, Vec<u8>)>, QueueError> {
        self.query(read::remembered).await
    }

    /// Returns the number of waiting messages and the used size of the file.
    pub(super) async fn usage(&self) -> Result<FileUsage, QueueError> {
        self.query(read::usage).await
    }

    /// Returns the number of writes that wait for their commit, as a gauge value.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(super) fn pending_writes(&self) -> f64 {
        (MAX_PENDING_WRITES - self.permits.available_permits()) as f64
    }

    /// Empties the write-ahead log. Readers of the file may delay it.
    async fn empty_log(&self) -> Result<(), QueueError> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || read::empty_log(&path, EMPTY_LOG_TIMEOUT))
            .await
            .map_err(|_| QueueError::Closed)?
            .map_err(|why| {
                QueueError::Unavailable(format!(
                    "everything was removed, but the write-ahead log may still hold earlier copies ({why}): run the command again"
                ))
            })
    }

    /// Makes a change in the writer thread and waits until it is durable.
    async fn write<T: Send + 'static>(
        &self,
        change: impl Fn(&QueueFile) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.submit(change, self.options.publish_timeout, WriteAttributes::default()).await
    }

    /// Sends `change` to the writer thread and waits up to `limit` until it is committed.
    async fn submit<T: Send + 'static>(
        &self,
        change: impl Fn(&QueueFile) -> rusqlite::Result<T> + Send + 'static,
        limit: Duration,
        attributes: WriteAttributes,
    ) -> Result<T, QueueError> {
        let committed = async {
            let permit = match attributes.settlement {
                Some(_) => None,
                None => {
                    Some(Arc::clone(&self.permits).acquire_owned().await.map_err(|_| QueueError::Closed)?)
                }
            };
            let (reply, result) = oneshot::channel();
            let pending = PendingWrite::new(change, attributes, reply, permit);
            self.requests.send(WriterRequest::Write(pending)).map_err(|_| QueueError::Closed)?;
            result.await.unwrap_or(Err(QueueError::Closed))
        };
        timeout(limit, committed).await.unwrap_or(Err(QueueError::Timeout(limit)))
    }

    /// Runs a query on a connection of its own, outside of the runtime's threads.
    async fn query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let (path, lock_timeout) = (self.path.clone(), self.options.publish_timeout);
        tokio::task::spawn_blocking(move || query(&schema::open_read_only(&path, lock_timeout)?))
            .await
            .map_err(|_| QueueError::Closed)?
            .map_err(|error| {
                QueueError::Unavailable(format!("cannot read the queue file: {error}{}", error::hint(&error)))
            })
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn publish(&self, message: Message) -> Result<Published, QueueError> {
        let attributes = WriteAttributes::addition(message.body.len());
        self.submit(move |file| file.publish(&message), self.options.publish_timeout, attributes).await
    }

    async fn publish_delayed(&self, message: Message, delay: Duration) -> Result<Published, QueueError> {
        let attributes = WriteAttributes { bytes: message.body.len(), ..WriteAttributes::default() };
        let publish = move |file: &QueueFile| file.publish_delayed(&message, delay);
        self.submit(publish, self.options.publish_timeout, attributes).await
    }

    async fn announce(&self, announcement: Announcement) -> Result<Announced, QueueError> {
        let attributes = WriteAttributes { bytes: announcement.body.len(), ..WriteAttributes::default() };
        self.submit(move |file| file.announce(&announcement), self.options.publish_timeout, attributes).await
    }

    async fn next(&self) -> Result<Job, QueueError> {
        let (consumer, handover) = oneshot::channel();
        self.requests.send(WriterRequest::NextJob(consumer)).map_err(|_| QueueError::Closed)?;
        handover.await.ok().and_then(request::JobHandover::take).ok_or(QueueError::Closed)
    }

    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        let settlement = Some(Box::new((lease, outcome.clone())));
        let attributes = WriteAttributes { settlement, ..WriteAttributes::default() };
        let settle = move |file: &QueueFile| file.settle(lease, &outcome);
        let held = self.submit(settle, self.options.publish_timeout, attributes).await?;
        if held { Ok(()) } else { Err(QueueError::LeaseLost) }
    }

    fn clock_tolerance(&self) -> Duration {
        Duration::from_millis(1)
    }

    async fn ready(&self) -> Result<(), QueueError> {
        self.submit(QueueFile::probe, READY_TIMEOUT, WriteAttributes::addition(0)).await
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError> {
        Ok(Box::new(dead::DeadLetterCursor::open(self).await?))
    }

    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        let id = conversation_id.to_owned();
        let (erased, rows) = self.query(move |connection| read::find_conversation(connection, &id)).await?;
        if dry_run {
            return Ok(erased);
        }
        for rows in rows.chunks(MAX_ERASE_ROWS) {
            let rows = rows.to_vec();
            self.write(move |file| rows.iter().try_for_each(|row| file.erase(*row))).await?;
        }
        // The log is emptied even if no row was found, because it may hold a job that was done yesterday.
        self.empty_log().await?;
        Ok(erased)
    }

    fn searches_jobs(&self) -> bool {
        true
    }

    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        gauge!("polyhook_queue_writes").set(self.pending_writes());
        let now = self.options.clock.now();
        self.query(move |connection| read::depths(connection, now)).await
    }

    async fn oldest_age(&self) -> Result<Option<Duration>, QueueError> {
        let now = self.options.clock.now();
        let since = self.query(move |connection| read::waiting_since(connection, now)).await?;
        Ok(Some(age(since.unwrap_or(now), now)))
    }

    async fn close(&self) {
        // A second caller waits for the first.
        let mut thread = self.thread.lock().await;
        let Some(handle) = thread.take() else { return };
        let (done, closed) = oneshot::channel();
        if self.requests.send(WriterRequest::Close(done)).is_ok() {
            // An error means that the thread has already ended.
            let _ = closed.await;
        }
        if tokio::task::spawn_blocking(move || handle.join()).await.is_ok_and(|ended| ended.is_err()) {
            tracing::error!("the queue's thread panicked");
        }
    }
}

impl Drop for SqliteQueue {
    fn drop(&mut self) {
        // After a close the thread no longer listens.
        let _ = self.requests.send(WriterRequest::Abandon);
    }
}
