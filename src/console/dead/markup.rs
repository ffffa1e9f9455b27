//! Markup that several pages about dead letters share.

use maud::{Markup, html};

use super::listing::Row;
use crate::{
    console::{address, format},
    terminal,
};

/// The longest text from outside in a list, in characters.
const MAX_SHOWN_CHARACTERS: usize = 300;

/// Returns a text from outside for one line: bounded, with invisible characters made visible.
pub(super) fn outside(text: &str) -> Markup {
    let shown = match text.char_indices().nth(MAX_SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", terminal::escape(&text[..end])),
        None => terminal::escape(text).into_owned(),
    };
    html! { bdi { (shown) } }
}

/// Returns a number of dead letters in words.
pub(super) fn letters(count: u64) -> String {
    if count == 1 { "1 dead letter".to_owned() } else { format!("{} dead letters", grouped(count)) }
}

/// Returns a number with separators: `12,345`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group));
    groups.collect::<Vec<_>>().join(",")
}

/// Returns a table of dead letters, with check boxes if they can be selected.
pub(super) fn table(rows: &[Row], is_selectable: bool) -> Markup {
    let or_dash =
        |text: &Option<String>| html! { @match text { Some(text) => (outside(text)), None => "–" } };
    html! {
        div class="scroll" {
            table class="stack letters" {
                thead {
                    tr {
                        @if is_selectable { th class="select" scope="col" { span class="visually-hidden" { "Select" } } }
                        th scope="col" { "Event" }
                        th scope="col" { "Dead since" }
                        th scope="col" { "Conversation" }
                        th scope="col" { "Project" }
                        th scope="col" { "Environment" }
                        th scope="col" class="number" { "Tries" }
                        th scope="col" { "Last error" }
                    }
                }
                tbody {
                    @for row in rows {
                        tr {
                            @if is_selectable {
                                td class="select" {
                                    input type="checkbox" form="selected" name="id" value=(row.id)
                                        aria-label={ "Select " (terminal::escape(&row.id)) };
                                }
                            }
                            td data-label="Event" { (event_link(row)) }
                            td data-label="Dead since" { (format::time(row.since)) }
                            td data-label="Conversation" { (conversation_link(row.conversation_id.as_deref())) }
                            td data-label="Project" { (or_dash(&row.project_id)) }
                            td data-label="Environment" { (outside(&row.environment)) }
                            td data-label="Tries" class="number" {
                                (row.tries)
                                @if row.replays > 0 { ", replayed " (row.replays) "×" }
                            }
                            td data-label="Last error" class="detail" { (or_dash(&row.detail)) }
                        }
                    }
                }
            }
        }
    }
}

fn event_link(row: &Row) -> Markup {
    html! {
        @match address::dead_letter(&row.id) {
            Some(url) => a href=(url) { (outside(&row.id)) },
            None => (outside(&row.id)),
        }
        " " span class="quiet type" { (outside(&row.event_type)) }
    }
}

/// Returns a conversation with a link to its page.
pub(super) fn conversation_link(id: Option<&str>) -> Markup {
    html! {
        @match id {
            Some(id @ ("" | "." | "..")) => (outside(id)),
            Some(id) => a href=(address::conversation(id)) { (outside(id)) },
            None => span class="quiet" { "not named by the event" },
        }
    }
}
