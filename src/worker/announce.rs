//! What consumers are told, as CloudEvents (v1.0, structured JSON): `conversation.ready`, whose data is the manifest and
//! where everything lies, and `conversation.erased`, whose data is ids alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    archive::{Erasure, Manifest},
    event::{self, CONVERSATION_ERASED},
    queue::Announcement,
};

/// The event's type, and the first part of its routing key.
pub(super) const CONVERSATION_READY: &str = "conversation.ready";

#[derive(Serialize)]
struct CloudEvent<'a, D> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: &'static str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: D,
}

#[derive(Serialize)]
struct Ready<'a> {
    manifest: &'a Manifest,
    /// By the object's name in the manifest, and `manifest.json` itself.
    urls: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct Gone<'a> {
    conversation_id: &'a str,
    account_id: &'a str,
    project_id: &'a str,
    erased_at: Timestamp,
}

/// The announcement of an archived conversation.
pub(super) fn ready(
    manifest: &Manifest,
    urls: BTreeMap<String, String>,
    traceparent: Option<String>,
) -> Result<Announcement, serde_json::Error> {
    let id = id(manifest);
    let body = serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: &id,
        source: source(&manifest.account_id, &manifest.project_id),
        r#type: CONVERSATION_READY,
        subject: &manifest.conversation_id,
        time: manifest.timings.archived_at.to_string(),
        datacontenttype: "application/json",
        traceparent: traceparent.as_deref(),
        data: Ready { manifest, urls },
    })?;
    Ok(Announcement {
        id,
        kind: CONVERSATION_READY.to_owned(),
        environment: event::environment_word(&manifest.facts.environment),
        subject: manifest.conversation_id.clone(),
        time: manifest.timings.archived_at,
        traceparent,
        body: Bytes::from(body),
    })
}

/// The announcement of an erasure. Asked for again, it is the same one.
pub(super) fn erased(
    account_id: &str,
    project_id: &str,
    conversation_id: &str,
    erasure: &Erasure,
) -> Result<Announcement, serde_json::Error> {
    let erased_at = erasure.erased_at;
    let mut hash = Hash::default();
    for text in [CONVERSATION_ERASED, account_id, project_id, conversation_id, &erased_at.to_string()] {
        hash.part(text);
    }
    let id = hash.end();
    let body = serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: &id,
        source: source(account_id, project_id),
        r#type: CONVERSATION_ERASED,
        subject: conversation_id,
        time: erased_at.to_string(),
        datacontenttype: "application/json",
        traceparent: None,
        data: Gone { conversation_id, account_id, project_id, erased_at },
    })?;
    Ok(Announcement {
        id,
        kind: CONVERSATION_ERASED.to_owned(),
        environment: erasure
            .environment
            .as_deref()
            .map_or(event::UNKNOWN.to_owned(), event::environment_word),
        subject: conversation_id.to_owned(),
        time: erased_at,
        traceparent: None,
        body: Bytes::from(body),
    })
}

fn source(account_id: &str, project_id: &str) -> String {
    format!("/polyhook/{account_id}/{project_id}")
}

/// The same conversation with the same content has the same id, however often and by whomever it is announced.
fn id(manifest: &Manifest) -> String {
    let mut hash = Hash::default();
    for text in [&manifest.account_id, &manifest.project_id, &manifest.conversation_id] {
        hash.part(text);
    }
    for object in &manifest.objects {
        hash.part(&object.name);
        hash.part(&object.sha256);
    }
    hash.end()
}

/// Of texts in a row; no two rows have the same.
#[derive(Default)]
struct Hash(Sha256);

impl Hash {
    fn part(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
    }

    fn end(self) -> String {
        hex::encode(self.0.finalize())
    }
}
