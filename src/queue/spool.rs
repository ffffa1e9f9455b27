//! Where deliveries wait on the local disk while RabbitMQ is away.
//!
//! The embedded queue's own machinery with every message a job: group commit, an fsync before anybody is
//! told "durable", the same answers to a full, read-only, locked, damaged or deleted file. It starts whatever
//! the state of its file: the broker may be well, and then nobody needs it.

use std::{path::Path, sync::Arc, time::Duration};

use bytesize::ByteSize;
use futures_util::{StreamExt, stream::FuturesOrdered};
use jiff::Timestamp;
use metrics::gauge;

use super::{
    ErasedMessages, Job, JobOutcome, LeaseId, Message, Queue, QueueConfig, QueueError,
    config::SpoolConfig,
    sqlite::{FileUsage, OpenError, SqliteOptions, SqliteQueue},
};
use crate::{clock::Clock, lifecycle::Lifecycle};

/// How long a message may take to become durable here. There is nowhere else to go, so longer than the broker
/// has; the ack budget is the receiver's to keep.
const PUT_TIMEOUT: Duration = Duration::from_secs(3);
/// How soon after a crash what the dead process was handing on is handed on by the next.
const LEASE: Duration = Duration::from_secs(5);
/// How long after the first message of a batch the others, which come from one transaction, may take.
const GRACE: Duration = Duration::from_millis(2);

/// See the [module](self).
#[derive(Debug)]
pub struct Spool {
    store: Arc<SqliteQueue>,
    max_bytes: ByteSize,
}

impl Spool {
    /// Opens the file of `config`, or makes it. What is handed on is remembered for `queue.dedup_window`.
    pub fn open(
        config: &SpoolConfig,
        queue: &QueueConfig,
        clock: Clock,
        life: &Lifecycle,
    ) -> Result<Arc<Self>, OpenError> {
        let options = SqliteOptions {
            retention: queue.dedup_window,
            publish_timeout: PUT_TIMEOUT,
            lease: LEASE,
            max_bytes: Some(config.max_bytes.as_u64()),
            every_message_is_a_job: true,
            start_without_file: true,
            ..SqliteOptions::new(queue, clock)
        };
        let store = SqliteQueue::open(&config.path, options, life)?;
        Ok(Arc::new(Self { store, max_bytes: config.max_bytes }))
    }

    /// Makes `message` durable here.
    pub async fn put(&self, message: Message) -> Result<(), QueueError> {
        self.store.publish(message).await.map(drop).map_err(in_words)
    }

    /// Waits for messages and leases up to `most` of them, in order of arrival. Safe to cancel.
    pub async fn lease(&self, most: usize) -> Result<Vec<Job>, QueueError> {
        let mut coming: FuturesOrdered<_> = (0..most).map(|_| self.store.next()).collect();
        let mut batch = Vec::new();
        if let Some(first) = coming.next().await {
            batch.push(first?);
        }
        while let Ok(Some(next)) = tokio::time::timeout(GRACE, coming.next()).await {
            batch.push(next?);
        }
        Ok(batch)
    }

    /// Ends a lease.
    pub(super) async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        self.store.settle(lease, outcome).await
    }

    /// Removes what is about a conversation, whatever kind of event; see [`Queue::erase`].
    pub async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        self.store.erase(conversation_id, dry_run).await.map_err(in_words)
    }

    /// Whether a message could be made durable right now.
    pub async fn ready(&self) -> Result<(), QueueError> {
        self.store.ready().await.map_err(in_words)
    }

    /// What waits here.
    pub async fn usage(&self) -> Result<FileUsage, QueueError> {
        gauge!("polyhook_spool_writes").set(self.store.writes());
        let usage = self.store.usage().await.map_err(in_words)?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let set = |name: &'static str, value: u64| gauge!(name).set(value as f64);
        set("polyhook_spool_messages", usage.messages);
        set("polyhook_spool_bytes", usage.bytes);
        set("polyhook_spool_max_bytes", self.max_bytes.as_u64());
        Ok(usage)
    }

    /// How large it may grow.
    pub fn max_bytes(&self) -> ByteSize {
        self.max_bytes
    }

    /// Keeps keys of published messages beyond a restart.
    pub(super) async fn remember(&self, keys: Vec<u8>) -> Result<(), QueueError> {
        self.store.remember(keys).await
    }

    /// Those keys, with the times they were given.
    pub(super) async fn remembered(&self) -> Result<Vec<(Timestamp, Vec<u8>)>, QueueError> {
        self.store.remembered().await
    }

    /// Lets go of the file.
    pub async fn close(&self) {
        self.store.close().await;
    }
}

/// What waits in the file at `path`, without opening it for writing.
pub fn read_usage(path: &Path) -> Result<FileUsage, String> {
    super::sqlite::read_usage(path)
}

/// Reads the whole file and says what is wrong with it, else how many messages it holds in order.
pub fn verify(path: &Path) -> Result<u64, Vec<String>> {
    super::sqlite::verify(path)
}

fn in_words(error: QueueError) -> QueueError {
    match error {
        QueueError::Unavailable(why) => QueueError::Unavailable(format!("the spool: {why}")),
        other => other,
    }
}
