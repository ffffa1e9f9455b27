//! Announcements to consumers, as CloudEvents (v1.0, structured JSON): `conversation.ready` and `conversation.updated`, whose
//! data is the manifest and the URLs of all objects, and `conversation.erased`, whose data is ids only. Their JSON Schemas, and that of the
//! manifest, are generated from these types ([`schemas`]); `tests/it/contracts` compares them with `docs/schemas`.

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

/// The type of the event about a conversation that is archived for the first time.
const CONVERSATION_READY: &str = "conversation.ready";

/// The type of the event about a conversation whose `conversation.json` has replaced an earlier one.
const CONVERSATION_UPDATED: &str = "conversation.updated";

/// A CloudEvent 1.0 in structured JSON.
#[derive(Serialize, JsonSchema)]
struct CloudEvent<'a, D> {
    /// The version of CloudEvents.
    #[schemars(extend("const" = "1.0"))]
    specversion: &'static str,
    /// Deterministic: equal for every repetition of this announcement, and different from all others.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    id: &'a str,
    /// `/polyhook/<account_id>/<project_id>`
    source: String,
    /// The type of the event. The routing key is this type, a dot, and the environment.
    r#type: &'static str,
    /// PolyAI's id of the conversation.
    subject: &'a str,
    /// The time of the archiving or of the erasure.
    #[schemars(extend("format" = "date-time"))]
    time: String,
    /// The content type of `data`.
    #[schemars(extend("const" = "application/json"))]
    datacontenttype: &'static str,
    /// W3C trace context, continued from the delivery that caused the fetch.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    /// The content of the announcement.
    data: D,
}

/// An archived conversation and the URLs of its objects.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Ready")]
struct ReadyData<'a> {
    /// `manifest.json` at the time of the announcement.
    #[schemars(schema_with = "reference_to_manifest")]
    manifest: &'a Manifest,
    /// The URLs of the objects, by their names in the manifest, and of `manifest.json`. `file:` URLs are percent-encoded.
    /// URLs in a bucket contain the key unchanged.
    urls: BTreeMap<String, String>,
}

/// A conversation that was erased from the archive and must be erased from all copies.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Gone")]
struct ErasedData<'a> {
    /// PolyAI's id of the conversation.
    conversation_id: &'a str,
    /// The account (workspace).
    account_id: &'a str,
    /// The project (agent).
    project_id: &'a str,
    /// The time of the first request to erase it.
    #[schemars(with = "String", extend("format" = "date-time"))]
    erased_at: Timestamp,
}

const MANIFEST_SCHEMA: &str = "manifest.schema.json";

/// Returns the JSON Schemas of everything that consumers read, by file name. They are of draft 7, the latest one that
/// `AsyncAPI` 3.0 reads. They describe what this version writes: a reader should accept further fields and values.
pub fn schemas() -> [(&'static str, Schema); 4] {
    [
        (MANIFEST_SCHEMA, schema::<Manifest>("manifest.json of an archived conversation")),
        ("conversation-ready.schema.json", event_schema::<ReadyData<'_>>(CONVERSATION_READY)),
        ("conversation-updated.schema.json", event_schema::<ReadyData<'_>>(CONVERSATION_UPDATED)),
        ("conversation-erased.schema.json", event_schema::<ErasedData<'_>>(CONVERSATION_ERASED)),
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

/// Removes `null` from a schema: absent fields are omitted.
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
            // In draft 7, keywords next to a reference have no effect.
            schema.insert("allOf".to_owned(), only);
        }
    }
}

fn reference_to_manifest(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "$ref": MANIFEST_SCHEMA })
}

/// Returns the type and the id of the announcement of an archived conversation.
pub fn announcement_of(manifest: &Manifest) -> (&'static str, String) {
    let kind = if manifest.replaces_earlier_bytes() { CONVERSATION_UPDATED } else { CONVERSATION_READY };
    (kind, ready_id(manifest))
}

/// Creates the announcement of an archived conversation. Its content alone decides about type and id.
pub(super) fn archived(
    manifest: &Manifest,
    urls: BTreeMap<String, String>,
    traceparent: Option<String>,
) -> Result<Announcement, serde_json::Error> {
    let (kind, id) = announcement_of(manifest);
    let body = serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: &id,
        source: source(&manifest.account_id, &manifest.project_id),
        r#type: kind,
        subject: &manifest.conversation_id,
        time: manifest.timings.archived_at.to_string(),
        datacontenttype: "application/json",
        traceparent: traceparent.as_deref(),
        data: ReadyData { manifest, urls },
    })?;
    Ok(Announcement {
        id,
        kind: kind.to_owned(),
        environment: event::routing_environment(&manifest.facts.environment),
        subject: manifest.conversation_id.clone(),
        time: manifest.timings.archived_at,
        traceparent,
        body: Bytes::from(body),
    })
}

/// Creates the announcement of an erasure. The same erasure always has the same announcement.
pub(super) fn erased(
    account_id: &str,
    project_id: &str,
    conversation_id: &str,
    erasure: &ErasureRecord,
) -> Result<Announcement, serde_json::Error> {
    let erased_at = erasure.erased_at;
    let mut hash = TextsHash::default();
    for text in [CONVERSATION_ERASED, account_id, project_id, conversation_id, &erased_at.to_string()] {
        hash.add(text);
    }
    let id = hash.finish();
    let body = serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: &id,
        source: source(account_id, project_id),
        r#type: CONVERSATION_ERASED,
        subject: conversation_id,
        time: erased_at.to_string(),
        datacontenttype: "application/json",
        traceparent: None,
        data: ErasedData { conversation_id, account_id, project_id, erased_at },
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

/// Returns the id of an announcement: a hash of conversation and content. So every announcement of the same content has
/// the same id.
fn ready_id(manifest: &Manifest) -> String {
    let mut hash = TextsHash::default();
    for text in [&manifest.account_id, &manifest.project_id, &manifest.conversation_id] {
        hash.add(text);
    }
    for object in &manifest.objects {
        hash.add(&object.name);
        hash.add(&object.sha256);
    }
    hash.finish()
}

/// Hashes a sequence of texts. Different sequences have different hashes.
#[derive(Default)]
struct TextsHash(Sha256);

impl TextsHash {
    fn add(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text);
    }

    fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}
