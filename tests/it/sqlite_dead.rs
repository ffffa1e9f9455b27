//! Dead letters of the embedded queue, where several look at them, and what is left of one that is dropped.

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

async fn bury(queue: &Arc<dyn Queue>, id: &str) {
    queue.publish(message(id, b"{}")).await.unwrap();
    die_again(queue).await;
}

async fn die_again(queue: &Arc<dyn Queue>) {
    let job = take(queue).await;
    queue.settle(job.lease, JobOutcome::Dead { history: history(1) }).await.unwrap();
}

fn open(path: &Path, options: SqliteOptions) -> Arc<dyn Queue> {
    SqliteQueue::open(path, options, &Lifecycle::new()).unwrap()
}

fn count(path: &Path, sql: &str) -> u64 {
    rusqlite::Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

async fn two(walk: &mut Box<dyn DeadLetters + '_>) -> [DeadLetter; 2] {
    [walk.next().await.unwrap().unwrap(), walk.next().await.unwrap().unwrap()]
}

#[tokio::test]
async fn who_comes_second_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let (queue, other) = (open(&path, SqliteOptions::default()), open(&path, SqliteOptions::default()));
    bury(&queue, "a").await;
    bury(&queue, "b").await;
    let mut walks = [queue.dead_letters().await.unwrap(), other.dead_letters().await.unwrap()];
    let [near, far] = &mut walks;
    let (first, second) = (two(near).await, two(far).await);
    assert_eq!(first, second, "each sees all there are");
    let [a, b] = first;
    near.replay(a.clone()).await.unwrap();
    near.discard(b.clone()).await.unwrap();
    for letter in [&a, &b] {
        for error in [far.replay(letter.clone()).await, far.discard(letter.clone()).await] {
            assert!(matches!(error, Err(QueueError::LeaseLost)), "{error:?}");
        }
    }
    // Dead again it is another letter: what was read before says nothing of it.
    die_again(&queue).await;
    assert!(matches!(far.replay(a).await, Err(QueueError::LeaseLost)));
    assert_eq!(count(&path, "SELECT count(*) FROM messages WHERE state = 'dead'"), 1);
}

#[tokio::test]
async fn of_what_is_dropped_only_the_key_is_left_and_that_not_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let retention = Duration::from_secs(2);
    let queue = open(
        &path,
        SqliteOptions { retention, housekeeping: Duration::from_millis(100), ..SqliteOptions::default() },
    );
    bury(&queue, "a").await;
    // Its time as a letter does not count.
    sleep(retention).await;
    let mut walk = queue.dead_letters().await.unwrap();
    let letter = walk.next().await.unwrap().unwrap();
    walk.discard(letter).await.unwrap();
    assert_eq!(count(&path, "SELECT count(*) FROM bodies"), 0, "the personal data goes at once");
    assert_eq!(queue.publish(message("a", b"{}")).await.unwrap(), Published::Duplicate);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while count(&path, "SELECT count(*) FROM messages") > 0 {
        assert!(std::time::Instant::now() < deadline, "kept for ever");
        sleep(Duration::from_millis(50)).await;
    }
    queue.close().await;
}
