//! `/_simulator/`: driving the stand-in from outside, in JSON, for tests in any language.
//!
//! It needs no key and tells the stand-in's own (made up) credentials: the stand-in is for one's own
//! machine.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /_simulator/` | identifiers, key, signing secret |
//! | `GET /_simulator/calls` | all calls as they stand |
//! | `POST /_simulator/calls` | adds a call, or `{"count": n}` of them; answers with them |
//! | `PUT /_simulator/calls/{id}/script` | what is special about a call |
//! | `POST /_simulator/faults` | `{"fault": …, "project_id": …}` |
//! | `DELETE /_simulator/faults` | ends all faults |
//! | `PUT /_simulator/api-key` | `{"api_key": …, "project_id": …}`: the old key opens nothing any more |
//! | `PUT /_simulator/served` | which doors are open |
//! | `GET`, `DELETE /_simulator/requests` | requests per operation and status; starts counting again |
//! | `POST /_simulator/deliver` | sends events of calls to a URL, or to the registered endpoints |
//! | `GET /_simulator/deliveries` | the deliveries that came to their end |

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

use super::{
    calls::{CallInfo, NewCall},
    delivery::{Delivery, EventOptions},
    errors::ApiError,
    faults::Fault,
    scenario::{CallScript, ServedApis},
    sender::{Sender, SenderOptions, SigningSecret},
    state::SimulatorState,
};

pub(crate) fn router() -> Router<SimulatorState> {
    Router::new()
        .route("/_simulator/", get(about))
        .route("/_simulator/calls", get(calls).post(add))
        .route("/_simulator/calls/{id}/script", put(script))
        .route("/_simulator/faults", post(fault).delete(clear))
        .route("/_simulator/api-key", put(rotate_api_key))
        .route("/_simulator/served", put(serve))
        .route("/_simulator/requests", get(requests).delete(reset))
        .route("/_simulator/deliver", post(deliver))
        .route("/_simulator/deliveries", get(deliveries))
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        ApiError::validation(StatusCode::BAD_REQUEST, "SIMULATOR_BODY", "body", &error.to_string())
    })
}

async fn about(State(state): State<SimulatorState>) -> Response {
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
    Json(json!({ "signing_secret": state.secret(), "projects": projects })).into_response()
}

async fn calls(State(state): State<SimulatorState>) -> Response {
    Json(json!({ "calls": state.calls() })).into_response()
}

/// Calls that one request may add; each of them stays in memory.
const MOST_CALLS: u64 = 100_000;

/// One call, or `count` alike.
async fn add(State(state): State<SimulatorState>, body: Bytes) -> Result<Response, ApiError> {
    let mut fields: serde_json::Map<String, serde_json::Value> = read(&body)?;
    let count =
        fields.remove("count").map_or(Some(1), |count| count.as_u64().filter(|count| *count <= MOST_CALLS));
    let count =
        count.ok_or_else(|| ApiError::invalid("count", &format!("must be a number up to {MOST_CALLS}")))?;
    let call: NewCall = read(&Bytes::from(serde_json::Value::Object(fields).to_string()))?;
    let added: Option<Vec<_>> = (0..count).map(|_| state.add_call(&call)).collect();
    let added = added.ok_or_else(ApiError::unknown_project)?;
    Ok((StatusCode::CREATED, Json(json!({ "calls": added }))).into_response())
}

async fn script(
    State(state): State<SimulatorState>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<StatusCode, ApiError> {
    let script: CallScript = read(&body)?;
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

async fn fault(State(state): State<SimulatorState>, body: Bytes) -> Result<StatusCode, ApiError> {
    let AddFault { project_id, fault } = read(&body)?;
    if state.add_fault(project_id.as_deref(), fault) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::unknown_project())
    }
}

async fn clear(State(state): State<SimulatorState>) -> StatusCode {
    state.clear_faults();
    StatusCode::NO_CONTENT
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    project_id: Option<String>,
    api_key: String,
}

async fn rotate_api_key(State(state): State<SimulatorState>, body: Bytes) -> Result<StatusCode, ApiError> {
    let NewKey { project_id, api_key } = read(&body)?;
    if state.set_api_key(project_id.as_deref(), api_key) {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(ApiError::unknown_project())
    }
}

async fn serve(State(state): State<SimulatorState>, body: Bytes) -> Result<StatusCode, ApiError> {
    let served: ServedApis = read(&body)?;
    state.set_served(served);
    Ok(StatusCode::NO_CONTENT)
}

async fn requests(State(state): State<SimulatorState>) -> Response {
    Json(state.request_counts()).into_response()
}

async fn reset(State(state): State<SimulatorState>) -> StatusCode {
    state.reset_request_counts();
    StatusCode::NO_CONTENT
}

async fn deliveries(State(state): State<SimulatorState>) -> Response {
    Json(json!({ "deliveries": state.deliveries() })).into_response()
}

/// What to send, and where.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Deliver {
    /// The receiver; every enabled endpoint that is registered for the event where absent.
    url: Option<Url>,
    /// Signs what goes to `url`; the stand-in's own where absent. Endpoints have their own.
    secret: Option<String>,
    /// All calls where absent.
    conversation_ids: Option<Vec<String>>,
    events: EventOptions,
    sender: SenderOptions,
}

/// Starts the sending and answers with how many deliveries there will be, copies aside.
async fn deliver(State(state): State<SimulatorState>, body: Bytes) -> Result<Response, ApiError> {
    let Deliver { url, secret, conversation_ids, events, sender } = read(&body)?;
    let calls: Vec<CallInfo> = match conversation_ids {
        Some(ids) => {
            let known: Option<_> = ids.iter().map(|id| state.call(id)).collect();
            known.ok_or_else(ApiError::unknown_conversation)?
        }
        None => state.calls(),
    };
    let all: Vec<_> = Delivery::of_calls(&calls, &events).collect();
    let mut count = 0;
    match url {
        Some(url) => {
            count += all.len();
            start(&state, url, secret.unwrap_or_else(|| state.secret().to_owned()), sender, all)?;
        }
        None => {
            for account in accounts(&calls) {
                let endpoints = state.endpoints().of(account);
                for endpoint in endpoints.into_iter().filter(|endpoint| endpoint.enabled) {
                    let options = SenderOptions {
                        timeout: std::time::Duration::from_millis(endpoint.timeout_ms),
                        headers: endpoint.headers.clone(),
                        ..sender.clone()
                    };
                    let of_account: Vec<_> =
                        calls.iter().filter(|call| call.account_id == account).cloned().collect();
                    let wanted: Vec<_> = Delivery::of_calls(&of_account, &events)
                        .filter(|delivery| endpoint.event_types.contains(&delivery.kind))
                        .collect();
                    count += wanted.len();
                    start(&state, endpoint.url, endpoint.secret, options, wanted)?;
                }
            }
        }
    }
    Ok((StatusCode::ACCEPTED, Json(json!({ "deliveries": count }))).into_response())
}

fn accounts(calls: &[CallInfo]) -> Vec<&str> {
    let mut accounts: Vec<_> = calls.iter().map(|call| call.account_id.as_str()).collect();
    accounts.sort_unstable();
    accounts.dedup();
    accounts
}

fn start(
    state: &SimulatorState,
    url: Url,
    secret: impl Into<SigningSecret>,
    options: SenderOptions,
    deliveries: Vec<Delivery>,
) -> Result<(), ApiError> {
    let sender = Sender::new(url, secret, options, state.clock().clone())
        .map_err(|_| ApiError::status(StatusCode::INTERNAL_SERVER_ERROR))?;
    let run_state = state.clone();
    state.tasks().spawn(async move {
        let run = run_state.run_sender(&sender, stream::iter(deliveries));
        drop(run_state.shutdown().run_until_cancelled(run).await);
    });
    Ok(())
}
