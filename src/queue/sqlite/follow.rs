//! Follows a queue file while other processes use it, by polling.
//!
//! The follower writes nothing, and the queue writes nothing for it. It finds new events by the rising row numbers of
//! messages and announcements, by the times at which jobs ended, and by comparing the waiting and the dead jobs with
//! those of the previous poll. If nothing was committed since then, a poll reads one word of shared memory. A state
//! that lasts for less than the time between two polls is not reported.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    error::hint,
    queue_file::{HistoryReader, read_message, read_time},
    read,
    schema::{self, FileIdentity},
};
use crate::queue::{TailEvent, TailEventKind, tail_event::ManifestOrigin};

/// The maximum time that a poll waits for a locked file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum rows of one query.
const MAX_ROWS: usize = 2000;
/// The maximum age of a row when it becomes visible. Times are taken before the commit, so rows may become visible
/// out of order.
const MAX_DISORDER_MS: i64 = 2000;
/// The maximum number of open jobs whose ids are remembered. A job's body, and with it the ids, is deleted when the
/// job ends.
const MAX_REMEMBERED_JOBS: usize = 50_000;

/// The conversation and the project of a message. `None` if the message does not name it, or is already deleted.
type MessageIds = (Option<String>, Option<String>);

/// A follower of a queue file. Its methods block.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    connection: Connection,
    identity: FileIdentity,
    /// Earlier events are not reported.
    since: i64,
    /// SQLite's count of commits by other connections at the last poll. `None` if the next poll must read in any
    /// case.
    version: Option<i64>,
    last_message: i64,
    last_announcement: i64,
    ended_from: i64,
    /// The rows that ended at `ended_from` or later and have been reported.
    reported: HashMap<i64, i64>,
    /// The due times of the waiting and leased jobs.
    due: HashMap<i64, i64>,
    dead: HashSet<i64>,
    ids: HashMap<i64, MessageIds>,
    /// The ids that the announcements of this poll name, by event id: for jobs that ended between two polls.
    announced: HashMap<String, MessageIds>,
}

impl Follower {
    /// Opens the file at `path` and follows it from `since` on. The error describes the fault of the file.
    pub fn open(path: &Path, since: Timestamp) -> Result<Self, String> {
        let describe = |error: rusqlite::Error| format!("{}: {error}{}", path.display(), hint(&error));
        schema::check_file_type(path).map_err(|error| error.to_string())?;
        let connection = schema::open_read_only(path, LOCK_TIMEOUT).map_err(describe)?;
        let mut follower = Self {
            path: path.to_owned(),
            connection,
            identity: FileIdentity::of(path),
            since: since.as_millisecond(),
            version: None,
            last_message: 0,
            last_announcement: 0,
            ended_from: 0,
            reported: HashMap::new(),
            due: HashMap::new(),
            dead: HashSet::new(),
            ids: HashMap::new(),
            announced: HashMap::new(),
        };
        follower.skip_earlier().map_err(describe)?;
        Ok(follower)
    }

    /// Returns everything that has happened since the last poll, ordered by time.
    pub fn poll(&mut self) -> Result<Vec<TailEvent>, String> {
        let path = self.path.clone();
        let result = if self.identity.is_database_at(&path) {
            self.read_changes()
        } else {
            // Another file, or a copy of this one, is now at the path.
            self.reopen().and_then(|()| self.read_changes())
        };
        result.map_err(|error| format!("{}: {error}{}", path.display(), hint(&error)))
    }

    fn skip_earlier(&mut self) -> rusqlite::Result<()> {
        let before = |sql| self.connection.query_row(sql, [self.since], |row| row.get(0)).optional();
        // Searched from the end. Earlier messages have smaller row numbers, except for the order of concurrent
        // commits.
        self.last_message =
            before("SELECT seq FROM messages WHERE received_at < ?1 ORDER BY seq DESC LIMIT 1")?
                .unwrap_or_default();
        self.last_announcement =
            before("SELECT seq FROM announcements WHERE stored_at < ?1 ORDER BY seq DESC LIMIT 1")?
                .unwrap_or_default();
        self.ended_from = self.since;
        Ok(())
    }

    fn reopen(&mut self) -> rusqlite::Result<()> {
        self.connection = schema::open_read_only(&self.path, LOCK_TIMEOUT)?;
        self.identity = FileIdentity::of(&self.path);
        self.version = None;
        let last: i64 =
            self.connection.query_row("SELECT coalesce(max(seq), 0) FROM messages", [], |row| row.get(0))?;
        if last < self.last_message {
            // A new file, whose row numbers start again.
            (self.last_message, self.last_announcement) = (0, 0);
            self.reported.clear();
            self.due.clear();
            self.dead.clear();
            self.ids.clear();
        }
        Ok(())
    }

    fn read_changes(&mut self) -> rusqlite::Result<Vec<TailEvent>> {
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.version == Some(version) {
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        self.connection.execute_batch("BEGIN")?;
        let result = self.read_all(&mut events);
        self.connection.execute_batch("ROLLBACK")?;
        self.version = if result? { None } else { Some(version) };
        events.sort_by_key(|event: &TailEvent| event.at);
        Ok(events)
    }

    /// Returns true if there is more to read at once.
    fn read_all(&mut self, events: &mut Vec<TailEvent>) -> rusqlite::Result<bool> {
        let announced = self.read_announcements(events)?;
        let delivered = self.read_deliveries(events)?;
        self.remember_leased()?;
        let ended = self.read_ended_jobs(events)?;
        self.read_retries(events)?;
        self.read_dead_letters(events)?;
        Ok(delivered || ended || announced)
    }

    fn read_deliveries(&mut self, events: &mut Vec<TailEvent>) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "SELECT * FROM messages LEFT JOIN bodies USING (seq) WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        let found = statement
            .query_map((self.last_message, MAX_ROWS), |row| {
                let is_delayed = row.get::<_, String>("state")? == "retry"
                    && row.get::<_, Option<String>>("history")?.is_none();
                Ok((row.get::<_, i64>("seq")?, delivery_event(row)?, is_delayed))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        drop(statement);
        let full = found.len() == MAX_ROWS;
        for (seq, mut event, is_delayed) in found {
            self.last_message = seq;
            if event.conversation_id.is_none()
                && let Some(ids) = self.announced.get(&event.id)
            {
                (event.conversation_id, event.project_id) = ids.clone();
            }
            self.remember(seq, &event);
            // A job for later is not a delivery.
            if event.at.as_millisecond() >= self.since && !is_delayed {
                events.push(event);
            }
        }
        Ok(full)
    }

    /// Remembers the ids of the jobs that workers hold now.
    fn remember_leased(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq FROM messages INDEXED BY messages_open WHERE state = 'leased' AND state <> 'done'",
        )?;
        let leased: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        drop(statement);
        for seq in leased {
            if !self.ids.contains_key(&seq)
                && let Some(event) = self.read_message_row(seq, "leased", delivery_event)?
            {
                self.remember(seq, &event);
            }
        }
        Ok(())
    }

    fn remember(&mut self, seq: i64, event: &TailEvent) {
        if self.ids.len() >= MAX_REMEMBERED_JOBS {
            self.ids.clear();
        }
        self.ids.insert(seq, (event.conversation_id.clone(), event.project_id.clone()));
    }

    fn read_ended_jobs(&mut self, events: &mut Vec<TailEvent>) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "SELECT * FROM messages INDEXED BY messages_ended
             WHERE ended_at IS NOT NULL AND ended_at >= ?1 ORDER BY ended_at, seq LIMIT ?2",
        )?;
        let mut rows = statement.query((self.ended_from, MAX_ROWS))?;
        let (mut count, mut last, mut histories) = (0, self.ended_from, HistoryReader::default());
        while let Some(row) = rows.next()? {
            let (seq, ended_at): (i64, i64) = (row.get("seq")?, row.get("ended_at")?);
            (count, last) = (count + 1, ended_at);
            let state: String = row.get("state")?;
            // A dead letter that was dropped is also marked done, but no worker has done it.
            if self.reported.insert(seq, ended_at).is_some() || state != "done" || self.dead.contains(&seq) {
                continue;
            }
            let message = read_message(row, Bytes::new())?;
            let event = TailEvent::done(&message, &histories.read(row)?, read_time(row, "ended_at")?);
            let ids = self.ids.remove(&seq).filter(|ids| ids.0.is_some());
            let ids = ids.or_else(|| self.announced.get(&event.id).cloned());
            let (conversation_id, project_id) = ids.unwrap_or_default();
            events.push(TailEvent { conversation_id, project_id, ..event });
        }
        let full = count == MAX_ROWS;
        // Rows of the more distant past do not appear out of order.
        self.ended_from = if full { last } else { self.ended_from.max(last - MAX_DISORDER_MS) };
        let from = self.ended_from;
        self.reported.retain(|_, ended_at| *ended_at >= from);
        Ok(full)
    }

    fn read_retries(&mut self, events: &mut Vec<TailEvent>) -> rusqlite::Result<()> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT seq, due FROM messages INDEXED BY messages_due WHERE due IS NOT NULL")?;
        let due: HashMap<i64, i64> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        drop(statement);
        for (seq, _) in due.iter().filter(|(seq, due)| self.due.get(seq) != Some(due)) {
            events.extend(self.last_failure(*seq, TailEventKind::Retry)?);
        }
        self.due = due;
        Ok(())
    }

    fn read_dead_letters(&mut self, events: &mut Vec<TailEvent>) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq FROM messages INDEXED BY messages_open WHERE state = 'dead' AND state <> 'done'",
        )?;
        let dead: HashSet<i64> =
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        drop(statement);
        for seq in dead.difference(&self.dead) {
            events.extend(self.last_failure(*seq, TailEventKind::Dead)?);
        }
        self.dead = dead;
        Ok(())
    }

    /// Returns the last try of a waiting or dead job, if it was made after the start.
    fn last_failure(&self, seq: i64, kind: TailEventKind) -> rusqlite::Result<Option<TailEvent>> {
        let state = kind.label();
        let event = self.read_message_row(seq, state, |row| {
            let history = HistoryReader::default().read(row)?;
            let body: Option<Vec<u8>> = row.get("body")?;
            let message = read_message(row, body.unwrap_or_default().into())?;
            let at = history.attempts.last().map_or(message.received_at, |last| last.at);
            let due: Option<i64> = row.get("due")?;
            let event = TailEvent::dead(&message, &history, at);
            let retry_at = due.and_then(|due| Timestamp::from_millisecond(due).ok());
            Ok(TailEvent { what: kind, retry_at, ..event })
        })?;
        // A job for later has not failed.
        Ok(event.filter(|event| event.attempt != Some(0) && event.at.as_millisecond() >= self.since))
    }

    fn read_message_row<T>(
        &self,
        seq: i64,
        state: &str,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        self.connection
            .prepare_cached(
                "SELECT * FROM messages LEFT JOIN bodies USING (seq) WHERE seq = ?1 AND state = ?2",
            )?
            .query_row((seq, state), read)
            .optional()
    }

    fn read_announcements(&mut self, events: &mut Vec<TailEvent>) -> rusqlite::Result<bool> {
        let found = read::announcements_after(&self.connection, self.last_announcement, MAX_ROWS)?;
        let full = found.len() == MAX_ROWS;
        self.announced.clear();
        for (seq, announcement) in found {
            self.last_announcement = seq;
            let event = TailEvent::ready(&announcement, announcement.time);
            if let Some(event_id) =
                ManifestOrigin::read(&announcement.body).and_then(|origin| origin.event_id)
            {
                self.announced.insert(event_id, (event.conversation_id.clone(), event.project_id.clone()));
            }
            events.push(event);
        }
        Ok(full)
    }
}

/// Builds the delivery event of a message. The file does not hold how long it took to become durable.
fn delivery_event(row: &Row<'_>) -> rusqlite::Result<TailEvent> {
    let body: Option<Vec<u8>> = row.get("body")?;
    let message = read_message(row, body.unwrap_or_default().into())?;
    Ok(TailEvent { after_ms: None, ..TailEvent::delivery(&message, message.received_at) })
}
