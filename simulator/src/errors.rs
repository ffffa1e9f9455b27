//! How the stand-in says no: PolyAI's two error envelopes and the correlation id on every response.
//!
//! A handler returns an [`ApiError`]; only [`envelope`] turns it into a body, because only there the
//! request's correlation id is known, and because whatever else goes wrong below (a path that no route
//! matches, a body axum cannot read, a panic) has to leave in the same form.

use axum::{
    Json,
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER};
use serde_json::json;
use uuid::Uuid;

use super::{scenario::ErrorEnvelope, state::SimulatorState};

/// On every response; to be quoted to PolyAI's support.
pub(crate) const CORRELATION_HEADER: HeaderName = HeaderName::from_static("x-polyai-correlation-id");

/// A refusal.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    fields: Vec<(String, String)>,
    retry_after: Option<HeaderValue>,
    /// Instead of the scenario's.
    envelope: Option<ErrorEnvelope>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), fields: Vec::new(), retry_after: None, envelope: None }
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "AUTH_USER_UNAUTHORIZED",
            "The API key is missing or not valid here.",
        )
    }

    pub(crate) fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "AUTH_USER_FORBIDDEN", "The API key has no access to this project.")
    }

    pub(crate) fn unknown_account() -> Self {
        Self::new(StatusCode::NOT_FOUND, "ACCOUNT_NOT_FOUND", "There is no such account.")
    }

    pub(crate) fn unknown_project() -> Self {
        Self::new(StatusCode::NOT_FOUND, "PROJECT_NOT_FOUND", "There is no such project.")
    }

    pub(crate) fn unknown_conversation() -> Self {
        Self::new(StatusCode::NOT_FOUND, "CONVERSATIONS_NOT_FOUND", "There is no such conversation.")
    }

    pub(crate) fn no_recording() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "CONVERSATIONS_RECORDING_NOT_FOUND",
            "There is no recording of this conversation.",
        )
    }

    /// A path that is not served: not the code of anything that could be there, and the other envelope.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Not Found").shaped(ErrorEnvelope::Message)
    }

    pub(crate) fn invalid(field: &str, message: &str) -> Self {
        Self::validation(StatusCode::BAD_REQUEST, "CONVERSATIONS_VALIDATION_FAILED", field, message)
    }

    pub(crate) fn validation(status: StatusCode, code: &'static str, field: &str, message: &str) -> Self {
        let mut error = Self::new(status, code, format!("{field}: {message}"));
        error.fields.push((field.to_owned(), message.to_owned()));
        error
    }

    pub(crate) fn rate_limited(retry_after: Option<HeaderValue>) -> Self {
        let mut error = Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT_EXCEEDED", "Too many requests.");
        error.retry_after = retry_after;
        error
    }

    pub(crate) fn status(status: StatusCode) -> Self {
        let message = status.canonical_reason().unwrap_or("Error");
        let code = if status.is_server_error() { "INTERNAL_ERROR" } else { "REQUEST_REFUSED" };
        Self::new(status, code, message)
    }

    pub(crate) fn shaped(mut self, envelope: ErrorEnvelope) -> Self {
        self.envelope = Some(envelope);
        self
    }

    fn render(self, correlation: &str, default: ErrorEnvelope) -> Response {
        let body = match self.envelope.unwrap_or(default) {
            ErrorEnvelope::Standard => json!({
                "success": false,
                "error": self.message,
                "error_id": correlation,
                "error_code": self.code,
                "error_message": self.message,
                "data": null,
            }),
            ErrorEnvelope::Message => {
                let errors: Vec<_> = self
                    .fields
                    .iter()
                    .map(|(field, message)| json!({ "field": field, "message": message }))
                    .collect();
                json!({ "message": self.message, "errors": errors })
            }
        };
        let mut response = (self.status, Json(body)).into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, wait);
        }
        response
    }
}

/// Only a note to [`envelope`], which writes the body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives every response its correlation id and every refusal its body.
pub(crate) async fn envelope(State(state): State<SimulatorState>, request: Request, next: Next) -> Response {
    let correlation = Uuid::new_v4().to_string();
    let mut response = next.run(request).await;
    let status = response.status();
    let refusal = response.extensions_mut().remove::<ApiError>().or_else(|| {
        // axum's own: no route, a method that is not served, a body that is no JSON, a caught panic.
        (status.is_client_error() || status.is_server_error()).then(|| match status {
            StatusCode::NOT_FOUND => ApiError::no_route(),
            other => ApiError::status(other),
        })
    });
    if let Some(error) = refusal {
        response = error.render(&correlation, state.scenario().envelope);
    }
    let id = HeaderValue::from_str(&correlation).unwrap_or(HeaderValue::from_static("unknown"));
    response.headers_mut().insert(CORRELATION_HEADER, id);
    response
}
