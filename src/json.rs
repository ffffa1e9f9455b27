//! Lenient reading of the JSON that PolyAI sends: events, list entries and conversations.
//!
//! PolyAI names one fact in several ways: the quickstart (June 2026), the reference (August 2026), API v3 and the Data
//! API differ, and recorded answers differ from all of them. This module is the only list of those names
//! ([`event_key`], [`conversation_key`]) and the only interpretation of their values ([`Scalar`]). A value of an
//! unexpected type is unknown; it is never an error.

use std::fmt;

use jiff::{Timestamp, civil, tz::TimeZone};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// A fact that polyhook reads, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// The type of an event.
    EventType,
    Environment,
    ConversationId,
    AccountId,
    ProjectId,
    /// The object inside an event that describes its subject.
    EventData,
    Channel,
    InProgress,
    StartedAt,
    FinishedAt,
    /// Seconds of the whole call.
    TotalDuration,
    /// Seconds that the agent handled.
    PolyAiDuration,
    Handoff,
    HandoffReason,
    HandoffDestination,
    TurnCount,
    Turns,
    ShortSummary,
    /// `inbound` or `outbound`.
    CallDirection,
    VariantId,
    AudioUrl,
}

/// The field that a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) field: Field,
    /// The preference among the names of one field: if several have a usable value, the lowest rank wins.
    pub(crate) rank: u8,
}

/// Returns the field that `name` has in an event.
pub(crate) fn event_key(name: &str) -> Option<Key> {
    let (field, rank) = match name {
        "type" => (Field::EventType, 0),
        "event_type" => (Field::EventType, 1),
        "eventType" => (Field::EventType, 2),
        "environment" => (Field::Environment, 0),
        "clientEnv" => (Field::Environment, 1),
        "client_env" => (Field::Environment, 2),
        "conversationId" => (Field::ConversationId, 1),
        "conversation_id" => (Field::ConversationId, 2),
        "account_id" => (Field::AccountId, 0),
        "accountId" => (Field::AccountId, 1),
        "project_id" => (Field::ProjectId, 0),
        "projectId" => (Field::ProjectId, 1),
        "agent_id" => (Field::ProjectId, 2),
        "agentId" => (Field::ProjectId, 3),
        "data" => (Field::EventData, 0),
        "alert" => (Field::EventData, 1),
        _ => return None,
    };
    Some(Key { field, rank })
}

/// Returns the field that `name` has in a conversation, or in an entry of a list of conversations.
pub(crate) fn conversation_key(name: &str) -> Option<Key> {
    let (field, rank) = match name {
        // In an event `id` is the id of something else.
        "id" => (Field::ConversationId, 0),
        "channel" => (Field::Channel, 0),
        "in_progress" => (Field::InProgress, 0),
        "inProgress" => (Field::InProgress, 1),
        "started_at" => (Field::StartedAt, 0),
        "startedAt" => (Field::StartedAt, 1),
        "createdAt" => (Field::StartedAt, 2),
        "created_at" => (Field::StartedAt, 3),
        "finished_at" => (Field::FinishedAt, 0),
        "finishedAt" => (Field::FinishedAt, 1),
        "total_duration" => (Field::TotalDuration, 0),
        "totalDuration" => (Field::TotalDuration, 1),
        "duration" => (Field::TotalDuration, 2),
        "polyai_duration" => (Field::PolyAiDuration, 0),
        "polyaiDuration" => (Field::PolyAiDuration, 1),
        "handoff" => (Field::Handoff, 0),
        "handoff_reason" => (Field::HandoffReason, 0),
        "handoffReason" => (Field::HandoffReason, 1),
        "handoff_destination" => (Field::HandoffDestination, 0),
        "handoffDestination" => (Field::HandoffDestination, 1),
        "num_turns" => (Field::TurnCount, 0),
        "numTurns" => (Field::TurnCount, 1),
        "turns" => (Field::Turns, 0),
        "shortSummary" => (Field::ShortSummary, 0),
        "short_summary" => (Field::ShortSummary, 1),
        "direction" => (Field::CallDirection, 0),
        "variant_id" => (Field::VariantId, 0),
        "variantId" => (Field::VariantId, 1),
        "audioUrl" => (Field::AudioUrl, 0),
        "audio_url" => (Field::AudioUrl, 1),
        _ => return event_key(name),
    };
    Some(Key { field, rank })
}

/// The value of a field, from the name with the lowest rank that had a usable value. Of two values of the same name
/// the later one counts.
#[derive(Debug)]
pub(crate) struct Ranked<T> {
    rank: u8,
    value: Option<T>,
}

impl<T> Default for Ranked<T> {
    fn default() -> Self {
        Self { rank: u8::MAX, value: None }
    }
}

impl<T> Ranked<T> {
    /// Takes `value` unless it is absent or a preferred name has one.
    pub(crate) fn offer(&mut self, rank: u8, value: Option<T>) {
        if value.is_some() && rank <= self.rank {
            *self = Self { rank, value };
        }
    }

    /// Returns the value.
    pub(crate) fn into_value(self) -> Option<T> {
        self.value
    }
}

/// A JSON value of which only scalars are kept. Objects, arrays and `null` are [`Scalar::Unusable`]; they are skipped
/// without being held in memory.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Unusable,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
}

impl Scalar {
    /// Returns a string that is not empty.
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Returns a string that is not empty, or an integer as text: ids and names are sometimes numbers.
    pub(crate) fn text_or_integer(self) -> Option<String> {
        match self {
            Self::Text(text) if !text.is_empty() => Some(text),
            Self::Integer(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Returns any scalar as text.
    pub(crate) fn any_text(self) -> Option<String> {
        match self {
            Self::Bool(flag) => Some(flag.to_string()),
            Self::Float(number) => Some(number.to_string()),
            other => other.text_or_integer(),
        }
    }

    /// Returns a boolean, also one in quotes.
    pub(crate) fn flag(&self) -> Option<bool> {
        match self {
            Self::Bool(flag) => Some(*flag),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Returns a count, also one in quotes.
    pub(crate) fn count(&self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(*number).ok(),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Returns a number of seconds that is finite and not negative, also one in quotes.
    pub(crate) fn seconds(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "no call lasts 2^53 seconds")]
        let seconds = match self {
            Self::Integer(number) => *number as f64,
            Self::Float(number) => *number,
            Self::Text(text) => text.parse().ok()?,
            _ => return None,
        };
        (seconds.is_finite() && seconds >= 0.0).then_some(seconds)
    }

    /// Returns a time in RFC 3339. A time without a zone is UTC.
    pub(crate) fn time(&self) -> Option<Timestamp> {
        let Self::Text(text) = self else { return None };
        text.parse::<Timestamp>().ok().or_else(|| {
            let local: civil::DateTime = text.parse().ok()?;
            Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
        })
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Scalar, E> {
        Ok(Scalar::Bool(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Integer(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Scalar, E> {
        Ok(Scalar::Float(number))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Unusable)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Unusable)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Unusable)
    }
}

/// Reads the key of an object with [`event_key`] or [`conversation_key`], without copying it: objects have many keys, and
/// polyhook reads few of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySeed(pub(crate) fn(&str) -> Option<Key>);

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Option<Key>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Key>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Option<Key>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<Key>, E> {
        Ok((self.0)(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(json: &str) -> Scalar {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn skips_objects_arrays_and_null() {
        for json in ["null", "{}", "[]", r#"{"a":[{"b":1}]}"#, r#"[1,"a",{"b":[]}]"#] {
            assert_eq!(scalar(json), Scalar::Unusable, "{json}");
        }
    }

    #[test]
    fn reads_values_in_quotes() {
        assert_eq!((scalar("\"true\"").flag(), scalar("true").flag()), (Some(true), Some(true)));
        assert_eq!((scalar("\"4\"").count(), scalar("4").count()), (Some(4), Some(4)));
        assert_eq!((scalar("\"7.5\"").seconds(), scalar("7.5").seconds()), (Some(7.5), Some(7.5)));
        assert_eq!(scalar("7").text_or_integer().as_deref(), Some("7"));
    }

    #[test]
    fn treats_unusable_values_as_unknown() {
        assert_eq!((scalar("1").flag(), scalar("\"yes\"").flag()), (None, None));
        assert_eq!((scalar("-1").count(), scalar("4.5").count()), (None, None));
        for json in ["-1", "\"NaN\"", "\"inf\"", "\"\"", "true", "null"] {
            assert_eq!(scalar(json).seconds(), None, "{json}");
        }
        assert_eq!(
            (scalar("\"\"").text(), scalar("7").text(), scalar("\"soon\"").time()),
            (None, None, None)
        );
    }

    #[test]
    fn reads_a_time_without_a_zone_as_utc() {
        assert_eq!(scalar("\"2026-06-03T13:18:06\"").time(), scalar("\"2026-06-03T13:18:06Z\"").time());
    }

    #[test]
    fn prefers_the_lowest_rank_in_any_order() {
        for offers in [[(0, Some("a")), (1, Some("b"))], [(1, Some("b")), (0, Some("a"))]] {
            let mut best = Ranked::default();
            for (rank, value) in offers {
                best.offer(rank, value);
            }
            best.offer(0, None);
            assert_eq!(best.into_value(), Some("a"));
        }
    }
}
