//! The archived conversations: a list with filters, served from the index.

mod command;
mod form;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{RawQuery, State},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use jiff::{civil::Date, tz::Offset};
use maud::{Markup, html};

use self::form::ListQuery;
use super::{
    Console,
    access::Viewer,
    address,
    error::PageError,
    extract::Query,
    format,
    layout::{Page, Section, keys},
    mask::TextMask,
};
use crate::{
    index::{CallFilter, Excerpt, FoundCall, SearchEnd, SearchError, SearchPage, Speaker, TextHit},
    wording,
};

/// The unreadable days that the page names.
const MAX_NAMED_DAYS: usize = 5;
/// The characters of a text and of an id that the page shows.
const MAX_TEXT_CHARS: usize = 400;
const MAX_ID_CHARS: usize = 80;

pub(super) fn routes() -> Router<Arc<Console>> {
    Router::new().route("/conversations", get(list))
}

async fn list(
    State(console): State<Arc<Console>>,
    viewer: Viewer,
    RawQuery(raw): RawQuery,
    Query(query): Query<ListQuery>,
) -> Result<Response, PageError> {
    let after = Some(query.after.as_str()).filter(|after| !after.is_empty());
    if address::has_empty_parameter(&raw.unwrap_or_default()) {
        // The short address is the one to share.
        return Ok(Redirect::to(&query.address(after)).into_response());
    }
    let mask = console.text_mask();
    let body = match query.filter(console.clock.now(), mask) {
        Err(problems) => html! {
            h1 { "Conversations" }
            (form::render(&query, &[]))
            div class="notice bad" role="alert" {
                p { "The search has a mistake. Correct it and search again." }
                ul { @for (_, problem) in &problems { li { (problem) } } }
            }
        },
        Ok(filter) => {
            let filter = Arc::new(filter);
            let page =
                console.index.search(Arc::clone(&filter), after).await.map_err(|error| page_error(&error))?;
            if filter.text.is_some() {
                viewer.log_excerpts(page.calls.iter().map(|call| call.conversation_id.as_str()));
            }
            let today = Offset::UTC.to_datetime(console.clock.now()).date();
            let command = command::list(&filter, shown_days(&page.calls), today);
            let view = View {
                query: &query,
                filter: &filter,
                page: &page,
                command: command.map(|arguments| console.command(&arguments)),
                is_index_enabled: console.index.is_enabled(),
                mask,
            };
            view.render()
        }
    };
    let page = Page::new(Section::Conversations, "Conversations", body);
    Ok(page.with_asset("conversations.css").into_response())
}

fn page_error(error: &SearchError) -> PageError {
    let what = error.to_string();
    match error {
        SearchError::Cursor => PageError::bad_request(
            "The link to this page of the list is damaged.",
            "Open the conversations again, and search with the form.",
        ),
        SearchError::Busy => PageError::unavailable(
            "Other searches are running, and only a few at a time may.",
            "Reload this page in a moment.",
        ),
        SearchError::Archive(_) | SearchError::Timeout => PageError::unavailable(
            what,
            "Load the page again when the archive answers. The other pages work without it.",
        ),
    }
}

/// Everything that the page shows.
struct View<'a> {
    query: &'a ListQuery,
    filter: &'a CallFilter,
    page: &'a SearchPage,
    /// The command line for the same list, if there is one.
    command: Option<String>,
    is_index_enabled: bool,
    mask: TextMask,
}

impl View<'_> {
    fn render(&self) -> Markup {
        let calls = &self.page.calls;
        html! {
            h1 { "Conversations" }
            (form::render(self.query, &self.page.projects))
            (self.notices())
            @if calls.is_empty() { (self.nothing_found()) } @else {
                p class="quiet" role="status" { (self.count()) }
                (self.table())
            }
            (self.paging())
            (keys(&[("/", "search"), ("j k", "next and previous conversation"), ("Enter", "open it")]))
            @if let Some(command) = &self.command { (self.command_line(command)) }
        }
    }

    fn count(&self) -> String {
        let calls = self.page.calls.len();
        let noun = if calls == 1 { "conversation" } else { "conversations" };
        let is_first = self.query.after.is_empty();
        let more = if is_first && self.page.next.is_some() { "The newest " } else { "" };
        let page = if is_first { "" } else { " on this page" };
        format!("{more}{calls} {noun}{page}. Days are those of the start, in UTC.")
    }

    /// Returns what the list may lack.
    fn notices(&self) -> Markup {
        let (unreadable, unindexed) = (&self.page.unreadable, &self.page.unindexed);
        html! {
            @if !self.is_index_enabled {
                div class="notice warn" {
                    p {
                        "The index is switched off (" code { "index.enabled = false" } "), so new conversations do not appear here. "
                        "Switch it on, or run " code { "polyhook index build" } " when you need them."
                    }
                }
            } @else if unindexed.count > 0 && self.page.has_index {
                div class="notice" {
                    p {
                        @if let (1, Some(first)) = (unindexed.count, unindexed.first) {
                            "The index does not have " (first) " yet. "
                        } @else if let (Some(first), Some(last)) = (unindexed.first, unindexed.last) {
                            "The index does not have " (unindexed.count) " days between " (first) " and " (last) " yet. "
                        }
                        "A service with reconciliation adds them, and " code { "polyhook index build" } " adds them now."
                    }
                }
            }
            @if !unreadable.is_empty() {
                div class="notice warn" {
                    p { "Some conversations may be missing, because parts of the index cannot be read:" }
                    ul {
                        @for day in unreadable.iter().take(MAX_NAMED_DAYS) {
                            li { (day.date) ", " bdi { (day.project.project_id) } ": " (day.reason) }
                        }
                        @if unreadable.len() > MAX_NAMED_DAYS {
                            li { "and " (unreadable.len() - MAX_NAMED_DAYS) " more" }
                        }
                    }
                }
            }
        }
    }

    fn nothing_found(&self) -> Markup {
        html! {
            div class="card" role="status" {
                @if !self.page.has_index {
                    @if self.page.unindexed.count > 0 {
                        p { "The archive has conversations, but there is no index of them yet." }
                        p {
                            "A service with reconciliation (" code { "polyhook run" } " or " code { "polyhook work" } ") builds it. "
                            "To build it now, run " code { "polyhook index build" } "."
                        }
                    } @else {
                        p { "The archive has no conversations yet." }
                        p {
                            "They appear here about a minute after they were archived. " code { "polyhook status" }
                            " shows if calls arrive, and " code { "polyhook backfill" } " archives earlier ones."
                        }
                    }
                } @else if let SearchEnd::OutOfTime { .. } = self.page.end {
                    p { "Nothing was found so far. The search continues where it stopped." }
                } @else if self.query.is_empty() || !self.query.after.is_empty() {
                    p { "There are no more conversations." }
                } @else {
                    p { "No conversation matches the search." }
                    p { "Use fewer filters or a part of the phrase. A phrase is found if one turn contains all of it." }
                }
            }
        }
    }

    fn paging(&self) -> Markup {
        let next = self.page.next.as_deref().map(|cursor| self.query.address(Some(cursor)));
        html! {
            @if let SearchEnd::OutOfTime { date, percent } = self.page.end {
                p {
                    "The search took long, so it stopped at " (date)
                    @if percent > 0 { ", of which " (percent) " % was searched" }
                    ". Later days are done."
                }
            }
            nav class="actions" aria-label="Pages of the list" {
                @if !self.query.after.is_empty() { a class="button" href=(self.query.address(None)) { "Newest" } }
                @if let Some(next) = next {
                    a class="button" rel="next" href=(next) {
                        @if let SearchEnd::OutOfTime { .. } = self.page.end { "Search further back" } @else { "Older" }
                    }
                }
            }
        }
    }

    fn command_line(&self, command: &str) -> Markup {
        html! {
            div class="command" {
                code id="command" { (command) }
                button type="button" data-copy="command" { "Copy" }
                @if self.filter.text.is_some() {
                    span class="quiet" { "The command lists these days. It does not search in transcripts." }
                }
            }
        }
    }

    fn table(&self) -> Markup {
        let has_projects = self.page.projects.len() > 1;
        html! {
            div class="scroll" {
                table class="stack found rows" {
                    thead {
                        tr {
                            th scope="col" { "Started" }
                            th scope="col" { "Conversation" }
                            th scope="col" class="number" { "Length" }
                            th scope="col" class="number" { "Turns" }
                            th scope="col" { "Recording" }
                            th scope="col" { "Handoff" }
                            th scope="col" { "Channel" }
                            th scope="col" { "Download" }
                            @if has_projects { th scope="col" { "Project" } }
                        }
                    }
                    tbody { @for call in &self.page.calls { (self.row(call, has_projects)) } }
                }
            }
        }
    }

    fn row(&self, call: &FoundCall, has_projects: bool) -> Markup {
        let words = [&call.environment, &call.direction].into_iter().flatten();
        let id = shorten(&call.conversation_id, MAX_ID_CHARS);
        html! {
            tr {
                td data-label="Started" { (format::time(call.started_at)) }
                td {
                    a class="id mono" href=(link(call)) { bdi { (id) } }
                    @if let Some(heading) = &call.summary_heading { bdi class="summary" { (self.text(heading)) } }
                    @if let Some(number) = self.number(call) { div class="quiet" { "from " bdi { (number) } } }
                    @if let Some(hit) = &call.hit { (excerpt(hit)) }
                }
                td class="number length" data-label="Length" {
                    @if let Some(seconds) = call.duration_s { (wording::length(Duration::try_from_secs_f64(seconds).unwrap_or_default())) }
                    @if call.in_progress { " " (format::badge("warn", "in progress")) }
                }
                td class="number" data-label="Turns" { (call.turns) }
                td data-label="Recording" { (recording(&call.audio)) }
                td data-label="Handoff" {
                    @if call.handoff { (format::badge("warn", "handoff")) }
                    @if let Some(reason) = &call.handoff_reason { " " bdi { (self.text(reason)) } }
                    @if !call.handoff { span class="quiet" { "no" } }
                }
                td data-label="Channel" {
                    @if let Some(channel) = &call.channel { bdi { (self.text(channel)) } }
                    @for word in words { " " span class="quiet" { bdi { (self.text(word)) } } }
                }
                td data-label="Download" {
                    a href={ (address_of(call, "/conversation.json")) "&download" } aria-label={ "JSON of " (id) } { "JSON" }
                }
                @if has_projects { td data-label="Project" { bdi { (call.project.project_id) } } }
            }
        }
    }

    /// Returns the caller's number, if the index has it.
    fn number(&self, call: &FoundCall) -> Option<String> {
        // A hash has more digits than any number.
        let number = call.from_number.as_deref().filter(|number| number.len() < 32)?;
        Some(self.text(number))
    }

    /// Returns a text as the viewer may see it, or its beginning if it is long.
    fn text(&self, text: &str) -> String {
        shorten(&self.mask.apply(text), MAX_TEXT_CHARS)
    }
}

fn excerpt(hit: &TextHit) -> Markup {
    let speaker = match hit.speaker {
        Speaker::Caller => "caller",
        Speaker::Agent => "agent",
    };
    // The search has masked it.
    let Excerpt { before, hit: found, after } = &hit.excerpt;
    html! {
        p class="hit" {
            span class="quiet" { "turn " (hit.turn) ", " (speaker) @if hit.is_translation { " (translated)" } ": " }
            bdi dir="auto" { (before) mark { (found) } (after) }
        }
    }
}

/// Returns the first and the last day of the calls.
fn shown_days(calls: &[FoundCall]) -> Option<(Date, Date)> {
    let dates = calls.iter().map(|call| call.date);
    dates.clone().min().zip(dates.max())
}

/// Returns the beginning of a long text.
fn shorten(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Returns the state of a recording in words.
fn in_words(status: &str) -> String {
    status.replace('_', " ")
}

fn recording(status: &str) -> Markup {
    let tone = match status {
        "ready" => "good",
        "failed" => "bad",
        _ => "quiet",
    };
    format::badge(tone, &shorten(&in_words(status), MAX_ID_CHARS))
}

/// Returns the address of something below the page of a conversation, or of the page itself.
fn address_of(call: &FoundCall, below: &str) -> String {
    let folder = address::folder(&call.project.account_id, &call.project.project_id, call.date);
    format!("{}{below}?{folder}", address::conversation(&call.conversation_id))
}

/// Returns the address of a conversation, at the turn that was found.
fn link(call: &FoundCall) -> String {
    let turn = call.hit.as_ref().map(|hit| match hit.speaker {
        Speaker::Caller => format!("#turn-{}", hit.turn),
        Speaker::Agent => format!("#turn-{}-agent", hit.turn),
    });
    address_of(call, "") + &turn.unwrap_or_default()
}
