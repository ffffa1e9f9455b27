//! The Webhooks API: the endpoints PolyAI delivers to (reference of August 2026, `/v1/webhook-endpoints` on the
//! platform host).
//!
//! A rotation is not like other requests: the old secret is worth nothing from the moment PolyAI has done it, and
//! the new one is shown once. So an error says whether it can have happened ([`WebhooksError::is_certain`]).

use std::time::Duration;

use http::{
    HeaderValue, Method, StatusCode,
    header::{ACCEPT, CONTENT_LENGTH},
};
use serde::{Deserialize, de::DeserializeOwned};
use thiserror::Error;
use url::Url;

use super::{
    client::{read_some, read_whole},
    config::{ConfigError, PolyAiConfig, ProjectConfig},
    error::{ApiError, ErrorKind, correlation_id},
    http as client_policy,
    key::Key,
};
use crate::{clock::Clock, secret::Secret};

const PATH: &str = "/v1/webhook-endpoints";
/// An account has ten endpoints at most.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// For one request, from its beginning to the last byte of its answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The Webhooks API of one account.
#[derive(Debug)]
pub struct Webhooks {
    http: reqwest::Client,
    base: Url,
    key: HeaderValue,
    clock: Clock,
}

/// A registered endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Endpoint {
    /// `whe_…`
    pub id: String,
    /// As its creator named it.
    #[serde(default)]
    pub name: String,
    /// Where PolyAI delivers to.
    pub url: String,
}

/// A request to the Webhooks API that did not succeed.
#[derive(Clone, Debug, Error)]
#[error("{error}: {}{}", hint(error), correlation(error))]
pub struct WebhooksError {
    error: Described,
}

/// [`ApiError`] without what it says about conversations.
#[derive(Clone, Debug, Error)]
#[error("{}{}{}", .0.host, .0.status.map_or_else(|| " gave no answer".to_owned(), |status| format!(" answered {status}")), .0.code.as_deref().map(|code| format!(" {code}")).unwrap_or_default())]
struct Described(ApiError);

impl WebhooksError {
    /// Whether PolyAI has refused the request for certain, so that nothing was changed by it.
    pub fn is_certain(&self) -> bool {
        matches!(self.error.0.status, Some(status) if (400..500).contains(&status) && status != 408)
    }
}

fn hint(error: &Described) -> &'static str {
    match (error.0.status, error.0.kind) {
        (Some(401), _) => {
            "the API key is wrong, expired or of another region: put the right one into projects.data_api_key_file \
             (or api_key_file), and check polyai.region"
        }
        (Some(403), _) => "the API key may not manage webhook endpoints: ask PolyAI for one that may",
        (Some(404), _) => match error.0.code.as_deref() {
            Some("WEBHOOKS_ENDPOINT_NOT_FOUND") => "the key's account has no such endpoint",
            _ => "this host does not serve the Webhooks API: check polyai.platform_url and polyai.region",
        },
        (Some(409), _) => "it contradicts what PolyAI has; an account can have ten endpoints",
        (Some(422), _) => "PolyAI does not take the endpoint's id for one: it looks like whe_9ZtRcXw3",
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

fn correlation(error: &Described) -> String {
    let id = error.0.correlation_id.as_deref();
    id.map(|id| format!(" (PolyAI correlation id {id})")).unwrap_or_default()
}

impl Webhooks {
    /// The API of the account that `project` belongs to, with the project's Data API key where it has one. Asks
    /// nothing yet.
    pub fn new(config: &PolyAiConfig, project: &ProjectConfig, clock: Clock) -> Result<Self, ConfigError> {
        let key = project.data_api_key.as_ref().unwrap_or(&project.api_key);
        if key.is_empty() {
            return Err(ConfigError::NoKey(project.project_id.clone()));
        }
        let key = Key::new(key, None).ok_or_else(|| ConfigError::BadKey(project.project_id.clone()))?;
        let http =
            client_policy::client().map_err(|_| ConfigError::NotHttp("the HTTP client's proxy setting"))?;
        Ok(Self { http, base: config.hosts(project.region)?.platform, key: key.header(), clock })
    }

    /// The account's endpoints.
    pub async fn list(&self) -> Result<Vec<Endpoint>, WebhooksError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Endpoint>,
        }
        let data = self.ask::<List>(Method::GET, PATH).await?.data;
        // An id goes into paths and into the file of secrets.
        let is_one =
            |id: &str| id.len() < 128 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if data.iter().all(|endpoint| is_one(&endpoint.id)) {
            return Ok(data);
        }
        let host = self.base.host_str().unwrap_or("no host");
        Err(WebhooksError { error: Described(ApiError::new(ErrorKind::BadAnswer, host)) })
    }

    /// Gives an endpoint another secret. The old one is worth nothing at once, and this one is shown only here.
    pub async fn rotate_secret(&self, endpoint: &Endpoint) -> Result<Secret, WebhooksError> {
        #[derive(Deserialize)]
        struct Rotated {
            signing_secret: Secret,
        }
        let path = format!("{PATH}/{}/rotate-secret", endpoint.id);
        self.ask::<Rotated>(Method::POST, &path).await.map(|rotated| rotated.signing_secret)
    }

    async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, WebhooksError> {
        let host = self.base.host_str().unwrap_or("no host");
        let asked = tokio::time::timeout(TIMEOUT, self.exchange(method, path, host)).await;
        asked
            .unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Timeout, host)))
            .map_err(|error| WebhooksError { error: Described(error) })
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        host: &str,
    ) -> Result<T, ApiError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        let mut request = self.http.request(method.clone(), url).header("x-api-key", self.key.clone());
        request = request.header(ACCEPT, HeaderValue::from_static("application/json"));
        if method == Method::POST {
            request = request.header(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let response = request.send().await.map_err(|error| ApiError::transport(&error, host))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let answered = |error| ApiError {
            correlation_id: correlation_id(&headers),
            status: Some(status.as_u16()),
            ..error
        };
        if status != StatusCode::OK {
            let body = read_some(response, MAX_ANSWER_BYTES).await;
            return Err(ApiError::answer(status, &headers, &body, self.clock.now(), host));
        }
        let body = read_whole(response, MAX_ANSWER_BYTES, host).await.map_err(answered)?;
        serde_json::from_slice(&body).map_err(|_| answered(ApiError::new(ErrorKind::BadAnswer, host)))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn error(status: u16, body: &str) -> WebhooksError {
        let mut headers = HeaderMap::new();
        headers.insert("x-polyai-correlation-id", HeaderValue::from_static("c-1"));
        let (status, now) = (StatusCode::from_u16(status).unwrap(), jiff::Timestamp::UNIX_EPOCH);
        WebhooksError {
            error: Described(ApiError::answer(status, &headers, body.as_bytes(), now, "api.example")),
        }
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
    fn only_a_refusal_is_certain() {
        for (status, certain) in
            [(401, true), (404, true), (422, true), (429, true), (408, false), (500, false), (302, false)]
        {
            assert_eq!(error(status, "").is_certain(), certain, "{status}");
        }
        let network = ApiError::new(ErrorKind::Network, "api.example");
        assert!(!WebhooksError { error: Described(network) }.is_certain());
    }
}
