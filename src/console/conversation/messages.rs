//! The messages about a conversation in the queue.
//!
//! A search reads the whole file of the embedded queue, and hides RabbitMQ's dead letters from other readers for a moment. So the page does not
//! wait for it. The script asks for it afterwards if the queue is embedded; otherwise a person does.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    response::{Html, IntoResponse, Response},
};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    super::{
        Console, address,
        extract::{Path, Query},
        format,
        layout::{Page, Section},
        mask::TextMask,
    },
    place::Place,
};
use crate::{
    queue::{ConversationMessages, DeadLetter, HistoryEntry, MessageCounts, find_messages_of_any_queue},
    wording::plural,
};

/// Bounds the search.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(8);

/// The form of the answer.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Form {
    /// Present if a script inserts the answer into the page.
    fragment: Option<String>,
}

/// Returns the place on a page where the script inserts the answer of `url`.
pub(super) fn placeholder(console: &Console, url: &str) -> Markup {
    let is_automatic = console.queue.searches_jobs();
    let fragment = format!("{url}{}fragment", if url.contains('?') { '&' } else { '?' });
    html! {
        section class="card" id="messages" aria-labelledby="messages-title" {
            h2 id="messages-title" { "In the queue" }
            div data-part-src=[is_automatic.then_some(fragment)] {
                p { a href=(url) { "Search the queue for this conversation" } }
                @if !is_automatic {
                    p class="quiet" { "RabbitMQ hides dead letters from other readers while they are searched." }
                }
            }
        }
    }
}

/// Lets one search run at a time: many viewers must not read the whole queue at once.
#[derive(Debug)]
pub(super) struct SearchTurn(Semaphore);

impl Default for SearchTurn {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

/// Answers with the messages about a conversation, also if the archive does not have it.
pub(super) async fn messages(
    State(console): State<Arc<Console>>,
    Extension(turn): Extension<Arc<SearchTurn>>,
    Path(id): Path<String>,
    Query(place): Query<Place>,
    Query(form): Query<Form>,
) -> Response {
    let search = async {
        // The semaphore is never closed.
        let _turn = turn.0.acquire().await;
        find_messages_of_any_queue(&*console.queue, &id).await
    };
    let found = timeout(SEARCH_TIMEOUT, search).await;
    let body = match found {
        Ok(Ok(found)) => show(&found, console.text_mask()),
        Ok(Err(error)) => cannot(&error.to_string()),
        Err(_) => cannot(&format!("it does not answer within {SEARCH_TIMEOUT:?}")),
    };
    if form.fragment.is_some() {
        return Html(body.into_string()).into_response();
    }
    let body = html! {
        p { a href=(place.url(&id)) { "Back to the conversation" } }
        h1 { "Messages about " span class="mono" { (format::outside_text(&id)) } }
        (body)
    };
    let title = format!("Messages about {}", format::outside_name(&id));
    Page::new(Section::Conversations, title, body).into_response()
}

fn cannot(reason: &str) -> Markup {
    html! { p class="notice warn" { "The queue cannot be searched: " (reason) ". The " a href="/" { "overview" } " shows its state." } }
}

fn show(found: &ConversationMessages, mask: TextMask) -> Markup {
    html! {
        @for sentence in sentences(&found.counts) { p { (sentence) } }
        @for letter in &found.dead_letters { (history(letter, mask)) }
        @if found.counts.dead_letters > found.dead_letters.len() as u64 { p { a href="/dead" { "All dead letters" } } }
    }
}

/// Says what there is, the most urgent first.
fn sentences(counts: &MessageCounts) -> Vec<Markup> {
    let MessageCounts { jobs, dead_letters, events, announcements, unsearched, refresh_due_at, retry_due_at } =
        counts;
    let delayed = u64::from(retry_due_at.is_some()) + u64::from(refresh_due_at.is_some());
    let count = |count: u64, one: &str, many: &str| (count > 0).then(|| html! { (plural(count, one, many)) });
    let jobs = jobs.unwrap_or_default().saturating_sub(delayed);
    let mut sentences: Vec<Markup> = [
        count(*dead_letters, "1 dead letter needs a decision.", "{} dead letters need a decision."),
        retry_due_at.map(|due| html! { "A job is tried again at " (format::time(due)) "." }),
        count(jobs, "1 job waits or is in progress.", "{} jobs wait or are in progress."),
        refresh_due_at.map(|due| html! { "A refresh waits until " (format::time(due)) "." }),
        count(
            events.unwrap_or_default(),
            "1 event that asks for no fetch is kept.",
            "{} events that ask for no fetch are kept.",
        ),
        count(announcements.unwrap_or_default(), "1 announcement is kept.", "{} announcements are kept."),
    ]
    .into_iter()
    .flatten()
    .collect();
    if sentences.is_empty() {
        let what = if *unsearched == 0 { "message" } else { "dead letter" };
        sentences.push(html! { "No " (what) " of this conversation is in the queue." });
    }
    sentences.extend(count(
        *unsearched,
        "1 other message was not searched, and may be about it.",
        "{} other messages were not searched. Some may be about it.",
    ));
    sentences
}

fn history(letter: &DeadLetter, mask: TextMask) -> Markup {
    let id = &letter.message.id;
    html! {
        h3 {
            "Dead letter "
            @match address::dead_letter(id) {
                Some(url) => a href=(url) { code { (format::outside_text(id)) } },
                None => code { (format::outside_text(id)) },
            }
        }
        p { (format::badge("bad", &mask.apply(letter.reason()))) " since " (format::time(letter.since())) ". Its page says what to do." }
        ol class="history" {
            @for entry in letter.entries() {
                li {
                    @match entry {
                        HistoryEntry::Replay(at) => { (format::time(at)) " replayed" },
                        HistoryEntry::Attempt(attempt) => {
                            (format::time(attempt.at)) " " strong { (mask.apply(&attempt.reason)) } " " (format::outside_text(&mask.apply(&attempt.detail)))
                            @if let Some(status) = attempt.status { " (" (status) ")" }
                            @if let Some(id) = &attempt.correlation_id { ", PolyAI's correlation id " code { (format::outside_text(id)) } }
                        },
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_in_sentences_what_there_is() {
        let text = |counts: &MessageCounts| -> Vec<String> {
            sentences(counts).into_iter().map(Markup::into_string).collect()
        };
        let none = MessageCounts {
            jobs: Some(0),
            events: Some(0),
            announcements: Some(0),
            ..MessageCounts::default()
        };
        assert_eq!(text(&none), ["No message of this conversation is in the queue."]);
        let unsearched = MessageCounts { unsearched: 2, ..MessageCounts::default() };
        assert_eq!(
            text(&unsearched),
            [
                "No dead letter of this conversation is in the queue.",
                "2 other messages were not searched. Some may be about it."
            ]
        );
        let due = |text: &str| Some(text.parse().unwrap());
        let counts = MessageCounts {
            jobs: Some(3),
            dead_letters: 1,
            announcements: Some(2),
            refresh_due_at: due("2026-11-30T22:09:26Z"),
            retry_due_at: due("2026-11-30T22:01:00Z"),
            ..none
        };
        let found = text(&counts);
        assert_eq!(found[0], "1 dead letter needs a decision.");
        assert!(
            found[1].starts_with("A job is tried again at <time datetime=\"2026-11-30T22:01:00Z\""),
            "{found:?}"
        );
        assert_eq!(found[2], "1 job waits or is in progress.");
        assert!(
            found[3].starts_with("A refresh waits until <time datetime=\"2026-11-30T22:09:26Z\""),
            "{found:?}"
        );
        assert_eq!(found[4..], ["2 announcements are kept."]);
    }
}
