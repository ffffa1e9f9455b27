//! Conversations that were queued and are not archived yet.
//!
//! The archive itself answers whether a conversation is archived, and the queue whether its job became a dead letter. A
//! check asks the archive for at most [`BATCH_SIZE`] conversations, so the requests are proportional to the archived
//! conversations and to the time that they take. At most [`MAX_PENDING`] conversations are kept in memory.
//!
//! Workers take jobs in order, so the oldest conversations are looked up in every check. Some of them may be retried for
//! hours, so the others are looked up in turn.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
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
const BATCH_SIZE: usize = 64;
/// The number of the oldest ones among them.
const OLDEST: usize = 8;
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

/// The queued conversations of an archive.
#[derive(Debug)]
pub struct PendingConversations<'a> {
    archive: &'a Archive,
    queue: &'a dyn Queue,
    /// By the order in which they were queued.
    pending: BTreeMap<u64, Discovery>,
    /// The number of look-ups of each, and its order. The next ones come first.
    turns: BTreeSet<(u32, u64)>,
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
            pending: BTreeMap::new(),
            turns: BTreeSet::new(),
            counts: PendingCounts::default(),
            dead_letters: 0,
            next_dead_letters: Instant::now(),
        }
    }

    /// Adds a queued conversation.
    pub fn add(&mut self, discovery: Discovery) {
        let order = self.counts.total();
        self.counts.left += 1;
        self.pending.insert(order, discovery);
        self.turns.insert((0, order));
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
        self.pending.values().take(limit).map(|discovery| discovery.conversation_id.as_str()).collect()
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
        let looked_up = self.look_up(self.next_batch()).await;
        let read = self.check_dead_letters(false).await;
        looked_up.and(read)
    }

    /// Looks up all conversations and dead letters.
    pub async fn check_all(&mut self) -> Result<(), PendingError> {
        let looked_up = self.look_up(self.turns.clone()).await;
        let read = self.check_dead_letters(true).await;
        looked_up.and(read)
    }

    /// Returns the oldest conversations, and those that were looked up least often.
    fn next_batch(&self) -> BTreeSet<(u32, u64)> {
        let oldest: BTreeSet<_> = self.pending.keys().take(OLDEST).collect();
        let others = self.turns.iter().filter(|(_, order)| !oldest.contains(order));
        let oldest_turns = self.turns.iter().filter(|(_, order)| oldest.contains(order));
        oldest_turns.chain(others.take(BATCH_SIZE - oldest.len())).copied().collect()
    }

    async fn look_up(&mut self, batch: BTreeSet<(u32, u64)>) -> Result<(), PendingError> {
        let (archive, pending) = (self.archive, &self.pending);
        let looked_up: Vec<_> = stream::iter(batch)
            .map(async |turn| match pending.get(&turn.1) {
                Some(discovery) => (turn, is_archived(archive, discovery).await),
                None => (turn, Ok(false)),
            })
            .buffered(CONCURRENCY)
            .collect()
            .await;
        let mut error = None;
        for (turn, archived) in looked_up {
            match archived {
                Ok(true) => {
                    self.remove(turn);
                    self.counts.archived += 1;
                }
                Ok(false) => self.look_up_later(turn),
                Err(failure) => error = Some(failure),
            }
        }
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    fn remove(&mut self, turn: (u32, u64)) {
        self.turns.remove(&turn);
        self.pending.remove(&turn.1);
        self.counts.left -= 1;
    }

    fn look_up_later(&mut self, turn: (u32, u64)) {
        self.turns.remove(&turn);
        self.turns.insert((turn.0 + 1, turn.1));
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
        let is_dead = |(_, order): &&(u32, u64)| {
            self.pending.get(order).is_some_and(|discovery| dead_ids.contains(&discovery.id()))
        };
        let dead_turns: Vec<_> = self.turns.iter().filter(is_dead).copied().collect();
        for turn in dead_turns {
            self.remove(turn);
            self.counts.dead_letters += 1;
        }
        self.dead_letters = dead;
        self.next_dead_letters = Instant::now() + started_at.elapsed() * DEAD_LETTER_SHARE;
        Ok(())
    }

    /// Returns the event ids of the dead letters that are jobs of these conversations.
    async fn dead_ids(&self) -> Result<HashSet<String>, QueueError> {
        let pending: HashSet<String> = self.pending.values().map(Discovery::id).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        archive::ArchiveConfig,
        clock::Clock,
        lifecycle::Lifecycle,
        queue::sqlite::{SqliteOptions, SqliteQueue},
    };

    #[tokio::test]
    async fn looks_up_the_oldest_every_time_and_the_others_in_turn() {
        const ALL: u64 = 300;
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file:{}", folder.path().join("archive").display());
        let archive =
            Archive::open(&ArchiveConfig { url, ..ArchiveConfig::default() }, Clock::System).unwrap();
        let file = folder.path().join("queue.db");
        let queue = SqliteQueue::open(&file, SqliteOptions::default(), &Lifecycle::new()).unwrap();
        let mut pending = PendingConversations::new(&archive, &*queue);
        for n in 0..ALL {
            pending.add(Discovery { conversation_id: n.to_string(), ..Discovery::default() });
        }
        let mut seen = BTreeSet::new();
        for _ in 0..ALL.div_ceil((BATCH_SIZE - OLDEST) as u64) {
            let batch = pending.next_batch();
            let orders: BTreeSet<_> = batch.iter().map(|(_, order)| *order).collect();
            assert_eq!(orders.len(), BATCH_SIZE);
            assert!((0..OLDEST as u64).all(|oldest| orders.contains(&oldest)), "{orders:?}");
            seen.extend(orders);
            for turn in batch {
                pending.look_up_later(turn);
            }
        }
        assert_eq!(seen.len() as u64, ALL, "each had its turn");
        let first = *pending.turns.iter().find(|(_, order)| *order == 0).unwrap();
        pending.remove(first);
        assert_eq!((pending.counts().left, pending.examples(1)), (ALL - 1, vec!["1"]));
    }
}
