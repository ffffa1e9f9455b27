//! Looking into the queue without standing in the writer's way: each look has a connection of its own.

use std::{collections::HashMap, path::Path, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::{
    schema,
    store::{Row, lease, read_history, read_message, read_time},
    trouble::hint,
};
use crate::{
    event::{self, CONVERSATION_ERASED, Event},
    queue::{Announcement, DeadLetter, ErasedMessages, QueueKind},
};

/// How long a look from outside waits for a locked file.
const PATIENCE: Duration = Duration::from_secs(5);

/// How much of the bodies a page of dead letters holds, and how many letters.
const PAGE_BYTES: usize = 1 << 20;
const PAGE: usize = 256;

pub(super) fn depths(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<(QueueKind, u64)>> {
    // One transaction, or a job that moves meanwhile is counted twice or not at all.
    let look = connection.unchecked_transaction()?;
    let states: HashMap<String, u64> = look
        .prepare(
            "SELECT state, count(*) FROM messages INDEXED BY messages_open WHERE state <> 'done' GROUP BY state",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let overdue: u64 = look.query_row(
        "SELECT count(*) FROM messages INDEXED BY messages_due
         WHERE due IS NOT NULL AND due <= ?1 AND state = 'retry'",
        [now.as_millisecond()],
        |row| row.get(0),
    )?;
    let count = |state| states.get(state).copied().unwrap_or(0);
    Ok(QueueKind::ALL
        .into_iter()
        .map(|lane| {
            let depth = match lane {
                QueueKind::Fetch => count("ready") + count("leased") + overdue,
                QueueKind::Retry => count("retry") - overdue,
                QueueKind::Dead => count("dead"),
                QueueKind::Unrouted => count("stored"),
            };
            (lane, depth)
        })
        .collect())
}

/// What a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileUsage {
    /// Messages that are still to be handed on.
    pub messages: u64,
    /// When the oldest of them was received.
    pub oldest: Option<Timestamp>,
    /// Bytes of the file that are in use.
    pub bytes: u64,
}

pub(super) fn usage(connection: &Connection) -> rusqlite::Result<FileUsage> {
    let look = connection.unchecked_transaction()?;
    let pragma = |name| look.pragma_query_value(None, name, |row| row.get::<_, u64>(0));
    let (mut messages, mut oldest) = (0, None);
    for state in ["ready", "leased", "retry"] {
        // By the index alone, however many there are.
        messages += look.query_row(
            "SELECT count(*) FROM messages INDEXED BY messages_open WHERE state = ?1 AND state <> 'done'",
            [state],
            |row| row.get::<_, u64>(0),
        )?;
        let first: Option<i64> = look
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

/// What the file at `path` holds, without opening it for writing; else what is wrong, in words.
pub fn read_usage(path: &Path) -> Result<FileUsage, String> {
    let looked = schema::connect_to_read(path, PATIENCE).and_then(|connection| usage(&connection));
    looked.map_err(|error| format!("{}: {error}{}", path.display(), hint(&error)))
}

/// Whether the file at `path`, which is there, can be used by a queue: it is ours, it can be written, and its pages
/// are in order as far as a look without reading every index tells. Nothing is changed. The error says what is wrong.
pub fn check_file(path: &Path) -> Result<(), String> {
    let said = |error: rusqlite::Error| format!("{error}{}", hint(&error));
    if path.metadata().is_ok_and(|file| file.len() == 0) {
        return Ok(());
    }
    let connection = schema::connect_to_read(path, PATIENCE).map_err(said)?;
    schema::recognise(&connection, path).map_err(|error| error.to_string())?;
    let problem: String =
        connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(said)?;
    if problem != "ok" {
        return Err(format!(
            "it is damaged ({problem}): move it away (polyhook begins a new one) and recover it with `sqlite3 FILE .recover`"
        ));
    }
    std::fs::OpenOptions::new().write(true).open(path).map(drop).map_err(|error| {
        format!("it cannot be written ({error}): it must belong to the user polyhook runs as")
    })
}

/// Reads the whole file at `path` and says what is wrong with it; how many messages were found in order.
///
/// Every page is checked by SQLite, and of every message that its body gives the key it was stored under.
pub fn verify(path: &Path) -> Result<u64, Vec<String>> {
    let said = |error: rusqlite::Error| vec![error.to_string()];
    let connection = schema::connect_to_read(path, PATIENCE).map_err(said)?;
    let mut problems: Vec<String> = connection
        .prepare("PRAGMA integrity_check")
        .and_then(|mut check| check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>())
        .map_err(said)?;
    problems.retain(|problem| problem != "ok");
    let mut sound = 0;
    let looked = connection
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
                    sound += 1;
                } else {
                    problems.push(format!("message {seq} is not what was stored"));
                }
            }
            Ok(())
        });
    problems.extend(looked.err().map(|error| error.to_string()));
    if problems.is_empty() { Ok(sound) } else { Err(problems) }
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

/// How many dead letters there are, and the number of the last.
pub(super) fn dead_letters_there(connection: &Connection) -> rusqlite::Result<(u64, u64)> {
    connection.query_row(
        "SELECT count(*), coalesce(max(seq), 0) FROM messages INDEXED BY messages_open
         WHERE state = 'dead' AND state <> 'done'",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// The next dead letters after the one numbered `after`, up to `until`; none once there are no more.
pub(super) fn dead_letters(
    connection: &Connection,
    after: u64,
    until: u64,
) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut statement = connection.prepare(
        "SELECT * FROM messages INDEXED BY messages_open JOIN bodies USING (seq)
         WHERE state = 'dead' AND state <> 'done' AND seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
    )?;
    let mut rows = statement.query((after, until, PAGE))?;
    let mut page = Vec::new();
    let mut bytes = 0;
    while bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let body = Bytes::from(row.get::<_, Vec<u8>>("body")?);
        bytes += body.len();
        page.push(DeadLetter {
            message: read_message(row, body)?,
            history: read_history(row)?,
            lease: lease(row.get("seq")?, row.get("claims")?),
        });
    }
    Ok(page)
}

/// What is about a conversation, and where it stands. Reads the whole file.
pub(super) fn about(
    connection: &Connection,
    conversation_id: &str,
) -> rusqlite::Result<(ErasedMessages, Vec<Row>)> {
    let distinct = event::is_distinct(conversation_id);
    let look = connection.unchecked_transaction()?;
    let (mut erased, mut found) = (ErasedMessages::default(), Vec::new());
    let mut messages =
        look.prepare("SELECT seq, state, history, body FROM messages LEFT JOIN bodies USING (seq)")?;
    let mut rows = messages.query([])?;
    while let Some(row) = rows.next()? {
        let (history, body): (Option<String>, Option<Vec<u8>>) = (row.get("history")?, row.get("body")?);
        if !body.is_some_and(|body| Event::is_about(&body, conversation_id))
            && !history.is_some_and(|history| distinct && history.contains(conversation_id))
        {
            continue;
        }
        let state: String = row.get("state")?;
        match &*state {
            "dead" => erased.dead_letters += 1,
            "stored" => erased.events += 1,
            // Only what its history tells of it is left.
            "done" => {}
            _ => erased.jobs += 1,
        }
        found.push(Row::Message(row.get("seq")?));
    }
    let mut announcements =
        look.prepare("SELECT seq FROM announcements WHERE subject = ?1 AND kind <> ?2")?;
    let mut rows = announcements.query((conversation_id, CONVERSATION_ERASED))?;
    while let Some(row) = rows.next()? {
        erased.announcements += 1;
        found.push(Row::Announcement(row.get("seq")?));
    }
    Ok((erased, found))
}

/// Writes the log back into the file at `path` and empties it; else says what was in the way until the end.
pub(super) fn empty_log(path: &Path, within: Duration) -> Result<(), String> {
    let connection = schema::connect(path, within, None).map_err(|error| error.to_string())?;
    let busy = connection
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
        .map_err(|error| error.to_string())?;
    if busy { Err("somebody is reading the file".to_owned()) } else { Ok(()) }
}
