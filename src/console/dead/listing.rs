//! The content of a page of the list, built while the letters are read.

use std::{cmp::Reverse, collections::BTreeMap, ops::Range};

use jiff::Timestamp;

use super::{scan::Extent, scope::ListQuery};
use crate::{
    console::{error::PageError, mask::TextMask},
    queue::{DeadLetter, DeadLetterFilter, DeadLetterSummary},
};

/// Letters that the list of all reasons shows of one reason.
const ROWS_PER_REASON: u64 = 10;
/// Letters on a page of one reason.
pub(super) const ROWS_PER_PAGE: u64 = 50;
/// Reasons that a list tells apart. polyhook itself has about thirty; any program that can write to the queue may have more.
const MAX_REASONS: usize = 50;
/// The longest text of a row. No id of PolyAI is longer.
const MAX_TEXT_BYTES: usize = 1_000;
/// The longest reason that is told apart.
const MAX_REASON_BYTES: usize = 255;

/// A page of the list.
#[derive(Debug)]
pub(super) struct Listing {
    /// Time of the reading.
    pub(super) at: Timestamp,
    pub(super) extent: Extent,
    /// By reason, the most frequent first.
    pub(super) groups: Vec<Group>,
    /// Letters of further reasons.
    pub(super) other_reasons: u64,
}

/// The dead letters of one reason.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) reason: String,
    pub(super) count: u64,
    pub(super) oldest: Timestamp,
    pub(super) rows: Vec<Row>,
}

/// A dead letter in a list.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) since: Timestamp,
    pub(super) detail: Option<String>,
    pub(super) event_type: String,
    pub(super) conversation_id: Option<String>,
    pub(super) project_id: Option<String>,
    pub(super) environment: String,
    pub(super) tries: usize,
    pub(super) replays: usize,
}

impl Row {
    pub(super) fn new(letter: &DeadLetter, mask: TextMask) -> Self {
        let summary = DeadLetterSummary::new(letter);
        Self {
            id: summary.id.to_owned(),
            since: summary.dead_since,
            detail: summary.detail.map(|detail| bounded(&mask.apply(detail))),
            event_type: bounded(&mask.apply(summary.event_type)),
            environment: bounded(&mask.apply(summary.environment)),
            tries: summary.tries,
            replays: summary.replays,
            conversation_id: summary.conversation_id.as_deref().map(bounded),
            project_id: summary.project_id.as_deref().map(bounded),
        }
    }
}

/// Returns the first part of a text, because other programs may write messages with long ones.
fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(MAX_TEXT_BYTES)].to_owned()
}

/// Builds a [`Listing`] while the letters are read.
pub(super) struct ListingBuilder {
    now: Timestamp,
    mask: TextMask,
    filter: DeadLetterFilter,
    groups: BTreeMap<String, Group>,
    other_reasons: u64,
    /// The letters of each reason that the page shows, by their position.
    shown: Range<u64>,
}

impl ListingBuilder {
    pub(super) fn new(query: &ListQuery, now: Timestamp, mask: TextMask) -> Result<Self, PageError> {
        let shown = if query.scope.reason.is_some() {
            let page = query.page as u64;
            (page - 1) * ROWS_PER_PAGE..page * ROWS_PER_PAGE
        } else {
            0..ROWS_PER_REASON
        };
        let filter = query.scope.filter()?;
        Ok(Self { now, mask, filter, groups: BTreeMap::new(), other_reasons: 0, shown })
    }

    pub(super) fn add(&mut self, letter: &DeadLetter) {
        if !self.filter.matches(letter, self.now) {
            return;
        }
        let (reason, since) = (letter.reason(), letter.since());
        if !self.groups.contains_key(reason) {
            if self.groups.len() == MAX_REASONS || reason.len() > MAX_REASON_BYTES {
                self.other_reasons += 1;
                return;
            }
            let group = Group { reason: reason.to_owned(), count: 0, oldest: since, rows: Vec::new() };
            self.groups.insert(reason.to_owned(), group);
        }
        let Some(group) = self.groups.get_mut(reason) else { return };
        if self.shown.contains(&group.count) {
            group.rows.push(Row::new(letter, self.mask));
        }
        group.count += 1;
        group.oldest = group.oldest.min(since);
    }

    pub(super) fn finish(self, extent: Extent) -> Listing {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_by_key(|group| Reverse(group.count));
        Listing { at: self.now, extent, groups, other_reasons: self.other_reasons }
    }
}

impl Listing {
    /// Returns the number of letters that the filter has matched.
    pub(super) fn matching(&self) -> u64 {
        self.groups.iter().map(|group| group.count).sum::<u64>() + self.other_reasons
    }
}
