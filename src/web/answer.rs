//! From outcome to answer: the one place that turns what happened into a status, a log line and a count.

use std::any::Any;

use axum::{
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use metrics::{counter, histogram};
use tokio::time::Instant;

use super::Receiver;
use crate::{event::Event, queue::QueueError, signature::SignatureError, telemetry::trace::Span};

/// PolyAI follows its own schedule; this is for proxies and load generators.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// What is left of the ack budget for writing the answer itself.
const ANSWER_MARGIN: std::time::Duration = std::time::Duration::from_millis(50);

/// How much of a conversation's id is logged. Genuine ones are far shorter; the body says how long this one is.
const LOGGED_ID_BYTES: usize = 128;

/// When a request came, and when its answer must be on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) started: Instant,
    pub(super) deadline: Instant,
}

/// How a delivery ended.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// Durable for the first time.
    Accepted,
    /// It already was durable.
    Duplicate,
    /// Not proved to be PolyAI's.
    Unverified(SignatureError),
    /// Not proved, but it may be after a secret rotation: PolyAI shall try again.
    UnverifiedRetry(SignatureError),
    /// The body is over the limit.
    TooLarge,
    /// The body did not arrive in time.
    SlowBody,
    /// The body ended early: the sender hung up.
    BrokenBody,
    /// Too many deliveries at once.
    Overloaded,
    /// The queue could not make it durable.
    NotDurable(QueueError),
    /// The ack budget ran out.
    Late,
    /// A bug of ours.
    Panicked,
    /// Not our path.
    NotFound,
    /// Not a POST.
    MethodNotAllowed,
}

/// What the log says of a genuine delivery.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) message_id: String,
    pub(super) event: Event,
    pub(super) body_bytes: usize,
    pub(super) trace_id: String,
    pub(super) span: Span,
}

impl About {
    /// What the span says of the end.
    fn end(&self, outcome: &Outcome) {
        self.span.set_attribute("polyhook.outcome", outcome.label());
        let status = outcome.status();
        self.span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.span.set_error(outcome.label());
        }
    }
}

impl Outcome {
    /// The metric label.
    fn label(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Unverified(_) => "unverified",
            Self::UnverifiedRetry(_) => "unverified_retry",
            Self::TooLarge => "too_large",
            Self::SlowBody => "slow_body",
            Self::BrokenBody => "broken_body",
            Self::Overloaded => "overloaded",
            Self::NotDurable(_) => "not_durable",
            Self::Late => "late",
            Self::Panicked => "panicked",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Accepted | Self::Duplicate => StatusCode::NO_CONTENT,
            Self::Unverified(_) => StatusCode::UNAUTHORIZED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::SlowBody | Self::BrokenBody => StatusCode::REQUEST_TIMEOUT,
            Self::UnverifiedRetry(_)
            | Self::Overloaded
            | Self::NotDurable(_)
            | Self::Late
            | Self::Panicked => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        }
    }

    /// All that a stranger learns.
    fn body(&self) -> &'static str {
        body(self.status())
    }

    /// One line a delivery. Neither the signature nor the body is in it.
    fn log(&self, about: Option<&About>, request_id: &str, elapsed_ms: u64) {
        let outcome = self.label();
        let status = self.status().as_u16();
        let Some(About { message_id, event, body_bytes, trace_id, .. }) = about else {
            match self {
                Self::Unverified(reason) | Self::UnverifiedRetry(reason) => {
                    tracing::warn!(
                        outcome,
                        status,
                        request.id = request_id,
                        reason = reason.label(),
                        elapsed_ms,
                        "delivery refused: {reason}"
                    );
                }
                Self::NotFound | Self::MethodNotAllowed => {
                    tracing::debug!(outcome, status, request.id = request_id, elapsed_ms, "not a delivery");
                }
                _ => {
                    tracing::warn!(
                        outcome,
                        status,
                        request.id = request_id,
                        elapsed_ms,
                        "delivery not taken"
                    );
                }
            }
            return;
        };
        let conversation = event.conversation_id.as_deref().unwrap_or_default();
        let conversation = &conversation[..conversation.floor_char_boundary(LOGGED_ID_BYTES)];
        // The same fields at another level; a macro's level is not a value.
        macro_rules! delivery {
            ($level:ident, $($rest:tt)*) => {
                tracing::$level!(
                    outcome, status, elapsed_ms, body_bytes, trace_id,
                    request.id = request_id,
                    event.id = message_id,
                    event.type = event.kind,
                    event.environment = event.environment,
                    conversation.id = conversation,
                    $($rest)*
                )
            };
        }
        match self {
            Self::Accepted | Self::Duplicate => delivery!(info, "delivery"),
            Self::NotDurable(error) => {
                delivery!(warn, %error, "delivery not taken; PolyAI will send it again");
            }
            _ => delivery!(warn, "delivery not taken; PolyAI will send it again"),
        }
    }
}

fn body(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NO_CONTENT => "",
        StatusCode::UNAUTHORIZED => "{\"error\":\"unauthorized\"}\n",
        StatusCode::PAYLOAD_TOO_LARGE => "{\"error\":\"payload too large\"}\n",
        StatusCode::REQUEST_TIMEOUT => "{\"error\":\"request timeout\"}\n",
        StatusCode::NOT_FOUND => "{\"error\":\"not found\"}\n",
        StatusCode::METHOD_NOT_ALLOWED => "{\"error\":\"method not allowed\"}\n",
        _ => "{\"error\":\"service unavailable\"}\n",
    }
}

/// Whether an answer with `status` and `body` is the receiver's, and not that of something before it.
pub fn is_receiver_answer(status: StatusCode, answer: &[u8]) -> bool {
    !answer.is_empty() && answer == body(status).as_bytes()
}

impl IntoResponse for Outcome {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        let status = self.status();
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        if matches!(self, Self::TooLarge | Self::SlowBody | Self::BrokenBody) {
            // The rest of the body is not worth reading.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Outermost: sets the deadline, answers in its stead when it passes, logs and counts once.
pub(super) async fn answer_in_time(
    State(receiver): State<Receiver>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let deadline = started + receiver.inner.ack_budget.saturating_sub(ANSWER_MARGIN);
    request.extensions_mut().insert(Timing { started, deadline });
    let http2 = request.version() == http::Version::HTTP_2;
    let request_id = request_id(request.headers());
    let mut response = tokio::time::timeout_at(deadline, next.run(request))
        .await
        .unwrap_or_else(|_| Outcome::Late.into_response());
    if http2 {
        // Connection-specific headers do not exist in HTTP/2 (RFC 9113, 8.2.2).
        response.headers_mut().remove(header::CONNECTION);
    }

    let elapsed = started.elapsed();
    let about = response.extensions_mut().remove::<About>();
    if let Some(outcome) = response.extensions_mut().remove::<Outcome>() {
        counter!("polyhook_deliveries_total", "outcome" => outcome.label()).increment(1);
        if let Outcome::Unverified(reason) | Outcome::UnverifiedRetry(reason) = &outcome {
            counter!("polyhook_unverified_total", "reason" => reason.label()).increment(1);
        }
        histogram!("polyhook_ack_seconds").record(elapsed.as_secs_f64());
        if let Some(about) = &about {
            about.end(&outcome);
        }
        outcome.log(about.as_ref(), &request_id, u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    }
    response
}

/// The ingress's `X-Request-Id`, if it is one that a log can carry, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").map(HeaderValue::as_bytes);
    given
        .filter(|id| (1..=128).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic))
        .and_then(|id| String::from_utf8(id.to_vec()).ok())
        .unwrap_or_else(|| uuid::Uuid::now_v7().to_string())
}

/// A panic in a handler: the delivery is not durable, so PolyAI shall try again.
pub(super) fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    Outcome::Panicked.into_response()
}

pub(super) async fn not_found() -> Outcome {
    Outcome::NotFound
}

pub(super) async fn method_not_allowed() -> Outcome {
    Outcome::MethodNotAllowed
}
