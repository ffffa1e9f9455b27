//! The Conversations API v3: `/v3/{account}/{project}/conversations`, `…/{id}`, `…/{id}/audio`.

use axum::{
    extract::{Path, RawQuery, State},
    response::Response,
};
use serde_json::json;

use super::{
    calls::Found,
    errors::ApiError,
    gate::Admitted,
    query::Query,
    respond,
    shapes::{self, V3},
    state::SimulatorState,
};

/// Newest first. Pages by `cursor`, or by `offset` the old way.
pub(crate) async fn list(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref());
    let lists = state.scenario().lists;
    let filter = query.filter()?;
    let limit = query.number("limit", 1, lists.max_limit)?.unwrap_or(lists.default_limit);
    let offset = query.number("offset", 0, usize::MAX)?.unwrap_or(0);
    let before = query.position(project)?;
    let want = wanted(&state, &query, false)?;

    let (keys, more) = state.page(project, &filter, before, if before.is_some() { 0 } else { offset }, limit);
    let cursor = keys.last().filter(|_| more).map(|key| query.cursor(project, *key));
    let mut rest = json!({ "cursor": cursor });
    if more && before.is_none() {
        rest["next_offset"] = json!(offset.saturating_add(keys.len()));
    }
    Ok(respond::page(&state, keys, &rest, move |state, found| shape(state, found, want)))
}

/// One conversation, with everything.
pub(crate) async fn get(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path((_, _, id)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let want = wanted(&state, &Query::parse(query.as_deref()), true)?;
    let found = state.open(project, &id)?;
    let shape = shape(&state, &found, want);
    Ok(respond::conversation(&state, id, shape))
}

/// Its recording.
pub(crate) async fn audio(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path((_, _, id)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    respond::recording(&state, project, &id, &Query::parse(query.as_deref()))
}

fn wanted(state: &SimulatorState, query: &Query, all: bool) -> Result<V3, ApiError> {
    Ok(V3 {
        strict: state.scenario().strict_schema,
        latency: query.flag("include_latency")?.unwrap_or(all),
        state: query.flag("include_context_state")?.unwrap_or(all),
        turns: true,
    })
}

fn shape(state: &SimulatorState, found: &Found, want: V3) -> serde_json::Value {
    let shown = state.scenario().projects.get(found.project).is_some_and(|project| project.transcripts);
    shapes::v3(&found.call, V3 { turns: shown && !found.script.hidden_transcript, ..want })
}
