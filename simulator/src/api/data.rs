//! The Data API: `/v1/agents/{agentId}/conversations`, `…/{id}`, `…/{id}/audio`.

use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    middleware::AuthorizedProject,
    query::Query,
    shapes::data::{data_conversation, data_list_entry},
    streaming,
};
use crate::{calls::CallFilter, error::ApiError, state::SimulatorState};

/// Lists conversations of every environment, newest first. Pages follow `limit` and `offset`.
pub(super) async fn list(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref());
    let limits = state.scenario().lists;
    let limit = query.number("limit", 1, limits.max_limit)?.unwrap_or(limits.data_default_limit);
    let offset = query.number("offset", 0, usize::MAX)?.unwrap_or(0);
    let filter = CallFilter::default();
    let (keys, _) = state.page(project, &filter, None, offset, limit);
    let rest = json!({ "count": state.count_calls(project, &filter), "limit": limit, "offset": offset });
    Ok(streaming::page(&state, keys, &rest, |_, call| Value::Object(data_list_entry(&call.conversation))))
}

/// Returns one conversation, with turns, metrics and functions.
pub(super) async fn get(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path((_, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let call = state.request_conversation(project, &id)?;
    let transcripts = state.scenario().projects.get(project).is_some_and(|project| project.transcripts);
    let shape = data_conversation(&call.conversation, transcripts && !call.script.hidden_transcript);
    Ok(streaming::conversation(&state, id, shape))
}

/// Returns the recording of one conversation.
pub(super) async fn audio(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path((_, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    streaming::recording(&state, project, &id, &Query::parse(query.as_deref()))
}
