//! Replays or drops many dead letters.

use std::ops::ControlFlow;

use futures_util::future::join_all;

use super::{DeadLetter, DeadLetters};
use crate::queue::QueueError;

/// Maximum dead letters that are settled at the same time. They share a commit, or the wait for confirms. Times the
/// largest accepted body, it is also the memory that a replay needs.
const BATCH_SIZE: usize = 16;
/// Maximum dead letters that are read for one batch, so that the progress moves even if few are selected.
const MAX_READ_PER_BATCH: u64 = 64 * BATCH_SIZE as u64;

/// The action on selected dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterAction {
    /// They become jobs again.
    Replay,
    /// They are removed for good.
    Drop,
}

impl DeadLetterAction {
    /// Returns `replayed` or `dropped`.
    pub fn past_tense(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop => "dropped",
        }
    }

    async fn apply(self, letters: &dyn DeadLetters, letter: DeadLetter) -> Result<(), QueueError> {
        match self {
            Self::Replay => letters.replay(letter).await,
            Self::Drop => letters.discard(letter).await,
        }
    }
}

/// The result for one dead letter.
#[derive(Clone, Copy, Debug)]
pub enum SettleOutcome<'a> {
    /// It is selected, and nothing was done: there is no action.
    Selected,
    /// It was replayed or dropped.
    Done,
    /// Another process settled it in the meantime.
    Gone,
    /// It stays a dead letter.
    Failed(&'a QueueError),
}

/// Watches [`settle`].
pub trait SettleObserver: Send {
    /// Takes the result for a selected dead letter.
    fn settled(&mut self, letter: &DeadLetter, outcome: SettleOutcome<'_>);

    /// Takes the number of dead letters that were read for the last batch, and decides whether to continue.
    fn read(&mut self, letters: u64) -> ControlFlow<()>;
}

/// The number of results.
#[derive(Clone, Debug, Default)]
pub struct SettleTotals {
    /// Replayed or dropped; without an action, selected.
    pub done: u64,
    /// Settled by another process in the meantime.
    pub gone: u64,
    /// Still dead letters, because of an error.
    pub failed: u64,
    /// The error of the first of those.
    pub first_error: Option<QueueError>,
}

impl SettleTotals {
    fn add<'a>(&mut self, result: &'a Result<(), QueueError>) -> SettleOutcome<'a> {
        match result {
            Ok(()) => {
                self.done += 1;
                SettleOutcome::Done
            }
            Err(QueueError::LeaseLost) => {
                self.gone += 1;
                SettleOutcome::Gone
            }
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert_with(|| error.clone());
                SettleOutcome::Failed(error)
            }
        }
    }

    /// Returns false if the queue is unavailable. A refused message is not a reason to stop: the next one may succeed.
    fn may_continue(&self) -> bool {
        matches!(self.first_error, None | Some(QueueError::Refused(_)))
    }
}

/// Replays or drops what `select` selects, or only reports it without an action. Reads to the end unless the observer
/// or an error stops it: the second value is the error that ended the reading.
pub async fn settle(
    letters: &mut dyn DeadLetters,
    action: Option<DeadLetterAction>,
    select: &(dyn Fn(&DeadLetter) -> bool + Send + Sync),
    observer: &mut dyn SettleObserver,
) -> (SettleTotals, Result<(), QueueError>) {
    let mut totals = SettleTotals::default();
    loop {
        let Batch { selected, read, more } = next_batch(letters, select).await;
        match action {
            None => {
                totals.done += selected.len() as u64;
                for letter in &selected {
                    observer.settled(letter, SettleOutcome::Selected);
                }
            }
            Some(action) => {
                let results =
                    join_all(selected.iter().cloned().map(|letter| action.apply(&*letters, letter))).await;
                for (letter, result) in selected.iter().zip(&results) {
                    observer.settled(letter, totals.add(result));
                }
            }
        }
        let is_wanted = observer.read(read).is_continue();
        match more {
            Ok(true) if is_wanted && totals.may_continue() => {}
            Ok(_) => return (totals, Ok(())),
            Err(error) => return (totals, Err(error)),
        }
    }
}

/// Dead letters that are settled together.
struct Batch {
    selected: Vec<DeadLetter>,
    /// The number of dead letters that were read to find them.
    read: u64,
    /// True if there may be more dead letters.
    more: Result<bool, QueueError>,
}

async fn next_batch(
    letters: &mut dyn DeadLetters,
    select: &(dyn Fn(&DeadLetter) -> bool + Send + Sync),
) -> Batch {
    let mut batch = Batch { selected: Vec::with_capacity(BATCH_SIZE), read: 0, more: Ok(true) };
    while batch.selected.len() < BATCH_SIZE && batch.read < MAX_READ_PER_BATCH {
        match letters.next().await {
            Ok(Some(letter)) => {
                batch.read += 1;
                if select(&letter) {
                    batch.selected.push(letter);
                }
            }
            Ok(None) => {
                batch.more = Ok(false);
                break;
            }
            Err(error) => {
                batch.more = Err(error);
                break;
            }
        }
    }
    batch
}
