//! Conversations that were queued and are not archived yet.
//!
//! The archive itself answers whether a conversation is archived, and the queue whether its job became a dead letter. A
//! check asks the archive for at most [`BATCH_SIZE`] conversations, so the requests are proportional to the archived
//! conversations and to the time that they take. At most [`MAX_PENDING`] conversations are kept in memory.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;

use super::archived::{ArchiveState, state_at};
use crate::{
    archive::{Archive, ArchiveError, Location},
    event::Discovery,
    queue::{Queue, QueueError, QueueKind},
};

/// The maximum number of conversations that are kept.
const MAX_PENDING: usize = 10_000;
/// The maximum number of conversations that one check looks up.
const BATCH_SIZE: usize = 32;
/// Of these, the maximum number that have been looked up often. Their jobs are retried, and must not keep the others waiting.
const MAX_SLOW: usize = 8;
/// The number of look-ups after which a conversation counts as slow.
const SLOW_AFTER: u32 = 20;
/// The number of look-ups at the same time.
const CONCURRENCY: usize = 8;
/// The dead letters are read again after this time although their number is the same.
const DEAD_LETTER_INTERVAL: Duration = Duration::from_secs(30);
/// The dead letters are read for at most this fraction of the time.
const DEAD_LETTER_SHARE: u32 = 20;

/// The number of queued conversations by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PendingCounts {
    /// Archived since they were queued.
    pub archived: u64,
    /// Their jobs are dead letters.
    pub dead_letters: u64,
    /// Neither.
    pub left: u64,
}

impl PendingCounts {
    /// Returns the number of conversations that were added.
    pub fn total(&self) -> u64 {
        self.archived + self.dead_letters + self.left
    }

    /// Returns the number of conversations that are archived or whose job is a dead letter.
    pub fn ended(&self) -> u64 {
        self.archived + self.dead_letters
    }
}

/// The jobs in the queue, for a person who waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Jobs that a worker can take or has. RabbitMQ does not count those of other processes.
    pub waiting: u64,
    /// Jobs that failed and wait for their next attempt.
    pub delayed: u64,
}

/// An archive or a queue cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PendingError {
    /// The archive cannot be read.
    #[error("the archive cannot be read: {0}")]
    Archive(#[from] ArchiveError),
    /// The queue cannot be read.
    #[error("the queue cannot be read: {0}")]
    Queue(#[from] QueueError),
}

#[derive(Debug)]
struct PendingConversation {
    discovery: Discovery,
    lookups: u32,
}

/// The queued conversations; see the [module](self).
#[derive(Debug)]
pub struct PendingConversations<'a> {
    archive: &'a Archive,
    queue: &'a dyn Queue,
    /// In the order in which they were queued, which is about the order in which they are archived.
    recent: VecDeque<PendingConversation>,
    /// Looked up often.
    slow: VecDeque<PendingConversation>,
    counts: PendingCounts,
    /// The number of dead letters when they were last read.
    dead_letters: u64,
    next_dead_letters: Instant,
}

impl<'a> PendingConversations<'a> {
    /// Creates an empty collection.
    pub fn new(archive: &'a Archive, queue: &'a dyn Queue) -> Self {
        Self {
            archive,
            queue,
            recent: VecDeque::new(),
            slow: VecDeque::new(),
            counts: PendingCounts::default(),
            dead_letters: 0,
            next_dead_letters: Instant::now(),
        }
    }

    /// Adds a queued conversation.
    pub fn add(&mut self, discovery: Discovery) {
        self.counts.left += 1;
        self.recent.push_back(PendingConversation { discovery, lookups: 0 });
    }

    /// Returns the counts.
    pub fn counts(&self) -> PendingCounts {
        self.counts
    }

    /// Returns true if no more should be added before some have ended.
    pub fn is_full(&self) -> bool {
        self.counts.left >= MAX_PENDING as u64
    }

    /// Returns the ids of some conversations that are left.
    pub fn examples(&self, limit: usize) -> Vec<&str> {
        let all = self.recent.iter().chain(&self.slow);
        all.take(limit).map(|pending| pending.discovery.conversation_id.as_str()).collect()
    }

    /// Returns the number of jobs in the queue.
    pub async fn backlog(&self) -> Result<Backlog, PendingError> {
        let mut backlog = Backlog::default();
        for (kind, depth) in self.queue.depths().await? {
            match kind {
                QueueKind::Fetch => backlog.waiting += depth,
                QueueKind::Retry => backlog.delayed += depth,
                QueueKind::Refresh | QueueKind::Dead | QueueKind::Unrouted => {}
            }
        }
        Ok(backlog)
    }

    /// Looks up a batch of conversations, and the dead letters if their number has changed.
    pub async fn check(&mut self) -> Result<(), PendingError> {
        let slow = self.slow.len().min(MAX_SLOW.max(BATCH_SIZE.saturating_sub(self.recent.len())));
        let recent = self.recent.len().min(BATCH_SIZE - slow);
        let batch = self.slow.drain(..slow).chain(self.recent.drain(..recent)).collect();
        let looked_up = self.look_up(batch).await;
        let read = self.check_dead_letters(false).await;
        looked_up.and(read)
    }

    /// Looks up all conversations and dead letters.
    pub async fn check_all(&mut self) -> Result<(), PendingError> {
        let all = self.slow.drain(..).chain(self.recent.drain(..)).collect();
        let looked_up = self.look_up(all).await;
        let read = self.check_dead_letters(true).await;
        looked_up.and(read)
    }

    async fn look_up(&mut self, batch: Vec<PendingConversation>) -> Result<(), PendingError> {
        let archive = self.archive;
        let looked_up: Vec<_> = stream::iter(batch)
            .map(async |pending| (is_archived(archive, &pending.discovery).await, pending))
            .buffered(CONCURRENCY)
            .collect()
            .await;
        let (mut error, mut again) = (None, Vec::new());
        for (archived, mut pending) in looked_up {
            match archived {
                Ok(true) => {
                    self.counts.left -= 1;
                    self.counts.archived += 1;
                    continue;
                }
                Ok(false) => pending.lookups += 1,
                Err(failure) => error = Some(failure),
            }
            if pending.lookups < SLOW_AFTER {
                again.push(pending);
            } else {
                self.slow.push_back(pending);
            }
        }
        again.into_iter().rev().for_each(|pending| self.recent.push_front(pending));
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// Reads the dead letters if that is due, and removes the conversations whose jobs they are.
    async fn check_dead_letters(&mut self, now: bool) -> Result<(), PendingError> {
        let depths = self.queue.depths().await?;
        let dead = depths.iter().find(|(kind, _)| *kind == QueueKind::Dead).map_or(0, |(_, depth)| *depth);
        let is_due = dead != self.dead_letters && self.next_dead_letters <= Instant::now()
            || self.next_dead_letters + DEAD_LETTER_INTERVAL <= Instant::now();
        if dead == 0 || self.counts.left == 0 || !(now || is_due) {
            return Ok(());
        }
        let started_at = Instant::now();
        let dead_ids = self.dead_ids().await?;
        let is_left = |pending: &PendingConversation| !dead_ids.contains(&pending.discovery.id());
        self.recent.retain(is_left);
        self.slow.retain(is_left);
        let left = (self.recent.len() + self.slow.len()) as u64;
        self.counts.dead_letters += self.counts.left - left;
        self.counts.left = left;
        self.dead_letters = dead;
        self.next_dead_letters = Instant::now() + started_at.elapsed() * DEAD_LETTER_SHARE;
        Ok(())
    }

    /// Returns the event ids of the dead letters that are jobs of these conversations.
    async fn dead_ids(&self) -> Result<HashSet<String>, QueueError> {
        let pending: HashSet<String> =
            self.recent.iter().chain(&self.slow).map(|pending| pending.discovery.id()).collect();
        let mut found = HashSet::new();
        let mut letters = self.queue.dead_letters().await?;
        let read = loop {
            match letters.next().await {
                Ok(Some(letter)) if pending.contains(&letter.message.id) => {
                    found.insert(letter.message.id);
                }
                Ok(Some(_)) => {}
                Ok(None) => break Ok(found),
                Err(error) => break Err(error),
            }
        };
        letters.close().await;
        read
    }
}

/// Returns true if the whole conversation is archived.
async fn is_archived(archive: &Archive, discovery: &Discovery) -> Result<bool, ArchiveError> {
    let Discovery { account_id, project_id, conversation_id, started_at, ended_at, .. } = discovery;
    // A conversation without a start is listed rarely. Its place depends on what the worker fetches.
    let Some(started_at) = *started_at else {
        let found = archive.find(account_id, project_id, conversation_id).await?;
        return Ok(found.iter().any(|(_, stored)| stored.is_final()));
    };
    let location = Location::new(account_id, project_id, conversation_id, started_at);
    let archived_at = archive.archived_at(&location).await?;
    Ok(matches!(state_at(archive, &location, archived_at, *ended_at).await?, ArchiveState::Archived))
}
