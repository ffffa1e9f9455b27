//! Everything that was said, in order, with the time at which it is heard.
//!
//! A transcript comes from outside and may be hostile. Each text is isolated, so that its direction does not change what stands around it, control
//! characters are replaced, and of a long text the beginning is shown.

use std::collections::HashMap;

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::Value;

use super::super::{format, mask::mask_numbers};
use crate::index::{CallRow, TurnRow};

/// The turns on one page.
pub(super) const TURNS_PER_PAGE: usize = 500;
/// The part of a text that a page shows.
const MAX_SHOWN_BYTES: usize = 4 << 10;
/// The part of all texts that a page shows. Beyond it, each text is cut to [`MIN_SHOWN_BYTES`].
const MAX_PAGE_BYTES: usize = 1 << 20;
const MIN_SHOWN_BYTES: usize = 200;
/// The speed at which people talk, to estimate when a caller began: `PolyAI` reports when the caller ended.
const SECONDS_PER_CHAR: f64 = 1.0 / 15.0;
/// From here on a caller notices that the agent is slow.
const SLOW_LATENCY_S: f64 = 2.5;
/// The functions of a turn that are shown.
const MAX_FUNCTIONS: usize = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    Caller,
    Agent,
}

/// What one person said in a turn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line<'a> {
    pub(super) turn: i32,
    pub(super) speaker: Speaker,
    pub(super) text: Option<&'a str>,
    translation: Option<&'a str>,
    /// The seconds from the start of the recording to the first word.
    pub(super) heard_at: Option<f64>,
    latency_s: Option<f64>,
    is_interruption: bool,
    is_silence: bool,
    is_out_of_domain: bool,
}

/// Returns the lines of all turns.
pub(super) fn lines(turns: &[TurnRow]) -> Vec<Line<'_>> {
    let mut lines: Vec<Line<'_>> = Vec::with_capacity(turns.len() * 2);
    let mut earlier = 0.0;
    for turn in turns {
        for line in [caller_line(turn, earlier), agent_line(turn)].into_iter().flatten() {
            earlier = line.heard_at.unwrap_or(earlier);
            lines.push(line);
        }
    }
    lines
}

/// Returns the caller's part of a turn. It began after the agent's last sentence.
fn caller_line(turn: &TurnRow, earlier: f64) -> Option<Line<'_>> {
    let (text, flag) = (turn.user_input.as_deref(), |flag: Option<bool>| flag == Some(true));
    if text.is_none() && !flag(turn.silence) && !flag(turn.interrupted) && !flag(turn.out_of_domain) {
        return None;
    }
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let spoken = text.map_or(0, |text| text.chars().count()) as f64 * SECONDS_PER_CHAR;
    Some(Line {
        turn: turn.number,
        speaker: Speaker::Caller,
        text,
        translation: turn.translated_user_input.as_deref().filter(|translated| Some(*translated) != text),
        heard_at: seconds_of(turn, turn.user_input_at)
            .map(|end| (end - spoken).max(earlier.min(end)).max(0.0)),
        latency_s: None,
        is_interruption: flag(turn.interrupted),
        is_silence: flag(turn.silence),
        is_out_of_domain: flag(turn.out_of_domain),
    })
}

fn agent_line(turn: &TurnRow) -> Option<Line<'_>> {
    let text = turn.agent_response.as_deref()?;
    Some(Line {
        turn: turn.number,
        speaker: Speaker::Agent,
        text: Some(text),
        translation: turn.english_agent_response.as_deref().filter(|translated| *translated != text),
        heard_at: seconds_of(turn, turn.agent_response_at).map(|start| start.max(0.0)),
        latency_s: turn.latency_s,
        is_interruption: false,
        is_silence: false,
        is_out_of_domain: false,
    })
}

/// Returns the seconds from the start of the call, if that is known.
fn seconds_of(turn: &TurnRow, at: Option<Timestamp>) -> Option<f64> {
    turn.offset_s?;
    Some(at?.duration_since(turn.call_started_at).as_secs_f64())
}

/// A function that the agent called.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FunctionCall {
    name: String,
    seconds: Option<f64>,
    error: Option<String>,
}

/// Returns the functions of each turn. The Data API alone has them.
pub(super) fn functions(call: &CallRow, are_numbers_shown: bool) -> HashMap<i32, Vec<FunctionCall>> {
    let rest: Value =
        call.rest.as_deref().and_then(|rest| serde_json::from_str(rest).ok()).unwrap_or_default();
    let turns = ["functionEvents", "function_events"].iter().find_map(|name| rest[name].as_object());
    let text = |text: &str| if are_numbers_shown { text.to_owned() } else { mask_numbers(text) };
    let function = |event: &Value| {
        Some(FunctionCall {
            name: text(event["name"].as_str()?),
            seconds: event["duration"].as_f64().map(|milliseconds| milliseconds / 1000.0),
            error: event["error"].as_str().map(text),
        })
    };
    let of_turn = |(turn, events): (&String, &Value)| {
        let events = events.as_array()?.iter().take(MAX_FUNCTIONS).filter_map(function).collect();
        Some((turn.parse().ok()?, events))
    };
    turns.into_iter().flatten().filter_map(of_turn).collect()
}

/// Shows some lines. `turn_url` returns the address of a whole turn.
pub(super) fn show(
    lines: &[Line<'_>],
    functions: &HashMap<i32, Vec<FunctionCall>>,
    turn_url: impl Fn(i32) -> String,
) -> Markup {
    let mut room = MAX_PAGE_BYTES;
    let mut text = |text: &str, turn: i32| {
        let max = MAX_SHOWN_BYTES.min(room.max(MIN_SHOWN_BYTES));
        let shown = &text[..text.floor_char_boundary(max)];
        room = room.saturating_sub(shown.len());
        html! {
            (format::outside_text(shown))
            @if shown.len() < text.len() {
                "… " a href=(turn_url(turn)) { "All of it (" (format::bytes(text.len() as u64)) ")" }
            }
        }
    };
    html! {
        ol class="turns" id="turns" {
            @for line in lines {
                @let is_agent = line.speaker == Speaker::Agent;
                li class=(if is_agent { "agent" } else { "caller" }) id={ "turn-" (line.turn) @if is_agent { "-agent" } }
                    data-at=[line.heard_at.map(|at| format!("{at:.3}"))] {
                    div class="said-by" {
                        span class="speaker" { (if is_agent { "Agent" } else { "Caller" }) }
                        @if let Some(at) = line.heard_at {
                            button type="button" class="seek" disabled aria-label={ "Play from " (format::length(at)) } { (format::length(at)) }
                        }
                        (marks(line))
                    }
                    @match line.text {
                        Some(said) => p class="said" { (text(said, line.turn)) },
                        None => p class="said quiet" { "(nothing)" },
                    }
                    @if let Some(translation) = line.translation {
                        p class="said translation" { span class="quiet" { "Translated: " } (text(translation, line.turn)) }
                    }
                    @if is_agent {
                        @for function in functions.get(&line.turn).into_iter().flatten() { (show_function(function)) }
                    }
                }
            }
        }
    }
}

fn marks(line: &Line<'_>) -> Markup {
    html! {
        @if line.is_interruption { (format::badge("warn", "interrupted the agent")) " " }
        @if line.is_silence { (format::badge("quiet", "silence")) " " }
        @if line.is_out_of_domain { (format::badge("warn", "out of domain")) " " }
        @if let Some(latency) = line.latency_s {
            @let tone = if latency >= SLOW_LATENCY_S { "warn" } else { "quiet" };
            (format::badge(tone, &format!("latency {latency:.1} s")))
        }
    }
}

fn show_function(function: &FunctionCall) -> Markup {
    html! {
        p class="function quiet" {
            "Function " code { (format::outside_text(&function.name)) }
            @if let Some(seconds) = function.seconds { ", " (format!("{seconds:.1} s")) }
            @if let Some(error) = &function.error { ", " (format::badge("bad", "error")) " " (format::outside_text(error)) }
        }
    }
}

/// Returns a whole turn as plain text.
pub(super) fn whole_turn(turn: &TurnRow) -> String {
    let parts = [
        ("Caller", &turn.user_input),
        ("Caller, translated", &turn.translated_user_input),
        ("Agent", &turn.agent_response),
        ("Agent, in English", &turn.english_agent_response),
    ];
    let parts = parts.into_iter().filter_map(|(name, text)| Some(format!("{name}:\n{}\n", text.as_ref()?)));
    parts.collect::<Vec<_>>().join("\n")
}
