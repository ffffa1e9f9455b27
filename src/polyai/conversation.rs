//! The few fields that polyhook reads of a conversation, from either API.
//!
//! A conversation is stored byte for byte. These fields only decide where it is stored and whether it is complete.
//! Reading is lenient, because recorded answers differ from PolyAI's schema in many fields (objects where numbers are
//! documented, `null` nearly anywhere): a field that is absent or of an unexpected type is unknown. The names of the
//! fields are in [`crate::json`].

use std::{
    io::{self, BufRead},
    time::Duration,
};

use jiff::Timestamp;
use thiserror::Error;

use crate::json::{Field, JsonReader, Key, Ranked, Scalar, conversation_key};

/// The number of turns that the transcript may lack without a warning: PolyAI does not say what it counts as a turn.
const TOLERATED_MISSING_TURNS: u64 = 1;
/// The longest duration that an end of a call is computed from, in seconds.
const MAX_DURATION_S: f64 = 1e6;

/// The fields of a conversation that polyhook uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConversationInfo {
    /// `id` or `conversationId`.
    pub id: Option<String>,
    /// The account that the answer names.
    pub account_id: Option<String>,
    /// The project that the answer names.
    pub project_id: Option<String>,
    /// `VOICE-SIP`, `WEBCHAT`, `CHAT`, …
    pub channel: Option<String>,
    /// `environment` or `clientEnv`.
    pub environment: Option<String>,
    /// True if its properties may still change.
    pub in_progress: bool,
    /// Start of the call.
    pub started_at: Option<Timestamp>,
    /// End of the call (Data API only).
    pub finished_at: Option<Timestamp>,
    /// Seconds of the whole call.
    pub total_duration_s: Option<f64>,
    /// Seconds that the agent handled.
    pub polyai_duration_s: Option<f64>,
    /// The handoff of the call.
    pub handoff: Handoff,
    /// `num_turns`, or the number of turns in the answer if that field is missing.
    pub num_turns: u64,
    /// Number of turns in the answer.
    pub turns_present: u64,
    /// True if there is a summary (`shortSummary`, written some time after the call).
    pub has_summary: bool,
    /// `inbound` or `outbound` (Data API only).
    pub direction: Option<String>,
    /// The variant of the agent.
    pub variant_id: Option<String>,
    /// True if there is an `audioUrl` (Data API only).
    pub has_audio_url: bool,
}

/// The handoff of a call from the agent to somewhere else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Handoff {
    /// True if there was one.
    pub happened: bool,
    /// The agent's reason.
    pub reason: Option<String>,
    /// The destination.
    pub destination: Option<String>,
}

/// The bytes are not a conversation: not a JSON object, or not all of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the answer is not a JSON object, or it is cut off; request it again")]
pub struct NotAConversation;

impl ConversationInfo {
    /// Reads the fields of anything that is nearly JSON.
    ///
    /// # Errors
    ///
    /// The bytes do not begin with an object, or end before it does.
    pub fn read(json: &[u8]) -> Result<Self, NotAConversation> {
        let mut reader = JsonReader::new(json);
        // Reading from memory does not fail.
        match reader.peek() {
            Ok(Some(b'{')) => {}
            _ => return Err(NotAConversation),
        }
        let info = Self::read_object(&mut reader).map_err(|_| NotAConversation)?;
        if reader.is_closed() { Ok(info) } else { Err(NotAConversation) }
    }

    /// Reads the fields of the object that is next.
    pub(super) fn read_object<R: BufRead>(reader: &mut JsonReader<R>) -> io::Result<Self> {
        let (mut common, mut details) = (CommonFields::default(), DetailFields::default());
        reader.object(conversation_key, |reader, key| {
            if CommonFields::include(key.field) {
                common.offer(key, reader.scalar()?);
                Ok(())
            } else {
                details.read(key, reader)
            }
        })?;
        Ok(details.into_info(common))
    }

    /// Returns whether the conversation can have recordings: its channel names voice, or it has no channel but an
    /// `audioUrl`. The audio path answers 404 for all other channels, so polyhook does not ask for theirs.
    pub fn is_voice(&self) -> bool {
        match self.channel.as_deref().map(str::trim).filter(|channel| !channel.is_empty()) {
            Some(channel) => channel.to_ascii_uppercase().contains("VOICE"),
            None => self.has_audio_url,
        }
    }

    /// Returns whether turns happened but none is in the answer: transcript visibility is off for the project.
    pub fn transcript_hidden(&self) -> bool {
        self.num_turns > 0 && self.turns_present == 0
    }

    /// Returns whether the transcript has clearly fewer turns than happened, but some.
    pub fn lacks_turns(&self) -> bool {
        self.turns_present > 0 && self.turns_present + TOLERATED_MISSING_TURNS < self.num_turns
    }

    /// Returns the end of the call, as exactly as it is known; at least its start.
    pub fn ended_at(&self) -> Option<Timestamp> {
        end_of_call(self.started_at, self.finished_at, self.total_duration_s).or(self.started_at)
    }
}

fn end_of_call(
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    total_duration_s: Option<f64>,
) -> Option<Timestamp> {
    finished_at.or_else(|| {
        let seconds = total_duration_s?.clamp(0.0, MAX_DURATION_S);
        started_at?.checked_add(Duration::from_secs_f64(seconds)).ok()
    })
}

/// The fields that a conversation and its entry in a list have in common. They determine the key in the archive and
/// whether the call has ended, so both are read by this one type and cannot disagree.
#[derive(Debug, Default)]
pub(super) struct CommonFields {
    id: Ranked<String>,
    environment: Ranked<String>,
    in_progress: Ranked<bool>,
    started_at: Ranked<Timestamp>,
    finished_at: Ranked<Timestamp>,
    total_duration_s: Ranked<f64>,
}

impl CommonFields {
    /// Returns whether a field is one of these.
    pub(super) fn include(field: Field) -> bool {
        matches!(
            field,
            Field::ConversationId
                | Field::Environment
                | Field::InProgress
                | Field::StartedAt
                | Field::FinishedAt
                | Field::TotalDuration
        )
    }

    /// Takes the value of a key.
    pub(super) fn offer(&mut self, key: Key, value: Scalar) {
        let rank = key.rank;
        match key.field {
            Field::ConversationId => self.id.offer(rank, value.any_text()),
            Field::Environment => self.environment.offer(rank, value.text()),
            Field::InProgress => self.in_progress.offer(rank, value.flag()),
            Field::StartedAt => self.started_at.offer(rank, value.time()),
            Field::FinishedAt => self.finished_at.offer(rank, value.time()),
            Field::TotalDuration => self.total_duration_s.offer(rank, value.seconds()),
            _ => {}
        }
    }

    /// Returns the entry of a list, or `None` without an id. `max_text_bytes` bounds what is kept of an entry.
    pub(super) fn into_listed(self, max_text_bytes: usize) -> Option<ListedConversation> {
        let fits = |text: &String| text.len() <= max_text_bytes;
        let started_at = self.started_at.into_value();
        Some(ListedConversation {
            id: self.id.into_value().filter(fits)?,
            environment: self.environment.into_value().filter(fits),
            in_progress: self.in_progress.into_value().unwrap_or(false),
            started_at,
            ended_at: end_of_call(
                started_at,
                self.finished_at.into_value(),
                self.total_duration_s.into_value(),
            ),
        })
    }
}

/// An entry of a list of conversations.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedConversation {
    /// PolyAI's id.
    pub id: String,
    /// `live`, `sandbox`, `pre-release`
    pub environment: Option<String>,
    /// True if the call is still going on.
    pub in_progress: bool,
    /// Start of the call. It and the ids determine the key in the archive.
    pub started_at: Option<Timestamp>,
    /// End of the call, as exactly as it is known.
    pub ended_at: Option<Timestamp>,
}

/// The fields that only the conversation itself has.
#[derive(Default)]
struct DetailFields {
    account_id: Ranked<String>,
    project_id: Ranked<String>,
    channel: Ranked<String>,
    polyai_duration_s: Ranked<f64>,
    handoff: Ranked<bool>,
    handoff_reason: Ranked<String>,
    handoff_destination: Ranked<String>,
    turn_count: Ranked<u64>,
    turns_present: u64,
    has_summary: bool,
    direction: Ranked<String>,
    variant_id: Ranked<String>,
    audio_url: Ranked<String>,
}

impl DetailFields {
    /// Reads the value of a key.
    fn read<R: BufRead>(&mut self, key: Key, reader: &mut JsonReader<R>) -> io::Result<()> {
        let rank = key.rank;
        match key.field {
            Field::Turns if reader.peek()? == Some(b'[') => {
                self.turns_present = 0;
                return reader.array(|reader| {
                    self.turns_present += 1;
                    reader.skip_value()
                });
            }
            Field::ShortSummary => self.has_summary |= reader.has_content()?,
            Field::AccountId => self.account_id.offer(rank, reader.scalar()?.text_or_integer()),
            Field::ProjectId => self.project_id.offer(rank, reader.scalar()?.text_or_integer()),
            Field::Channel => self.channel.offer(rank, reader.scalar()?.text()),
            Field::PolyAiDuration => self.polyai_duration_s.offer(rank, reader.scalar()?.seconds()),
            Field::Handoff => self.handoff.offer(rank, reader.scalar()?.flag()),
            Field::HandoffReason => self.handoff_reason.offer(rank, reader.scalar()?.text()),
            Field::HandoffDestination => self.handoff_destination.offer(rank, reader.scalar()?.text()),
            Field::TurnCount => self.turn_count.offer(rank, reader.scalar()?.count()),
            Field::CallDirection => self.direction.offer(rank, reader.scalar()?.text()),
            Field::VariantId => self.variant_id.offer(rank, reader.scalar()?.text()),
            Field::AudioUrl => self.audio_url.offer(rank, reader.scalar()?.text()),
            _ => reader.skip_value()?,
        }
        Ok(())
    }

    fn into_info(self, common: CommonFields) -> ConversationInfo {
        ConversationInfo {
            id: common.id.into_value(),
            account_id: self.account_id.into_value(),
            project_id: self.project_id.into_value(),
            channel: self.channel.into_value(),
            environment: common.environment.into_value(),
            in_progress: common.in_progress.into_value().unwrap_or(false),
            started_at: common.started_at.into_value(),
            finished_at: common.finished_at.into_value(),
            total_duration_s: common.total_duration_s.into_value(),
            polyai_duration_s: self.polyai_duration_s.into_value(),
            handoff: Handoff {
                happened: self.handoff.into_value().unwrap_or(false),
                reason: self.handoff_reason.into_value(),
                destination: self.handoff_destination.into_value(),
            },
            num_turns: self.turn_count.into_value().unwrap_or(self.turns_present),
            turns_present: self.turns_present,
            has_summary: self.has_summary,
            direction: self.direction.into_value(),
            variant_id: self.variant_id.into_value(),
            has_audio_url: self.audio_url.into_value().is_some_and(|url| !url.trim().is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_v3_shape() {
        let info = ConversationInfo::read(
            br#"{"id":"CA1","account_id":"a","project_id":"p","channel":"VOICE-SIP","environment":"live","started_at":"2026-06-03T13:18:06.37Z",
                "in_progress":false,"num_turns":2,"total_duration":73,"polyai_duration":70,"handoff":true,
                "handoff_reason":"billing","turns":[{"latency":1.5},{"latency":{"label":null}}]}"#,
        )
        .unwrap();
        assert_eq!(info.id.as_deref(), Some("CA1"));
        assert_eq!((info.account_id.as_deref(), info.project_id.as_deref()), (Some("a"), Some("p")));
        assert_eq!((info.num_turns, info.turns_present), (2, 2));
        assert!(info.handoff.happened && info.is_voice() && !info.transcript_hidden());
        assert_eq!(info.ended_at().unwrap().to_string(), "2026-06-03T13:19:19.37Z");
    }

    #[test]
    fn reads_the_data_api_shape() {
        let info = ConversationInfo::read(
            br#"{"conversationId":"CA2","accountId":"PLATFORM","projectId":"p","channel":"WEBCHAT","clientEnv":"sandbox","inProgress":true,
                "startedAt":"2026-06-03T13:18:06.370000+00:00","finishedAt":"2026-06-03T13:19:19.750000+00:00",
                "duration":73,"totalDuration":73.5,"polyScore":null,"handoff":null,"handoffReason":null,
                "shortSummary":{"heading":"x"},"turns":[{"user_input":""}],"metrics":{"A":[{"value":"1"}]}}"#,
        )
        .unwrap();
        assert_eq!((info.account_id.as_deref(), info.project_id.as_deref()), (Some("PLATFORM"), Some("p")));
        assert_eq!(info.environment.as_deref(), Some("sandbox"));
        assert!(info.in_progress && info.has_summary && !info.is_voice());
        assert_eq!(info.num_turns, 1);
        assert_eq!(info.ended_at(), info.finished_at);
    }

    #[test]
    fn treats_unexpected_types_as_unknown() {
        let info = ConversationInfo::read(
            br#"{"id":{},"channel":null,"started_at":"2026-06-03T13:18:06","num_turns":[],"turns":null,
                "shortSummary":null,"total_duration":-1,"handoff_reason":[],"x":{"turns":[1]}}"#,
        )
        .unwrap();
        assert_eq!(info.started_at.unwrap().to_string(), "2026-06-03T13:18:06Z");
        assert_eq!(info, ConversationInfo { started_at: info.started_at, ..ConversationInfo::default() });
    }

    #[test]
    fn rejects_what_is_not_an_object_or_is_cut_off() {
        for body in [
            "",
            "[]",
            "<html>{\"id\":\"C\"}</html>",
            "null",
            "{",
            r#"{"id":"C""#,
            r#"{"id":"C","turns":[{}]"#,
        ] {
            assert_eq!(ConversationInfo::read(body.as_bytes()), Err(NotAConversation), "{body}");
        }
    }

    #[test]
    fn reads_what_is_nearly_json() {
        let rest =
            r#""id":"C1","turns":[{"latency":NaN},{}],"shortSummary":{"score":-Infinity},"total_duration":3"#;
        for body in [
            format!("{{\"metrics\":{{\"x\":[{{\"value\":NaN}}]}},{rest}}}"),
            format!("\u{feff}{{{rest},}} \0"),
            format!("{{\"id\":null,\"id\":\"C0\",\"turns\":[],{rest},\"turns\":null}}{{}}"),
            format!("{{\"state\":\"\\ud83d\",\"num\":1{},{rest}}}", "0".repeat(999)),
            format!("{{\"deep\":{}{},{rest}}}", "[".repeat(400_000), "]".repeat(400_000)),
            format!("{{\"note\":\"a \"quoted\" word\",{rest}}}"),
        ] {
            let info = ConversationInfo::read(body.as_bytes()).unwrap();
            assert_eq!((info.id.as_deref(), info.turns_present), (Some("C1"), 2), "{body}");
            assert!(info.has_summary && info.total_duration_s == Some(3.0), "{body}");
        }
        let latin_1 = ConversationInfo::read(b"{\"handoff_reason\":\"\xe9t\xe9\",\"id\":\"C1\"}").unwrap();
        assert_eq!(
            (latin_1.id.as_deref(), latin_1.handoff.reason.as_deref()),
            (Some("C1"), Some("\u{fffd}t\u{fffd}"))
        );
        let long = "123456789012345678901234567890";
        let numeric = ConversationInfo::read(format!("{{\"id\":{long}}}").as_bytes()).unwrap();
        assert_eq!(numeric.id.as_deref(), Some(long));
    }

    #[test]
    fn accepts_numbers_as_ids_and_values_in_quotes() {
        let info = ConversationInfo::read(br#"{"id":7,"num_turns":"4","in_progress":"true","duration":"3"}"#)
            .unwrap();
        assert_eq!((info.id.as_deref(), info.num_turns, info.in_progress), (Some("7"), 4, true));
        assert_eq!(info.total_duration_s, Some(3.0));
    }

    #[test]
    fn prefers_the_total_duration_in_any_order() {
        for json in [r#"{"duration":73,"totalDuration":74.5}"#, r#"{"totalDuration":74.5,"duration":73}"#] {
            assert_eq!(
                ConversationInfo::read(json.as_bytes()).unwrap().total_duration_s,
                Some(74.5),
                "{json}"
            );
        }
    }

    #[test]
    fn only_voice_channels_have_recordings() {
        let is_voice = |fields: &str| {
            ConversationInfo::read(format!(r#"{{"id":"C",{fields}}}"#).as_bytes()).unwrap().is_voice()
        };
        for channel in ["VOICE-SIP", "VOICE", "voice", "Voice_Webrtc", " voice-sip ", "SIP-VOICE"] {
            assert!(is_voice(&format!(r#""channel":"{channel}","audioUrl":null"#)), "{channel}");
        }
        for channel in [
            "SMS",
            "sms",
            "RCS",
            "WHATSAPP",
            "whatsapp.polyai",
            "email",
            "E-Mail",
            "WEBCHAT",
            "Web-Chat",
            "CHAT",
            "chat",
            "messenger",
            "unknown",
        ] {
            assert!(!is_voice(&format!(r#""channel":"{channel}","audioUrl":"x/audio""#)), "{channel}");
        }
        for channel in [r#""x":1"#, r#""channel":null"#, r#""channel":"""#, r#""channel":{}"#] {
            assert!(is_voice(&format!(r#"{channel},"audioUrl":"conversations/C/audio""#)), "{channel}");
            assert!(is_voice(&format!(r#"{channel},"audio_url":"https://x/audio""#)), "{channel}");
            for no_url in [r#""y":1"#, r#""audioUrl":null"#, r#""audioUrl":"""#] {
                assert!(!is_voice(&format!("{channel},{no_url}")), "{channel} {no_url}");
            }
        }
    }

    #[test]
    fn detects_missing_turns() {
        let lacks_turns = |counted: u64, present: usize| {
            let json = serde_json::json!({ "num_turns": counted, "turns": vec![1; present] });
            ConversationInfo::read(json.to_string().as_bytes()).unwrap().lacks_turns()
        };
        assert!(lacks_turns(8, 2) && lacks_turns(8, 6) && lacks_turns(3, 1));
        assert!(!lacks_turns(8, 8) && !lacks_turns(8, 7) && !lacks_turns(2, 8));
        assert!(!lacks_turns(8, 0), "hidden is something else");
    }

    #[test]
    fn detects_a_hidden_transcript() {
        assert!(ConversationInfo::read(br#"{"num_turns":3,"turns":[]}"#).unwrap().transcript_hidden());
        assert!(!ConversationInfo::read(br#"{"num_turns":0,"turns":[]}"#).unwrap().transcript_hidden());
    }
}
