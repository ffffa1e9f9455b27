//! Reads what a signed delivery is about, leniently.
//!
//! PolyAI names one thing in two ways (quickstart of June 2026, API reference of August 2026) and will add events. A
//! signed delivery is kept whatever it contains, so reading never fails: what is absent or of an unexpected type is
//! unknown, and what is not JSON has the type [`UNPARSED`]. The body itself is never changed.

mod discovery;
mod start;

use std::{fmt, io};

use sha2::{Digest, Sha256};

use crate::json::{Field, JsonReader, Scalar, event_key};

pub use discovery::{Discovery, DiscoverySource};
pub use start::started_at;

/// The event that PolyAI sends when a call has ended (quickstart).
pub const CONVERSATION_COMPLETED: &str = "conversation.completed";
/// polyhook's own event: reconciliation or a command found a conversation that is not archived.
pub const CONVERSATION_DISCOVERED: &str = "conversation.discovered";

/// polyhook's own announcement: a conversation was erased, and every copy of it should be erased too.
pub const CONVERSATION_ERASED: &str = "conversation.erased";

/// Stands for a type or an environment that the event does not name.
pub const UNKNOWN: &str = "unknown";
/// The type of a body that is not JSON.
pub const UNPARSED: &str = "unparsed";

/// A shorter id is recognised only in a field that names a conversation: elsewhere the same text may mean something
/// else.
const MIN_UNAMBIGUOUS_ID_BYTES: usize = 8;

/// The longest event type in a routing key. AMQP 0-9-1 allows 255 bytes for type, dot and environment together.
const MAX_TYPE_BYTES: usize = 180;
const MAX_ENVIRONMENT_BYTES: usize = 60;
/// An AMQP short string holds 255 bytes. A longer event id is replaced by the hash of the body.
const MAX_EVENT_ID_BYTES: usize = 255;

/// The facts that an event states about itself. Only the two that routing needs always have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `type` or `event_type`, made safe for a routing key; [`UNKNOWN`] or [`UNPARSED`] where there is none.
    pub kind: String,
    /// `live`, `sandbox`, `pre-release`, made safe for a routing key; [`UNKNOWN`] where there is none.
    pub environment: String,
    /// The conversation that the event is about.
    pub conversation_id: Option<String>,
    /// The account (workspace).
    pub account_id: Option<String>,
    /// The project (agent).
    pub project_id: Option<String>,
}

impl Event {
    /// Reads `body`. Never fails, and keeps only these few fields in memory.
    ///
    /// A body that is cut off, or has something behind its JSON, is [`UNPARSED`] like one that is not JSON; but if it
    /// asks for a fetch and names the conversation, the conversation is not lost for that.
    pub fn read(body: &[u8]) -> Self {
        // Reading from memory does not fail.
        let (fields, is_whole) = EventFields::read(body).unwrap_or_default();
        let EventFields { kind, environment, conversation_id, account_id, project_id } = fields;
        let kind = kind.map(|kind| routing_word(kind, MAX_TYPE_BYTES, true));
        let is_fetch = conversation_id.is_some() && kind.as_deref().is_some_and(triggers_fetch);
        let (kind, environment) = if is_whole || is_fetch {
            (kind, environment.map(|name| routing_word(name, MAX_ENVIRONMENT_BYTES, false)))
        } else {
            (Some(UNPARSED.to_owned()), None)
        };
        Self {
            kind: kind.unwrap_or_else(|| UNKNOWN.to_owned()),
            environment: environment.unwrap_or_else(|| UNKNOWN.to_owned()),
            conversation_id,
            account_id,
            project_id,
        }
    }

    /// Returns whether `body` is about this conversation: it names it as its own, or has its id as a string anywhere.
    pub fn is_about(body: &[u8], conversation_id: &str) -> bool {
        if Self::read(body).conversation_id.as_deref() == Some(conversation_id) {
            return true;
        }
        let quoted = format!("\"{conversation_id}\"");
        is_unambiguous_id(conversation_id) && body.windows(quoted.len()).any(|part| part == quoted.as_bytes())
    }

    /// Returns `<event type>.<environment>`.
    pub fn routing_key(&self) -> String {
        routing_key(&self.kind, &self.environment)
    }
}

/// Returns an environment as a routing key carries it: without dots, bounded, [`UNKNOWN`] if it is empty.
pub fn routing_environment(name: &str) -> String {
    routing_word(name.to_owned(), MAX_ENVIRONMENT_BYTES, false)
}

/// Returns `<event type>.<environment>`.
pub fn routing_key(kind: &str, environment: &str) -> String {
    format!("{kind}.{environment}")
}

/// Returns whether an event starts a fetch. Equal to the bindings of the fetch queue, `conversation.completed.#` and
/// `conversation.discovered.#`.
pub fn triggers_fetch(kind: &str) -> bool {
    [CONVERSATION_COMPLETED, CONVERSATION_DISCOVERED].iter().any(|trigger| {
        kind.strip_prefix(trigger).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    })
}

/// Returns whether an id, found in any text, can only mean its conversation. All of PolyAI's own ids can.
pub fn is_unambiguous_id(conversation_id: &str) -> bool {
    conversation_id.len() >= MIN_UNAMBIGUOUS_ID_BYTES
}

/// Returns the id of a delivery: PolyAI's event id, or `sha256:` and the hexadecimal digest of the body if the event id
/// is absent, empty, over 255 bytes, or not printable ASCII.
pub fn message_id(event_id: Option<&[u8]>, body: &[u8]) -> String {
    event_id.and_then(valid_event_id).map_or_else(|| body_id(body), str::to_owned)
}

/// Returns PolyAI's event id without white space around it, if it can be the id of a delivery.
pub fn valid_event_id(raw: &[u8]) -> Option<&str> {
    let id = raw.trim_ascii();
    let valid = (1..=MAX_EVENT_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
    valid.then(|| std::str::from_utf8(id).ok()).flatten()
}

/// Returns the id of a delivery without a valid event id.
pub fn body_id(body: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(body)))
}

/// The identity of a delivery: id **and** body. The signature does not cover the id, so with the id alone a replayed
/// delivery with a changed id header could suppress a genuine one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupKey([u8; 32]);

impl DedupKey {
    /// Computes the key of a delivery.
    pub fn new(message_id: &str, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update((message_id.len() as u64).to_be_bytes());
        hash.update(message_id);
        hash.update(body);
        Self(hash.finalize().into())
    }

    /// Returns the bytes of the key, to store it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DedupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

/// Returns a name as a routing key can carry it: letters, digits, `-`, `_` (and dots in a type), at most `max` bytes.
fn routing_word(name: String, max: usize, dots: bool) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (dots && c == '.');
    if name.is_empty() {
        UNKNOWN.to_owned()
    } else if name.len() <= max && name.chars().all(allowed) {
        name
    } else {
        name.chars().take(max).map(|c| if allowed(c) { c } else { '_' }).collect()
    }
}

/// The fields of one object. Of two usable values the later one counts; values inside `data` or `alert` replace those of
/// the top level.
#[derive(Default)]
struct EventFields {
    kind: Option<String>,
    environment: Option<String>,
    conversation_id: Option<String>,
    account_id: Option<String>,
    project_id: Option<String>,
}

impl EventFields {
    /// Reads a body. Also returns whether the body is one JSON value, whole and alone. Only an object has fields.
    fn read(body: &[u8]) -> io::Result<(Self, bool)> {
        let mut reader = JsonReader::new(body);
        let mut fields = Self::default();
        let is_value = match reader.peek()? {
            Some(b'{') => {
                fields = Self::read_object(&mut reader, true)?;
                true
            }
            Some(b'[') => {
                reader.skip_value()?;
                true
            }
            _ => reader.scalar()? != Scalar::Unusable,
        };
        let is_alone = reader.is_closed() && reader.is_well_formed() && reader.peek()?.is_none();
        Ok((fields, is_value && is_alone))
    }

    fn read_object(reader: &mut JsonReader<&[u8]>, top_level: bool) -> io::Result<Self> {
        let (mut fields, mut inner) = (Self::default(), Self::default());
        reader.object(event_key, |reader, key| {
            if top_level && key.field == Field::EventData && reader.peek()? == Some(b'{') {
                inner.replace_with(Self::read_object(reader, false)?);
            } else if let Some(slot) = fields.slot(key.field, top_level) {
                if let Some(value) = reader.scalar()?.text_or_integer() {
                    *slot = Some(value);
                }
            } else {
                reader.skip_value()?;
            }
            Ok(())
        })?;
        fields.replace_with(inner);
        Ok(fields)
    }

    /// Returns the place for the value of a field, if it is kept.
    fn slot(&mut self, field: Field, top_level: bool) -> Option<&mut Option<String>> {
        Some(match field {
            Field::EventType if top_level => &mut self.kind,
            Field::Environment => &mut self.environment,
            Field::ConversationId => &mut self.conversation_id,
            Field::AccountId => &mut self.account_id,
            Field::ProjectId => &mut self.project_id,
            _ => return None,
        })
    }

    fn replace_with(&mut self, inner: Self) {
        let Self { kind: _, environment, conversation_id, account_id, project_id } = inner;
        let replace = |outer: &mut Option<String>, inner: Option<String>| {
            if inner.is_some() {
                *outer = inner;
            }
        };
        replace(&mut self.environment, environment);
        replace(&mut self.conversation_id, conversation_id);
        replace(&mut self.account_id, account_id);
        replace(&mut self.project_id, project_id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_quickstart_form() {
        let event = Event::read(
            br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}"#,
        );
        assert_eq!(event.routing_key(), "conversation.completed.live");
        assert_eq!(event.conversation_id.as_deref(), Some("CA1"));
    }

    #[test]
    fn reads_the_reference_form_and_camel_case() {
        let event = Event::read(
            br#"{"event_type":"alerts.triggered","account_id":"top","alert":{"id":"a","projectId":"P","clientEnv":"pre-release"}}"#,
        );
        assert_eq!(event.routing_key(), "alerts.triggered.pre-release");
        assert_eq!(event.project_id.as_deref(), Some("P"));
        assert_eq!(event.account_id.as_deref(), Some("top"));
        assert_eq!(event.conversation_id, None);
    }

    #[test]
    fn inner_values_replace_those_of_the_top_level_in_any_order() {
        for body in [
            r#"{"conversation_id":"top","data":{"conversation_id":"inner"}}"#,
            r#"{"data":{"conversation_id":"inner"},"conversation_id":"top"}"#,
        ] {
            assert_eq!(Event::read(body.as_bytes()).conversation_id.as_deref(), Some("inner"), "{body}");
        }
    }

    #[test]
    fn accepts_repeated_names_and_unexpected_types() {
        let event = Event::read(
            br#"{"type":"a.b","event_type":null,"data":{"conversation_id":{"x":[1]},"conversationId":"CA2","environment":7}}"#,
        );
        assert_eq!(event.routing_key(), "a.b.7");
        assert_eq!(event.conversation_id.as_deref(), Some("CA2"));
    }

    #[test]
    fn absent_values_are_unknown_and_invalid_json_is_unparsed() {
        for (body, key) in [
            ("{}", "unknown.unknown"),
            ("[1,2]", "unknown.unknown"),
            ("null", "unknown.unknown"),
            ("-1.5e3", "unknown.unknown"),
            (r#"{"type":""}"#, "unknown.unknown"),
            ("", "unparsed.unknown"),
            ("{", "unparsed.unknown"),
            ("{} x", "unparsed.unknown"),
            ("<html>", "unparsed.unknown"),
        ] {
            assert_eq!(Event::read(body.as_bytes()).routing_key(), key, "{body}");
        }
        assert_eq!(Event::read(b"{\"type\":\"\xff\"}").routing_key(), "unknown.unknown");
    }

    #[test]
    fn reads_what_is_nearly_json() {
        let rest = r#""data":{"conversation_id":"CA1","environment":"live"}"#;
        let done = r#""type":"conversation.completed""#;
        for body in [
            format!("{{{done},\"score\":NaN,{rest}}}"),
            format!("{{\"metrics\":[Infinity,-Infinity,{{\"x\":NaN}}],{done},{rest}}}"),
            format!("{{{done},{rest},}}"),
            format!("\u{feff}{{{done},{rest}}}\r\n"),
            format!("{{\"note\":\"\\ud800\",{done},{rest}}}"),
            format!("{{\"type\":\"other\",{done},{rest}}}"),
            format!("{{\"number\":1{},{done},{rest}}}", "0".repeat(500)),
            format!("{{\"note\":\"line\nbreak\",{done},{rest}}}"),
            format!("{{{done},{rest}}}\0"),
            format!("{{{done},{rest}}}{{}}"),
            format!("{{{done},{rest}"),
        ] {
            let event = Event::read(body.as_bytes());
            assert_eq!(event.routing_key(), "conversation.completed.live", "{body}");
            assert_eq!(event.conversation_id.as_deref(), Some("CA1"), "{body}");
        }
        let latin_1 = [b"{\"note\":\"\xfc\",", done.as_bytes(), b",", rest.as_bytes(), b"}"].concat();
        assert_eq!(Event::read(&latin_1).conversation_id.as_deref(), Some("CA1"));
        let numeric =
            br#"{"type":"conversation.completed","data":{"conversation_id":123456789012345678901234567890}}"#;
        assert_eq!(Event::read(numeric).conversation_id.as_deref(), Some("123456789012345678901234567890"));
    }

    #[test]
    fn hostile_names_are_made_safe_for_a_routing_key() {
        let body = serde_json::json!({ "type": "é#*".repeat(300), "environment": "a.b\u{0}c".repeat(99) });
        let event = Event::read(body.to_string().as_bytes());
        assert!(event.routing_key().len() <= 255);
        assert!(!event.environment.contains('.'));
    }

    #[test]
    fn reads_deeply_nested_json() {
        let body = format!("{{\"x\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(Event::read(body.as_bytes()).routing_key(), "unknown.unknown");
    }

    #[test]
    fn recognises_a_conversation_by_field_or_by_quoted_id() {
        for body in [
            r#"{"type":"conversation.completed","data":{"conversation_id":"CA0123456789"}}"#,
            r#"{"data":{"conversation_id":"CA01234567\u00389"}}"#,
            r#"{"type":"handoff.created","data":{"call":{"sid":"CA0123456789"}}}"#,
            r#"not JSON: "CA0123456789""#,
        ] {
            assert!(Event::is_about(body.as_bytes(), "CA0123456789"), "{body}");
        }
        for body in [r#"{"data":{"conversation_id":"CA01234567890"}}"#, r#"{"note":"of CA0123456789"}"#, ""] {
            assert!(!Event::is_about(body.as_bytes(), "CA0123456789"), "{body}");
        }
        // A short id counts only in a field that names a conversation.
        assert!(Event::is_about(br#"{"conversation_id":"live"}"#, "live"));
        assert!(!Event::is_about(br#"{"environment":"live"}"#, "live"));
    }

    #[test]
    fn uses_the_event_id_or_the_hash_of_the_body() {
        assert_eq!(message_id(Some(b" evt_1 "), b"x"), "evt_1");
        let hash = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        for unusable in [None, Some(&b""[..]), Some(&[b'a'; 256][..]), Some(b"a b"), Some(b"\xff")] {
            assert_eq!(message_id(unusable, b"x"), hash);
        }
    }

    #[test]
    fn only_completed_and_discovered_events_trigger_a_fetch() {
        assert!(triggers_fetch("conversation.completed"));
        assert!(triggers_fetch("conversation.discovered"));
        assert!(triggers_fetch("conversation.completed.v2"));
        assert!(!triggers_fetch("conversation.completedness"));
        assert!(!triggers_fetch("handoff.created"));
    }

    #[test]
    fn dedup_key_depends_on_id_and_body() {
        let key = DedupKey::new("id", b"body");
        assert_eq!(key, DedupKey::new("id", b"body"));
        assert_ne!(key, DedupKey::new("id", b"other"));
        assert_ne!(key, DedupKey::new("idb", b"ody"));
    }

    proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            Event::read(&body);
        }

        #[test]
        fn finds_the_ids_among_arbitrary_fields(noise in ".{0,40}", id in "[A-Za-z0-9-]{1,40}") {
            let body = serde_json::json!({ noise.clone(): noise, "data": { noise.clone(): [noise], "conversationId": id } });
            let event = Event::read(body.to_string().as_bytes());
            if noise != "conversationId" && noise != "conversation_id" && noise != "data" {
                prop_assert_eq!(event.conversation_id, Some(id));
            }
        }
    }
}
