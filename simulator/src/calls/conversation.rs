//! One conversation in full, independent of the API that serves it.
//!
//! A [`Conversation`] follows from the scenario's seed and the call's index. The store keeps only a small record of each
//! call and generates the conversation again for every request.

use jiff::{SignedDuration, Timestamp};

use super::{
    dialogue::DialogueBuilder,
    phrases::TOPICS,
    profile::{Channel, Profile},
    turn::Turn,
};
use crate::random::{Purpose, rng, uuid};

/// One conversation.
#[derive(Clone, Debug)]
pub(crate) struct Conversation {
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
    /// Milliseconds until the end, including the time on hold after a handoff.
    pub(crate) duration_ms: u64,
    /// Milliseconds until the agent's last word.
    pub(crate) polyai_ms: u64,
    /// Heading and content.
    pub(crate) summary: Option<(&'static str, &'static str)>,
    pub(crate) score: Option<f64>,
    pub(crate) note: Option<&'static str>,
    pub(crate) tags: Vec<&'static str>,
    pub(crate) deployment: Option<String>,
    /// True if its recording is available now.
    pub(crate) has_audio: bool,
}

impl Conversation {
    /// Generates the conversation of `profile`, with `extra_turns` after its end.
    pub(crate) fn generate(seed: u64, profile: &Profile, extra_turns: u32) -> Self {
        let mut words = rng(seed, profile.index, Purpose::Words);
        let topic = &TOPICS[words.usize(..TOPICS.len())];
        let mut dialogue = DialogueBuilder::new(words, profile, topic);
        dialogue.add_whole_call(profile.turns as usize);
        dialogue.rng = rng(seed, profile.index, Purpose::More);
        for _ in 0..extra_turns {
            dialogue.add_exchange();
        }
        let DialogueBuilder { turns, now_ms: polyai_ms, language, numbers: (from, to), .. } = dialogue;

        let mut rng = rng(seed, profile.index, Purpose::Extras);
        let handoff = profile.handed_off.then_some(topic.handoff);
        let on_hold = if handoff.is_some() { rng.u64(3_000..15_000) } else { rng.u64(200..900) };
        let voice = profile.channel == Channel::Voice;
        Self {
            account_id: String::new(),
            project_id: String::new(),
            started_at: Timestamp::UNIX_EPOCH,
            in_progress: false,
            language,
            from: voice.then_some(from),
            to: voice.then_some(to),
            outbound: voice && rng.f64() < 0.05,
            intent: topic.intent,
            handoff,
            duration_ms: polyai_ms + on_hold,
            polyai_ms,
            summary: (rng.f64() < 0.7).then_some(topic.summary),
            score: (rng.f64() < 0.6).then(|| f64::from(rng.u8(2..=20)) / 2.0),
            note: (rng.f64() < 0.1).then_some("Checked by the team: “fine”."),
            tags: if rng.f64() < 0.3 { vec!["follow-up", "söndag"] } else { Vec::new() },
            deployment: (rng.f64() < 0.7).then(|| uuid(&mut rng)),
            has_audio: voice,
            turns,
            profile: profile.clone(),
        }
    }

    /// Adds the summary and the score, unless they are already there.
    pub(crate) fn summarise(&mut self) {
        let topic = TOPICS.iter().find(|topic| topic.intent == self.intent);
        self.summary = topic.map(|topic| topic.summary);
        self.score.get_or_insert(7.5);
    }

    /// Returns the conversation as it is halfway through, without everything that is decided at the end.
    pub(crate) fn halfway(mut self) -> Self {
        self.in_progress = true;
        self.turns.truncate(self.turns.len().div_ceil(2));
        self.polyai_ms = self.turns.last().map_or(0, |turn| turn.agent_to);
        self.duration_ms = self.polyai_ms;
        (self.handoff, self.summary, self.score, self.note) = (None, None, None, None);
        self.has_audio = false;
        self
    }

    /// Returns the time `ms` milliseconds after the start.
    pub(crate) fn at(&self, ms: u64) -> Timestamp {
        let offset = SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
        self.started_at.checked_add(offset).unwrap_or(Timestamp::MAX)
    }
}

/// Formats a time as recorded answers have it: with microseconds and `+00:00`.
pub(crate) fn format_time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{calls::Environment, scenario::CallMix};

    fn conversation(index: u64) -> Conversation {
        Conversation::generate(1, &Profile::draw(1, index, &CallMix::default()), 0)
    }

    #[test]
    fn generates_the_same_conversation_from_the_same_seed() {
        for index in 0..50 {
            assert_eq!(format!("{:?}", conversation(index)), format!("{:?}", conversation(index)));
        }
        assert_ne!(conversation(1).profile.id, conversation(2).profile.id);
    }

    #[test]
    fn default_mix_covers_every_kind_of_call() {
        let calls: Vec<_> = (0..600).map(conversation).collect();
        let count = |kind: &dyn Fn(&Conversation) -> bool| calls.iter().filter(|call| kind(call)).count();
        for (found, min) in [
            (count(&|c| c.profile.environment == Environment::Sandbox), 20),
            (count(&|c| c.profile.environment == Environment::PreRelease), 10),
            (count(&|c| c.profile.channel == Channel::Webchat), 20),
            (count(&|c| c.profile.channel == Channel::Chat), 10),
            (count(&|c| c.handoff.is_some()), 60),
            (count(&|c| c.profile.id.starts_with("CA") && c.profile.id.len() == 34), 200),
            (count(&|c| !c.profile.id.starts_with("CA")), 60),
            (count(&|c| c.language == "ar-SA"), 5),
            (count(&|c| c.turns.len() == 1), 5),
            (count(&|c| c.turns.len() > 40), 5),
            (count(&|c| c.turns.iter().any(|t| t.silence)), 20),
            (count(&|c| c.turns.iter().any(|t| t.out_of_domain)), 20),
            (count(&|c| c.turns.iter().any(|t| t.barge_in)), 20),
            (count(&|c| c.summary.is_none()), 60),
        ] {
            assert!(found >= min, "{found} < {min}");
        }
        assert!(calls.iter().all(|call| call.turns.len() == call.profile.turns as usize));
        assert!(calls.iter().flat_map(|call| &call.turns).all(|turn| !turn.user.contains('{')));
    }

    #[test]
    fn uses_only_phone_numbers_reserved_for_fiction() {
        for number in (0..200).filter_map(|index| conversation(index).from) {
            assert!(
                number.starts_with("+447700900") && number.len() == 13
                    || number.starts_with("+1") && &number[5..10] == "55501" && number.len() == 12,
                "{number}"
            );
        }
    }

    #[test]
    fn extra_turns_leave_the_first_turns_unchanged() {
        for index in 0..50 {
            let profile = Profile::draw(1, index, &CallMix::default());
            let short = Conversation::generate(1, &profile, 0);
            let long = Conversation::generate(1, &profile, 4);
            assert_eq!(long.turns.len(), short.turns.len() + 4);
            assert_eq!(format!("{:?}", short.turns), format!("{:?}", &long.turns[..short.turns.len()]));
            assert!(long.duration_ms > short.duration_ms);
        }
    }
}
