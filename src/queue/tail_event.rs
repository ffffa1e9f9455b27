//! What happened to a delivery or a job, in a line, for those who follow the queue (`polyhook tail`).
//!
//! A note holds names, numbers and reasons: no body, and nothing a caller has said.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Announcement, History, Message};
use crate::event::Event;

/// Longer names are cut: they come from outside, and a line is to be read.
const LONGEST_NAME: usize = 255;

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TailMessage {
    /// Something happened.
    Event(Box<TailEvent>),
    /// So many notes did not get through: more happened than could be told.
    Missed(u64),
    /// Nothing can be told for now, and why; what happens meanwhile may never be.
    Interrupted(String),
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TailEventKind {
    /// An event became durable.
    Delivery,
    /// A job was done.
    Done,
    /// A try failed, and there will be another.
    Retry,
    /// A job became a dead letter.
    Dead,
    /// An archived conversation was announced.
    Ready,
}

impl TailEventKind {
    /// The word for it.
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

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct TailEvent {
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub what: TailEventKind,
    /// The event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event's environment.
    pub environment: String,
    /// The event's id, or the announcement's.
    pub id: String,
    /// What it was about, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// Whose it is, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    /// Which try it was, from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<usize>,
    /// Why a try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What PolyAI answered to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// PolyAI's name for that answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// When the next try is due, at the earliest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// How long after the delivery it happened, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
}

impl TailEvent {
    /// `message` became durable.
    pub(super) fn delivery(message: &Message, at: Timestamp) -> Self {
        Self::of(message, TailEventKind::Delivery, at)
    }

    /// A job was done, at the first try after those of `history`.
    pub(super) fn done(message: &Message, history: &History, at: Timestamp) -> Self {
        Self { attempt: Some(history.failures + 1), ..Self::of(message, TailEventKind::Done, at) }
    }

    /// The last try of `history` failed, and there will be another `after` a wait.
    pub(super) fn retry(message: &Message, history: &History, after: Duration, at: Timestamp) -> Self {
        Self {
            retry_at: at.checked_add(after).ok(),
            ..Self::failed(message, history, TailEventKind::Retry, at)
        }
    }

    /// The last try of `history` failed for good.
    pub(super) fn dead(message: &Message, history: &History, at: Timestamp) -> Self {
        Self::failed(message, history, TailEventKind::Dead, at)
    }

    /// An announcement was made.
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
            ..Self::of(message, what, at)
        }
    }

    fn of(message: &Message, what: TailEventKind, at: Timestamp) -> Self {
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

/// What the manifest in an announcement says of where the conversation comes from.
#[derive(Debug, Deserialize)]
pub(super) struct ManifestOrigin {
    project_id: String,
    /// The event that asked for it.
    #[serde(default)]
    pub(super) event_id: Option<String>,
}

impl ManifestOrigin {
    /// None in an announcement that is not ours.
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
    name[..name.floor_char_boundary(LONGEST_NAME)].to_owned()
}
