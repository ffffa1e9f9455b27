//! `conversation.discovered`: polyhook's own event for a conversation that is to be fetched.
//!
//! Reconciliation, `backfill` and `audit` publish it for a conversation that is missing from the archive, and the trigger for
//! one that a request names. They publish it to the same exchange as PolyAI's events, so it takes the same way:
//! to the fetch queue, and to every queue that binds `conversation.discovered.#`. Its id is a hash of the finding, so the
//! queue recognises a second identical finding as a duplicate. A command that is repeated makes a new finding.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CONVERSATION_DISCOVERED;

/// The origin of a discovery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiscoverySource {
    /// Reconciliation.
    #[default]
    Reconcile,
    /// A person, by a command.
    Command,
    /// The worker that archived the conversation: it is fetched again at [`Discovery::age`].
    Refresh,
    /// A token holder, by the trigger.
    Trigger,
}

/// A conversation that was found missing or outdated, or that is fetched again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Discovery {
    /// PolyAI's id.
    pub conversation_id: String,
    /// The account, as configured. Empty if the trigger did not name it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub account_id: String,
    /// The project, as configured. Empty if the trigger did not name it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub project_id: String,
    /// The environment in PolyAI's list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// Start of the call; determines the key in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// End of the call. A copy that was fetched before is not the whole conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The origin.
    #[serde(rename = "by")]
    pub source: DiscoverySource,
    /// Distinguishes this finding from an earlier one of the same conversation: the time at which the insufficient copy
    /// was archived, or at which the command was given.
    #[serde(rename = "mark", skip_serializing_if = "Option::is_none")]
    pub dedup_time: Option<Timestamp>,
    /// The archived copy is damaged: fetch and write the conversation whatever the archive has.
    #[serde(rename = "again", skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// A person asks for another fetch, whatever the archive has, and whatever the environment of the conversation is.
    #[serde(rename = "refetch", skip_serializing_if = "std::ops::Not::not")]
    pub is_refetch: bool,
    /// The age, since the end of the call, of a conversation that is fetched again.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub age: Option<Duration>,
}

/// The event as it is written.
#[derive(Serialize)]
struct DiscoveredEvent<'a> {
    r#type: &'static str,
    data: &'a Discovery,
}

/// The part of the event that is read.
#[derive(Deserialize)]
struct DiscoveredData {
    data: Discovery,
}

impl Discovery {
    /// Reads the body of an event. Returns `None` if it is not a discovery.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<DiscoveredData>(body).ok().map(|event| event.data)
    }

    /// Returns the body of the event.
    pub fn body(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&DiscoveredEvent { r#type: CONVERSATION_DISCOVERED, data: self })
    }

    /// Returns the time at which the conversation is fetched again, if that is what the event asks for.
    pub fn refresh_due(&self) -> Option<Timestamp> {
        self.ended_at?.checked_add(self.age?).ok()
    }

    /// Returns the id of the event. Equal findings of one conversation have equal ids, and so have its refreshes at one age.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.account_id, &self.project_id, &self.conversation_id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        if let Some(age) = self.age {
            hash.update(age.as_millis().to_be_bytes());
            return format!("refresh:{}", hex::encode(&hash.finalize()[..16]));
        }
        for at in [self.ended_at, self.dedup_time] {
            hash.update(at.map(Timestamp::as_millisecond).unwrap_or_default().to_be_bytes());
        }
        hash.update([u8::from(self.force)]);
        // Reconciliation must not take its finding for a duplicate of a request that was answered long ago.
        if self.source == DiscoverySource::Trigger {
            hash.update(b"trigger");
        }
        format!("discovered:{}", hex::encode(&hash.finalize()[..16]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;

    fn discovery() -> Discovery {
        Discovery {
            conversation_id: "CA1".to_owned(),
            account_id: "acme".to_owned(),
            project_id: "desk".to_owned(),
            environment: Some("live".to_owned()),
            started_at: Some("2026-11-02T10:00:00Z".parse().unwrap()),
            ended_at: Some("2026-11-02T10:01:00Z".parse().unwrap()),
            ..Discovery::default()
        }
    }

    #[test]
    fn reads_like_any_other_event() {
        let body = discovery().body().unwrap();
        let event = Event::read(&body);
        assert_eq!(event.routing_key(), "conversation.discovered.live");
        assert_eq!(event.conversation_id.as_deref(), Some("CA1"));
        assert_eq!(event.project_id.as_deref(), Some("desk"));
        assert_eq!(Discovery::read(&body), Some(discovery()));
        assert_eq!(Discovery::read(b"{}"), None);
    }

    #[test]
    fn equal_findings_have_equal_ids() {
        let found = discovery();
        assert_eq!(
            found.id(),
            Discovery { source: DiscoverySource::Command, environment: None, ..discovery() }.id()
        );
        let refresh = |discovery: Discovery, hours| {
            Discovery { age: Some(Duration::from_hours(hours)), ..discovery }.id()
        };
        assert_eq!(refresh(discovery(), 1), refresh(Discovery { ended_at: None, ..discovery() }, 1));
        assert_ne!(refresh(discovery(), 1), refresh(discovery(), 2));
        for other in [
            Discovery { age: Some(Duration::from_hours(1)), ..discovery() },
            Discovery { conversation_id: "CA2".to_owned(), ..discovery() },
            Discovery { account_id: "acmed".to_owned(), project_id: "esk".to_owned(), ..discovery() },
            Discovery { ended_at: None, ..discovery() },
            Discovery { force: true, ..discovery() },
            Discovery { dedup_time: discovery().started_at, ..discovery() },
        ] {
            assert_ne!(found.id(), other.id());
        }
    }
}
