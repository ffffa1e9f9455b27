//! The facts of a call that are decided before the conversation starts.

use serde::{Deserialize, Serialize};

use super::phrases::VARIANTS;
use crate::{
    random::{Purpose, pick, rng, skewed},
    scenario::CallMix,
};

/// The channel of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    /// A telephone call. Only this channel has recordings.
    #[serde(rename = "VOICE-SIP")]
    Voice,
    /// A chat window.
    #[serde(rename = "WEBCHAT")]
    Webchat,
    /// The chat API.
    #[serde(rename = "CHAT")]
    Chat,
}

impl Channel {
    /// Returns the name that answers use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Voice => "VOICE-SIP",
            Self::Webchat => "WEBCHAT",
            Self::Chat => "CHAT",
        }
    }
}

/// The deployment that handled a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// Real callers.
    Live,
    /// Tests by the team.
    Sandbox,
    /// Staging.
    PreRelease,
}

impl Environment {
    /// Returns the name that answers use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Sandbox => "sandbox",
            Self::PreRelease => "pre-release",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Live, Self::Sandbox, Self::PreRelease].into_iter().find(|known| known.as_str() == name)
    }
}

/// The facts of a call that follow from the seed, its index and the scenario's mix.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) index: u64,
    pub(crate) id: String,
    pub(crate) environment: Environment,
    pub(crate) channel: Channel,
    pub(crate) turns: u32,
    pub(crate) handed_off: bool,
    pub(crate) foreign: bool,
    /// Id and name.
    pub(crate) variant: Option<(&'static str, &'static str)>,
}

impl Profile {
    pub(crate) fn draw(seed: u64, index: u64, mix: &CallMix) -> Self {
        let mut rng = rng(seed, index, Purpose::Profile);
        let environment = match rng.f64() {
            x if x < mix.sandbox => Environment::Sandbox,
            x if x < mix.sandbox + mix.pre_release => Environment::PreRelease,
            _ => Environment::Live,
        };
        let channel = match rng.f64() {
            x if x < mix.webchat => Channel::Webchat,
            x if x < mix.webchat + mix.chat => Channel::Chat,
            _ => Channel::Voice,
        };
        let (min, max) = (mix.min_turns.max(1), mix.max_turns.max(mix.min_turns).max(1));
        Self {
            index,
            environment,
            channel,
            turns: min + skewed(&mut rng, max - min),
            handed_off: rng.f64() < mix.handoffs,
            foreign: rng.f64() < mix.foreign,
            variant: (rng.f64() < 0.8).then(|| pick(&mut rng, VARIANTS)),
            id: conversation_id(&mut rng, channel, mix.other_ids),
        }
    }
}

/// Returns an id in one of the forms that PolyAI uses: `CA` and 32 hex digits for most telephone calls.
fn conversation_id(rng: &mut fastrand::Rng, channel: Channel, other_ids: f64) -> String {
    let hex: String = std::iter::repeat_with(|| rng.digit(16)).take(32).collect();
    if rng.f64() >= other_ids && channel == Channel::Voice {
        return format!("CA{hex}");
    }
    let uuid = format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
    match rng.u8(0..3) {
        0 => format!("LOCAL-{uuid}"),
        1 => uuid,
        _ => format!("conv_{}", &hex[..22]),
    }
}
