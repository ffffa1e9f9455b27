//! The possible results of a request, each with its HTTP response and its metric label.

use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, Version, header};
use http_body_util::Full;

use super::{bearer::TokenError, trigger::TriggerError};
use crate::{queue::QueueError, signature::SignatureError};

/// PolyAI ignores `Retry-After` and follows its own schedule. The header is for proxies and load generators.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// The result of a request to the public listener.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The delivery is durable, and it is new.
    Accepted,
    /// The same delivery was already durable.
    Duplicate,
    /// The signature does not prove that PolyAI sent the delivery.
    Unverified(SignatureError),
    /// The bearer token does not prove that the sender may use the trigger.
    Unauthorized(TokenError),
    /// The body of a request to the trigger names no conversation.
    NoConversation(TriggerError),
    /// No active secret matches, but a new secret may: PolyAI should send the delivery again.
    UnverifiedRetry(SignatureError),
    /// The body is larger than `server.body_limit`.
    TooLarge,
    /// The body did not arrive in time.
    SlowBody,
    /// The sender closed the connection before the end of the body.
    BrokenBody,
    /// Too many deliveries, or too many bytes of bodies, are in flight.
    Overloaded,
    /// The queue could not make the delivery durable.
    NotDurable(QueueError),
    /// The ack budget ran out.
    Late,
    /// The handler panicked.
    Panicked,
    /// The path is neither `server.path` nor `trigger.path`.
    NotFound,
    /// The method is not POST.
    MethodNotAllowed,
}

impl Outcome {
    /// Returns the metric label.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Unverified(_) | Self::Unauthorized(_) => "unverified",
            Self::NoConversation(_) => "no_conversation",
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

    /// Returns the HTTP status. polyhook's own failures are 503, because PolyAI retries 503 and drops a delivery that
    /// was answered with most 4xx.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Accepted | Self::Duplicate => StatusCode::NO_CONTENT,
            Self::Unverified(_) | Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NoConversation(_) => StatusCode::BAD_REQUEST,
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

    /// Returns why the signature or the token was not accepted, if that is the reason: a label and a text.
    pub(super) fn refusal(&self) -> Option<(&'static str, &dyn fmt::Display)> {
        match self {
            Self::Unverified(error) | Self::UnverifiedRetry(error) => Some((error.label(), error)),
            Self::Unauthorized(error) => Some((error.label(), error)),
            _ => None,
        }
    }

    /// Returns why a delivery was not accepted, for an outcome that has no error of its own.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            Self::TooLarge => "its body is larger than server.body_limit",
            Self::SlowBody => "its body did not arrive in time",
            Self::BrokenBody => "its sender closed the connection before the end of the body",
            Self::Overloaded => "too many deliveries are in flight (server.max_in_flight)",
            Self::Late => "server.ack_budget ran out",
            Self::Panicked => "a bug in polyhook; please report it",
            other => other.label(),
        }
    }

    /// Builds the HTTP response to a request of HTTP version `version`. Without `keeps_connection` it says that the
    /// connection ends.
    pub(super) fn response(&self, version: Version, keeps_connection: bool) -> Response<Full<Bytes>> {
        let status = self.status();
        let body = match self {
            Self::NoConversation(error) => error.body(),
            _ => response_body(status),
        };
        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if status != StatusCode::NO_CONTENT {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if matches!(self, Self::Unauthorized(_)) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        // The rest of the body is not read, so the connection cannot be used again. Connection-specific headers do not
        // exist in HTTP/2 (RFC 9113, 8.2.2).
        let body_unread = matches!(self, Self::TooLarge | Self::SlowBody | Self::BrokenBody);
        if (body_unread || !keeps_connection) && version != Version::HTTP_2 {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Returns the body of a response with `status`. It depends on nothing else, so it tells an attacker nothing.
fn response_body(status: StatusCode) -> &'static str {
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

/// Returns true if a response with `status` and `body` comes from a receiver, not from a proxy in front of it.
pub fn is_receiver_answer(status: StatusCode, body: &[u8]) -> bool {
    !body.is_empty() && body == response_body(status).as_bytes()
}
