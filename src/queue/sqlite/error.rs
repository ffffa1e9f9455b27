//! Errors of the queue file, with the advice that a person needs to fix each.

use std::{io, path::PathBuf};

use rusqlite::ErrorCode;
use thiserror::Error;

use super::reserve::ReserveError;
use crate::queue::QueueError;

/// The queue file cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// A parent folder of the file cannot be created.
    #[error(
        "cannot create the folder of the queue file {path}: {source}; create it, or set queue.url to another path"
    )]
    Folder {
        /// The path of the queue file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The file cannot be created or opened.
    #[error(
        "cannot write the queue file {path}: {source}; it and its folder must belong to the user polyhook runs as"
    )]
    File {
        /// The path of the queue file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// There is something else than a file at the path.
    #[error("{path} is not a regular file; set queue.url (or spool.path) to the path of a file")]
    NotAFile {
        /// The path of the queue file.
        path: PathBuf,
    },
    /// The file is the database of another program.
    #[error("{path} is an SQLite database of another program; set queue.url to another file")]
    Foreign {
        /// The path of the queue file.
        path: PathBuf,
    },
    /// A newer polyhook wrote the file.
    #[error(
        "the queue file {path} has layout {found}, and this polyhook supports layouts up to {known}: run the newer version again until the queue is empty, or set queue.url to another file"
    )]
    Newer {
        /// The path of the queue file.
        path: PathBuf,
        /// The layout version of the file.
        found: usize,
        /// The latest layout version that this polyhook supports.
        known: usize,
    },
    /// The file system does not support a write-ahead log.
    #[error(
        "the file system of {path} does not support a write-ahead log (it may be a network share); put the queue file on a local disk"
    )]
    NoLog {
        /// The path of the queue file.
        path: PathBuf,
    },
    /// Another process has the file open, although this one needs it for itself.
    #[error(
        "another process uses the queue file {path}, so its jobs may be in work; stop polyhook (and `polyhook tail`) on this file, then run the command again"
    )]
    InUse {
        /// The path of the queue file.
        path: PathBuf,
    },
    /// SQLite reports an error.
    #[error("cannot use the queue file {path}: {source}{}", hint(.source))]
    Sqlite {
        /// The path of the queue file.
        path: PathBuf,
        /// The error of SQLite.
        source: rusqlite::Error,
    },
    /// The operating system did not start the writer thread.
    #[error("cannot start the writer thread of the queue: {0}; raise the process limit")]
    Thread(io::Error),
}

impl OpenError {
    /// Returns true if a later attempt may succeed with the same configuration.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Folder { .. } | Self::File { .. } | Self::NotAFile { .. } | Self::Sqlite { .. })
    }
}

/// A transaction failed.
#[derive(Debug, Error)]
pub(super) enum WriteError {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(OpenError),
    /// A statement or the commit failed.
    #[error("cannot write the queue file: {error}{hint}", error = .0, hint = hint(.0))]
    Sqlite(rusqlite::Error),
    /// Only the reserve is left.
    #[error(transparent)]
    Reserve(ReserveError),
    /// The transaction was written to a file that is no longer at the path.
    #[error("the queue file was deleted or replaced while it was in use")]
    FileReplaced,
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            rusqlite::Error::ToSqlConversionFailure(why) => match why.downcast() {
                Ok(why) => Self::Reserve(*why),
                Err(other) => Self::Sqlite(rusqlite::Error::ToSqlConversionFailure(other)),
            },
            other => Self::Sqlite(other),
        }
    }
}

impl WriteError {
    /// Returns true if one request caused the error and the other requests of its batch would succeed.
    pub(super) fn is_caused_by_request(&self) -> bool {
        match self {
            Self::Open(_) | Self::FileReplaced | Self::Reserve(_) => false,
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(code) => matches!(
                    code,
                    ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch
                ),
                None => true,
            },
        }
    }

    /// Returns true if there was no space for the batch. A smaller one may fit.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Reserve(_)) || self.is_disk_full()
    }

    /// Returns true if SQLite found no space on the disk.
    pub(super) fn is_disk_full(&self) -> bool {
        matches!(self, Self::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }

    /// Returns true if the connection can still be used. A connection to a replaced file still holds the messages.
    pub(super) fn keeps_connection_usable(&self) -> bool {
        self.is_caused_by_request()
            || matches!(self, Self::FileReplaced | Self::Reserve(_))
            || matches!(self, Self::Sqlite(error) if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)
            ))
    }

    /// Converts the error to the one that callers of the queue get.
    pub(super) fn to_queue_error(&self) -> QueueError {
        QueueError::Unavailable(self.to_string())
    }
}

/// Returns advice for a person about an error of SQLite; empty if there is none.
pub(super) fn hint(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "; free space on its disk",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "; it and its folder must be writable for the user polyhook runs as"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "; another process has locked it: close the programs that use it (a shell, a backup)"
        }
        Some(ErrorCode::SystemIoFailure) => "; check the system log for errors of its disk, and disk quotas",
        Some(ErrorCode::DatabaseCorrupt) => {
            "; it is damaged: move it away (polyhook creates a new one) and recover it with `sqlite3 FILE .recover`"
        }
        Some(ErrorCode::NotADatabase) => {
            "; it is not a queue file, so queue.url (or spool.path) probably names a wrong path; if polyhook wrote it, it \
             is damaged: move it away"
        }
        _ => "",
    }
}
