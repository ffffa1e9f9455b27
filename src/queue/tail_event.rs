//! Events for people who follow the queue (`polyhook tail`): one line for each delivery, job or announcement.
//!
//! A tail event holds names, numbers and reasons. It holds no body and no text of a conversation.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Announcement, History, Message};
use crate::event::Event;

/// Longer names are cut, because they come from outside and must fit a line.
const MAX_NAME_BYTES: usize = 255;

/// A message to a follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailMessage {
    /// An event.
    Event(Box<TailEvent>),
    /// The number of events that were dropped because there were too many.
    Missed(u64),
    /// Following is interrupted, with the reason. Events that happen meanwhile may be missing.
    Interrupted(String),
}

/// The kind of a tail event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TailEventKind {
    /// An event became durable.
    Delivery,
    /// A job was done.
    Done,
    /// An attempt failed, and there will be another.
    Retry,
    /// A job became a dead letter.
    Dead,
    /// An archived conversation was announced.
    Ready,
}

impl TailEventKind {
    /// Returns the word for it in JSON and routing keys.
    pub fn label(self) -> &'static str {
        match self {
            Self::Delivery => "delivery",
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::Ready => "ready",
        }
    }
}

/// An event for followers; see the module. Its JSON is a public format.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TailEvent {
    /// Time of the event.
    pub at: Timestamp,
    /// The kind of event.
    pub what: TailEventKind,
    /// The type of PolyAI's event or of the announcement.
    #[serde(rename = "event_type", alias = "type")]
    pub kind: String,
    /// The environment of PolyAI's event.
    pub environment: String,
    /// The id of PolyAI's event or of the announcement.
    pub id: String,
    /// The conversation, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// The project, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Number of the attempt, from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<usize>,
    /// The reason word of a failed attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The HTTP status of PolyAI's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The correlation id of that answer, or of the request if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The earliest time of the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Milliseconds since the delivery, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

impl TailEvent {
    /// Describes a message that became durable.
    pub(super) fn delivery(message: &Message, at: Timestamp) -> Self {
        Self::about(message, TailEventKind::Delivery, at)
    }

    /// Describes a finished job. `history` holds the attempts before the successful one.
    pub(super) fn done(message: &Message, history: &History, at: Timestamp) -> Self {
        Self { attempt: Some(history.failures + 1), ..Self::about(message, TailEventKind::Done, at) }
    }

    /// Describes a failed attempt, the last of `history`, with another attempt `after` a delay.
    pub(super) fn retry(message: &Message, history: &History, after: Duration, at: Timestamp) -> Self {
        Self {
            retry_at: at.checked_add(after).ok(),
            ..Self::failed(message, history, TailEventKind::Retry, at)
        }
    }

    /// Describes a job that became a dead letter after the last attempt of `history`.
    pub(super) fn dead(message: &Message, history: &History, at: Timestamp) -> Self {
        Self::failed(message, history, TailEventKind::Dead, at)
    }

    /// Describes a published announcement.
    pub(super) fn ready(announcement: &Announcement, at: Timestamp) -> Self {
        Self {
            conversation_id: Some(cut(&announcement.subject)),
            project_id: ManifestOrigin::read(&announcement.body).map(|origin| cut(&origin.project_id)),
            ..Self::named(
                &announcement.id,
                &announcement.kind,
                &announcement.environment,
                TailEventKind::Ready,
                at,
            )
        }
    }

    fn failed(message: &Message, history: &History, what: TailEventKind, at: Timestamp) -> Self {
        let last = history.attempts.last();
        Self {
            attempt: Some(history.failures),
            reason: last.map(|last| last.reason.to_string()),
            status: last.and_then(|last| last.status),
            correlation_id: last.and_then(|last| last.correlation_id.as_deref().map(cut)),
            ..Self::about(message, what, at)
        }
    }

    fn about(message: &Message, what: TailEventKind, at: Timestamp) -> Self {
        let event = Event::read(&message.body);
        let after = at.duration_since(message.received_at);
        Self {
            conversation_id: event.conversation_id.as_deref().map(cut),
            project_id: event.project_id.as_deref().map(cut),
            after_ms: u64::try_from(after.as_millis()).ok(),
            ..Self::named(&message.id, &message.kind, &message.environment, what, at)
        }
    }

    fn named(id: &str, kind: &str, environment: &str, what: TailEventKind, at: Timestamp) -> Self {
        Self {
            at,
            what,
            kind: cut(kind),
            environment: cut(environment),
            id: cut(id),
            conversation_id: None,
            project_id: None,
            attempt: None,
            reason: None,
            status: None,
            correlation_id: None,
            retry_at: None,
            after_ms: None,
        }
    }
}

/// The origin of a conversation, from the manifest in an announcement.
#[derive(Debug, Deserialize)]
pub(super) struct ManifestOrigin {
    project_id: String,
    /// The id of the event that caused the fetch.
    #[serde(default)]
    pub(super) event_id: Option<String>,
}

impl ManifestOrigin {
    /// Parses an announcement's body. Returns `None` if it holds no manifest.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Announced {
            data: Data,
        }
        #[derive(Deserialize)]
        struct Data {
            manifest: ManifestOrigin,
        }
        serde_json::from_slice(body).ok().map(|Announced { data }| data.manifest)
    }
}

fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_NAME_BYTES)].to_owned()
}
