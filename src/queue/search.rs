//! The messages about a conversation, for people who look.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::{DeadLetter, ErasedMessages, Queue, QueueError, QueueKind};
use crate::event::Event;

/// The number of dead letters that are searched. Reading hides those of RabbitMQ from other readers and from the metrics.
const MAX_SEARCHED: u64 = 1_000;
/// The number of found dead letters that are returned. All are counted.
const MAX_RETURNED: usize = 20;
/// Bounds the search of dead letters.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The number of messages about a conversation. RabbitMQ has those that it can search.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MessageCounts {
    /// Jobs: waiting, delayed or leased.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<u64>,
    /// Dead letters.
    pub dead_letters: u64,
    /// Stored events without a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<u64>,
    /// Announcements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub announcements: Option<u64>,
    /// Jobs and dead letters that were not searched. Some may be about the conversation.
    pub unsearched: u64,
    /// The time at which a job refreshes the conversation, if the queue knows it.
    #[serde(skip)]
    pub refresh_due_at: Option<Timestamp>,
    /// The time of the next try of another delayed job, if the queue knows it.
    #[serde(skip)]
    pub retry_due_at: Option<Timestamp>,
}

impl From<ErasedMessages> for MessageCounts {
    fn from(counts: ErasedMessages) -> Self {
        let ErasedMessages {
            jobs,
            dead_letters,
            events,
            announcements,
            unsearched,
            refresh_due_at,
            retry_due_at,
        } = counts;
        let (jobs, events, announcements) = (Some(jobs), Some(events), Some(announcements));
        Self { jobs, dead_letters, events, announcements, unsearched, refresh_due_at, retry_due_at }
    }
}

/// The messages about a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConversationMessages {
    /// Their number.
    pub counts: MessageCounts,
    /// The first dead letters.
    pub dead_letters: Vec<DeadLetter>,
}

/// Finds the messages about a conversation. Changes nothing. `unsearched` is the number of jobs that cannot be searched: on
/// RabbitMQ that would take them from workers. `None`: the queue can be searched as a whole.
pub async fn find_messages(
    queue: &dyn Queue,
    id: &str,
    unsearched: Option<u64>,
) -> Result<ConversationMessages, QueueError> {
    let Some(jobs) = unsearched else {
        let counts = MessageCounts::from(queue.erase(id, true).await?);
        let dead_letters = match counts.dead_letters {
            0 => Vec::new(),
            _ => find_dead_letters(queue, id, MAX_SEARCHED).await?.dead_letters,
        };
        return Ok(ConversationMessages { counts, dead_letters });
    };
    let mut found = find_dead_letters(queue, id, MAX_SEARCHED).await?;
    found.counts.unsearched += jobs;
    Ok(found)
}

/// Like [`find_messages`], for a caller that does not know the number of jobs.
pub async fn find_messages_of_any_queue(
    queue: &dyn Queue,
    id: &str,
) -> Result<ConversationMessages, QueueError> {
    if queue.searches_jobs() {
        return find_messages(queue, id, None).await;
    }
    let (mut jobs, mut dead) = (0, 0);
    for (kind, depth) in queue.depths().await? {
        match kind {
            QueueKind::Fetch | QueueKind::Retry | QueueKind::Refresh => jobs += depth,
            QueueKind::Dead => dead += depth,
            QueueKind::Unrouted => {}
        }
    }
    if dead == 0 {
        let counts = MessageCounts { unsearched: jobs, ..MessageCounts::default() };
        return Ok(ConversationMessages { counts, dead_letters: Vec::new() });
    }
    find_messages(queue, id, Some(jobs)).await
}

/// Searches the first dead letters, until the timeout.
async fn find_dead_letters(
    queue: &dyn Queue,
    id: &str,
    max_searched: u64,
) -> Result<ConversationMessages, QueueError> {
    let deadline = Instant::now() + SEARCH_TIMEOUT;
    let mut letters = queue.dead_letters().await?;
    let (mut found, mut searched, mut result) = (ConversationMessages::default(), 0, Ok(()));
    while searched < max_searched {
        match timeout_at(deadline, letters.next()).await {
            Ok(Ok(Some(letter))) if Event::is_about(&letter.message.body, id) => {
                found.counts.dead_letters += 1;
                if found.dead_letters.len() < MAX_RETURNED {
                    found.dead_letters.push(letter);
                }
            }
            Ok(Ok(Some(_))) => {}
            Ok(Err(error)) => {
                result = Err(error);
                break;
            }
            Ok(Ok(None)) | Err(_) => break,
        }
        searched += 1;
    }
    found.counts.unsearched = letters.total().saturating_sub(searched);
    letters.close().await;
    result.map(|()| found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        event::DedupKey,
        lifecycle::Lifecycle,
        queue::{
            History, JobOutcome, Message,
            sqlite::{SqliteOptions, SqliteQueue},
        },
    };

    #[tokio::test]
    async fn a_search_of_dead_letters_ends_at_its_limit_and_says_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions { publish_timeout: Duration::from_secs(20), ..SqliteOptions::default() };
        let queue = SqliteQueue::open(&folder.path().join("queue.db"), options, &Lifecycle::new()).unwrap();
        let publish = async |id: &str, about: &str| {
            let body =
                format!(r#"{{"type":"conversation.completed","data":{{"conversation_id":"{about}"}}}}"#);
            let message = Message {
                id: id.to_owned(),
                dedup: DedupKey::new(id, body.as_bytes()),
                kind: "conversation.completed".to_owned(),
                environment: "live".to_owned(),
                conversation_id: Some(about.to_owned()),
                received_at: Clock::System.now(),
                traceparent: None,
                content_type: "application/json".to_owned(),
                body: body.into(),
            };
            queue.publish(message).await.unwrap();
        };
        for (id, about) in [("evt-1", "CA-1"), ("evt-2", "CA-2"), ("evt-3", "CA-1")] {
            publish(id, about).await;
            let lease = queue.next().await.unwrap().lease;
            queue.settle(lease, JobOutcome::Dead { history: History::default() }).await.unwrap();
        }
        for (max_searched, dead_letters, unsearched) in [(2, 1, 1), (100, 2, 0)] {
            let found = find_dead_letters(&*queue, "CA-1", max_searched).await.unwrap();
            let expected = MessageCounts { dead_letters, unsearched, ..MessageCounts::default() };
            assert_eq!((found.counts, found.dead_letters.len() as u64), (expected, dead_letters));
        }
        publish("evt-4", "CA-1").await;
        let all = find_messages_of_any_queue(&*queue, "CA-1").await.unwrap();
        assert_eq!((all.counts.jobs, all.counts.dead_letters, all.counts.unsearched), (Some(1), 2, 0));
        assert_eq!(
            all.dead_letters.iter().map(|letter| &*letter.message.id).collect::<Vec<_>>(),
            ["evt-1", "evt-3"]
        );
    }
}
