//! What every request passes before its handler: the door, the key, the rate, and what goes wrong.

use std::{convert::Infallible, io, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    extract::{FromRequestParts, RawPathParams, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION},
    request::Parts,
};
use tokio_util::sync::CancellationToken;

use super::{
    audio,
    errors::ApiError,
    faults::{FaultAction, Operation, Plan, RetryAfter},
    state::{Activity, SimulatorState},
};

/// A route's operation, and the state to look things up in.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) state: SimulatorState,
    pub(crate) operation: Operation,
}

/// The project (by position) that a request was let in for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Admitted(pub(crate) usize);

impl<S: Sync> FromRequestParts<S> for Admitted {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        // The gate puts it there; without one, no call belongs to the project.
        Ok(parts.extensions.get().copied().unwrap_or(Self(usize::MAX)))
    }
}

/// Cuts the connection a request came on.
#[derive(Clone, Debug)]
pub(crate) struct Cutter(pub(crate) CancellationToken);

pub(crate) async fn gate(
    State(gate): State<Gate>,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let Gate { state, operation } = gate;
    let param = |name| params.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned());
    let id = param("id");
    let response =
        pass(&state, operation, param("account"), param("project"), id.as_deref(), request, next).await;
    let status = response.status().as_u16();
    state.count(operation, status);
    if status >= 400 {
        state.tell(Activity::ErrorServed { operation, id, status });
    }
    response
}

async fn pass(
    state: &SimulatorState,
    operation: Operation,
    account: Option<String>,
    project: Option<String>,
    id: Option<&str>,
    mut request: Request,
    next: Next,
) -> Response {
    let cutter = request.extensions().get::<Cutter>().cloned();
    let project = match enter(state, operation, account.as_deref(), project.as_deref(), request.headers()) {
        Ok(project) => project,
        Err(refusal) => return refusal.into_response(),
    };
    let plan = state.strike(operation, id.filter(|_| !operation.is_webhooks()), project);
    tokio::time::sleep(plan.delay).await;
    if let Some(answer) = plan.answer.as_ref().and_then(|action| instead(state, action)) {
        return answer;
    }
    if plan.answer == Some(FaultAction::HangUp) {
        return cut(cutter).await;
    }
    request.extensions_mut().insert(Admitted(project));
    let response = next.run(request).await;
    if response.status().is_success() { damage(response, &plan, cutter) } else { response }
}

fn enter(
    state: &SimulatorState,
    operation: Operation,
    account: Option<&str>,
    project: Option<&str>,
    headers: &HeaderMap,
) -> Result<usize, ApiError> {
    let served = state.served();
    let open = match operation {
        Operation::V3List => served.v3_list,
        Operation::V3Conversation => served.v3_by_id,
        Operation::V3Audio => served.v3_audio,
        Operation::DataList | Operation::DataConversation | Operation::DataAudio => served.data_api,
        Operation::QuickstartCreate => served.quickstart_endpoints,
        Operation::QuickstartManage => served.quickstart_endpoints && served.quickstart_management,
        _ => served.webhook_endpoints,
    };
    if !open {
        return Err(ApiError::no_route());
    }
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok());
    let project = state.admit(operation, account, project, key)?;
    state.spend(project).map_err(|wait| {
        let seconds = wait.as_secs_f64().ceil().max(1.0);
        ApiError::rate_limited(HeaderValue::from_str(&format!("{seconds:.0}")).ok())
    })?;
    Ok(project)
}

/// The answers that have nothing to do with what was asked for.
fn instead(state: &SimulatorState, action: &FaultAction) -> Option<Response> {
    let status = |code: u16| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let recording = |body: Bytes| ([(CONTENT_TYPE, "audio/wav")], body).into_response();
    Some(match action {
        FaultAction::Status(code) => ApiError::status(status(*code)).into_response(),
        FaultAction::StatusIn { status: code, envelope } => {
            ApiError::status(status(*code)).shaped(*envelope).into_response()
        }
        FaultAction::RateLimited(wait) => {
            let value = match wait {
                RetryAfter::Seconds(seconds) => HeaderValue::from_str(&seconds.to_string()).ok(),
                RetryAfter::Date(seconds) => {
                    let ahead = i64::try_from(*seconds).unwrap_or(i64::MAX);
                    let at = state.now().checked_add(jiff::SignedDuration::from_secs(ahead)).ok()?;
                    HeaderValue::from_str(&httpdate::fmt_http_date(at.into())).ok()
                }
                RetryAfter::Absent => None,
            };
            ApiError::rate_limited(value).into_response()
        }
        FaultAction::Empty => recording(Bytes::new()),
        FaultAction::HeaderOnly => recording(audio::header(1, 0)),
        FaultAction::Html => recording(Bytes::from_static(
            b"<!doctype html><html><head><title>Sign in</title></head><body>Please sign in.</body></html>\n",
        )),
        FaultAction::Json => {
            ([(CONTENT_TYPE, "application/json")], r#"{"status":"processing","url":null}"#).into_response()
        }
        FaultAction::Redirect(to) => {
            let to = HeaderValue::from_str(to).ok()?;
            (StatusCode::FOUND, [(LOCATION, to)]).into_response()
        }
        FaultAction::Delay(_)
        | FaultAction::Drip { .. }
        | FaultAction::Truncate(_)
        | FaultAction::Cut(_)
        | FaultAction::Reset(_)
        | FaultAction::HangUp => return None,
    })
}

/// Never answers; the connection goes away under the request.
async fn cut(cutter: Option<Cutter>) -> Response {
    if let Some(Cutter(token)) = cutter {
        token.cancel();
        std::future::pending::<()>().await;
    }
    ApiError::status(StatusCode::INTERNAL_SERVER_ERROR).into_response()
}

/// How a body ends early.
#[derive(Debug)]
enum Ending {
    /// As the header says.
    Honest,
    /// The connection is closed before all is sent.
    Short,
    /// The connection is reset.
    Reset(Option<Cutter>),
}

/// A body on its way out, damaged or slowed down.
struct Damaged {
    body: BodyDataStream,
    piece: Bytes,
    left: u64,
    ending: Ending,
    drip: Option<(usize, Duration)>,
    over: bool,
}

fn damage(mut response: Response, plan: &Plan, cutter: Option<Cutter>) -> Response {
    let (left, ending) = match plan.answer {
        Some(FaultAction::Truncate(bytes)) => (bytes, Ending::Short),
        Some(FaultAction::Cut(bytes)) => (bytes, Ending::Honest),
        Some(FaultAction::Reset(bytes)) => (bytes, Ending::Reset(cutter)),
        _ if plan.drip.is_some() => (u64::MAX, Ending::Honest),
        _ => return response,
    };
    if let (Some(FaultAction::Cut(bytes)), Some(length)) = (&plan.answer, length(response.headers())) {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length.min(*bytes)));
    }
    let (parts, body) = response.into_parts();
    let state = Damaged {
        body: body.into_data_stream(),
        piece: Bytes::new(),
        left,
        ending,
        drip: plan.drip,
        over: false,
    };
    Response::from_parts(parts, Body::from_stream(stream::unfold(state, Damaged::next)))
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

impl Damaged {
    async fn next(mut self) -> Option<(Result<Bytes, io::Error>, Self)> {
        if self.over {
            return None;
        }
        while self.piece.is_empty() && self.left > 0 {
            match self.body.next().await {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(error)) => return Some((Err(io::Error::other(error)), Self { over: true, ..self })),
                None => return None,
            }
        }
        if self.left == 0 {
            return self.end().await;
        }
        let mut size = self.piece.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if let Some((bytes, pause)) = self.drip {
            size = size.min(bytes);
            tokio::time::sleep(pause).await;
        }
        let piece = self.piece.split_to(size);
        self.left -= size as u64;
        Some((Ok(piece), self))
    }

    async fn end(self) -> Option<(Result<Bytes, io::Error>, Self)> {
        // Long enough for what was sent to be on the wire, so that it is the ending that is cut off.
        let flushed = Duration::from_millis(20);
        match &self.ending {
            Ending::Honest => return None,
            Ending::Short => tokio::time::sleep(flushed).await,
            Ending::Reset(cutter) => {
                tokio::time::sleep(flushed).await;
                if let Some(Cutter(token)) = cutter {
                    token.cancel();
                }
            }
        }
        Some((Err(io::Error::other("cut off on purpose")), Self { over: true, ..self }))
    }
}
