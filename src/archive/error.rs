//! Errors of the archive.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::{disk::NoSpace, problem::Problem, wav::WavError};

/// An operation of the archive failed. All errors may pass with time, except [`ArchiveError::Config`] and
/// [`ArchiveError::Newer`].
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The `[archive]` section is invalid.
    #[error("{0}")]
    Config(Problem),
    /// The folder of a `file:` archive cannot be created or locked.
    #[error("archive folder {}: {source}{}", path.display(), hint(source))]
    Folder {
        /// The folder or file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The disk of a `file:` archive has no space that the archive may use.
    #[error(transparent)]
    NoSpace(#[from] NoSpace),
    /// The store rejects the credentials, or they lack a permission.
    #[error("the object store rejected the credentials, or they lack a permission: {0}")]
    Denied(String),
    /// The store is unavailable, slow or full, or sent an unexpected answer.
    #[error(
        "the object store failed: {0}; check archive.url and the network, or find the cause with `polyhook doctor`"
    )]
    Store(#[source] object_store::Error),
    /// The store accepts a write whose condition is not met, so concurrent workers would not be safe.
    #[error("the object store ignores conditional writes (If-None-Match); use one that supports them")]
    Unconditional,
    /// Another worker archives the same conversation, or replaced objects at the same time.
    #[error("another worker is archiving the conversation; polyhook tries again")]
    Raced,
    /// The upload of a recording was interrupted in the middle of a part. It is unknown if the part was stored.
    #[error("the upload of the recording to the object store was interrupted; polyhook tries again")]
    Interrupted,
    /// An object in the place of a manifest is not a manifest.
    #[error("{key} cannot be read as a manifest ({reason}); move it away, and polyhook writes it again")]
    Manifest {
        /// The key of the object.
        key: String,
        /// The position and kind of the error, without the object's content.
        reason: String,
    },
    /// An object is larger than any that polyhook writes, so it is not read.
    #[error(
        "{key} has {size} bytes, more than polyhook ever writes; repair it with `polyhook audit --repair`"
    )]
    TooLarge {
        /// The key of the object.
        key: String,
        /// Its size in bytes.
        size: u64,
    },
    /// A later polyhook wrote the manifest. This version must not overwrite it.
    #[error(
        "{key} has schema version {version}, which is newer than this polyhook supports; upgrade polyhook"
    )]
    Newer {
        /// The key of the object.
        key: String,
        /// Its schema version.
        version: u32,
    },
    /// Another conversation has the same key, because the file system ignores case.
    #[error("{key} belongs to another conversation; is the file system case-insensitive?")]
    Collision {
        /// The key of the object.
        key: String,
    },
}

impl ArchiveError {
    /// Returns a short constant word for metric labels and reasons.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Folder { .. } => "folder",
            Self::NoSpace(_) => "no_space",
            Self::Denied(_) => "denied",
            Self::Store(_) => "store",
            Self::Unconditional => "unconditional",
            Self::Raced => "raced",
            Self::Interrupted => "torn",
            Self::Manifest { .. } => "manifest",
            Self::TooLarge { .. } => "too_large",
            Self::Newer { .. } => "newer",
            Self::Collision { .. } => "collision",
        }
    }
}

impl ArchiveError {
    /// Returns true if the disk of the archive's folder is full, over its quota or read-only.
    pub(super) fn is_full_or_read_only(&self) -> bool {
        matches!(self, Self::NoSpace(_))
            || matches!(self, Self::Folder { source, .. } if !hint(source).is_empty())
    }
}

/// Returns advice for a person about an error of a disk; empty if there is none.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; free space on its disk, or remove files if it has no free inodes",
        io::ErrorKind::QuotaExceeded => "; raise the quota of the user that runs polyhook, or free space",
        io::ErrorKind::ReadOnlyFilesystem => {
            "; mount it writable again, and check the system log for errors of its disk"
        }
        _ => "",
    }
}

impl From<object_store::Error> for ArchiveError {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        match error {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Self::Denied(error_code(&error.to_string()))
            }
            other => Self::Store(other),
        }
    }
}

/// Extracts the store's error code (`SignatureDoesNotMatch`), because manuals list errors by it. The rest of the
/// answer repeats the request with the key id.
fn error_code(answer: &str) -> String {
    let code = answer.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or_else(|| answer.chars().take(200).collect(), |(code, _)| code.to_owned())
}

/// A recording was not accepted.
#[derive(Debug, Error)]
pub enum AudioError {
    /// The received bytes are not a complete recording. Fetch it again.
    #[error(transparent)]
    Bad(#[from] WavError),
    /// The recording could not be stored.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl From<object_store::Error> for AudioError {
    fn from(error: object_store::Error) -> Self {
        Self::Archive(error.into())
    }
}
