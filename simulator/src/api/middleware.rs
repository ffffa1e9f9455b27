//! The middleware of the simulated APIs: error envelope, open routes, API key, rate limit and faults.

use std::convert::Infallible;

use axum::{
    extract::{FromRequestParts, RawPathParams, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
    request::Parts,
};
use uuid::Uuid;

use super::damage::damage_body;
use crate::{
    audio,
    error::{ApiError, ErrorEnvelope},
    fault::{FaultAction, Operation, RetryAfter},
    server::ConnectionResetter,
    state::{Activity, SimulatorState},
};

/// The id on every response, which PolyAI's support asks for.
pub(crate) const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-polyai-correlation-id");

/// The operation of a route, and the simulator's state.
#[derive(Clone, Debug)]
pub(super) struct RouteContext {
    pub(super) state: SimulatorState,
    pub(super) operation: Operation,
}

/// The position of the project that the request's key gives access to.
#[derive(Clone, Copy, Debug)]
pub(super) struct AuthorizedProject(pub(super) usize);

impl<S: Sync> FromRequestParts<S> for AuthorizedProject {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // The route middleware inserts it. No call belongs to the project of a request without one.
        Ok(parts.extensions.get().copied().unwrap_or(Self(usize::MAX)))
    }
}

/// Gives every response a correlation id and every error its body.
pub(super) async fn error_envelope(
    State(envelope): State<ErrorEnvelope>,
    request: Request,
    next: Next,
) -> Response {
    let correlation_id = Uuid::new_v4().to_string();
    let mut response = next.run(request).await;
    let status = response.status();
    let error = response.extensions_mut().remove::<ApiError>().or_else(|| {
        // An error of axum: no route, a method that is not served, an unreadable body or a caught panic.
        (status.is_client_error() || status.is_server_error()).then(|| match status {
            StatusCode::NOT_FOUND => ApiError::no_route(),
            other => ApiError::from_status(other),
        })
    });
    if let Some(error) = error {
        response = error.render(&correlation_id, envelope);
    }
    let id = HeaderValue::from_str(&correlation_id).unwrap_or(HeaderValue::from_static("unknown"));
    response.headers_mut().insert(CORRELATION_HEADER, id);
    response
}

/// Authorizes the request, applies the faults, and counts the answer.
pub(super) async fn route_middleware(
    State(RouteContext { state, operation }): State<RouteContext>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let id = param(&params, "id").map(str::to_owned);
    let response = match authorize(&state, operation, &params, request.headers()) {
        Ok(project) => apply_faults(&state, operation, id.as_deref(), project, request, next).await,
        Err(error) => error.into_response(),
    };
    let status = response.status().as_u16();
    state.count_response(operation, status);
    if status >= 400 {
        state.publish(Activity::ErrorServed { operation, id, status });
    }
    response
}

fn param<'a>(params: &'a RawPathParams, name: &str) -> Option<&'a str> {
    params.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// Returns the project of a request whose route is open, whose key is valid and whose rate is within the limit.
fn authorize(
    state: &SimulatorState,
    operation: Operation,
    params: &RawPathParams,
    headers: &HeaderMap,
) -> Result<usize, ApiError> {
    let served = state.served();
    let open = match operation {
        Operation::V3List => served.v3_list,
        Operation::V3Conversation => served.v3_by_id,
        Operation::V3Audio => served.v3_audio,
        _ if operation.is_data_api() => served.data_api,
        Operation::QuickstartCreate => served.quickstart_endpoints,
        Operation::QuickstartManage => served.quickstart_endpoints && served.quickstart_management,
        _ => served.webhook_endpoints,
    };
    if !open {
        return Err(ApiError::no_route());
    }
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok());
    let project = state.authorize(operation, param(params, "account"), param(params, "project"), key)?;
    state.take_rate_token(project).map_err(|wait| {
        let seconds = wait.as_secs_f64().ceil().max(1.0);
        ApiError::rate_limited(HeaderValue::from_str(&format!("{seconds:.0}")).ok())
    })?;
    Ok(project)
}

async fn apply_faults(
    state: &SimulatorState,
    operation: Operation,
    id: Option<&str>,
    project: usize,
    mut request: Request,
    next: Next,
) -> Response {
    let resetter = request.extensions().get::<ConnectionResetter>().cloned();
    let plan = state.apply_faults(operation, id.filter(|_| !operation.is_webhooks()), project);
    tokio::time::sleep(plan.delay).await;
    if let Some(answer) = plan.answer.as_ref().and_then(|action| replacement(state, action)) {
        return answer;
    }
    if plan.answer == Some(FaultAction::HangUp) {
        return reset_connection(resetter).await;
    }
    request.extensions_mut().insert(AuthorizedProject(project));
    let response = next.run(request).await;
    if response.status().is_success() { damage_body(response, &plan, resetter) } else { response }
}

/// Returns the answer of a fault that replaces the handler's answer.
fn replacement(state: &SimulatorState, action: &FaultAction) -> Option<Response> {
    let error = |code: u16| {
        ApiError::from_status(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
    };
    let recording = |body: Bytes| ([(CONTENT_TYPE, "audio/wav")], body).into_response();
    Some(match action {
        FaultAction::Status(code) => error(*code).into_response(),
        FaultAction::StatusIn { status, envelope } => error(*status).with_envelope(*envelope).into_response(),
        FaultAction::RateLimited(wait) => ApiError::rate_limited(retry_after(state, *wait)).into_response(),
        FaultAction::Empty => recording(Bytes::new()),
        FaultAction::HeaderOnly => recording(audio::header(1, 0)),
        FaultAction::Html => recording(Bytes::from_static(
            b"<!doctype html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n",
        )),
        FaultAction::Json => {
            ([(CONTENT_TYPE, "application/json")], r#"{"status":"processing","url":null}"#).into_response()
        }
        FaultAction::Redirect(target) => {
            let target = HeaderValue::from_str(target).ok()?;
            (StatusCode::FOUND, [(LOCATION, target)]).into_response()
        }
        FaultAction::Delay(_)
        | FaultAction::Drip { .. }
        | FaultAction::Truncate(_)
        | FaultAction::Cut(_)
        | FaultAction::Reset(_)
        | FaultAction::HangUp => return None,
    })
}

fn retry_after(state: &SimulatorState, wait: RetryAfter) -> Option<HeaderValue> {
    match wait {
        RetryAfter::Seconds(seconds) => Some(HeaderValue::from(seconds)),
        RetryAfter::Date(seconds) => {
            let ahead = i64::try_from(seconds).unwrap_or(i64::MAX);
            let at = state.now().checked_add(jiff::SignedDuration::from_secs(ahead)).ok()?;
            HeaderValue::from_str(&httpdate::fmt_http_date(at.into())).ok()
        }
        RetryAfter::Absent => None,
    }
}

/// Resets the connection and never answers. Answers 500 if the request has no connection to reset.
async fn reset_connection(resetter: Option<ConnectionResetter>) -> Response {
    if let Some(resetter) = resetter {
        resetter.reset();
        std::future::pending::<()>().await;
    }
    ApiError::from_status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}
