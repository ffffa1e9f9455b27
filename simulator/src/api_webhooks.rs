//! The Webhooks API: `/v1/webhook-endpoints` of the reference, `/v1/webhooks/endpoints` of the quickstart.

use axum::{
    Json,
    extract::{Path, RawQuery, State},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    endpoints::{Attributes, Endpoint, invalid},
    errors::ApiError,
    gate::Admitted,
    query::Query,
    state::SimulatorState,
};

/// The account a request acts for: the one its key belongs to.
fn account(state: &SimulatorState, project: usize) -> String {
    state.scenario().projects.get(project).map(|project| project.account_id.clone()).unwrap_or_default()
}

fn read(body: &Bytes) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|_| {
        ApiError::validation(StatusCode::BAD_REQUEST, "WEBHOOKS_VALIDATION_FAILED", "body", "must be JSON")
    })
}

/// The only answer, beside a rotation's, that has the secret in it.
fn created(endpoint: &Endpoint) -> Response {
    let mut shape = json!(endpoint);
    shape["signing_secret"] = json!(endpoint.secret.get());
    (StatusCode::CREATED, Json(shape)).into_response()
}

pub(crate) async fn create(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    body: Bytes,
) -> Result<Response, ApiError> {
    let rules = &state.scenario().webhooks;
    let given = Attributes::read(&read(&body)?, rules)?;
    let account = account(&state, project);
    let endpoint = state.endpoints().create(&account, given, rules.max_endpoints, state.now())?;
    Ok(created(&endpoint))
}

pub(crate) async fn quickstart_create(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    body: Bytes,
) -> Result<Response, ApiError> {
    let rules = &state.scenario().webhooks;
    let mut given = Attributes::read_quickstart(&read(&body)?, rules)?;
    given.name.get_or_insert_with(|| "webhook".to_owned());
    let account = account(&state, project);
    let endpoint = state.endpoints().create(&account, given, rules.max_endpoints, state.now())?;
    let mut shape = quickstart_shape(&endpoint);
    shape["signing_secret"] = json!(endpoint.secret.get());
    Ok((StatusCode::CREATED, Json(shape)).into_response())
}

/// An endpoint in the quickstart's words.
fn quickstart_shape(endpoint: &Endpoint) -> Value {
    json!({
        "id": endpoint.id,
        "url": endpoint.url,
        "description": endpoint.name,
        "events": endpoint.event_types,
    })
}

pub(crate) async fn quickstart_list(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
) -> Result<Response, ApiError> {
    let all = state.endpoints().of(&account(&state, project));
    Ok(Json(json!({ "data": all.iter().map(quickstart_shape).collect::<Vec<_>>() })).into_response())
}

pub(crate) async fn quickstart_get(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let shape = quickstart_shape(state.endpoints().get_mut(&account(&state, project), &id)?);
    Ok(Json(shape).into_response())
}

pub(crate) async fn quickstart_update(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let given = Attributes::read_quickstart(&read(&body)?, &state.scenario().webhooks)?;
    let endpoint = state.endpoints().update(&account(&state, project), &id, given, state.now())?;
    Ok(Json(quickstart_shape(&endpoint)).into_response())
}

pub(crate) async fn list(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::parse(query.as_deref());
    let enabled = query.flag("enabled")?;
    let event_type = query.get("event_type");
    if event_type.is_some_and(|name| !state.scenario().webhooks.event_types.iter().any(|known| known == name))
    {
        return Err(invalid("event_type", "is not a known event type"));
    }
    let mut all = state.endpoints().of(&account(&state, project));
    all.retain(|endpoint| {
        enabled.is_none_or(|wanted| endpoint.enabled == wanted)
            && event_type.is_none_or(|name| endpoint.event_types.iter().any(|event| event == name))
    });
    Ok(Json(json!({ "data": all })).into_response())
}

pub(crate) async fn get(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let endpoint = state.endpoints().get_mut(&account(&state, project), &id)?.clone();
    Ok(Json(endpoint).into_response())
}

pub(crate) async fn update(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let given = Attributes::read(&read(&body)?, &state.scenario().webhooks)?;
    let endpoint = state.endpoints().update(&account(&state, project), &id, given, state.now())?;
    Ok(Json(endpoint).into_response())
}

pub(crate) async fn delete(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    state.endpoints().delete(&account(&state, project), &id)?;
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn rotate(
    State(state): State<SimulatorState>,
    Admitted(project): Admitted,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let secret = state.endpoints().rotate(&account(&state, project), &id, state.now())?;
    Ok(Json(json!({ "signing_secret": secret })).into_response())
}
