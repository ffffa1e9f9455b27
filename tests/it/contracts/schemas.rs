//! `docs/schemas`: made from the types that are written, and good for telling what is written from what is not.
//! [`super::asyncapi`] holds real announcements against them.

use polyhook::worker;
use serde_json::{Value, json};

use super::{Held, docs};

/// Set it to write the files anew.
const WRITE: &str = "POLYHOOK_WRITE_SCHEMAS";

#[test]
fn the_files_are_those_of_the_types() {
    let write = std::env::var_os(WRITE).is_some();
    let mut names = Vec::new();
    for (name, schema) in worker::schemas() {
        let path = docs().join("schemas").join(name);
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if write {
            std::fs::write(&path, text).unwrap();
        } else {
            assert!(
                std::fs::read_to_string(&path).unwrap_or_default() == text,
                "docs/schemas/{name} is not what the types say; if that is meant, call\n\
                 {WRITE}=1 cargo test --test it contracts::schemas && git diff docs/schemas"
            );
        }
        names.push(name.to_owned());
    }
    let there = std::fs::read_dir(docs().join("schemas")).unwrap();
    let mut there: Vec<_> = there.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    there.sort();
    names.sort();
    assert_eq!(there, names, "nothing else is a schema of ours");
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

/// Something with `place` in it changed to `value`, or removed.
fn changed(whole: &Value, place: &str, value: Option<Value>) -> Value {
    let mut whole = whole.clone();
    let (above, name) = place.rsplit_once('/').unwrap();
    let above = whole.pointer_mut(above).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => above.insert(name.to_owned(), value),
        None => Some(above.remove(name).expect(place)),
    };
    whole
}

/// A place in a document, and what stands there then; nothing if it is taken away.
type Change<'a> = (&'a str, Option<Value>);

#[test]
fn what_is_wrong_is_told_from_what_is_right() {
    let ready = event(
        "conversation.ready",
        &json!({ "manifest": manifest(), "urls": { "manifest.json": "file:///a/manifest.json" } }),
    );
    let erased = event(
        "conversation.erased",
        &json!({
            "conversation_id": "CA1", "account_id": "acme", "project_id": "front-desk",
            "erased_at": "2026-11-04T00:00:02Z",
        }),
    );
    let wrong: [(&str, &Value, &[Change<'_>]); 3] = [
        (
            "manifest",
            &manifest(),
            &[
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
        ),
        (
            "conversation-ready",
            &ready,
            &[
                ("/id", None),
                ("/id", Some("ready-1".into())),
                ("/specversion", Some("0.3".into())),
                ("/type", Some("conversation.erased".into())),
                ("/data/urls", None),
                ("/data/urls/manifest.json", Some(1.into())),
                ("/data/manifest/audio/status", Some("gone".into())),
            ],
        ),
        (
            "conversation-erased",
            &erased,
            &[
                ("/data/conversation_id", None),
                ("/data/erased_at", Some(0.into())),
                ("/type", Some("x".into())),
            ],
        ),
    ];
    let held = wrong.iter().map(|(name, good, changes)| {
        let bad = changes.iter().map(|(place, value)| changed(good, place, value.clone()));
        Held {
            schema: format!("schemas/{name}.schema.json"),
            closed: false,
            instances: std::iter::once((*good).clone()).chain(bad).collect(),
        }
    });
    let errors = Held::errors(&held.collect::<Vec<_>>());
    for ((name, _, changes), errors) in wrong.iter().zip(errors) {
        assert_eq!(errors[0], [""; 0], "{name}: this is right");
        for (change, errors) in changes.iter().zip(&errors[1..]) {
            assert!(!errors.is_empty(), "{name} has nothing against {change:?}");
        }
    }
}
