//! Errors of the configuration and of connections.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::problem::Problem;

/// A configuration error that keeps the queue from opening. An unreachable broker is not an error here: the queue
/// opens and connects later. The text begins with the key.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no URL.
    #[error(
        "queue.url: it names no broker: write \"amqps://user:password@host/vhost\", or \"sqlite:PATH\" for the embedded queue"
    )]
    NoUrl,
    /// A URL cannot be used.
    #[error(
        "queue.url: URL {number} cannot be used: {reason}; write amqps://user:password@host:port/vhost, special characters percent-encoded"
    )]
    Url {
        /// Position in the list, from one.
        number: usize,
        /// The error, without the URL, because the URL holds the password.
        reason: String,
    },
    /// A file does not exist or cannot be read.
    #[error("{key}: {} cannot be read: {source}", path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("{key}: {message}")]
    Tls {
        /// The configuration key.
        key: &'static str,
        /// The error and its fix.
        message: String,
    },
    /// The prefix cannot begin the name of a queue.
    #[error("queue.prefix: it must be 1 to 64 letters, digits, dots, dashes or underscores")]
    Prefix,
}

impl OpenError {
    pub(super) fn tls(key: &'static str, message: impl Into<String>) -> Self {
        Self::Tls { key, message: message.into() }
    }

    /// Returns the configuration key that is wrong.
    pub fn key(&self) -> &'static str {
        match self {
            Self::NoUrl | Self::Url { .. } => "queue.url",
            Self::File { key, .. } | Self::Tls { key, .. } => key,
            Self::Prefix => "queue.prefix",
        }
    }
}

impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        Self::new(error.key(), error.to_string())
    }
}

/// The reason why a node does not accept a connection.
#[derive(Clone, Debug, Error)]
#[error("{reason}{}", .fix.map(|fix| format!(": {fix}")).unwrap_or_default())]
pub(super) struct ConnectError {
    pub(super) reason: String,
    /// What to do, if the reason says it.
    pub(super) fix: Option<&'static str>,
}
