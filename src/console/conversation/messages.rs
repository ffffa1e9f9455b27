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
        Console,
        error::PageError,
        extract::{Path, Query},
        format,
        layout::{Page, Section},
        mask::TextMask,
    },
    place::{Conversation, Place},
};
use crate::queue::{
    ConversationMessages, DeadLetter, HistoryEntry, MessageCounts, find_messages_of_any_queue,
};

/// Bounds the search.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(8);

/// The form of the answer.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Form {
    /// Present if a script inserts the answer into the page.
    fragment: Option<String>,
}

/// The place on the page where the script inserts the answer.
pub(super) fn placeholder(console: &Console, conversation: &Conversation) -> Markup {
    let url = conversation.url("/messages");
    let is_automatic = console.queue.searches_jobs();
    html! {
        section class="card" id="messages" aria-labelledby="messages-title" data-src=[is_automatic.then(|| format!("{url}&fragment"))] {
            h2 id="messages-title" { "In the queue" }
            div id="messages-found" {
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

pub(super) async fn messages(
    State(console): State<Arc<Console>>,
    Extension(turn): Extension<Arc<SearchTurn>>,
    Path(id): Path<String>,
    Query(place): Query<Place>,
    Query(form): Query<Form>,
) -> Result<Response, PageError> {
    let conversation = Conversation::find(&console, &place, &id).await?;
    let search = async {
        // The semaphore is never closed.
        let _turn = turn.0.acquire().await;
        find_messages_of_any_queue(&*console.queue, conversation.id()).await
    };
    let found = timeout(SEARCH_TIMEOUT, search).await;
    let body = match found {
        Ok(Ok(found)) => show(&found, console.text_mask()),
        Ok(Err(error)) => cannot(&error.to_string()),
        Err(_) => cannot(&format!("it does not answer within {SEARCH_TIMEOUT:?}")),
    };
    if form.fragment.is_some() {
        return Ok(Html(body.into_string()).into_response());
    }
    let body = html! {
        p { a href=(conversation.url("")) { "Back to the conversation" } }
        h1 { "Messages about " span class="mono" { (format::outside_text(conversation.id())) } }
        (body)
    };
    let title = format!("Messages about {}", format::outside_name(conversation.id()));
    Ok(Page::new(Section::Conversations, title, body).into_response())
}

fn cannot(reason: &str) -> Markup {
    html! { p class="notice warn" { "The queue cannot be searched: " (reason) ". The overview shows its state." } }
}

fn show(found: &ConversationMessages, mask: TextMask) -> Markup {
    let MessageCounts { jobs, dead_letters, events, announcements, unsearched, refresh_due_at } =
        &found.counts;
    let count = |name: &str, count: &Option<u64>| {
        html! { @if let Some(count) = count { dt { (name) } dd { (count) } } }
    };
    html! {
        dl class="facts" {
            (count("Jobs", jobs))
            (count("Dead letters", &Some(*dead_letters)))
            (count("Events", events))
            (count("Announcements", announcements))
            @if *unsearched > 0 { dt { "Not searched" } dd { (unsearched) " other messages" } }
            @if let Some(due) = refresh_due_at { dt { "Next refresh" } dd { (format::time(*due)) } }
        }
        @for letter in &found.dead_letters { (history(letter, mask)) }
        @if *dead_letters > found.dead_letters.len() as u64 { p { a href="/dead" { "All dead letters" } } }
    }
}

fn history(letter: &DeadLetter, mask: TextMask) -> Markup {
    html! {
        h3 { "Dead letter " code { (format::outside_text(&letter.message.id)) } }
        p { (format::badge("bad", &mask.apply(letter.reason()))) " since " (format::time(letter.since())) ". " a href="/dead" { "Look at the dead letters" } " to replay it." }
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
