//! The few fields polyhook reads of a conversation, from either API's shape.
//!
//! A conversation is kept byte for byte; this is only what is needed to file it and to know whether it is
//! whole. Reading is lenient: recorded answers differ from PolyAI's schema in many fields (objects where numbers
//! are documented, `null` nearly anywhere), so a field that is absent or of another type is simply unknown.

use std::collections::BTreeMap;

use jiff::{Timestamp, civil, tz::TimeZone};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

/// What is read of a conversation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConversationInfo {
    /// `id` or `conversationId`.
    pub id: Option<String>,
    /// `VOICE-SIP`, `WEBCHAT`, `CHAT`, …
    pub channel: Option<String>,
    /// `environment` or `clientEnv`.
    pub environment: Option<String>,
    /// Whether its properties may still change.
    pub in_progress: bool,
    /// When the call began.
    pub started_at: Option<Timestamp>,
    /// When it ended (Data API only).
    pub finished_at: Option<Timestamp>,
    /// Seconds of the whole call.
    pub total_duration_s: Option<f64>,
    /// Seconds handled by the agent.
    pub polyai_duration_s: Option<f64>,
    /// Whether and where the call was handed off.
    pub handoff: Handoff,
    /// `num_turns`; where the shape has none, the number of turns present.
    pub num_turns: u64,
    /// How many turns the answer holds.
    pub turns_present: u64,
    /// Whether there is a summary (`shortSummary`, written some time after the call).
    pub has_summary: bool,
    /// `inbound` or `outbound` (Data API only).
    pub direction: Option<String>,
    /// The agent's variant.
    pub variant_id: Option<String>,
}

/// How a call left the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handoff {
    /// Whether it did.
    pub happened: bool,
    /// The agent's reason.
    pub reason: Option<String>,
    /// Where to.
    pub destination: Option<String>,
}

impl ConversationInfo {
    /// Reads the fields; the error says that the bytes are no JSON object.
    pub fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let fields = Fields(serde_json::from_slice(json)?);
        let turns_present = fields.get::<Vec<IgnoredAny>>(&["turns"]).map_or(0, |turns| turns.len() as u64);
        Ok(Self {
            id: fields.text(&["id", "conversationId", "conversation_id"]),
            channel: fields.text(&["channel"]),
            environment: fields.text(&["environment", "clientEnv", "client_env"]),
            in_progress: fields.get(&["in_progress", "inProgress"]).unwrap_or(false),
            started_at: fields.time(&["started_at", "startedAt", "createdAt", "created_at"]),
            finished_at: fields.time(&["finished_at", "finishedAt"]),
            total_duration_s: fields.seconds(&["total_duration", "totalDuration", "duration"]),
            polyai_duration_s: fields.seconds(&["polyai_duration", "polyaiDuration"]),
            handoff: Handoff {
                happened: fields.get(&["handoff"]).unwrap_or(false),
                reason: fields.text(&["handoff_reason", "handoffReason"]),
                destination: fields.text(&["handoff_destination", "handoffDestination"]),
            },
            num_turns: fields.get(&["num_turns", "numTurns"]).unwrap_or(turns_present),
            turns_present,
            has_summary: fields.present(&["shortSummary", "short_summary"]),
            direction: fields.text(&["direction"]),
            variant_id: fields.text(&["variant_id", "variantId"]),
        })
    }

    /// Recordings exist for voice only; chat channels answer 404, so they are not asked.
    pub fn is_voice(&self) -> bool {
        !self.channel.as_deref().is_some_and(|channel| channel.to_ascii_uppercase().contains("CHAT"))
    }

    /// Turns happened but none is shown: transcript visibility is off for the project.
    pub fn transcript_hidden(&self) -> bool {
        self.num_turns > 0 && self.turns_present == 0
    }

    /// When the call ended, as well as it is known.
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.finished_at.or_else(|| {
            let seconds = self.total_duration_s.unwrap_or_default().clamp(0.0, 1e6);
            self.started_at?.checked_add(std::time::Duration::from_secs_f64(seconds)).ok()
        })
    }
}

/// The top level of the object, each value still unread.
struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl Fields<'_> {
    /// The first of `names` whose value is a `T`.
    fn get<T: DeserializeOwned>(&self, names: &[&str]) -> Option<T> {
        names.iter().filter_map(|name| self.0.get(*name)).find_map(|raw| serde_json::from_str(raw.get()).ok())
    }

    fn text(&self, names: &[&str]) -> Option<String> {
        self.get::<String>(names).filter(|text| !text.is_empty())
    }

    fn seconds(&self, names: &[&str]) -> Option<f64> {
        self.get::<f64>(names).filter(|seconds| *seconds >= 0.0)
    }

    fn time(&self, names: &[&str]) -> Option<Timestamp> {
        names.iter().find_map(|name| parse_time(&self.text(&[name])?))
    }

    /// Whether one of `names` has a value other than `null` and the empty string.
    fn present(&self, names: &[&str]) -> bool {
        names
            .iter()
            .filter_map(|name| self.0.get(*name))
            .any(|raw| !matches!(raw.get(), "null" | "\"\"" | "{}"))
    }
}

/// RFC 3339; where the zone is missing, UTC.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().or_else(|| {
        let local: civil::DateTime = text.parse().ok()?;
        Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_v3_shape() {
        let summary = ConversationInfo::read(
            br#"{"id":"CA1","channel":"VOICE-SIP","environment":"live","started_at":"2026-06-03T13:18:06.37Z",
                "in_progress":false,"num_turns":2,"total_duration":73,"polyai_duration":70,"handoff":true,
                "handoff_reason":"billing","turns":[{"latency":1.5},{"latency":{"label":null}}]}"#,
        )
        .unwrap();
        assert_eq!(summary.id.as_deref(), Some("CA1"));
        assert_eq!((summary.num_turns, summary.turns_present), (2, 2));
        assert!(summary.handoff.happened && summary.is_voice() && !summary.transcript_hidden());
        assert_eq!(summary.ended_at().unwrap().to_string(), "2026-06-03T13:19:19.37Z");
    }

    #[test]
    fn reads_the_data_api_shape_with_its_oddities() {
        let summary = ConversationInfo::read(
            br#"{"conversationId":"CA2","channel":"WEBCHAT","clientEnv":"sandbox","inProgress":true,
                "startedAt":"2026-06-03T13:18:06.370000+00:00","finishedAt":"2026-06-03T13:19:19.750000+00:00",
                "duration":73,"totalDuration":73.5,"polyScore":null,"handoff":null,"handoffReason":null,
                "shortSummary":{"heading":"x"},"turns":[{"user_input":""}],"metrics":{"A":[{"value":"1"}]}}"#,
        )
        .unwrap();
        assert_eq!(summary.environment.as_deref(), Some("sandbox"));
        assert!(summary.in_progress && summary.has_summary && !summary.is_voice());
        assert_eq!(summary.num_turns, 1);
        assert_eq!(summary.ended_at(), summary.finished_at);
    }

    #[test]
    fn what_is_odd_is_unknown() {
        let summary = ConversationInfo::read(
            br#"{"id":7,"channel":null,"started_at":"2026-06-03T13:18:06","num_turns":"4","turns":null,"shortSummary":null,"total_duration":-1,"x":{"turns":[1]}}"#,
        )
        .unwrap();
        assert_eq!(summary.started_at.unwrap().to_string(), "2026-06-03T13:18:06Z");
        assert_eq!(
            summary,
            ConversationInfo { started_at: summary.started_at, ..ConversationInfo::default() },
            "everything else is unknown"
        );
        assert!(ConversationInfo::read(b"[]").is_err() && ConversationInfo::read(b"<html>").is_err());
    }

    #[test]
    fn a_hidden_transcript_is_noticed() {
        assert!(ConversationInfo::read(br#"{"num_turns":3,"turns":[]}"#).unwrap().transcript_hidden());
        assert!(!ConversationInfo::read(br#"{"num_turns":0,"turns":[]}"#).unwrap().transcript_hidden());
    }
}
