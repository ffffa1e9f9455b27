//! One conversation, whatever shape it is served in.
//!
//! Everything in a [`Call`] follows from the scenario's seed and the call's index, so nothing but a small
//! record per call is kept: the words are made again whenever somebody asks for them.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Purpose,
    dialogue::{Dialogue, pick, skewed},
    phrases::{TOPICS, VARIANTS},
    rng,
    scenario::CallMix,
};

/// Where a conversation took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Channel {
    /// A telephone call, the only channel with recordings.
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
    /// As answers write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Voice => "VOICE-SIP",
            Self::Webchat => "WEBCHAT",
            Self::Chat => "CHAT",
        }
    }
}

/// Which deployment handled it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Environment {
    /// Real callers.
    Live,
    /// The team's own tests.
    Sandbox,
    /// Staging.
    PreRelease,
}

impl Environment {
    /// As answers write it.
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

/// What is decided once per call, before anybody speaks.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) index: u64,
    pub(crate) id: String,
    pub(crate) environment: Environment,
    pub(crate) channel: Channel,
    pub(crate) turns: u32,
    pub(crate) handed_off: bool,
    pub(crate) foreign: bool,
    pub(crate) variant: Option<(&'static str, &'static str)>,
}

impl Profile {
    pub(crate) fn draw(seed: u64, index: u64, mix: &CallMix) -> Self {
        let mut dice = rng(seed, index, Purpose::Profile);
        let environment = match dice.f64() {
            x if x < mix.sandbox => Environment::Sandbox,
            x if x < mix.sandbox + mix.pre_release => Environment::PreRelease,
            _ => Environment::Live,
        };
        let channel = match dice.f64() {
            x if x < mix.webchat => Channel::Webchat,
            x if x < mix.webchat + mix.chat => Channel::Chat,
            _ => Channel::Voice,
        };
        let (least, most) = (mix.min_turns.max(1), mix.max_turns.max(mix.min_turns).max(1));
        let turns = least + skewed(&mut dice, most - least);
        let handed_off = dice.f64() < mix.handoffs;
        let foreign = dice.f64() < mix.foreign;
        let variant = (dice.f64() < 0.8).then(|| pick(&mut dice, VARIANTS));
        let hex: String = std::iter::repeat_with(|| dice.digit(16)).take(32).collect();
        let id = if dice.f64() >= mix.other_ids && channel == Channel::Voice {
            format!("CA{hex}")
        } else {
            let uuid =
                format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..]);
            match dice.u8(0..3) {
                0 => format!("LOCAL-{uuid}"),
                1 => uuid,
                _ => format!("conv_{}", &hex[..22]),
            }
        };
        Self { index, id, environment, channel, turns, handed_off, foreign, variant }
    }
}

/// One conversation.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) profile: Profile,
    pub(crate) account_id: String,
    pub(crate) project_id: String,
    pub(crate) started_at: Timestamp,
    pub(crate) in_progress: bool,
    pub(crate) language: &'static str,
    pub(crate) from: Option<String>,
    pub(crate) to: Option<String>,
    pub(crate) outbound: bool,
    pub(crate) intent: &'static str,
    pub(crate) turns: Vec<Turn>,
    /// Destination and reason.
    pub(crate) handoff: Option<(&'static str, &'static str)>,
    /// Until the last word, and a while on hold where it was handed off. Milliseconds.
    pub(crate) duration_ms: u64,
    /// Until the agent's last word. Milliseconds.
    pub(crate) polyai_ms: u64,
    /// Heading and content.
    pub(crate) summary: Option<(&'static str, &'static str)>,
    pub(crate) score: Option<f64>,
    pub(crate) note: Option<&'static str>,
    pub(crate) tags: Vec<&'static str>,
    pub(crate) deployment: Option<String>,
    /// Whether its recording can be had.
    pub(crate) recorded: bool,
}

/// One exchange: what was heard, and what was said to it. Times are milliseconds from the start.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a turn, as PolyAI has them")]
pub(crate) struct Turn {
    pub(crate) user: String,
    pub(crate) user_english: String,
    pub(crate) user_from: u64,
    pub(crate) user_to: u64,
    pub(crate) dtmf: String,
    pub(crate) agent: String,
    pub(crate) agent_english: String,
    pub(crate) agent_from: u64,
    pub(crate) agent_to: u64,
    pub(crate) silence: bool,
    pub(crate) out_of_domain: bool,
    pub(crate) barge_in: bool,
    /// Something private is said in it; muted in the redacted recording.
    pub(crate) private: bool,
    pub(crate) intent: Option<&'static str>,
    pub(crate) entity: Option<(&'static str, String)>,
}

impl Turn {
    /// From the caller's last word to the agent's first, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a call are far below 2^52")]
    pub(crate) fn latency(&self) -> f64 {
        self.agent_from.saturating_sub(self.user_to) as f64 / 1000.0
    }
}

impl Call {
    /// The call of `profile`, with `more` turns after its end.
    pub(crate) fn draw(seed: u64, profile: &Profile, more: u32) -> Self {
        let mut dice = rng(seed, profile.index, Purpose::Words);
        let topic = &TOPICS[dice.usize(..TOPICS.len())];
        let mut script = Dialogue::new(dice, profile, topic);
        script.open();
        while script.turns.len() + 1 < profile.turns as usize {
            script.exchange();
        }
        if profile.turns > 1 {
            script.close();
        }
        script.dice = rng(seed, profile.index, Purpose::More);
        for _ in 0..more {
            script.exchange();
        }
        let Dialogue { turns, clock_ms: polyai_ms, language, numbers: (from, to), .. } = script;

        let mut dice = rng(seed, profile.index, Purpose::Extras);
        let handoff = profile.handed_off.then_some(topic.handoff);
        let on_hold = if handoff.is_some() { dice.u64(3_000..15_000) } else { dice.u64(200..900) };
        let voice = profile.channel == Channel::Voice;
        Self {
            account_id: String::new(),
            project_id: String::new(),
            started_at: Timestamp::UNIX_EPOCH,
            in_progress: false,
            language,
            from: voice.then_some(from),
            to: voice.then_some(to),
            outbound: voice && dice.f64() < 0.05,
            intent: topic.intent,
            handoff,
            duration_ms: polyai_ms + on_hold,
            polyai_ms,
            summary: (dice.f64() < 0.7).then_some(topic.summary),
            score: (dice.f64() < 0.6).then(|| f64::from(dice.u8(2..=20)) / 2.0),
            note: (dice.f64() < 0.1).then_some("Checked by the team: “fine”."),
            tags: if dice.f64() < 0.3 { vec!["follow-up", "söndag"] } else { Vec::new() },
            deployment: (dice.f64() < 0.7).then(|| super::uuid(&mut dice)),
            recorded: voice,
            turns,
            profile: profile.clone(),
        }
    }

    /// As it stands halfway through: what is still to come is not known, and so is how it ends.
    pub(crate) fn halfway(mut self) -> Self {
        self.in_progress = true;
        self.turns.truncate(self.turns.len().div_ceil(2));
        self.polyai_ms = self.turns.last().map_or(0, |turn| turn.agent_to);
        self.duration_ms = self.polyai_ms;
        (self.handoff, self.summary, self.score, self.note) = (None, None, None, None);
        self.recorded = false;
        self
    }

    /// A moment of the call.
    pub(crate) fn at(&self, ms: u64) -> Timestamp {
        let offset = SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
        self.started_at.checked_add(offset).unwrap_or(Timestamp::MAX)
    }

    pub(crate) fn has_audio(&self) -> bool {
        self.recorded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(index: u64) -> Call {
        Call::draw(1, &Profile::draw(1, index, &CallMix::default()), 0)
    }

    #[test]
    fn the_same_seed_makes_the_same_call() {
        for index in 0..50 {
            assert_eq!(format!("{:?}", call(index)), format!("{:?}", call(index)));
        }
        assert_ne!(call(1).profile.id, call(2).profile.id);
    }

    #[test]
    fn the_mix_has_everything_in_it() {
        let calls: Vec<_> = (0..600).map(call).collect();
        let share = |what: &dyn Fn(&Call) -> bool| calls.iter().filter(|call| what(call)).count();
        for (what, least) in [
            (share(&|c| c.profile.environment == Environment::Sandbox), 20),
            (share(&|c| c.profile.environment == Environment::PreRelease), 10),
            (share(&|c| c.profile.channel == Channel::Webchat), 20),
            (share(&|c| c.profile.channel == Channel::Chat), 10),
            (share(&|c| c.handoff.is_some()), 60),
            (share(&|c| c.profile.id.starts_with("CA") && c.profile.id.len() == 34), 200),
            (share(&|c| !c.profile.id.starts_with("CA")), 60),
            (share(&|c| c.language == "ar-SA"), 5),
            (share(&|c| c.turns.len() == 1), 5),
            (share(&|c| c.turns.len() > 40), 5),
            (share(&|c| c.turns.iter().any(|t| t.silence)), 20),
            (share(&|c| c.turns.iter().any(|t| t.out_of_domain)), 20),
            (share(&|c| c.turns.iter().any(|t| t.barge_in)), 20),
            (share(&|c| c.summary.is_none()), 60),
        ] {
            assert!(what >= least, "{what} < {least}");
        }
        assert!(calls.iter().all(|call| call.turns.len() == call.profile.turns as usize));
        assert!(calls.iter().flat_map(|call| &call.turns).all(|turn| !turn.user.contains('{')));
    }

    #[test]
    fn numbers_are_nobodys() {
        for number in (0..200).filter_map(|index| call(index).from) {
            assert!(
                number.starts_with("+447700900") && number.len() == 13
                    || number.starts_with("+1") && &number[5..10] == "55501" && number.len() == 12,
                "{number}"
            );
        }
    }

    #[test]
    fn a_longer_call_begins_like_the_shorter_one() {
        for index in 0..50 {
            let profile = Profile::draw(1, index, &CallMix::default());
            let (short, long) = (Call::draw(1, &profile, 0), Call::draw(1, &profile, 4));
            assert_eq!(long.turns.len(), short.turns.len() + 4);
            assert_eq!(format!("{:?}", short.turns), format!("{:?}", &long.turns[..short.turns.len()]));
            assert!(long.duration_ms > short.duration_ms);
        }
    }
}
