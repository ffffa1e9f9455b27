//! Full, locked, deleted, damaged and foreign files.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use polyhook::queue::sqlite;

use super::*;
use crate::support::small_disk::SmallDisk;

#[tokio::test]
async fn a_full_file_rejects_messages_and_loses_none() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(SqliteOptions { max_bytes: Some(1 << 20), ..test_options() });
    let body = vec![b'x'; 30_000];
    let mut stored = HashSet::new();
    let error = loop {
        let id = format!("evt_{}", stored.len());
        match queue.publish(message(&id, &body)).await {
            Ok(_) => assert!(stored.insert(id)),
            Err(error) => break error,
        }
        assert!(stored.len() < 100);
    };
    assert!(matches!(&error, QueueError::Unavailable(why) if why.contains("maximum size")), "{error}");
    assert!(queue.ready().await.is_err(), "ready, although no message can be stored");
    assert!(stored.len() > 20);
    queue.close().await;

    let (queue, _) = fixture.open_with(test_options());
    queue.ready().await.unwrap();
    queue.publish(message("evt_new", b"{}")).await.unwrap();
    stored.insert("evt_new".to_owned());
    for _ in 0..stored.len() {
        let job = take(&queue).await;
        assert!(stored.remove(&job.message.id), "{} was rejected before", job.message.id);
    }
    assert_empty(&queue).await;
    queue.close().await;
}

#[tokio::test]
async fn hands_out_and_settles_jobs_while_messages_do_not_fit() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(SqliteOptions { max_bytes: Some(1 << 20), ..test_options() });
    let body = vec![b'x'; 30_000];
    let mut stored = 0;
    while queue.publish(message(&format!("evt_{stored}"), &body)).await.is_ok() {
        stored += 1;
    }
    // They always wait for the writer, so every transaction could contain one of them.
    let mut publishers = JoinSet::new();
    let (full, body) = (Arc::new(AtomicBool::new(true)), vec![b'y'; 900_000]);
    for n in 0..16 {
        let (queue, full) = (Arc::clone(&queue), Arc::clone(&full));
        let message = message(&format!("evt_large_{n}"), &body);
        publishers.spawn(async move {
            while full.load(Ordering::Relaxed) {
                queue.publish(message.clone()).await.unwrap_err();
            }
        });
    }
    for n in 0..stored / 2 {
        let job = take(&queue).await;
        assert_eq!(job.message.id, format!("evt_{n}"));
        queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    full.store(false, Ordering::Relaxed);
    publishers.join_all().await;
    queue.close().await;
}

#[tokio::test]
async fn a_file_that_is_full_of_small_messages_can_be_emptied() {
    let fixture = SqliteFixture::new();
    let full = SqliteOptions { max_bytes: Some(1 << 20), every_message_is_a_job: true, ..test_options() };
    let (queue, _) = fixture.open_with(full.clone());
    let body = |n| format!("{{\"n\":\"{n:0>90}\"}}").into_bytes();
    let mut stored = 0;
    loop {
        let batch = (stored..stored + 64).map(|n| message(&format!("evt_{n}"), &body(n)));
        let published = join_all(batch.map(|message| queue.publish(message))).await;
        stored += published.iter().filter(|published| published.is_ok()).count();
        if published.iter().any(Result::is_err) {
            break;
        }
    }
    assert!(stored > 1000, "{stored}");
    queue.close().await;

    // An earlier release filled files to the last page.
    let full = SqliteOptions { max_bytes: Some(fs::metadata(fixture.path()).unwrap().len()), ..full };
    let (queue, _) = fixture.open_with(full);
    assert!(queue.ready().await.is_err());
    queue.publish(message("evt_late", b"{}")).await.unwrap_err();
    assert_eq!(queue.publish(message("evt_1", &body(1))).await.unwrap(), Published::Duplicate);
    // All are leased before the first is settled, which needs the most space.
    let mut jobs = Vec::new();
    while jobs.len() < stored {
        jobs.extend(join_all((jobs.len()..stored).take(64).map(|_| take(&queue))).await);
    }
    let erased = queue.erase("CA-unknown", false).await.unwrap();
    assert_eq!(erased.jobs, 0);
    for batch in jobs.chunks(64) {
        for settled in join_all(batch.iter().map(|job| queue.settle(job.lease, JobOutcome::Done))).await {
            settled.unwrap();
        }
    }
    queue.publish(message("evt_new", b"{}")).await.unwrap();
    queue.close().await;
}

#[tokio::test]
async fn a_queue_that_filled_its_disk_can_be_emptied() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(folder.path().join("small"), 16);
    let fixture =
        SqliteFixture { folder: TempDir::new_in(disk.file("")).unwrap(), lifecycle: Lifecycle::new() };
    let (queue, _) = fixture.open_with(test_options());
    let body = vec![b'x'; 3000];
    let mut stored = 0;
    let error = loop {
        let batch = (stored..stored + 64).map(|n| message(&format!("evt_{n}"), &body));
        let published = join_all(batch.map(|message| queue.publish(message))).await;
        stored += published.iter().filter(|published| published.is_ok()).count();
        if let Some(error) = published.into_iter().find_map(Result::err) {
            break error;
        }
    };
    assert!(error.to_string().contains("free space on its disk"), "{error}");
    for _ in 0..stored {
        let job = take(&queue).await;
        queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    queue.close().await;
}

#[tokio::test]
async fn a_settlement_during_a_lock_is_written_afterwards() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture
        .open_with(SqliteOptions { publish_timeout: Duration::from_millis(300), ..SqliteOptions::default() });
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let job = take(&queue).await;
    let shell = fixture.connection();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..2 {
        let started = Instant::now();
        let error = queue.publish(message("evt_2", b"{}")).await.expect_err("locked");
        assert!(matches!(error, QueueError::Unavailable(_) | QueueError::Timeout(_)), "{error}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
    queue.settle(job.lease, JobOutcome::Done).await.expect_err("locked");
    queue.ready().await.expect_err("locked");
    shell.execute_batch("ROLLBACK").unwrap();
    eventually("the file is writable again", || async { queue.ready().await.ok() }).await;
    // The writer writes the settlement without another call.
    eventually("settled", || async {
        (fixture.count("SELECT count(*) FROM messages WHERE id = 'evt_1' AND state = 'done'") == 1)
            .then_some(())
    })
    .await;
    queue.publish(message("evt_3", b"{}")).await.unwrap();
    queue.close().await;
}

#[tokio::test]
async fn a_deleted_file_is_restored_with_all_messages() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(test_options());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let held = take(&queue).await;
    queue.publish(message("evt_2", b"{}")).await.unwrap();
    for file in fs::read_dir(fixture.path().parent().unwrap()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    eventually("published", || async { queue.publish(message("evt_3", b"{}")).await.ok() }).await;
    assert_eq!(
        fixture.count("SELECT count(*) FROM messages"),
        3,
        "the message was written to a deleted file"
    );
    queue.settle(held.lease, JobOutcome::Done).await.expect("leases survive");
    assert_eq!(take(&queue).await.message.id, "evt_2");
    assert_eq!(queue.publish(message("evt_1", b"{}")).await.unwrap(), Published::Duplicate);

    // Only the log is deleted.
    queue.publish(message("evt_4", b"{}")).await.unwrap();
    fs::remove_file(fixture.path().with_extension("db-wal")).unwrap();
    eventually("published", || async { queue.publish(message("evt_5", b"{}")).await.ok() }).await;
    assert_eq!(fixture.count("SELECT count(*) FROM messages"), 5);

    // Another file in its place is not overwritten.
    let other = SqliteFixture::new();
    other.open_with(test_options()).0.close().await;
    for ending in ["db-wal", "db-shm"] {
        fs::remove_file(fixture.path().with_extension(ending)).unwrap();
    }
    fs::rename(other.path(), fixture.path()).unwrap();
    eventually("published", || async { queue.publish(message("evt_6", b"{}")).await.ok() }).await;
    assert_eq!(fixture.count("SELECT count(*) FROM messages"), 1);
    queue.close().await;
}

#[tokio::test]
async fn a_damaged_file_is_an_error_until_it_is_removed() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(test_options());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let garbage = fixture.folder.path().join("garbage");
    fs::write(&garbage, vec![b'?'; 9000]).unwrap();
    fs::rename(&garbage, fixture.path()).unwrap();
    // SQLite could repair the file from its log.
    fs::remove_file(fixture.path().with_extension("db-wal")).unwrap();
    let mut waiting = JoinSet::new();
    waiting.spawn({
        let queue = Arc::clone(&queue);
        async move { take(&queue).await }
    });
    for _ in 0..3 {
        let error = queue.publish(message("evt_2", b"{}")).await.expect_err("damaged");
        assert!(matches!(&error, QueueError::Unavailable(why) if why.contains("damaged")), "{error}");
    }
    assert!(queue.ready().await.is_err());
    for file in fs::read_dir(fixture.path().parent().unwrap()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    eventually("published", || async { queue.publish(message("evt_2", b"{}")).await.ok() }).await;
    let job = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(job.message.id, "evt_2", "a waiting consumer survives the error");
    queue.close().await;
}

#[tokio::test]
async fn only_the_owner_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(test_options());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = fixture.path().parent().unwrap().to_owned();
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    queue.close().await;
}

#[tokio::test]
async fn rejects_foreign_files_without_changing_them() {
    let fixture = SqliteFixture::new();
    let (queue, _) = fixture.open_with(test_options());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    queue.close().await;
    let open =
        |path: &Path| SqliteQueue::open(path, test_options(), &fixture.lifecycle).expect_err("refused");

    fixture.connection().pragma_update(None, "user_version", 99).unwrap();
    let newer = fs::read(fixture.path()).unwrap();
    let error = open(&fixture.path());
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    assert_eq!(fs::read(fixture.path()).unwrap(), newer);

    let foreign = fixture.folder.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let bytes = fs::read(&foreign).unwrap();
    assert!(matches!(open(&foreign), OpenError::Foreign { .. }));
    assert_eq!(fs::read(&foreign).unwrap(), bytes);

    let text = fixture.folder.path().join("notes.txt");
    fs::write(&text, "these are notes ".repeat(100)).unwrap();
    assert!(matches!(open(&text), OpenError::Sqlite { .. }));
    assert_eq!(fs::read_to_string(&text).unwrap(), "these are notes ".repeat(100));

    assert!(open(&text).to_string().contains("not a queue file"));

    for path in [fixture.folder.path(), Path::new("/dev/null")] {
        assert!(matches!(open(path), OpenError::NotAFile { .. }));
        let said = sqlite::read_status(path, test_options().clock.now()).unwrap_err();
        assert!(said.contains("not a regular file"), "{said}");
        assert_eq!(sqlite::check_file(path).unwrap_err(), said);
    }
    assert!(matches!(open(&text.join("queue.db")), OpenError::Folder { .. }));
}
