//! Durability and group commit.

use super::*;

#[tokio::test]
async fn messages_survive_a_restart() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(test_options());
    for id in ["waiting", "retried", "dead"] {
        queue.publish(message(id, b"{}")).await.unwrap();
    }
    queue.publish(event("event")).await.unwrap();
    queue.announce(announcement("ready-1")).await.unwrap();
    let jobs = [take(&queue).await, take(&queue).await, take(&queue).await];
    let far = Duration::from_hours(1);
    queue.settle(jobs[1].lease, JobOutcome::Retry { after: far, history: history(3) }).await.unwrap();
    queue.settle(jobs[2].lease, JobOutcome::Dead { history: history(7) }).await.unwrap();
    queue.close().await;

    let (queue, sqlite) = fixture.open_with(test_options());
    assert_depths(
        &queue,
        [
            (QueueKind::Fetch, 1),
            (QueueKind::Retry, 1),
            (QueueKind::Refresh, 0),
            (QueueKind::Dead, 1),
            (QueueKind::Unrouted, 1),
        ],
    )
    .await;
    for id in ["waiting", "retried", "dead"] {
        assert_eq!(queue.publish(message(id, b"{}")).await.unwrap(), Published::Duplicate);
    }
    assert_eq!(take(&queue).await.message, jobs[0].message);
    let dead = dead_letters(&*queue).await;
    assert_eq!(dead.len(), 1);
    assert_eq!((&dead[0].message, &dead[0].history), (&jobs[2].message, &history(7)));
    let announced = sqlite.announcements_after(0, 10).await.unwrap();
    assert_eq!(announced.len(), 1);
    assert_eq!(announced[0].1, announcement("ready-1"));
    queue.close().await;
}

/// The first copy is durable only after an fsync, and a process may have died between its write and that fsync. Only a
/// commit that writes something syncs the log.
#[tokio::test]
async fn a_duplicate_is_answered_after_an_fsync_of_its_own() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(test_options());
    let log = fixture.path().with_extension("db-wal");
    for sent in [message("evt_1", b"{}"), event("evt_2")] {
        assert_eq!(queue.publish(sent.clone()).await.unwrap(), Published::New);
        let before = fs::read(&log).unwrap();
        assert_eq!(queue.publish(sent).await.unwrap(), Published::Duplicate);
        assert_ne!(fs::read(&log).unwrap(), before, "the duplicate's commit was empty");
    }
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_commit_serves_many_publishers() {
    const PUBLISHERS: u64 = 64;
    const EACH: u64 = 50;
    let fixture = SqliteFixture::new();
    let (queue, sqlite) = fixture.open_with(test_options());
    let mut publishers = JoinSet::new();
    for p in 0..PUBLISHERS {
        let queue = Arc::clone(&queue);
        publishers.spawn(async move {
            for n in 0..EACH {
                queue.publish(message(&format!("evt_{p}_{n}"), b"{}")).await.unwrap();
            }
        });
    }
    publishers.join_all().await;
    assert_eq!(fixture.count("SELECT count(*) FROM messages"), PUBLISHERS * EACH);
    let commits = sqlite.commits();
    assert!(commits >= EACH, "{commits} commits: a reply came before its commit");
    assert!(commits <= PUBLISHERS * EACH / 4, "{commits} commits for {} messages", PUBLISHERS * EACH);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_invalid_message_does_not_fail_its_batch() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(test_options());
    fixture
        .connection()
        .execute_batch(
            "CREATE TRIGGER poison BEFORE INSERT ON messages WHEN NEW.id LIKE 'poison%'
             BEGIN SELECT RAISE(ABORT, 'on purpose'); END",
        )
        .unwrap();
    let mut publishers = JoinSet::new();
    for n in 0..200 {
        let queue = Arc::clone(&queue);
        let poisoned = n % 20 == 7;
        publishers.spawn(async move {
            let id = if poisoned { format!("poison_{n}") } else { format!("evt_{n}") };
            let published = queue.publish(message(&id, b"{}")).await;
            assert_eq!(published.is_err(), poisoned, "{id}: {published:?}");
        });
    }
    while let Some(published) = publishers.join_next().await {
        published.unwrap();
    }
    assert_eq!(fixture.count("SELECT count(*) FROM messages"), 190);
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_processes_can_create_the_file() {
    let fixture = Arc::new(SqliteFixture::new());
    let mut opening = JoinSet::new();
    for n in 0..8 {
        let fixture = Arc::clone(&fixture);
        opening.spawn(async move {
            let (queue, _) = fixture.open_with(test_options());
            let sent = Message { environment: "sandbox".to_owned(), ..message(&format!("evt_{n}"), b"{}") };
            assert_eq!(queue.publish(sent).await.unwrap(), Published::New);
            queue
        });
    }
    let queues = opening.join_all().await;
    assert_depths(
        &queues[0],
        [
            (QueueKind::Fetch, 8),
            (QueueKind::Retry, 0),
            (QueueKind::Refresh, 0),
            (QueueKind::Dead, 0),
            (QueueKind::Unrouted, 0),
        ],
    )
    .await;
    for queue in queues {
        queue.close().await;
    }
}
