//! The reserve of a file and its disk, which is kept for taking messages out when no more of them fit.
//!
//! A lease and a settlement grow indexes, so a file or a disk that messages had filled completely could not be emptied.

use std::path::Path;

use bytesize::ByteSize;
use rusqlite::Connection;
use thiserror::Error;

use crate::disk;

/// The part of the maximum size that is kept: one of this number.
const RESERVED_PART: u64 = 32;
/// The bytes of the disk that are kept: the write-ahead log may grow to 4 MiB, and the file by its content.
const DISK_RESERVE: u64 = 8 << 20;
/// The largest part of a small disk that is kept: one of this number.
const MAX_DISK_RESERVED_PART: u64 = 4;

/// A new message is refused, although SQLite could still store it: only the reserve is left.
#[derive(Debug, Error)]
pub(super) enum ReserveError {
    /// The file has reached its maximum size.
    #[error(
        "its file has reached its maximum size, {}; it empties when the broker takes messages again, or raise \
         spool.max_bytes", ByteSize(*.max_bytes)
    )]
    Maximum { max_bytes: u64 },
    /// The disk is nearly full.
    #[error(
        "cannot write the queue file: only {} are free, and {} of them are reserved for taking messages out; free space \
         on its disk", ByteSize(*.free), ByteSize(*.reserved)
    )]
    Disk { free: u64, reserved: u64 },
}

impl From<ReserveError> for rusqlite::Error {
    fn from(why: ReserveError) -> Self {
        Self::ToSqlConversionFailure(Box::new(why))
    }
}

/// Fails if the pages in use leave only the reserve of the maximum size. Called after an insertion, which is rolled back
/// then. All other changes may go beyond, so that the file can be emptied.
pub(super) fn check_size(connection: &Connection, max_bytes: Option<u64>) -> rusqlite::Result<()> {
    let Some(max_bytes) = max_bytes else { return Ok(()) };
    let pragma = |sql| connection.prepare_cached(sql)?.query_row([], |row| row.get::<_, u64>(0));
    let pages = pragma("PRAGMA page_count")?.saturating_sub(pragma("PRAGMA freelist_count")?);
    if pages * pragma("PRAGMA page_size")? > max_bytes - max_bytes / RESERVED_PART {
        return Err(ReserveError::Maximum { max_bytes }.into());
    }
    Ok(())
}

/// Fails if only the reserve is free on the disk of the file at `path`.
pub(super) fn check_disk(path: &Path) -> Result<(), ReserveError> {
    let Some(usage) = disk::usage(path) else { return Ok(()) };
    let reserved = DISK_RESERVE.min(usage.total_bytes / MAX_DISK_RESERVED_PART);
    let free = usage.free_bytes;
    if free < reserved { Err(ReserveError::Disk { free, reserved }) } else { Ok(()) }
}
