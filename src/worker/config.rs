//! `[worker]`

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::polyai::AudioDirection;

/// `[worker]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// How many conversations are fetched at the same time.
    #[schemars(range(min = 1))]
    pub concurrency: usize,
    /// Which environments are archived; events of others are acknowledged and counted.
    pub environments: Vec<String>,
    /// Which recordings are archived.
    pub audio: AudioChoice,
    /// Ask for the redacted recording. A key without access to personal data gets it in any case.
    pub redacted: bool,
    /// How long after the end of a call its recording may still appear; then it is archived without.
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

/// Which recordings are archived.
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
    /// None.
    Off,
}

impl AudioChoice {
    /// What to ask PolyAI for.
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
