//! `[queue]`: which queue, and how to reach it.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// `[queue]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QueueConfig {
    /// `sqlite:PATH` for the embedded queue, or one or several `amqp://` / `amqps://` URLs of one RabbitMQ
    /// cluster, tried in turn. Holds the password, so it is never shown.
    pub url: Urls,
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
    /// Embedded queue: how long deliveries that are done, and events nobody asked for, are kept. Also the
    /// time over which a duplicate is recognised. Dead letters are kept until somebody drops them.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub retention: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            url: Urls::One(Secret::new("sqlite:polyhook-data/queue.db")),
            url_file: None,
            prefix: "polyhook".to_owned(),
            publish_timeout: Duration::from_secs(1),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            retention: Duration::from_hours(7 * 24),
        }
    }
}

/// One URL or a list of them.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Urls {
    /// `url = "…"`
    One(Secret),
    /// `url = ["…", "…"]`
    Many(Vec<Secret>),
}

impl Urls {
    /// The URLs in order.
    pub fn as_slice(&self) -> &[Secret] {
        match self {
            Self::One(url) => std::slice::from_ref(url),
            Self::Many(urls) => urls,
        }
    }
}
