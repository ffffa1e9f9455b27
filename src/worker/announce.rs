//! `conversation.ready`: a CloudEvent (v1.0, structured JSON) whose data is the manifest and where everything lies.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{archive::Manifest, queue::Announcement};

/// The event's type, and the first part of its routing key.
pub(super) const CONVERSATION_READY: &str = "conversation.ready";

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: &'static str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    manifest: &'a Manifest,
    /// By the object's name in the manifest, and `manifest.json` itself.
    urls: BTreeMap<String, String>,
}

/// The announcement of an archived conversation.
pub(super) fn announcement(
    manifest: &Manifest,
    urls: BTreeMap<String, String>,
    traceparent: Option<String>,
) -> Result<Announcement, serde_json::Error> {
    let id = id(manifest);
    let body = serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: &id,
        source: format!("/polyhook/{}/{}", manifest.account_id, manifest.project_id),
        r#type: CONVERSATION_READY,
        subject: &manifest.conversation_id,
        time: manifest.timings.archived_at.to_string(),
        datacontenttype: "application/json",
        traceparent: traceparent.as_deref(),
        data: Data { manifest, urls },
    })?;
    Ok(Announcement {
        id,
        kind: CONVERSATION_READY.to_owned(),
        environment: crate::event::environment_word(&manifest.facts.environment),
        subject: manifest.conversation_id.clone(),
        time: manifest.timings.archived_at,
        traceparent,
        body: Bytes::from(body),
    })
}

/// The same conversation with the same content has the same id, however often and by whomever it is announced.
fn id(manifest: &Manifest) -> String {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    };
    for text in [&manifest.account_id, &manifest.project_id, &manifest.conversation_id] {
        part(text);
    }
    for object in &manifest.objects {
        part(&object.name);
        part(&object.sha256);
    }
    hex::encode(hash.finalize())
}
