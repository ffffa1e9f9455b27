//! The layout of the queue file: how it is created, opened, recognised and migrated.
//!
//! `application_id` marks a file as polyhook's, and `user_version` counts the [`MIGRATIONS`] that it has seen. A file
//! of another program, or of a newer polyhook, is rejected and not changed.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, backup::Backup};

use super::error::OpenError;
use crate::private_file;

/// The characters of a path that mean something else in a URI.
const URI_PATH: &AsciiSet = &CONTROLS.add(b'%').add(b'?').add(b'#');
/// `plhk` in ASCII.
const APPLICATION_ID: i32 = 0x706c_686b;

/// The steps from an empty file to the current layout. A file has seen the first `user_version` of them.
const MIGRATIONS: [&str; 3] = [
    // `state`  ready: can be taken; leased: taken, until `due`; retry: waits until `due`; done; dead; stored: an
    //         event that does not ask for a fetch.
    // `holder` and `claims` together identify a lease: its holder, and which claim of the job it is.
    // Times are milliseconds since the Unix epoch. Bodies have a table of their own, so that a change of state does
    // not copy them. A duplicate, too, changes the counter of AUTOINCREMENT: so its commit is never empty, and syncs
    // the first copy if a process has died between the write and the fsync of that copy.
    "CREATE TABLE messages (
        seq          INTEGER PRIMARY KEY AUTOINCREMENT,
        dedup        BLOB    NOT NULL UNIQUE,
        state        TEXT    NOT NULL CHECK (state IN ('ready','leased','retry','done','dead','stored')),
        due          INTEGER CHECK ((due IS NOT NULL) = (state IN ('leased','retry'))),
        holder       INTEGER CHECK ((holder IS NOT NULL) = (state = 'leased')),
        claims       INTEGER NOT NULL DEFAULT 0,
        ended_at     INTEGER CHECK ((ended_at IS NOT NULL) = (state IN ('done','stored'))),
        id           TEXT    NOT NULL,
        kind         TEXT    NOT NULL,
        environment  TEXT    NOT NULL,
        received_at  INTEGER NOT NULL,
        traceparent  TEXT,
        content_type TEXT    NOT NULL,
        history      TEXT
    ) STRICT;
    CREATE INDEX messages_open  ON messages (state)    WHERE state <> 'done';
    CREATE INDEX messages_due   ON messages (due)      WHERE due IS NOT NULL;
    CREATE INDEX messages_ended ON messages (ended_at) WHERE ended_at IS NOT NULL;
    CREATE TABLE bodies (seq INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
    CREATE TABLE announcements (
        seq         INTEGER PRIMARY KEY AUTOINCREMENT,
        id          TEXT    NOT NULL UNIQUE,
        stored_at   INTEGER NOT NULL,
        kind        TEXT    NOT NULL,
        environment TEXT    NOT NULL,
        subject     TEXT    NOT NULL,
        time        INTEGER NOT NULL,
        traceparent TEXT,
        body        BLOB    NOT NULL
    ) STRICT;
    CREATE INDEX announcements_stored ON announcements (stored_at);
    CREATE TABLE probe (writes INTEGER NOT NULL, room BLOB) STRICT;
    INSERT INTO probe VALUES (0, NULL);",
    // Keys of forwarded messages, which identify duplicates for a while. Many keys share a row.
    "CREATE TABLE remembered (
        seq  INTEGER PRIMARY KEY AUTOINCREMENT,
        at   INTEGER NOT NULL,
        keys BLOB    NOT NULL
    ) STRICT;",
    // The length in milliseconds of the last delay or lease, which ends at `due`. A clock that was set back leaves
    // `due` further away than that. The index answers which ones.
    "ALTER TABLE messages ADD COLUMN wait INTEGER;
    DROP INDEX messages_due;
    CREATE INDEX messages_due ON messages (due, wait) WHERE due IS NOT NULL;",
];

/// The processes that may use the file while a connection is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// All processes of the machine.
    Shared,
    /// Only this one, which has one connection.
    Exclusive,
}

/// Opens the file for writing, creates it if it does not exist, and migrates it to the current layout.
pub(super) fn open(path: &Path, lock_timeout: Duration, sharing: Sharing) -> Result<Connection, OpenError> {
    const RETRY_DELAY: Duration = Duration::from_millis(20);
    check_file_type(path)?;
    create_file(path)?;
    let deadline = Instant::now() + lock_timeout;
    loop {
        match open_and_migrate(path, lock_timeout, sharing) {
            // The change to the write-ahead log does not wait for another process that makes it at the same moment.
            Err(OpenError::Sqlite { source, .. }) if is_locked(&source) && Instant::now() < deadline => {
                thread::sleep(RETRY_DELAY);
            }
            other => return other,
        }
    }
}

/// Writes a copy of a database to a path where no file is. The copy appears under its name when it is complete.
pub(super) fn copy_to(from: &Connection, path: &Path) -> Result<(), OpenError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut incomplete = path.as_os_str().to_owned();
    incomplete.push(".restored");
    let incomplete = PathBuf::from(incomplete);
    // A copy that a crash has left may be the database itself under another name.
    let _ = fs::remove_file(&incomplete);
    let copied = copy_as(from, &incomplete).and_then(|()| {
        // Unlike a rename, a hard link never replaces a file that appeared at the path in the meantime.
        fs::hard_link(&incomplete, path)
            .and_then(|()| fs::File::open(folder)?.sync_all())
            .map_err(|source| OpenError::File { path: path.to_owned(), source })
    });
    // On a full disk an incomplete copy would hold the space that is missing.
    let _ = fs::remove_file(&incomplete);
    copied
}

fn copy_as(from: &Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite_error = |source| OpenError::Sqlite { path: path.to_owned(), source };
    create_file(path)?;
    let mut to = Connection::open(path).map_err(sqlite_error)?;
    to.pragma_update(None, "synchronous", "FULL").map_err(sqlite_error)?;
    Backup::new(from, &mut to)
        .and_then(|backup| backup.run_to_completion(4096, Duration::ZERO, None))
        .map_err(sqlite_error)
}

/// Returns true if another connection holds the lock that was needed.
pub(super) fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Opens the file for reading. The connection sees committed data only.
pub(super) fn open_read_only(path: &Path, lock_timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(lock_timeout)?;
    Ok(connection)
}

/// Runs a query on the committed data and creates no file.
///
/// SQLite creates a write-ahead log and its index for every reader of a file that has none. It has none while no process
/// has it open, and then nothing changes it, so it is read as an immutable file.
pub(super) fn read_snapshot<T>(
    path: &Path,
    lock_timeout: Duration,
    query: impl Fn(&Connection) -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let state = || (Path::new(&log).exists(), path.metadata().and_then(|file| file.modified()).ok());
    let before = state();
    if !before.0 {
        let result = open_immutable(path).and_then(|connection| query(&connection));
        // Otherwise a process has opened the file meanwhile, and the query may have read half of a change.
        if state() == before {
            return result;
        }
    }
    query(&open_read_only(path, lock_timeout)?)
}

fn open_immutable(path: &Path) -> rusqlite::Result<Connection> {
    let path = percent_encode(path.as_os_str().as_encoded_bytes(), URI_PATH);
    Connection::open_with_flags(
        format!("file:{path}?immutable=1"),
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI,
    )
    .map_err(|error| match error {
        // The message has the URI instead of the path.
        rusqlite::Error::SqliteFailure(code, _) => rusqlite::Error::SqliteFailure(code, None),
        other => other,
    })
}

/// Returns an error for a device, a pipe or a folder. SQLite takes a device for an empty file, and waits for a pipe.
pub(super) fn check_file_type(path: &Path) -> Result<(), OpenError> {
    match path.metadata() {
        Ok(found) if !found.is_file() => Err(OpenError::NotAFile { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// Creates the file and its folders, readable by their owner only, because deliveries hold personal data.
fn create_file(path: &Path) -> Result<(), OpenError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        private_file::create_folders(folder, private_file::FOLDER_MODE)
            .map_err(|source| OpenError::Folder { path: path.to_owned(), source })?;
    }
    private_file::options()
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| OpenError::File { path: path.to_owned(), source })?;
    Ok(())
}

fn open_and_migrate(path: &Path, lock_timeout: Duration, sharing: Sharing) -> Result<Connection, OpenError> {
    let sqlite_error = |source| OpenError::Sqlite { path: path.to_owned(), source };
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(sqlite_error)?;
    connection.busy_timeout(lock_timeout).map_err(sqlite_error)?;
    connection.set_prepared_statement_cache_capacity(32);
    if sharing == Sharing::Exclusive {
        // Taken with the first access and kept. It is refused while another connection is open, even one that is idle
        // (<https://www.sqlite.org/wal.html#noshm>).
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE").map_err(sqlite_error)?;
    }
    let version = layout_version(&connection, path)?;
    // Takes effect only in a file without tables, and only before the change to the write-ahead log.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(sqlite_error)?;
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(sqlite_error)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(OpenError::NoLog { path: path.to_owned() });
    }
    for (name, value) in [
        // The 204 is sent after the commit, so the commit must be on the disk when it returns. `fullfsync` is for
        // macOS.
        ("synchronous", "FULL"),
        ("fullfsync", "ON"),
        ("temp_store", "MEMORY"),
        // Deleted rows hold personal data, so SQLite overwrites them with zeros.
        ("secure_delete", "ON"),
        ("journal_size_limit", "16777216"),
        ("cache_size", "-8192"),
        // They cost a tenth of a publish. `PRAGMA integrity_check` still verifies them, and the tests run it.
        ("ignore_check_constraints", "ON"),
    ] {
        connection.pragma_update(None, name, value).map_err(sqlite_error)?;
    }
    if version < MIGRATIONS.len() {
        migrate(&mut connection).map_err(sqlite_error)?;
    }
    Ok(connection)
}

/// Returns the number of migrations that the file has seen. Fails if it belongs to another program or is too new.
pub(super) fn layout_version(connection: &Connection, path: &Path) -> Result<usize, OpenError> {
    let sqlite_error = |source| OpenError::Sqlite { path: path.to_owned(), source };
    // One snapshot, because another process may be creating the tables and the marks in one transaction.
    let snapshot = connection.unchecked_transaction().map_err(sqlite_error)?;
    let application: i32 =
        snapshot.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(sqlite_error)?;
    let tables: u32 = snapshot
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite_error)?;
    let found: usize =
        snapshot.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(sqlite_error)?;
    drop(snapshot);
    if application != APPLICATION_ID && (tables > 0 || application != 0 || found != 0) {
        return Err(OpenError::Foreign { path: path.to_owned() });
    }
    if found > MIGRATIONS.len() {
        return Err(OpenError::Newer { path: path.to_owned(), found, known: MIGRATIONS.len() });
    }
    Ok(found)
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Read again under the lock: another process may have migrated the file already.
    let version: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len().max(version))?;
    transaction.commit()
}

/// Identifies the files behind a path: the database and its write-ahead log. SQLite continues to write to a file that
/// was deleted or replaced, and commits to it are lost. Therefore the identity is compared before and after every
/// commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity([Option<(u64, u64)>; 2]);

impl FileIdentity {
    /// Returns the identity of the files that are at `path` now.
    pub(super) fn of(path: &Path) -> Self {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Self([inode(path), inode(Path::new(&log))])
    }

    /// Returns true if the database file itself is still at `path`. The log may differ.
    pub(super) fn is_database_at(&self, path: &Path) -> bool {
        self.0[0] == inode(path)
    }
}

#[cfg(unix)]
fn inode(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// On other systems an open file cannot be deleted or replaced.
#[cfg(not(unix))]
fn inode(_: &Path) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{super::read, *};
    use crate::queue::sqlite::Follower;

    #[test]
    fn commands_that_only_read_accept_the_layout_of_every_version() {
        for version in 1..=MIGRATIONS.len() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("queue.db");
            let file = Connection::open(&path).unwrap();
            file.pragma_update(None, "journal_mode", "WAL").unwrap();
            MIGRATIONS.iter().take(version).for_each(|step| file.execute_batch(step).unwrap());
            file.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
            file.pragma_update(None, "user_version", version).unwrap();
            file.execute(
                "INSERT INTO messages (dedup, state, id, kind, environment, received_at, content_type)
                 VALUES (x'00', 'ready', 'evt-1', 'conversation.completed', 'live', 1000, 'application/json')",
                [],
            )
            .unwrap();
            drop(file);
            let status = read::read_status(&path, Timestamp::from_second(2).unwrap()).unwrap();
            assert_eq!(
                (status.waiting, status.waiting_since),
                (1, Timestamp::from_second(1).ok()),
                "{version}"
            );
            assert_eq!(read::read_usage(&path).unwrap().messages, 1, "{version}");
            read::check_file(&path).unwrap();
            Follower::open(&path, Timestamp::UNIX_EPOCH).unwrap().poll().unwrap();
        }
    }
}
