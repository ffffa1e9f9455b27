//! The special behaviour of one call, as a test or a scenario asks for it.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;

/// The special behaviour of one call. The default call has ended, is visible and has a recording.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallScript {
    /// The call is in progress for this long after the script was set.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub in_progress_for: Option<Duration>,
    /// The call is in progress for this many requests for the conversation.
    pub in_progress_requests: u32,
    /// The availability of its recording.
    pub recording: RecordingAvailability,
    /// Answers do not contain its turns.
    pub hidden_transcript: bool,
    /// The APIs do not know it: 404 `CONVERSATIONS_NOT_FOUND`.
    pub missing: bool,
    /// The size of its recording, header included. Absent means the size that follows from the duration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio_size: Option<ByteSize>,
    /// A later change of the conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<LaterChange>,
    /// Faults of requests for it.
    pub faults: Vec<Fault>,
}

/// The availability of a recording. Before that, a request for it is a 404 `CONVERSATIONS_RECORDING_NOT_FOUND`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordingAvailability {
    /// Available from the start.
    #[default]
    Ready,
    /// Available this long after the script was set.
    After(#[serde(with = "humantime_serde")] Duration),
    /// Available after this many requests for it were answered 404.
    AfterRequests(u32),
    /// Never available; `audioUrl` is `null`.
    Never,
}

/// A change of a conversation. It happens when `after` or `after_requests` is reached, or at once if both are absent.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaterChange {
    /// The time since the script was set.
    #[serde(with = "humantime_serde", default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Duration>,
    /// The number of requests for the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_requests: Option<u32>,
    /// The number of turns that are added. The recording gets longer, too.
    #[serde(default)]
    pub more_turns: u32,
    /// The summary and the score exist only after the change.
    #[serde(default)]
    pub summarised: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_scripts_from_json() {
        let script: CallScript = serde_json::from_str(
            r#"{"in_progress_for": "2s", "recording": {"after_requests": 2}, "audio_size": "2 GiB",
                "change": {"after_requests": 1, "more_turns": 3}}"#,
        )
        .unwrap();
        assert_eq!(script.recording, RecordingAvailability::AfterRequests(2));
        assert_eq!(script.audio_size, Some(ByteSize::gib(2)));
        let late: CallScript = serde_json::from_str(r#"{"recording": {"after": "3s"}}"#).unwrap();
        assert_eq!(late.recording, RecordingAvailability::After(Duration::from_secs(3)));
    }
}
