//! A queue file that no other process uses: for the move of its messages to another queue.
//!
//! The file is locked from [`ExclusiveQueueFile::open`] until it is dropped. So every lease in it is one of a process that
//! has died, and its job waits. A process that opens the file meanwhile gets the error that it is locked.

use std::path::Path;

use jiff::Timestamp;

use super::{
    SqliteOptions,
    error::{OpenError, WriteError},
    queue_file::{HistoryReader, QueueFile, RowId, read_message, read_time},
    read,
    schema::{self, Sharing},
};
use crate::queue::{QueueError, StoredCounts, StoredMessage, StoredState};

/// The maximum size of the bodies of a batch, beyond its first message.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// The states of the file, in the order in which their messages are moved: jobs that a worker can start on come first.
const STATES: [&str; 4] = ["ready", "retry", "dead", "stored"];

/// A queue file with an exclusive lock. Its methods block.
#[derive(Debug)]
pub struct ExclusiveQueueFile {
    file: QueueFile,
}

impl ExclusiveQueueFile {
    /// Opens and locks an existing file. Jobs that a dead process had leased, and those whose delay is over, wait from now on.
    ///
    /// # Errors
    ///
    /// [`OpenError::InUse`] if another process has the file open.
    pub fn open(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let in_use = |error| match error {
            OpenError::Sqlite { source, .. } if schema::is_locked(&source) => {
                OpenError::InUse { path: path.to_owned() }
            }
            other => other,
        };
        // The holder of no lease.
        let file = QueueFile::open_with(path, 0, options, Sharing::Exclusive).map_err(in_use)?;
        let now = file.now();
        file.begin()
            .and_then(|()| {
                file.execute(
                    "UPDATE messages SET state = 'ready', due = NULL, holder = NULL
                     WHERE state = 'leased' OR (state = 'retry' AND due <= ?1)",
                    [now],
                )
            })
            .and_then(|_| file.commit())
            .map_err(|source| in_use(OpenError::Sqlite { path: path.to_owned(), source }))?;
        Ok(Self { file })
    }

    /// Counts the messages.
    pub fn counts(&self) -> Result<StoredCounts, QueueError> {
        read::counts(&self.file.connection, self.time()).map_err(failed)
    }

    /// Returns up to `limit` messages of the first state that has more than `skipped` of them, after these. Waiting jobs,
    /// dead letters and events are in order of arrival, and delayed jobs in the order of their next attempts. The batch is empty
    /// at the end.
    pub fn next_batch(&self, skipped: &StoredCounts, limit: usize) -> Result<Vec<StoredMessage>, QueueError> {
        let skips = [skipped.waiting_jobs, skipped.delayed_jobs, skipped.dead_letters, skipped.events];
        for (state, skip) in STATES.into_iter().zip(skips) {
            let batch = self.batch(state, skip, limit).map_err(failed)?;
            if !batch.is_empty() {
                return Ok(batch);
            }
        }
        Ok(Vec::new())
    }

    fn batch(&self, state: &str, skip: u64, limit: usize) -> rusqlite::Result<Vec<StoredMessage>> {
        let (index, order) = match state {
            "retry" => ("messages_due", "due IS NOT NULL ORDER BY due, wait, seq"),
            _ => ("messages_open", "state <> 'done' ORDER BY seq"),
        };
        let mut statement = self.file.connection.prepare_cached(&format!(
            "SELECT * FROM messages INDEXED BY {index} LEFT JOIN bodies USING (seq)
             WHERE state = ?1 AND {order} LIMIT ?2 OFFSET ?3"
        ))?;
        let mut rows = statement.query((state, limit, skip))?;
        let (mut batch, mut bytes, mut histories) = (Vec::new(), 0, HistoryReader::default());
        while bytes < MAX_BATCH_BYTES
            && let Some(row) = rows.next()?
        {
            let body = row.get::<_, Option<Vec<u8>>>("body")?.unwrap_or_default();
            bytes += body.len();
            batch.push(StoredMessage {
                row: row.get("seq")?,
                message: read_message(row, body.into())?,
                history: histories.read(row)?,
                state: match state {
                    "ready" => StoredState::Waiting,
                    "retry" => StoredState::Delayed { due: read_time(row, "due")? },
                    "dead" => StoredState::Dead,
                    _ => StoredState::Event,
                },
            });
        }
        Ok(batch)
    }

    /// Removes messages that another queue has made durable. Only the keys that identify their duplicates stay, as of
    /// finished jobs. The removal is durable when this returns.
    pub fn remove(&self, rows: impl IntoIterator<Item = u64>) -> Result<(), QueueError> {
        let remove = || {
            self.file.begin()?;
            rows.into_iter().try_for_each(|row| self.file.erase(RowId::Message(row)))?;
            self.file.commit()
        };
        remove().or_else(|error| {
            self.file.roll_back().map_err(failed)?;
            Err(failed(error))
        })
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_millisecond(self.file.now()).unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// Counts the messages of the file at `path` without locking it. The error describes the fault of the file.
pub fn read_counts(path: &Path, now: Timestamp) -> Result<StoredCounts, String> {
    read::open_and_read(path, |connection| match schema::layout_version(connection, path) {
        // A file without tables.
        Ok(0) => Ok(Ok(StoredCounts::default())),
        Ok(_) => read::counts(connection, now).map(Ok),
        Err(error) => Ok(Err(error.to_string())),
    })?
}

fn failed(error: rusqlite::Error) -> QueueError {
    WriteError::from(error).to_queue_error()
}
