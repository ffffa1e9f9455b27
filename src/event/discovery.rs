//! `conversation.discovered`: polyhook's own event for a conversation that no webhook has brought into the archive.
//!
//! Reconciliation, `backfill` and `audit` publish it where PolyAI's events go, so it takes the same way: to the fetch
//! queue, and to whoever binds `conversation.discovered.#`. Its id is a hash of what was found, so the queue knows a
//! second finding of the same thing for a duplicate; a person who asks again is not refused for it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::CONVERSATION_DISCOVERED;

/// Who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiscoverySource {
    /// Reconciliation.
    #[default]
    Reconcile,
    /// A person, by a command.
    Command,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Discovery {
    /// PolyAI's id.
    pub conversation_id: String,
    /// As it is configured.
    pub account_id: String,
    /// As it is configured.
    pub project_id: String,
    /// As PolyAI's list has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// When it started: its place in the archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended: a copy that was fetched before is not the whole conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Who asks.
    #[serde(rename = "by")]
    pub source: DiscoverySource,
    /// Tells a finding from an earlier one of the same conversation: when the copy was archived that is not good enough, or
    /// when the command was given.
    #[serde(rename = "mark", skip_serializing_if = "Option::is_none")]
    pub dedup_time: Option<Timestamp>,
    /// What lies in the archive is not good: fetch it, whatever lies there.
    #[serde(rename = "again", skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    data: &'a Discovery,
}

#[derive(Deserialize)]
struct Read {
    data: Discovery,
}

impl Discovery {
    /// Reads the body of an event; nothing where it is another's, or says nothing of this.
    pub fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Read>(body).ok().map(|read| read.data)
    }

    /// The event's body.
    pub fn body(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Event { r#type: CONVERSATION_DISCOVERED, data: self })
    }

    /// The event's id: the same for the same finding of the same conversation.
    pub fn id(&self) -> String {
        let mut hash = Sha256::new();
        for part in [&self.account_id, &self.project_id, &self.conversation_id] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        for at in [self.ended_at, self.dedup_time] {
            hash.update(at.map(Timestamp::as_millisecond).unwrap_or_default().to_be_bytes());
        }
        hash.update([u8::from(self.force)]);
        format!("discovered:{}", hex::encode(&hash.finalize()[..16]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event as Signed;

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
    fn is_an_event_like_any_other() {
        let body = discovery().body().unwrap();
        let event = Signed::read(&body);
        assert_eq!(event.routing_key(), "conversation.discovered.live");
        assert_eq!(event.conversation_id.as_deref(), Some("CA1"));
        assert_eq!(event.project_id.as_deref(), Some("desk"));
        assert_eq!(Discovery::read(&body), Some(discovery()));
        assert_eq!(Discovery::read(b"{}"), None);
    }

    #[test]
    fn one_finding_has_one_id() {
        let found = discovery();
        assert_eq!(
            found.id(),
            Discovery { source: DiscoverySource::Command, environment: None, ..discovery() }.id()
        );
        for other in [
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
