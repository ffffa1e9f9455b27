//! The player: one recording at a time, and a waveform of each voice.

use maud::{Markup, html};

use super::{super::format, details::ObjectState, place::Conversation, reading::Verdict};
use crate::archive::{AudioStatus, Direction, ManifestObject};

const RATES: [&str; 6] = ["0.75", "1", "1.25", "1.5", "1.75", "2"];

/// Shows the player, or says why there is nothing to hear.
pub(super) fn show(conversation: &Conversation, states: &[ObjectState]) -> Markup {
    let manifest = conversation.manifest();
    let recordings: Vec<&ManifestObject> = [Direction::Combined, Direction::User, Direction::Agent]
        .into_iter()
        .filter_map(|direction| manifest.recording(direction))
        .collect();
    html! {
        section class="card player" id="player" aria-labelledby="player-title" {
            h2 id="player-title" { "Recording" }
            @for (state, problem) in states.iter().filter_map(|state| Some((state, state.audio_problem()?))) {
                p class="notice bad" role="status" { (state.name) " " (problem) ": fetch the conversation again." }
            }
            @match recordings.first() {
                Some(first) => (controls(conversation, &recordings, first)),
                None => p { (format::own_text(why_silent(manifest.audio.status))) },
            }
            @if manifest.audio.status == AudioStatus::Failed && !recordings.is_empty() { p { (why_silent(AudioStatus::Failed)) } }
            @if manifest.audio.redacted && !recordings.is_empty() { p class="quiet" { "PolyAI has removed personal data from this recording." } }
        }
    }
}

fn controls(conversation: &Conversation, recordings: &[&ManifestObject], first: &ManifestObject) -> Markup {
    let url = |kind: &str, object: &ManifestObject| {
        conversation.url(&format!("/{kind}/{}", direction_of(object).as_str()))
    };
    // The two voices show more than their sum.
    let has_both = recordings.len() > 2;
    let drawn = recordings.iter().filter(|object| !has_both || direction_of(object) != Direction::Combined);
    html! {
        audio id="audio" controls preload="metadata" src=(url("audio", first)) {}
        p class="notice bad" id="audio-error" role="alert" hidden {}
        div class="waveforms" id="waveforms" role="slider" tabindex="0" aria-label="Position in the recording"
            aria-valuemin="0" aria-valuemax="0" aria-valuenow="0" hidden {
            @for object in drawn {
                div class="waveform" data-src=(url("waveform", object)) data-name=(name_of(direction_of(object))) {}
            }
            div class="playhead" id="playhead" {}
        }
        p class="quiet" id="waveform-state" role="status" {}
        // The script shows what needs it.
        div id="controls" hidden {
            div class="actions" {
                @if recordings.len() > 1 {
                    label class="inline" {
                        "Hear "
                        select id="recording" {
                            @for object in recordings { option value=(url("audio", object)) { (name_of(direction_of(object))) } }
                        }
                    }
                }
                label class="inline" {
                    "Speed "
                    select id="rate" { @for rate in RATES { option value=(rate) selected[rate == "1"] { (rate) "×" } } }
                }
                label class="inline" { input type="checkbox" id="follow" checked; "Follow the transcript" }
            }
            p class="quiet keys" {
                kbd { "space" } " play or pause, " kbd { "j" } " " kbd { "k" } " next and previous turn, "
                kbd { "←" } " " kbd { "→" } " 5 seconds"
            }
        }
        p { "Download: "
            @for (position, object) in recordings.iter().enumerate() {
                @if position > 0 { ", " }
                a href={ (url("audio", object)) "&download" } { (name_of(direction_of(object))) } " (" (format::bytes(object.size_bytes)) ")"
            }
        }
    }
}

fn direction_of(object: &ManifestObject) -> Direction {
    object.direction.unwrap_or(Direction::Combined)
}

fn name_of(direction: Direction) -> &'static str {
    match direction {
        Direction::User => "Caller",
        Direction::Agent => "Agent",
        Direction::Combined | Direction::Unknown => "Both voices",
    }
}

fn why_silent(status: AudioStatus) -> &'static str {
    match status {
        AudioStatus::Absent => {
            "PolyAI had no recording within the permitted time (worker.audio_wait). Some calls never have one. If PolyAI has it by now, \
             another fetch adds it."
        }
        AudioStatus::Failed => {
            "A recording could not be archived. The warnings below name the reason. Fetch the conversation again to add it."
        }
        AudioStatus::NotApplicable => "There is no recording, because this channel has no sound.",
        AudioStatus::Disabled => {
            "There is no recording, because the configuration disabled recordings (worker.audio = \"off\")."
        }
        AudioStatus::Ready | AudioStatus::Unknown => {
            "The manifest names no recording. Fetch the conversation again, or find the cause with `polyhook audit`."
        }
    }
}

impl ObjectState {
    /// Returns the problem of a recording that cannot be played.
    fn audio_problem(&self) -> Option<&'static str> {
        if !self.is_audio {
            return None;
        }
        match self.verdict.as_ref().ok()?.as_ref()? {
            Verdict::Intact => None,
            Verdict::Changed => Some("is not what the manifest names"),
            Verdict::Missing => Some("is missing in the archive"),
        }
    }
}
