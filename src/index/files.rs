//! The files of a day in memory: how they are read, changed and replaced.
//!
//! The rows of each batch become a small pair of files. At the end of the round all of them are put together with the files of
//! the archive. So each row is written twice, and memory does not hold rows, which are many times larger.

use std::{
    collections::HashSet,
    sync::{Arc, LazyLock},
};

use bytes::Bytes;

use super::{
    CALLS_FOLDER, Index, IndexError, TURNS_FOLDER,
    conversation::{Numbers, read_rows},
    reading::ConversationCopy,
    rows::{CallRow, TurnRow},
    table::{TableError, merge_calls, merge_turns, write_calls, write_turns},
    thread::WorkThread,
};
use crate::archive::{DerivedObject, DerivedVersion, ProjectDay};

/// The number of files of batches that are put together.
const MAX_NEW_FILES: usize = 16;

/// The files of a day in memory, and the versions that they replace.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) calls: Option<Bytes>,
    pub(super) turns: Option<Bytes>,
    calls_version: Option<DerivedVersion>,
    turns_version: Option<DerivedVersion>,
    /// The files of the batches of this round.
    new_calls: Vec<Bytes>,
    new_turns: Vec<Bytes>,
    /// The ids whose rows are not taken from the files of the archive.
    changed: HashSet<String>,
    /// True if the files in memory differ from those of the archive.
    pub(super) is_changed: bool,
}

impl Files {
    /// Reads both files.
    pub(super) async fn read(index: &Index, day: &ProjectDay) -> Result<Self, IndexError> {
        let (turns, turns_version) = read_file(index, day, &turns_key(day)).await?;
        let (calls, calls_version) = read_file(index, day, &calls_key(day)).await?;
        Ok(Self { calls, turns, calls_version, turns_version, ..Self::default() })
    }

    pub(super) fn are_missing(&self) -> bool {
        self.calls.is_none() && self.turns.is_none()
    }

    /// Notes that the earlier rows of some conversations are removed.
    pub(super) fn remove(&mut self, ids: impl IntoIterator<Item = String>) {
        self.changed.extend(ids);
    }

    /// Adds the rows of conversations to those of the round.
    pub(super) async fn add(
        &mut self,
        index: &Index,
        day: &ProjectDay,
        copies: Vec<ConversationCopy>,
    ) -> Result<(), IndexError> {
        if copies.is_empty() {
            return Ok(());
        }
        self.remove(copies.iter().map(|copy| copy.stored.manifest.conversation_id.clone()));
        let (stamp, numbers, max_turns) =
            (index.stamp.clone(), Arc::clone(&index.numbers), index.limits.batch_turns);
        // Rows are made and removed in one thread, because the allocator keeps memory for each.
        let write = move || {
            let mut copies = copies.into_iter();
            let mut files = Vec::new();
            while copies.len() > 0 {
                let (calls, turns) = next_rows(&mut copies, &numbers, max_turns);
                files.push((write_calls(&stamp, &calls)?, write_turns(&stamp, &turns)?));
            }
            Ok::<_, TableError>(files)
        };
        for (calls, turns) in blocking(write).await.map_err(|error| IndexError::table(day, &error))? {
            self.new_calls.push(calls.into());
            self.new_turns.push(turns.into());
        }
        if self.new_calls.len() < MAX_NEW_FILES {
            return Ok(());
        }
        // One file takes much less memory than many small ones.
        let (calls, turns) = self.merge_new(index, day, None, None, HashSet::new()).await?;
        (self.new_calls, self.new_turns) = (vec![calls], vec![turns]);
        Ok(())
    }

    /// Puts the rows of the round into the files. Missing files are made, even without rows.
    pub(super) async fn finish_round(&mut self, index: &Index, day: &ProjectDay) -> Result<(), IndexError> {
        if self.changed.is_empty() && !self.are_missing() {
            return Ok(());
        }
        let (calls, turns) = (self.calls.take(), self.turns.take());
        let changed = std::mem::take(&mut self.changed);
        let (calls, turns) = self.merge_new(index, day, calls, turns, changed).await?;
        (self.calls, self.turns) = (Some(calls), Some(turns));
        self.is_changed = true;
        Ok(())
    }

    /// Returns the rows of the files of this round, and those of `calls` and `turns` that are not of a `changed`
    /// conversation.
    async fn merge_new(
        &mut self,
        index: &Index,
        day: &ProjectDay,
        calls: Option<Bytes>,
        turns: Option<Bytes>,
        changed: HashSet<String>,
    ) -> Result<(Bytes, Bytes), IndexError> {
        let (new_calls, new_turns) =
            (std::mem::take(&mut self.new_calls), std::mem::take(&mut self.new_turns));
        let stamp = index.stamp.clone();
        let merge = move || {
            let is_changed = |id: &str| changed.contains(id);
            let turns = merge_turns(turns, new_turns, &stamp, &is_changed)?;
            Ok::<_, TableError>((merge_calls(calls, new_calls, &stamp, &is_changed)?.into(), turns.into()))
        };
        blocking(merge).await.map_err(|error| IndexError::table(day, &error))
    }

    /// Replaces both files in the archive. Returns false if another writer has replaced one of them.
    pub(super) async fn replace(&self, index: &Index, day: &ProjectDay) -> Result<bool, IndexError> {
        let replace = async |key: String, version: Option<&DerivedVersion>, file: Option<&Bytes>| {
            let content = file.cloned().unwrap_or_default();
            let replaced = index.archive.replace_derived(&key, version, content).await;
            replaced.map_err(|error| IndexError::archive(day, error))
        };
        Ok(replace(turns_key(day), self.turns_version.as_ref(), self.turns.as_ref()).await?
            && replace(calls_key(day), self.calls_version.as_ref(), self.calls.as_ref()).await?)
    }
}

async fn read_file(
    index: &Index,
    day: &ProjectDay,
    key: &str,
) -> Result<(Option<Bytes>, Option<DerivedVersion>), IndexError> {
    let found = index.archive.read_derived(key).await.map_err(|error| IndexError::archive(day, error))?;
    Ok(found.map(|DerivedObject { bytes, version }| (bytes, version)).unzip())
}

/// Returns the rows of the next conversations, until there are at least `max_turns` rows of turns.
pub(super) fn next_rows(
    copies: &mut impl Iterator<Item = ConversationCopy>,
    numbers: &Numbers,
    max_turns: usize,
) -> (Vec<CallRow>, Vec<TurnRow>) {
    let (mut calls, mut turns) = (Vec::new(), Vec::new());
    for ConversationCopy { stored, conversation } in copies {
        let rows = read_rows(&stored, &conversation, numbers);
        calls.push(rows.call);
        turns.extend(rows.turns);
        if turns.len() >= max_turns {
            break;
        }
    }
    (calls, turns)
}

pub(super) fn calls_key(day: &ProjectDay) -> String {
    format!("{}/{}/calls.parquet", CALLS_FOLDER, day.folder())
}

pub(super) fn turns_key(day: &ProjectDay) -> String {
    format!("{}/{}/turns.parquet", TURNS_FOLDER, day.folder())
}

/// Runs work on the rows of a day, which would block other tasks for too long. One thread does all of it.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    static THREAD: LazyLock<WorkThread> = LazyLock::new(WorkThread::default);
    THREAD.run(work).await
}
