//! One conversation, whatever shape it is served in.
//!
//! Everything in a [`Call`] follows from the scenario's seed and the call's index, so nothing but a small
//! record per call is kept: the words are made again whenever somebody asks for them.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Purpose,
    phrases::{
        ASIDES, CHAT_MARKS, CLOSINGS, DAYS, FOREIGN, GREETINGS, HANDOFF_LINES, NAMES, OUT_OF_DOMAIN,
        SILENCES, TIMES, TOPICS, Topic, VARIANTS,
    },
    rng,
    scenario::Mix,
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

    pub(super) fn parse(name: &str) -> Option<Self> {
        [Self::Live, Self::Sandbox, Self::PreRelease].into_iter().find(|known| known.as_str() == name)
    }
}

/// What is decided once per call, before anybody speaks.
#[derive(Clone, Debug)]
pub(super) struct Profile {
    pub(super) index: u64,
    pub(super) id: String,
    pub(super) environment: Environment,
    pub(super) channel: Channel,
    pub(super) turns: u32,
    pub(super) handed_off: bool,
    pub(super) foreign: bool,
    pub(super) variant: Option<(&'static str, &'static str)>,
}

impl Profile {
    pub(super) fn draw(seed: u64, index: u64, mix: &Mix) -> Self {
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
pub(super) struct Call {
    pub(super) profile: Profile,
    pub(super) account_id: String,
    pub(super) project_id: String,
    pub(super) started_at: Timestamp,
    pub(super) in_progress: bool,
    pub(super) language: &'static str,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) outbound: bool,
    pub(super) intent: &'static str,
    pub(super) turns: Vec<Turn>,
    /// Destination and reason.
    pub(super) handoff: Option<(&'static str, &'static str)>,
    /// Until the last word, and a while on hold where it was handed off. Milliseconds.
    pub(super) duration_ms: u64,
    /// Until the agent's last word. Milliseconds.
    pub(super) polyai_ms: u64,
    /// Heading and content.
    pub(super) summary: Option<(&'static str, &'static str)>,
    pub(super) score: Option<f64>,
    pub(super) note: Option<&'static str>,
    pub(super) tags: Vec<&'static str>,
    pub(super) deployment: Option<String>,
    /// Whether its recording can be had.
    pub(super) recorded: bool,
}

/// One exchange: what was heard, and what was said to it. Times are milliseconds from the start.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a turn, as PolyAI has them")]
pub(super) struct Turn {
    pub(super) user: String,
    pub(super) user_english: String,
    pub(super) user_from: u64,
    pub(super) user_to: u64,
    pub(super) dtmf: String,
    pub(super) agent: String,
    pub(super) agent_english: String,
    pub(super) agent_from: u64,
    pub(super) agent_to: u64,
    pub(super) silence: bool,
    pub(super) out_of_domain: bool,
    pub(super) barge_in: bool,
    /// Something private is said in it; muted in the redacted recording.
    pub(super) private: bool,
    pub(super) intent: Option<&'static str>,
    pub(super) entity: Option<(&'static str, String)>,
}

impl Turn {
    /// From the caller's last word to the agent's first, in seconds.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of a call are far below 2^52")]
    pub(super) fn latency(&self) -> f64 {
        self.agent_from.saturating_sub(self.user_to) as f64 / 1000.0
    }
}

impl Call {
    /// The call of `profile`, with `more` turns after its end.
    pub(super) fn draw(seed: u64, profile: &Profile, more: u32) -> Self {
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
    pub(super) fn halfway(mut self) -> Self {
        self.in_progress = true;
        self.turns.truncate(self.turns.len().div_ceil(2));
        self.polyai_ms = self.turns.last().map_or(0, |turn| turn.agent_to);
        self.duration_ms = self.polyai_ms;
        (self.handoff, self.summary, self.score, self.note) = (None, None, None, None);
        self.recorded = false;
        self
    }

    /// A moment of the call.
    pub(super) fn at(&self, ms: u64) -> Timestamp {
        let offset = SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX));
        self.started_at.checked_add(offset).unwrap_or(Timestamp::MAX)
    }

    pub(super) fn has_audio(&self) -> bool {
        self.recorded
    }
}

/// A conversation being put together.
struct Dialogue {
    dice: fastrand::Rng,
    voice: bool,
    topic: &'static Topic,
    foreign: Option<&'static [[&'static str; 4]]>,
    language: &'static str,
    name: &'static str,
    code: String,
    numbers: (String, String),
    handed_off: bool,
    steps: usize,
    turns: Vec<Turn>,
    clock_ms: u64,
}

impl Dialogue {
    fn new(mut dice: fastrand::Rng, profile: &Profile, topic: &'static Topic) -> Self {
        let (language, foreign) = if profile.foreign {
            let (language, lines) = pick(&mut dice, FOREIGN);
            (language, Some(lines))
        } else {
            (if dice.bool() { "en-GB" } else { "en-US" }, None)
        };
        let numbers = if language == "en-US" {
            (american(&mut dice), american(&mut dice))
        } else {
            (british(&mut dice), british(&mut dice))
        };
        let code = std::iter::repeat_with(|| dice.alphanumeric().to_ascii_uppercase()).take(6).collect();
        Self {
            voice: profile.channel == Channel::Voice,
            topic,
            foreign,
            language,
            name: pick(&mut dice, NAMES),
            code,
            numbers,
            handed_off: profile.handed_off,
            steps: 0,
            turns: Vec::new(),
            clock_ms: 0,
            dice,
        }
    }

    /// Nobody has said anything yet: the agent greets.
    fn open(&mut self) {
        let greeting = pick(&mut self.dice, GREETINGS);
        self.turn(Turn { agent: greeting.to_owned(), intent: Some("start"), ..Turn::default() });
    }

    fn exchange(&mut self) {
        let step = self.steps;
        self.steps += 1;
        if let Some(lines) = self.foreign {
            let [user, user_english, agent, agent_english] = lines[step % lines.len()];
            let turn = Turn {
                private: user.contains('{'),
                user: self.fill(user),
                user_english: self.fill(user_english),
                agent: self.fill(agent),
                agent_english: self.fill(agent_english),
                ..Turn::default()
            };
            return self.turn(turn);
        }
        match self.dice.u8(0..100) {
            0..6 if self.voice && step > 0 => {
                let agent = pick(&mut self.dice, SILENCES).to_owned();
                self.turn(Turn { agent, silence: true, ..Turn::default() });
            }
            6..10 => {
                let (user, agent) = pick(&mut self.dice, OUT_OF_DOMAIN);
                let (user, agent) = (user.to_owned(), agent.to_owned());
                self.turn(Turn { user, agent, out_of_domain: true, ..Turn::default() });
            }
            _ => self.step(step),
        }
    }

    /// The caller answers what the agent asked last, and the agent asks the next thing.
    fn step(&mut self, step: usize) {
        let line = |at: usize, dice: &mut fastrand::Rng| match self.topic.steps.get(at) {
            Some(line) => *line,
            None => pick(dice, ASIDES),
        };
        let said = match step {
            0 => pick(&mut self.dice, self.topic.openings),
            _ => line(step - 1, &mut self.dice).1,
        };
        let agent = line(step, &mut self.dice).0;
        let entity = match said {
            said if said.contains("{name}") => Some(("name", self.name.to_owned())),
            said if said.contains("{number}") => Some(("phone_number", self.numbers.0.clone())),
            said if said.contains("{code}") => Some(("booking_code", self.code.clone())),
            _ => None,
        };
        let mut user = self.fill(said);
        if !self.voice && self.dice.f64() < 0.3 {
            user.push_str(pick(&mut self.dice, CHAT_MARKS));
        }
        let dtmf = if self.voice && said.contains("{number}") && self.dice.bool() {
            self.numbers.0.trim_start_matches('+').to_owned()
        } else {
            String::new()
        };
        let agent = self.fill(agent);
        self.turn(Turn {
            user,
            dtmf,
            agent,
            private: entity.is_some(),
            intent: (step == 0).then_some(self.topic.intent),
            entity,
            ..Turn::default()
        });
    }

    fn close(&mut self) {
        let (user, goodbye) = pick(&mut self.dice, CLOSINGS);
        let turn = if self.handed_off {
            let agent = pick(&mut self.dice, HANDOFF_LINES).to_owned();
            Turn {
                user: "Can I speak to a person about that, please?".to_owned(),
                agent,
                intent: Some("handoff"),
                ..Turn::default()
            }
        } else {
            Turn {
                user: user.to_owned(),
                agent: goodbye.to_owned(),
                intent: Some("goodbye"),
                ..Turn::default()
            }
        };
        self.turn(turn);
    }

    /// Gives a turn its times and adds it.
    fn turn(&mut self, mut turn: Turn) {
        turn.barge_in =
            self.voice && !turn.user.is_empty() && !self.turns.is_empty() && self.dice.f64() < 0.08;
        let after = if turn.barge_in { 0 } else { self.dice.u64(250..1_400) };
        let before = if turn.barge_in { self.dice.u64(200..600) } else { 0 };
        turn.user_from = (self.clock_ms + after).saturating_sub(before);
        turn.user_to = turn.user_from
            + match (turn.user.is_empty(), turn.silence) {
                (true, true) => self.dice.u64(4_000..6_000),
                (true, false) => 35,
                (false, _) => self.length(&turn.user),
            };
        turn.agent_from = turn.user_to + self.dice.u64(450..2_300);
        turn.agent_to = turn.agent_from + self.length(&turn.agent);
        self.clock_ms = turn.agent_to;
        self.turns.push(turn);
    }

    /// How long it takes to say: about fifteen letters a second, or seven where one is a syllable.
    fn length(&mut self, text: &str) -> u64 {
        let per_letter = if text.chars().any(|c| ('\u{3040}'..'\u{a000}').contains(&c)) { 140 } else { 66 };
        300 + text.chars().count() as u64 * per_letter + self.dice.u64(0..300)
    }

    fn fill(&mut self, line: &str) -> String {
        if !line.contains('{') {
            return line.to_owned();
        }
        line.replace("{name}", self.name)
            .replace("{code}", &self.code)
            .replace("{number}", &self.numbers.0)
            .replace("{day}", pick(&mut self.dice, DAYS))
            .replace("{time}", pick(&mut self.dice, TIMES))
    }
}

fn pick<T: Copy>(dice: &mut fastrand::Rng, from: &[T]) -> T {
    from[dice.usize(..from.len())]
}

/// Small numbers often, large ones rarely, up to `most`.
fn skewed(dice: &mut fastrand::Rng, most: u32) -> u32 {
    let largest = dice.u32(0..=most);
    (0..2).fold(largest, |least, _| least.min(dice.u32(0..=most)))
}

/// The range set aside for fiction in North America.
fn american(dice: &mut fastrand::Rng) -> String {
    let area = pick(dice, &["202", "312", "415", "617"]);
    format!("+1{area}55501{:02}", dice.u8(0..100))
}

/// The range set aside for drama by Ofcom.
fn british(dice: &mut fastrand::Rng) -> String {
    format!("+447700900{:03}", dice.u16(0..1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(index: u64) -> Call {
        Call::draw(1, &Profile::draw(1, index, &Mix::default()), 0)
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
            let profile = Profile::draw(1, index, &Mix::default());
            let (short, long) = (Call::draw(1, &profile, 0), Call::draw(1, &profile, 4));
            assert_eq!(long.turns.len(), short.turns.len() + 4);
            assert_eq!(format!("{:?}", short.turns), format!("{:?}", &long.turns[..short.turns.len()]));
            assert!(long.duration_ms > short.duration_ms);
        }
    }
}
