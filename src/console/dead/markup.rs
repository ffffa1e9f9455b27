//! Markup that several pages about dead letters share.

use std::borrow::Cow;

use maud::{Markup, html};

use super::listing::Row;
use crate::{
    console::{address, format},
    terminal,
};

/// The longest text from outside in a list, in characters.
const MAX_SHOWN_CHARACTERS: usize = 300;
/// The longest id in a table, and its last characters that stay, in characters.
const MAX_ID_CHARACTERS: usize = 20;
const ID_TAIL_CHARACTERS: usize = 6;

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
            table class="stack letters rows" {
                thead {
                    tr {
                        @if is_selectable { th class="select" scope="col" { span class="visually-hidden" { "Select" } } }
                        th scope="col" { "Event" }
                        th scope="col" { "Dead since" }
                        th scope="col" { "Conversation" }
                        th scope="col" { "Project" }
                        th scope="col" { "Environment" }
                        th scope="col" class="number" { "Tries" }
                    }
                }
                @for row in rows {
                    tbody {
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
                        }
                        @if let Some(detail) = &row.detail {
                            tr class="error" {
                                @if is_selectable { td class="select" {} }
                                td class="detail" colspan="6" { (outside(detail)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Returns an id without its middle, because the beginning of many ids is the same.
fn shortened(id: &str) -> Cow<'_, str> {
    let characters = id.chars().count();
    if characters <= MAX_ID_CHARACTERS {
        return id.into();
    }
    let tail: String = id.chars().skip(characters - ID_TAIL_CHARACTERS).collect();
    format!("{}…{tail}", format::beginning(id, MAX_ID_CHARACTERS - ID_TAIL_CHARACTERS - 1)).into()
}

fn event_link(row: &Row) -> Markup {
    let (id, title) =
        (outside(&shortened(&row.id)), terminal::escape(format::beginning(&row.id, MAX_SHOWN_CHARACTERS)));
    html! {
        @match address::dead_letter(&row.id) {
            Some(url) => a class="id mono" href=(url) title=(title) { (id) },
            None => span class="mono" { (id) },
        }
        " " span class="quiet type" { (outside(&row.event_type)) }
    }
}

/// Returns a conversation with a link to its page.
pub(super) fn conversation_link(id: Option<&str>) -> Markup {
    html! {
        @match id {
            Some(id @ ("" | "." | "..")) => (outside(id)),
            Some(id) => a class="mono" href=(address::conversation(id)) { (outside(id)) },
            None => span class="quiet" { "not named by the event" },
        }
    }
}
