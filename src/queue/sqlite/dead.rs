//! Dead letters of the embedded queue. They are read in pages beside the writer, and the writer ends them.

use std::collections::VecDeque;

use async_trait::async_trait;

use super::{SqliteQueue, queue_file, read};
use crate::queue::{DeadLetter, DeadLetters, QueueError};

/// A cursor over the dead letters in order of arrival. It skips letters that arrive after it was opened.
pub(super) struct DeadLetterCursor<'a> {
    queue: &'a SqliteQueue,
    page: VecDeque<DeadLetter>,
    /// The row number of the last letter of the current page.
    position: u64,
    /// The row number of the last letter at the time of opening.
    end: u64,
    total: u64,
}

impl<'a> DeadLetterCursor<'a> {
    pub(super) async fn open(queue: &'a SqliteQueue) -> Result<Self, QueueError> {
        let (total, end) = queue.query(read::dead_letter_range).await?;
        Ok(Self { queue, page: VecDeque::new(), position: 0, end, total })
    }
}

#[async_trait]
impl DeadLetters for DeadLetterCursor<'_> {
    fn total(&self) -> u64 {
        self.total
    }

    async fn next(&mut self) -> Result<Option<DeadLetter>, QueueError> {
        if self.page.is_empty() {
            let (after, end) = (self.position, self.end);
            self.page =
                self.queue.query(move |connection| read::dead_letters(connection, after, end)).await?.into();
            self.position = self.page.back().map_or(self.end, |last| queue_file::seq(last.lease));
        }
        Ok(self.page.pop_front())
    }

    async fn replay(&self, letter: DeadLetter) -> Result<(), QueueError> {
        let DeadLetter { mut history, lease, .. } = letter;
        history.replay(self.queue.options.clock.now());
        let done = self.queue.write(move |file| file.replay(lease, &history)).await?;
        if done { Ok(()) } else { Err(QueueError::LeaseLost) }
    }

    async fn discard(&self, letter: DeadLetter) -> Result<(), QueueError> {
        let done = self.queue.write(move |file| file.discard(letter.lease)).await?;
        if done { Ok(()) } else { Err(QueueError::LeaseLost) }
    }

    async fn close(self: Box<Self>) {}
}
