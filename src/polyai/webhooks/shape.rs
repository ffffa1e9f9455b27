//! Endpoints as the two families of the Webhooks API write them.
//!
//! The reference of August 2026 has `{name, url, event_types, headers, timeout_ms, enabled}` and takes no other
//! field; the quickstart of June 2026 has `{url, description, events}`. An answer is read leniently in either.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::secret::Secret;

/// Which of the two is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// `/v1/webhook-endpoints`
    Reference,
    /// `/v1/webhooks/endpoints`
    Quickstart,
}

impl Family {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Reference => "/v1/webhook-endpoints",
            Self::Quickstart => "/v1/webhooks/endpoints",
        }
    }
}

/// A registered endpoint. Shown, its headers have names but no values: they may be keys to an ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "Read")]
pub struct Endpoint {
    /// `whe_…`
    pub id: String,
    /// As its creator named it.
    pub name: String,
    /// Where PolyAI delivers to.
    pub url: String,
    /// Whether it does.
    pub enabled: Option<bool>,
    /// The events it delivers.
    pub event_types: Vec<String>,
    /// What it sends along.
    pub headers: BTreeMap<String, Secret>,
    /// How long it waits for an answer.
    pub timeout_ms: Option<u64>,
    /// As PolyAI writes it.
    pub created_at: Option<String>,
    /// As PolyAI writes it.
    pub updated_at: Option<String>,
}

impl Endpoint {
    /// Whether its id can stand in paths and in the file of secrets.
    pub(super) fn has_an_id(&self) -> bool {
        let ours = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..128).contains(&self.id.len()) && self.id.bytes().all(ours)
    }
}

/// Either family's fields. Two names for one thing may come together, and anything may be `null`.
#[derive(Deserialize)]
struct Read {
    #[serde(default, deserialize_with = "or_default")]
    id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    url: String,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    event_types: Option<Vec<String>>,
    #[serde(default)]
    events: Option<Vec<String>>,
    #[serde(default, deserialize_with = "or_default")]
    headers: BTreeMap<String, Secret>,
    #[serde(default)]
    timeout_ms: Option<u64>,
    #[serde(default)]
    created_at: Option<String>,
    #[serde(default)]
    updated_at: Option<String>,
}

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

impl From<Read> for Endpoint {
    fn from(read: Read) -> Self {
        let Read { id, name, description, url, enabled, event_types, events, .. } = read;
        Self {
            id,
            name: name.or(description).unwrap_or_default(),
            url,
            enabled,
            event_types: event_types.or(events).unwrap_or_default(),
            headers: read.headers,
            timeout_ms: read.timeout_ms,
            created_at: read.created_at,
            updated_at: read.updated_at,
        }
    }
}

/// What an endpoint is to be; absent is PolyAI's default, or, where there is one already, what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EndpointSettings {
    /// 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `https` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// At least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_types: Option<Vec<String>>,
    /// All of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, Secret>>,
    /// 1000 to 30000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether PolyAI delivers to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl EndpointSettings {
    /// What of it the quickstart's family has no field for.
    pub(super) fn beyond_quickstart(&self) -> Vec<&'static str> {
        let Self { headers, timeout_ms, enabled, .. } = self;
        let given = [
            ("headers", headers.is_some()),
            ("a timeout", timeout_ms.is_some()),
            ("disabled endpoints", enabled.is_some()),
        ];
        given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    pub(super) fn body(&self, family: Family) -> Value {
        let Self { name, url, event_types, headers, timeout_ms, enabled } = self;
        let (name_field, events_field) = match family {
            Family::Reference => ("name", "event_types"),
            Family::Quickstart => ("description", "events"),
        };
        let exposed = |headers: &BTreeMap<String, Secret>| {
            headers.iter().map(|(name, value)| (name.clone(), json!(value.expose()))).collect::<Map<_, _>>()
        };
        let fields = [
            (name_field, name.as_ref().map(|name| json!(name))),
            ("url", url.as_ref().map(|url| json!(url))),
            (events_field, event_types.as_ref().map(|types| json!(types))),
            ("headers", headers.as_ref().map(|headers| Value::Object(exposed(headers)))),
            ("timeout_ms", timeout_ms.map(|ms| json!(ms))),
            ("enabled", enabled.map(|enabled| json!(enabled))),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect())
    }

    pub(super) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.headers.iter().flat_map(BTreeMap::values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_family_is_read_and_anything_may_be_null() {
        let endpoint: Endpoint = serde_json::from_str(
            r#"{"id":"whe_1","url":"https://h/","description":"d","events":["a"],"name":null,"headers":null,
                "timeout_ms":null,"more":[1]}"#,
        )
        .unwrap();
        assert_eq!((&*endpoint.name, &endpoint.event_types[..]), ("d", &["a".to_owned()][..]));
        let endpoint: Endpoint = serde_json::from_str(
            r#"{"id":"whe_1","url":"https://h/","name":"n","description":"d","event_types":["b"],"enabled":false,
                "headers":{"X-Key":"hunter2"},"timeout_ms":5000}"#,
        )
        .unwrap();
        assert_eq!((&*endpoint.name, endpoint.enabled), ("n", Some(false)));
        let shown = serde_json::to_string(&endpoint).unwrap() + &format!("{endpoint:?}");
        assert!(shown.contains("X-Key") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn an_id_that_could_lead_elsewhere_is_none() {
        let has = |id: &str| {
            serde_json::from_value::<Endpoint>(json!({ "id": id, "url": "u" })).unwrap().has_an_id()
        };
        assert!(has("whe_9ZtRcXw3") && has("7f3c-11"));
        assert!(!has("") && !has("../projects") && !has("a\n# polyhook:window=") && !has(&"a".repeat(128)));
    }

    #[test]
    fn only_what_is_wanted_is_said() {
        let wanted = EndpointSettings {
            name: Some("n".to_owned()),
            event_types: Some(vec!["a".to_owned()]),
            headers: Some(BTreeMap::from([("X-Key".to_owned(), Secret::new("hunter2"))])),
            ..EndpointSettings::default()
        };
        assert_eq!(
            wanted.body(Family::Reference),
            json!({ "name": "n", "event_types": ["a"], "headers": { "X-Key": "hunter2" } })
        );
        assert_eq!(wanted.beyond_quickstart(), ["headers"]);
        let plain = EndpointSettings { headers: None, ..wanted };
        assert_eq!(plain.body(Family::Quickstart), json!({ "description": "n", "events": ["a"] }));
        assert_eq!(EndpointSettings::default().body(Family::Reference), json!({}));
    }
}
