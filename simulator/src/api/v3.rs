//! The Conversations API v3: `/v3/{account}/{project}/conversations`, `…/{id}`, `…/{id}/audio`.

use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    middleware::AuthorizedProject,
    query::Query,
    shapes::v3::{V3Options, v3_conversation},
    streaming,
};
use crate::{calls::CallView, error::ApiError, state::SimulatorState};

/// Lists conversations, newest first. Pages follow a `cursor`, or an `offset` as in older versions.
pub(super) async fn list(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref());
    let limits = state.scenario().lists;
    let filter = query.filter()?;
    let limit = query.number("limit", 1, limits.max_limit)?.unwrap_or(limits.default_limit);
    let offset = query.number("offset", 0, usize::MAX)?.unwrap_or(0);
    let before = query.cursor_position(project)?;
    let options = options(&state, &query, false)?;

    let skipped = if before.is_some() { 0 } else { offset };
    let (keys, more) = state.page(project, &filter, before, skipped, limit);
    let cursor = keys.last().filter(|_| more).map(|key| query.cursor(project, *key));
    let mut rest = json!({ "cursor": cursor });
    if more && before.is_none() {
        rest["next_offset"] = json!(offset.saturating_add(keys.len()));
    }
    Ok(streaming::page(&state, keys, &rest, move |state, call| shape(state, call, options)))
}

/// Returns one conversation, with everything unless the query says otherwise.
pub(super) async fn get(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path((_, _, id)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let options = options(&state, &Query::parse(query.as_deref()), true)?;
    let call = state.request_conversation(project, &id)?;
    let shape = shape(&state, &call, options);
    Ok(streaming::conversation(&state, id, shape))
}

/// Returns the recording of one conversation.
pub(super) async fn audio(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path((_, _, id)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    streaming::recording(&state, project, &id, &Query::parse(query.as_deref()))
}

fn options(state: &SimulatorState, query: &Query, default: bool) -> Result<V3Options, ApiError> {
    Ok(V3Options {
        strict: state.scenario().strict_schema,
        latency: query.boolean("include_latency")?.unwrap_or(default),
        state: query.boolean("include_context_state")?.unwrap_or(default),
        turns: true,
    })
}

fn shape(state: &SimulatorState, call: &CallView, options: V3Options) -> Value {
    let transcripts = state.scenario().projects.get(call.project).is_some_and(|project| project.transcripts);
    let turns = transcripts && !call.script.hidden_transcript;
    v3_conversation(&call.conversation, V3Options { turns, ..options })
}
