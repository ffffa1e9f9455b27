//! The spool: messages that wait on the local disk while RabbitMQ is unavailable.
//!
//! It is an embedded queue in which every message is a job. So it has the same group commit, the same fsync before a
//! message counts as durable, and the same errors for a full, read-only, locked, damaged or deleted file. It starts
//! in any state of its file, because it is not needed while the broker works.

use std::{path::Path, sync::Arc, time::Duration};

use bytesize::ByteSize;
use futures_util::{StreamExt, stream::FuturesOrdered};
use jiff::Timestamp;
use metrics::gauge;

use super::{
    ErasedMessages, Job, JobOutcome, LeaseId, Message, Queue, QueueConfig, QueueError, age,
    config::SpoolConfig,
    sqlite::{FileUsage, OpenError, SqliteOptions, SqliteQueue},
};
use crate::{clock::Clock, lifecycle::Lifecycle};

/// The maximum time to make a message durable here. It is longer than the broker's, because there is no further
/// fallback. The receiver itself keeps the acknowledgement budget.
const PUT_TIMEOUT: Duration = Duration::from_secs(3);
/// The time after a crash until the messages that the dead process was forwarding can be forwarded again.
const LEASE_DURATION: Duration = Duration::from_secs(5);
/// The maximum time to wait for the rest of a batch after its first message. One transaction leases all of them.
const BATCH_TIMEOUT: Duration = Duration::from_millis(2);

/// The spool file of one receiver. See the [module](self).
#[derive(Debug)]
pub struct Spool {
    queue: Arc<SqliteQueue>,
    max_bytes: ByteSize,
    clock: Clock,
}

impl Spool {
    /// Opens the file of `config`, or creates it. Forwarded messages are recognised as duplicates for
    /// `queue.dedup_window`.
    pub fn open(
        config: &SpoolConfig,
        queue_config: &QueueConfig,
        clock: Clock,
        lifecycle: &Lifecycle,
    ) -> Result<Arc<Self>, OpenError> {
        let options = SqliteOptions {
            retention: queue_config.dedup_window,
            publish_timeout: PUT_TIMEOUT,
            lease: LEASE_DURATION,
            max_bytes: Some(config.max_bytes.as_u64()),
            every_message_is_a_job: true,
            start_without_file: true,
            ..SqliteOptions::new(queue_config, clock.clone())
        };
        let queue = SqliteQueue::open(&config.path, options, lifecycle)?;
        Ok(Arc::new(Self { queue, max_bytes: config.max_bytes, clock }))
    }

    /// Makes `message` durable on the local disk.
    pub async fn put(&self, message: Message) -> Result<(), QueueError> {
        self.queue.publish(message).await.map(drop).map_err(name_spool)
    }

    /// Waits for messages and leases up to `limit` of them, in order of arrival. Safe to cancel.
    pub async fn lease(&self, limit: usize) -> Result<Vec<Job>, QueueError> {
        let mut coming: FuturesOrdered<_> = (0..limit).map(|_| self.queue.next()).collect();
        let mut batch = Vec::new();
        if let Some(first) = coming.next().await {
            batch.push(first?);
        }
        while let Ok(Some(next)) = tokio::time::timeout(BATCH_TIMEOUT, coming.next()).await {
            batch.push(next?);
        }
        Ok(batch)
    }

    /// Settles a lease.
    pub(super) async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        self.queue.settle(lease, outcome).await
    }

    /// Removes the messages about a conversation, whatever their event type; see [`Queue::erase`].
    pub async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError> {
        self.queue.erase(conversation_id, dry_run).await.map_err(name_spool)
    }

    /// Returns an error if a message could not be made durable now.
    pub async fn ready(&self) -> Result<(), QueueError> {
        self.queue.ready().await.map_err(name_spool)
    }

    /// Returns an error if the file cannot be written, not even to take messages out.
    pub async fn check_writable(&self) -> Result<(), QueueError> {
        self.queue.check_writable().await.map_err(name_spool)
    }

    /// Returns the number of waiting messages and the used size of the file. Updates the metrics of the spool.
    pub async fn usage(&self) -> Result<FileUsage, QueueError> {
        gauge!("polyhook_spool_writes").set(self.queue.pending_writes());
        let usage = self.queue.usage().await.map_err(name_spool)?;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let set = |name: &'static str, value: u64| gauge!(name).set(value as f64);
        set("polyhook_spool_messages", usage.messages);
        set("polyhook_spool_bytes", usage.bytes);
        set("polyhook_spool_max_bytes", self.max_bytes.as_u64());
        let now = self.clock.now();
        gauge!("polyhook_spool_oldest_age_seconds").set(age(usage.oldest.unwrap_or(now), now).as_secs_f64());
        Ok(usage)
    }

    /// Returns the maximum size of the file.
    pub fn max_bytes(&self) -> ByteSize {
        self.max_bytes
    }

    /// Stores dedup keys of published messages, so that they survive a restart.
    pub(super) async fn remember_keys(&self, keys: Vec<u8>) -> Result<(), QueueError> {
        self.queue.remember_keys(keys).await
    }

    /// Returns the stored dedup keys with the times at which they were stored.
    pub(super) async fn remembered_keys(&self) -> Result<Vec<(Timestamp, Vec<u8>)>, QueueError> {
        self.queue.remembered_keys().await
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.queue.close().await;
    }
}

/// Reads the usage of the spool file at `path` without opening it for writing.
pub fn read_usage(path: &Path) -> Result<FileUsage, String> {
    super::sqlite::read_usage(path)
}

/// Checks the whole spool file at `path`. Returns the number of intact messages, or the faults.
pub fn verify(path: &Path) -> Result<u64, Vec<String>> {
    super::sqlite::verify(path)
}

/// Names the spool in an error, so that it is not taken for one of the broker.
fn name_spool(error: QueueError) -> QueueError {
    match error {
        QueueError::Unavailable(why) => QueueError::Unavailable(format!("the spool: {why}")),
        other => other,
    }
}
