//! What can go wrong with a request to the Webhooks API.
//!
//! A new secret is shown once, in one answer. So an error says whether the request can have been carried out
//! ([`WebhooksError::is_certain`]).

use std::fmt;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use super::super::error::{ApiError, ErrorKind};
use crate::secret::Secret;

/// Longer is no sentence any more.
const MAX_SAID_CHARS: usize = 300;

/// A request to the Webhooks API that did not succeed.
#[derive(Clone, Debug)]
pub struct WebhooksError {
    error: Box<ApiError>,
    /// PolyAI's own words about what we asked for.
    said: Option<String>,
    /// What this API cannot be asked for, and so was not.
    beyond: Vec<&'static str>,
}

impl WebhooksError {
    /// Whether PolyAI has refused the request for certain, so that nothing was changed by it.
    pub fn is_certain(&self) -> bool {
        !self.beyond.is_empty()
            || matches!(self.error.status, Some(status) if (400..500).contains(&status) && status != 408)
    }

    /// Whether the host does not know the path at all.
    pub fn is_not_served(&self) -> bool {
        self.error.kind == ErrorKind::NotServed && self.beyond.is_empty() && !self.is_unknown_endpoint()
    }

    /// Whether PolyAI does not take what was asked for as it is.
    pub(super) fn is_invalid(&self) -> bool {
        matches!(self.error.status, Some(400 | 422))
    }

    /// The reference does not name the code; the simulator's, and whatever else ends like this.
    fn is_unknown_endpoint(&self) -> bool {
        self.error.code.as_deref().is_some_and(|code| code.ends_with("ENDPOINT_NOT_FOUND"))
    }

    /// An answer that is no success.
    pub(super) fn answer(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
        host: &str,
    ) -> Self {
        let error = ApiError::answer(status, headers, body, now, host);
        // In other answers it is about PolyAI, not about what this request says.
        let said = matches!(status.as_u16(), 400 | 409 | 422).then(|| words(body)).flatten();
        Self { said, ..error.into() }
    }

    /// Not asked: the quickstart's family, which alone is served here, has no fields for this.
    pub(super) fn beyond(host: &str, beyond: Vec<&'static str>) -> Self {
        Self { beyond, ..ApiError::new(ErrorKind::NotServed, host).into() }
    }

    /// The same without words that repeat one of `secrets`.
    pub(super) fn without<'a>(mut self, mut secrets: impl Iterator<Item = &'a Secret>) -> Self {
        self.said =
            self.said.take().filter(|said| !secrets.any(|secret| said.contains(secret.expose().trim())));
        self
    }

    fn hint(&self) -> &'static str {
        match (self.error.status, self.error.kind) {
            (Some(401), _) => {
                "the API key is wrong, expired or of another region: put the right one into \
                 projects.data_api_key_file (or api_key_file), and check polyai.region"
            }
            (Some(403), _) => "the API key may not manage webhook endpoints: ask PolyAI for one that may",
            (Some(404), _) if self.is_unknown_endpoint() => "the key's account has no such endpoint",
            (Some(404 | 405 | 410), _) => {
                "this host does not serve the Webhooks API, or not all of it: check polyai.platform_url and \
                 polyai.region, or use Agent Studio"
            }
            (Some(409), _) => {
                "it contradicts what PolyAI has. An account can have ten endpoints: `polyhook endpoint list` shows \
                 them, `polyhook endpoint delete` makes room"
            }
            (Some(400 | 422), _) => {
                "PolyAI does not take one of the values as it is. The usual ones: an event type that it does not \
                 announce (--event), an id that does not look like whe_9ZtRcXw3"
            }
            (Some(429), _) => "too many requests: try again in a minute",
            (_, ErrorKind::Network) => {
                "the host cannot be reached, or the connection broke: check DNS, proxy and firewall"
            }
            (_, ErrorKind::Timeout) => "it takes too long",
            (_, ErrorKind::Redirected) => {
                "it redirects elsewhere, and a key is not sent elsewhere: check polyai.platform_url"
            }
            (_, ErrorKind::BadAnswer | ErrorKind::TooLarge) => {
                "this is not PolyAI's answer; a proxy or login page between here and PolyAI does that"
            }
            (_, ErrorKind::Unavailable) => "PolyAI's API has trouble of its own",
            _ => "PolyAI refused the request as such: quote the correlation id to their support",
        }
    }
}

impl From<ApiError> for WebhooksError {
    fn from(error: ApiError) -> Self {
        Self { error: Box::new(error), said: None, beyond: Vec::new() }
    }
}

impl std::error::Error for WebhooksError {}

impl fmt::Display for WebhooksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ApiError { host, status, code, correlation_id, .. } = &*self.error;
        if !self.beyond.is_empty() {
            let beyond = self.beyond.join(", ");
            return write!(
                f,
                "{host} serves the quickstart's Webhooks API only, which does not know {beyond}: leave them out, or set \
                 them in Agent Studio"
            );
        }
        match status {
            Some(status) => write!(f, "{host} answered {status}")?,
            None => write!(f, "{host} gave no answer")?,
        }
        if let Some(code) = code {
            write!(f, " {code}")?;
        }
        if let Some(said) = &self.said {
            write!(f, " (\u{201c}{said}\u{201d})")?;
        }
        write!(f, ": {}", self.hint())?;
        match correlation_id {
            Some(id) => write!(f, " (PolyAI correlation id {id})"),
            None => Ok(()),
        }
    }
}

/// The sentence in a refusal, in either of PolyAI's envelopes, as a terminal may show it.
fn words(body: &[u8]) -> Option<String> {
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
    let said = if fields.is_empty() { error_message.or(message)? } else { fields.join(", ") };
    let said: String = said.chars().filter(|c| !c.is_control()).take(MAX_SAID_CHARS).collect();
    Some(said.trim().to_owned()).filter(|said| !said.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn error(status: u16, body: &str) -> WebhooksError {
        let mut headers = HeaderMap::new();
        headers.insert("x-polyai-correlation-id", HeaderValue::from_static("c-1"));
        let status = StatusCode::from_u16(status).unwrap();
        WebhooksError::answer(status, &headers, body.as_bytes(), Timestamp::UNIX_EPOCH, "api.example")
    }

    #[test]
    fn says_what_happened_what_to_do_and_whom_to_ask() {
        let unknown = error(404, r#"{"error_code":"WEBHOOKS_ENDPOINT_NOT_FOUND"}"#).to_string();
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
        }
    }

    #[test]
    fn repeats_what_polyai_says_of_a_value_but_no_secret() {
        let body = r#"{"error_message":"url: must be \u001b[31mhttps"}"#;
        assert!(error(422, body).to_string().contains("(“url: must be [31mhttps”): "));
        assert!(!error(500, body).to_string().contains("https"));
        let fields =
            r#"{"message":"m","errors":[{"field":"headers.X-Key","message":"hunter2 is too short"}]}"#;
        assert!(error(400, fields).to_string().contains("headers.X-Key: hunter2"));
        let secret = Secret::new("hunter2");
        assert!(!error(400, fields).without([&secret].into_iter()).to_string().contains("hunter2"));
    }

    #[test]
    fn only_a_refusal_is_certain() {
        for (status, certain) in
            [(401, true), (404, true), (422, true), (429, true), (408, false), (500, false), (302, false)]
        {
            assert_eq!(error(status, "").is_certain(), certain, "{status}");
        }
        let network = WebhooksError::from(ApiError::new(ErrorKind::Network, "api.example"));
        assert!(!network.is_certain());
    }

    #[test]
    fn an_unknown_endpoint_is_not_an_unknown_path() {
        assert!(!error(404, r#"{"error_code":"ENDPOINT_NOT_FOUND"}"#).is_not_served());
        for (status, body) in
            [(404, "<html>"), (404, r#"{"error_code":"ROUTE_NOT_FOUND"}"#), (405, ""), (410, "")]
        {
            assert!(error(status, body).is_not_served(), "{status} {body}");
        }
        assert!(!error(401, "").is_not_served());
    }
}
