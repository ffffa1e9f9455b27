//! The Parquet files of the index: one function call reads a whole file or makes the next one from it.
//!
//! A file consists of row groups of up to 8,000 calls or 64,000 turns, and about 8 MiB of text. An update copies the groups that do not
//! change as they are, with their statistics and page indexes, and writes the others again. So its cost is in proportion to the change,
//! apart from the copy, and its memory is the old file, the new file and a few row groups.
//!
//! All functions are synchronous and take CPU time. A damaged file is an error.

mod budget;
mod columns;
mod encode;
mod file;
mod scan;
mod schema;
mod summary;
#[cfg(test)]
mod tests;
mod update;

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use jiff::Timestamp;
use parquet::errors::ParquetError;
use thiserror::Error;

pub(crate) use self::scan::{Footer, ParsedFooter, RowGroup, TextColumn};
use self::schema::{CALLS, TURNS};
#[cfg(test)]
pub(crate) use self::tests::{calls_in_groups, turns_in_groups};
use super::{
    config::NumberMode,
    rows::{CallRow, TurnRow},
};

/// The version of the schema of both tables. A file of another version is built again from the conversations.
const SCHEMA_VERSION: u32 = 1;

/// The properties of a file that make it incompatible with rows of another configuration or version. They are in the metadata of the
/// file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    schema_version: u32,
    numbers: NumberMode,
    numbers_key: Option<String>,
}

/// A row of `calls` as far as checks of a day need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IndexedCall {
    /// PolyAI's id.
    pub(crate) conversation_id: String,
    /// The time at which the store wrote the manifest.
    pub(crate) stored_at: Timestamp,
    /// SHA-256 of the manifest, hexadecimal.
    pub(crate) manifest_sha256: String,
    /// The number of its rows in `turns`.
    pub(crate) turn_rows: i64,
}

/// The calls of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallsSummary {
    /// The file's properties.
    pub(crate) stamp: Stamp,
    /// The calls, in no order.
    pub(crate) calls: Vec<IndexedCall>,
}

/// The turns of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TurnsSummary {
    /// The file's properties.
    pub(crate) stamp: Stamp,
    /// The number of rows of each conversation.
    pub(crate) rows: HashMap<String, i64>,
}

/// An error of a file of the index.
#[derive(Debug, Error)]
pub(crate) enum TableError {
    /// The file cannot be read.
    #[error("the file of the index is damaged: {0}; `polyhook index build` replaces it")]
    Damaged(String),
    /// The file has another [`Stamp`].
    #[error(
        "the file of the index has another schema version or other phone numbers; `polyhook index build` replaces it"
    )]
    OtherStamp,
    /// The rows cannot be written.
    #[error("cannot write the file of the index: {0}")]
    Write(#[source] ParquetError),
}

/// Errors of the Parquet reader.
impl From<ParquetError> for TableError {
    fn from(error: ParquetError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// Returns a file of calls.
pub(crate) fn write_calls(stamp: &Stamp, rows: &[CallRow]) -> Result<Vec<u8>, TableError> {
    update::write(&CALLS, stamp, rows)
}

/// Returns a file of turns.
pub(crate) fn write_turns(stamp: &Stamp, rows: &[TurnRow]) -> Result<Vec<u8>, TableError> {
    update::write(&TURNS, stamp, rows)
}

/// Returns a file of calls with the rows of `old`, without those of changed conversations, and of the `new` files.
///
/// Returns [`TableError::OtherStamp`] if a file has another stamp.
pub(crate) fn merge_calls(
    old: Option<Bytes>,
    new: Vec<Bytes>,
    stamp: &Stamp,
    is_changed: &dyn Fn(&str) -> bool,
) -> Result<Vec<u8>, TableError> {
    guard(|| update::merge(&CALLS, old, new, stamp, is_changed))
}

/// Returns a file of turns, like [`merge_calls`].
pub(crate) fn merge_turns(
    old: Option<Bytes>,
    new: Vec<Bytes>,
    stamp: &Stamp,
    is_changed: &dyn Fn(&str) -> bool,
) -> Result<Vec<u8>, TableError> {
    guard(|| update::merge(&TURNS, old, new, stamp, is_changed))
}

/// Returns `old`, a file of calls or of turns of any version, without the rows of some conversations. It keeps its stamp.
pub(crate) fn remove_rows(old: &Bytes, is_removed: &dyn Fn(&str) -> bool) -> Result<Vec<u8>, TableError> {
    guard(|| update::remove(old, is_removed))
}

/// Reads the ids and the manifests of a file of calls of any version.
pub(crate) fn read_calls(file: &Bytes) -> Result<CallsSummary, TableError> {
    guard(|| summary::read_calls(file))
}

/// Counts the rows of each conversation in a file of turns of any version.
pub(crate) fn read_turns(file: &Bytes) -> Result<TurnsSummary, TableError> {
    guard(|| summary::read_turns(file))
}

/// Calls a function that reads a file. The Parquet reader panics on some files that were made to mislead it.
fn guard<T>(read: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(TableError::Damaged("the Parquet reader failed".to_owned())))
}
