//! The statements of the one connection that writes. Each runs inside the writer's transaction.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, named_params};

use super::{
    SqliteOptions,
    schema::{self, Identity, OpenError},
};
use crate::{
    event::{self, DedupKey, Event},
    queue::{Announced, Announcement, History, Job, JobOutcome, LeaseId, Message, Published},
};

/// The lower bits of a lease's name count the turns of its job, the others are the job's `seq`. After a
/// million turns the count begins again.
const TURN_BITS: u32 = 20;
const TURNS: u64 = 1 << TURN_BITS;

/// How much one step of housekeeping does while others wait.
const SWEEP_ROWS: u32 = 500;
const SWEEP_PAGES: u32 = 1024;

/// Names a row for good: numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Message(u64),
    Announcement(u64),
}

/// The open file, and whose leases are taken with it.
#[derive(Debug)]
pub(super) struct Store {
    connection: Connection,
    identity: Identity,
    holder: i64,
    options: SqliteOptions,
}

impl Store {
    /// Opens (or makes) the file. `holder` tells this queue's leases from those of other processes.
    pub(super) fn open(path: &Path, holder: i64, options: SqliteOptions) -> Result<Self, OpenError> {
        let connection = schema::connect(path, options.publish_timeout, options.max_bytes)?;
        Ok(Self { connection, identity: Identity::of(path), holder, options })
    }

    /// Whether what is at `path` is still the file that was opened.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.identity == Identity::of(path)
    }

    /// Puts everything back to `path` after somebody has deleted the file or its log: as long as it is open,
    /// nothing in it is lost. False where another file lies there now, which is not ours to overwrite.
    pub(super) fn put_back(&self, path: &Path) -> Result<bool, OpenError> {
        let store = |source| OpenError::Store { path: path.to_owned(), source };
        if self.identity.is_database_of(path) {
            // Only the log is gone; what is in it belongs to the file.
            return self.checkpoint().map(|()| true).map_err(store);
        }
        if path.exists() {
            return Ok(false);
        }
        schema::restore(&self.connection, path).map(|()| true)
    }

    fn now(&self) -> i64 {
        self.options.clock.now().as_millisecond()
    }

    fn after(&self, wait: Duration) -> i64 {
        self.now().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
    }

    fn execute(&self, sql: &str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
        self.connection.prepare_cached(sql)?.execute(params)
    }

    /// Takes the file's write lock.
    pub(super) fn begin(&self) -> rusqlite::Result<()> {
        self.execute("BEGIN IMMEDIATE", []).map(drop)
    }

    /// Makes everything since [`Store::begin`] durable.
    pub(super) fn commit(&self) -> rusqlite::Result<()> {
        self.execute("COMMIT", []).map(drop)
    }

    /// Undoes everything since [`Store::begin`].
    pub(super) fn roll_back(&self) -> rusqlite::Result<()> {
        // Some errors (a full disk) have undone it already.
        if self.connection.is_autocommit() { Ok(()) } else { self.execute("ROLLBACK", []).map(drop) }
    }

    pub(super) fn publish(&self, message: &Message) -> rusqlite::Result<Published> {
        let job = self.options.every_message_is_a_job || event::asks_for_fetch(&message.kind);
        let inserted = self.execute(
            "INSERT INTO messages (dedup, state, ended_at, id, kind, environment, received_at, traceparent, content_type)
             VALUES (:dedup, :state, :ended_at, :id, :kind, :environment, :received_at, :traceparent, :content_type)
             ON CONFLICT (dedup) DO NOTHING",
            named_params! {
                ":dedup": message.dedup.as_bytes(),
                ":state": if job { "ready" } else { "stored" },
                ":ended_at": (!job).then(|| self.now()),
                ":id": message.id,
                ":kind": message.kind,
                ":environment": message.environment,
                ":received_at": message.received_at.as_millisecond(),
                ":traceparent": message.traceparent,
                ":content_type": message.content_type,
            },
        )?;
        if inserted == 0 {
            return Ok(Published::Duplicate);
        }
        self.execute(
            "INSERT INTO bodies (seq, body) VALUES (?1, ?2)",
            (self.connection.last_insert_rowid(), &message.body[..]),
        )?;
        Ok(Published::New)
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
        self.execute("INSERT INTO remembered (at, keys) VALUES (?1, ?2)", (self.now(), keys)).map(drop)
    }

    /// Takes room as a message would, and gives it back; whether it gets through is whether a message would.
    pub(super) fn probe(&self) -> rusqlite::Result<()> {
        self.execute("UPDATE probe SET writes = writes + 1, room = zeroblob(16384)", [])?;
        self.execute("UPDATE probe SET room = NULL", []).map(drop)
    }

    /// Ends a lease; false if it was none of ours any more.
    pub(super) fn settle(&self, lease: LeaseId, outcome: &JobOutcome) -> rusqlite::Result<bool> {
        let (state, due, ended_at, history) = match outcome {
            JobOutcome::Done => ("done", None, Some(self.now()), None),
            JobOutcome::Retry { after, history } => ("retry", Some(self.after(*after)), None, Some(history)),
            JobOutcome::Dead { history } => ("dead", None, None, Some(history)),
            JobOutcome::Release => ("ready", None, None, None),
        };
        let history = history.map(history_text).transpose()?;
        let (seq, turn) = (seq(lease), turn(lease));
        let settled = self.execute(
            "UPDATE messages
             SET state = :state, due = :due, holder = NULL, ended_at = :ended_at, history = coalesce(:history, history)
             WHERE seq = :seq AND state = 'leased' AND holder = :holder AND claims % :turns = :turn",
            named_params! {
                ":state": state,
                ":due": due,
                ":ended_at": ended_at,
                ":history": history,
                ":seq": seq,
                ":holder": self.holder,
                ":turns": TURNS,
                ":turn": turn,
            },
        )?;
        if settled == 1 && matches!(outcome, JobOutcome::Done) {
            self.forget_body(seq)?;
        }
        Ok(settled == 1)
    }

    /// Of what is done only the key is needed, to know a duplicate; the personal data goes at once.
    fn forget_body(&self, seq: u64) -> rusqlite::Result<()> {
        self.execute("DELETE FROM bodies WHERE seq = ?1", [seq]).map(drop)
    }

    /// Makes a dead letter a job again; false if it is none any more, or one that has died anew.
    pub(super) fn replay(&self, letter: LeaseId, history: &History) -> rusqlite::Result<bool> {
        let replayed = self.execute(
            "UPDATE messages SET state = 'ready', history = ?1
             WHERE seq = ?2 AND state = 'dead' AND claims % ?3 = ?4",
            (history_text(history)?, seq(letter), TURNS, turn(letter)),
        )?;
        Ok(replayed == 1)
    }

    /// Ends a dead letter as if it were done; false as for [`Store::replay`].
    pub(super) fn discard(&self, letter: LeaseId) -> rusqlite::Result<bool> {
        let discarded = self.execute(
            "UPDATE messages SET state = 'done', ended_at = ?1
             WHERE seq = ?2 AND state = 'dead' AND claims % ?3 = ?4",
            (self.now(), seq(letter), TURNS, turn(letter)),
        )?;
        if discarded == 1 {
            self.forget_body(seq(letter))?;
        }
        Ok(discarded == 1)
    }

    /// Erases all of an announcement; of a message all but what is needed to know a duplicate, which is a hash.
    pub(super) fn erase(&self, row: Row) -> rusqlite::Result<()> {
        let seq = match row {
            Row::Message(seq) => seq,
            Row::Announcement(seq) => {
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
        self.forget_body(seq)
    }

    /// Whether there is a job to be claimed now.
    pub(super) fn is_claimable(&self) -> rusqlite::Result<bool> {
        let ready = self
            .connection
            .prepare_cached(
                "SELECT 1 FROM messages INDEXED BY messages_open WHERE state = 'ready' AND state <> 'done' LIMIT 1",
            )?
            .exists([])?;
        Ok(ready || self.next_due()?.is_some_and(|wait| wait.is_zero()))
    }

    /// How long until a delay, or a lease of somebody else, is over.
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
    /// A lease of this queue's own is never taken for lost: it ends by [`Store::settle`], or with the process.
    pub(super) fn claim(&self, wanted: usize) -> rusqlite::Result<Vec<Job>> {
        self.execute(
            "UPDATE messages INDEXED BY messages_due SET state = 'ready', due = NULL, holder = NULL
             WHERE due IS NOT NULL AND due <= ?1 AND holder IS NOT ?2",
            (self.now(), self.holder),
        )?;
        let mut statement = self.connection.prepare_cached(
            "UPDATE messages SET state = 'leased', due = ?1, holder = ?2, claims = claims + 1
             WHERE seq IN (
                 SELECT seq FROM messages INDEXED BY messages_open
                 WHERE state = 'ready' AND state <> 'done' ORDER BY seq LIMIT ?3
             )
             RETURNING seq, claims, history, id, kind, environment, received_at, traceparent, content_type",
        )?;
        let mut claimed = statement
            .query_map((self.after(self.options.lease), self.holder, wanted), |row| {
                let (seq, claims): (u64, u64) = (row.get("seq")?, row.get("claims")?);
                Ok((seq, claims, read_history(row)?, read_message(row, Bytes::new())?))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        // RETURNING promises no order.
        claimed.sort_unstable_by_key(|(seq, ..)| *seq);
        let mut body = self.connection.prepare_cached("SELECT body FROM bodies WHERE seq = ?1")?;
        claimed
            .into_iter()
            .map(|(seq, claims, history, mut message)| {
                let bytes: Vec<u8> = body.query_row([seq], |row| row.get(0)).optional()?.unwrap_or_default();
                message.dedup = DedupKey::new(&message.id, &bytes);
                message.body = bytes.into();
                Ok(Job { message, history, lease: lease(seq, claims) })
            })
            .collect()
    }

    /// Whether this queue has leases that [`Store::extend`] would extend.
    pub(super) fn has_leases(&self) -> rusqlite::Result<bool> {
        self.connection
            .prepare_cached(
                "SELECT 1 FROM messages INDEXED BY messages_open
                 WHERE state = 'leased' AND state <> 'done' AND holder = ?1 LIMIT 1",
            )?
            .exists([self.holder])
    }

    /// Extends all leases of this queue.
    pub(super) fn extend(&self) -> rusqlite::Result<()> {
        self.execute(
            "UPDATE messages INDEXED BY messages_open SET due = ?1
             WHERE state = 'leased' AND state <> 'done' AND holder = ?2",
            (self.after(self.options.lease), self.holder),
        )
        .map(drop)
    }

    /// Hands back all leases of this queue.
    pub(super) fn hand_back(&self) -> rusqlite::Result<usize> {
        self.execute(
            "UPDATE messages INDEXED BY messages_open SET state = 'ready', due = NULL, holder = NULL
             WHERE state = 'leased' AND state <> 'done' AND holder = ?1",
            [self.holder],
        )
    }

    /// Deletes some of what is older than the retention; whether there was more to do than one step.
    pub(super) fn sweep(&self) -> rusqlite::Result<bool> {
        let oldest =
            self.now().saturating_sub(i64::try_from(self.options.retention.as_millis()).unwrap_or(i64::MAX));
        let old = "SELECT seq FROM messages INDEXED BY messages_ended
                   WHERE ended_at IS NOT NULL AND ended_at < ?1 ORDER BY ended_at, seq LIMIT ?2";
        self.execute(&format!("DELETE FROM bodies WHERE seq IN ({old})"), (oldest, SWEEP_ROWS))?;
        let messages =
            self.execute(&format!("DELETE FROM messages WHERE seq IN ({old})"), (oldest, SWEEP_ROWS))?;
        let announcements = self.execute(
            "DELETE FROM announcements WHERE seq IN (
                 SELECT seq FROM announcements WHERE stored_at < ?1 ORDER BY stored_at LIMIT ?2
             )",
            (oldest, SWEEP_ROWS),
        )?;
        self.execute("DELETE FROM remembered WHERE at < ?1", [oldest])?;
        Ok(messages.max(announcements) == SWEEP_ROWS as usize)
    }

    /// Gives some of the file's unused pages back to the file system, if they are many; whether it could.
    /// Outside of a transaction.
    pub(super) fn shrink(&self) -> rusqlite::Result<bool> {
        let count = |name| self.connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
        let (unused, all) = (count("freelist_count")?, count("page_count")?);
        if unused < SWEEP_PAGES || unused < all / 4 {
            return Ok(false);
        }
        self.connection.execute_batch(&format!("PRAGMA incremental_vacuum({SWEEP_PAGES})"))?;
        // A file that somebody has restored may be unable to.
        Ok(count("freelist_count")? < unused)
    }

    /// Writes the log back into the file and empties it, as far as nobody is reading.
    pub(super) fn checkpoint(&self) -> rusqlite::Result<()> {
        self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}

/// The name of a job's turn.
pub(super) fn lease(seq: u64, claims: u64) -> LeaseId {
    LeaseId((seq << TURN_BITS) | (claims % TURNS))
}

/// Which message it is a turn of.
pub(super) fn seq(lease: LeaseId) -> u64 {
    lease.0 >> TURN_BITS
}

fn turn(lease: LeaseId) -> u64 {
    lease.0 % TURNS
}

fn history_text(history: &History) -> rusqlite::Result<String> {
    serde_json::to_string(history).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// The message of a row; its body and dedup key are the caller's to fill in.
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

/// A time. One that cannot be must not stand in the way of every job behind it.
pub(super) fn read_time(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<Timestamp> {
    Ok(Timestamp::from_millisecond(row.get(column)?).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// The tries so far. For a history that cannot be read the same holds.
pub(super) fn read_history(row: &rusqlite::Row<'_>) -> rusqlite::Result<History> {
    let text: Option<String> = row.get("history")?;
    Ok(text.map_or_else(History::default, |text| {
        serde_json::from_str(&text).unwrap_or_else(|error| {
            tracing::warn!(%error, "the history of a job cannot be read; it begins anew");
            History::default()
        })
    }))
}
