//! Queries that do not block the writer: each opens a read-only connection of its own.

use std::{collections::HashMap, path::Path, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction};

use super::{
    error::hint,
    queue_file::{HistoryReader, RowId, lease, read_message, read_time},
    schema::{self, Sharing},
};
use crate::{
    event::{self, CONVERSATION_ERASED, Discovery, Event},
    queue::{Announcement, DeadLetter, ErasedMessages, QueueKind, StoredCounts},
};

/// The maximum time that a command waits for a locked file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum size of the bodies on one page of dead letters.
const MAX_PAGE_BYTES: usize = 1 << 20;
/// The maximum number of letters on one page.
const MAX_PAGE_LETTERS: usize = 256;

/// The number of messages in each state, at one moment.
struct Counts {
    /// Jobs that can be leased now.
    waiting: u64,
    leased: u64,
    /// Jobs that failed and wait for their time.
    retry: u64,
    /// Jobs that were published for a later time and wait for it.
    refresh: u64,
    dead: u64,
    stored: u64,
}

/// Counts by the indexes alone, so the cost does not depend on the size of the messages. `snapshot` is a transaction,
/// because a job that changes its state between two statements would be counted twice or not at all.
fn count(snapshot: &Transaction<'_>, now: Timestamp) -> rusqlite::Result<Counts> {
    let states: HashMap<String, u64> = snapshot
        .prepare(
            "SELECT state, count(*) FROM messages INDEXED BY messages_open WHERE state <> 'done' GROUP BY state",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let overdue: u64 = snapshot.query_row(
        "SELECT count(*) FROM messages INDEXED BY messages_due
         WHERE due IS NOT NULL AND due <= ?1 AND state = 'retry'",
        [now.as_millisecond()],
        |row| row.get(0),
    )?;
    // Few rows wait for their time, and those that failed have a history.
    let refresh: u64 = snapshot.query_row(
        "SELECT count(*) FROM messages INDEXED BY messages_due
         WHERE due IS NOT NULL AND due > ?1 AND state = 'retry' AND history IS NULL",
        [now.as_millisecond()],
        |row| row.get(0),
    )?;
    let count = |state| states.get(state).copied().unwrap_or(0);
    Ok(Counts {
        waiting: count("ready") + overdue,
        leased: count("leased"),
        retry: count("retry").saturating_sub(overdue + refresh),
        refresh,
        dead: count("dead"),
        stored: count("stored"),
    })
}

pub(super) fn depths(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<(QueueKind, u64)>> {
    let counts = count(&connection.unchecked_transaction()?, now)?;
    let depth = |queue| match queue {
        QueueKind::Fetch => counts.waiting + counts.leased,
        QueueKind::Retry => counts.retry,
        QueueKind::Refresh => counts.refresh,
        QueueKind::Dead => counts.dead,
        QueueKind::Unrouted => counts.stored,
    };
    Ok(QueueKind::ALL.into_iter().map(|queue| (queue, depth(queue))).collect())
}

/// Returns the time since which the job that has waited longest could be leased. `None`: no job waits.
pub(super) fn waiting_since(connection: &Connection, now: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
    waiting_since_in(connection, now, "wait")
}

/// Like [`waiting_since`]. `wait` is the column of that name, or `NULL` in a layout without it.
fn waiting_since_in(
    connection: &Connection,
    now: Timestamp,
    wait: &str,
) -> rusqlite::Result<Option<Timestamp>> {
    let snapshot = connection.unchecked_transaction()?;
    let overdue = snapshot
        .query_row(
            "SELECT due FROM messages INDEXED BY messages_due
             WHERE due IS NOT NULL AND due <= ?1 AND state = 'retry' ORDER BY due LIMIT 1",
            [now.as_millisecond()],
            |row| read_time(row, "due"),
        )
        .optional()?;
    let never_tried = snapshot
        .query_row(
            &format!(
                "SELECT received_at FROM messages INDEXED BY messages_open
                 WHERE state = 'ready' AND state <> 'done' AND history IS NULL AND {wait} IS NULL ORDER BY seq LIMIT 1"
            ),
            [],
            |row| read_time(row, "received_at"),
        )
        .optional()?;
    // Jobs that were replayed, released or scheduled can be leased for a shorter time than since their receipt. They are
    // leased first, so the others of them are not older than these.
    let mut first = snapshot.prepare(&format!(
        "SELECT seq, received_at, {wait} AS wait, history FROM messages INDEXED BY messages_open
         WHERE state = 'ready' AND state <> 'done' ORDER BY seq LIMIT 100"
    ))?;
    let mut histories = HistoryReader::default();
    let first = first.query_map([], |row| {
        let wait = Duration::from_millis(row.get::<_, Option<u64>>("wait")?.unwrap_or_default());
        let since = histories.read(row)?.leasable_since(read_time(row, "received_at")?);
        Ok(since.checked_add(wait).unwrap_or(now))
    })?;
    let first = first.collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(first.into_iter().chain(overdue).chain(never_tried).min())
}

/// The state of an embedded queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// Jobs that can be leased now.
    pub waiting: u64,
    /// The time since which the job that has waited longest could be leased.
    pub waiting_since: Option<Timestamp>,
    /// Jobs that a process has leased.
    pub leased: u64,
    /// Jobs that failed and wait for their next attempt.
    pub retry: u64,
    /// Jobs that are published for a later time and wait for it.
    pub refresh: u64,
    /// Dead letters.
    pub dead: u64,
    /// Events that do not ask for a fetch.
    pub stored: u64,
}

/// Reads the state of the queue in the file at `path`, at the time `now`. Changes nothing and creates no file, whether a
/// process has the file open or not. The error describes the fault of the file.
pub fn read_status(path: &Path, now: Timestamp) -> Result<FileStatus, String> {
    let read = |connection: &Connection| {
        let wait = match schema::layout_version(connection, path) {
            Ok(0) => {
                return Ok(Err(format!("{} is empty; polyhook fills it at the next start", path.display())));
            }
            // Not migrated yet: this only reads.
            Ok(1 | 2) => "NULL",
            Ok(_) => "wait",
            Err(error) => return Ok(Err(error.to_string())),
        };
        let Counts { waiting, leased, retry, refresh, dead, stored } =
            count(&connection.unchecked_transaction()?, now)?;
        let waiting_since = waiting_since_in(connection, now, wait)?;
        Ok(Ok(FileStatus { waiting, waiting_since, leased, retry, refresh, dead, stored }))
    };
    open_and_read(path, read)?
}

/// Counts the messages by the states in which another queue can take them over.
pub(super) fn counts(connection: &Connection, now: Timestamp) -> rusqlite::Result<StoredCounts> {
    let depths: HashMap<_, _> = depths(connection, now)?.into_iter().collect();
    let count = |kind| depths.get(&kind).copied().unwrap_or(0);
    Ok(StoredCounts {
        waiting_jobs: count(QueueKind::Fetch),
        delayed_jobs: count(QueueKind::Retry) + count(QueueKind::Refresh),
        dead_letters: count(QueueKind::Dead),
        events: count(QueueKind::Unrouted),
    })
}

/// The content of a queue file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileUsage {
    /// The messages that are not forwarded yet.
    pub messages: u64,
    /// The time at which the oldest of them was received.
    pub oldest: Option<Timestamp>,
    /// The bytes of the file that are in use.
    pub bytes: u64,
}

pub(super) fn usage(connection: &Connection) -> rusqlite::Result<FileUsage> {
    let snapshot = connection.unchecked_transaction()?;
    let pragma = |name| snapshot.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let (mut messages, mut oldest) = (0, None);
    for state in ["ready", "leased", "retry"] {
        // Answered by the index alone, so the cost does not depend on the size of the messages.
        messages += snapshot.query_row(
            "SELECT count(*) FROM messages INDEXED BY messages_open WHERE state = ?1 AND state <> 'done'",
            [state],
            |row| row.get::<_, u64>(0),
        )?;
        let first: Option<i64> = snapshot
            .query_row(
                "SELECT received_at FROM messages INDEXED BY messages_open
                 WHERE state = ?1 AND state <> 'done' ORDER BY seq LIMIT 1",
                [state],
                |row| row.get(0),
            )
            .optional()?;
        oldest = [oldest, first].into_iter().flatten().min();
    }
    let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    Ok(FileUsage {
        messages,
        oldest: oldest.and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        bytes: pages * pragma("page_size")?,
    })
}

/// Returns an error if there is no file at `path`. Opening the queue would create it and so hide a wrong path.
pub fn require_file(path: &Path) -> Result<(), String> {
    if path.is_dir() {
        return Err(format!("{} is a folder; set queue.url to a file in it", path.display()));
    }
    if path.exists() {
        return Ok(());
    }
    Err(format!(
        "there is no queue file {}; run this command where the service runs, with the same configuration",
        path.display()
    ))
}

/// Reads the usage of the file at `path`. Changes nothing and creates no file. The error describes the fault of the file.
pub fn read_usage(path: &Path) -> Result<FileUsage, String> {
    open_and_read(path, usage)
}

/// Runs a query on the file at `path`. Changes nothing and creates no file. The error describes the fault of the file.
pub(super) fn open_and_read<T>(
    path: &Path,
    query: impl Fn(&Connection) -> rusqlite::Result<T>,
) -> Result<T, String> {
    schema::check_file_type(path).map_err(|error| error.to_string())?;
    schema::read_snapshot(path, LOCK_TIMEOUT, query)
        .map_err(|error| format!("{}: {error}{}", path.display(), hint(&error)))
}

/// Checks that a queue can use the existing file at `path`: polyhook wrote it, it is writable, and its pages are
/// consistent as far as a check without the indexes can see. Changes nothing. The error describes the fault of the
/// file.
pub fn check_file(path: &Path) -> Result<(), String> {
    let describe = |error: rusqlite::Error| format!("{error}{}", hint(&error));
    schema::check_file_type(path).map_err(|error| error.to_string())?;
    if path.metadata().is_ok_and(|file| file.len() == 0) {
        return Ok(());
    }
    let connection = schema::open_read_only(path, LOCK_TIMEOUT).map_err(describe)?;
    schema::layout_version(&connection, path).map_err(|error| error.to_string())?;
    let problem: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(describe)?;
    if problem != "ok" {
        return Err(format!(
            "it is damaged ({problem}): move it away (polyhook creates a new one) and recover it with `sqlite3 FILE .recover`"
        ));
    }
    std::fs::OpenOptions::new().write(true).open(path).map(drop).map_err(|error| {
        format!("it cannot be written ({error}): it must belong to the user polyhook runs as")
    })
}

/// Checks the whole file at `path`. Returns the number of intact messages, or the faults.
///
/// SQLite checks every page. Every message must have a body that matches the key under which it was stored.
pub fn verify(path: &Path) -> Result<u64, Vec<String>> {
    schema::check_file_type(path).map_err(|error| vec![error.to_string()])?;
    let describe = |error: rusqlite::Error| vec![error.to_string()];
    let connection = schema::open_read_only(path, LOCK_TIMEOUT).map_err(describe)?;
    let mut problems: Vec<String> = connection
        .prepare("PRAGMA integrity_check")
        .and_then(|mut check| check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>())
        .map_err(describe)?;
    problems.retain(|problem| problem != "ok");
    let mut intact = 0;
    let result = connection
        .prepare("SELECT * FROM messages LEFT JOIN bodies USING (seq) WHERE state <> 'done'")
        .and_then(|mut all| {
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                let seq: i64 = row.get("seq")?;
                let (key, body): (Vec<u8>, Option<Vec<u8>>) = (row.get("dedup")?, row.get("body")?);
                let Some(body) = body else {
                    problems.push(format!("message {seq} has no body"));
                    continue;
                };
                if read_message(row, body.into())?.dedup.as_bytes()[..] == key {
                    intact += 1;
                } else {
                    problems.push(format!("message {seq} is not what was stored"));
                }
            }
            Ok(())
        });
    problems.extend(result.err().map(|error| error.to_string()));
    if problems.is_empty() { Ok(intact) } else { Err(problems) }
}

pub(super) fn remembered(connection: &Connection) -> rusqlite::Result<Vec<(Timestamp, Vec<u8>)>> {
    connection
        .prepare("SELECT at, keys FROM remembered ORDER BY seq")?
        .query_map([], |row| Ok((read_time(row, "at")?, row.get("keys")?)))?
        .collect()
}

pub(super) fn announcements_after(
    connection: &Connection,
    seq: i64,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, Announcement)>> {
    connection
        .prepare("SELECT * FROM announcements WHERE seq > ?1 ORDER BY seq LIMIT ?2")?
        .query_map((seq, limit), |row| {
            let announcement = Announcement {
                id: row.get("id")?,
                kind: row.get("kind")?,
                environment: row.get("environment")?,
                subject: row.get("subject")?,
                time: read_time(row, "time")?,
                traceparent: row.get("traceparent")?,
                body: Bytes::from(row.get::<_, Vec<u8>>("body")?),
            };
            Ok((row.get("seq")?, announcement))
        })?
        .collect()
}

/// Returns the number of dead letters, and the row number of the last one.
pub(super) fn dead_letter_range(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    connection.query_row(
        "SELECT count(*), coalesce(max(seq), 0) FROM messages INDEXED BY messages_open
         WHERE state = 'dead' AND state <> 'done'",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Returns the next dead letters with row numbers above `after` and up to `until`. The page is empty at the end.
pub(super) fn dead_letters(
    connection: &Connection,
    after: u64,
    until: u64,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut statement = connection.prepare(
        "SELECT * FROM messages INDEXED BY messages_open JOIN bodies USING (seq)
         WHERE state = 'dead' AND state <> 'done' AND seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = statement.query((after, until, MAX_PAGE_LETTERS))?;
    let (mut page, mut histories) = (Vec::new(), HistoryReader::default());
    let mut bytes = 0;
    while bytes < MAX_PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let body = Bytes::from(row.get::<_, Vec<u8>>("body")?);
        bytes += body.len();
        page.push(DeadLetter {
            message: read_message(row, body)?,
            history: histories.read(row)?,
            lease: lease(row.get("seq")?, row.get("claims")?),
        });
    }
    Ok(page)
}

/// Finds all rows about a conversation, and counts them by their state. Reads the whole file.
pub(super) fn find_conversation(
    connection: &Connection,
    conversation_id: &str,
) -> rusqlite::Result<(ErasedMessages, Vec<RowId>)> {
    let distinct = event::is_unambiguous_id(conversation_id);
    let snapshot = connection.unchecked_transaction()?;
    let (mut erased, mut found) = (ErasedMessages::default(), Vec::new());
    let mut messages = snapshot
        .prepare("SELECT seq, state, due, history, body FROM messages LEFT JOIN bodies USING (seq)")?;
    let mut rows = messages.query([])?;
    while let Some(row) = rows.next()? {
        let (history, body): (Option<String>, Option<Vec<u8>>) = (row.get("history")?, row.get("body")?);
        if !body.as_ref().is_some_and(|body| Event::is_about(body, conversation_id))
            && !history.is_some_and(|history| distinct && history.contains(conversation_id))
        {
            continue;
        }
        let state: String = row.get("state")?;
        if state == "retry" {
            let due = read_time(row, "due")?;
            let discovery = body.as_deref().and_then(Discovery::read);
            if discovery.is_some_and(|discovery| discovery.age.is_some()) {
                erased.refresh_due_at = Some(due);
            } else {
                erased.retry_due_at = erased.retry_due_at.map_or(Some(due), |earlier| Some(due.min(earlier)));
            }
        }
        match &*state {
            "dead" => erased.dead_letters += 1,
            "stored" => erased.events += 1,
            // Only its history still mentions the conversation.
            "done" => {}
            _ => erased.jobs += 1,
        }
        found.push(RowId::Message(row.get("seq")?));
    }
    let mut announcements =
        snapshot.prepare("SELECT seq FROM announcements WHERE subject = ?1 AND kind <> ?2")?;
    let mut rows = announcements.query((conversation_id, CONVERSATION_ERASED))?;
    while let Some(row) = rows.next()? {
        erased.announcements += 1;
        found.push(RowId::Announcement(row.get("seq")?));
    }
    Ok((erased, found))
}

/// Copies the write-ahead log into the file at `path` and empties it. The error names what prevented it until the
/// timeout.
pub(super) fn empty_log(path: &Path, timeout: Duration) -> Result<(), String> {
    let connection = schema::open(path, timeout, Sharing::Shared).map_err(|error| error.to_string())?;
    let busy = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
        .map_err(|error| error.to_string())?;
    if busy { Err("another process is reading the file".to_owned()) } else { Ok(()) }
}
