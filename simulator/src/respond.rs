//! Answers that are sent while they are made: pages of conversations, and recordings.

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

use super::{
    audio::{Direction, Recording},
    calls::{Found, Key},
    errors::ApiError,
    query::Query,
    state::{Activity, SimulatorState},
};

/// `{"conversations":[…],<rest>}`, one conversation at a time: a page may be larger than memory should be.
pub(crate) fn page<F>(state: &SimulatorState, keys: Vec<Key>, rest: &Value, shape: F) -> Response
where
    F: Fn(&SimulatorState, &Found) -> Value + Send + 'static,
{
    let state = state.clone();
    let mut comma = "";
    // A call that was replaced since the page was cut is left out.
    let items = stream::iter(keys).filter_map(move |key| {
        let item = state.show(key).map(|found| {
            let item = Bytes::from(format!("{comma}{}", shape(&state, &found)));
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

/// One conversation.
pub(crate) fn conversation(state: &SimulatorState, id: String, shape: Value) -> Response {
    state.tell(Activity::ConversationServed { id });
    Json(shape).into_response()
}

/// A conversation's recording as `?direction&redacted` asks for it, or the refusal that says there is none.
pub(crate) fn recording(
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
    let redacted = query.flag("redacted")?.unwrap_or(false);
    let found = state.listen(project, id)?;
    if !found.call.has_audio() {
        return Err(ApiError::no_recording());
    }
    let scenario = state.scenario();
    let redacted = redacted || scenario.projects.get(project).is_some_and(|project| !project.pii_access);
    let size = found.script.audio_size.map(|size| size.as_u64());
    let recording = Recording::new(scenario.seed, &found.call, direction, redacted, scenario.combined, size);
    let length = recording.length();

    let (watcher, id, mut sent) = (state.clone(), id.to_owned(), 0);
    let body = Body::from_stream(stream::iter(recording).map(move |block| {
        sent += block.len() as u64;
        if sent == length {
            watcher.tell(Activity::AudioServed { id: id.clone(), bytes: length });
        }
        Ok::<_, Infallible>(block)
    }));
    let length = length.to_string();
    Ok(([(CONTENT_TYPE, "audio/wav"), (CONTENT_LENGTH, length.as_str())], body).into_response())
}
