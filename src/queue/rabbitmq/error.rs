//! Configuration errors of the RabbitMQ queue.

use std::{io, path::PathBuf};

use thiserror::Error;

/// A configuration error that keeps the queue from opening. An unreachable broker is not an error here: the queue
/// opens and connects later.
#[derive(Debug, Error)]
pub enum OpenError {
    /// There is no URL.
    #[error(
        "queue.url names no broker: write \"amqps://user:password@host/vhost\", or \"sqlite:PATH\" for the embedded queue"
    )]
    NoUrl,
    /// A URL cannot be used.
    #[error(
        "URL {number} of queue.url cannot be used: {reason}; write amqps://user:password@host:port/vhost, special characters percent-encoded"
    )]
    Url {
        /// Position in the list, from one.
        number: usize,
        /// The error, without the URL, because the URL holds the password.
        reason: String,
    },
    /// A file does not exist or cannot be read.
    #[error("queue.{key}: {} cannot be read: {source}", path.display())]
    File {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Certificates or keys cannot be used.
    #[error("{0}")]
    Tls(String),
    /// The prefix cannot begin the name of a queue.
    #[error("queue.prefix must be 1 to 64 letters, digits, dots, dashes or underscores")]
    Prefix,
}
