//! The handlers of the page and of a whole turn.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{TryStreamExt, future::join_all};
use http::{StatusCode, header};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    super::{
        Console,
        access::Viewer,
        error::PageError,
        extract::{Path, Query},
        format,
        layout::{Page, Section},
    },
    details::{self, ObjectState},
    facts, masking, messages,
    place::{Conversation, Place},
    player,
    reading::ReadPermits,
    transcript::{self, TURNS_PER_PAGE},
};
use crate::{
    archive::{CONVERSATION, ObjectKind},
    index::{ConversationRows, Numbers, read_rows},
};

/// A larger conversation is not read. PolyAI's have some hundred KiB.
const MAX_CONVERSATION_BYTES: u64 = 32 << 20;
/// The rest of a longer turn is left to the download. An answer stays in memory until its client has taken it.
const MAX_TURN_BYTES: usize = 1 << 20;

/// The part of the conversation that a page shows.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Shown {
    /// The first turn.
    turn: Option<usize>,
    /// Present after a fetch was queued.
    queued: Option<String>,
}

/// The result of an action, on top of the page.
#[derive(Debug, Default)]
pub(super) struct ActionResult {
    pub(super) notice: Option<Markup>,
    pub(super) verified: Vec<ObjectState>,
}

pub(super) async fn page(
    State(console): State<Arc<Console>>,
    Extension(permits): Extension<ReadPermits>,
    viewer: Viewer,
    Path(id): Path<String>,
    Query(place): Query<Place>,
    Query(shown): Query<Shown>,
) -> Result<Page, PageError> {
    let conversation = Conversation::find(&console, &place, &id).await?;
    let notice = shown.queued.is_some().then(|| {
        html! { p class="notice good" role="status" {
            "The fetch is queued. A worker asks PolyAI for the conversation, and archives what is new. Reload this page in a minute."
        } }
    });
    let result = ActionResult { notice, verified: Vec::new() };
    render(&console, &permits, &viewer, &conversation, &shown, result).await
}

/// Returns the page of a conversation.
pub(super) async fn render(
    console: &Console,
    permits: &ReadPermits,
    viewer: &Viewer,
    conversation: &Conversation,
    shown: &Shown,
    ActionResult { notice, verified }: ActionResult,
) -> Result<Page, PageError> {
    let (read, states) =
        tokio::join!(read(console, permits, conversation), look_at_objects(console, conversation));
    let read = read?;
    let states = if verified.is_empty() { states } else { verified };
    let body = html! {
        p { a href="/conversations" { "All conversations" } }
        h1 { "Conversation " span class="mono" { (format::outside_text(conversation.id())) } }
        @if let Some(notice) = notice { (notice) }
        @if let Some(problem) = &read.problem { p class="notice warn" role="status" { (problem) } }
        div class="conversation" {
            div class="hear" {
                (player::show(conversation, &states))
                (facts::show(conversation, &read.rows.call))
            }
            (show_transcript(console, conversation, &read.rows, shown))
        }
        (details::show(console, viewer, conversation, &states))
        (messages::placeholder(console, &conversation.url("/messages")))
    };
    let title = format!("Conversation {}", format::outside_name(conversation.id()));
    let page = Page::new(Section::Conversations, title, body);
    Ok(page.with_asset("conversation.css").with_asset("conversation.js"))
}

fn show_transcript(
    console: &Console,
    conversation: &Conversation,
    rows: &ConversationRows,
    shown: &Shown,
) -> Markup {
    let turns = &rows.turns;
    let first = shown.turn.unwrap_or(1).clamp(1, turns.len().max(1)) - 1;
    let last = turns.len().min(first + TURNS_PER_PAGE);
    let lines = transcript::lines(turns);
    let is_shown = |turn: i32| usize::try_from(turn).is_ok_and(|turn| (first + 1..=last).contains(&turn));
    let lines: Vec<_> = lines.into_iter().filter(|line| is_shown(line.turn)).collect();
    let functions = transcript::functions(&rows.call, console.config.show_numbers);
    let page_url = |first: usize| format!("{}&turn={}#transcript", conversation.url(""), first + 1);
    let pages = html! {
        @if turns.len() > TURNS_PER_PAGE {
            nav class="actions" aria-label="Turns" {
                @if first > 0 { a class="button" href=(page_url(first.saturating_sub(TURNS_PER_PAGE))) { "Earlier turns" } }
                span class="quiet" { "Turns " (first + 1) " to " (last) " of " (turns.len()) }
                @if last < turns.len() { a class="button" href=(page_url(last)) { "Later turns" } }
            }
        }
    };
    html! {
        section class="read" id="transcript" aria-labelledby="transcript-title" {
            h2 id="transcript-title" { "Transcript" }
            @if lines.is_empty() { p class="quiet" { (no_transcript(conversation)) } }
            (pages)
            (transcript::show(&lines, &functions, |turn| conversation.url(&format!("/turns/{turn}"))))
            @if turns.len() > TURNS_PER_PAGE { (pages) }
        }
    }
}

fn no_transcript(conversation: &Conversation) -> &'static str {
    let manifest = conversation.manifest();
    if manifest.warnings.iter().any(|warning| warning.starts_with("transcript_hidden")) {
        "PolyAI hides the transcript. Enable Conversation transcript under API Keys > Configuration in Agent Studio."
    } else if manifest.facts.turn_count > 0 {
        "PolyAI counted turns, and its answer has none."
    } else {
        "Nothing was said."
    }
}

/// The rows of a conversation, and the reason why they have only what the manifest has.
struct ReadConversation {
    rows: ConversationRows,
    problem: Option<String>,
    /// Held until the page is rendered, so that memory does not depend on the number of viewers.
    _permit: OwnedSemaphorePermit,
}

async fn read(
    console: &Console,
    permits: &ReadPermits,
    conversation: &Conversation,
) -> Result<ReadConversation, PageError> {
    let permit = permits.acquire().await?;
    let (json, problem) = match read_json(console, conversation).await {
        Ok(json) => (json, None),
        Err(problem) => (Bytes::new(), Some(problem)),
    };
    let (stored, are_shown) = (conversation.stored.clone(), console.config.show_numbers);
    let read = tokio::task::spawn_blocking(move || {
        let mut rows = read_rows(&stored, &json, &Numbers::plain());
        if !are_shown {
            masking::mask_rows(&mut rows);
        }
        // The thread goes on if the client has left, and keeps the permit until then.
        (rows, permit)
    });
    let (rows, permit) = read.await.map_err(|_| {
        PageError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{CONVERSATION} cannot be read because of an internal error."),
            "Read it with `polyhook show`, and report the line of the log.",
        )
    })?;
    Ok(ReadConversation { rows, problem, _permit: permit })
}

async fn read_json(console: &Console, conversation: &Conversation) -> Result<Bytes, String> {
    let opened = console.archive.open_object(&conversation.location, CONVERSATION, None).await;
    let failed =
        |error| format!("The transcript is missing here, because {CONVERSATION} cannot be read: {error}.");
    let Some(object) = opened.map_err(failed)? else {
        return Err(format!(
            "The transcript is missing, because the archive has no {CONVERSATION}. Fetch the conversation again."
        ));
    };
    if object.size > MAX_CONVERSATION_BYTES {
        let size = format::bytes(object.size);
        return Err(format!(
            "The transcript is not shown, because {CONVERSATION} has {size}. Download it below."
        ));
    }
    let add = async |mut json: Vec<u8>, part: Bytes| {
        json.extend_from_slice(&part);
        Ok(json)
    };
    object.parts.try_fold(Vec::new(), add).await.map(Bytes::from).map_err(failed)
}

/// Compares the sizes of the objects with the manifest. Earlier revisions are left to the verification.
async fn look_at_objects(console: &Console, conversation: &Conversation) -> Vec<ObjectState> {
    let objects = &conversation.manifest().objects;
    let looked_at = objects.iter().filter(|object| object.kind != ObjectKind::Revision).map(async |object| {
        let size = console.archive.object_size(&conversation.location, &object.name).await;
        ObjectState::of_size(object, size)
    });
    join_all(looked_at).await
}

/// Answers with a whole turn as plain text.
pub(super) async fn turn(
    State(console): State<Arc<Console>>,
    Extension(permits): Extension<ReadPermits>,
    Path((id, number)): Path<(String, i32)>,
    Query(place): Query<Place>,
) -> Result<Response, PageError> {
    let conversation = Conversation::find(&console, &place, &id).await?;
    let read = read(&console, &permits, &conversation).await?;
    let turn = read.rows.turns.iter().find(|turn| turn.number == number);
    let Some(turn) = turn else {
        return Err(PageError::not_found(
            "The conversation has no such turn.",
            read.problem.unwrap_or_else(|| "The page of the conversation shows its turns.".to_owned()),
        ));
    };
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let mut text = transcript::whole_turn(turn);
    if text.len() > MAX_TURN_BYTES {
        text.truncate(text.floor_char_boundary(MAX_TURN_BYTES));
        text.shrink_to_fit();
        text += "…\n\nThe turn is longer. Download conversation.json to read the rest.\n";
    }
    Ok((headers, text).into_response())
}
