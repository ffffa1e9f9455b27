//! The facts that a status consists of. Serialized, they are the output of `polyhook status --json`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    index::LastIndexPass,
    reconcile::{LastAudit, LastPass},
};

/// The state of an installation at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// True if every part could be read.
    pub complete: bool,
    /// Time of the report.
    pub checked_at: Timestamp,
    /// The versions of the programs.
    pub versions: Versions,
    /// Jobs and dead letters.
    pub queue: Part<QueueStatus>,
    /// The spool of this machine's receiver.
    pub spool: Part<SpoolStatus>,
    /// The last pass of reconciliation.
    pub last_pass: Part<LastPass>,
    /// The last audit.
    pub last_audit: Part<LastAudit>,
    /// The last pass of the service that keeps the index current.
    pub index: Part<LastIndexPass>,
    /// The running process that the configuration names.
    pub process: Part<ProcessStatus>,
}

impl StatusReport {
    /// Returns the parts that could not be read, each with the reason.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("queue", self.queue.error()),
            ("spool", self.spool.error()),
            ("last_pass", self.last_pass.error()),
            ("last_audit", self.last_audit.error()),
            ("index", self.index.error()),
            ("process", self.process.error()),
        ]
        .into_iter()
        .filter_map(|(part, error)| Some((part, error?)))
    }
}

/// A part of a status that has a source of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<T> {
    /// The source was read.
    Known(T),
    /// There is nothing to read.
    Absent {
        /// A constant word: `off`, `none`, `not_here` for what may be elsewhere, or `pending` before the first reading.
        state: &'static str,
        /// A text for people with the same meaning.
        text: String,
    },
    /// The source could not be read. The text says why and what to do.
    Failed(String),
}

impl<T> Part<T> {
    /// Creates a part without content.
    pub(super) fn absent(state: &'static str, text: impl Into<String>) -> Self {
        Self::Absent { state, text: text.into() }
    }

    /// Returns the content.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Absent { .. } | Self::Failed(_) => None,
        }
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Known(_) | Self::Absent { .. } => None,
        }
    }
}

impl<T: Serialize> Serialize for Part<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (key, text) = match self {
            Self::Known(known) => return known.serialize(serializer),
            Self::Absent { state, .. } => ("state", *state),
            Self::Failed(error) => ("error", error.as_str()),
        };
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(key, text)?;
        map.end()
    }
}

/// The versions of the programs.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// This program.
    pub polyhook: &'static str,
    /// The running process, if it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The broker: product and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
}

/// Jobs and dead letters. What is not known is absent, and `unknown` says why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueueStatus {
    /// `sqlite` or `rabbitmq`.
    pub backend: &'static str,
    /// The path of the file, or the URL of the broker's node without user and password.
    pub address: String,
    /// The consumers of jobs. RabbitMQ only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u64>,
    /// Jobs that a worker could take now.
    pub waiting_jobs: u64,
    /// Time for which the oldest of them has waited. On RabbitMQ it may be too long, never too short.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_age_ms: Option<u64>,
    /// Jobs that workers hold. On RabbitMQ those of the process that answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_flight_jobs: Option<u64>,
    /// Jobs that wait for a later time: the next two together. On RabbitMQ in the queues of the configured and the default
    /// delays.
    pub delayed_jobs: u64,
    /// Jobs that failed and wait for their next attempt.
    pub retry_jobs: u64,
    /// Later fetches of archived conversations.
    pub refresh_jobs: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Events that no queue of the customer takes, or that the embedded queue keeps.
    pub unrouted_events: u64,
    /// The keys that are absent because the value is not known, each with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unknown: BTreeMap<&'static str, &'static str>,
}

/// The spool of this machine's receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpoolStatus {
    /// The file.
    pub path: String,
    /// Deliveries that wait for the broker.
    pub messages: u64,
    /// The part of the file that is in use.
    pub bytes: u64,
    /// The maximum size of the file.
    pub max_bytes: u64,
    /// Age of the oldest delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_age_ms: Option<u64>,
}

/// The running process that the configuration names, as its admin listener reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// The URL of the admin listener.
    pub url: String,
    /// True if it can make deliveries durable.
    pub ready: bool,
    /// The reason why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The conditions that a person should fix.
    pub conditions: Vec<Condition>,
    /// The jobs that it works on, if it is a worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_jobs: Option<u64>,
    /// Its version, which is part of [`Versions`].
    #[serde(skip)]
    pub version: Option<String>,
    /// The jobs that RabbitMQ has delivered to it, if it is a worker.
    #[serde(skip)]
    pub held_jobs: Option<u64>,
    /// The age of the oldest job that waits, if it knows it.
    #[serde(skip)]
    pub oldest_age_ms: Option<u64>,
    /// What it has counted since its start.
    #[serde(skip)]
    pub counts: ProcessCounts,
}

/// What a process has counted since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessCounts {
    /// The start.
    pub started_at: Option<Timestamp>,
    /// The deliveries, if it is a receiver.
    pub deliveries: Option<DeliveryCounts>,
    /// The conversations that it has archived for the first time or again with other content, if it is a worker.
    pub archived: Option<u64>,
}

/// The requests to the webhook path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// All of them.
    pub received: u64,
    /// Those with a correct signature.
    pub verified: u64,
    /// Those without a correct signature.
    pub unverified: u64,
    /// Those with a correct signature that had come before.
    pub repeated: u64,
    /// Those with a correct signature that could not be made durable in time. PolyAI sends them again.
    pub not_durable: u64,
}

/// A condition that a person should fix although the process goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Condition {
    /// A constant word.
    pub name: String,
    /// A text for people: what happened, what it means and what to do.
    pub text: String,
}
