//! Dead letters: jobs for which no further attempt helps until a person has fixed the cause.
//!
//! Everything that the command line and the console say about them, and do with them, is here: which ones are selected
//! ([`DeadLetterFilter`]), what is known of one ([`DeadLetterSummary`], [`DeadLetterDetails`]), what to do next
//! ([`next_step()`]), and how many are replayed or dropped at once ([`settle()`]).

mod filter;
mod next_step;
mod settle;
mod summary;

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;

pub use self::{
    filter::DeadLetterFilter,
    next_step::{next_step, next_step_for},
    settle::{DeadLetterAction, SettleObserver, SettleOutcome, SettleTotals, settle},
    summary::{DeadLetterDetails, DeadLetterSummary, HistoryEntry},
};
use super::{Attempt, History, LeaseId, Message, QueueError};

/// A job that ended without its conversation in the archive.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// The delivered event.
    pub message: Message,
    /// The failed attempts. The last one holds the reason.
    pub history: History,
    /// Identifies it to the [`DeadLetters`] that returned it.
    pub lease: LeaseId,
}

impl DeadLetter {
    /// Returns the reason word of the last attempt, or `unknown` if another program put it into the queue.
    pub fn reason(&self) -> &str {
        self.history.attempts.last().map_or("unknown", |last| &*last.reason)
    }

    /// Returns the time at which it became a dead letter, or the time of receipt if that is unknown.
    pub fn since(&self) -> Timestamp {
        self.history.attempts.last().map_or(self.message.received_at, |last| last.at)
    }

    /// Returns the time since the job became a dead letter.
    pub fn age(&self, now: Timestamp) -> Duration {
        super::age(self.since(), now)
    }

    /// Returns the last attempt, which holds the reason.
    pub fn last_attempt(&self) -> Option<&Attempt> {
        self.history.attempts.last()
    }

    /// Returns the latest correlation id from PolyAI.
    pub fn correlation_id(&self) -> Option<&str> {
        self.history.attempts.iter().rev().find_map(|attempt| attempt.correlation_id.as_deref())
    }
}

/// A cursor over the dead letters that exist when it is opened. It returns each at most once.
///
/// Reading changes nothing: a dead letter that is neither replayed nor discarded stays one, whether the cursor is closed,
/// dropped, or its process is killed. Memory does not depend on the number of dead letters. A queue may hide the letters
/// that an open cursor has returned from other cursors ([`DeadLetters::hides_letters`]).
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Returns the number of dead letters at the beginning, for a progress bar.
    fn total(&self) -> u64;

    /// Returns true if other cursors, and the count of dead letters, lack the letters that this one has returned until it
    /// is closed. Such a cursor should be open for a short time.
    fn hides_letters(&self) -> bool {
        false
    }

    /// Returns the next dead letter, roughly in order of arrival.
    async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError>;

    /// Moves it to the jobs that can be leased now. Its retry schedule starts again ([`History::replay`]). After an error it
    /// is still a dead letter, or both a dead letter and a job; repeating the call does no harm. Returns
    /// [`QueueError::LeaseLost`] if another caller has replayed or discarded it meanwhile.
    async fn replay(&self, letter: DeadLetter) -> Result<(), QueueError>;

    /// Removes it for good. A late duplicate of its delivery is recognised for as long as that of a finished job. Returns
    /// the same errors as [`DeadLetters::replay`].
    async fn discard(&self, letter: DeadLetter) -> Result<(), QueueError>;

    /// Closes the cursor. When it returns, other cursors can read the remaining letters again.
    async fn close(self: Box<Self>);
}
