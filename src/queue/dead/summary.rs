//! What is known of a dead letter. The JSON of `polyhook dead` has these fields.

use jiff::Timestamp;
use serde::Serialize;

use super::DeadLetter;
use crate::{event::Event, queue::Attempt};

/// A dead letter without attempts and body.
#[derive(Debug, Serialize)]
pub struct DeadLetterSummary<'a> {
    /// The event's id.
    pub id: &'a str,
    /// The reason word of the last attempt.
    pub reason: &'a str,
    /// The text of the last attempt.
    pub detail: Option<&'a str>,
    /// The HTTP status of the last attempt.
    pub status: Option<u16>,
    /// The latest correlation id from PolyAI.
    pub correlation_id: Option<&'a str>,
    /// Time at which it became a dead letter.
    pub dead_since: Timestamp,
    /// Failed attempts in all.
    pub tries: usize,
    /// Replays whose times are kept.
    pub replays: usize,
    /// The event's type.
    pub event_type: &'a str,
    /// The event's environment.
    pub environment: &'a str,
    /// The account that the event names.
    pub account_id: Option<String>,
    /// The project that the event names.
    pub project_id: Option<String>,
    /// The conversation that the event names.
    pub conversation_id: Option<String>,
    /// Time of the delivery.
    pub received_at: Timestamp,
}

impl<'a> DeadLetterSummary<'a> {
    /// Reads the event.
    pub fn new(letter: &'a DeadLetter) -> Self {
        let DeadLetter { message, history, .. } = letter;
        let last = letter.last_attempt();
        let event = Event::read(&message.body);
        Self {
            id: &message.id,
            reason: letter.reason(),
            detail: last.map(|last| last.detail.as_str()),
            status: last.and_then(|last| last.status),
            correlation_id: letter.correlation_id(),
            dead_since: letter.since(),
            tries: history.attempt_count(),
            replays: history.replays.len(),
            event_type: &message.kind,
            environment: &message.environment,
            account_id: event.account_id,
            project_id: event.project_id,
            conversation_id: event.conversation_id,
            received_at: message.received_at,
        }
    }
}

/// A dead letter with attempts and, if wanted, body.
#[derive(Debug, Serialize)]
pub struct DeadLetterDetails<'a> {
    #[serde(flatten)]
    summary: DeadLetterSummary<'a>,
    attempts: &'a [Attempt],
    replayed_at: &'a [Timestamp],
    traceparent: Option<&'a str>,
    content_type: &'a str,
    body_bytes: usize,
    /// Set if the body is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// Set if the body is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl<'a> DeadLetterDetails<'a> {
    /// Reads the event.
    pub fn new(letter: &'a DeadLetter, with_body: bool) -> Self {
        let DeadLetter { message, history, .. } = letter;
        let text = std::str::from_utf8(&message.body).ok();
        Self {
            summary: DeadLetterSummary::new(letter),
            attempts: &history.attempts,
            replayed_at: &history.replays,
            traceparent: message.traceparent.as_deref(),
            content_type: &message.content_type,
            body_bytes: message.body.len(),
            body: text.filter(|_| with_body),
            body_hex: (with_body && text.is_none()).then(|| hex::encode(&message.body)),
        }
    }
}

/// An entry in the history of a dead letter.
#[derive(Clone, Copy, Debug)]
pub enum HistoryEntry<'a> {
    /// A failed attempt.
    Attempt(&'a Attempt),
    /// A replay at this time.
    Replay(Timestamp),
}

impl DeadLetter {
    /// Returns the attempts and replays that are kept, in order of time.
    pub fn entries(&self) -> Vec<HistoryEntry<'_>> {
        let mut entries = Vec::new();
        let mut replays = self.history.replays.iter().copied().peekable();
        for attempt in &self.history.attempts {
            while let Some(at) = replays.next_if(|at| *at <= attempt.at) {
                entries.push(HistoryEntry::Replay(at));
            }
            entries.push(HistoryEntry::Attempt(attempt));
        }
        entries.extend(replays.map(HistoryEntry::Replay));
        entries
    }
}
