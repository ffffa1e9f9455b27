//! What can be wrong with the file, whom it concerns, and what a person can do about it.

use std::fmt;

use rusqlite::ErrorCode;

use super::schema::OpenError;
use crate::queue::QueueError;

/// Why a transaction came to nothing.
pub(super) enum Trouble {
    /// The file cannot be opened.
    Open(OpenError),
    /// A statement or the commit failed.
    Sqlite(rusqlite::Error),
    /// What was written went into a file that is no longer at the path.
    Gone,
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error) => write!(f, "{error}"),
            Self::Sqlite(error) => {
                write!(f, "cannot write the queue file: {error}{}", hint(error))
            }
            Self::Gone => f.write_str("the queue file was deleted or replaced while it was in use"),
        }
    }
}

impl Trouble {
    /// Whether it is a single request's own and the others would have got through.
    pub(super) fn is_one_requests(&self) -> bool {
        match self {
            Self::Open(_) | Self::Gone => false,
            Self::Sqlite(error) => match error.sqlite_error_code() {
                Some(code) => matches!(
                    code,
                    ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch
                ),
                None => true,
            },
        }
    }

    /// Whether the connection is as good as before. That to a file that is gone has what was in it.
    pub(super) fn leaves_the_file_usable(&self) -> bool {
        self.is_one_requests()
            || matches!(self, Self::Gone)
            || matches!(self, Self::Sqlite(error) if matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)
            ))
    }

    pub(super) fn to_queue_error(&self) -> QueueError {
        QueueError::Unavailable(self.to_string())
    }
}

/// What a person can do about an error of SQLite's.
pub(super) fn hint(error: &rusqlite::Error) -> &'static str {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "; free space on its disk",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "; it and its folder must be writable for the user polyhook runs as"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "; another process keeps it locked: close what has it open (a shell, a backup)"
        }
        Some(ErrorCode::SystemIoFailure) => "; look for errors of its disk in the system's log",
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "; it is damaged: move it away (polyhook begins a new one) and recover it with `sqlite3 FILE .recover`"
        }
        _ => "",
    }
}
