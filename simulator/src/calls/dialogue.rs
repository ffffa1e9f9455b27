//! Puts phrases together into turns and gives every turn its times.

use super::{
    phrases::{
        ASIDES, CHAT_MARKS, CLOSINGS, DAYS, FOREIGN, GREETINGS, HANDOFF_LINES, NAMES, OUT_OF_DOMAIN,
        SILENCES, TIMES, Topic,
    },
    profile::{Channel, Profile},
    turn::Turn,
};
use crate::random::pick;

/// The turns of a conversation while they are generated.
pub(super) struct DialogueBuilder {
    pub(super) rng: fastrand::Rng,
    voice: bool,
    topic: &'static Topic,
    foreign: Option<&'static [[&'static str; 4]]>,
    pub(super) language: &'static str,
    name: &'static str,
    code: String,
    pub(super) numbers: (String, String),
    handed_off: bool,
    exchanges: usize,
    pub(super) turns: Vec<Turn>,
    /// The end of the last turn, in milliseconds from the start.
    pub(super) now_ms: u64,
}

impl DialogueBuilder {
    pub(super) fn new(mut rng: fastrand::Rng, profile: &Profile, topic: &'static Topic) -> Self {
        let (language, foreign) = if profile.foreign {
            let (language, lines) = pick(&mut rng, FOREIGN);
            (language, Some(lines))
        } else {
            (if rng.bool() { "en-GB" } else { "en-US" }, None)
        };
        let numbers = if language == "en-US" {
            (american_number(&mut rng), american_number(&mut rng))
        } else {
            (british_number(&mut rng), british_number(&mut rng))
        };
        let code = std::iter::repeat_with(|| rng.alphanumeric().to_ascii_uppercase()).take(6).collect();
        Self {
            voice: profile.channel == Channel::Voice,
            topic,
            foreign,
            language,
            name: pick(&mut rng, NAMES),
            code,
            numbers,
            handed_off: profile.handed_off,
            exchanges: 0,
            turns: Vec::new(),
            now_ms: 0,
            rng,
        }
    }

    /// Adds `turns` turns, from the greeting to the goodbye.
    pub(super) fn add_whole_call(&mut self, turns: usize) {
        let greeting = pick(&mut self.rng, GREETINGS);
        self.push(Turn { agent: greeting.to_owned(), intent: Some("start"), ..Turn::default() });
        while self.turns.len() + 1 < turns {
            self.add_exchange();
        }
        if turns > 1 {
            self.add_closing();
        }
    }

    /// Adds one turn in the middle of the call.
    pub(super) fn add_exchange(&mut self) {
        let exchange = self.exchanges;
        self.exchanges += 1;
        if let Some(lines) = self.foreign {
            let [user, user_english, agent, agent_english] = lines[exchange % lines.len()];
            let turn = Turn {
                private: user.contains('{'),
                user: self.fill_placeholders(user),
                user_english: self.fill_placeholders(user_english),
                agent: self.fill_placeholders(agent),
                agent_english: self.fill_placeholders(agent_english),
                ..Turn::default()
            };
            return self.push(turn);
        }
        match self.rng.u8(0..100) {
            0..6 if self.voice && exchange > 0 => {
                let agent = pick(&mut self.rng, SILENCES).to_owned();
                self.push(Turn { agent, silence: true, ..Turn::default() });
            }
            6..10 => {
                let (user, agent) = pick(&mut self.rng, OUT_OF_DOMAIN);
                let (user, agent) = (user.to_owned(), agent.to_owned());
                self.push(Turn { user, agent, out_of_domain: true, ..Turn::default() });
            }
            _ => self.add_topic_step(exchange),
        }
    }

    /// Adds the caller's answer to the agent's last question, and the agent's next question.
    fn add_topic_step(&mut self, step: usize) {
        let line = |at: usize, rng: &mut fastrand::Rng| match self.topic.steps.get(at) {
            Some(line) => *line,
            None => pick(rng, ASIDES),
        };
        let user_line = match step {
            0 => pick(&mut self.rng, self.topic.openings),
            _ => line(step - 1, &mut self.rng).1,
        };
        let agent_line = line(step, &mut self.rng).0;
        let entity = match user_line {
            line if line.contains("{name}") => Some(("name", self.name.to_owned())),
            line if line.contains("{number}") => Some(("phone_number", self.numbers.0.clone())),
            line if line.contains("{code}") => Some(("booking_code", self.code.clone())),
            _ => None,
        };
        let mut user = self.fill_placeholders(user_line);
        if !self.voice && self.rng.f64() < 0.3 {
            user.push_str(pick(&mut self.rng, CHAT_MARKS));
        }
        let dtmf = if self.voice && user_line.contains("{number}") && self.rng.bool() {
            self.numbers.0.trim_start_matches('+').to_owned()
        } else {
            String::new()
        };
        let agent = self.fill_placeholders(agent_line);
        self.push(Turn {
            user,
            dtmf,
            agent,
            private: entity.is_some(),
            intent: (step == 0).then_some(self.topic.intent),
            entity,
            ..Turn::default()
        });
    }

    fn add_closing(&mut self) {
        let (user, goodbye) = pick(&mut self.rng, CLOSINGS);
        let (user, agent, intent) = if self.handed_off {
            let agent = pick(&mut self.rng, HANDOFF_LINES);
            ("Can I speak to a person about that, please?", agent, "handoff")
        } else {
            (user, goodbye, "goodbye")
        };
        self.push(Turn {
            user: user.to_owned(),
            agent: agent.to_owned(),
            intent: Some(intent),
            ..Turn::default()
        });
    }

    /// Gives a turn its times and adds it.
    fn push(&mut self, mut turn: Turn) {
        turn.barge_in =
            self.voice && !turn.user.is_empty() && !self.turns.is_empty() && self.rng.f64() < 0.08;
        let after = if turn.barge_in { 0 } else { self.rng.u64(250..1_400) };
        let before = if turn.barge_in { self.rng.u64(200..600) } else { 0 };
        turn.user_from = (self.now_ms + after).saturating_sub(before);
        turn.user_to = turn.user_from
            + match (turn.user.is_empty(), turn.silence) {
                (true, true) => self.rng.u64(4_000..6_000),
                (true, false) => 35,
                (false, _) => self.speaking_time(&turn.user),
            };
        turn.agent_from = turn.user_to + self.rng.u64(450..2_300);
        turn.agent_to = turn.agent_from + self.speaking_time(&turn.agent);
        self.now_ms = turn.agent_to;
        self.turns.push(turn);
    }

    /// Returns the milliseconds it takes to say `text`: about fifteen letters a second, or seven in scripts where a
    /// character is a syllable.
    fn speaking_time(&mut self, text: &str) -> u64 {
        let per_letter = if text.chars().any(|c| ('\u{3040}'..'\u{a000}').contains(&c)) { 140 } else { 66 };
        300 + text.chars().count() as u64 * per_letter + self.rng.u64(0..300)
    }

    fn fill_placeholders(&mut self, line: &str) -> String {
        if !line.contains('{') {
            return line.to_owned();
        }
        line.replace("{name}", self.name)
            .replace("{code}", &self.code)
            .replace("{number}", &self.numbers.0)
            .replace("{day}", pick(&mut self.rng, DAYS))
            .replace("{time}", pick(&mut self.rng, TIMES))
    }
}

/// Returns a number from the range that North America reserves for fiction.
fn american_number(rng: &mut fastrand::Rng) -> String {
    let area = pick(rng, &["202", "312", "415", "617"]);
    format!("+1{area}55501{:02}", rng.u8(0..100))
}

/// Returns a number from the range that Ofcom reserves for drama.
fn british_number(rng: &mut fastrand::Rng) -> String {
    format!("+447700900{:03}", rng.u16(0..1000))
}
