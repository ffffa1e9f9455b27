//! The deletion of what the queue has kept for long enough, in small steps, so that no request waits long.
//!
//! A clock that is wrong for a while neither deletes too much ([`PrudentClock`]) nor keeps rows for longer than the
//! retention: rows with a time in the future get the current one.

use std::time::Duration;

use jiff::Timestamp;

use super::queue_file::QueueFile;
use crate::clock::{Clock, PrudentClock};

/// The maximum number of rows that one step changes while requests wait.
const MAX_ROWS: u32 = 500;
/// The maximum number of pages that one step returns to the file system.
const MAX_PAGES: u32 = 1024;

/// The cleanup of one queue.
#[derive(Debug)]
pub(super) struct Cleanup {
    clock: Clock,
    retention: Duration,
    /// `None` before the first step.
    deletion_clock: Option<PrudentClock>,
}

impl Cleanup {
    pub(super) fn new(clock: Clock, retention: Duration) -> Self {
        Self { clock, retention, deletion_clock: None }
    }

    /// Makes one step. Returns true if there is more to do.
    pub(super) fn step(&mut self, file: &QueueFile) -> rusqlite::Result<bool> {
        let now = self.clock.now();
        let deletion_clock = match &mut self.deletion_clock {
            Some(clock) => clock,
            none => {
                let newest = newest_time(file)?.unwrap_or(now);
                none.insert(PrudentClock::new(self.clock.clone(), newest))
            }
        };
        let oldest = deletion_clock.now().saturating_sub(self.retention).unwrap_or(Timestamp::MIN);
        file.begin()?;
        let more = redate_future(file, now.as_millisecond())
            .and_then(|future| Ok(delete_older(file, oldest.as_millisecond())? || future))
            .and_then(|more| file.commit().map(|()| more));
        if more.is_err() {
            file.roll_back()?;
        }
        Ok(more? || shrink(file)?)
    }
}

/// Returns the latest time at which a message ended, if there is one.
fn newest_time(file: &QueueFile) -> rusqlite::Result<Option<Timestamp>> {
    let newest = "SELECT max(ended_at) FROM messages INDEXED BY messages_ended WHERE ended_at IS NOT NULL";
    let newest: Option<i64> = file.connection.query_row(newest, [], |row| row.get(0))?;
    Ok(newest.and_then(|ms| Timestamp::from_millisecond(ms).ok()))
}

/// Dates rows that were written while the clock was ahead with the current time. Returns true if there may be more.
fn redate_future(file: &QueueFile, now: i64) -> rusqlite::Result<bool> {
    let messages = file.execute(
        "UPDATE messages SET ended_at = ?1 WHERE seq IN (
             SELECT seq FROM messages INDEXED BY messages_ended WHERE ended_at IS NOT NULL AND ended_at > ?1 LIMIT ?2
         )",
        (now, MAX_ROWS),
    )?;
    let announcements = file.execute(
        "UPDATE announcements SET stored_at = ?1 WHERE seq IN (
             SELECT seq FROM announcements WHERE stored_at > ?1 LIMIT ?2
         )",
        (now, MAX_ROWS),
    )?;
    file.execute("UPDATE remembered SET at = ?1 WHERE at > ?1", [now])?;
    Ok(messages.max(announcements) == MAX_ROWS as usize)
}

/// Deletes rows that are older than `oldest`. Returns true if there may be more.
fn delete_older(file: &QueueFile, oldest: i64) -> rusqlite::Result<bool> {
    let old = "SELECT seq FROM messages INDEXED BY messages_ended
               WHERE ended_at IS NOT NULL AND ended_at < ?1 ORDER BY ended_at, seq LIMIT ?2";
    file.execute(&format!("DELETE FROM bodies WHERE seq IN ({old})"), (oldest, MAX_ROWS))?;
    let messages = file.execute(&format!("DELETE FROM messages WHERE seq IN ({old})"), (oldest, MAX_ROWS))?;
    let announcements = file.execute(
        "DELETE FROM announcements WHERE seq IN (
             SELECT seq FROM announcements WHERE stored_at < ?1 ORDER BY stored_at LIMIT ?2
         )",
        (oldest, MAX_ROWS),
    )?;
    file.execute("DELETE FROM remembered WHERE at < ?1", [oldest])?;
    Ok(messages.max(announcements) == MAX_ROWS as usize)
}

/// Returns unused pages to the file system if there are many. Returns true if it did. Must run outside of a transaction.
fn shrink(file: &QueueFile) -> rusqlite::Result<bool> {
    let count = |name| file.connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (unused, all) = (count("freelist_count")?, count("page_count")?);
    if unused < MAX_PAGES || unused < all / 4 {
        return Ok(false);
    }
    file.connection.execute_batch(&format!("PRAGMA incremental_vacuum({MAX_PAGES})"))?;
    // A file that was restored from a backup may not support it.
    Ok(count("freelist_count")? < unused)
}
