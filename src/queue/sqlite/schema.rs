//! The file: how it is made, opened and recognised, and what stands in it.
//!
//! `application_id` says that it is ours, `user_version` which of [`MIGRATIONS`] it has seen. A file of
//! something else, or of a newer polyhook, is refused untouched.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior, backup::Backup};
use thiserror::Error;

use super::trouble::hint;

/// `plhk`
const APPLICATION_ID: i32 = 0x706c_686b;

/// The steps that lead from an empty file to the present layout; a file has seen the first `user_version`.
const MIGRATIONS: [&str; 2] = [
    // `state`  ready: can be taken; leased: taken, until `due`; retry: waits until `due`; done; dead; stored: an
    //          event that asks for nothing.
    // `holder` and `claims` together name a lease: who has it, and which of its turns this is.
    // Times are milliseconds since the Unix epoch. Bodies stand apart, so that a change of state does not
    // copy them.
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
    // Keys of messages that were handed on and are known for a while, many in a row.
    "CREATE TABLE remembered (
        seq  INTEGER PRIMARY KEY AUTOINCREMENT,
        at   INTEGER NOT NULL,
        keys BLOB    NOT NULL
    ) STRICT;",
];

/// Why the queue's file cannot be used, and what to do about it.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A folder on the way to it could not be made.
    #[error(
        "cannot make the folder of the queue file {path}: {source}; make it, or point queue.url elsewhere"
    )]
    Folder {
        /// The queue's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file could not be made or opened.
    #[error(
        "cannot write the queue file {path}: {source}; it and its folder must belong to the user polyhook runs as"
    )]
    File {
        /// The queue's file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is some other program's database.
    #[error("{path} is an SQLite database of another program; point queue.url at a file of its own")]
    Foreign {
        /// The queue's file.
        path: PathBuf,
    },
    /// The file was written by a newer polyhook.
    #[error(
        "the queue file {path} has layout {found}, this polyhook knows up to {known}: run the newer version again until the queue is empty, or point queue.url at another file"
    )]
    Newer {
        /// The queue's file.
        path: PathBuf,
        /// Its layout.
        found: usize,
        /// The latest known here.
        known: usize,
    },
    /// The file system cannot carry a write-ahead log.
    #[error(
        "the file system of {path} cannot carry a write-ahead log (a network share?); put the queue file on a local disk"
    )]
    NoLog {
        /// The queue's file.
        path: PathBuf,
    },
    /// SQLite says no.
    #[error("cannot use the queue file {path}: {source}{}", hint(.source))]
    Store {
        /// The queue's file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The writer's thread could not be started.
    #[error("cannot start a thread for the queue: {0}; raise the limit of processes")]
    Thread(io::Error),
}

impl OpenError {
    /// Whether it may be over without anybody changing the configuration.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Folder { .. } | Self::File { .. } | Self::Store { .. })
    }
}

/// Opens the file for writing, makes it if need be, and brings it to the present layout.
pub(super) fn connect(path: &Path, busy: Duration, max_bytes: Option<u64>) -> Result<Connection, OpenError> {
    const PAUSE: Duration = Duration::from_millis(20);
    create(path)?;
    let deadline = Instant::now() + busy;
    loop {
        match prepare(path, busy, max_bytes) {
            // Going over to the write-ahead log does not wait for others who do the same at this moment.
            Err(OpenError::Store { source, .. }) if is_busy(&source) && Instant::now() < deadline => {
                thread::sleep(PAUSE);
            }
            other => return other,
        }
    }
}

/// Writes a whole database to a path where there is none. It appears under its name when it is complete.
pub(super) fn restore(from: &Connection, path: &Path) -> Result<(), OpenError> {
    let store = |source| OpenError::Store { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".restored");
    let unfinished = PathBuf::from(unfinished);
    create(&unfinished)?;
    let mut to = Connection::open(&unfinished).map_err(store)?;
    to.pragma_update(None, "synchronous", "FULL").map_err(store)?;
    Backup::new(from, &mut to)
        .and_then(|backup| backup.run_to_completion(4096, Duration::ZERO, None))
        .map_err(store)?;
    drop(to);
    // A hard link, unlike a rename, never replaces what somebody has put there meanwhile.
    fs::hard_link(&unfinished, path)
        .and_then(|()| fs::remove_file(&unfinished))
        .and_then(|()| fs::File::open(folder)?.sync_all())
        .map_err(|source| OpenError::File { path: path.to_owned(), source })
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Opens the file for reading what was committed.
pub(super) fn connect_to_read(path: &Path, busy: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(busy)?;
    Ok(connection)
}

/// Makes file and folders for our eyes only: deliveries hold personal data.
fn create(path: &Path) -> Result<(), OpenError> {
    let folder_error = |source| OpenError::Folder { path: path.to_owned(), source };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        let missing: Vec<_> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(folder).map_err(folder_error)?;
        // SQLite makes the file's own name durable; a power cut must not take the folder either.
        for made in missing {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
            fs::File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|parent| parent.sync_all())
                .map_err(folder_error)?;
        }
    }
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|source| OpenError::File { path: path.to_owned(), source })?;
    Ok(())
}

fn prepare(path: &Path, busy: Duration, max_bytes: Option<u64>) -> Result<Connection, OpenError> {
    let store = |source| OpenError::Store { path: path.to_owned(), source };
    let mut connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .map_err(store)?;
    connection.busy_timeout(busy).map_err(store)?;
    connection.set_prepared_statement_cache_capacity(32);
    let seen = recognise(&connection, path)?;
    // Holds only for a file without tables, and only before it goes over to the log.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(store)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(store)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(OpenError::NoLog { path: path.to_owned() });
    }
    for (name, value) in [
        // The commit is the 204: it is on the disk when it returns. The second line is macOS's way.
        ("synchronous", "FULL"),
        ("fullfsync", "ON"),
        ("temp_store", "MEMORY"),
        // What was deleted is personal data, and is overwritten with zeros.
        ("secure_delete", "ON"),
        ("journal_size_limit", "16777216"),
        ("cache_size", "-8192"),
    ] {
        connection.pragma_update(None, name, value).map_err(store)?;
    }
    if seen < MIGRATIONS.len() {
        migrate(&mut connection).map_err(store)?;
    }
    if let Some(max_bytes) = max_bytes {
        let page: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(store)?;
        connection.pragma_update(None, "max_page_count", (max_bytes / page).max(1)).map_err(store)?;
    }
    Ok(connection)
}

/// How many migrations the file has seen, if it is ours and not too new.
pub(super) fn recognise(connection: &Connection, path: &Path) -> Result<usize, OpenError> {
    let store = |source| OpenError::Store { path: path.to_owned(), source };
    // One snapshot: another process may just be making the tables and the marks, in one transaction.
    let snapshot = connection.unchecked_transaction().map_err(store)?;
    let application: i32 =
        snapshot.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(store)?;
    let tables: u32 =
        snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(store)?;
    let found: usize = snapshot.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(store)?;
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
    // Again under the lock: another process may have been faster.
    let seen: usize = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for migration in MIGRATIONS.iter().skip(seen) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", MIGRATIONS.len().max(seen))?;
    transaction.commit()
}

/// Names the files behind a path: the database and its log. SQLite goes on writing to a file that somebody
/// has deleted or replaced, and what is committed there is lost; so this is compared around every commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity([Option<(u64, u64)>; 2]);

impl Identity {
    /// What is at `path` now.
    pub(super) fn of(path: &Path) -> Self {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        Self([inode(path), inode(Path::new(&log))])
    }

    /// Whether the database itself, whatever its log, is still at `path`.
    pub(super) fn is_database_of(&self, path: &Path) -> bool {
        self.0[0] == inode(path)
    }
}

#[cfg(unix)]
fn inode(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// An open file cannot be deleted or replaced elsewhere.
#[cfg(not(unix))]
fn inode(_: &Path) -> Option<(u64, u64)> {
    None
}
