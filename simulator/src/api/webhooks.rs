//! The Webhooks API: `/v1/webhook-endpoints` of the reference and `/v1/webhooks/endpoints` of the quickstart.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{middleware::AuthorizedProject, query::Query};
use crate::{
    endpoints::{Endpoint, EndpointAttributes, invalid},
    error::ApiError,
    state::SimulatorState,
};

/// Returns the account of the request's key.
fn account(state: &SimulatorState, project: usize) -> String {
    state.scenario().projects.get(project).map(|project| project.account_id.clone()).unwrap_or_default()
}

fn parse(body: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|_| {
        ApiError::validation(StatusCode::BAD_REQUEST, "WEBHOOKS_VALIDATION_FAILED", "body", "must be JSON")
    })
}

/// Answers with a new endpoint and its secret. Only this answer and that of a rotation contain the secret.
fn created(endpoint: &Endpoint) -> Response {
    let mut shape = json!(endpoint);
    shape["signing_secret"] = json!(endpoint.secret.get());
    (StatusCode::CREATED, Json(shape)).into_response()
}

pub(super) async fn create(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    body: Bytes,
) -> Result<Response, ApiError> {
    let rules = &state.scenario().webhooks;
    let attributes = EndpointAttributes::read(&parse(&body)?, rules)?;
    let account = account(&state, project);
    let endpoint = state.endpoints().create(&account, attributes, rules.max_endpoints, state.now())?;
    Ok(created(&endpoint))
}

pub(super) async fn quickstart_create(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    body: Bytes,
) -> Result<Response, ApiError> {
    let rules = &state.scenario().webhooks;
    let mut attributes = EndpointAttributes::read_quickstart(&parse(&body)?, rules)?;
    attributes.name.get_or_insert_with(|| "webhook".to_owned());
    let account = account(&state, project);
    let endpoint = state.endpoints().create(&account, attributes, rules.max_endpoints, state.now())?;
    let mut shape = quickstart_shape(&endpoint);
    shape["signing_secret"] = json!(endpoint.secret.get());
    Ok((StatusCode::CREATED, Json(shape)).into_response())
}

/// Returns an endpoint with the field names of the quickstart.
fn quickstart_shape(endpoint: &Endpoint) -> Value {
    json!({
        "id": endpoint.id,
        "url": endpoint.url,
        "description": endpoint.name,
        "events": endpoint.event_types,
    })
}

pub(super) async fn quickstart_list(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
) -> Result<Response, ApiError> {
    let all = state.endpoints().list(&account(&state, project));
    Ok(Json(json!({ "data": all.iter().map(quickstart_shape).collect::<Vec<_>>() })).into_response())
}

pub(super) async fn quickstart_get(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let shape = quickstart_shape(state.endpoints().get_mut(&account(&state, project), &id)?);
    Ok(Json(shape).into_response())
}

pub(super) async fn quickstart_update(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let attributes = EndpointAttributes::read_quickstart(&parse(&body)?, &state.scenario().webhooks)?;
    let endpoint = state.endpoints().update(&account(&state, project), &id, attributes, state.now())?;
    Ok(Json(quickstart_shape(&endpoint)).into_response())
}

pub(super) async fn list(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref());
    let enabled = query.boolean("enabled")?;
    let event_type = query.get("event_type");
    if event_type.is_some_and(|name| !state.scenario().webhooks.event_types.iter().any(|known| known == name))
    {
        return Err(invalid("event_type", "is not a known event type"));
    }
    let mut all = state.endpoints().list(&account(&state, project));
    all.retain(|endpoint| {
        enabled.is_none_or(|wanted| endpoint.enabled == wanted)
            && event_type.is_none_or(|name| endpoint.event_types.iter().any(|event| event == name))
    });
    Ok(Json(json!({ "data": all })).into_response())
}

pub(super) async fn get(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let endpoint = state.endpoints().get_mut(&account(&state, project), &id)?.clone();
    Ok(Json(endpoint).into_response())
}

pub(super) async fn update(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let attributes = EndpointAttributes::read(&parse(&body)?, &state.scenario().webhooks)?;
    let endpoint = state.endpoints().update(&account(&state, project), &id, attributes, state.now())?;
    Ok(Json(endpoint).into_response())
}

pub(super) async fn delete(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.endpoints().delete(&account(&state, project), &id)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn rotate_secret(
    State(state): State<SimulatorState>,
    AuthorizedProject(project): AuthorizedProject,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let secret = state.endpoints().rotate_secret(&account(&state, project), &id, state.now())?;
    Ok(Json(json!({ "signing_secret": secret })).into_response())
}
