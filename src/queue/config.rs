//! `[queue]` and `[spool]`: which queue, how to reach it, and where deliveries wait while it is away.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{secret::Secret, telemetry::trace::MessagingNames};

/// `[queue]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// `sqlite:PATH` for the embedded queue, or one or several `amqp://` / `amqps://` URLs of one RabbitMQ
    /// cluster, tried in turn. Holds the password, so it is never shown.
    pub url: QueueUrls,
    /// A file with the URL (or one a line), instead of `url`.
    pub url_file: Option<PathBuf>,
    /// The first part of every exchange's and queue's name.
    pub prefix: String,
    /// How long the broker may take to confirm a message.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub publish_timeout: Duration,
    /// `amqps://`: PEM file of the authorities to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// `amqps://`: PEM file of our certificate chain, where the broker asks for one.
    pub client_cert_file: Option<PathBuf>,
    /// `amqps://`: PEM file (PKCS#8) of the key to it.
    pub client_key_file: Option<PathBuf>,
    /// RabbitMQ: how long a delivery is recognised as a duplicate. PolyAI's last retry comes after about five and
    /// a half hours.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub dedup_window: Duration,
    /// Embedded queue: how long events nobody asked for, announcements, and the hashes of deliveries that are done are
    /// kept. Also the time over which a duplicate is recognised. Dead letters are kept until somebody drops them.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub retention: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            url: QueueUrls::One(Secret::new("sqlite:polyhook-data/queue.db")),
            url_file: None,
            prefix: "polyhook".to_owned(),
            publish_timeout: Duration::from_secs(1),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            dedup_window: Duration::from_hours(6),
            retention: Duration::from_hours(7 * 24),
        }
    }
}

/// One URL or a list of them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum QueueUrls {
    /// `url = "…"`
    One(Secret),
    /// `url = ["…", "…"]`
    Many(Vec<Secret>),
}

impl QueueUrls {
    /// The URLs in order.
    pub fn as_slice(&self) -> &[Secret] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Many(urls) => urls,
        }
    }
}

/// Which implementation the URLs ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueBackend {
    /// The embedded queue in this file.
    Sqlite(PathBuf),
    /// RabbitMQ.
    RabbitMq,
}

/// The URLs make no queue. Shows no URL: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueueUrlError {
    /// Nothing is set.
    #[error("it is empty; use sqlite:PATH or amqp://user:password@host:5672/vhost")]
    Empty,
    /// Another scheme.
    #[error("it starts with neither sqlite: nor amqp:// nor amqps://")]
    Scheme,
    /// Several, but not all of RabbitMQ.
    #[error("several URLs must all be amqp:// or amqps:// URLs of one RabbitMQ cluster")]
    Mixed,
    /// `sqlite:` without a path.
    #[error("sqlite: needs a path, as in sqlite:polyhook-data/queue.db")]
    NoPath,
}

impl QueueConfig {
    /// What spans call it.
    pub fn messaging_names(&self) -> MessagingNames {
        let embedded = matches!(self.backend(), Ok(QueueBackend::Sqlite(_)));
        MessagingNames {
            system: if embedded { "polyhook" } else { "rabbitmq" },
            events: format!("{}.events", self.prefix),
            jobs: format!("{}.fetch", self.prefix),
            conversations: format!("{}.conversations", self.prefix),
        }
    }

    /// Which implementation the URLs ask for.
    pub fn backend(&self) -> Result<QueueBackend, QueueUrlError> {
        let urls = self.url.as_slice();
        let amqp = |url: &Secret| url.expose().starts_with("amqp://") || url.expose().starts_with("amqps://");
        match urls {
            [] => Err(QueueUrlError::Empty),
            [url] if url.is_empty() => Err(QueueUrlError::Empty),
            [url] if url.expose().starts_with("sqlite:") => {
                let path = url.expose().trim_start_matches("sqlite:");
                let path = path.strip_prefix("//").unwrap_or(path);
                if path.is_empty() {
                    Err(QueueUrlError::NoPath)
                } else {
                    Ok(QueueBackend::Sqlite(PathBuf::from(path)))
                }
            }
            urls if urls.iter().all(amqp) => Ok(QueueBackend::RabbitMq),
            [_] => Err(QueueUrlError::Scheme),
            _ => Err(QueueUrlError::Mixed),
        }
    }
}

/// `[spool]`: where deliveries wait while RabbitMQ is away. Without meaning for the embedded queue.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// The spool's file. Empty: no spool, so broker trouble is a 503 and PolyAI tries again.
    pub path: PathBuf,
    /// How large it may grow. A full one is answered 503.
    #[schemars(with = "String")]
    pub max_bytes: ByteSize,
    /// How many messages a second are handed on when the broker is back.
    pub drain_rate: NonZeroU32,
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::new(),
            max_bytes: ByteSize::gib(1),
            drain_rate: NonZeroU32::new(1000).unwrap_or(NonZeroU32::MIN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(urls: &[&str]) -> Result<QueueBackend, QueueUrlError> {
        let url = QueueUrls::Many(urls.iter().copied().map(Secret::new).collect());
        QueueConfig { url, ..QueueConfig::default() }.backend()
    }

    #[test]
    fn the_url_names_the_backend() {
        assert_eq!(backend(&["sqlite:a/b.db"]), Ok(QueueBackend::Sqlite("a/b.db".into())));
        assert_eq!(backend(&["sqlite:///a/b.db"]), Ok(QueueBackend::Sqlite("/a/b.db".into())));
        assert_eq!(backend(&["amqp://a", "amqps://b"]), Ok(QueueBackend::RabbitMq));
        assert_eq!(backend(&["amqp://a", "sqlite:b"]), Err(QueueUrlError::Mixed));
        assert_eq!(backend(&["redis://a"]), Err(QueueUrlError::Scheme));
        assert_eq!(backend(&["sqlite:"]), Err(QueueUrlError::NoPath));
        assert_eq!(backend(&[]), Err(QueueUrlError::Empty));
    }
}
