//! Dead letters: jobs that no try will help until a person has done something.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{History, LeaseId, Message, QueueError};

/// A job that ended without its conversation in the archive.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// What was delivered.
    pub message: Message,
    /// The tries; the last says why it is here.
    pub history: History,
    /// Names it to the [`DeadLetters`] it came from.
    pub lease: LeaseId,
}

impl DeadLetter {
    /// The constant word for what ended it; `unknown` if somebody else put it there.
    pub fn reason(&self) -> &str {
        self.history.attempts.last().map_or("unknown", |last| &*last.reason)
    }

    /// Since when it is dead; where nobody noted it, when it was received.
    pub fn since(&self) -> Timestamp {
        self.history.attempts.last().map_or(self.message.received_at, |last| last.at)
    }

    /// The latest correlation id that PolyAI gave.
    pub fn correlation_id(&self) -> Option<&str> {
        self.history.attempts.iter().rev().find_map(|attempt| attempt.correlation_id.as_deref())
    }
}

/// A walk through the dead letters that there are at its beginning, each met at most once.
///
/// Reading changes nothing: what is neither replayed nor discarded stays a dead letter, whether the walk is
/// closed, dropped, or its process killed. Memory does not depend on their number. A queue may hide from
/// others what a walk has met until it is closed (RabbitMQ does).
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// How many there were at the beginning, for a progress bar.
    fn total(&self) -> u64;

    /// The next one, about in the order of their arrival.
    async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError>;

    /// Moves it to the jobs that can be taken now; its ladder begins anew ([`History::replay`]). It is never
    /// in neither place: where this fails it still is a dead letter, or both, and doing it again does no harm.
    /// [`QueueError::LeaseLost`] says that somebody else has replayed or discarded it meanwhile.
    async fn replay(&self, letter: DeadLetter) -> Result<(), QueueError>;

    /// Ends it for good. A late duplicate of its delivery is recognised as one for as long as that of a job
    /// that was done. Errors are those of [`DeadLetters::replay`].
    async fn discard(&self, letter: DeadLetter) -> Result<(), QueueError>;

    /// Ends the walk; when it returns the others see again what it had met.
    async fn close(self: Box<Self>);
}
