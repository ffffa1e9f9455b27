//! The waveform of a recording, which the script of the page draws.

use std::sync::Arc;

use axum::{
    Extension,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde_json::json;

use super::{
    super::{
        Console,
        error::PageError,
        extract::{Path, Query},
    },
    objects::find_recording,
    place::{Conversation, Place},
    reading::RecordingReader,
};

/// Answers with the waveform as JSON, or with the reason why it cannot be drawn.
pub(super) async fn waveform(
    State(console): State<Arc<Console>>,
    Extension(recordings): Extension<Arc<RecordingReader>>,
    Path((id, direction)): Path<(String, String)>,
    Query(place): Query<Place>,
) -> Result<Response, PageError> {
    let conversation = Conversation::find(&console, &place, &id).await?;
    let recording = find_recording(&conversation, &direction)?;
    let found = recordings.waveform(&console.archive, &conversation.location, recording).await?;
    Ok(match found {
        Some(Ok(peaks)) => ([(header::CONTENT_TYPE, "application/json")], peaks).into_response(),
        Some(Err(error)) => {
            failed(StatusCode::UNPROCESSABLE_ENTITY, &format!("The recording has no waveform: {error}."))
        }
        None => failed(StatusCode::NOT_FOUND, "The recording is missing in the archive, or damaged."),
    })
}

fn failed(status: StatusCode, message: &str) -> Response {
    let body = json!({ "error": message }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
