//! Answers that are generated while they are sent: pages of conversations, and recordings.

use std::convert::Infallible;

use axum::{
    Json,
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;

use super::query::Query;
use crate::{
    audio::{Direction, Recording},
    calls::{CallKey, CallView},
    error::ApiError,
    state::{Activity, SimulatorState},
};

/// Sends `{"conversations":[…],<rest>}` one conversation at a time, because a page may be large.
pub(super) fn page<F>(state: &SimulatorState, keys: Vec<CallKey>, rest: &Value, shape: F) -> Response
where
    F: Fn(&SimulatorState, &CallView) -> Value + Send + 'static,
{
    let state = state.clone();
    let mut comma = "";
    // A call that was replaced after its key was selected is left out.
    let items = stream::iter(keys).filter_map(move |key| {
        let item = state.view_call(key).map(|call| {
            let item = Bytes::from(format!("{comma}{}", shape(&state, &call)));
            comma = ",";
            item
        });
        std::future::ready(item)
    });
    let rest = rest.to_string();
    let close = format!("],{}", rest.trim_start_matches('{'));
    let open = stream::iter([Bytes::from_static(b"{\"conversations\":[")]);
    let close = stream::iter([Bytes::from(close)]);
    let body = Body::from_stream(open.chain(items).chain(close).map(Ok::<_, Infallible>));
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// Sends one conversation.
pub(super) fn conversation(state: &SimulatorState, id: String, shape: Value) -> Response {
    state.publish(Activity::ConversationServed { id });
    Json(shape).into_response()
}

/// Sends the recording that `?direction&redacted` asks for, or fails if there is none.
pub(super) fn recording(
    state: &SimulatorState,
    project: usize,
    id: &str,
    query: &Query,
) -> Result<Response, ApiError> {
    let direction = match query.get("direction") {
        None | Some("combined") => Direction::Combined,
        Some("user") => Direction::User,
        Some("agent") => Direction::Agent,
        Some(_) => return Err(ApiError::invalid("direction", "must be combined, user or agent")),
    };
    let redacted = query.boolean("redacted")?.unwrap_or(false);
    let call = state.request_recording(project, id)?;
    if !call.conversation.has_audio {
        return Err(ApiError::no_recording());
    }
    let scenario = state.scenario();
    let redacted = redacted || scenario.projects.get(project).is_some_and(|project| !project.pii_access);
    let size = call.script.audio_size.map(|size| size.as_u64());
    let recording =
        Recording::new(scenario.seed, &call.conversation, direction, redacted, scenario.combined, size);
    let length = recording.length();

    let (state, id, mut sent) = (state.clone(), id.to_owned(), 0);
    let body = Body::from_stream(stream::iter(recording).map(move |block| {
        sent += block.len() as u64;
        if sent == length {
            state.publish(Activity::AudioServed { id: id.clone(), bytes: length });
        }
        Ok::<_, Infallible>(block)
    }));
    let length = length.to_string();
    Ok(([(CONTENT_TYPE, "audio/wav"), (CONTENT_LENGTH, length.as_str())], body).into_response())
}
