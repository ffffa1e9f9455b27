//! The registered webhook endpoints, their validation and their secrets.

use std::collections::BTreeMap;

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use url::Url;

use crate::{error::ApiError, random::token, scenario::WebhookRules, sender::SigningSecret};

/// A registered endpoint. It serialises to the answer of a `GET`, which does not contain the secret.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Endpoint {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) url: Url,
    pub(crate) enabled: bool,
    pub(crate) event_types: Vec<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) timeout_ms: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    #[serde(skip)]
    pub(crate) account: String,
    #[serde(skip)]
    pub(crate) secret: SigningSecret,
    #[serde(skip)]
    sequence: u64,
}

/// The endpoints of all accounts.
#[derive(Debug)]
pub(crate) struct EndpointStore {
    seed: u64,
    /// The number of secrets created so far.
    created: u64,
    by_id: BTreeMap<String, Endpoint>,
}

/// The valid attributes of an endpoint in a request.
#[derive(Debug, Default)]
pub(crate) struct EndpointAttributes {
    pub(crate) name: Option<String>,
    pub(crate) url: Option<Url>,
    pub(crate) event_types: Option<Vec<String>>,
    pub(crate) headers: Option<BTreeMap<String, String>>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) enabled: Option<bool>,
}

pub(crate) fn invalid(field: &str, message: &str) -> ApiError {
    ApiError::validation(StatusCode::UNPROCESSABLE_ENTITY, "WEBHOOKS_VALIDATION_FAILED", field, message)
}

impl EndpointAttributes {
    /// Reads a body of the reference. Other fields are errors.
    pub(crate) fn read(body: &Value, rules: &WebhookRules) -> Result<Self, ApiError> {
        let fields = body.as_object().ok_or_else(|| invalid("body", "must be an object"))?;
        let mut attributes = Self::default();
        for (field, value) in fields {
            match field.as_str() {
                "name" => attributes.name = Some(text(field, value, 255)?),
                "url" => attributes.url = Some(url(field, value)?),
                "event_types" => attributes.event_types = Some(event_types(field, value, rules)?),
                "headers" => attributes.headers = Some(headers(field, value)?),
                "timeout_ms" => {
                    let ms = value.as_u64().filter(|ms| (1_000..=30_000).contains(ms));
                    attributes.timeout_ms =
                        Some(ms.ok_or_else(|| invalid(field, "must be a number from 1000 to 30000"))?);
                }
                "enabled" => {
                    attributes.enabled =
                        Some(value.as_bool().ok_or_else(|| invalid(field, "must be true or false"))?);
                }
                _ => return Err(invalid(field, "is not a known field")),
            }
        }
        Ok(attributes)
    }

    /// Reads a body of the quickstart: `{url, description, events}`. Other fields are errors.
    pub(crate) fn read_quickstart(body: &Value, rules: &WebhookRules) -> Result<Self, ApiError> {
        let fields = body.as_object().ok_or_else(|| invalid("body", "must be an object"))?;
        let mut attributes = Self::default();
        for (field, value) in fields {
            match field.as_str() {
                "url" => attributes.url = Some(url(field, value)?),
                "description" => attributes.name = Some(text(field, value, 255)?),
                "events" => attributes.event_types = Some(event_types(field, value, rules)?),
                _ => return Err(invalid(field, "is not a known field")),
            }
        }
        Ok(attributes)
    }
}

fn text(field: &str, value: &Value, max: usize) -> Result<String, ApiError> {
    value
        .as_str()
        .filter(|text| (1..=max).contains(&text.chars().count()))
        .map(str::to_owned)
        .ok_or_else(|| invalid(field, &format!("must be a string of 1 to {max} characters")))
}

/// Returns the URL. It must be `https`, or `http` to this machine, where a receiver needs no certificate.
fn url(field: &str, value: &Value) -> Result<Url, ApiError> {
    let url = value
        .as_str()
        .and_then(|text| Url::parse(text).ok())
        .ok_or_else(|| invalid(field, "must be a URL"))?;
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if loopback => Ok(url),
        _ => Err(invalid(field, "must start with https://")),
    }
}

fn event_types(field: &str, value: &Value, rules: &WebhookRules) -> Result<Vec<String>, ApiError> {
    let names: Option<Vec<_>> =
        value.as_array().and_then(|list| list.iter().map(|name| name.as_str().map(str::to_owned)).collect());
    let names = names
        .filter(|names| !names.is_empty())
        .ok_or_else(|| invalid(field, "must name at least one event"))?;
    match names.iter().find(|name| !rules.event_types.contains(name)) {
        Some(_) => Err(invalid(field, &format!("must be among {}", rules.event_types.join(", ")))),
        None => Ok(names),
    }
}

fn headers(field: &str, value: &Value) -> Result<BTreeMap<String, String>, ApiError> {
    let wrong = || invalid(field, "must be an object of header names and strings");
    let fields = value.as_object().ok_or_else(wrong)?;
    fields
        .iter()
        .map(|(name, value)| {
            let value = value.as_str().filter(|value| http::HeaderValue::from_str(value).is_ok());
            let name_ok = http::HeaderName::from_bytes(name.as_bytes()).is_ok();
            value.filter(|_| name_ok).map(|value| (name.clone(), value.to_owned())).ok_or_else(wrong)
        })
        .collect()
}

impl EndpointStore {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, created: 0, by_id: BTreeMap::new() }
    }

    fn new_secret(&mut self) -> String {
        self.created += 1;
        format!("whsec_{}", token(self.seed, &format!("endpoint secret {}", self.created), 32))
    }

    pub(crate) fn create(
        &mut self,
        account: &str,
        attributes: EndpointAttributes,
        limit: usize,
        now: Timestamp,
    ) -> Result<Endpoint, ApiError> {
        let required = |field| invalid(field, "is required");
        let name = attributes.name.ok_or_else(|| required("name"))?;
        let url = attributes.url.ok_or_else(|| required("url"))?;
        let event_types = attributes.event_types.ok_or_else(|| required("event_types"))?;
        if self.of_account(account).count() >= limit {
            let message = format!("An account can have {limit} webhook endpoints.");
            return Err(ApiError::new(StatusCode::CONFLICT, "WEBHOOKS_ENDPOINT_LIMIT_REACHED", message));
        }
        let secret = self.new_secret();
        let endpoint = Endpoint {
            id: format!("whe_{}", token(self.seed, &format!("endpoint {}", self.created), 22)),
            name,
            url,
            enabled: attributes.enabled.unwrap_or(true),
            event_types,
            headers: attributes.headers.unwrap_or_default(),
            timeout_ms: attributes.timeout_ms.unwrap_or(5_000),
            created_at: now,
            updated_at: now,
            account: account.to_owned(),
            secret: secret.into(),
            sequence: self.created,
        };
        self.by_id.insert(endpoint.id.clone(), endpoint.clone());
        Ok(endpoint)
    }

    /// The endpoints of an account, in no particular order.
    fn of_account(&self, account: &str) -> impl Iterator<Item = &Endpoint> {
        self.by_id.values().filter(move |endpoint| endpoint.account == account)
    }

    /// Returns the endpoints of an account, oldest first.
    pub(crate) fn list(&self, account: &str) -> Vec<Endpoint> {
        let mut all: Vec<_> = self.of_account(account).cloned().collect();
        all.sort_by_key(|endpoint| endpoint.sequence);
        all
    }

    pub(crate) fn get_mut(&mut self, account: &str, id: &str) -> Result<&mut Endpoint, ApiError> {
        let malformed = !id
            .strip_prefix("whe_")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if malformed {
            return Err(invalid("endpoint_id", "must be a prefixed id"));
        }
        self.by_id.get_mut(id).filter(|endpoint| endpoint.account == account).ok_or_else(|| {
            ApiError::new(
                StatusCode::NOT_FOUND,
                "WEBHOOKS_ENDPOINT_NOT_FOUND",
                "There is no such webhook endpoint.",
            )
        })
    }

    pub(crate) fn update(
        &mut self,
        account: &str,
        id: &str,
        attributes: EndpointAttributes,
        now: Timestamp,
    ) -> Result<Endpoint, ApiError> {
        let endpoint = self.get_mut(account, id)?;
        let EndpointAttributes { name, url, event_types, headers, timeout_ms, enabled } = attributes;
        endpoint.name = name.unwrap_or_else(|| endpoint.name.clone());
        endpoint.url = url.unwrap_or_else(|| endpoint.url.clone());
        endpoint.event_types = event_types.unwrap_or_else(|| endpoint.event_types.clone());
        endpoint.headers = headers.unwrap_or_else(|| endpoint.headers.clone());
        endpoint.timeout_ms = timeout_ms.unwrap_or(endpoint.timeout_ms);
        endpoint.enabled = enabled.unwrap_or(endpoint.enabled);
        endpoint.updated_at = now;
        Ok(endpoint.clone())
    }

    /// Replaces the secret of an endpoint. The old secret becomes invalid at once.
    pub(crate) fn rotate_secret(
        &mut self,
        account: &str,
        id: &str,
        now: Timestamp,
    ) -> Result<String, ApiError> {
        let secret = self.new_secret();
        let endpoint = self.get_mut(account, id)?;
        endpoint.secret.set(secret.clone());
        endpoint.updated_at = now;
        Ok(secret)
    }

    pub(crate) fn delete(&mut self, account: &str, id: &str) -> Result<(), ApiError> {
        self.get_mut(account, id)?;
        self.by_id.remove(id);
        Ok(())
    }
}
