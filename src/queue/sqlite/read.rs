//! Looking into the queue without standing in the writer's way: each look has a connection of its own.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::Connection;

use super::store::{lease, read_history, read_message, read_time};
use crate::queue::{Announcement, DeadLetter, Lane};

/// How much of the bodies a page of dead letters holds, and how many letters.
const PAGE_BYTES: usize = 1 << 20;
const PAGE: usize = 256;

pub(super) fn depths(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<(Lane, u64)>> {
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
    Ok(Lane::ALL
        .into_iter()
        .map(|lane| {
            let depth = match lane {
                Lane::Fetch => count("ready") + count("leased") + overdue,
                Lane::Retry => count("retry") - overdue,
                Lane::Dead => count("dead"),
                Lane::Unrouted => count("stored"),
            };
            (lane, depth)
        })
        .collect())
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
