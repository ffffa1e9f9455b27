//! `[queue]` and `[spool]`: the queue's backend and address, and the spool for times when the broker is unreachable.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use thiserror::Error;

use crate::{
    secret::{self, Secret},
    telemetry::trace::MessagingNames,
};

/// `[queue]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// `sqlite:PATH` for the embedded queue, or one or several `amqp://` / `amqps://` URLs of one RabbitMQ
    /// cluster, tried in turn. Its password is never shown.
    pub url: QueueUrls,
    /// A file with the URL (or one a line), instead of `url`.
    pub url_file: Option<PathBuf>,
    /// The first part of every exchange's and queue's name.
    pub prefix: String,
    /// Maximum time for the broker to confirm a message.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub publish_timeout: Duration,
    /// `amqps://`: PEM file of certificate authorities to trust in addition to the system's.
    pub ca_file: Option<PathBuf>,
    /// `amqps://`: PEM file of the client certificate chain, if the broker requires one.
    pub client_cert_file: Option<PathBuf>,
    /// `amqps://`: PEM file (PKCS#8) of the client certificate's key.
    pub client_key_file: Option<PathBuf>,
    /// RabbitMQ: time for which a repeated delivery is recognised as a duplicate. PolyAI's last retry comes after about
    /// five and a half hours.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub dedup_window: Duration,
    /// Embedded queue: time for which events without a job, announcements, and the hashes of finished deliveries are kept.
    /// Also the time for which a duplicate is recognised. Dead letters are kept until they are dropped or replayed.
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

/// One URL or a list of them. It is shown without passwords.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum QueueUrls {
    /// `url = "…"`
    One(Secret),
    /// `url = ["…", "…"]`
    Many(Vec<Secret>),
}

impl QueueUrls {
    /// Returns the URLs in order.
    pub fn as_slice(&self) -> &[Secret] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Many(urls) => urls,
        }
    }
}

impl Serialize for QueueUrls {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let shown = |url: &Secret| secret::redact_url(url.expose());
        match self {
            Self::One(url) => serializer.serialize_str(&shown(url)),
            Self::Many(urls) => serializer.collect_seq(urls.iter().map(shown)),
        }
    }
}

/// The implementation that the URLs select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueBackend {
    /// The embedded queue in this file.
    Sqlite(PathBuf),
    /// RabbitMQ.
    RabbitMq,
}

/// An error in the queue's URLs. It shows no URL, because a URL may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum QueueUrlError {
    /// There is no URL.
    #[error("it is empty; use sqlite:PATH or amqp://user:password@host:5672/vhost")]
    Empty,
    /// The scheme is neither SQLite's nor AMQP's.
    #[error(
        "it begins with none of sqlite:, amqp:// and amqps://; use sqlite:PATH or amqp://user:password@host:5672/vhost"
    )]
    Scheme,
    /// There are several URLs, and not all of them are AMQP URLs.
    #[error("several URLs must all be amqp:// or amqps:// URLs of one RabbitMQ cluster")]
    Mixed,
    /// `sqlite:` without a path.
    #[error("sqlite: needs a path, as in sqlite:polyhook-data/queue.db")]
    NoPath,
}

impl QueueConfig {
    /// Returns the names that spans use for the queue.
    pub fn messaging_names(&self) -> MessagingNames {
        let embedded = matches!(self.backend(), Ok(QueueBackend::Sqlite(_)));
        MessagingNames {
            system: if embedded { "polyhook" } else { "rabbitmq" },
            events: format!("{}.events", self.prefix),
            jobs: format!("{}.fetch", self.prefix),
            conversations: format!("{}.conversations", self.prefix),
        }
    }

    /// Returns the URLs without users and passwords.
    pub fn address(&self) -> String {
        let shown = |url: &Secret| match url.expose() {
            path if path.starts_with("sqlite:") => path.to_owned(),
            url => secret::url_address(url).unwrap_or_else(|| "amqp://…".to_owned()),
        };
        self.url.as_slice().iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    /// Returns the implementation that the URLs select.
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

/// `[spool]`: local storage for deliveries while RabbitMQ is unreachable. Ignored with the embedded queue.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// The spool's file. Empty: no spool; while the broker is unreachable, deliveries are answered 503 and PolyAI retries.
    pub path: PathBuf,
    /// Maximum size. While the spool is full, deliveries are answered 503.
    #[schemars(with = "String", extend("type" = ["string", "integer"]))]
    pub max_bytes: ByteSize,
    /// Messages per second that the spool hands on once the broker is reachable again.
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
    fn the_url_selects_the_backend() {
        assert_eq!(backend(&["sqlite:a/b.db"]), Ok(QueueBackend::Sqlite("a/b.db".into())));
        assert_eq!(backend(&["sqlite:///a/b.db"]), Ok(QueueBackend::Sqlite("/a/b.db".into())));
        assert_eq!(backend(&["amqp://a", "amqps://b"]), Ok(QueueBackend::RabbitMq));
        assert_eq!(backend(&["amqp://a", "sqlite:b"]), Err(QueueUrlError::Mixed));
        assert_eq!(backend(&["redis://a"]), Err(QueueUrlError::Scheme));
        assert_eq!(backend(&["sqlite:"]), Err(QueueUrlError::NoPath));
        assert_eq!(backend(&[]), Err(QueueUrlError::Empty));
    }

    #[test]
    fn an_address_has_no_password() {
        let urls = [
            "amqp://user:pa@ss@a/%2f",
            "amqps://u:secret@[::1]:5671/v?x=secret",
            "amqp:secret",
            "amqp://u:secret@a;amqp://u:secret@b",
            "sqlite:a/b.db",
        ];
        let url = QueueUrls::Many(urls.map(Secret::new).to_vec());
        let address = QueueConfig { url, ..QueueConfig::default() }.address();
        assert_eq!(address, "amqp://a/%2f, amqps://[::1]:5671/v, amqp://…, amqp://b, sqlite:a/b.db");
    }
}
