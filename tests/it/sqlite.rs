//! The embedded queue: the contract that every queue fulfils, and faults that only a file can have.

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

mod clock;
mod dead_letters;
mod durability;
mod file_errors;
mod leases;
mod retention;

mod contract {
    super::contract_suite!(super::SqliteFixture);
}

/// A queue file in a folder of its own.
struct SqliteFixture {
    folder: TempDir,
    lifecycle: Lifecycle,
}

impl QueueUnderTest for SqliteFixture {
    const RECOGNISES_DUPLICATES: bool = true;
    const UNBOUND_ANNOUNCEMENT: Announced = Announced::Delivered;
    const MAX_DISORDER: usize = 0;
    const SEARCHES_JOBS: bool = true;

    fn start() -> impl Future<Output = Self> + Send {
        std::future::ready(Self::new())
    }

    fn open(&self) -> impl Future<Output = Arc<dyn Queue>> + Send {
        std::future::ready(self.open_with(test_options()).0)
    }
}

impl SqliteFixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), lifecycle: Lifecycle::new() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("some/where/queue.db")
    }

    /// Opens the queue, and returns it both as a trait object and as its own type.
    fn open_with(&self, options: SqliteOptions) -> (Arc<dyn Queue>, Arc<SqliteQueue>) {
        let queue = SqliteQueue::open(&self.path(), options, &self.lifecycle).unwrap();
        (Arc::clone(&queue) as Arc<dyn Queue>, queue)
    }

    /// Opens a connection to the file beside the queue.
    fn connection(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn count(&self, sql: &str) -> u64 {
        self.connection().query_row(sql, [], |row| row.get(0)).unwrap()
    }
}

/// Checks every page and every constraint, because the queue's own connection does not check its constraints.
impl Drop for SqliteFixture {
    fn drop(&mut self) {
        if self.path().exists() && !std::thread::panicking() {
            let problems: String =
                self.connection().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(problems, "ok");
        }
    }
}

/// Options with a longer timeout, because other tests load the machine.
fn test_options() -> SqliteOptions {
    SqliteOptions { publish_timeout: Duration::from_secs(10), ..SqliteOptions::default() }
}

fn options_with_clock(clock: &Clock) -> SqliteOptions {
    SqliteOptions { clock: clock.clone(), ..test_options() }
}

fn manual_clock() -> Clock {
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
