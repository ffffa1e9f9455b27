//! Errors of the simulated APIs, and PolyAI's two error envelopes.
//!
//! A handler returns an [`ApiError`]. The middleware of [`api`](crate::api) writes its body, because only the
//! middleware knows the request's correlation id.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The form of an error's body. PolyAI's services use two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorEnvelope {
    /// `{success, error, error_id, error_code, error_message, data}`
    Standard,
    /// `{message, errors: [{field, message}]}`
    Message,
}

/// An error response.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    fields: Vec<(String, String)>,
    retry_after: Option<HeaderValue>,
    /// Replaces the scenario's envelope.
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

    /// A path that is not served. It has none of the codes for a missing object, and always the message envelope.
    pub(crate) fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", "Not Found").with_envelope(ErrorEnvelope::Message)
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

    pub(crate) fn from_status(status: StatusCode) -> Self {
        let message = status.canonical_reason().unwrap_or("Error");
        let code = if status.is_server_error() { "INTERNAL_ERROR" } else { "REQUEST_REFUSED" };
        Self::new(status, code, message)
    }

    pub(crate) fn with_envelope(mut self, envelope: ErrorEnvelope) -> Self {
        self.envelope = Some(envelope);
        self
    }

    /// Writes the error as a response, in its own envelope or else in `default`.
    pub(crate) fn render(self, correlation_id: &str, default: ErrorEnvelope) -> Response {
        let body = match self.envelope.unwrap_or(default) {
            ErrorEnvelope::Standard => json!({
                "success": false,
                "error": self.message,
                "error_id": correlation_id,
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

/// Hands the error to the middleware, which writes the body. The response has the status and no body.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}
