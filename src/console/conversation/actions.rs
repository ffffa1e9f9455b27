//! The actions of the page: verify what the archive has, and ask for another fetch.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::StatusCode;
use maud::html;

use super::{
    super::{
        Console,
        access::Viewer,
        error::PageError,
        extract::{Path, Query},
        format,
        layout::Page,
    },
    details::ObjectState,
    page::{ActionResult, Shown, render},
    place::{Conversation, Place},
    reading::{self, ReadPermits, RecordingReader, Verdict},
};
use crate::{
    event::{Discovery, DiscoverySource},
    reconcile::publish_discovery,
};

/// Reads every object again, and shows the page with the results.
pub(super) async fn verify(
    State(console): State<Arc<Console>>,
    Extension(recordings): Extension<Arc<RecordingReader>>,
    Extension(permits): Extension<ReadPermits>,
    viewer: Viewer,
    Path(id): Path<String>,
    Query(place): Query<Place>,
) -> Result<Page, PageError> {
    let conversation = Conversation::find(&console, &place, &id).await?;
    let mut verified = Vec::new();
    let permit = recordings.permits.acquire().await?;
    for object in &conversation.manifest().objects {
        let verdict = reading::verify(&console.archive, &conversation.location, object).await;
        verified.push(ObjectState::new(object, verdict.map(Some)));
    }
    drop(permit);
    let is_intact = |state: &ObjectState| matches!(state.verdict, Ok(Some(Verdict::Intact)));
    let is_unknown = |state: &ObjectState| state.verdict.is_err();
    let (tone, text) = if verified.iter().all(is_intact) {
        ("notice good", "Intact: every object has the SHA-256 that the manifest names.")
    } else if verified.iter().all(|state| is_intact(state) || is_unknown(state)) {
        ("notice warn", "Some objects cannot be read now. The table names the reason.")
    } else {
        ("notice bad", "Damaged: the table names the objects. Fetch the conversation again to repair them.")
    };
    let notice = Some(html! { p class=(tone) role="status" { (text) } });
    let result = ActionResult { notice, verified };
    render(&console, &permits, &viewer, &conversation, &Shown::default(), result).await
}

/// Queues another fetch.
pub(super) async fn fetch(
    State(console): State<Arc<Console>>,
    Path(id): Path<String>,
    Query(place): Query<Place>,
) -> Result<Response, PageError> {
    let argument = format::argument(&id);
    if !console.config.allow_replay {
        return Err(PageError::new(
            StatusCode::FORBIDDEN,
            "This console changes nothing, because console.allow_replay is false.",
            format!("Set console.allow_replay = true, or use `polyhook fetch {argument}`."),
        ));
    }
    let conversation = Conversation::find(&console, &place, &id).await?;
    let facts = &conversation.manifest().facts;
    let discovery = Discovery {
        conversation_id: conversation.id().to_owned(),
        account_id: conversation.location.account_id().to_owned(),
        project_id: conversation.location.project_id().to_owned(),
        environment: Some(facts.environment.clone()),
        started_at: Some(facts.started_at),
        ended_at: facts.finished_at,
        source: DiscoverySource::Command,
        dedup_time: Some(console.clock.now()),
        is_refetch: true,
        ..Discovery::default()
    };
    publish_discovery(&*console.queue, &discovery, &console.clock).await.map_err(|error| {
        PageError::unavailable(
            format!("Nothing is queued: {error}."),
            format!("Try again when the queue works, or use `polyhook fetch {argument}`."),
        )
    })?;
    Ok(Redirect::to(&format!("{}&queued", conversation.url(""))).into_response())
}
