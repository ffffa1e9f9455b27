//! The Webhooks API: the endpoints PolyAI delivers to.
//!
//! Two families of paths are in use on the platform host: `/v1/webhook-endpoints` of the reference (August 2026)
//! and `/v1/webhooks/endpoints` of the quickstart (June 2026). [`WebhooksClient`] asks the first and, where the host
//! does not know that path, the second; it remembers what worked. Of the second only creating is documented;
//! the rest is asked for by analogy, and what is not there says so.
//!
//! Creating and rotating are not like other requests: the new secret is shown once, and a rotation makes the old
//! one worthless at once. Neither is ever tried twice, and an error says whether it can have happened
//! ([`WebhooksError::is_certain`]).

mod error;
mod shape;

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
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
    client::{read_some, read_whole},
    config::{ConfigError, PolyAiConfig, ProjectConfig},
    error::{ApiError, ErrorKind, correlation_id},
    http as client_policy,
    key::Key,
};
use crate::{clock::Clock, secret::Secret};

/// An account has ten endpoints at most.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// For one request, from its beginning to the last byte of its answer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The Webhooks API of one account.
#[derive(Debug)]
pub struct WebhooksClient {
    http: reqwest::Client,
    base: Url,
    key: HeaderValue,
    family: OnceLock<Family>,
    clock: Clock,
}

/// A new endpoint and its secret, which is shown only here.
#[derive(Debug)]
pub struct CreatedEndpoint {
    /// As PolyAI registered it.
    pub endpoint: Endpoint,
    /// Signs what is delivered to it.
    pub signing_secret: Secret,
}

/// One request, as it is in either family.
struct Request<'a> {
    method: Method,
    /// Below the family's path.
    below: String,
    query: Option<(&'a str, &'a str)>,
    wanted: Option<&'a EndpointSettings>,
}

impl Request<'_> {
    fn new(method: Method, below: String) -> Self {
        Self { method, below, query: None, wanted: None }
    }
}

impl WebhooksClient {
    /// The API of the account that `project` belongs to, with the project's Data API key where it has one. Asks
    /// nothing yet.
    pub fn new(config: &PolyAiConfig, project: &ProjectConfig, clock: Clock) -> Result<Self, ConfigError> {
        let key = project.data_api_key.as_ref().unwrap_or(&project.api_key);
        if key.is_empty() {
            return Err(ConfigError::NoKey(project.project_id.clone()));
        }
        let key = Key::new(key, None).ok_or_else(|| ConfigError::BadKey(project.project_id.clone()))?;
        let http = client_policy::client().map_err(|_| ConfigError::NoClient)?;
        let base = config.hosts(project.region)?.platform;
        Ok(Self { http, base, key: key.header(), family: OnceLock::new(), clock })
    }

    /// The account's endpoints.
    pub async fn list(&self) -> Result<Vec<Endpoint>, WebhooksError> {
        #[derive(Deserialize)]
        struct List {
            data: Vec<Endpoint>,
        }
        let data = self.ask::<List>(&Request::new(Method::GET, String::new())).await?.data;
        // An id goes into paths and into the file of secrets.
        if data.iter().all(Endpoint::has_an_id) { Ok(data) } else { Err(self.bad_answer()) }
    }

    /// Whether PolyAI announces events of this type. There is no list of them, but it refuses to filter by a type
    /// that it does not know. `None` where nobody can be asked.
    pub async fn announces(&self, event_type: &str) -> Result<Option<bool>, WebhooksError> {
        if self.family.get() != Some(&Family::Reference) {
            return Ok(None);
        }
        let mut request = Request::new(Method::GET, String::new());
        request.query = Some(("event_type", event_type));
        match self.ask::<Value>(&request).await {
            Ok(_) => Ok(Some(true)),
            Err(error) if error.is_invalid() => Ok(Some(false)),
            Err(error) => Err(error),
        }
    }

    /// Registers an endpoint. Its secret is shown only here, so it is given back whatever else the answer says.
    pub async fn create(&self, wanted: &EndpointSettings) -> Result<CreatedEndpoint, WebhooksError> {
        #[derive(Deserialize)]
        struct Shown {
            signing_secret: Secret,
        }
        let mut request = Request::new(Method::POST, String::new());
        request.wanted = Some(wanted);
        let answer = self.answer(&request).await.map_err(|error| error.without(wanted.secrets()))?;
        let Shown { signing_secret } = self.read(&answer)?;
        let mut endpoint: Endpoint = self.read(&answer).unwrap_or_default();
        if !endpoint.has_an_id() {
            "unknown".clone_into(&mut endpoint.id);
        }
        Ok(CreatedEndpoint { endpoint, signing_secret })
    }

    /// Changes what is wanted otherwise, and nothing else.
    pub async fn update(
        &self,
        endpoint: &Endpoint,
        wanted: &EndpointSettings,
    ) -> Result<Endpoint, WebhooksError> {
        let mut request = Request::new(Method::PATCH, format!("/{}", endpoint.id));
        request.wanted = Some(wanted);
        self.ask(&request).await.map_err(|error| error.without(wanted.secrets()))
    }

    /// Ends all deliveries to an endpoint, for good.
    pub async fn delete(&self, endpoint: &Endpoint) -> Result<(), WebhooksError> {
        self.answer(&Request::new(Method::DELETE, format!("/{}", endpoint.id))).await.map(drop)
    }

    /// Gives an endpoint another secret. The old one is worth nothing at once, and this one is shown only here.
    pub async fn rotate_secret(&self, endpoint: &Endpoint) -> Result<Secret, WebhooksError> {
        #[derive(Deserialize)]
        struct Rotated {
            signing_secret: Secret,
        }
        let request = Request::new(Method::POST, format!("/{}/rotate-secret", endpoint.id));
        self.ask::<Rotated>(&request).await.map(|rotated| rotated.signing_secret)
    }

    fn host(&self) -> &str {
        self.base.host_str().unwrap_or("no host")
    }

    fn bad_answer(&self) -> WebhooksError {
        ApiError::new(ErrorKind::BadAnswer, self.host()).into()
    }

    async fn ask<T: DeserializeOwned>(&self, request: &Request<'_>) -> Result<T, WebhooksError> {
        self.read(&self.answer(request).await?)
    }

    fn read<T: DeserializeOwned>(&self, answer: &Answer) -> Result<T, WebhooksError> {
        serde_json::from_slice(&answer.body).map_err(|_| {
            let Answer { correlation_id, status, .. } = answer.clone();
            let error = ApiError::new(ErrorKind::BadAnswer, self.host());
            ApiError { correlation_id, status: Some(status), ..error }.into()
        })
    }

    /// Asks the family that is known to be served, or finds it. A path that is not there has done nothing, so
    /// asking at the other one is no second try.
    async fn answer(&self, request: &Request<'_>) -> Result<Answer, WebhooksError> {
        if let Some(family) = self.family.get() {
            return self.answer_in(*family, request).await;
        }
        let first = match self.answer_in(Family::Reference, request).await {
            Err(error) if error.is_not_served() => error,
            answered => return self.remember(Family::Reference, answered),
        };
        match self.answer_in(Family::Quickstart, request).await {
            Err(error) if error.is_not_served() => Err(first),
            answered => self.remember(Family::Quickstart, answered),
        }
    }

    fn remember(
        &self,
        family: Family,
        answered: Result<Answer, WebhooksError>,
    ) -> Result<Answer, WebhooksError> {
        if answered.is_ok() {
            let _ = self.family.set(family);
        }
        answered
    }

    async fn answer_in(&self, family: Family, request: &Request<'_>) -> Result<Answer, WebhooksError> {
        let asked = tokio::time::timeout(TIMEOUT, self.exchange(family, request)).await;
        asked.unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Timeout, self.host()).into()))
    }

    async fn exchange(&self, family: Family, request: &Request<'_>) -> Result<Answer, WebhooksError> {
        let host = self.host();
        let beyond = request.wanted.map(EndpointSettings::beyond_quickstart).unwrap_or_default();
        if family == Family::Quickstart && !beyond.is_empty() {
            return Err(WebhooksError::beyond(host, beyond));
        }
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}{}", url.path().trim_end_matches('/'), family.path(), request.below));
        if let Some((name, value)) = request.query {
            url.query_pairs_mut().append_pair(name, value);
        }
        let mut asking = self.http.request(request.method.clone(), url).header("x-api-key", self.key.clone());
        asking = asking.header(ACCEPT, HeaderValue::from_static("application/json"));
        asking = match request.wanted {
            Some(wanted) => asking
                .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
                .body(wanted.body(family).to_string()),
            None if request.method == Method::POST => {
                asking.header(CONTENT_LENGTH, HeaderValue::from_static("0"))
            }
            None => asking,
        };
        let response = asking.send().await.map_err(|error| ApiError::transport(&error, host))?;
        let (status, headers) = (response.status(), response.headers().clone());
        if !status.is_success() {
            let body = read_some(response, MAX_ANSWER_BYTES).await;
            return Err(WebhooksError::answer(status, &headers, &body, self.clock.now(), host));
        }
        let (correlation_id, status) = (correlation_id(&headers), status.as_u16());
        match read_whole(response, MAX_ANSWER_BYTES, host).await {
            Ok(body) => Ok(Answer { body, correlation_id, status }),
            Err(error) => Err(ApiError { correlation_id, status: Some(status), ..error }.into()),
        }
    }
}

/// A success.
#[derive(Clone)]
struct Answer {
    body: Bytes,
    correlation_id: Option<String>,
    status: u16,
}
