//! Two people talking: puts phrases together into turns, and gives every turn its time.

use super::{
    conversation::{Channel, Profile, Turn},
    phrases::{
        ASIDES, CHAT_MARKS, CLOSINGS, DAYS, FOREIGN, GREETINGS, HANDOFF_LINES, NAMES, OUT_OF_DOMAIN,
        SILENCES, TIMES, Topic,
    },
};

/// A conversation being put together.
pub(crate) struct Dialogue {
    pub(crate) dice: fastrand::Rng,
    voice: bool,
    topic: &'static Topic,
    foreign: Option<&'static [[&'static str; 4]]>,
    pub(crate) language: &'static str,
    name: &'static str,
    code: String,
    pub(crate) numbers: (String, String),
    handed_off: bool,
    steps: usize,
    pub(crate) turns: Vec<Turn>,
    pub(crate) clock_ms: u64,
}

impl Dialogue {
    pub(crate) fn new(mut dice: fastrand::Rng, profile: &Profile, topic: &'static Topic) -> Self {
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
    pub(crate) fn open(&mut self) {
        let greeting = pick(&mut self.dice, GREETINGS);
        self.turn(Turn { agent: greeting.to_owned(), intent: Some("start"), ..Turn::default() });
    }

    pub(crate) fn exchange(&mut self) {
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

    pub(crate) fn close(&mut self) {
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

pub(crate) fn pick<T: Copy>(dice: &mut fastrand::Rng, from: &[T]) -> T {
    from[dice.usize(..from.len())]
}

/// Small numbers often, large ones rarely, up to `most`.
pub(crate) fn skewed(dice: &mut fastrand::Rng, most: u32) -> u32 {
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
