//! The statements of the connection that writes. Each statement runs inside a transaction of the writer thread.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, named_params};

use super::{
    SqliteOptions,
    error::OpenError,
    reserve,
    schema::{self, FileIdentity, Sharing},
};
use crate::{
    event::{self, DedupKey, Event},
    queue::{Announced, Announcement, History, Job, JobOutcome, LeaseId, Message, Published},
};

/// The number of low bits of a lease that hold the claim count of its job. The other bits hold the job's `seq`. The
/// count wraps after a million claims.
const CLAIM_BITS: u32 = 20;
const CLAIM_MODULUS: u64 = 1 << CLAIM_BITS;

/// The longest wait in milliseconds that is assumed for a row without one: a day, the longest `Retry-After`.
const MAX_UNKNOWN_WAIT_MS: i64 = 86_400_000;

/// A row. Row numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RowId {
    Message(u64),
    Announcement(u64),
}

/// The open queue file, and the holder of the leases that are taken with it.
#[derive(Debug)]
pub(super) struct QueueFile {
    pub(super) connection: Connection,
    identity: FileIdentity,
    holder: i64,
    options: SqliteOptions,
}

impl QueueFile {
    /// Opens the file, and creates it if it does not exist. `holder` distinguishes this queue's leases from those of
    /// other processes.
    pub(super) fn open(path: &Path, holder: i64, options: SqliteOptions) -> Result<Self, OpenError> {
        Self::open_with(path, holder, options, Sharing::Shared)
    }

    /// Opens the file like [`QueueFile::open`], and keeps other processes out if `sharing` says so.
    pub(super) fn open_with(
        path: &Path,
        holder: i64,
        options: SqliteOptions,
        sharing: Sharing,
    ) -> Result<Self, OpenError> {
        let connection = schema::open(path, options.publish_timeout, sharing)?;
        Ok(Self { connection, identity: FileIdentity::of(path), holder, options })
    }

    /// Returns true if the file at `path` is still the one that was opened.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.identity == FileIdentity::of(path)
    }

    /// Restores the file at `path` after it or its log was deleted. The open connection still holds every message.
    /// Returns false if another file is at `path`; that file is not overwritten.
    pub(super) fn restore_to(&self, path: &Path) -> Result<bool, OpenError> {
        let sqlite_error = |source| OpenError::Sqlite { path: path.to_owned(), source };
        if self.identity.is_database_at(path) {
            // Only the log was deleted, and the checkpoint writes its content to the file.
            return self.checkpoint().map(|()| true).map_err(sqlite_error);
        }
        if path.exists() {
            return Ok(false);
        }
        schema::copy_to(&self.connection, path).map(|()| true)
    }

    pub(super) fn now(&self) -> i64 {
        self.options.clock.now().as_millisecond()
    }

    /// Returns the end of a delay or lease that begins now, and its length.
    fn due_after(&self, wait: Duration) -> (i64, i64) {
        let wait = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        (self.now().saturating_add(wait), wait)
    }

    pub(super) fn execute(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }

    /// Starts a transaction and takes the file's write lock.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.execute("BEGIN IMMEDIATE", []).map(drop)
    }

    /// Makes all changes since [`QueueFile::begin`] durable.
    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.execute("COMMIT", []).map(drop)
    }

    /// Undoes all changes since [`QueueFile::begin`].
    pub(super) fn roll_back(&self) -> rusqlite::Result<()> {
        // After some errors (a full disk) SQLite has already rolled back.
        if self.connection.is_autocommit() { Ok(()) } else { self.execute("ROLLBACK", []).map(drop) }
    }

    pub(super) fn publish(&self, message: &Message) -> rusqlite::Result<Published> {
        let job = self.options.every_message_is_a_job || event::triggers_fetch(&message.kind);
        let inserted = self.execute(
            "INSERT INTO messages (dedup, state, ended_at, id, kind, environment, received_at, traceparent, content_type)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (dedup) DO NOTHING",
            (
                message.dedup.as_bytes(),
                if job { "ready" } else { "stored" },
                (!job).then(|| self.now()),
                &message.id,
                &message.kind,
                &message.environment,
                message.received_at.as_millisecond(),
                &message.traceparent,
                &message.content_type,
            ),
        )?;
        if inserted == 0 {
            return Ok(Published::Duplicate);
        }
        self.execute(
            "INSERT INTO bodies (seq, body) VALUES (?1, ?2)",
            (self.connection.last_insert_rowid(), &message.body[..]),
        )?;
        reserve::check_size(&self.connection, self.options.max_bytes)?;
        Ok(Published::New)
    }

    /// Publishes a job that waits for `delay`. Unlike a job that failed, it has no history ([`super::read::depths`]).
    pub(super) fn publish_delayed(&self, message: &Message, delay: Duration) -> rusqlite::Result<Published> {
        let published = self.publish(message)?;
        if published == Published::New {
            let (due, wait) = self.due_after(delay);
            self.execute(
                "UPDATE messages SET state = 'retry', due = ?1, wait = ?2, ended_at = NULL WHERE seq = ?3",
                (due, wait, self.connection.last_insert_rowid()),
            )?;
        }
        Ok(published)
    }

    pub(super) fn announce(&self, announcement: &Announcement) -> rusqlite::Result<Announced> {
        self.execute(
            "INSERT INTO announcements (id, stored_at, kind, environment, subject, time, traceparent, body)
             VALUES (:id, :stored_at, :kind, :environment, :subject, :time, :traceparent, :body)
             ON CONFLICT (id) DO NOTHING",
            named_params! {
                ":id": announcement.id,
                ":stored_at": self.now(),
                ":kind": announcement.kind,
                ":environment": announcement.environment,
                ":subject": announcement.subject,
                ":time": announcement.time.as_millisecond(),
                ":traceparent": announcement.traceparent,
                ":body": &announcement.body[..],
            },
        )?;
        Ok(Announced::Delivered)
    }

    pub(super) fn remember(&self, keys: &[u8]) -> rusqlite::Result<()> {
        self.execute("INSERT INTO remembered (at, keys) VALUES (?1, ?2)", (self.now(), keys))?;
        reserve::check_size(&self.connection, self.options.max_bytes)
    }

    /// Writes without a need for space.
    pub(super) fn touch(&self) -> rusqlite::Result<()> {
        self.execute("UPDATE probe SET writes = writes + 1", []).map(drop)
    }

    /// Writes as much as a message needs, and deletes it again. Fails if a message could not be stored.
    pub(super) fn probe(&self) -> rusqlite::Result<()> {
        self.execute("UPDATE probe SET writes = writes + 1, room = zeroblob(16384)", [])?;
        reserve::check_size(&self.connection, self.options.max_bytes)?;
        self.execute("UPDATE probe SET room = NULL", []).map(drop)
    }

    /// Settles a lease. Returns false if this queue no longer holds it.
    pub(super) fn settle(&self, lease: LeaseId, outcome: &JobOutcome) -> rusqlite::Result<bool> {
        let (state, due, ended_at, history) = match outcome {
            JobOutcome::Done => ("done", None, Some(self.now()), None),
            JobOutcome::Retry { after, history } => {
                ("retry", Some(self.due_after(*after)), None, Some(history))
            }
            JobOutcome::Dead { history } => ("dead", None, None, Some(history)),
            JobOutcome::Release => ("ready", None, None, None),
        };
        let history = history.map(history_json).transpose()?;
        let (seq, claim) = (seq(lease), claim_count(lease));
        let (due, wait) = due.unzip();
        let settled = self.execute(
            "UPDATE messages
             SET state = :state, due = :due, wait = :wait, holder = NULL, ended_at = :ended_at,
                 history = coalesce(:history, history)
             WHERE seq = :seq AND state = 'leased' AND holder = :holder AND claims % :modulus = :claim",
            named_params! {
                ":state": state,
                ":due": due,
                ":wait": wait,
                ":ended_at": ended_at,
                ":history": history,
                ":seq": seq,
                ":holder": self.holder,
                ":modulus": CLAIM_MODULUS,
                ":claim": claim,
            },
        )?;
        if settled == 1 && matches!(outcome, JobOutcome::Done) {
            self.delete_body(seq)?;
        }
        Ok(settled == 1)
    }

    /// A done job keeps only the key that identifies its duplicates. Its personal data is deleted at once.
    fn delete_body(&self, seq: u64) -> rusqlite::Result<()> {
        self.execute("DELETE FROM bodies WHERE seq = ?1", [seq]).map(drop)
    }

    /// Turns a dead letter back into a job. Returns false if it is no longer a dead letter, or died again since it
    /// was read.
    pub(super) fn replay(&self, letter: LeaseId, history: &History) -> rusqlite::Result<bool> {
        let replayed = self.execute(
            "UPDATE messages SET state = 'ready', history = ?1
             WHERE seq = ?2 AND state = 'dead' AND claims % ?3 = ?4",
            (history_json(history)?, seq(letter), CLAIM_MODULUS, claim_count(letter)),
        )?;
        Ok(replayed == 1)
    }

    /// Ends a dead letter as if the job were done. Returns false under the same conditions as [`QueueFile::replay`].
    pub(super) fn discard(&self, letter: LeaseId) -> rusqlite::Result<bool> {
        let discarded = self.execute(
            "UPDATE messages SET state = 'done', ended_at = ?1
             WHERE seq = ?2 AND state = 'dead' AND claims % ?3 = ?4",
            (self.now(), seq(letter), CLAIM_MODULUS, claim_count(letter)),
        )?;
        if discarded == 1 {
            self.delete_body(seq(letter))?;
        }
        Ok(discarded == 1)
    }

    /// Erases an announcement completely, and a message except for the hash that identifies its duplicates.
    pub(super) fn erase(&self, row: RowId) -> rusqlite::Result<()> {
        let seq = match row {
            RowId::Message(seq) => seq,
            RowId::Announcement(seq) => {
                return self.execute("DELETE FROM announcements WHERE seq = ?1", [seq]).map(drop);
            }
        };
        self.execute(
            "UPDATE messages
             SET state = 'done', due = NULL, holder = NULL, ended_at = coalesce(ended_at, ?1), traceparent = NULL,
                 history = NULL
             WHERE seq = ?2",
            (self.now(), seq),
        )?;
        self.delete_body(seq)
    }

    /// Returns true if a job can be claimed now.
    pub(super) fn has_claimable_job(&self) -> rusqlite::Result<bool> {
        let ready = self
            .connection
            .prepare_cached(
                "SELECT 1 FROM messages INDEXED BY messages_open WHERE state = 'ready' AND state <> 'done' LIMIT 1",
            )?
            .exists([])?;
        Ok(ready || self.next_due()?.is_some_and(|wait| wait.is_zero()))
    }

    /// Returns the time until the next delay, or the next lease of another process, ends.
    pub(super) fn next_due(&self) -> rusqlite::Result<Option<Duration>> {
        let due: Option<i64> = self
            .connection
            .prepare_cached(
                "SELECT due FROM messages INDEXED BY messages_due
                 WHERE due IS NOT NULL AND holder IS NOT ?1 ORDER BY due LIMIT 1",
            )?
            .query_row([self.holder], |row| row.get(0))
            .optional()?;
        Ok(due.map(|due| Duration::from_millis(u64::try_from(due.saturating_sub(self.now())).unwrap_or(0))))
    }

    /// Leases up to `wanted` jobs, in order of arrival.
    ///
    /// This queue's own leases do not expire: they end by [`QueueFile::settle`] or with the process.
    pub(super) fn claim(&self, wanted: usize) -> rusqlite::Result<Vec<Job>> {
        self.execute(
            "UPDATE messages INDEXED BY messages_due SET state = 'ready', due = NULL, holder = NULL
             WHERE due IS NOT NULL AND due <= ?1 AND holder IS NOT ?2",
            (self.now(), self.holder),
        )?;
        let (due, wait) = self.due_after(self.options.lease);
        let mut claimed: Vec<u64> = self
            .connection
            .prepare_cached(
                "UPDATE messages SET state = 'leased', due = ?1, wait = ?2, holder = ?3, claims = claims + 1
                 WHERE seq IN (
                     SELECT seq FROM messages INDEXED BY messages_open
                     WHERE state = 'ready' AND state <> 'done' ORDER BY seq LIMIT ?4
                 )
                 RETURNING seq",
            )?
            .query_map((due, wait, self.holder, wanted), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        // RETURNING does not guarantee an order.
        claimed.sort_unstable();
        let mut job = self
            .connection
            .prepare_cached("SELECT * FROM messages LEFT JOIN bodies USING (seq) WHERE seq = ?1")?;
        let mut histories = HistoryReader::default();
        let read = |seq| job.query_row([seq], |row| read_job(row, &mut histories));
        claimed.into_iter().map(read).collect()
    }

    /// Returns true if this queue has leases that [`QueueFile::extend_leases`] would extend.
    pub(super) fn has_leases(&self) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached(
                "SELECT 1 FROM messages INDEXED BY messages_open
                 WHERE state = 'leased' AND state <> 'done' AND holder = ?1 LIMIT 1",
            )?
            .exists([self.holder])
    }

    /// Extends all leases of this queue.
    pub(super) fn extend_leases(&self) -> rusqlite::Result<()> {
        let (due, wait) = self.due_after(self.options.lease);
        self.execute(
            "UPDATE messages INDEXED BY messages_open SET due = ?1, wait = ?2
             WHERE state = 'leased' AND state <> 'done' AND holder = ?3",
            (due, wait, self.holder),
        )
        .map(drop)
    }

    /// Lets jobs wait for their delay, and leases last for their length, from now on if they would end later. That
    /// happens after the clock was set back. Returns their number.
    pub(super) fn shorten_waits(&self) -> rusqlite::Result<usize> {
        let now = self.now();
        // The wait of rows from earlier layouts is unknown.
        let too_late = "due IS NOT NULL AND due - ?1 > coalesce(wait, ?2)";
        let any = format!("SELECT 1 FROM messages INDEXED BY messages_due WHERE {too_late} LIMIT 1");
        if !self.connection.prepare_cached(&any)?.exists((now, MAX_UNKNOWN_WAIT_MS))? {
            return Ok(0);
        }
        self.execute(
            &format!(
                "UPDATE messages INDEXED BY messages_due SET due = ?1 + coalesce(wait, ?2) WHERE {too_late}"
            ),
            (now, MAX_UNKNOWN_WAIT_MS),
        )
    }

    /// Releases all leases of this queue. Returns the number of jobs.
    pub(super) fn release_leases(&self) -> rusqlite::Result<usize> {
        self.execute(
            "UPDATE messages INDEXED BY messages_open SET state = 'ready', due = NULL, holder = NULL
             WHERE state = 'leased' AND state <> 'done' AND holder = ?1",
            [self.holder],
        )
    }

    /// Copies what it can of the write-ahead log into the file, without waiting. If that is everything, the next write
    /// needs no space for the log.
    pub(super) fn checkpoint_at_once(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
    }

    /// Copies the write-ahead log into the file and empties it, as far as concurrent readers permit.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}

/// Builds the lease of a job's claim.
pub(super) fn lease(seq: u64, claims: u64) -> LeaseId {
    LeaseId((seq << CLAIM_BITS) | (claims % CLAIM_MODULUS))
}

/// Returns the `seq` of the leased message.
pub(super) fn seq(lease: LeaseId) -> u64 {
    lease.0 >> CLAIM_BITS
}

/// Returns the claim count of a lease.
fn claim_count(lease: LeaseId) -> u64 {
    lease.0 % CLAIM_MODULUS
}

fn history_json(history: &History) -> rusqlite::Result<String> {
    serde_json::to_string(history).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// Reads a job from a row of `messages` with its body.
fn read_job(row: &rusqlite::Row<'_>, histories: &mut HistoryReader) -> rusqlite::Result<Job> {
    let body: Option<Vec<u8>> = row.get("body")?;
    Ok(Job {
        message: read_message(row, body.unwrap_or_default().into())?,
        history: histories.read(row)?,
        lease: lease(row.get("seq")?, row.get("claims")?),
    })
}

/// Reads a message from its row and `body`.
pub(super) fn read_message(row: &rusqlite::Row<'_>, body: Bytes) -> rusqlite::Result<Message> {
    let id: String = row.get("id")?;
    Ok(Message {
        dedup: DedupKey::new(&id, &body),
        id,
        kind: row.get("kind")?,
        environment: row.get("environment")?,
        conversation_id: Event::read(&body).conversation_id,
        received_at: read_time(row, "received_at")?,
        traceparent: row.get("traceparent")?,
        content_type: row.get("content_type")?,
        body,
    })
}

/// Reads a time. An invalid value becomes the Unix epoch, because an error would block all jobs behind this one.
pub(super) fn read_time(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    Ok(Timestamp::from_millisecond(row.get(column)?).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Reads the histories of jobs. An invalid value becomes an empty history, for the same reason. One line of the log counts
/// all of them.
#[derive(Debug, Default)]
pub(super) struct HistoryReader {
    unreadable: u64,
    /// The row and the error of the first one.
    first: Option<(u64, String)>,
}

impl HistoryReader {
    pub(super) fn read(&mut self, row: &rusqlite::Row<'_>) -> rusqlite::Result<History> {
        let text: Option<String> = row.get("history")?;
        let Some(text) = text else { return Ok(History::default()) };
        serde_json::from_str(&text).or_else(|error| {
            self.unreadable += 1;
            if self.first.is_none() {
                self.first = Some((row.get("seq")?, error.to_string()));
            }
            Ok(History::default())
        })
    }
}

impl Drop for HistoryReader {
    fn drop(&mut self) {
        if let Some((seq, error)) = &self.first {
            let count = self.unreadable;
            tracing::warn!(
                count,
                seq,
                error,
                "histories of jobs cannot be read; the jobs continue with empty ones"
            );
        }
    }
}
