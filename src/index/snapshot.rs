//! The rows of a day as they are in the files, and the comparison with the archive.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::TryStreamExt;
use jiff::Timestamp;

use super::{
    Index, IndexError,
    day::{Plan, Scope, Target},
    files::{Files, blocking},
    table::{CallsSummary, Stamp, TableError, TurnsSummary, read_calls, read_turns},
    verify::IndexFindingKind,
};
use crate::archive::{ErasedConversations, ProjectDay, encode_path_segment};

/// The part of a row that shows if the conversation has changed since.
#[derive(Clone, Debug)]
pub(super) struct IndexedRow {
    /// The id, if it is not the name of the folder.
    id: Option<Box<str>>,
    /// The time at which the manifest was written. `None`: the row is wrong.
    pub(super) stored_at: Option<Timestamp>,
    /// The reason why the row is wrong.
    pub(super) fault: Option<IndexFindingKind>,
    pub(super) manifest_sha256: [u8; 32],
}

/// The rows of the calls by the names of their folders, and the erasures, which were read later than the files.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    pub(super) rows: HashMap<String, IndexedRow>,
    pub(super) erased: ErasedConversations,
    /// The ids of turns without a call.
    pub(super) orphans: Vec<String>,
    /// True if the files cannot be continued, so that every row is written again.
    pub(super) is_rebuild: bool,
}

impl Snapshot {
    /// Reads the files of a day, and then the erasures.
    pub(super) async fn load(
        index: &Index,
        day: &ProjectDay,
        must_rebuild: bool,
    ) -> Result<(Files, Self), IndexError> {
        let mut files = Files::read(index, day).await?;
        let erased = index.archive.erased_conversations().await;
        let erased = erased.map_err(|error| IndexError::archive(day, error))?;
        let mut snapshot = Self { erased, is_rebuild: must_rebuild, ..Self::default() };
        if files.calls.is_some() != files.turns.is_some() {
            // A person or a crash has left one of them.
            snapshot.is_rebuild = true;
        }
        if let (Some(calls), Some(turns), false) = (&files.calls, &files.turns, snapshot.is_rebuild) {
            match read_rows(calls, turns).await {
                Ok(read) if read.stamps.iter().all(|stamp| *stamp == index.stamp) => {
                    (snapshot.rows, snapshot.orphans) = (read.rows, read.orphans);
                }
                Ok(_) => snapshot.is_rebuild = true,
                Err(error) => {
                    tracing::warn!(%error, index.day = day.folder(), "a file of the index is built again");
                    snapshot.is_rebuild = true;
                }
            }
        }
        if snapshot.is_rebuild {
            (files.calls, files.turns) = (None, None);
        }
        Ok((files, snapshot))
    }

    /// Lists what differs from the archive. In a rebuild, that is everything.
    pub(super) async fn plan(
        &self,
        index: &Index,
        day: &ProjectDay,
        files: &Files,
        scope: &Scope,
    ) -> Result<Plan, IndexError> {
        match scope {
            // Without files, nothing would add the other conversations of the day later.
            Scope::Folders(names) if !self.is_rebuild && !files.are_missing() => {
                let targets = names.iter().map(|name| Target { name: name.clone(), stored_at: None });
                Ok(Plan { targets: targets.collect(), removed: HashSet::new() })
            }
            _ => self.compare_all(index, day).await,
        }
    }

    async fn compare_all(&self, index: &Index, day: &ProjectDay) -> Result<Plan, IndexError> {
        let (mut targets, mut archived) = (Vec::new(), HashSet::new());
        let mut folders = std::pin::pin!(index.archive.list_folders(day));
        while let Some(folder) = folders.try_next().await.map_err(|error| IndexError::archive(day, error))? {
            let Some(stored_at) = folder.archived_at else { continue };
            let row = self.rows.get(&folder.name);
            if row.is_none_or(|row| row.stored_at != Some(stored_at)) {
                targets.push(Target { name: folder.name.clone(), stored_at: Some(stored_at) });
            }
            if row.is_some() {
                archived.insert(folder.name);
            }
        }
        let extra = self.rows.iter().filter(|(name, _)| !archived.contains(*name));
        let mut removed: HashSet<_> = extra.map(|(name, row)| row.id(name).to_owned()).collect();
        // Another process may be about to write the calls of these turns. They are replaced when the conversation is read.
        let read_later: HashSet<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        let is_left = |id: &&String| !read_later.contains(encode_path_segment(id).as_str());
        removed.extend(self.orphans.iter().filter(is_left).cloned());
        Ok(Plan { targets, removed })
    }

    /// Returns the id of the row of the conversation in this folder.
    pub(super) fn id_of<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.rows.get(name).map(|row| row.id(name))
    }

    /// Returns the number of rows with these ids.
    pub(super) fn count(&self, ids: &HashSet<String>) -> usize {
        if ids.is_empty() {
            return 0;
        }
        self.rows.iter().filter(|(name, row)| ids.contains(row.id(name))).count()
    }
}

impl IndexedRow {
    fn mark_as_duplicate(&mut self) {
        (self.stored_at, self.fault) = (None, Some(IndexFindingKind::Duplicate));
    }

    /// Returns the id of the conversation in the folder `name`.
    pub(super) fn id<'a>(&'a self, name: &'a str) -> &'a str {
        self.id.as_deref().unwrap_or(name)
    }
}

/// What both files say about the rows of a day.
#[derive(Debug)]
pub(super) struct ReadRows {
    pub(super) stamps: [Stamp; 2],
    pub(super) calls: usize,
    pub(super) turns: u64,
    /// The rows of the calls by the names of their folders.
    pub(super) rows: HashMap<String, IndexedRow>,
    /// The ids of turns without a call.
    pub(super) orphans: Vec<String>,
}

/// Reads both files of a day. They are written one after the other, so the number of turns of each call is compared.
pub(super) async fn read_rows(calls: &Bytes, turns: &Bytes) -> Result<ReadRows, TableError> {
    let (calls, turns) = (calls.clone(), turns.clone());
    blocking(move || Ok(index_rows(read_calls(&calls)?, read_turns(&turns)?))).await
}

fn index_rows(calls: CallsSummary, turns: TurnsSummary) -> ReadRows {
    let TurnsSummary { stamp: turns_stamp, rows: mut turn_rows } = turns;
    let stamps = [calls.stamp, turns_stamp];
    let turns = turn_rows.values().sum::<i64>().unsigned_abs();
    let call_count = calls.calls.len();
    let mut rows = HashMap::with_capacity(call_count);
    for call in calls.calls {
        let mut hash = [0; 32];
        // A hash that cannot be read equals no manifest's.
        let _ = hex::decode_to_slice(&call.manifest_sha256, &mut hash);
        let has_other_turns = turn_rows.remove(&call.conversation_id).unwrap_or_default() != call.turn_rows;
        let name = encode_path_segment(&call.conversation_id);
        let id = (name != call.conversation_id).then(|| call.conversation_id.into_boxed_str());
        let row = IndexedRow {
            id,
            stored_at: Some(call.stored_at).filter(|_| !has_other_turns),
            fault: has_other_turns.then_some(IndexFindingKind::OtherTurns),
            manifest_sha256: hash,
        };
        rows.entry(name).and_modify(IndexedRow::mark_as_duplicate).or_insert(row);
    }
    ReadRows { stamps, calls: call_count, turns, rows, orphans: turn_rows.into_keys().collect() }
}
