//! Following the queue while others use it, by looking at the file again and again.
//!
//! Nothing is written, and nothing has to be written for it: what is new is found by the rising numbers of
//! messages and announcements, by the times at which jobs ended, and by comparing what waits and what is dead with
//! what did at the look before. Where nothing was committed since, a look costs a word of shared memory. A state
//! that lasts for less than the time between two looks is not seen.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{
    read,
    schema::{self, Identity},
    store::{read_history, read_message, read_time},
    trouble::hint,
};
use crate::queue::{TailEvent, TailEventKind, tail_event::ManifestOrigin};

/// How long a look waits for a locked file.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much is read at a time.
const PAGE: usize = 2000;
/// Times are taken before a commit, so an earlier one may become visible later; by this at most.
const DISORDER_MS: i64 = 2000;
/// Of how many open jobs it is remembered what they are about: with the job's end its body goes.
const NAMES: usize = 50_000;

/// What a message is about, as far as it is still to be read.
type Names = (Option<String>, Option<String>);

/// Follows a queue's file. Blocking.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    connection: Connection,
    identity: Identity,
    /// What was there before is told only from here on.
    since: i64,
    /// SQLite's count of others' commits at the last look; none if there is more to read in any case.
    version: Option<i64>,
    message: i64,
    announcement: i64,
    ended: i64,
    /// What ended at that time or later, and has been told.
    told: HashMap<i64, i64>,
    /// When each job that waits (or is leased) is due.
    due: HashMap<i64, i64>,
    dead: HashSet<i64>,
    names: HashMap<i64, Names>,
    /// The same by the event's id, for jobs that were done between two looks: what was announced at this one.
    announced: HashMap<String, Names>,
}

impl Follower {
    /// Follows the file at `path` from `since` on; the error says what is wrong with it.
    pub fn open(path: &Path, since: Timestamp) -> Result<Self, String> {
        let wrong = |error: rusqlite::Error| format!("{}: {error}{}", path.display(), hint(&error));
        let connection = schema::connect_to_read(path, PATIENCE).map_err(wrong)?;
        let mut follower = Self {
            path: path.to_owned(),
            connection,
            identity: Identity::of(path),
            since: since.as_millisecond(),
            version: None,
            message: 0,
            announcement: 0,
            ended: 0,
            told: HashMap::new(),
            due: HashMap::new(),
            dead: HashSet::new(),
            names: HashMap::new(),
            announced: HashMap::new(),
        };
        follower.begin().map_err(wrong)?;
        Ok(follower)
    }

    /// Everything that has happened since the last look, in order of time.
    pub fn poll(&mut self) -> Result<Vec<TailEvent>, String> {
        let path = self.path.clone();
        let looked = if self.identity.is_database_of(&path) {
            self.look_again()
        } else {
            // Somebody has put another file, or a copy of this one, in its place.
            self.reopen().and_then(|()| self.look_again())
        };
        looked.map_err(|error| format!("{}: {error}{}", path.display(), hint(&error)))
    }

    fn begin(&mut self) -> rusqlite::Result<()> {
        let before = |sql| self.connection.query_row(sql, [self.since], |row| row.get(0)).optional();
        // From the end: what was received before stands before it, give or take the order of commits.
        self.message = before("SELECT seq FROM messages WHERE received_at < ?1 ORDER BY seq DESC LIMIT 1")?
            .unwrap_or_default();
        self.announcement =
            before("SELECT seq FROM announcements WHERE stored_at < ?1 ORDER BY seq DESC LIMIT 1")?
                .unwrap_or_default();
        self.ended = self.since;
        Ok(())
    }

    fn reopen(&mut self) -> rusqlite::Result<()> {
        self.connection = schema::connect_to_read(&self.path, PATIENCE)?;
        self.identity = Identity::of(&self.path);
        self.version = None;
        let last: i64 =
            self.connection.query_row("SELECT coalesce(max(seq), 0) FROM messages", [], |row| row.get(0))?;
        if last < self.message {
            // A new one, whose numbers begin anew.
            (self.message, self.announcement) = (0, 0);
            self.told.clear();
            self.due.clear();
            self.dead.clear();
            self.names.clear();
        }
        Ok(())
    }

    fn look_again(&mut self) -> rusqlite::Result<Vec<TailEvent>> {
        let version = self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.version == Some(version) {
            return Ok(Vec::new());
        }
        let mut notes = Vec::new();
        self.connection.execute_batch("BEGIN")?;
        let looked = self.look_at_all(&mut notes);
        self.connection.execute_batch("ROLLBACK")?;
        self.version = if looked? { None } else { Some(version) };
        notes.sort_by_key(|note: &TailEvent| note.at);
        Ok(notes)
    }

    /// Whether there is more to read at once.
    fn look_at_all(&mut self, notes: &mut Vec<TailEvent>) -> rusqlite::Result<bool> {
        let announced = self.announcements(notes)?;
        let delivered = self.deliveries(notes)?;
        self.leased()?;
        let ended = self.ended(notes)?;
        self.retries(notes)?;
        self.dead_letters(notes)?;
        Ok(delivered || ended || announced)
    }

    fn deliveries(&mut self, notes: &mut Vec<TailEvent>) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "SELECT * FROM messages LEFT JOIN bodies USING (seq) WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        )?;
        let found = statement
            .query_map((self.message, PAGE), |row| Ok((row.get::<_, i64>("seq")?, message_note(row)?)))?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        drop(statement);
        let full = found.len() == PAGE;
        for (seq, mut note) in found {
            self.message = seq;
            if note.conversation_id.is_none()
                && let Some(names) = self.announced.get(&note.id)
            {
                (note.conversation_id, note.project_id) = names.clone();
            }
            self.remember(seq, &note);
            if note.at.as_millisecond() >= self.since {
                notes.push(note);
            }
        }
        Ok(full)
    }

    /// Learns what the jobs are about that are being worked on.
    fn leased(&mut self) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq FROM messages INDEXED BY messages_open WHERE state = 'leased' AND state <> 'done'",
        )?;
        let leased: Vec<i64> = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        drop(statement);
        for seq in leased {
            if !self.names.contains_key(&seq)
                && let Some(note) = self.one(seq, "leased", message_note)?
            {
                self.remember(seq, &note);
            }
        }
        Ok(())
    }

    fn remember(&mut self, seq: i64, note: &TailEvent) {
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        self.names.insert(seq, (note.conversation_id.clone(), note.project_id.clone()));
    }

    fn ended(&mut self, notes: &mut Vec<TailEvent>) -> rusqlite::Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "SELECT * FROM messages INDEXED BY messages_ended
             WHERE ended_at IS NOT NULL AND ended_at >= ?1 ORDER BY ended_at, seq LIMIT ?2",
        )?;
        let mut rows = statement.query((self.ended, PAGE))?;
        let (mut count, mut last) = (0, self.ended);
        while let Some(row) = rows.next()? {
            let (seq, ended_at): (i64, i64) = (row.get("seq")?, row.get("ended_at")?);
            (count, last) = (count + 1, ended_at);
            let state: String = row.get("state")?;
            // A dead letter that was dropped is done too, but nobody did it.
            if self.told.insert(seq, ended_at).is_some() || state != "done" || self.dead.contains(&seq) {
                continue;
            }
            let message = read_message(row, Bytes::new())?;
            let note = TailEvent::done(&message, &read_history(row)?, read_time(row, "ended_at")?);
            let names = self.names.remove(&seq).filter(|names| names.0.is_some());
            let names = names.or_else(|| self.announced.get(&note.id).cloned());
            let (conversation_id, project_id) = names.unwrap_or_default();
            notes.push(TailEvent { conversation_id, project_id, ..note });
        }
        let full = count == PAGE;
        // What is long past comes in order.
        self.ended = if full { last } else { self.ended.max(last - DISORDER_MS) };
        let from = self.ended;
        self.told.retain(|_, ended_at| *ended_at >= from);
        Ok(full)
    }

    fn retries(&mut self, notes: &mut Vec<TailEvent>) -> rusqlite::Result<()> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT seq, due FROM messages INDEXED BY messages_due WHERE due IS NOT NULL")?;
        let due: HashMap<i64, i64> = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        drop(statement);
        for (seq, _) in due.iter().filter(|(seq, due)| self.due.get(seq) != Some(due)) {
            notes.extend(self.failed(*seq, TailEventKind::Retry)?);
        }
        self.due = due;
        Ok(())
    }

    fn dead_letters(&mut self, notes: &mut Vec<TailEvent>) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq FROM messages INDEXED BY messages_open WHERE state = 'dead' AND state <> 'done'",
        )?;
        let dead: HashSet<i64> =
            statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        drop(statement);
        for seq in dead.difference(&self.dead) {
            notes.extend(self.failed(*seq, TailEventKind::Dead)?);
        }
        self.dead = dead;
        Ok(())
    }

    /// The last try of a job that waits or is dead, if it was made since we began.
    fn failed(&self, seq: i64, what: TailEventKind) -> rusqlite::Result<Option<TailEvent>> {
        let state = what.label();
        let note = self.one(seq, state, |row| {
            let history = read_history(row)?;
            let body: Option<Vec<u8>> = row.get("body")?;
            let message = read_message(row, body.unwrap_or_default().into())?;
            let at = history.attempts.last().map_or(message.received_at, |last| last.at);
            let due: Option<i64> = row.get("due")?;
            let note = TailEvent::dead(&message, &history, at);
            let retry_at = due.and_then(|due| Timestamp::from_millisecond(due).ok());
            Ok(TailEvent { what, retry_at, ..note })
        })?;
        Ok(note.filter(|note| note.at.as_millisecond() >= self.since))
    }

    fn one<T>(
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

    fn announcements(&mut self, notes: &mut Vec<TailEvent>) -> rusqlite::Result<bool> {
        let found = read::announcements_after(&self.connection, self.announcement, PAGE)?;
        let full = found.len() == PAGE;
        self.announced.clear();
        for (seq, announcement) in found {
            self.announcement = seq;
            let note = TailEvent::ready(&announcement, announcement.time);
            if let Some(event_id) =
                ManifestOrigin::read(&announcement.body).and_then(|origin| origin.event_id)
            {
                self.announced.insert(event_id, (note.conversation_id.clone(), note.project_id.clone()));
            }
            notes.push(note);
        }
        Ok(full)
    }
}

/// The delivery of a message. How long it took to become durable is not written down.
fn message_note(row: &Row<'_>) -> rusqlite::Result<TailEvent> {
    let body: Option<Vec<u8>> = row.get("body")?;
    let message = read_message(row, body.unwrap_or_default().into())?;
    Ok(TailEvent { after_ms: None, ..TailEvent::delivery(&message, message.received_at) })
}
