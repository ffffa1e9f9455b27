//! The search in one row group. Takes CPU time.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use super::{
    CallFilter, Phrase,
    cursor::short_hash,
    filter::{ID, STARTED_AT},
    rows::{MAX_TEXT_BYTES, NewestCalls, RowPlace, SearchProject, Speaker, TurnText},
};
use crate::index::table::{RowGroup, TableError};

const NUMBER: &str = "number";
/// The columns of a turn with texts, in the order of a hit, each with its speaker and true for a translation.
const TEXTS: [(&str, Speaker, bool); 4] = [
    ("user_input", Speaker::Caller, false),
    ("agent_response", Speaker::Agent, false),
    ("translated_user_input", Speaker::Caller, true),
    ("english_agent_response", Speaker::Agent, true),
];
/// The columns of a search for a phrase.
pub(super) const TURN_COLUMNS: &[&str] =
    &[ID, NUMBER, "user_input", "agent_response", "translated_user_input", "english_agent_response"];

/// Calls `on_match` with the row, the start and the id of each call that matches the filter, without regard to its text.
pub(super) fn match_calls(
    group: &RowGroup,
    filter: &CallFilter,
    mut on_match: impl FnMut(usize, i64, &str),
) -> Result<(), TableError> {
    let (ids, times) = (group.texts(ID)?, group.int64s(STARTED_AT)?);
    let matches = filter.matches(group, &ids)?;
    for (row, ((id, started_at), matches)) in ids.iter().zip(times).zip(matches).enumerate() {
        if let (Some(id), true) = (id, matches) {
            if id.len() > MAX_TEXT_BYTES {
                return Err(TableError::Damaged("it has an id of impossible length".to_owned()));
            }
            on_match(row, started_at, id);
        }
    }
    Ok(())
}

/// The calls of a day that match a filter without regard to its text.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    hasher: RandomState,
    /// By the hash of the project and the id. Two calls with one hash are as rare as a damaged file, and show the wrong turn.
    calls: HashMap<u64, (i64, RowPlace)>,
    pub(super) oldest: Option<i64>,
    pub(super) newest: Option<i64>,
}

impl Candidates {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(super) fn add(&mut self, project: &SearchProject, id: &str, started_at: i64, place: RowPlace) {
        self.calls.insert(self.hasher.hash_one((project, id)), (started_at, place));
        self.oldest = Some(self.oldest.map_or(started_at, |oldest| oldest.min(started_at)));
        self.newest = self.newest.max(Some(started_at));
    }

    fn get(&self, project: &SearchProject, id: &str) -> Option<(i64, RowPlace)> {
        self.calls.get(&self.hasher.hash_one((project, id))).copied()
    }
}

/// The calls at the ends of row groups, whose turns may continue in other ones. A call is found in one part of a day only.
#[derive(Debug, Default)]
pub(super) struct EdgeCalls {
    /// Those that were found in earlier parts.
    pub(super) seen: BTreeSet<String>,
    /// Those with a hit in this part.
    pub(super) found: BTreeSet<String>,
}

impl EdgeCalls {
    /// Notes a call, and returns true if an earlier part has it.
    fn is_seen(&mut self, project: &SearchProject, id: &str) -> bool {
        let hash = short_hash(project, id);
        let is_seen = self.seen.contains(&hash);
        if !is_seen {
            self.found.insert(hash);
        }
        is_seen
    }
}

/// Adds the candidates that have the phrase in a turn of this row group.
pub(super) fn match_turns(
    group: &RowGroup,
    project: &Arc<SearchProject>,
    phrase: &Phrase,
    candidates: &Candidates,
    newest: &mut NewestCalls,
    edges: &mut EdgeCalls,
) -> Result<(), TableError> {
    let mut ids_and_numbers = None;
    for (column, speaker, is_translation) in TEXTS {
        let texts = group.texts(column)?;
        let hits: Vec<bool> =
            texts.bytes().map(|text| text.is_some_and(|text| phrase.is_in_bytes(text))).collect();
        if !hits.contains(&true) {
            continue;
        }
        let (ids, numbers) = match ids_and_numbers.take() {
            Some(read) => read,
            None => (group.texts(ID)?, group.int32s(NUMBER)?),
        };
        let (first, last) = (ids.iter().next().flatten(), ids.iter().last().flatten());
        for (((id, turn), text), is_hit) in ids.bytes().zip(&numbers).zip(texts.bytes()).zip(hits) {
            let (Some(id), Some(text), true) = (id, text, is_hit) else { continue };
            let (Ok(id), Ok(text)) = (str::from_utf8(id), str::from_utf8(text)) else { continue };
            // The call does not match the filter, or another process has just added these turns.
            let Some((started_at, place)) = candidates.get(project, id) else { continue };
            if (Some(id) == first || Some(id) == last) && edges.is_seen(project, id) {
                continue;
            }
            let text = TurnText { turn: *turn, speaker, is_translation, text, phrase };
            newest.add(started_at, id, project, place, Some(text));
        }
        ids_and_numbers = Some((ids, numbers));
    }
    Ok(())
}
