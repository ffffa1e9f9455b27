//! What a person has selected and seen in a preview, and what became of it.
//!
//! A selection remembers each of its letters by a fingerprint that changes with every attempt and replay. So an action takes
//! what the person has seen, and nothing that became a dead letter afterwards. The latest selections are kept in memory: a
//! preview that is forgotten is made again.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::watch, time::Instant};

use super::listing::Row;
use crate::{
    console::mask::TextMask,
    queue::{DeadLetter, DeadLetterAction, SettleTotals},
};

/// The time for which a preview can be confirmed and looked at: it shows ids of conversations, which may be erased.
const PREVIEW_LIFETIME: Duration = Duration::from_mins(30);
/// The number of selections that are kept.
const MAX_KEPT: usize = 32;
/// The letters of all selections that are kept. A fingerprint takes up to 20 bytes.
const MAX_KEPT_LETTERS: u64 = 500_000;
/// Reasons that a preview tells apart.
const MAX_REASONS: usize = 20;
/// Letters that a preview lists. It counts all of them.
const MAX_ROWS: usize = 100;

/// See the module.
#[derive(Debug)]
pub(super) struct Selection {
    /// Cannot be guessed.
    pub(super) id: String,
    made_at: Instant,
    /// The person who made it.
    pub(super) viewer: String,
    pub(super) action: DeadLetterAction,
    pub(super) letters: SelectedLetters,
    /// What the preview has to say about the selection.
    pub(super) remarks: Remarks,
    pub(super) state: watch::Sender<State>,
}

/// What a preview says beside the letters.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    /// Selected ids of which there is no dead letter.
    pub(super) missing: Vec<String>,
    /// The number of letters that were looked at, if these were not all.
    pub(super) cut_after: Option<u64>,
}

/// What became of a selection.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// A person looks at it.
    Previewed,
    /// So many letters are settled.
    Running(u64),
    /// It is over.
    Finished {
        totals: SettleTotals,
        /// Why not all letters were reached.
        ended_early: Option<String>,
    },
}

impl Selection {
    pub(super) fn new(
        viewer: &str,
        action: DeadLetterAction,
        letters: SelectedLetters,
        remarks: Remarks,
    ) -> Self {
        Self {
            id: uuid::Uuid::new_v4().simple().to_string(),
            made_at: Instant::now(),
            viewer: viewer.to_owned(),
            action,
            letters,
            remarks,
            state: watch::Sender::new(State::Previewed),
        }
    }

    fn is_expired(&self) -> bool {
        matches!(*self.state.borrow(), State::Previewed) && self.made_at.elapsed() > PREVIEW_LIFETIME
    }

    /// Marks the selection as running. Returns false if it was confirmed before.
    pub(super) fn begin(&self) -> bool {
        self.state.send_if_modified(|state| {
            let is_new = matches!(state, State::Previewed);
            if is_new {
                *state = State::Running(0);
            }
            is_new
        })
    }
}

/// The letters of a selection.
#[derive(Debug, Default)]
pub(super) struct SelectedLetters {
    hasher: RandomState,
    fingerprints: HashSet<u64>,
    pub(super) count: u64,
    /// The first letters.
    pub(super) rows: Vec<Row>,
    /// The number of letters of each reason.
    pub(super) reasons: BTreeMap<String, u64>,
    /// Letters of further reasons.
    pub(super) other_reasons: u64,
    /// The times at which the first and the last of them became dead letters.
    pub(super) range: Option<(Timestamp, Timestamp)>,
}

impl SelectedLetters {
    pub(super) fn add(&mut self, letter: &DeadLetter, mask: TextMask) {
        let fingerprint = self.fingerprint(letter);
        self.fingerprints.insert(fingerprint);
        self.count += 1;
        if self.rows.len() < MAX_ROWS {
            self.rows.push(Row::new(letter, mask));
        }
        let is_full = self.reasons.len() == MAX_REASONS;
        let reason = mask.apply(letter.reason());
        if is_full && !self.reasons.contains_key(&*reason) {
            self.other_reasons += 1;
        } else {
            *self.reasons.entry(reason.into_owned()).or_default() += 1;
        }
        let (since, range) = (letter.since(), self.range);
        self.range = Some(range.map_or((since, since), |(first, last)| (first.min(since), last.max(since))));
    }

    pub(super) fn contains(&self, letter: &DeadLetter) -> bool {
        self.fingerprints.contains(&self.fingerprint(letter))
    }

    /// Identifies the letter and its history. Not its times: the queue may correct them when it reads the letter.
    fn fingerprint(&self, letter: &DeadLetter) -> u64 {
        let DeadLetter { message, history, .. } = letter;
        self.hasher.hash_one((message.dedup, history.attempt_count(), history.replays.len(), letter.reason()))
    }
}

/// The latest selections.
#[derive(Debug, Default)]
pub(super) struct Selections {
    kept: Mutex<VecDeque<Arc<Selection>>>,
}

impl Selections {
    /// Keeps a selection and forgets the oldest ones that do not run.
    pub(super) fn add(&self, selection: Arc<Selection>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let letters = |kept: &VecDeque<Arc<Selection>>| kept.iter().map(|old| old.letters.count).sum::<u64>();
        let is_idle = |old: &Arc<Selection>| !matches!(*old.state.borrow(), State::Running(_));
        while kept.len() >= MAX_KEPT || letters(&kept) + selection.letters.count > MAX_KEPT_LETTERS {
            let Some(oldest) = kept.iter().position(is_idle) else { break };
            kept.remove(oldest);
        }
        kept.push_back(selection);
    }

    pub(super) fn get(&self, id: &str) -> Option<Arc<Selection>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|selection| !selection.is_expired());
        kept.iter().find(|selection| selection.id == id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_preview_expires_unless_it_is_confirmed() {
        let selections = Selections::default();
        let (letters, remarks) = (SelectedLetters::default, Remarks::default);
        let make = || Arc::new(Selection::new("local", DeadLetterAction::Drop, letters(), remarks()));
        let (looked_at, confirmed) = (make(), make());
        assert!(confirmed.begin() && !confirmed.begin());
        for selection in [&looked_at, &confirmed] {
            selections.add(Arc::clone(selection));
        }
        tokio::time::advance(PREVIEW_LIFETIME).await;
        assert!(selections.get(&looked_at.id).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(selections.get(&looked_at.id).is_none() && selections.get(&confirmed.id).is_some());
    }
}
