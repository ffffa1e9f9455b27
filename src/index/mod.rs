//! The index: Parquet tables of calls and turns beside the archive, for people who ask questions about thousands of calls.
//!
//! ```text
//! index/calls/account_id=<a>/project_id=<p>/date=<YYYY-MM-DD>/calls.parquet     one row per conversation
//! index/turns/account_id=<a>/project_id=<p>/date=<YYYY-MM-DD>/turns.parquet     one row per turn
//! ```
//! The index is derived from the archive. It can be removed at any time and is built again from nothing.
//!
//! * A worker notes each conversation that it archives ([`Archive::note_change`]). One of all processes that share the archive
//!   adds noted conversations to the files of their days ([`IndexService`]), and removes the notes afterwards.
//! * It also compares each day with the archive when the day is over, and days that have no files: newest first, a
//!   few at a time (`progress.rs`).
//! * Files are replaced as a whole, under the condition that no other process has replaced them (`day.rs`). So a reader finds
//!   the old file or the new one, and the service, `index build` and `erase` lose no row of each other.
//! * A conversation that cannot be read is reported and left out. The others are indexed.
//!
//! Memory: the old and the new files of one day, about 100 bytes for each of its conversations, and one batch of rows.

mod config;
mod conversation;
mod day;
mod files;
mod progress;
mod reading;
mod rows;
mod search;
mod service;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod thread;
mod verify;

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use jiff::civil::Date;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use self::{
    day::{Limits, MAX_CONFLICTS, Scope, backoff},
    files::{Files, blocking},
    progress::PROGRESS_OBJECT,
    search::SearchState,
    table::{Stamp, TableError, read_calls, read_turns, remove_rows},
};
use crate::{
    archive::{Archive, ArchiveError, ProjectDay},
    clock::Clock,
    problem::Problem,
};

pub use self::{
    config::{IndexConfig, NumberMode},
    conversation::{Numbers, read_rows},
    day::{DayUpdate, UpdateProgress},
    progress::LastIndexPass,
    reading::UnreadableConversation,
    rows::{CallRow, ConversationRows, TurnRow},
    search::{
        CallFilter, Excerpt, FoundCall, Phrase, SearchEnd, SearchError, SearchPage, SearchProject, Speaker,
        TextHit, UnindexedDays, UnreadableDay,
    },
    service::{IndexPassReport, IndexService},
    verify::{DayFindings, IndexFinding, IndexFindingKind},
};

/// The folders of the tables below the archive's root.
const CALLS_FOLDER: &str = "index/calls";
const TURNS_FOLDER: &str = "index/turns";

/// The index of an archive. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Index {
    archive: Archive,
    numbers: Arc<Numbers>,
    stamp: Stamp,
    is_enabled: bool,
    limits: Limits,
    search: SearchState,
    clock: Clock,
}

/// The index of a day cannot be read or updated. The earlier files stay as they are.
#[derive(Debug, Error)]
pub enum IndexError {
    /// The archive cannot be read or written.
    #[error("the index of {} cannot be updated: {source}", day.folder())]
    Archive {
        /// The day.
        day: ProjectDay,
        /// The reason.
        source: ArchiveError,
    },
    /// The changes or the days cannot be listed.
    #[error("the archive cannot be listed: {source}")]
    Listing {
        /// The reason.
        source: ArchiveError,
    },
    /// Other writers were faster again and again.
    #[error(
        "the index of {} was replaced by other processes {attempts} times in a row; let one `polyhook index build` run at a time, and run it again",
        day.folder()
    )]
    Contended {
        /// The day.
        day: ProjectDay,
        /// The number of attempts.
        attempts: usize,
    },
    /// A file cannot be read or made.
    #[error("the index of {}: {reason}", day.folder())]
    Table {
        /// The day.
        day: ProjectDay,
        /// The reason.
        reason: String,
    },
}

impl IndexError {
    fn archive(day: &ProjectDay, source: ArchiveError) -> Self {
        Self::Archive { day: day.clone(), source }
    }

    fn table(day: &ProjectDay, error: &TableError) -> Self {
        Self::Table { day: day.clone(), reason: error.to_string() }
    }

    fn contended(day: &ProjectDay) -> Self {
        Self::Contended { day: day.clone(), attempts: MAX_CONFLICTS }
    }

    fn listing(source: ArchiveError) -> Self {
        Self::Listing { source }
    }
}

impl Index {
    /// Opens the index of an archive. Sends no request.
    ///
    /// # Errors
    ///
    /// The configuration is not valid.
    pub fn open(config: &IndexConfig, archive: Archive, clock: Clock) -> Result<Self, Problem> {
        let numbers = Arc::new(Numbers::new(config)?);
        let stamp = Stamp::new(numbers.mode(), numbers.key_id());
        let limits = if archive.is_folder() { Limits::FOLDER } else { Limits::DEFAULT };
        let (is_enabled, search) = (config.enabled, SearchState::default());
        Ok(Self { archive, numbers, stamp, is_enabled, limits, search, clock })
    }

    /// Returns false if polyhook does not keep the index current.
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// Lists the days of a project that the archive or the index has.
    pub async fn list_dates(
        &self,
        account_id: &str,
        project_id: &str,
    ) -> Result<BTreeSet<Date>, ArchiveError> {
        let mut dates = self.archive.list_dates(account_id, project_id).await?;
        dates.extend(self.list_indexed_dates(account_id, project_id).await?);
        Ok(dates)
    }

    async fn list_indexed_dates(
        &self,
        account_id: &str,
        project_id: &str,
    ) -> Result<BTreeSet<Date>, ArchiveError> {
        self.archive.list_derived_dates(CALLS_FOLDER, account_id, project_id).await
    }

    /// Compares a day with the archive and updates what differs. What is up to date is not read again, so an interrupted check
    /// continues where it was. After `deadline` it stops with what is done by then.
    pub async fn check_day(
        &self,
        day: &ProjectDay,
        deadline: Option<Instant>,
        mut on_progress: impl FnMut(UpdateProgress) + Send,
    ) -> Result<DayUpdate, IndexError> {
        self.update(day, Scope::All, deadline, &mut on_progress).await
    }

    /// Updates the rows of the conversations in the folders with these names.
    async fn update_folders(&self, day: &ProjectDay, names: Vec<String>) -> Result<DayUpdate, IndexError> {
        self.update(day, Scope::Folders(names), None, &mut |_| ()).await
    }

    /// Returns true if an error is not only that of one day: the archive cannot be read at all.
    pub async fn is_archive_unreachable(&self, error: &IndexError) -> bool {
        match error {
            IndexError::Listing { .. } => true,
            IndexError::Archive { .. } => self.archive.read_private(PROGRESS_OBJECT).await.is_err(),
            IndexError::Contended { .. } | IndexError::Table { .. } => false,
        }
    }

    /// Finds the days with rows of a conversation of which the archive has nothing. Reads the files of all days of the
    /// project. A file that cannot be read may have such rows.
    pub async fn find_dates(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<BTreeSet<Date>, IndexError> {
        let mut found = BTreeSet::new();
        for table in [CALLS_FOLDER, TURNS_FOLDER] {
            let dates = self.archive.list_derived_dates(table, account_id, project_id).await;
            for date in dates.map_err(IndexError::listing)? {
                let files = Files::read(self, &ProjectDay::new(account_id, project_id, date)).await?;
                let id = conversation_id.to_owned();
                let rows =
                    blocking(move || count_rows(files.calls.as_ref(), files.turns.as_ref(), &id)).await;
                if !rows.is_ok_and(|rows| rows == 0) {
                    found.insert(date);
                }
            }
        }
        Ok(found)
    }

    /// Counts the rows of a conversation in both tables on some days.
    pub async fn count_rows(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
        dates: &BTreeSet<Date>,
    ) -> Result<u64, IndexError> {
        let mut rows = 0;
        for date in dates {
            let day = ProjectDay::new(account_id, project_id, *date);
            let files = Files::read(self, &day).await?;
            let id = conversation_id.to_owned();
            let counted = blocking(move || count_rows(files.calls.as_ref(), files.turns.as_ref(), &id)).await;
            rows += counted.map_err(|error| IndexError::table(&day, &error))?;
        }
        Ok(rows)
    }

    /// Removes the rows of an erased conversation from some days, and returns their number. The erasure must be recorded. The
    /// files are replaced even if they lack the conversation, and created if the index is enabled, so that the write of a
    /// process that does not know the record fails.
    pub async fn remove_conversation(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
        dates: &BTreeSet<Date>,
    ) -> Result<u64, IndexError> {
        let mut rows = 0;
        for date in dates {
            let day = ProjectDay::new(account_id, project_id, *date);
            rows += self.remove_from_day(&day, conversation_id).await?;
        }
        Ok(rows)
    }

    async fn remove_from_day(&self, day: &ProjectDay, conversation_id: &str) -> Result<u64, IndexError> {
        let (mut pauses, mut rows) = (backoff(), 0);
        loop {
            let mut files = Files::read(self, day).await?;
            if files.are_missing() && !self.is_enabled {
                return Ok(0);
            }
            if files.calls.is_none() || files.turns.is_none() {
                // A new file without the other rows of the day would look complete.
                return self.update(day, Scope::All, None, &mut |_| ()).await.map(|_| rows);
            }
            let id = conversation_id.to_owned();
            let (calls, turns) = (files.calls.take(), files.turns.take());
            let removed = blocking(move || {
                let count = count_rows(calls.as_ref(), turns.as_ref(), &id)?;
                let is_removed = |row: &str| row == id;
                let remove =
                    |file: Option<Bytes>| file.map(|file| remove_rows(&file, &is_removed)).transpose();
                let turns = remove(turns)?;
                Ok::<_, TableError>((remove(calls)?, turns, count))
            });
            match removed.await {
                Ok((calls, turns, count)) => {
                    (files.calls, files.turns) = (calls.map(Bytes::from), turns.map(Bytes::from));
                    // An attempt that met a conflict may have replaced one of the files.
                    rows = count.max(rows);
                }
                // A file is damaged, and the conversation may be in it.
                Err(error) => {
                    tracing::warn!(%error, index.day = day.folder(), "a file of the index is built again");
                    return self.update(day, Scope::All, None, &mut |_| ()).await.map(|_| rows);
                }
            }
            if files.replace(self, day).await? {
                return Ok(rows);
            }
            sleep(pauses.next().ok_or_else(|| IndexError::contended(day))?).await;
        }
    }
}

/// Counts the rows of a conversation in both files.
fn count_rows(calls: Option<&Bytes>, turns: Option<&Bytes>, id: &str) -> Result<u64, TableError> {
    let calls = calls.map(read_calls).transpose()?;
    let turns = turns.map(read_turns).transpose()?;
    let calls = calls.into_iter().flat_map(|summary| summary.calls).filter(|call| call.conversation_id == id);
    let turns = turns.and_then(|turns| turns.rows.get(id).copied()).unwrap_or_default();
    Ok(calls.count() as u64 + turns.unsigned_abs())
}
