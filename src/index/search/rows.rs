//! The order of calls, and the newest ones among those that were found.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};

use super::{
    Excerpt, Phrase,
    filter::{ID, STARTED_AT},
};
use crate::index::table::{RowGroup, TableError};

/// The columns of [`FoundCall`].
pub(super) const SHOWN_COLUMNS: &[&str] = &[
    ID,
    STARTED_AT,
    "environment",
    "channel",
    "direction",
    "duration_s",
    "num_turns",
    "handoff",
    "handoff_reason",
    "summary_heading",
    "from_number",
    "audio_status",
    "in_progress",
];

/// The bytes of an id that polyhook accepts, and those of a text that a page gets.
pub(super) const MAX_TEXT_BYTES: usize = 4 << 10;

/// A project of the archive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SearchProject {
    /// The account.
    pub account_id: String,
    /// The project's id.
    pub project_id: String,
}

/// The place of a call in the list: the newest first. Two calls never have the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "StoredKey", into = "StoredKey")]
pub(super) struct RowKey {
    /// The start in microseconds.
    pub(super) started_at: Reverse<i64>,
    pub(super) id: String,
    pub(super) project: Arc<SearchProject>,
}

/// The start, the id of the conversation and the project of a [`RowKey`].
#[derive(Serialize, Deserialize)]
struct StoredKey(i64, String, SearchProject);

impl From<StoredKey> for RowKey {
    fn from(StoredKey(started_at, id, project): StoredKey) -> Self {
        Self { started_at: Reverse(started_at), id, project: Arc::new(project) }
    }
}

impl From<RowKey> for StoredKey {
    fn from(key: RowKey) -> Self {
        Self(key.started_at.0, key.id, Arc::unwrap_or_clone(key.project))
    }
}

/// A call that a search has found.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundCall {
    /// The project.
    pub project: Arc<SearchProject>,
    /// PolyAI's id.
    pub conversation_id: String,
    /// The day under which the archive has it.
    pub date: Date,
    /// The start.
    pub started_at: Timestamp,
    /// Seconds of the whole call.
    pub duration_s: Option<f64>,
    /// `live`, `sandbox`, …
    pub environment: Option<String>,
    /// `VOICE-SIP`, `WEBCHAT`, …
    pub channel: Option<String>,
    /// `inbound` or `outbound`.
    pub direction: Option<String>,
    /// The number of turns that PolyAI counted.
    pub turns: i64,
    /// True if the call was handed over.
    pub handoff: bool,
    /// PolyAI's word for the reason.
    pub handoff_reason: Option<String>,
    /// The heading of PolyAI's summary.
    pub summary_heading: Option<String>,
    /// The caller's number, if the index has numbers: plain or a hash.
    pub from_number: Option<String>,
    /// `ready`, `absent`, …
    pub audio: String,
    /// True if it was fetched before the end of the call.
    pub in_progress: bool,
    /// The first turn with the phrase that was searched for.
    pub hit: Option<TextHit>,
}

/// A turn with the phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextHit {
    /// The number of the turn, from 1.
    pub turn: i32,
    /// The person who said it.
    pub speaker: Speaker,
    /// True if the phrase is in the translation of the words.
    pub is_translation: bool,
    /// A part of the text.
    pub excerpt: Excerpt,
}

/// The person who said a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The caller.
    Caller,
    /// The agent.
    Agent,
}

/// A text of a turn with the phrase.
#[derive(Clone, Copy, Debug)]
pub(super) struct TurnText<'a> {
    pub(super) turn: i32,
    pub(super) speaker: Speaker,
    pub(super) is_translation: bool,
    pub(super) text: &'a str,
    pub(super) phrase: &'a Phrase,
}

impl TurnText<'_> {
    fn hit(self) -> TextHit {
        let Self { turn, speaker, is_translation, text, phrase } = self;
        TextHit { turn, speaker, is_translation, excerpt: phrase.excerpt(text).unwrap_or_default() }
    }
}

/// The place of a row in the files of a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowPlace {
    pub(super) file: usize,
    pub(super) group: usize,
    pub(super) row: usize,
}

/// The newest calls of those that were added.
#[derive(Debug)]
pub(super) struct NewestCalls {
    calls: BTreeMap<RowKey, (RowPlace, Option<TextHit>)>,
    limit: usize,
    /// Only later places in the list are taken.
    after: Option<RowKey>,
}

impl NewestCalls {
    pub(super) fn new(limit: usize, after: Option<RowKey>) -> Self {
        Self { calls: BTreeMap::new(), limit, after }
    }

    /// Returns true if calls that began at `newest` or earlier would not be taken.
    pub(super) fn are_newer_than(&self, newest: i64) -> bool {
        self.calls.len() >= self.limit
            && self.calls.last_key_value().is_some_and(|(oldest, _)| oldest.started_at.0 > newest)
    }

    /// Adds a call if it is one of the newest. Of two hits in a call, the one in the earlier turn is kept.
    pub(super) fn add(
        &mut self,
        started_at: i64,
        id: &str,
        project: &Arc<SearchProject>,
        place: RowPlace,
        text: Option<TurnText<'_>>,
    ) {
        if self.are_newer_than(started_at) {
            return;
        }
        let key = RowKey { started_at: Reverse(started_at), id: id.to_owned(), project: Arc::clone(project) };
        if self.after.as_ref().is_some_and(|after| key <= *after) {
            return;
        }
        let is_full = self.calls.len() >= self.limit;
        let is_known = match self.calls.get(&key) {
            Some((_, Some(hit))) => text.is_none_or(|text| hit.turn <= text.turn),
            Some((_, None)) => true,
            None => is_full && self.calls.last_key_value().is_some_and(|(oldest, _)| *oldest < key),
        };
        if is_known {
            return;
        }
        let hit = text.map(TurnText::hit);
        self.calls.insert(key, (place, hit));
        if self.calls.len() > self.limit {
            self.calls.pop_last();
        }
    }

    /// Returns the calls, the newest first.
    pub(super) fn into_sorted(self) -> Vec<(RowKey, RowPlace, Option<TextHit>)> {
        self.calls.into_iter().map(|(key, (place, hit))| (key, place, hit)).collect()
    }
}

/// Reads the calls of the rows of a row group, without their hits.
pub(super) fn read_calls(
    group: &RowGroup,
    project: &Arc<SearchProject>,
    date: Date,
) -> Result<Vec<FoundCall>, TableError> {
    let texts = |column: &str| -> Result<Vec<Option<String>>, TableError> {
        let beginning = |text: &str| text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned();
        Ok(group.texts(column)?.iter().map(|text| text.map(beginning)).collect())
    };
    let (ids, times) = (texts(ID)?, group.int64s(STARTED_AT)?);
    let (environments, channels) = (texts("environment")?, texts("channel")?);
    let (directions, reasons) = (texts("direction")?, texts("handoff_reason")?);
    let (headings, numbers) = (texts("summary_heading")?, texts("from_number")?);
    let (statuses, durations) = (texts("audio_status")?, group.doubles("duration_s")?);
    let (turns, handoffs, in_progress) =
        (group.int64s("num_turns")?, group.bools("handoff")?, group.bools("in_progress")?);
    let read = |row: usize| {
        Some(FoundCall {
            project: Arc::clone(project),
            conversation_id: ids[row].clone()?,
            date,
            started_at: Timestamp::from_microsecond(*times.get(row)?).ok()?,
            duration_s: *durations.get(row)?,
            environment: environments.get(row)?.clone(),
            channel: channels.get(row)?.clone(),
            direction: directions.get(row)?.clone(),
            turns: *turns.get(row)?,
            handoff: *handoffs.get(row)?,
            handoff_reason: reasons.get(row)?.clone(),
            summary_heading: headings.get(row)?.clone(),
            from_number: numbers.get(row)?.clone(),
            audio: statuses.get(row)?.clone()?,
            in_progress: *in_progress.get(row)?,
            hit: None,
        })
    };
    let found = (0..ids.len()).map(read).collect::<Option<Vec<_>>>();
    found.ok_or_else(|| TableError::Damaged("a row has no value in a column that needs one".to_owned()))
}
