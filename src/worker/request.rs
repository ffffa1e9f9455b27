//! The request to archive a conversation, and its outcome.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::failure::{JobFailure, RetryDecision};
use crate::{
    archive::{Manifest, Trigger},
    event::{self, CONVERSATION_DISCOVERED, Discovery, DiscoverySource, Event},
    polyai::{ConversationHint, ConversationInfo},
    queue::{History, Message},
};

/// A conversation to archive, and the origin of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// PolyAI's id.
    pub conversation_id: String,
    /// The account that the event or the command names.
    pub account_id: Option<String>,
    /// The project that the event or the command names.
    pub project_id: Option<String>,
    /// The kind of origin.
    pub trigger: Trigger,
    /// The id of the event.
    pub event_id: Option<String>,
    /// The time of the request; for a refresh, the time at which it is due.
    pub received_at: Timestamp,
    /// The start of the conversation, if the event names it.
    pub started_at: Option<Timestamp>,
    /// The environment of the conversation, if the event names it.
    pub environment: Option<String>,
    /// The trace to continue.
    pub traceparent: Option<String>,
    /// If true, conversations of every environment are archived, not only of the configured ones.
    pub any_environment: bool,
    /// The details that reconciliation or a command knows.
    pub discovery: Option<Discovery>,
}

/// The successful outcome of a request.
#[derive(Clone, Debug)]
pub enum FetchOutcome {
    /// The conversation is in the archive and announced.
    Archived(Box<ArchivedConversation>),
    /// A conversation that was archived before was to be fetched again.
    Refreshed(RefreshOutcome),
    /// Its environment is not configured.
    Skipped,
    /// A fetch that began after the event had arrived has archived and announced the conversation.
    Coalesced,
    /// The conversation was erased. If that happened while it was archived, it has been removed again.
    Erased,
}

/// The outcome of a refresh.
#[derive(Clone, Debug)]
pub enum RefreshOutcome {
    /// PolyAI's answer differs: it is archived as a new revision and announced.
    Updated(Box<ArchivedConversation>),
    /// PolyAI's answer has the archived bytes.
    Unchanged,
    /// PolyAI's answer is older than the archived copy, or has fewer fields.
    Stale,
    /// PolyAI no longer has the conversation; the archive keeps its copy.
    Gone,
    /// No request was necessary: the archive has a later copy, or none.
    Skipped,
}

impl RefreshOutcome {
    /// Returns the metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Updated(_) => "updated",
            Self::Unchanged => "unchanged",
            Self::Stale => "stale",
            Self::Gone => "gone",
            Self::Skipped => "skipped",
        }
    }
}

/// An archived conversation.
#[derive(Clone, Debug)]
pub struct ArchivedConversation {
    /// PolyAI's id.
    pub conversation_id: String,
    /// `archived`, `unchanged`, `stale`, or `known` if it was not fetched.
    pub outcome: &'static str,
    /// Its manifest.
    pub manifest: Manifest,
    /// The URLs of its objects, by name.
    pub urls: BTreeMap<String, String>,
    /// The correlation id of the request for the conversation, if it was fetched.
    pub correlation_id: Option<String>,
}

impl FetchOutcome {
    /// Returns the metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Archived(archived) => archived.outcome,
            Self::Refreshed(_) => "refreshed",
            Self::Skipped => "skipped",
            Self::Coalesced => "coalesced",
            Self::Erased => "erased",
        }
    }
}

impl FetchRequest {
    /// Reads the request of an event. Returns `None` if its environment is not in `environments`.
    pub(super) fn from_message(
        message: &Message,
        environments: &[String],
    ) -> Result<Option<Self>, JobFailure> {
        let is_discovery = message.kind.starts_with(CONVERSATION_DISCOVERED);
        let discovery = if is_discovery { Discovery::read(&message.body) } else { None };
        // A command may have archived a conversation of any environment.
        let is_refresh = discovery.as_ref().is_some_and(|discovery| discovery.age.is_some());
        let is_refetch = discovery.as_ref().is_some_and(|discovery| discovery.is_refetch);
        let is_wanted = |name: &String| name == event::UNKNOWN || environments.contains(name);
        if !is_refresh && !is_refetch && !is_wanted(&message.environment) {
            return Ok(None);
        }
        let event = Event::read(&message.body);
        let Some(conversation_id) = event.conversation_id else {
            return Err(JobFailure::new(
                "no_conversation_id",
                "the event names no conversation, so there is nothing to fetch: look at its body, then drop it",
                RetryDecision::Dead,
            ));
        };
        // An earlier fetch does not replace a refresh.
        let refresh_due = discovery.as_ref().and_then(Discovery::refresh_due);
        Ok(Some(Self {
            conversation_id,
            account_id: event.account_id,
            project_id: event.project_id,
            trigger: match &discovery {
                Some(Discovery { source: DiscoverySource::Command, .. }) => Trigger::Command,
                Some(Discovery { source: DiscoverySource::Trigger, .. }) => Trigger::Trigger,
                _ if is_refresh => Trigger::Refresh,
                _ if is_discovery => Trigger::Reconcile,
                _ => Trigger::Webhook,
            },
            event_id: Some(message.id.clone()),
            received_at: refresh_due.map_or(message.received_at, |due| due.max(message.received_at)),
            started_at: discovery
                .as_ref()
                .map_or_else(|| event::started_at(&message.body), |found| found.started_at),
            environment: (message.environment != event::UNKNOWN).then(|| message.environment.clone()),
            traceparent: message.traceparent.clone(),
            any_environment: is_refetch,
            discovery,
        }))
    }

    /// Corrects a receipt after `now`, which was recorded while the clock was ahead: the job is at least as old as its
    /// first attempt. Otherwise a wait that counts from the receipt would not end before that time.
    pub(super) fn correct_receipt(&mut self, history: &History, now: Timestamp) {
        if self.received_at > now {
            self.received_at = history.attempts.first().map_or(now, |first| first.at.min(now));
        }
    }

    /// Returns whether the conversation is written even if the archive has it.
    pub(super) fn force(&self) -> bool {
        self.discovery.as_ref().is_some_and(|discovery| discovery.force)
    }

    /// Returns the details of a refresh, if the request asks for one.
    pub(super) fn refresh(&self) -> Option<&Discovery> {
        self.discovery.as_ref().filter(|discovery| discovery.age.is_some())
    }

    /// Returns whether this request has written a copy, in this attempt or in an earlier one.
    pub(super) fn has_written(&self, manifest: &Manifest) -> bool {
        self.event_id == manifest.provenance.event_id
            && (self.event_id.is_some() || manifest.timings.received_at == Some(self.received_at))
    }

    /// Returns the facts by which the conversation is found in a list.
    pub(super) fn hint(&self) -> ConversationHint<'_> {
        ConversationHint {
            started_at: self.started_at,
            known_at: self.received_at,
            environments: self.environment.as_slice(),
            // Reconciliation and refreshes know the start from PolyAI.
            was_listed: self.discovery.as_ref().is_some_and(|discovery| discovery.started_at.is_some()),
        }
    }

    /// Returns the start of the conversation as far as it is known before the fetch. Most conversations start on the day on
    /// which their event arrives.
    pub(super) fn expected_start(&self) -> Timestamp {
        self.started_at.unwrap_or(self.received_at)
    }

    /// Returns the time from which `worker.audio_wait` counts. A webhook arrives right after the call. For an old call that
    /// something else requests, the wait is long over.
    pub(super) fn recording_due(&self, info: &ConversationInfo) -> Timestamp {
        match self.trigger {
            Trigger::Webhook => self.received_at,
            _ => info.ended_at().unwrap_or(self.received_at).min(self.received_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::DedupKey;

    fn message(body: &str) -> Message {
        let event = Event::read(body.as_bytes());
        Message {
            id: "evt".to_owned(),
            dedup: DedupKey::new("evt", body.as_bytes()),
            kind: event.kind,
            environment: event.environment,
            conversation_id: event.conversation_id,
            received_at: Timestamp::UNIX_EPOCH,
            traceparent: None,
            content_type: "application/json".to_owned(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    fn live() -> Vec<String> {
        vec!["live".to_owned()]
    }

    #[test]
    fn skips_environments_that_are_not_configured() {
        let is_fetched = |environment: &str| {
            let body = format!(
                r#"{{"type":"conversation.completed","data":{{"conversation_id":"C"{environment}}}}}"#
            );
            FetchRequest::from_message(&message(&body), &live()).unwrap().is_some()
        };
        assert!(is_fetched(r#","environment":"live""#));
        assert!(!is_fetched(r#","environment":"sandbox""#));
        assert!(is_fetched(""), "an unknown environment is read from the conversation");
    }

    #[test]
    fn a_receipt_in_the_future_counts_from_the_first_attempt() {
        let body = r#"{"type":"conversation.completed","data":{"conversation_id":"C"}}"#;
        let request = FetchRequest::from_message(&message(body), &live()).unwrap().unwrap();
        let at = |second| Timestamp::from_second(second).unwrap();
        let corrected = |received_at, attempts: &[i64]| {
            let mut history = History::default();
            for second in attempts {
                history.push(JobFailure::panicked().attempt(at(*second)));
            }
            let mut request = FetchRequest { received_at: at(received_at), ..request.clone() };
            request.correct_receipt(&history, at(1000));
            request.received_at.as_second()
        };
        assert_eq!(corrected(900, &[950]), 900);
        assert_eq!(corrected(5000, &[]), 1000);
        assert_eq!(corrected(5000, &[950, 990]), 950);
        assert_eq!(corrected(5000, &[6000]), 1000);
    }

    #[test]
    fn an_event_without_a_conversation_becomes_a_dead_letter() {
        let body = r#"{"type":"conversation.completed"}"#;
        let failure = FetchRequest::from_message(&message(body), &live()).unwrap_err();
        assert_eq!((failure.reason, failure.next), ("no_conversation_id", RetryDecision::Dead));
    }
}
