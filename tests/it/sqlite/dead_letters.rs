//! Dead letters of the embedded queue: two processes that end them, and the rest of a dropped one.

use std::{path::Path, sync::Arc, time::Duration};

use polyhook::{
    lifecycle::Lifecycle,
    queue::{
        DeadLetter, DeadLetters, JobOutcome, Published, Queue, QueueError,
        sqlite::{SqliteOptions, SqliteQueue},
    },
};
use tokio::time::sleep;

use crate::queue_contract::{history, message, take};

async fn publish_dead(queue: &Arc<dyn Queue>, id: &str) {
    queue.publish(message(id, b"{}")).await.unwrap();
    mark_dead(queue).await;
}

async fn mark_dead(queue: &Arc<dyn Queue>) {
    let job = take(queue).await;
    queue.settle(job.lease, JobOutcome::Dead { history: history(1) }).await.unwrap();
}

fn open(path: &Path, options: SqliteOptions) -> Arc<dyn Queue> {
    SqliteQueue::open(path, options, &Lifecycle::new()).unwrap()
}

fn count(path: &Path, sql: &str) -> u64 {
    rusqlite::Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn next_two(walk: &mut Box<dyn DeadLetters + '_>) -> [DeadLetter; 2] {
    [walk.next().await.unwrap().unwrap(), walk.next().await.unwrap().unwrap()]
}

#[tokio::test]
async fn a_dead_letter_can_be_ended_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let (queue, other) = (open(&path, SqliteOptions::default()), open(&path, SqliteOptions::default()));
    publish_dead(&queue, "a").await;
    publish_dead(&queue, "b").await;
    let mut walks = [queue.dead_letters().await.unwrap(), other.dead_letters().await.unwrap()];
    let [near, far] = &mut walks;
    let (first, second) = (next_two(near).await, next_two(far).await);
    assert_eq!(first, second, "both see all letters");
    let [a, b] = first;
    near.replay(a.clone()).await.unwrap();
    near.discard(b.clone()).await.unwrap();
    for letter in [&a, &b] {
        for error in [far.replay(letter.clone()).await, far.discard(letter.clone()).await] {
            assert!(matches!(error, Err(QueueError::LeaseLost)), "{error:?}");
        }
    }
    // The job died again, so the letter that was read before is no longer valid.
    mark_dead(&queue).await;
    assert!(matches!(far.replay(a).await, Err(QueueError::LeaseLost)));
    assert_eq!(count(&path, "SELECT count(*) FROM messages WHERE state = 'dead'"), 1);
}

#[tokio::test]
async fn a_dropped_dead_letter_keeps_only_its_key_until_the_retention_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let retention = Duration::from_secs(2);
    let queue = open(
        &path,
        SqliteOptions { retention, cleanup_interval: Duration::from_millis(100), ..SqliteOptions::default() },
    );
    publish_dead(&queue, "a").await;
    // The retention does not begin before the letter is dropped.
    sleep(retention).await;
    let mut walk = queue.dead_letters().await.unwrap();
    let letter = walk.next().await.unwrap().unwrap();
    walk.discard(letter).await.unwrap();
    assert_eq!(count(&path, "SELECT count(*) FROM bodies"), 0, "the personal data is deleted at once");
    assert_eq!(queue.publish(message("a", b"{}")).await.unwrap(), Published::Duplicate);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while count(&path, "SELECT count(*) FROM messages") > 0 {
        assert!(std::time::Instant::now() < deadline, "the key was never deleted");
        sleep(Duration::from_millis(50)).await;
    }
    queue.close().await;
}
