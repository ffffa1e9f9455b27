//! Why the archive did not do it.

use std::path::PathBuf;

use thiserror::Error;

use crate::wav::BadWav;

/// Why the archive did not do it. Only [`ArchiveError::Config`] and [`ArchiveError::Newer`] cannot be mended
/// by time alone.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// `[archive]` cannot work as it is written.
    #[error("archive: {0}")]
    Config(String),
    /// The folder of a `file:` archive cannot be made or locked.
    #[error("archive folder {}: {source}", path.display())]
    Folder {
        /// Which folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store knows us not, or does not let us.
    #[error("the object store refused the credentials, or they lack a permission: {0}")]
    Denied(String),
    /// The store is away, slow, full, or answered what it should not.
    #[error("the object store failed: {0}")]
    Store(#[source] object_store::Error),
    /// The store accepts a write whose condition does not hold, so that racing workers would not be safe.
    #[error("the object store ignores conditional writes (If-None-Match); use one that supports them")]
    Unconditional,
    /// Somebody else is archiving the same conversation, or replaced objects while we did.
    #[error("the conversation is being archived by somebody else; it will be tried again")]
    Raced,
    /// Taking the recording was broken off in the middle of a part; nobody knows whether it arrived.
    #[error("the recording was broken off on its way to the object store; it will be tried again")]
    Torn,
    /// A manifest that is no manifest.
    #[error("{key} cannot be read as a manifest ({reason}); move it away to have it written again")]
    Manifest {
        /// The object's key.
        key: String,
        /// Where and why reading it failed, without its content.
        reason: String,
    },
    /// A manifest of a later polyhook, which this one must not overwrite.
    #[error("{key} has schema version {version}, which is newer than this polyhook; upgrade it")]
    Newer {
        /// The object's key.
        key: String,
        /// Its schema version.
        version: u32,
    },
    /// Another conversation lies under the same key: a file system that does not tell case apart.
    #[error("{key} belongs to another conversation; is the file system case-insensitive?")]
    Collision {
        /// The object's key.
        key: String,
    },
}

impl ArchiveError {
    /// A short constant word for metric labels and reasons.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Folder { .. } => "folder",
            Self::Denied(_) => "denied",
            Self::Store(_) => "store",
            Self::Unconditional => "unconditional",
            Self::Raced => "raced",
            Self::Torn => "torn",
            Self::Manifest { .. } => "manifest",
            Self::Newer { .. } => "newer",
            Self::Collision { .. } => "collision",
        }
    }
}

impl From<object_store::Error> for ArchiveError {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as E;
        match error {
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => {
                Self::Denied(reason(&error.to_string()))
            }
            other => Self::Store(other),
        }
    }
}

/// The store's own word for a refusal (`SignatureDoesNotMatch`), which is what manuals are indexed by. The
/// rest of its answer repeats the request, key id included.
fn reason(answer: &str) -> String {
    let code = answer.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or_else(|| answer.chars().take(200).collect(), |(code, _)| code.to_owned())
}

/// Why a recording was not taken.
#[derive(Debug, Error)]
pub enum AudioError {
    /// What came is no whole recording; ask for it again.
    #[error(transparent)]
    Bad(#[from] BadWav),
    /// It may have been good, but could not be stored.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl From<object_store::Error> for AudioError {
    fn from(error: object_store::Error) -> Self {
        Self::Archive(error.into())
    }
}
