//! What consumers are told, as CloudEvents (v1.0, structured JSON): `conversation.ready`, whose data is the manifest and
//! where everything lies, and `conversation.erased`, whose data is ids alone. Their JSON Schemas, and the manifest's, are
//! made from the types that are written ([`schemas`]); `tests/it/contracts` keeps those in `docs/schemas` the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;
use schemars::{
    JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema, transform::RecursiveTransform,
};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    archive::{ErasureRecord, Manifest},
    event::{self, CONVERSATION_ERASED},
    queue::Announcement,
};

/// The event's type, and the first part of its routing key.
pub(super) const CONVERSATION_READY: &str = "conversation.ready";

/// A CloudEvent 1.0 in structured JSON.
#[derive(Serialize, JsonSchema)]
struct CloudEvent<'a, D> {
    /// Of CloudEvents.
    #[schemars(extend("const" = "1.0"))]
    specversion: &'static str,
    /// Deterministic: a repeat of this announcement has the same one, and nothing else has.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    id: &'a str,
    /// `/polyhook/<account_id>/<project_id>`
    source: String,
    /// What happened; the routing key is this, a dot, and the environment.
    r#type: &'static str,
    /// The conversation's id.
    subject: &'a str,
    /// When it happened.
    #[schemars(extend("format" = "date-time"))]
    time: String,
    /// Of `data`.
    #[schemars(extend("const" = "application/json"))]
    datacontenttype: &'static str,
    /// W3C trace context, continued from the delivery that asked for the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    /// What it is about.
    data: D,
}

/// What is in the archive, and where.
#[derive(Serialize, JsonSchema)]
struct Ready<'a> {
    /// `manifest.json` as it was when this was announced.
    #[schemars(schema_with = "reference_to_manifest")]
    manifest: &'a Manifest,
    /// By the object's name in the manifest, and `manifest.json` itself. `file:` URLs are percent-encoded; those of a
    /// bucket are its name and the key as it is.
    urls: BTreeMap<String, String>,
}

/// What is gone from the archive, and must go from all copies.
#[derive(Serialize, JsonSchema)]
struct Gone<'a> {
    /// PolyAI's id of the conversation.
    conversation_id: &'a str,
    /// The account (workspace).
    account_id: &'a str,
    /// The project (agent).
    project_id: &'a str,
    /// When it was first asked for.
    #[schemars(with = "String", extend("format" = "date-time"))]
    erased_at: Timestamp,
}

const MANIFEST_SCHEMA: &str = "manifest.schema.json";

/// The JSON Schemas of what others read, by the names of their files. Of draft 7, because `AsyncAPI` 3.0 reads no later
/// one. They say what this version writes: a reader should not mind further fields and words.
pub fn schemas() -> [(&'static str, Schema); 3] {
    [
        (MANIFEST_SCHEMA, schema::<Manifest>("manifest.json of an archived conversation")),
        ("conversation-ready.schema.json", event_schema::<Ready<'_>>(CONVERSATION_READY)),
        ("conversation-erased.schema.json", event_schema::<Gone<'_>>(CONVERSATION_ERASED)),
    ]
}

fn schema<T: JsonSchema>(title: &str) -> Schema {
    let settings = SchemaSettings::draft07().for_serialize().with_transform(RecursiveTransform(never_null));
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema
}

fn event_schema<D: JsonSchema>(kind: &str) -> Schema {
    let mut schema = schema::<CloudEvent<'_, D>>(kind);
    if let Some(kind_schema) = schema.pointer_mut("/properties/type").and_then(Value::as_object_mut) {
        kind_schema.insert("const".to_owned(), kind.into());
    }
    schema
}

/// What is absent is left out.
fn never_null(schema: &mut Schema) {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|kind| kind != "null"));
        if choices.len() == 1
            && let Some(only) = schema.remove("anyOf")
        {
            // Draft 7 minds nothing that stands beside a reference.
            schema.insert("allOf".to_owned(), only);
        }
    }
}

fn reference_to_manifest(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": MANIFEST_SCHEMA })
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
        environment: event::routing_environment(&manifest.facts.environment),
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
    erasure: &ErasureRecord,
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
            .map_or(event::UNKNOWN.to_owned(), event::routing_environment),
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
