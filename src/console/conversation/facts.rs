//! The facts about a conversation.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::{super::format, place::Conversation};
use crate::index::CallRow;

/// The metrics and tags that are shown. `conversation.json` has all.
const MAX_SHOWN: usize = 100;
/// The longest metric that is shown.
const MAX_VALUE_CHARS: usize = 300;

pub(super) fn show(conversation: &Conversation, call: &CallRow) -> Markup {
    html! {
        section class="card" aria-labelledby="facts-title" {
            h2 id="facts-title" { "Facts" }
            dl class="facts" {
                dt { "Start" } dd { (format::time(call.started_at)) }
                @if let Some(seconds) = call.duration_s {
                    dt { "Duration" } dd {
                        (format::length(seconds))
                        @if let Some(polyai) = call.polyai_duration_s.filter(|polyai| *polyai < seconds) {
                            span class="quiet" { " (PolyAI " (format::length(polyai)) ")" }
                        }
                    }
                }
                (fact("Channel", call.channel.as_deref()))
                (fact("Environment", call.environment.as_deref()))
                (fact("Direction", call.direction.as_deref()))
                (fact("Account", Some(conversation.location.account_id())))
                (fact("Project", Some(conversation.location.project_id())))
                (fact("Variant", call.variant.as_deref()))
                (fact("Language", call.language.as_deref()))
                (fact("From", call.from_number.as_deref()))
                (fact("To", call.to_number.as_deref()))
                (handoff(call))
                dt { "Turns" } dd { (counts(call)) }
                @if let Some(score) = call.score {
                    dt { "Score" } dd { (score) @if let Some(scale) = &call.score_scale { span class="quiet" { " (" (scale) ")" } } }
                }
                @if !call.tags.is_empty() {
                    dt { "Tags" } dd { @for tag in call.tags.iter().take(MAX_SHOWN) { span class="badge quiet" { (format::outside_text(tag)) } " " } }
                }
            }
            @if call.in_progress {
                p class="notice warn" { "The conversation was still in progress when it was archived, so it may be incomplete." }
            }
            (summary(call))
            (metrics(call))
        }
    }
}

fn fact(name: &str, value: Option<&str>) -> Markup {
    html! { @if let Some(value) = value { dt { (name) } dd { (format::outside_text(value)) } } }
}

fn handoff(call: &CallRow) -> Markup {
    html! {
        dt { "Handoff" }
        dd {
            @if call.handoff {
                (format::badge("warn", "handed off"))
                @if let Some(reason) = &call.handoff_reason { " " (format::outside_text(reason)) }
                @if let Some(destination) = &call.handoff_destination { " to " (format::outside_text(destination)) }
            } @else { "no" }
        }
    }
}

fn counts(call: &CallRow) -> String {
    let mut text = call.num_turns.to_string();
    for (count, name) in [(call.num_silences, "silent"), (call.num_out_of_domain, "out of domain")] {
        if let Some(count) = count.filter(|count| *count > 0) {
            let _ = write!(text, ", {count} {name}");
        }
    }
    text
}

fn summary(call: &CallRow) -> Markup {
    html! {
        @if call.summary.is_some() || call.summary_heading.is_some() {
            h3 { "Summary" }
            @if let Some(heading) = &call.summary_heading { p { strong { (format::outside_text(format::beginning(heading, MAX_VALUE_CHARS))) } } }
            @if let Some(summary) = &call.summary { p { (format::outside_text(format::beginning(summary, 4 * MAX_VALUE_CHARS))) } }
        }
    }
}

fn metrics(call: &CallRow) -> Markup {
    html! {
        @if !call.metrics.is_empty() {
            h3 { "Metrics" }
            dl class="facts" {
                @for (name, value) in call.metrics.iter().take(MAX_SHOWN) {
                    dt { (format::outside_text(format::beginning(name, MAX_VALUE_CHARS))) }
                    dd { (format::outside_text(format::beginning(value.as_deref().unwrap_or("–"), MAX_VALUE_CHARS))) }
                }
            }
            @if call.metrics.len() > MAX_SHOWN { p class="quiet" { (call.metrics.len() - MAX_SHOWN) " more are in conversation.json." } }
        }
    }
}
