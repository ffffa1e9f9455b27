//! `[worker]`

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::polyai::AudioDirection;

/// `[worker]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// Maximum conversations fetched at the same time.
    #[schemars(range(min = 1))]
    pub concurrency: usize,
    /// Environments that are archived. Events of others are acknowledged and counted.
    pub environments: Vec<String>,
    /// Recordings that are archived.
    pub audio: AudioChoice,
    /// Request the redacted recording. A key without access to personal data always gets that one.
    pub redacted: bool,
    /// Time after the end of a call during which its recording may still appear. After that the conversation is archived
    /// without it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub audio_wait: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            concurrency: 8,
            environments: vec!["live".to_owned()],
            audio: AudioChoice::Combined,
            redacted: false,
            audio_wait: Duration::from_mins(30),
        }
    }
}

/// The recordings that are archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AudioChoice {
    /// `audio.wav`: both parties mixed.
    #[default]
    Combined,
    /// `audio.user.wav`: the caller alone.
    User,
    /// `audio.agent.wav`: the agent alone.
    Agent,
    /// `audio.user.wav` and `audio.agent.wav`.
    Both,
    /// No recording.
    Off,
}

impl AudioChoice {
    /// Returns the recordings to request from PolyAI.
    pub fn directions(self) -> &'static [AudioDirection] {
        match self {
            Self::Combined => &[AudioDirection::Combined],
            Self::User => &[AudioDirection::User],
            Self::Agent => &[AudioDirection::Agent],
            Self::Both => &[AudioDirection::User, AudioDirection::Agent],
            Self::Off => &[],
        }
    }
}
