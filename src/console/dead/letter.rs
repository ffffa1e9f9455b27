//! `/dead/{id}`: a dead letter with all its tries.

use std::{borrow::Cow, sync::Arc};

use axum::{Extension, extract::State};
use jiff::Timestamp;
use maud::{Markup, html};

use super::{
    DeadPages,
    body::ShownBody,
    markup::{conversation_link, grouped, outside},
};
use crate::{
    console::{
        Console,
        access::Viewer,
        error::PageError,
        extract::Path,
        format,
        layout::{Page, Section},
    },
    queue::{Attempt, DeadLetter, DeadLetterSummary, HistoryEntry, next_step},
    telemetry::trace::Traceparent,
    terminal,
};

pub(super) async fn show(
    State(console): State<Arc<Console>>,
    Extension(pages): Extension<Arc<DeadPages>>,
    viewer: Viewer,
    Path(id): Path<String>,
) -> Result<Page, PageError> {
    let (found, extent) = pages.reader.find(&console, id.clone()).await?;
    if found.is_empty() {
        return Err(PageError::not_found(
            if extent.is_cut {
                format!("The event is not among the first {} dead letters.", grouped(extent.read))
            } else {
                "There is no dead letter of this event: it was replayed or dropped, or another command reads it at the moment."
                    .to_owned()
            },
            format!(
                "List the dead letters, or run `{}`.",
                console.command(&format!("dead show {}", format::argument(&id)))
            ),
        ));
    }
    tracing::info!(viewer = viewer.name, event = id, "a person opened a dead letter");
    let now = console.clock.now();
    let body = html! {
        p { a href="/dead" { "Dead letters" } }
        @for (number, letter) in found.iter().enumerate() {
            (View { console: &console, viewer: &viewer, letter, number, now }.letter())
        }
    };
    let title = format!("Dead letter {}", terminal::escape(&id));
    Ok(Page::new(Section::Dead, title, body).with_asset("dead.css"))
}

/// Renders a dead letter.
struct View<'a> {
    console: &'a Console,
    viewer: &'a Viewer,
    letter: &'a DeadLetter,
    /// Tells several letters of one event id apart.
    number: usize,
    now: Timestamp,
}

impl View<'_> {
    fn letter(&self) -> Markup {
        let letter = self.letter;
        html! {
            h1 { "Dead letter " (outside(&letter.message.id)) }
            p {
                (format::badge("bad", &terminal::escape(&self.mask(letter.reason()))))
                " dead for " (format::age(letter.age(self.now))) ", since " (format::time(letter.since()))
            }
            div class="notice warn" { p { (format::own_text(&next_step(letter))) } }
            (self.facts())
            (self.actions())
            h2 { "Tries and replays" }
            (self.history())
            h2 { "Body of the event" }
            (self.body())
        }
    }

    fn facts(&self) -> Markup {
        let DeadLetter { message, history, .. } = self.letter;
        let summary = DeadLetterSummary::new(self.letter);
        let named = |id: &Option<String>| {
            html! { @match id { Some(id) => (outside(id)), None => span class="quiet" { "not named by the event" } } }
        };
        html! {
            dl class="facts card" {
                dt { "Conversation" } dd { (conversation_link(summary.conversation_id.as_deref())) }
                dt { "Project" } dd { (named(&summary.project_id)) }
                dt { "Account" } dd { (named(&summary.account_id)) }
                dt { "Event" } dd { (outside(&self.mask(&message.kind))) ", environment " (outside(&self.mask(&message.environment))) }
                dt { "Received" } dd { (format::time(message.received_at)) }
                dt { "Tries" } dd { (history.attempt_count()) }
                dt { "Replays" } dd { (history.replays.len()) }
                dt { "PolyAI's correlation id" }
                dd {
                    @match summary.correlation_id {
                        Some(id) => {
                            code id={ "correlation-" (self.number) } { (terminal::escape(id)) } " "
                            button type="button" class="copy" data-copy={ "correlation-" (self.number) } { "Copy" }
                        }
                        None => span class="quiet" { "none" },
                    }
                }
                dt { "Trace" } dd { (self.trace()) }
            }
        }
    }

    /// Returns the trace id that the log has.
    fn trace(&self) -> Markup {
        let parent = self.letter.message.traceparent.as_deref().and_then(Traceparent::parse);
        html! { @match parent { Some(parent) => code { (parent.trace_id) }, None => "none" } }
    }

    fn actions(&self) -> Markup {
        let id = &self.letter.message.id;
        let line = |verb: &str| {
            format::command(&self.console.command(&format!("dead {verb} {}", format::argument(id))))
        };
        html! {
            @if self.console.config.allow_replay {
                form class="actions" method="post" action="/dead/actions/preview" {
                    (self.viewer.csrf_field())
                    input type="hidden" name="scope" value="ids";
                    input type="hidden" name="id" value=(id);
                    button type="submit" name="action" value="replay" { "Replay …" }
                    button type="submit" name="action" value="drop" class="danger" { "Drop …" }
                    span class="quiet" { "Nothing is done before you have seen a preview." }
                }
            } @else {
                p class="quiet" {
                    "This console is read-only: " code { "console.allow_replay" } " is not set. Act on the command line:"
                }
            }
            details open[!self.console.config.allow_replay] {
                summary { "On the command line" }
                p { "When the cause is fixed: " (line("replay")) }
                p { "If it is not needed: " (line("drop")) }
                p { "All details: " (line("show")) }
            }
        }
    }

    fn history(&self) -> Markup {
        let (kept, all) = (self.letter.history.attempts.len(), self.letter.history.attempt_count());
        html! {
            @if kept < all { p class="quiet" { "The first and the latest tries; " (all - kept) " are not kept." } }
            @if kept == 0 { p class="quiet" { "No try is recorded: polyhook did not write this message." } }
            ol class="history" {
                @for run in self.letter.entries().chunk_by(are_alike) {
                    li {
                        @match run {
                            [HistoryEntry::Replay(at), ..] => { (format::time(*at)) " " (format::badge("quiet", "replayed")) }
                            [HistoryEntry::Attempt(only)] => (self.attempt_entry(only)),
                            [HistoryEntry::Attempt(first), .., HistoryEntry::Attempt(last)] => (self.attempts_entry(first, last, run)),
                            _ => {}
                        }
                    }
                }
            }
        }
    }

    fn body(&self) -> Markup {
        let message = &self.letter.message;
        let show_numbers = self.console.config.show_numbers;
        let ShownBody { text, is_cut } = ShownBody::new(&message.body, show_numbers);
        html! {
            details {
                summary { (format::bytes(message.body.len() as u64)) " of " (outside(&self.mask(&message.content_type))) ": personal data" }
                @if !show_numbers {
                    p class="quiet" { "What may be a phone number is masked (" code { "console.show_numbers" } ")." }
                }
                pre class="body" dir="auto" tabindex="0" role="region" aria-label="Body of the event" { (terminal::escape_lines(&text, false)) }
                @if is_cut {
                    @let all = format!("dead show --body {}", format::argument(&message.id));
                    p { "This is the first part. All of it: " (format::command(&self.console.command(&all))) }
                }
            }
        }
    }

    fn attempt_entry(&self, attempt: &Attempt) -> Markup {
        html! {
            (format::time(attempt.at)) " " (format::badge("bad", &terminal::escape(&self.mask(&attempt.reason))))
            @if let Some(status) = attempt.status { " HTTP " (status) }
            p class="detail" { bdi { (terminal::escape(&self.mask(&attempt.detail))) } }
            (correlation_id(attempt))
        }
    }

    /// Returns several attempts that are alike.
    fn attempts_entry(&self, first: &Attempt, last: &Attempt, run: &[HistoryEntry<'_>]) -> Markup {
        html! {
            (run.len()) " tries, all " (format::badge("bad", &terminal::escape(&self.mask(&first.reason))))
            @if let Some(status) = first.status { " HTTP " (status) }
            ", from " (format::time(first.at)) " to " (format::time(last.at))
            p class="detail" { bdi { (terminal::escape(&self.mask(&first.detail))) } }
            details {
                summary { "Each try" }
                ol {
                    @for entry in run {
                        @if let HistoryEntry::Attempt(attempt) = entry { li { (format::time(attempt.at)) (correlation_id(attempt)) } }
                    }
                }
            }
        }
    }

    /// Returns a text from outside as the viewer may see it.
    fn mask<'a>(&self, text: &'a str) -> Cow<'a, str> {
        self.console.text_mask().apply(text)
    }
}

/// Returns true for two attempts that differ in their times and correlation ids alone.
fn are_alike(one: &HistoryEntry<'_>, other: &HistoryEntry<'_>) -> bool {
    let (HistoryEntry::Attempt(one), HistoryEntry::Attempt(other)) = (one, other) else { return false };
    (&one.reason, &one.detail, one.status) == (&other.reason, &other.detail, other.status)
}

fn correlation_id(attempt: &Attempt) -> Markup {
    html! {
        @if let Some(id) = &attempt.correlation_id {
            p class="quiet" { "PolyAI's correlation id " code { (terminal::escape(id)) } }
        }
    }
}
