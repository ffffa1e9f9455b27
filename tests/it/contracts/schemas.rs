//! `docs/schemas`: generated from the types that polyhook writes, and strict enough to reject invalid documents.
//! [`super::asyncapi`] validates real announcements against them.

use polyhook::worker;
use serde_json::{Value, json};

use super::{SchemaCheck, docs};

/// The variable that makes the test write the files.
const WRITE_VARIABLE: &str = "POLYHOOK_WRITE_SCHEMAS";

#[test]
fn schema_files_match_the_types() {
    let write = std::env::var_os(WRITE_VARIABLE).is_some();
    let mut names = Vec::new();
    for (name, schema) in worker::schemas() {
        let path = docs().join("schemas").join(name);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if write {
            std::fs::write(&path, text).unwrap();
        } else {
            assert!(
                std::fs::read_to_string(&path).unwrap_or_default() == text,
                "docs/schemas/{name} differs from the types; if this is intended, run\n\
                 {WRITE_VARIABLE}=1 cargo test --test it contracts::schemas && git diff docs/schemas"
            );
        }
        names.push(name.to_owned());
    }
    let entries = std::fs::read_dir(docs().join("schemas")).unwrap();
    let mut found: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    names.sort();
    assert_eq!(found, names, "docs/schemas holds exactly the generated files");
}

fn manifest() -> Value {
    json!({
        "schema_version": 1, "revision": 1,
        "conversation_id": "CA1", "account_id": "acme", "project_id": "front-desk",
        "channel": "VOICE-SIP", "environment": "live", "started_at": "2026-11-03T23:59:58.5Z",
        "turn_count": 2, "in_progress": false, "summarised": false,
        "objects": [{
            "name": "conversation.json", "kind": "conversation", "size_bytes": 2,
            "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            "content_type": "application/json",
        }],
        "audio": { "status": "absent", "redacted": false },
        "served_by": "v3", "trigger": "webhook",
        "timings": { "fetched_at": "2026-11-04T00:00:01Z", "archived_at": "2026-11-04T00:00:02Z" },
        "polyhook_version": "0.1.0",
    })
}

fn event(kind: &str, data: &Value) -> Value {
    json!({
        "specversion": "1.0", "id": "0".repeat(64), "source": "/polyhook/acme/front-desk", "type": kind,
        "subject": "CA1", "time": "2026-11-04T00:00:02Z", "datacontenttype": "application/json", "data": data,
    })
}

/// Returns `document` with the value at `pointer` replaced, or removed if `value` is `None`.
fn changed(document: &Value, pointer: &str, value: Option<Value>) -> Value {
    let mut document = document.clone();
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => Some(parent.remove(name).expect(pointer)),
    };
    document
}

/// A JSON pointer, and the value to put there; `None` removes it.
type Change = (&'static str, Option<Value>);

/// An example document, and changes that make it invalid.
struct InvalidChanges {
    schema: &'static str,
    valid: Value,
    changes: Vec<Change>,
}

fn invalid_manifests() -> InvalidChanges {
    InvalidChanges {
        schema: "manifest",
        valid: manifest(),
        changes: vec![
            ("/conversation_id", None),
            ("/objects", None),
            ("/audio/status", None),
            ("/audio/status", Some("missing".into())),
            ("/served_by", Some("v2".into())),
            ("/schema_version", Some(2.into())),
            ("/revision", Some("1".into())),
            ("/revision", Some((-1).into())),
            ("/started_at", Some("yesterday".into())),
            ("/timings/archived_at", Some(Value::Null)),
            ("/objects/0/sha256", Some("44136FA3".into())),
            ("/objects/0/kind", Some("video".into())),
            ("/objects/0/size_bytes", Some(1.5.into())),
            ("/handoff", Some(Value::Null)),
        ],
    }
}

fn invalid_ready_events() -> InvalidChanges {
    let data = json!({ "manifest": manifest(), "urls": { "manifest.json": "file:///a/manifest.json" } });
    InvalidChanges {
        schema: "conversation-ready",
        valid: event("conversation.ready", &data),
        changes: vec![
            ("/id", None),
            ("/id", Some("ready-1".into())),
            ("/specversion", Some("0.3".into())),
            ("/type", Some("conversation.erased".into())),
            ("/data/urls", None),
            ("/data/urls/manifest.json", Some(1.into())),
            ("/data/manifest/audio/status", Some("gone".into())),
        ],
    }
}

fn invalid_updated_events() -> InvalidChanges {
    let data = json!({ "manifest": manifest(), "urls": { "manifest.json": "file:///a/manifest.json" } });
    InvalidChanges {
        schema: "conversation-updated",
        valid: event("conversation.updated", &data),
        changes: vec![("/type", Some("conversation.ready".into())), ("/data/manifest", None)],
    }
}

fn invalid_erased_events() -> InvalidChanges {
    let data = json!({
        "conversation_id": "CA1", "account_id": "acme", "project_id": "front-desk",
        "erased_at": "2026-11-04T00:00:02Z",
    });
    InvalidChanges {
        schema: "conversation-erased",
        valid: event("conversation.erased", &data),
        changes: vec![
            ("/data/conversation_id", None),
            ("/data/erased_at", Some(0.into())),
            ("/type", Some("x".into())),
        ],
    }
}

#[test]
fn schemas_reject_invalid_documents() {
    let cases =
        [invalid_manifests(), invalid_ready_events(), invalid_updated_events(), invalid_erased_events()];
    let checks = cases.iter().map(|InvalidChanges { schema, valid, changes }| {
        let invalid = changes.iter().map(|(pointer, value)| changed(valid, pointer, value.clone()));
        SchemaCheck {
            schema: format!("schemas/{schema}.schema.json"),
            closed: false,
            instances: std::iter::once(valid.clone()).chain(invalid).collect(),
        }
    });
    let errors = SchemaCheck::errors(&checks.collect::<Vec<_>>());
    for (InvalidChanges { schema, changes, .. }, errors) in cases.iter().zip(errors) {
        assert_eq!(errors[0], [""; 0], "{schema} rejects a valid document");
        for (change, errors) in changes.iter().zip(&errors[1..]) {
            assert!(!errors.is_empty(), "{schema} accepts {change:?}");
        }
    }
}
