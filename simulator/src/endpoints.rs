//! Webhook endpoints as the Webhooks API keeps them: what may be registered, and the secrets.

use std::collections::BTreeMap;

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use url::Url;

use super::{errors::ApiError, scenario::WebhookRules, sender::SigningSecret};

/// A registered endpoint. What it serialises to is what a `GET` answers; the secret is not part of it.
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
    born: u64,
}

/// All of them, of all accounts.
#[derive(Debug)]
pub(crate) struct Endpoints {
    seed: u64,
    made: u64,
    by_id: BTreeMap<String, Endpoint>,
}

/// What a body said of an endpoint, checked.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
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

impl Attributes {
    /// Reads a body of the reference's family, which takes no other field than these.
    pub(crate) fn read(body: &Value, rules: &WebhookRules) -> Result<Self, ApiError> {
        let fields = body.as_object().ok_or_else(|| invalid("body", "must be an object"))?;
        let mut read = Self::default();
        for (field, value) in fields {
            match field.as_str() {
                "name" => read.name = Some(text(field, value, 255)?),
                "url" => read.url = Some(url(field, value)?),
                "event_types" => read.event_types = Some(event_types(field, value, rules)?),
                "headers" => read.headers = Some(headers(field, value)?),
                "timeout_ms" => {
                    let ms = value.as_u64().filter(|ms| (1_000..=30_000).contains(ms));
                    read.timeout_ms =
                        Some(ms.ok_or_else(|| invalid(field, "must be a number from 1000 to 30000"))?);
                }
                "enabled" => {
                    read.enabled =
                        Some(value.as_bool().ok_or_else(|| invalid(field, "must be true or false"))?);
                }
                _ => return Err(invalid(field, "is not a known field")),
            }
        }
        Ok(read)
    }

    /// Reads a body of the quickstart's: `{url, description, events}`.
    pub(crate) fn read_quickstart(body: &Value, rules: &WebhookRules) -> Result<Self, ApiError> {
        let fields = body.as_object().ok_or_else(|| invalid("body", "must be an object"))?;
        let mut read = Self::default();
        for (field, value) in fields {
            match field.as_str() {
                "url" => read.url = Some(url(field, value)?),
                "description" => read.name = Some(text(field, value, 255)?),
                "events" => read.event_types = Some(event_types(field, value, rules)?),
                _ => return Err(invalid(field, "is not a known field")),
            }
        }
        Ok(read)
    }
}

fn text(field: &str, value: &Value, most: usize) -> Result<String, ApiError> {
    value
        .as_str()
        .filter(|text| (1..=most).contains(&text.chars().count()))
        .map(str::to_owned)
        .ok_or_else(|| invalid(field, &format!("must be a string of 1 to {most} characters")))
}

/// `https` only, but for this machine, so that a receiver can be tried without a certificate.
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

impl Endpoints {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed, made: 0, by_id: BTreeMap::new() }
    }

    fn secret(&mut self) -> String {
        self.made += 1;
        format!("whsec_{}", super::token(self.seed, &format!("endpoint secret {}", self.made), 32))
    }

    pub(crate) fn create(
        &mut self,
        account: &str,
        given: Attributes,
        limit: usize,
        now: Timestamp,
    ) -> Result<Endpoint, ApiError> {
        let required = |field| invalid(field, "is required");
        let name = given.name.ok_or_else(|| required("name"))?;
        let url = given.url.ok_or_else(|| required("url"))?;
        let event_types = given.event_types.ok_or_else(|| required("event_types"))?;
        if self.list(account).count() >= limit {
            let message = format!("An account can have {limit} webhook endpoints.");
            return Err(ApiError::new(StatusCode::CONFLICT, "WEBHOOKS_ENDPOINT_LIMIT_REACHED", message));
        }
        let secret = self.secret();
        let endpoint = Endpoint {
            id: format!("whe_{}", super::token(self.seed, &format!("endpoint {}", self.made), 22)),
            name,
            url,
            enabled: given.enabled.unwrap_or(true),
            event_types,
            headers: given.headers.unwrap_or_default(),
            timeout_ms: given.timeout_ms.unwrap_or(5_000),
            created_at: now,
            updated_at: now,
            account: account.to_owned(),
            secret: secret.into(),
            born: self.made,
        };
        self.by_id.insert(endpoint.id.clone(), endpoint.clone());
        Ok(endpoint)
    }

    /// An account's endpoints, in no particular order.
    fn list(&self, account: &str) -> impl Iterator<Item = &Endpoint> {
        self.by_id.values().filter(move |endpoint| endpoint.account == account)
    }

    /// An account's endpoints, oldest first.
    pub(crate) fn of(&self, account: &str) -> Vec<Endpoint> {
        let mut all: Vec<_> = self.list(account).cloned().collect();
        all.sort_by_key(|endpoint| endpoint.born);
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
        given: Attributes,
        now: Timestamp,
    ) -> Result<Endpoint, ApiError> {
        let endpoint = self.get_mut(account, id)?;
        let Attributes { name, url, event_types, headers, timeout_ms, enabled } = given;
        endpoint.name = name.unwrap_or_else(|| endpoint.name.clone());
        endpoint.url = url.unwrap_or_else(|| endpoint.url.clone());
        endpoint.event_types = event_types.unwrap_or_else(|| endpoint.event_types.clone());
        endpoint.headers = headers.unwrap_or_else(|| endpoint.headers.clone());
        endpoint.timeout_ms = timeout_ms.unwrap_or(endpoint.timeout_ms);
        endpoint.enabled = enabled.unwrap_or(endpoint.enabled);
        endpoint.updated_at = now;
        Ok(endpoint.clone())
    }

    /// Gives the endpoint another secret; the old one is worth nothing at once.
    pub(crate) fn rotate(&mut self, account: &str, id: &str, now: Timestamp) -> Result<String, ApiError> {
        let secret = self.secret();
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
