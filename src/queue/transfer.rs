//! The move of all messages of an embedded queue to RabbitMQ.
//!
//! A message leaves the file only after the other queue has confirmed it, so a crash at any moment loses none. A crash
//! between the two leaves a message in both, and a second move makes it a duplicate: the archive is idempotent. A message
//! that is refused for a reason of its own stays in the file and does not keep the others.

use futures_util::future::join_all;

use super::{QueueError, StoredCounts, StoredMessage, rabbitmq::RabbitMqQueue, sqlite::ExclusiveQueueFile};

/// The number of messages that are published at the same time, and removed from the file with one sync.
const BATCH_SIZE: usize = 64;

/// The progress of a move.
#[derive(Clone, Debug, Default)]
pub struct Transfer {
    /// The messages that were moved.
    pub moved: StoredCounts,
    /// The messages that were refused and stay in the file.
    pub refused: StoredCounts,
    /// The reason of the first refusal.
    pub first_refusal: Option<QueueError>,
}

impl Transfer {
    /// Moves the next messages to `broker`. Returns false if there are none.
    pub async fn move_batch(
        &mut self,
        file: &ExclusiveQueueFile,
        broker: &RabbitMqQueue,
    ) -> Result<bool, QueueError> {
        self.move_batch_with(file, async |stored| broker.import(stored).await).await
    }

    /// # Errors
    ///
    /// The file cannot be used, or the other queue takes no messages. What was confirmed before is no longer in the file.
    async fn move_batch_with(
        &mut self,
        file: &ExclusiveQueueFile,
        publish: impl AsyncFn(&StoredMessage) -> Result<(), QueueError>,
    ) -> Result<bool, QueueError> {
        let batch = file.next_batch(&self.refused, BATCH_SIZE)?;
        let published = join_all(batch.iter().map(|stored| publish(stored))).await;
        let (mut confirmed, mut failure) = (Vec::new(), None);
        let mut refused = Vec::new();
        for (stored, result) in batch.iter().zip(published) {
            match result {
                Ok(()) => confirmed.push(stored),
                Err(error @ QueueError::Refused(_)) => {
                    refused.push(stored);
                    self.first_refusal.get_or_insert(error);
                }
                Err(error) => failure = Some(error),
            }
        }
        file.remove(confirmed.iter().map(|stored| stored.row))?;
        for stored in confirmed {
            self.moved += stored.state;
        }
        if let Some(error) = failure {
            return Err(error);
        }
        // Those that were refused are at the head of what is left, where the next batch skips them.
        for stored in refused {
            self.refused += stored.state;
        }
        Ok(!batch.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, path::Path, sync::Arc, time::Duration};

    use futures_util::FutureExt;

    use super::*;
    use crate::{
        clock::Clock,
        event::DedupKey,
        lifecycle::Lifecycle,
        queue::{
            Attempt, History, Job, JobOutcome, Message, Queue, QueueConfig, StoredState,
            sqlite::{OpenError, SqliteOptions, SqliteQueue},
        },
    };

    fn options() -> SqliteOptions {
        SqliteOptions {
            publish_timeout: Duration::from_secs(20),
            ..SqliteOptions::new(&QueueConfig::default(), Clock::System)
        }
    }

    fn message(id: &str, kind: &str) -> Message {
        Message {
            id: id.to_owned(),
            dedup: DedupKey::new(id, b"{}"),
            kind: kind.to_owned(),
            environment: "live".to_owned(),
            conversation_id: None,
            received_at: "2026-11-02T10:00:00Z".parse().unwrap(),
            traceparent: None,
            content_type: "application/json".to_owned(),
            body: "{}".into(),
        }
    }

    fn failed_once() -> History {
        let mut history = History::default();
        history.push(Attempt {
            at: "2026-11-02T10:00:01Z".parse().unwrap(),
            reason: "network".into(),
            detail: "no answer".to_owned(),
            status: Some(502),
            correlation_id: Some("c-1".to_owned()),
        });
        history
    }

    /// Leases the next job, which must be `id`.
    async fn lease(queue: &SqliteQueue, id: &str) -> Job {
        let job = queue.next().await.unwrap();
        assert_eq!(job.message.id, id);
        job
    }

    /// Fills a file with a job in each state, as a process that was killed leaves it.
    async fn fill(path: &Path) {
        let lifecycle = Lifecycle::new();
        let queue: Arc<SqliteQueue> = SqliteQueue::open(path, options(), &lifecycle).unwrap();
        let publish = async |id: &str| queue.publish(message(id, "conversation.completed")).await.unwrap();
        for (id, hours) in [("later", 2), ("sooner", 1)] {
            publish(id).await;
            let (after, history) = (Duration::from_hours(hours), failed_once());
            queue.settle(lease(&queue, id).await.lease, JobOutcome::Retry { after, history }).await.unwrap();
        }
        publish("dead").await;
        let dead = JobOutcome::Dead { history: failed_once() };
        queue.settle(lease(&queue, "dead").await.lease, dead).await.unwrap();
        publish("done").await;
        queue.settle(lease(&queue, "done").await.lease, JobOutcome::Done).await.unwrap();
        let refresh = message("refresh", "conversation.discovered");
        queue.publish_delayed(refresh, Duration::from_mins(90)).await.unwrap();
        queue.publish(message("handoff", "handoff.created")).await.unwrap();
        publish("leased").await;
        lease(&queue, "leased").await;
        publish("waiting").await;
        let open =
            ExclusiveQueueFile::open(path, SqliteOptions { publish_timeout: Duration::ZERO, ..options() });
        assert!(matches!(open, Err(OpenError::InUse { .. })), "{open:?}");
        drop(queue);
        lifecycle.drain();
    }

    const ALL: StoredCounts = StoredCounts { waiting_jobs: 2, delayed_jobs: 3, dead_letters: 1, events: 1 };

    #[tokio::test]
    async fn moves_each_message_with_its_state_and_history_the_urgent_ones_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        fill(&path).await;
        let file = ExclusiveQueueFile::open(&path, options()).unwrap();
        assert_eq!(file.counts().unwrap(), ALL);
        let arrived = RefCell::new(Vec::new());
        let mut transfer = Transfer::default();
        let publish = async |stored: &StoredMessage| {
            arrived.borrow_mut().push(stored.clone());
            Ok(())
        };
        while transfer.move_batch_with(&file, publish).await.unwrap() {}
        let arrived = arrived.into_inner();
        let ids: Vec<_> = arrived.iter().map(|stored| stored.message.id.as_str()).collect();
        assert_eq!(ids, ["leased", "waiting", "sooner", "refresh", "later", "dead", "handoff"]);
        assert_eq!(arrived[0].message, message("leased", "conversation.completed"));
        for stored in &arrived {
            let has_failed = ["sooner", "later", "dead"].contains(&&*stored.message.id);
            assert_eq!(stored.history, if has_failed { failed_once() } else { History::default() });
        }
        let hours = |stored: &StoredMessage| match stored.state {
            StoredState::Delayed { due } => (due.duration_since(Clock::System.now()).as_secs() + 60) / 1800,
            _ => 0,
        };
        assert_eq!(arrived.iter().map(hours).collect::<Vec<_>>(), [0, 0, 2, 3, 4, 0, 0], "half hours left");
        assert_eq!((transfer.moved, file.counts().unwrap()), (ALL, StoredCounts::default()));
    }

    #[tokio::test]
    async fn a_message_leaves_the_file_only_after_its_confirm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        fill(&path).await;
        let file = ExclusiveQueueFile::open(&path, options()).unwrap();
        let publish = async |stored: &StoredMessage| match &*stored.message.id {
            "leased" | "waiting" => Err(QueueError::Unavailable("away".to_owned())),
            _ => Ok(()),
        };
        for _ in 0..2 {
            assert!(Transfer::default().move_batch_with(&file, publish).await.is_err());
            assert_eq!(file.counts().unwrap(), ALL);
        }
    }

    #[tokio::test]
    async fn an_interrupted_batch_stays_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        fill(&path).await;
        let file = ExclusiveQueueFile::open(&path, options()).unwrap();
        let publish = async |stored: &StoredMessage| match &*stored.message.id {
            "waiting" => std::future::pending().await,
            _ => Ok(()),
        };
        assert!(Transfer::default().move_batch_with(&file, publish).now_or_never().is_none());
        drop(file);
        assert_eq!(ExclusiveQueueFile::open(&path, options()).unwrap().counts().unwrap(), ALL);
    }

    #[tokio::test]
    async fn a_refused_message_stays_and_does_not_keep_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("queue.db");
        fill(&path).await;
        let file = ExclusiveQueueFile::open(&path, options()).unwrap();
        let publish = async |stored: &StoredMessage| match &*stored.message.id {
            "leased" | "sooner" => Err(QueueError::Refused("full".to_owned())),
            _ => Ok(()),
        };
        let mut transfer = Transfer::default();
        while transfer.move_batch_with(&file, publish).await.unwrap() {}
        let left = StoredCounts { waiting_jobs: 1, delayed_jobs: 1, ..StoredCounts::default() };
        assert_eq!((transfer.refused, file.counts().unwrap()), (left, left));
        assert_eq!(transfer.moved.total(), 5);
        assert!(transfer.first_refusal.unwrap().to_string().contains("full"));
    }
}
