//! A client for the Webhooks API, which manages the endpoints that PolyAI delivers to.
//!
//! The platform host may serve either of two families of paths: `/v1/webhook-endpoints` of the reference (August 2026)
//! and `/v1/webhooks/endpoints` of the quickstart (June 2026). [`WebhooksClient`] asks the first and, if the host does
//! not serve it, the second; if PolyAI itself (not a gateway) said so, it remembers that. Only creating is documented for
//! the second family. The other requests are derived by analogy; their errors say that the host does not serve them.
//!
//! Creating an endpoint and rotating its secret are special: PolyAI shows the new secret once, and a rotation invalidates
//! the old one at once. Neither request is ever sent twice, and an error states whether the request can have been carried
//! out ([`WebhooksError::is_certain`]).

mod error;
mod shape;

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use url::Url;

use self::shape::Family;
pub use self::{
    error::WebhooksError,
    shape::{Endpoint, EndpointSettings},
};
use super::{
    config::{ApiChoice, ConfigError, PolyAiConfig, ProjectConfig},
    correlation::CorrelationId,
    error::{ApiError, ErrorKind},
    http::{Answer, HttpClient},
    key::Key,
};
use crate::{clock::Clock, secret::Secret};

/// The largest answer. An account has at most ten endpoints.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// The longest time for one request, to the last byte of its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A client for the Webhooks API of one account.
#[derive(Debug)]
pub struct WebhooksClient {
    http: HttpClient,
    base: Url,
    key: HeaderValue,
    family: OnceLock<Family>,
    clock: Clock,
}

/// A new endpoint and its secret, which PolyAI does not show again.
#[derive(Debug)]
pub struct CreatedEndpoint {
    /// The endpoint as PolyAI registered it.
    pub endpoint: Endpoint,
    /// The secret that signs deliveries to it.
    pub signing_secret: Secret,
}

/// A request, independent of the family.
struct EndpointRequest<'a> {
    method: Method,
    /// The path below the one of the family.
    path: String,
    query: Option<(&'a str, &'a str)>,
    settings: Option<&'a EndpointSettings>,
}

impl EndpointRequest<'_> {
    fn new(method: Method, path: String) -> Self {
        Self { method, path, query: None, settings: None }
    }
}

impl WebhooksClient {
    /// Builds a client for the account of `project`, with the project's Data API key if it has one. Sends nothing yet.
    pub fn new(config: &PolyAiConfig, project: &ProjectConfig, clock: Clock) -> Result<Self, ConfigError> {
        let key = project.data_api_key.as_ref().unwrap_or(&project.api_key);
        if key.is_empty() {
            return Err(ConfigError::MissingKey(project.project_id.clone()));
        }
        let key = Key::new(key, None).ok_or_else(|| ConfigError::InvalidKey(project.project_id.clone()))?;
        let http = HttpClient::new(|builder| builder).map_err(|_| ConfigError::ClientSetup)?;
        // The Webhooks API is at the host of the Data API.
        let hosts = config.hosts(project.region, ApiChoice::Data)?;
        let base = hosts.platform.ok_or(ConfigError::NotHttpUrl("polyai.platform_url"))?;
        Ok(Self { http, base, key: key.header(), family: OnceLock::new(), clock })
    }

    /// Lists the endpoints of the account.
    pub async fn list(&self) -> Result<Vec<Endpoint>, WebhooksError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Endpoint>,
        }
        let data = self.request::<List>(&EndpointRequest::new(Method::GET, String::new())).await?.data;
        // The id becomes part of paths and of the secrets file.
        if data.iter().all(Endpoint::has_valid_id) { Ok(data) } else { Err(self.bad_answer()) }
    }

    /// Returns whether PolyAI sends events of this type. The API has no list of types, but it refuses to filter by an
    /// unknown one. Returns `None` if the host does not serve the reference's family, which alone can filter.
    pub async fn supports_event_type(&self, event_type: &str) -> Result<Option<bool>, WebhooksError> {
        if self.family.get() != Some(&Family::Reference) {
            return Ok(None);
        }
        let mut request = EndpointRequest::new(Method::GET, String::new());
        request.query = Some(("event_type", event_type));
        match self.request::<Value>(&request).await {
            Ok(_) => Ok(Some(true)),
            Err(error) if error.is_invalid() => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    /// Registers an endpoint. PolyAI shows its secret only in this answer, so the secret is returned even if the rest of
    /// the answer cannot be read.
    pub async fn create(&self, settings: &EndpointSettings) -> Result<CreatedEndpoint, WebhooksError> {
        #[derive(Deserialize)]
        struct SecretOnly {
            signing_secret: Secret,
        }
        let mut request = EndpointRequest::new(Method::POST, String::new());
        request.settings = Some(settings);
        let answer = self.send(&request).await.map_err(|error| error.without_secrets(settings.secrets()))?;
        let SecretOnly { signing_secret } = self.read(&answer)?;
        let mut endpoint: Endpoint = self.read(&answer).unwrap_or_default();
        if !endpoint.has_valid_id() {
            "unknown".clone_into(&mut endpoint.id);
        }
        Ok(CreatedEndpoint { endpoint, signing_secret })
    }

    /// Changes the settings that are given, and no others.
    pub async fn update(
        &self,
        endpoint: &Endpoint,
        settings: &EndpointSettings,
    ) -> Result<Endpoint, WebhooksError> {
        let mut request = EndpointRequest::new(Method::PATCH, format!("/{}", endpoint.id));
        request.settings = Some(settings);
        self.request(&request).await.map_err(|error| error.without_secrets(settings.secrets()))
    }

    /// Deletes an endpoint. PolyAI delivers nothing more to it.
    pub async fn delete(&self, endpoint: &Endpoint) -> Result<(), WebhooksError> {
        self.send(&EndpointRequest::new(Method::DELETE, format!("/{}", endpoint.id))).await.map(drop)
    }

    /// Replaces the secret of an endpoint. The old secret is invalid at once, and PolyAI shows the new one only in this
    /// answer.
    pub async fn rotate_secret(&self, endpoint: &Endpoint) -> Result<Secret, WebhooksError> {
        #[derive(Deserialize)]
        struct Rotated {
            signing_secret: Secret,
        }
        let request = EndpointRequest::new(Method::POST, format!("/{}/rotate-secret", endpoint.id));
        self.request::<Rotated>(&request).await.map(|rotated| rotated.signing_secret)
    }

    fn host(&self) -> &str {
        self.base.host_str().unwrap_or("no host")
    }

    fn bad_answer(&self) -> WebhooksError {
        ApiError::new(ErrorKind::BadAnswer, self.host()).into()
    }

    async fn request<T: DeserializeOwned>(&self, request: &EndpointRequest<'_>) -> Result<T, WebhooksError> {
        self.read(&self.send(request).await?)
    }

    fn read<T: DeserializeOwned>(&self, answer: &SuccessAnswer) -> Result<T, WebhooksError> {
        serde_json::from_slice(&answer.body).map_err(|_| {
            let SuccessAnswer { correlation_id, status, .. } = answer.clone();
            let error = ApiError::new(ErrorKind::BadAnswer, self.host());
            ApiError { correlation_id: Some(correlation_id), status: Some(status), ..error }.into()
        })
    }

    /// Sends a request to the family that the host serves, and finds out which one that is. A request to a path that is
    /// not served changes nothing, so sending it to the other family does not repeat it.
    async fn send(&self, request: &EndpointRequest<'_>) -> Result<SuccessAnswer, WebhooksError> {
        if let Some(family) = self.family.get() {
            return self.send_to(*family, request).await;
        }
        let first_error = match self.send_to(Family::Reference, request).await {
            Err(error) if error.is_not_served() => error,
            result => return self.remember(Family::Reference, result),
        };
        match self.send_to(Family::Quickstart, request).await {
            Err(error) if error.is_not_served() => Err(first_error),
            // A gateway's answer does not mean that the host serves the second family only.
            Err(error) if error.is_unsupported() && !first_error.is_polyais() => Err(first_error),
            result if first_error.is_polyais() => self.remember(Family::Quickstart, result),
            result => result,
        }
    }

    fn remember(
        &self,
        family: Family,
        result: Result<SuccessAnswer, WebhooksError>,
    ) -> Result<SuccessAnswer, WebhooksError> {
        if result.is_ok() {
            let _ = self.family.set(family);
        }
        result
    }

    async fn send_to(
        &self,
        family: Family,
        request: &EndpointRequest<'_>,
    ) -> Result<SuccessAnswer, WebhooksError> {
        let id = CorrelationId::new();
        let result = tokio::time::timeout(REQUEST_TIMEOUT, self.exchange(family, request, &id)).await;
        result.unwrap_or_else(|_| Err(id.complete(ApiError::new(ErrorKind::Timeout, self.host())).into()))
    }

    async fn exchange(
        &self,
        family: Family,
        request: &EndpointRequest<'_>,
        id: &CorrelationId,
    ) -> Result<SuccessAnswer, WebhooksError> {
        let host = self.host();
        let unsupported =
            request.settings.map(EndpointSettings::unsupported_by_quickstart).unwrap_or_default();
        if family == Family::Quickstart && !unsupported.is_empty() {
            return Err(WebhooksError::unsupported(host, unsupported));
        }
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}{}", url.path().trim_end_matches('/'), family.path(), request.path));
        if let Some((name, value)) = request.query {
            url.query_pairs_mut().append_pair(name, value);
        }
        let answer = self.answer(family, request, url, id).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let correlation_id = answer.correlation_id().to_owned();
        if !status.is_success() {
            let now = self.clock.now();
            if let Some(error) = answer.redirect_error(now) {
                return Err(error.into());
            }
            let body = answer.start(MAX_ANSWER_BYTES).await;
            let error = WebhooksError::from_answer(status, &headers, &body, now, host);
            return Err(error.with_correlation_id(correlation_id));
        }
        let status = status.as_u16();
        match answer.whole(MAX_ANSWER_BYTES).await {
            Ok(body) => Ok(SuccessAnswer { body, correlation_id, status }),
            Err(error) => {
                Err(ApiError { correlation_id: Some(correlation_id), status: Some(status), ..error }.into())
            }
        }
    }

    /// Sends a request. Only a GET follows redirects.
    async fn answer(
        &self,
        family: Family,
        request: &EndpointRequest<'_>,
        url: Url,
        id: &CorrelationId,
    ) -> Result<Answer, ApiError> {
        const ACCEPT: &str = "application/json";
        if request.method == Method::GET {
            return self.http.get(url, self.key.clone(), ACCEPT, id).await;
        }
        let builder = self.http.request(request.method.clone(), url, self.key.clone(), ACCEPT, id);
        let builder = match request.settings {
            Some(settings) => builder
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(settings.body(family).to_string()),
            None if request.method == Method::POST => {
                builder.header(CONTENT_LENGTH, HeaderValue::from_static("0"))
            }
            None => builder,
        };
        self.http.send(builder, self.host(), id).await
    }
}

/// An answer with a success status.
#[derive(Clone)]
struct SuccessAnswer {
    body: Bytes,
    correlation_id: String,
    status: u16,
}
