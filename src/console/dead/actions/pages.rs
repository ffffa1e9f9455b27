//! The pages of an action: its preview, its progress, its result.

use maud::{Markup, html};

use crate::{
    console::{
        Console,
        access::Viewer,
        dead::{
            markup::{grouped, letters, outside, table},
            selection::{Selection, State},
        },
        format,
    },
    queue::{DeadLetterAction, SettleTotals},
};

/// Renders an action.
pub(super) struct ActionPage<'a> {
    pub(super) console: &'a Console,
    pub(super) viewer: &'a Viewer,
    pub(super) selection: &'a Selection,
}

impl ActionPage<'_> {
    /// Returns the title and the page.
    pub(super) fn render(&self, state: &State) -> (String, Markup) {
        let (selected, action) = (letters(self.selection.letters.count), self.selection.action);
        let title = match (state, action) {
            (State::Previewed, DeadLetterAction::Replay) => format!("Replay {selected}?"),
            (State::Previewed, DeadLetterAction::Drop) => format!("Drop {selected} permanently?"),
            (State::Running(_), DeadLetterAction::Replay) => format!("Replaying {selected}"),
            (State::Running(_), DeadLetterAction::Drop) => format!("Dropping {selected}"),
            (State::Finished { totals, .. }, _) => {
                let past = if action == DeadLetterAction::Replay { "Replayed" } else { "Dropped" };
                format!(
                    "{past} {}",
                    if totals.done == 0 { "no dead letters".to_owned() } else { letters(totals.done) }
                )
            }
        };
        let body = match state {
            State::Previewed => self.preview(),
            State::Running(settled) => self.progress(*settled),
            State::Finished { totals, ended_early } => self.result(totals, ended_early.as_deref()),
        };
        let page = html! {
            h1 { (title) }
            (body)
            p { a href="/dead" { "Dead letters" } }
        };
        (title, page)
    }

    fn preview(&self) -> Markup {
        let Selection { action, letters: selected, remarks, .. } = self.selection;
        html! {
            @match action {
                DeadLetterAction::Replay => div class="notice" {
                    p {
                        "Each becomes a job that is tried at once, and its retry schedule begins again. It keeps its history. "
                        "If the cause is not fixed, it becomes a dead letter again."
                    }
                },
                DeadLetterAction::Drop => div class="notice bad" {
                    p {
                        strong { "Dropped letters cannot be replayed." }
                        " Their conversations are not archived, unless they are already, or you archive them with "
                        code { "polyhook fetch" } "."
                    }
                },
            }
            dl class="facts card" {
                dt { "Letters" } dd { (grouped(selected.count)) }
                dt { "Reasons" }
                dd {
                    @for (reason, count) in &selected.reasons { (outside(reason)) " (" (grouped(*count)) ") " }
                    @if selected.other_reasons > 0 { "others (" (grouped(selected.other_reasons)) ")" }
                }
                @if let Some((oldest, newest)) = selected.range {
                    dt { "Oldest" } dd { "dead since " (format::time(oldest)) }
                    dt { "Newest" } dd { "dead since " (format::time(newest)) }
                }
            }
            p { "What becomes a dead letter after this preview is not touched." }
            @if let Some(read) = remarks.cut_after {
                p class="notice warn" { "Only the first " (grouped(read)) " dead letters were looked at. Repeat the action for the rest." }
            }
            @if !remarks.missing.is_empty() {
                p class="notice warn" {
                    "No longer dead letters, or read by another command at the moment:"
                    @for id in remarks.missing.iter().take(20) { " " (outside(id)) }
                    @if remarks.missing.len() > 20 { " and " (remarks.missing.len() - 20) " more" }
                }
            }
            (self.confirmation())
            (table(&selected.rows, false))
            @if selected.count > selected.rows.len() as u64 {
                p { "… and " (grouped(selected.count - selected.rows.len() as u64)) " more." }
            }
        }
    }

    fn confirmation(&self) -> Markup {
        let Selection { action, letters: selected, id, viewer, .. } = self.selection;
        let (verb, class) = match action {
            DeadLetterAction::Replay => ("Replay", "primary"),
            DeadLetterAction::Drop => ("Drop", "danger"),
        };
        html! {
            @if self.console.config.allow_replay && *viewer == self.viewer.name {
                form class="actions" method="post" action="/dead/actions/confirm" {
                    (self.viewer.csrf_field())
                    input type="hidden" name="selection" value=(id);
                    button type="submit" id="confirm" class=(class) { (verb) " " (letters(selected.count)) }
                    a class="button" href="/dead" { "Cancel" }
                }
            }
        }
    }

    fn progress(&self, settled: u64) -> Markup {
        html! {
            p role="status" {
                (grouped(settled)) " of " (grouped(self.selection.letters.count)) " so far. This page loads itself again."
            }
        }
    }

    fn result(&self, totals: &SettleTotals, ended_early: Option<&str>) -> Markup {
        let SettleTotals { done, gone, failed, first_error } = totals;
        let past = self.selection.action.past_tense();
        let unreached = self.selection.letters.count.saturating_sub(done + gone + failed);
        html! {
            @if *done > 0 {
                div class="notice good" role="status" {
                    p {
                        (letters(*done)) " " (past) ". "
                        @if self.selection.action == DeadLetterAction::Replay { a href="/live" { "Watch the jobs" } }
                    }
                }
            }
            @if *gone > 0 { p { (letters(*gone)) " settled by another process in the meantime." } }
            @if let Some(error) = first_error {
                div class="notice bad" {
                    p { (letters(*failed)) " could not be " (past) " and stay dead letters: " (outside(&error.to_string())) }
                    p { "Fix that and repeat the action. " code { "polyhook doctor" } " finds the cause." }
                }
            }
            @if unreached > 0 {
                @match ended_early {
                    Some(why) => div class="notice bad" {
                        p { (letters(unreached)) " not reached and still there: " (outside(why)) "." }
                        p { "Repeat the action. " code { "polyhook doctor" } " finds the cause." }
                    },
                    None if first_error.is_some() => p { (letters(unreached)) " not reached." },
                    None => p {
                        (letters(unreached))
                        " not found: replayed, dropped or failed again since the preview, or read by another command at the moment."
                    },
                }
            }
        }
    }
}
