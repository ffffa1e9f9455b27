//! Reading what a genuine delivery is about, leniently.
//!
//! PolyAI names things in two ways (quickstart of June 2026, API reference of August 2026) and will add
//! events; a delivery that is signed is kept whatever it says. So reading never fails: what is absent, of
//! another type, or not JSON at all is simply unknown. The body itself is never changed.

mod discovery;

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use sha2::{Digest, Sha256};

pub use discovery::{Discovery, DiscoverySource};

/// The event PolyAI sends when a call has ended (quickstart).
pub const CONVERSATION_COMPLETED: &str = "conversation.completed";
/// Our own event: reconciliation or a person found a conversation that is not archived.
pub const CONVERSATION_DISCOVERED: &str = "conversation.discovered";

/// Our own announcement: a conversation was erased, and whoever holds copies should erase them too.
pub const CONVERSATION_ERASED: &str = "conversation.erased";

/// Stands for a type or an environment that the event does not name.
pub const UNKNOWN: &str = "unknown";
/// The type of what is no JSON.
pub const UNPARSED: &str = "unparsed";

/// A shorter id is looked for only where an event names its conversation: elsewhere the same text may well mean
/// something else.
const SHORTEST_DISTINCT_ID: usize = 8;

/// Longest name that goes into a routing key (255 bytes in AMQP 0-9-1, for type, dot and environment).
const MAX_TYPE: usize = 180;
const MAX_ENVIRONMENT: usize = 60;
/// An AMQP short string holds 255 bytes; a longer event id is replaced by the body's hash.
const MAX_EVENT_ID: usize = 255;

/// What an event says of itself. Everything is optional but the two names that routing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `type` or `event_type`, made safe for a routing key; [`UNKNOWN`] or [`UNPARSED`].
    pub kind: String,
    /// `live`, `sandbox`, `pre-release`; made safe for a routing key; [`UNKNOWN`].
    pub environment: String,
    /// The conversation it is about.
    pub conversation_id: Option<String>,
    /// The account (workspace).
    pub account_id: Option<String>,
    /// The project (agent).
    pub project_id: Option<String>,
}

impl Event {
    /// Reads `body`. Never fails and takes memory for the few names it keeps only.
    pub fn read(body: &[u8]) -> Self {
        let Ok(names) = serde_json::from_slice::<Names>(body) else {
            return Self::nameless(UNPARSED);
        };
        Self {
            kind: names.kind.map_or_else(|| UNKNOWN.to_owned(), |kind| routing_word(&kind, MAX_TYPE, true)),
            environment: names
                .environment
                .map_or_else(|| UNKNOWN.to_owned(), |name| routing_environment(&name)),
            conversation_id: names.conversation_id,
            account_id: names.account_id,
            project_id: names.project_id,
        }
    }

    /// Whether `body` is about this conversation: names it as its own, or holds its id as a string anywhere.
    pub fn is_about(body: &[u8], conversation_id: &str) -> bool {
        if Self::read(body).conversation_id.as_deref() == Some(conversation_id) {
            return true;
        }
        let quoted = format!("\"{conversation_id}\"");
        is_unambiguous_id(conversation_id) && body.windows(quoted.len()).any(|part| part == quoted.as_bytes())
    }

    fn nameless(kind: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            environment: UNKNOWN.to_owned(),
            conversation_id: None,
            account_id: None,
            project_id: None,
        }
    }

    /// `<event type>.<environment>`
    pub fn routing_key(&self) -> String {
        routing_key(&self.kind, &self.environment)
    }
}

/// An environment as a routing key carries it: without dots, bounded, [`UNKNOWN`] where it is empty.
pub fn routing_environment(name: &str) -> String {
    routing_word(name, MAX_ENVIRONMENT, false)
}

/// `<event type>.<environment>`
pub fn routing_key(kind: &str, environment: &str) -> String {
    format!("{kind}.{environment}")
}

/// Whether an event asks for a conversation to be fetched; the same as the bindings of the fetch queue,
/// `conversation.completed.#` and `conversation.discovered.#`.
pub fn triggers_fetch(kind: &str) -> bool {
    [CONVERSATION_COMPLETED, CONVERSATION_DISCOVERED]
        .iter()
        .any(|wanted| kind.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// Whether an id, found in some text, can mean nothing but its conversation. PolyAI's own all do.
pub fn is_unambiguous_id(conversation_id: &str) -> bool {
    conversation_id.len() >= SHORTEST_DISTINCT_ID
}

/// The id of a delivery: PolyAI's event id, or `sha256:` and the hex digest of the body where there is no
/// usable one (absent, empty, over 255 bytes, not printable ASCII).
pub fn message_id(event_id: Option<&[u8]>, body: &[u8]) -> String {
    event_id
        .map(<[u8]>::trim_ascii)
        .filter(|id| (1..=MAX_EVENT_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic))
        .and_then(|id| String::from_utf8(id.to_vec()).ok())
        .unwrap_or_else(|| format!("sha256:{}", hex::encode(Sha256::digest(body))))
}

/// What makes two deliveries the same: id **and** body. The id is not covered by the signature, so an id
/// alone would let a replayed delivery with a changed id header suppress a genuine one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DedupKey([u8; 32]);

impl DedupKey {
    /// The key of a delivery.
    pub fn new(message_id: &str, body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update((message_id.len() as u64).to_be_bytes());
        hash.update(message_id);
        hash.update(body);
        Self(hash.finalize().into())
    }

    /// The key's bytes, for storing it.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for DedupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

/// A name as a routing key can carry it: letters, digits, `-`, `_` (and dots in a type), bounded.
fn routing_word(name: &str, max: usize, dots: bool) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (dots && c == '.');
    if name.is_empty() {
        UNKNOWN.to_owned()
    } else if name.len() <= max && name.chars().all(fits) {
        name.to_owned()
    } else {
        name.chars().take(max).map(|c| if fits(c) { c } else { '_' }).collect()
    }
}

/// The names found, by rank: `data.*` or `alert.*` first, the top level where those say nothing.
#[derive(Default)]
struct Names {
    kind: Option<String>,
    environment: Option<String>,
    conversation_id: Option<String>,
    account_id: Option<String>,
    project_id: Option<String>,
}

impl Names {
    /// Where the value of a key goes, if anywhere.
    fn slot(&mut self, key: Key, top: bool) -> Option<&mut Option<String>> {
        Some(match key {
            Key::Kind if top => &mut self.kind,
            Key::Environment => &mut self.environment,
            Key::Conversation => &mut self.conversation_id,
            Key::Account => &mut self.account_id,
            Key::Project => &mut self.project_id,
            Key::Kind | Key::Inner | Key::Other => return None,
        })
    }

    fn prefer(&mut self, inner: Self) {
        let Self { kind: _, environment, conversation_id, account_id, project_id } = inner;
        for (mine, theirs) in [
            (&mut self.environment, environment),
            (&mut self.conversation_id, conversation_id),
            (&mut self.account_id, account_id),
            (&mut self.project_id, project_id),
        ] {
            if theirs.is_some() {
                *mine = theirs;
            }
        }
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        NamesSeed { top: true }.deserialize(deserializer)
    }
}

/// Reads an object for its names; anything else is skipped.
struct NamesSeed {
    top: bool,
}

impl<'de> DeserializeSeed<'de> for NamesSeed {
    type Value = Names;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Names, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NamesSeed {
    type Value = Names;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
        let mut names = Names::default();
        let mut nested = Names::default();
        while let Some(key) = map.next_key::<Key>()? {
            if self.top && key == Key::Inner {
                nested.prefer(map.next_value_seed(NamesSeed { top: false })?);
            } else if let Some(slot) = names.slot(key, self.top) {
                let Word(value) = map.next_value()?;
                if value.is_some() {
                    *slot = value;
                }
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        names.prefer(nested);
        Ok(names)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Names, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Names::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Names, E> {
        Ok(Names::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Names, E> {
        Ok(Names::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Names, E> {
        Ok(Names::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Names, E> {
        Ok(Names::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Names, E> {
        Ok(Names::default())
    }

    fn visit_unit<E>(self) -> Result<Names, E> {
        Ok(Names::default())
    }
}

/// What a key names. Told apart without being copied: an event has many keys, and few are ours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Key {
    Kind,
    Environment,
    Conversation,
    Account,
    Project,
    Inner,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(KeyVisitor)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Key, E> {
        Ok(match key {
            "type" | "event_type" | "eventType" => Key::Kind,
            "environment" | "client_env" | "clientEnv" => Key::Environment,
            "conversation_id" | "conversationId" => Key::Conversation,
            "account_id" | "accountId" => Key::Account,
            "project_id" | "projectId" | "agent_id" | "agentId" => Key::Project,
            "data" | "alert" => Key::Inner,
            _ => Key::Other,
        })
    }
}

/// A non-empty string, or nothing where there is any other value.
struct Word(Option<String>);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor)
    }
}

struct WordVisitor;

impl<'de> Visitor<'de> for WordVisitor {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, word: &str) -> Result<Word, E> {
        Ok(Word((!word.is_empty()).then(|| word.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Word(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Word, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Word(None))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Word, E> {
        Ok(Word(None))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Word, E> {
        Ok(Word(Some(number.to_string())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Word, E> {
        Ok(Word(Some(number.to_string())))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Word, E> {
        Ok(Word(None))
    }

    fn visit_unit<E>(self) -> Result<Word, E> {
        Ok(Word(None))
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
    fn nested_names_win_over_the_top_level_in_any_order() {
        for body in [
            r#"{"conversation_id":"top","data":{"conversation_id":"inner"}}"#,
            r#"{"data":{"conversation_id":"inner"},"conversation_id":"top"}"#,
        ] {
            assert_eq!(Event::read(body.as_bytes()).conversation_id.as_deref(), Some("inner"), "{body}");
        }
    }

    #[test]
    fn a_name_given_twice_or_of_another_type_is_no_reason_to_fail() {
        let event = Event::read(
            br#"{"type":"a.b","event_type":null,"data":{"conversation_id":{"x":[1]},"conversationId":"CA2","environment":7}}"#,
        );
        assert_eq!(event.routing_key(), "a.b.7");
        assert_eq!(event.conversation_id.as_deref(), Some("CA2"));
    }

    #[test]
    fn what_is_absent_is_unknown_and_what_is_no_json_is_unparsed() {
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
        assert_eq!(Event::read(b"{\"type\":\"\xff\"}").routing_key(), "unparsed.unknown");
    }

    #[test]
    fn hostile_names_fit_a_routing_key() {
        let body = serde_json::json!({ "type": "é#*".repeat(300), "environment": "a.b\u{0}c".repeat(99) });
        let event = Event::read(body.to_string().as_bytes());
        assert!(event.routing_key().len() <= 255);
        assert!(!event.environment.contains('.'));
    }

    #[test]
    fn deep_nesting_costs_nothing() {
        let body = format!("{{\"x\":{}{}}}", "[".repeat(500_000), "]".repeat(500_000));
        assert_eq!(Event::read(body.as_bytes()).routing_key(), "unknown.unknown");
    }

    #[test]
    fn is_about_what_it_names_or_holds() {
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
        // An id that may be anything is one only where it is said to be one.
        assert!(Event::is_about(br#"{"conversation_id":"live"}"#, "live"));
        assert!(!Event::is_about(br#"{"environment":"live"}"#, "live"));
    }

    #[test]
    fn the_id_is_the_header_or_the_hash() {
        assert_eq!(message_id(Some(b" evt_1 "), b"x"), "evt_1");
        let hash = "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        for unusable in [None, Some(&b""[..]), Some(&[b'a'; 256][..]), Some(b"a b"), Some(b"\xff")] {
            assert_eq!(message_id(unusable, b"x"), hash);
        }
    }

    #[test]
    fn only_fetch_bindings_ask_for_a_fetch() {
        assert!(triggers_fetch("conversation.completed"));
        assert!(triggers_fetch("conversation.discovered"));
        assert!(triggers_fetch("conversation.completed.v2"));
        assert!(!triggers_fetch("conversation.completedness"));
        assert!(!triggers_fetch("handoff.created"));
    }

    #[test]
    fn id_and_body_make_the_dedup_key() {
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
        fn finds_the_ids_among_anything(noise in ".{0,40}", id in "[A-Za-z0-9-]{1,40}") {
            let body = serde_json::json!({ noise.clone(): noise, "data": { noise.clone(): [noise], "conversationId": id } });
            let event = Event::read(body.to_string().as_bytes());
            if noise != "conversationId" && noise != "conversation_id" && noise != "data" {
                prop_assert_eq!(event.conversation_id, Some(id));
            }
        }
    }
}
