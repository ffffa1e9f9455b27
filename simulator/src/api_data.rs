//! The Data API: `/v1/agents/{agentId}/conversations`, `…/{id}`, `…/{id}/audio`.

use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    calls::Filter, errors::ApiError, gate::Admitted, query::Query, respond, shapes, state::SimulatorState,
};

/// Newest first, in every environment, by `limit` and `offset`.
pub(crate) async fn list(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref());
    let lists = state.scenario().lists;
    let limit = query.number("limit", 1, lists.max_limit)?.unwrap_or(lists.data_default_limit);
    let offset = query.number("offset", 0, usize::MAX)?.unwrap_or(0);
    let filter = Filter::default();
    let (keys, _) = state.page(project, &filter, None, offset, limit);
    let rest = json!({ "count": state.total(project, &filter), "limit": limit, "offset": offset });
    Ok(respond::page(&state, keys, &rest, |_, found| Value::Object(shapes::data_summary(&found.call))))
}

/// One conversation, with turns, metrics and functions.
pub(crate) async fn get(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path((_, id)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let found = state.open(project, &id)?;
    let shown = state.scenario().projects.get(project).is_some_and(|project| project.transcripts);
    let shape = shapes::data(&found.call, shown && !found.script.hidden_transcript);
    Ok(respond::conversation(&state, id, shape))
}

/// Its recording.
pub(crate) async fn audio(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path((_, id)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    respond::recording(&state, project, &id, &Query::parse(query.as_deref()))
}
