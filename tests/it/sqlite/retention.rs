//! Retention, erasure and the size of the file.

use super::*;

#[tokio::test]
async fn expired_messages_are_deleted_and_dead_letters_kept() {
    let (fixture, clock) = (SqliteFixture::new(), manual_clock());
    let retention = Duration::from_hours(1);
    let options = SqliteOptions {
        retention,
        cleanup_interval: Duration::from_millis(50),
        ..options_with_clock(&clock)
    };
    let (queue, sqlite) = fixture.open_with(options);
    for id in ["done", "dead", "waiting"] {
        queue.publish(message(id, b"{}")).await.unwrap();
    }
    queue.publish(event("event")).await.unwrap();
    queue.announce(announcement("ready-1")).await.unwrap();
    let (done, dead) = (take(&queue).await, take(&queue).await);
    queue.settle(done.lease, JobOutcome::Done).await.unwrap();
    queue.settle(dead.lease, JobOutcome::Dead { history: history(1) }).await.unwrap();
    assert_eq!(fixture.count("SELECT count(*) FROM bodies"), 3, "the body of a done job is deleted at once");

    clock.advance(Duration::from_mins(59));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(queue.publish(message("done", b"{}")).await.unwrap(), Published::Duplicate);
    assert_eq!(queue.publish(event("event")).await.unwrap(), Published::Duplicate);
    assert_eq!(sqlite.announcements_after(0, 10).await.unwrap().len(), 1);

    clock.advance(Duration::from_mins(2));
    assert_depths(
        &queue,
        [
            (QueueKind::Fetch, 1),
            (QueueKind::Retry, 0),
            (QueueKind::Refresh, 0),
            (QueueKind::Dead, 1),
            (QueueKind::Unrouted, 0),
        ],
    )
    .await;
    eventually("the announcement is deleted", || async {
        sqlite.announcements_after(0, 10).await.unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(fixture.count("SELECT count(*) FROM messages"), 2);
    assert_eq!(fixture.count("SELECT count(*) FROM bodies"), 2);
    assert_eq!(queue.publish(message("done", b"{}")).await.unwrap(), Published::New);
    assert_eq!(queue.publish(message("dead", b"{}")).await.unwrap(), Published::Duplicate);
    queue.announce(announcement("ready-2")).await.unwrap();
    assert_eq!(sqlite.announcements_after(1, 10).await.unwrap()[0].0, 2, "row numbers are never reused");
    queue.close().await;
}

#[tokio::test]
async fn the_file_shrinks_when_its_jobs_are_done() {
    let fixture = SqliteFixture::new();
    let (queue, _) =
        fixture.open_with(SqliteOptions { cleanup_interval: Duration::from_millis(50), ..test_options() });
    let body = vec![b'x'; 64 << 10];
    for n in 0..256 {
        queue.publish(message(&format!("evt_{n}"), &body)).await.unwrap();
    }
    for _ in 0..256 {
        let job = take(&queue).await;
        queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    eventually("few unused pages", || async {
        (fixture.count("SELECT page_count FROM pragma_page_count") < 2048).then_some(())
    })
    .await;
    queue.close().await;
    let bytes = fs::metadata(fixture.path()).unwrap().len();
    assert!(bytes < 8 << 20, "{bytes} bytes");
    assert!(!fixture.path().with_extension("db-wal").exists(), "the log was removed on close");
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_messages_leave_no_bytes_in_the_files() {
    let fixture = SqliteFixture::new();
    // One process serves the queue, another one erases.
    let ((queue, _), (other, _)) = (fixture.open_with(test_options()), fixture.open_with(test_options()));
    let body = |id: &str, n: usize| {
        // Sizes from a part of a page to several pages.
        let pad = "x".repeat(n * 37 % 9000);
        format!(r#"{{"data":{{"conversation_id":"CA-{id}","from":"tel:{id}","pad":"{pad}"}}}}"#)
    };
    let mut mine = 0;
    for n in 0..400 {
        let id = if n % 3 == 0 { "erase-me-please".to_owned() } else { format!("keep-{n}") };
        mine += usize::from(n % 3 == 0);
        let sent = message(&format!("evt_{n}"), body(&id, n).as_bytes());
        let kind = if n % 2 == 0 { "handoff.created".to_owned() } else { sent.kind.clone() };
        queue.publish(Message { kind, ..sent }).await.unwrap();
    }
    // Some are done before, and their bodies are already deleted.
    for _ in 0..100 {
        let job = take(&queue).await;
        queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    let held = || {
        let files = ["queue.db", "queue.db-wal"].map(|name| fixture.path().with_file_name(name));
        let bytes = files.map(|file| fs::read(file).unwrap_or_default()).concat();
        bytes.windows(15).filter(|part| *part == b"erase-me-please").count()
    };
    assert!(held() > mine, "{}", held());
    let erased = other.erase("CA-erase-me-please", false).await.unwrap();
    assert_eq!(erased.events + erased.jobs, 67 + 34, "{erased:?}");
    assert_eq!(held(), 0);
    // The other messages are still there, and the queue still works.
    queue.publish(message("evt_last", b"{}")).await.unwrap();
    let others = fixture.count("SELECT count(*) FROM messages WHERE state IN ('ready', 'stored')");
    assert_eq!(others, fixture.count("SELECT count(*) FROM bodies"));
    queue.close().await;
    other.close().await;
    assert_eq!(held(), 0);
    assert!(polyhook::queue::spool::verify(&fixture.path()).is_ok());
}
