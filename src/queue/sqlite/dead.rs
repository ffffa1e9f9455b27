//! Dead letters of the embedded queue: read in pages beside the writer, ended by it.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::{
    SqliteQueue, read,
    request::{Discard, Replay},
    store,
};
use crate::queue::{DeadLetter, DeadLetters, QueueError};

/// A walk in the order of arrival. Letters that come after its beginning are left to the next.
pub(super) struct Letters<'a> {
    queue: &'a SqliteQueue,
    page: VecDeque<DeadLetter>,
    /// The last one that was read.
    at: u64,
    /// The last one there was at the beginning.
    until: u64,
    total: u64,
}

impl<'a> Letters<'a> {
    pub(super) async fn open(queue: &'a SqliteQueue) -> Result<Self, QueueError> {
        let (total, until) = queue.look(read::dead_letters_there).await?;
        Ok(Self { queue, page: VecDeque::new(), at: 0, until, total })
    }
}

#[async_trait]
impl DeadLetters for Letters<'_> {
    fn total(&self) -> u64 {
        self.total
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        if self.page.is_empty() {
            let (after, until) = (self.at, self.until);
            self.page =
                self.queue.look(move |connection| read::dead_letters(connection, after, until)).await?.into();
            self.at = self.page.back().map_or(self.until, |last| store::seq(last.lease));
        }
        Ok(self.page.pop_front())
    }

    async fn replay(&self, letter: DeadLetter) -> Result<(), QueueError> {
        let DeadLetter { mut history, lease, .. } = letter;
        history.replay(self.queue.options.clock.now());
        let done = self.queue.ask(Replay(lease, history), self.queue.options.publish_timeout).await?;
        if done { Ok(()) } else { Err(QueueError::LeaseLost) }
    }

    async fn discard(&self, letter: DeadLetter) -> Result<(), QueueError> {
        let done = self.queue.ask(Discard(letter.lease), self.queue.options.publish_timeout).await?;
        if done { Ok(()) } else { Err(QueueError::LeaseLost) }
    }

    async fn close(self: Box<Self>) {}
}
