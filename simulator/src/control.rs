//! The control interface below `/_simulator/`, in JSON, for tests in any language.
//!
//! It needs no key, and it returns the simulator's own credentials, which are made up. Use the simulator only on your own
//! machine.
//!
//! | request | effect |
//! |---|---|
//! | `GET /_simulator/` | Returns identifiers, keys and the signing secret |
//! | `GET /_simulator/calls` | Returns all calls as they are now |
//! | `POST /_simulator/calls` | Adds a call, or `{"count": n}` calls, and returns them |
//! | `PUT /_simulator/calls/{id}` | Adds a call with this id, unless there is one, and returns it |
//! | `PUT /_simulator/calls/{id}/script` | Replaces the script of a call |
//! | `POST /_simulator/faults` | Adds a fault: `{"fault": …, "project_id": …}` |
//! | `DELETE /_simulator/faults` | Removes all faults |
//! | `PUT /_simulator/api-key` | Replaces a key: `{"api_key": …, "project_id": …}`. The old key becomes invalid |
//! | `PUT /_simulator/served` | Replaces the set of served APIs |
//! | `GET`, `DELETE /_simulator/requests` | Returns or resets the number of requests, by operation and status |
//! | `POST /_simulator/deliver` | Sends the events of calls to a URL, or to the registered endpoints |
//! | `GET /_simulator/deliveries` | Returns the finished deliveries |

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;
use url::Url;

use crate::{
    calls::{CallInfo, NewCall},
    delivery::{Delivery, EventOptions},
    error::ApiError,
    fault::Fault,
    scenario::ServedApis,
    script::CallScript,
    sender::{Sender, SenderOptions, SigningSecret},
    state::SimulatorState,
};

pub(crate) fn router() -> Router<SimulatorState> {
    Router::new()
        .route("/_simulator/", get(access))
        .route("/_simulator/calls", get(calls).post(add_calls))
        .route("/_simulator/calls/{id}", put(ensure_call))
        .route("/_simulator/calls/{id}/script", put(set_script))
        .route("/_simulator/faults", post(add_fault).delete(clear_faults))
        .route("/_simulator/api-key", put(set_api_key))
        .route("/_simulator/served", put(set_served))
        .route("/_simulator/requests", get(request_counts).delete(reset_request_counts))
        .route("/_simulator/deliver", post(deliver))
        .route("/_simulator/deliveries", get(deliveries))
}

fn parse<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::validation(StatusCode::BAD_REQUEST, "SIMULATOR_BODY", "body", &error.to_string())
    })
}

async fn access(State(state): State<SimulatorState>) -> Response {
    let projects: Vec<_> = state
        .scenario()
        .projects
        .iter()
        .map(|project| {
            json!({
                "account_id": project.account_id,
                "project_id": project.project_id,
                "api_key": project.api_key,
            })
        })
        .collect();
    Json(json!({ "signing_secret": state.signing_secret(), "projects": projects })).into_response()
}

async fn calls(State(state): State<SimulatorState>) -> Response {
    Json(json!({ "calls": state.calls() })).into_response()
}

/// The maximum number of calls that one request can add. Every call stays in memory.
const MAX_CALLS_PER_REQUEST: u64 = 100_000;

/// Adds one call, or `count` calls.
async fn add_calls(State(state): State<SimulatorState>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields: serde_json::Map<String, serde_json::Value> = parse(&body)?;
    let count = fields
        .remove("count")
        .map_or(Some(1), |count| count.as_u64().filter(|count| *count <= MAX_CALLS_PER_REQUEST));
    let count = count.ok_or_else(|| {
        ApiError::invalid("count", &format!("must be a number up to {MAX_CALLS_PER_REQUEST}"))
    })?;
    let call: NewCall = parse(&Bytes::from(serde_json::Value::Object(fields).to_string()))?;
    let added: Option<Vec<_>> = (0..count).map(|_| state.add_call(&call)).collect();
    let added = added.ok_or_else(ApiError::unknown_project)?;
    Ok((StatusCode::CREATED, Json(json!({ "calls": added }))).into_response())
}

/// Adds a call with this id, unless there is one.
async fn ensure_call(
    State(state): State<SimulatorState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    if let Some(call) = state.call(&id) {
        return Ok(Json(json!({ "call": call })).into_response());
    }
    let call: NewCall = parse(&body)?;
    let added = state.add_call(&NewCall { id: Some(id), ..call }).ok_or_else(ApiError::unknown_project)?;
    Ok((StatusCode::CREATED, Json(json!({ "call": added }))).into_response())
}

async fn set_script(
    State(state): State<SimulatorState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let script: CallScript = parse(&body)?;
    if state.set_script(&id, script) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::unknown_conversation())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddFault {
    project_id: Option<String>,
    fault: Fault,
}

async fn add_fault(State(state): State<SimulatorState>, body: Bytes) -> Result<StatusCode, ApiError> {
    let AddFault { project_id, fault } = parse(&body)?;
    if state.add_fault(project_id.as_deref(), fault) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::unknown_project())
    }
}

async fn clear_faults(State(state): State<SimulatorState>) -> StatusCode {
    state.clear_faults();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    project_id: Option<String>,
    api_key: String,
}

async fn set_api_key(State(state): State<SimulatorState>, body: Bytes) -> Result<StatusCode, ApiError> {
    let NewKey { project_id, api_key } = parse(&body)?;
    if state.set_api_key(project_id.as_deref(), api_key) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::unknown_project())
    }
}

async fn set_served(State(state): State<SimulatorState>, body: Bytes) -> Result<StatusCode, ApiError> {
    let served: ServedApis = parse(&body)?;
    state.set_served(served);
    Ok(StatusCode::NO_CONTENT)
}

async fn request_counts(State(state): State<SimulatorState>) -> Response {
    Json(state.request_counts()).into_response()
}

async fn reset_request_counts(State(state): State<SimulatorState>) -> StatusCode {
    state.reset_request_counts();
    StatusCode::NO_CONTENT
}

async fn deliveries(State(state): State<SimulatorState>) -> Response {
    Json(json!({ "deliveries": state.deliveries() })).into_response()
}

/// The body of a request to deliver.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct DeliverRequest {
    /// The receiver. Absent means every enabled endpoint that is registered for the event.
    url: Option<Url>,
    /// The secret for deliveries to `url`. Absent means the simulator's. Endpoints have their own secrets.
    secret: Option<String>,
    /// The calls. Absent means all.
    conversation_ids: Option<Vec<String>>,
    events: EventOptions,
    sender: SenderOptions,
}

/// Starts to send and answers with the number of deliveries, without duplicates.
async fn deliver(State(state): State<SimulatorState>, body: Bytes) -> Result<Response, ApiError> {
    let DeliverRequest { url, secret, conversation_ids, events, sender } = parse(&body)?;
    let calls: Vec<CallInfo> = match conversation_ids {
        Some(ids) => {
            let known: Option<_> = ids.iter().map(|id| state.call(id)).collect();
            known.ok_or_else(ApiError::unknown_conversation)?
        }
        None => state.calls(),
    };
    let count = match url {
        Some(url) => {
            let deliveries = Delivery::of_calls(&calls, &events).collect();
            let secret = secret.unwrap_or_else(|| state.signing_secret().to_owned());
            start_sending(&state, url, secret, sender, deliveries)?
        }
        None => deliver_to_endpoints(&state, &calls, &events, &sender)?,
    };
    Ok((StatusCode::ACCEPTED, Json(json!({ "deliveries": count }))).into_response())
}

/// Sends every event to the enabled endpoints of its account that are registered for its type.
fn deliver_to_endpoints(
    state: &SimulatorState,
    calls: &[CallInfo],
    events: &EventOptions,
    sender: &SenderOptions,
) -> Result<usize, ApiError> {
    let mut count = 0;
    for account in accounts(calls) {
        let of_account: Vec<_> = calls.iter().filter(|call| call.account_id == account).cloned().collect();
        let endpoints = state.endpoints().list(account);
        for endpoint in endpoints.into_iter().filter(|endpoint| endpoint.enabled) {
            let options = SenderOptions {
                timeout: Duration::from_millis(endpoint.timeout_ms),
                headers: endpoint.headers.clone(),
                ..sender.clone()
            };
            let deliveries = Delivery::of_calls(&of_account, events)
                .filter(|delivery| endpoint.event_types.contains(&delivery.kind))
                .collect();
            count += start_sending(state, endpoint.url, endpoint.secret, options, deliveries)?;
        }
    }
    Ok(count)
}

fn accounts(calls: &[CallInfo]) -> Vec<&str> {
    let mut accounts: Vec<_> = calls.iter().map(|call| call.account_id.as_str()).collect();
    accounts.sort_unstable();
    accounts.dedup();
    accounts
}

/// Sends in the background and returns the number of deliveries.
fn start_sending(
    state: &SimulatorState,
    url: Url,
    secret: impl Into<SigningSecret>,
    options: SenderOptions,
    deliveries: Vec<Delivery>,
) -> Result<usize, ApiError> {
    let sender = Sender::new(url, secret, options, state.clock().clone())
        .map_err(|_| ApiError::from_status(StatusCode::INTERNAL_SERVER_ERROR))?;
    let (count, run_state) = (deliveries.len(), state.clone());
    state.tasks().spawn(async move {
        let run = run_state.run_sender(&sender, stream::iter(deliveries));
        drop(run_state.shutdown().run_until_cancelled(run).await);
    });
    Ok(count)
}
