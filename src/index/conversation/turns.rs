//! The rows of the table `turns`.

use std::io;

use jiff::Timestamp;

use super::{
    document::{MAX_JSON_BYTES, is_empty, scalar, value_bytes},
    scrubber::Scrubber,
    values::{latency, names, text},
};
use crate::{
    index::rows::TurnRow,
    json::{JsonReader, Ranked, TurnField, copy_json, turn_key},
};

/// The maximum turns of a conversation. A turn takes much more memory than `{},`, and calls have far fewer.
const MAX_TURNS: usize = 50_000;
/// The largest difference between two clocks of PolyAI, in seconds. A turn that begins by no more than that before the conversation
/// begins with it.
const MAX_CLOCK_NOISE_S: f64 = 1.0;

/// The conversation that the turns belong to.
pub(super) struct Call<'a> {
    pub(super) conversation_id: &'a str,
    pub(super) started_at: Timestamp,
    /// False if `started_at` is only a guess.
    pub(super) is_start_known: bool,
}

/// Reads the turns of an array, one at a time. An element that is not an object is an empty turn.
pub(super) fn read_turns(json: &[u8], call: &Call<'_>, scrubber: &Scrubber<'_>) -> Vec<TurnRow> {
    let mut rows = Vec::new();
    // Reading from memory does not fail.
    add_turns(json, call, scrubber, &mut rows).unwrap_or_default();
    rows
}

fn add_turns(
    json: &[u8],
    call: &Call<'_>,
    scrubber: &Scrubber<'_>,
    rows: &mut Vec<TurnRow>,
) -> io::Result<()> {
    let mut reader = JsonReader::new(json);
    if reader.peek()? != Some(b'[') {
        return Ok(());
    }
    reader.array(|reader| {
        if rows.len() == MAX_TURNS {
            return reader.skip_value();
        }
        let turn = Turn::read(reader, scrubber)?;
        rows.push(turn.into_row(call, rows.len() + 1));
        Ok(())
    })
}

/// Returns the number of turns of which `flag` is true, or `None` if no turn states it.
pub(super) fn count(turns: &[TurnRow], flag: impl Fn(&TurnRow) -> Option<bool>) -> Option<i64> {
    let stated = turns.iter().filter_map(flag);
    stated.fold(None, |count, is_true| Some(count.unwrap_or(0) + i64::from(is_true)))
}

#[derive(Default)]
struct Turn {
    user_input: Ranked<String>,
    agent_response: Ranked<String>,
    translated_user_input: Ranked<String>,
    english_agent_response: Ranked<String>,
    user_input_at: Ranked<Timestamp>,
    agent_response_at: Ranked<Timestamp>,
    latency_s: Ranked<f64>,
    interrupted: Ranked<bool>,
    silence: Ranked<bool>,
    out_of_domain: Ranked<bool>,
    intents: Ranked<Vec<String>>,
    entities: Ranked<String>,
}

impl Turn {
    fn read(reader: &mut JsonReader<&[u8]>, scrubber: &Scrubber<'_>) -> io::Result<Self> {
        let mut turn = Self::default();
        if reader.peek()? == Some(b'{') {
            reader.object(turn_key, |reader, (field, rank)| {
                turn.add(field, rank, value_bytes(reader)?, scrubber);
                Ok(())
            })?;
        } else {
            reader.skip_value()?;
        }
        Ok(turn)
    }

    fn add(&mut self, field: TurnField, rank: u8, json: &[u8], scrubber: &Scrubber<'_>) {
        match field {
            TurnField::UserInput => self.user_input.offer(rank, text(scalar(json))),
            TurnField::AgentResponse => self.agent_response.offer(rank, text(scalar(json))),
            TurnField::TranslatedUserInput => self.translated_user_input.offer(rank, text(scalar(json))),
            TurnField::EnglishAgentResponse => self.english_agent_response.offer(rank, text(scalar(json))),
            TurnField::UserInputAt => self.user_input_at.offer(rank, scalar(json).time()),
            TurnField::AgentResponseAt => self.agent_response_at.offer(rank, scalar(json).time()),
            TurnField::Latency => self.latency_s.offer(rank, latency(json)),
            TurnField::Interrupted => self.interrupted.offer(rank, scalar(json).flag()),
            TurnField::Silence => self.silence.offer(rank, scalar(json).flag()),
            TurnField::OutOfDomain => self.out_of_domain.offer(rank, scalar(json).flag()),
            TurnField::Intents => {
                let names = names(json, scrubber).value;
                self.intents.offer(rank, Some(names).filter(|names| !names.is_empty()));
            }
            TurnField::Entities if is_empty(json) => {}
            TurnField::Entities => {
                self.entities.offer(rank, copy_json(json, MAX_JSON_BYTES, scrubber, false));
            }
        }
    }

    fn into_row(self, call: &Call<'_>, number: usize) -> TurnRow {
        let (user_input_at, agent_response_at) =
            (self.user_input_at.into_value(), self.agent_response_at.into_value());
        let first = user_input_at.into_iter().chain(agent_response_at).min();
        TurnRow {
            conversation_id: call.conversation_id.to_owned(),
            call_started_at: call.started_at,
            number: i32::try_from(number).unwrap_or(i32::MAX),
            user_input: self.user_input.into_value(),
            agent_response: self.agent_response.into_value(),
            translated_user_input: self.translated_user_input.into_value(),
            english_agent_response: self.english_agent_response.into_value(),
            user_input_at,
            agent_response_at,
            offset_s: first.filter(|_| call.is_start_known).map(|first| offset_s(call.started_at, first)),
            latency_s: self.latency_s.into_value(),
            interrupted: self.interrupted.into_value(),
            silence: self.silence.into_value(),
            out_of_domain: self.out_of_domain.into_value(),
            intents: self.intents.into_value().unwrap_or_default(),
            entities: self.entities.into_value(),
        }
    }
}

fn offset_s(start: Timestamp, at: Timestamp) -> f64 {
    let offset = at.duration_since(start).as_secs_f64();
    if (-MAX_CLOCK_NOISE_S..0.0).contains(&offset) { 0.0 } else { offset }
}
