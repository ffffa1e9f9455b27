//! The embedded queue: one SQLite file on a local disk, no broker. The default.
//!
//! * **Durable**: write-ahead log with `synchronous=FULL`; a publish is answered after the fsync of its commit.
//!   One thread writes (`writer.rs`) and commits for all who wait at that moment.
//! * **Leases**: a claimed job is extended while this queue lives. When its process dies the job comes back
//!   within [`SqliteOptions::lease`], at [`Queue::close`] at once.
//! * **Several processes** of one machine may share the file. Theirs are found by a look four times a second,
//!   one's own at once.
//! * **Trouble of the file** (full disk, read-only, locked, damaged) is an error for who asks at that time and is
//!   over when it is over: nothing needs a restart. A file that was deleted while it was in use is put back, with
//!   everything in it, from what the process still has open.
//! * **Retention**: of what is done, the names and the key by which a duplicate is known stay for
//!   [`SqliteOptions::retention`]; its body goes at once. Events that ask for nothing and announcements stay
//!   that long in full. Dead letters stay until they are replayed or dropped; one that is dropped is then done.
//! * **What is deleted is gone**: it is overwritten with zeros. [`Queue::erase`] empties the write-ahead log as
//!   well, which holds earlier copies until then.

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
    Queue, QueueConfig, QueueError, QueueKind,
};
use crate::{clock::Clock, lifecycle::Lifecycle};

mod dead;
mod follow;
mod read;
mod request;
mod schema;
mod store;
mod trouble;
mod writer;

pub use follow::Follower;
pub use read::{FileUsage, check_file, read_usage, verify};
pub use schema::OpenError;

use request::{Asked, Erase, Probe, Remember, Request, Settle, Write};
use writer::Writer;

/// How many writes may wait for the thread at a time. Those beyond wait for a place, with the same timeout.
const PLACES: usize = 1024;
/// How long [`Queue::ready`] waits for its write.
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// How many messages are erased while others wait.
const ERASE_ROWS: usize = 500;
/// How long readers of the file may keep its log from being emptied.
const EMPTY_LOG_TIMEOUT: Duration = Duration::from_secs(10);

/// How the embedded queue behaves.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// See [`QueueConfig::retention`].
    pub retention: Duration,
    /// How long a caller waits for its commit before it gets [`QueueError::Timeout`]. Also how long another
    /// process may keep the file locked.
    pub publish_timeout: Duration,
    /// How long after its process died a job is taken for unfinished. Extended every third of it.
    pub lease: Duration,
    /// How often what is older than the retention is looked for.
    pub housekeeping: Duration,
    /// How large the file may grow before the queue says that the disk is full; `None`: as large as the disk.
    /// Its write-ahead log, some MB, comes on top.
    pub max_bytes: Option<u64>,
    /// Every message is a job, whatever it is about: so for the spool, which hands all of them on.
    pub every_message_is_a_job: bool,
    /// A file that cannot be used at present is no reason not to start; it is opened when it can be.
    pub start_without_file: bool,
    /// Tells the time of everything that is stored.
    pub clock: Clock,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self::new(&QueueConfig::default(), Clock::default())
    }
}

impl SqliteOptions {
    /// What a configuration asks for.
    pub fn new(config: &QueueConfig, clock: Clock) -> Self {
        Self {
            retention: config.retention,
            publish_timeout: config.publish_timeout,
            lease: Duration::from_secs(30),
            housekeeping: Duration::from_mins(1),
            max_bytes: None,
            every_message_is_a_job: false,
            start_without_file: false,
            clock,
        }
    }
}

/// The embedded queue. Dropping it without [`Queue::close`] is as if the process had died: its leases run out.
pub struct SqliteQueue {
    path: PathBuf,
    options: SqliteOptions,
    requests: mpsc::Sender<Request>,
    places: Arc<Semaphore>,
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
    /// Opens the file, makes it (mode 0600) and its folders if they are missing, and starts the thread.
    ///
    /// Blocks for the time of a few writes; within a tokio runtime. If the thread dies before the drain, the
    /// process ends by way of `life`.
    pub fn open(path: &Path, options: SqliteOptions, life: &Lifecycle) -> Result<Arc<Self>, OpenError> {
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
                // Dropped at the end, also by a panic.
                let _alive = alive;
                writer.run();
            })
            .map_err(OpenError::Thread)?;
        let draining = life.draining();
        life.spawn_service("queue writer", async move {
            tokio::select! {
                _ = ended => {}
                () = draining.cancelled() => {}
            }
        });
        Ok(Arc::new(Self {
            path: path.to_owned(),
            options,
            requests,
            places: Arc::new(Semaphore::new(PLACES)),
            commits,
            thread: Mutex::new(Some(thread)),
        }))
    }

    /// How many transactions were committed; under load far fewer than messages.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// Up to `limit` announcements after the one numbered `seq` (0: from the start), in order, with their
    /// numbers. Numbers rise and are never used again. Times are to the millisecond.
    pub async fn announcements_after(
        &self,
        seq: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Announcement)>, QueueError> {
        self.look(move |connection| read::announcements_after(connection, seq, limit)).await
    }

    /// Keeps a list of keys for as long as the retention, apart from all messages.
    pub(super) async fn remember(&self, keys: Vec<u8>) -> Result<(), QueueError> {
        self.ask(Remember(keys), self.options.publish_timeout).await
    }

    /// All lists that were given to [`SqliteQueue::remember`] within the retention, oldest first, with their times.
    pub(super) async fn remembered(&self) -> Result<Vec<(Timestamp, Vec<u8>)>, QueueError> {
        self.look(read::remembered).await
    }

    /// What the file holds, and how much of it is in use.
    pub(super) async fn usage(&self) -> Result<FileUsage, QueueError> {
        self.look(read::usage).await
    }

    /// How many writes wait for their commit now, as a gauge has it.
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    pub(super) fn writes(&self) -> f64 {
        (PLACES - self.places.available_permits()) as f64
    }

    /// Empties the write-ahead log, which readers may delay.
    async fn empty_log(&self) -> Result<(), QueueError> {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || read::empty_log(&path, EMPTY_LOG_TIMEOUT))
            .await
            .map_err(|_| QueueError::Closed)?
            .map_err(|why| {
                QueueError::Unavailable(format!(
                    "everything was removed, but earlier copies may still stand in the write-ahead log ({why}): do it again"
                ))
            })
    }

    /// Asks the thread for a write and waits until it is durable.
    async fn ask<W: Write>(&self, write: W, limit: Duration) -> Result<W::Answer, QueueError> {
        let answered = async {
            let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| QueueError::Closed)?;
            let (reply, answer) = oneshot::channel();
            self.requests
                .send(Request::Write(Box::new(Asked::new(write, reply, place))))
                .map_err(|_| QueueError::Closed)?;
            answer.await.unwrap_or(Err(QueueError::Closed))
        };
        timeout(limit, answered).await.unwrap_or(Err(QueueError::Timeout(limit)))
    }

    /// Reads with a connection of its own, off the runtime's threads.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let (path, busy) = (self.path.clone(), self.options.publish_timeout);
        tokio::task::spawn_blocking(move || look(&schema::connect_to_read(&path, busy)?))
            .await
            .map_err(|_| QueueError::Closed)?
            .map_err(|error| {
                QueueError::Unavailable(format!(
                    "cannot read the queue file: {error}{}",
                    trouble::hint(&error)
                ))
            })
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    async fn publish(&self, message: Message) -> Result<Published, QueueError> {
        self.ask(message, self.options.publish_timeout).await
    }

    async fn announce(&self, announcement: Announcement) -> Result<Announced, QueueError> {
        self.ask(announcement, self.options.publish_timeout).await
    }

    async fn next(&self) -> Result<Job, QueueError> {
        let (waiter, handover) = oneshot::channel();
        self.requests.send(Request::Next(waiter)).map_err(|_| QueueError::Closed)?;
        handover.await.ok().and_then(request::Handover::take).ok_or(QueueError::Closed)
    }

    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        let held = self.ask(Settle(lease, outcome), self.options.publish_timeout).await?;
        if held { Ok(()) } else { Err(QueueError::LeaseLost) }
    }

    async fn ready(&self) -> Result<(), QueueError> {
        self.ask(Probe, READY_TIMEOUT).await
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError> {
        Ok(Box::new(dead::Letters::open(self).await?))
    }

    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        let id = conversation_id.to_owned();
        let (erased, rows) = self.look(move |connection| read::about(connection, &id)).await?;
        if dry_run {
            return Ok(erased);
        }
        for rows in rows.chunks(ERASE_ROWS) {
            self.ask(Erase(rows.to_vec()), self.options.publish_timeout).await?;
        }
        // Even if nothing was found: a job that was done yesterday may stand in the log.
        self.empty_log().await?;
        Ok(erased)
    }

    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        gauge!("polyhook_queue_writes").set(self.writes());
        let now = self.options.clock.now();
        self.look(move |connection| read::depths(connection, now)).await
    }

    async fn close(&self) {
        // Who comes second waits for the first.
        let mut thread = self.thread.lock().await;
        let Some(handle) = thread.take() else { return };
        let (done, closed) = oneshot::channel();
        if self.requests.send(Request::Close(done)).is_ok() {
            // An error says that the thread has ended by itself.
            let _ = closed.await;
        }
        if tokio::task::spawn_blocking(move || handle.join()).await.is_ok_and(|ended| ended.is_err()) {
            tracing::error!("the queue's thread panicked");
        }
    }
}

impl Drop for SqliteQueue {
    fn drop(&mut self) {
        // After a close there is nobody to hear it.
        let _ = self.requests.send(Request::Abandon);
    }
}
