//! The embedded queue: the contract of every queue, and what only a file can go through.

use std::{
    collections::HashSet,
    fs,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{
        Announced, JobOutcome, Message, Published, Queue, QueueError, QueueKind,
        sqlite::{OpenError, SqliteOptions, SqliteQueue},
    },
};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::queue_contract::{
    QueueUnderTest, announcement, assert_depths, assert_empty, contract_suite, dead_letters, event, history,
    message, take,
};

mod contract {
    super::contract_suite!(super::Embedded);
}

/// A queue file in a folder of its own.
struct Embedded {
    folder: TempDir,
    life: Lifecycle,
}

impl QueueUnderTest for Embedded {
    const RECOGNISES_DUPLICATES: bool = true;
    const UNASKED_ANNOUNCEMENT: Announced = Announced::Delivered;
    const DISORDER: usize = 0;
    const SEARCHES_JOBS: bool = true;

    fn start() -> impl Future<Output = Self> + Send {
        std::future::ready(Self::new())
    }

    fn open(&self) -> impl Future<Output = Arc<dyn Queue>> + Send {
        std::future::ready(self.with(patient()).0)
    }
}

impl Embedded {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), life: Lifecycle::new() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("some/where/queue.db")
    }

    /// The queue, as what everybody sees and as what it is.
    fn with(&self, options: SqliteOptions) -> (Arc<dyn Queue>, Arc<SqliteQueue>) {
        let queue = SqliteQueue::open(&self.path(), options, &self.life).unwrap();
        (Arc::clone(&queue) as Arc<dyn Queue>, queue)
    }

    /// A look into the file behind the queue's back.
    fn look(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn count(&self, sql: &str) -> u64 {
        self.look().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// For a machine that is busy with other tests.
fn patient() -> SqliteOptions {
    SqliteOptions { publish_timeout: Duration::from_secs(10), ..SqliteOptions::default() }
}

fn at(clock: &Clock) -> SqliteOptions {
    SqliteOptions { clock: clock.clone(), ..patient() }
}

fn manual() -> Clock {
    Clock::manual("2026-11-22T12:00:00Z".parse().unwrap())
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn everything_survives_a_restart() {
    let store = Embedded::new();
    let (queue, _) = store.with(patient());
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

    let (queue, sqlite) = store.with(patient());
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 1), (QueueKind::Retry, 1), (QueueKind::Dead, 1), (QueueKind::Unrouted, 1)],
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

#[tokio::test]
async fn jobs_come_in_the_order_of_arrival() {
    let store = Embedded::new();
    let (queue, _) = store.with(patient());
    let names: Vec<_> = (0..40).map(|n| format!("evt_{n}")).collect();
    for id in &names {
        queue.publish(message(id, b"{}")).await.unwrap();
    }
    let mut leases = Vec::new();
    for id in &names {
        let job = take(&queue).await;
        assert_eq!(&job.message.id, id);
        leases.push(job.lease);
    }
    // What comes back has waited longest.
    queue.publish(message("late", b"{}")).await.unwrap();
    queue.settle(leases[7], JobOutcome::Release).await.unwrap();
    assert_eq!(take(&queue).await.message.id, names[7]);
    queue.close().await;
}

#[tokio::test]
async fn a_lease_outlives_its_holder_by_thirty_seconds() {
    let (store, clock) = (Embedded::new(), manual());
    let (queue, vanishing) = store.with(at(&clock));
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    take(&queue).await;
    // Not closed: as if the process had died.
    drop((queue, vanishing));
    let (queue, _) = store.with(at(&clock));
    assert_empty(&queue).await;
    clock.advance(Duration::from_secs(29));
    assert_empty(&queue).await;
    clock.advance(Duration::from_secs(2));
    assert_eq!(take(&queue).await.message, message("evt_1", b"{}"));
    queue.close().await;
}

#[tokio::test]
async fn a_lease_is_extended_while_its_holder_lives() {
    let store = Embedded::new();
    let short = SqliteOptions { lease: Duration::from_millis(900), ..patient() };
    let (holder, holding) = store.with(short.clone());
    let (other, _) = store.with(short);
    holder.publish(message("evt_1", b"{}")).await.unwrap();
    let job = take(&holder).await;
    for _ in 0..5 {
        assert_empty(&other).await;
    }
    drop((holder, holding));
    let again = take(&other).await;
    assert_eq!(again.message, job.message);
    other.close().await;
}

#[tokio::test]
async fn a_moved_clock_is_noticed_by_who_waits() {
    let (store, clock) = (Embedded::new(), manual());
    let (queue, _) = store.with(at(&clock));
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let job = take(&queue).await;
    let after = Duration::from_hours(6);
    queue.settle(job.lease, JobOutcome::Retry { after, history: history(1) }).await.unwrap();
    let waiting = take(&queue);
    let advancing = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        clock.advance(after);
        Instant::now()
    };
    let (job, moved) = tokio::join!(waiting, advancing);
    assert_eq!(job.history, history(1));
    assert!(moved.elapsed() < Duration::from_secs(2));
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_commit_serves_many() {
    const PUBLISHERS: u64 = 64;
    const EACH: u64 = 50;
    let store = Embedded::new();
    let (queue, sqlite) = store.with(patient());
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
    assert_eq!(store.count("SELECT count(*) FROM messages"), PUBLISHERS * EACH);
    let commits = sqlite.commits();
    assert!(commits >= EACH, "{commits} commits: what was answered had not been committed");
    assert!(commits <= PUBLISHERS * EACH / 4, "{commits} commits for {} messages", PUBLISHERS * EACH);
    queue.close().await;
}

#[tokio::test]
async fn what_is_old_goes_and_what_is_dead_stays() {
    let (store, clock) = (Embedded::new(), manual());
    let retention = Duration::from_hours(1);
    let options = SqliteOptions { retention, housekeeping: Duration::from_millis(50), ..at(&clock) };
    let (queue, sqlite) = store.with(options);
    for id in ["done", "dead", "waiting"] {
        queue.publish(message(id, b"{}")).await.unwrap();
    }
    queue.publish(event("event")).await.unwrap();
    queue.announce(announcement("ready-1")).await.unwrap();
    let (done, dead) = (take(&queue).await, take(&queue).await);
    queue.settle(done.lease, JobOutcome::Done).await.unwrap();
    queue.settle(dead.lease, JobOutcome::Dead { history: history(1) }).await.unwrap();
    assert_eq!(store.count("SELECT count(*) FROM bodies"), 3, "the body of what is done goes at once");

    clock.advance(Duration::from_mins(59));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(queue.publish(message("done", b"{}")).await.unwrap(), Published::Duplicate);
    assert_eq!(queue.publish(event("event")).await.unwrap(), Published::Duplicate);
    assert_eq!(sqlite.announcements_after(0, 10).await.unwrap().len(), 1);

    clock.advance(Duration::from_mins(2));
    assert_depths(
        &queue,
        [(QueueKind::Fetch, 1), (QueueKind::Retry, 0), (QueueKind::Dead, 1), (QueueKind::Unrouted, 0)],
    )
    .await;
    eventually("the announcement goes", || async {
        sqlite.announcements_after(0, 10).await.unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(store.count("SELECT count(*) FROM messages"), 2);
    assert_eq!(store.count("SELECT count(*) FROM bodies"), 2);
    assert_eq!(queue.publish(message("done", b"{}")).await.unwrap(), Published::New);
    assert_eq!(queue.publish(message("dead", b"{}")).await.unwrap(), Published::Duplicate);
    queue.announce(announcement("ready-2")).await.unwrap();
    assert_eq!(sqlite.announcements_after(1, 10).await.unwrap()[0].0, 2, "a number is never used again");
    queue.close().await;
}

#[tokio::test]
async fn the_file_gives_room_back() {
    let store = Embedded::new();
    let (queue, _) = store.with(SqliteOptions { housekeeping: Duration::from_millis(50), ..patient() });
    let body = vec![b'x'; 64 << 10];
    for n in 0..256 {
        queue.publish(message(&format!("evt_{n}"), &body)).await.unwrap();
    }
    for _ in 0..256 {
        let job = take(&queue).await;
        queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    eventually("few unused pages", || async {
        (store.count("SELECT page_count FROM pragma_page_count") < 2048).then_some(())
    })
    .await;
    queue.close().await;
    let bytes = fs::metadata(store.path()).unwrap().len();
    assert!(bytes < 8 << 20, "{bytes} bytes");
    assert!(!store.path().with_extension("db-wal").exists(), "the log was written back");
}

#[tokio::test]
async fn a_full_file_takes_no_more_and_loses_nothing() {
    let store = Embedded::new();
    let (queue, _) = store.with(SqliteOptions { max_bytes: Some(1 << 20), ..patient() });
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
    assert!(matches!(&error, QueueError::Unavailable(why) if why.contains("free space")), "{error}");
    assert!(queue.ready().await.is_err(), "ready, but nothing can be stored");
    assert!(stored.len() > 20);
    queue.close().await;

    let (queue, _) = store.with(patient());
    queue.ready().await.unwrap();
    queue.publish(message("evt_new", b"{}")).await.unwrap();
    stored.insert("evt_new".to_owned());
    for _ in 0..stored.len() {
        let job = take(&queue).await;
        assert!(stored.remove(&job.message.id), "{} had been refused", job.message.id);
    }
    assert_empty(&queue).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_wrong_with_one_does_not_fail_the_others() {
    let store = Embedded::new();
    let (queue, _) = store.with(patient());
    store
        .look()
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
    assert_eq!(store.count("SELECT count(*) FROM messages"), 190);
    queue.close().await;
}

#[tokio::test]
async fn a_locked_file_is_an_error_while_it_lasts_and_a_settled_job_stays_settled() {
    let store = Embedded::new();
    let (queue, _) =
        store.with(SqliteOptions { publish_timeout: Duration::from_millis(300), ..SqliteOptions::default() });
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let job = take(&queue).await;
    let shell = store.look();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..2 {
        let started = Instant::now();
        let error = queue.publish(message("evt_2", b"{}")).await.expect_err("locked");
        assert!(matches!(error, QueueError::Unavailable(_) | QueueError::Timeout(_)), "{error}");
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    queue.settle(job.lease, JobOutcome::Done).await.expect_err("locked");
    queue.ready().await.expect_err("locked");
    shell.execute_batch("ROLLBACK").unwrap();
    eventually("it is written again", || async { queue.ready().await.ok() }).await;
    // Nobody asked again for the end of the lease, and yet it is written.
    eventually("settled", || async {
        (store.count("SELECT count(*) FROM messages WHERE id = 'evt_1' AND state = 'done'") == 1)
            .then_some(())
    })
    .await;
    queue.publish(message("evt_3", b"{}")).await.unwrap();
    queue.close().await;
}

#[tokio::test]
async fn a_deleted_file_is_put_back_with_everything_in_it() {
    let store = Embedded::new();
    let (queue, _) = store.with(patient());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let held = take(&queue).await;
    queue.publish(message("evt_2", b"{}")).await.unwrap();
    for file in fs::read_dir(store.path().parent().unwrap()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    eventually("published", || async { queue.publish(message("evt_3", b"{}")).await.ok() }).await;
    assert_eq!(store.count("SELECT count(*) FROM messages"), 3, "it went into a file that nobody can see");
    queue.settle(held.lease, JobOutcome::Done).await.expect("leases live on");
    assert_eq!(take(&queue).await.message.id, "evt_2");
    assert_eq!(queue.publish(message("evt_1", b"{}")).await.unwrap(), Published::Duplicate);

    // The log alone.
    queue.publish(message("evt_4", b"{}")).await.unwrap();
    fs::remove_file(store.path().with_extension("db-wal")).unwrap();
    eventually("published", || async { queue.publish(message("evt_5", b"{}")).await.ok() }).await;
    assert_eq!(store.count("SELECT count(*) FROM messages"), 5);

    // Another file in its place is not ours to overwrite.
    let other = Embedded::new();
    other.with(patient()).0.close().await;
    for ending in ["db-wal", "db-shm"] {
        fs::remove_file(store.path().with_extension(ending)).unwrap();
    }
    fs::rename(other.path(), store.path()).unwrap();
    eventually("published", || async { queue.publish(message("evt_6", b"{}")).await.ok() }).await;
    assert_eq!(store.count("SELECT count(*) FROM messages"), 1);
    queue.close().await;
}

#[tokio::test]
async fn a_damaged_file_is_an_error_until_it_is_gone() {
    let store = Embedded::new();
    let (queue, _) = store.with(patient());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let garbage = store.folder.path().join("garbage");
    fs::write(&garbage, vec![b'?'; 9000]).unwrap();
    fs::rename(&garbage, store.path()).unwrap();
    // With its log alone SQLite would repair it.
    fs::remove_file(store.path().with_extension("db-wal")).unwrap();
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
    for file in fs::read_dir(store.path().parent().unwrap()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    eventually("published", || async { queue.publish(message("evt_2", b"{}")).await.ok() }).await;
    let job = waiting.join_next().await.unwrap().unwrap();
    assert_eq!(job.message.id, "evt_2", "who waits waits through it");
    queue.close().await;
}

#[tokio::test]
async fn only_its_user_can_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let store = Embedded::new();
    let (queue, _) = store.with(patient());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = store.path().parent().unwrap().to_owned();
    assert_eq!(mode(&folder), 0o700);
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    queue.close().await;
}

#[tokio::test]
async fn a_file_of_others_is_refused_untouched() {
    let store = Embedded::new();
    let (queue, _) = store.with(patient());
    queue.publish(message("evt_1", b"{}")).await.unwrap();
    queue.close().await;
    let open = |path: &Path| SqliteQueue::open(path, patient(), &store.life).expect_err("refused");

    store.look().pragma_update(None, "user_version", 99).unwrap();
    let newer = fs::read(store.path()).unwrap();
    let error = open(&store.path());
    assert!(matches!(error, OpenError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    assert_eq!(fs::read(store.path()).unwrap(), newer);

    let foreign = store.folder.path().join("foreign.db");
    Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    let bytes = fs::read(&foreign).unwrap();
    assert!(matches!(open(&foreign), OpenError::Foreign { .. }));
    assert_eq!(fs::read(&foreign).unwrap(), bytes);

    let text = store.folder.path().join("notes.txt");
    fs::write(&text, "these are notes ".repeat(100)).unwrap();
    assert!(matches!(open(&text), OpenError::Store { .. }));
    assert_eq!(fs::read_to_string(&text).unwrap(), "these are notes ".repeat(100));

    assert!(matches!(open(store.folder.path()), OpenError::File { .. }));
    assert!(matches!(open(&text.join("queue.db")), OpenError::Folder { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_may_open_a_new_file_at_once() {
    let store = Arc::new(Embedded::new());
    let mut opening = JoinSet::new();
    for n in 0..8 {
        let store = Arc::clone(&store);
        opening.spawn(async move {
            let (queue, _) = store.with(patient());
            let sent = Message { environment: "sandbox".to_owned(), ..message(&format!("evt_{n}"), b"{}") };
            assert_eq!(queue.publish(sent).await.unwrap(), Published::New);
            queue
        });
    }
    let queues = opening.join_all().await;
    assert_depths(
        &queues[0],
        [(QueueKind::Fetch, 8), (QueueKind::Retry, 0), (QueueKind::Dead, 0), (QueueKind::Unrouted, 0)],
    )
    .await;
    for queue in queues {
        queue.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_is_in_no_byte_of_the_files() {
    let store = Embedded::new();
    // The service, and who erases.
    let ((queue, _), (other, _)) = (store.with(patient()), store.with(patient()));
    let body = |id: &str, n: usize| {
        // From a part of a page to several pages.
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
    // Some are done before: their bodies went with them.
    for _ in 0..100 {
        let job = take(&queue).await;
        queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    let held = || {
        let files = ["queue.db", "queue.db-wal"].map(|name| store.path().with_file_name(name));
        let bytes = files.map(|file| fs::read(file).unwrap_or_default()).concat();
        bytes.windows(15).filter(|part| *part == b"erase-me-please").count()
    };
    assert!(held() > mine, "{}", held());
    let erased = other.erase("CA-erase-me-please", false).await.unwrap();
    assert_eq!(erased.events + erased.jobs, 67 + 34, "{erased:?}");
    assert_eq!(held(), 0);
    // The others are all there, and it goes on.
    queue.publish(message("evt_last", b"{}")).await.unwrap();
    let others = store.count("SELECT count(*) FROM messages WHERE state IN ('ready', 'stored')");
    assert_eq!(others, store.count("SELECT count(*) FROM bodies"));
    queue.close().await;
    other.close().await;
    assert_eq!(held(), 0);
    assert!(polyhook::queue::spool::verify(&store.path()).is_ok());
}
