//! Errors of the Webhooks API.
//!
//! PolyAI shows a new secret once, in one answer. So an error states whether the request can have been carried out
//! ([`WebhooksError::is_certain`]).

use std::fmt;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use super::super::error::{ApiError, ErrorKind};
use crate::secret::Secret;

/// The longest message of PolyAI that is repeated.
const MAX_MESSAGE_CHARS: usize = 300;

/// A request to the Webhooks API that did not succeed.
#[derive(Clone, Debug)]
pub struct WebhooksError {
    error: Box<ApiError>,
    /// PolyAI's message about the values in the request.
    message: Option<String>,
    /// The settings that the served family has no fields for. If there are any, nothing was sent.
    unsupported: Vec<&'static str>,
}

impl WebhooksError {
    /// Returns whether the request has certainly changed nothing.
    pub fn is_certain(&self) -> bool {
        let ApiError { status, in_envelope, .. } = *self.error;
        // A gateway may answer with another status after it has passed the request on (499: the connection was closed).
        !self.unsupported.is_empty()
            || status.is_some_and(|status| {
                matches!(status, 400..=407 | 409..=431) || in_envelope && (432..500).contains(&status)
            })
    }

    /// Returns whether PolyAI itself sent the answer, not a gateway.
    pub(super) fn is_polyais(&self) -> bool {
        self.error.in_envelope
    }

    /// Returns whether nothing was sent, because the family has no fields for some settings.
    pub(super) fn is_unsupported(&self) -> bool {
        !self.unsupported.is_empty()
    }

    /// Returns whether the host does not serve the path.
    pub fn is_not_served(&self) -> bool {
        self.error.kind == ErrorKind::NotServed && self.unsupported.is_empty() && !self.is_unknown_endpoint()
    }

    /// Returns whether PolyAI rejected a value in the request.
    pub(super) fn is_invalid(&self) -> bool {
        self.error.in_envelope && matches!(self.error.status, Some(400 | 422))
    }

    /// The reference does not name the code, so every code with this ending counts.
    fn is_unknown_endpoint(&self) -> bool {
        self.error.code.as_deref().is_some_and(|code| code.ends_with("ENDPOINT_NOT_FOUND"))
    }

    /// Classifies an answer that is not a success.
    pub(super) fn from_answer(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
        host: &str,
    ) -> Self {
        let error = ApiError::from_answer(status, headers, body, now, host);
        // With another status the message is not about the values in the request.
        let message = matches!(status.as_u16(), 400 | 409 | 422).then(|| message_of(body)).flatten();
        Self { message, ..error.into() }
    }

    /// Sets the id of the request.
    pub(super) fn with_correlation_id(mut self, id: String) -> Self {
        self.error.correlation_id = Some(id);
        self
    }

    /// Creates the error for settings that the quickstart's family has no fields for. Nothing was sent.
    pub(super) fn unsupported(host: &str, unsupported: Vec<&'static str>) -> Self {
        Self { unsupported, ..ApiError::new(ErrorKind::NotServed, host).into() }
    }

    /// Removes a message that repeats one of `secrets`.
    pub(super) fn without_secrets<'a>(mut self, mut secrets: impl Iterator<Item = &'a Secret>) -> Self {
        self.message = self
            .message
            .take()
            .filter(|message| !secrets.any(|secret| message.contains(secret.expose().trim())));
        self
    }

    fn hint(&self) -> &'static str {
        match (self.error.status, self.error.kind) {
            (Some(401), _) => {
                "the API key is wrong, expired or revoked, or of another region: put the right one into \
                 projects.data_api_key_file (or api_key_file), and check polyai.region"
            }
            (Some(403), _) => "the API key may not manage webhook endpoints: ask PolyAI for one that may",
            (Some(404), _) if self.is_unknown_endpoint() => "the key's account has no such endpoint",
            (Some(404 | 405 | 410), _) => {
                "this host does not serve the Webhooks API, or not all of it: check polyai.platform_url and \
                 polyai.region, or use Agent Studio"
            }
            (Some(409), _) => {
                "it conflicts with an existing endpoint, or the account has ten endpoints, the maximum: `polyhook endpoint \
                 list` shows them, `polyhook endpoint delete` removes one"
            }
            (Some(400 | 422), _) => {
                "PolyAI does not accept one of the values. Usual reasons: an event type that it does not send \
                 (--event), an id that does not look like whe_9ZtRcXw3"
            }
            (Some(429), _) => "too many requests: try again in a minute",
            (_, ErrorKind::Network) => {
                "the host cannot be reached, or the connection broke: check DNS, proxy and firewall"
            }
            (_, ErrorKind::Timeout) => "it did not answer in time",
            (_, ErrorKind::Redirected) => {
                "the redirect was not followed to an answer, and the API key is not sent to other hosts: check \
                 polyai.platform_url"
            }
            (_, ErrorKind::BadAnswer | ErrorKind::TooLarge) => {
                "this is not PolyAI's answer; check for a proxy or a login page between here and PolyAI"
            }
            (_, ErrorKind::Unavailable) => "PolyAI's API is failing at the moment",
            _ => "PolyAI refused the request: quote the correlation id to their support",
        }
    }
}

impl From<ApiError> for WebhooksError {
    fn from(error: ApiError) -> Self {
        Self { error: Box::new(error), message: None, unsupported: Vec::new() }
    }
}

impl std::error::Error for WebhooksError {}

impl fmt::Display for WebhooksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ApiError { host, status, code, correlation_id, detail, .. } = &*self.error;
        if !self.unsupported.is_empty() {
            let unsupported = self.unsupported.join(", ");
            return write!(
                f,
                "{host} serves the quickstart's Webhooks API only, which does not support {unsupported}: leave them out, \
                 or set them in Agent Studio"
            );
        }
        match status {
            Some(status) => write!(f, "{host} answered {status}")?,
            None => write!(f, "{host} gave no answer")?,
        }
        if let Some(code) = code {
            write!(f, " {code}")?;
        }
        if let Some(message) = &self.message {
            write!(f, " (\u{201c}{message}\u{201d})")?;
        }
        write!(f, "{}: ", self.error.origin())?;
        if let Some(detail) = detail {
            write!(f, "{detail}; ")?;
        }
        f.write_str(self.hint())?;
        match correlation_id {
            Some(id) => write!(f, " (PolyAI correlation id {id})"),
            None => Ok(()),
        }
    }
}

/// Returns the message in either of PolyAI's envelopes, without control characters.
fn message_of(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Envelope {
        error_message: Option<String>,
        message: Option<String>,
        #[serde(default)]
        errors: Vec<Field>,
    }
    #[derive(Deserialize)]
    struct Field {
        field: String,
        message: String,
    }
    let Envelope { error_message, message, errors } = serde_json::from_slice(body).ok()?;
    let fields = errors.iter().map(|error| format!("{}: {}", error.field, error.message)).collect::<Vec<_>>();
    let text = if fields.is_empty() { error_message.or(message)? } else { fields.join(", ") };
    let text: String = text.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE_CHARS).collect();
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn error(status: u16, body: &str) -> WebhooksError {
        let mut headers = HeaderMap::new();
        headers.insert("x-polyai-correlation-id", HeaderValue::from_static("c-1"));
        let status = StatusCode::from_u16(status).unwrap();
        WebhooksError::from_answer(status, &headers, body.as_bytes(), Timestamp::UNIX_EPOCH, "api.example")
    }

    #[test]
    fn explains_status_fix_and_correlation_id() {
        let unknown =
            error(404, r#"{"success":false,"error_code":"WEBHOOKS_ENDPOINT_NOT_FOUND"}"#).to_string();
        assert_eq!(
            unknown,
            "api.example answered 404 WEBHOOKS_ENDPOINT_NOT_FOUND: the key's account has no such endpoint (PolyAI \
             correlation id c-1)"
        );
        for (status, word) in
            [(401, "region"), (403, "ask PolyAI"), (404, "platform_url"), (409, "ten"), (422, "whe_")]
        {
            let said = error(status, "").to_string();
            assert!(said.contains(word) && !said.contains("replay"), "{said}");
            assert!(said.contains("a gateway or a proxy may have sent it"), "{said}");
        }
    }

    #[test]
    fn repeats_polyais_message_but_no_secret() {
        let body = r#"{"success":false,"error_message":"url: must be \u001b[31mhttps"}"#;
        assert!(error(422, body).to_string().contains("(“url: must be [31mhttps”): "));
        assert!(!error(500, body).to_string().contains("https"));
        let fields =
            r#"{"message":"m","errors":[{"field":"headers.X-Key","message":"hunter2 is too short"}]}"#;
        assert!(error(400, fields).to_string().contains("headers.X-Key: hunter2"));
        let secret = Secret::new("hunter2");
        assert!(!error(400, fields).without_secrets([&secret].into_iter()).to_string().contains("hunter2"));
    }

    #[test]
    fn only_a_refusal_certainly_changed_nothing() {
        for (status, certain) in [
            (401, true),
            (404, true),
            (422, true),
            (429, true),
            (408, false),
            (499, false),
            (500, false),
            (302, false),
        ] {
            assert_eq!(error(status, "").is_certain(), certain, "{status}");
        }
        let network = WebhooksError::from(ApiError::new(ErrorKind::Network, "api.example"));
        assert!(!network.is_certain());
    }

    #[test]
    fn distinguishes_an_unknown_endpoint_from_an_unserved_path() {
        assert!(!error(404, r#"{"success":false,"error_code":"ENDPOINT_NOT_FOUND"}"#).is_not_served());
        for (status, body) in
            [(404, "<html>"), (404, r#"{"error_code":"ROUTE_NOT_FOUND"}"#), (405, ""), (410, "")]
        {
            assert!(error(status, body).is_not_served(), "{status} {body}");
        }
        assert!(!error(401, "").is_not_served());
    }
}
