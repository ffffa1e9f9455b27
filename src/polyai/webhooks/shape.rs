//! The JSON of endpoints in the two families of the Webhooks API.
//!
//! The reference of August 2026 has `{name, url, event_types, headers, timeout_ms, enabled}` and accepts no other field;
//! the quickstart of June 2026 has `{url, description, events}`. Answers in both forms are read, leniently.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::secret::Secret;

/// A family of paths and field names.
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

/// A registered endpoint. Output contains the names of its headers but not their values, which may be keys to an
/// ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(from = "EndpointJson")]
pub struct Endpoint {
    /// `whe_…`
    pub id: String,
    /// The name that its creator chose.
    pub name: String,
    /// The URL that PolyAI delivers to.
    pub url: String,
    /// True if PolyAI delivers to it.
    pub enabled: Option<bool>,
    /// The event types that PolyAI delivers to it.
    pub event_types: Vec<String>,
    /// The additional headers of each delivery.
    pub headers: BTreeMap<String, Secret>,
    /// The time that PolyAI waits for an answer.
    pub timeout_ms: Option<u64>,
    /// The time of its creation, in PolyAI's format.
    pub created_at: Option<String>,
    /// The time of its last change, in PolyAI's format.
    pub updated_at: Option<String>,
}

impl Endpoint {
    /// Returns whether its id is safe in paths and in the secrets file.
    pub(super) fn has_valid_id(&self) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        (1..128).contains(&self.id.len()) && self.id.bytes().all(allowed)
    }
}

/// The fields of both families. An answer may have both names of one field, and any field may be `null`.
#[derive(Deserialize)]
struct EndpointJson {
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

impl From<EndpointJson> for Endpoint {
    fn from(json: EndpointJson) -> Self {
        let EndpointJson { id, name, description, url, enabled, event_types, events, .. } = json;
        Self {
            id,
            name: name.or(description).unwrap_or_default(),
            url,
            enabled,
            event_types: event_types.or(events).unwrap_or_default(),
            headers: json.headers,
            timeout_ms: json.timeout_ms,
            created_at: json.created_at,
            updated_at: json.updated_at,
        }
    }
}

/// The settings of an endpoint that is created or changed. An absent setting keeps its value, or gets PolyAI's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct EndpointSettings {
    /// The name: 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The URL: `https` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The event types: at least one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_types: Option<Vec<String>>,
    /// All additional headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, Secret>>,
    /// The time that PolyAI waits for an answer: 1000 to 30000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// True if PolyAI delivers to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl EndpointSettings {
    /// Returns the settings that the quickstart's family has no fields for.
    pub(super) fn unsupported_by_quickstart(&self) -> Vec<&'static str> {
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
    fn reads_both_families_and_null() {
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
    fn rejects_ids_that_are_unsafe_in_paths() {
        let is_valid = |id: &str| {
            serde_json::from_value::<Endpoint>(json!({ "id": id, "url": "u" })).unwrap().has_valid_id()
        };
        assert!(is_valid("whe_9ZtRcXw3") && is_valid("7f3c-11"));
        assert!(
            !is_valid("")
                && !is_valid("../projects")
                && !is_valid("a\n# polyhook:window=")
                && !is_valid(&"a".repeat(128))
        );
    }

    #[test]
    fn sends_only_the_given_settings() {
        let settings = EndpointSettings {
            name: Some("n".to_owned()),
            event_types: Some(vec!["a".to_owned()]),
            headers: Some(BTreeMap::from([("X-Key".to_owned(), Secret::new("hunter2"))])),
            ..EndpointSettings::default()
        };
        assert_eq!(
            settings.body(Family::Reference),
            json!({ "name": "n", "event_types": ["a"], "headers": { "X-Key": "hunter2" } })
        );
        assert_eq!(settings.unsupported_by_quickstart(), ["headers"]);
        let plain = EndpointSettings { headers: None, ..settings };
        assert_eq!(plain.body(Family::Quickstart), json!({ "description": "n", "events": ["a"] }));
        assert_eq!(EndpointSettings::default().body(Family::Reference), json!({}));
    }
}
