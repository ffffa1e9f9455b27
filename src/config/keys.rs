//! The known keys, taken from the schema, and suggestions for unknown ones.

use std::fmt;

use serde_json::{Map, Value};

/// Minimum similarity of a suggestion (Jaro-Winkler, 0 to 1). A less similar one would only confuse.
const MIN_SIMILARITY: f64 = 0.75;

/// A key that does not exist.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// The dotted path.
    path: String,
    /// The dotted path of the most similar known key.
    nearest: Option<String>,
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no key {}", self.path)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => f.write_str("; `polyhook config schema` lists all keys"),
        }
    }
}

/// The keys of the configuration, from its JSON Schema.
#[derive(Debug)]
pub(super) struct Keys {
    root: Value,
}

impl Keys {
    pub(super) fn new() -> Self {
        Self { root: super::Config::schema().to_value() }
    }

    /// Returns the first unknown key of `value`.
    pub(super) fn unknown(&self, value: &Value) -> Option<UnknownKey> {
        self.unknown_in(&self.root, value, "")
    }

    fn unknown_in(&self, schema: &Value, value: &Value, path: &str) -> Option<UnknownKey> {
        let schema = self.resolve(schema);
        match value {
            Value::Object(fields) => {
                let known = schema.get("properties")?.as_object()?;
                fields.iter().find_map(|(name, value)| {
                    let here = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    match known.get(name) {
                        Some(schema) => self.unknown_in(schema, value, &here),
                        None => Some(UnknownKey { nearest: self.nearest(known, path, name), path: here }),
                    }
                })
            }
            Value::Array(items) => {
                let schema = schema.get("items")?;
                items.iter().find_map(|item| self.unknown_in(schema, item, path))
            }
            _ => None,
        }
    }

    /// Returns the most similar sibling, or a key with the same name in another section.
    fn nearest(&self, siblings: &Map<String, Value>, path: &str, name: &str) -> Option<String> {
        let dotted = |section: &str, key: &str| {
            if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
        };
        let similar = siblings
            .keys()
            .map(|key| (strsim::jaro_winkler(key, name), key))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
            .map(|(_, key)| dotted(path, key));
        similar.or_else(|| {
            let sections = self.root.get("properties")?.as_object()?;
            sections.iter().find_map(|(section, schema)| {
                let schema = self.resolve(schema);
                let schema = schema.get("items").map_or(schema, |items| self.resolve(items));
                schema.get("properties")?.get(name).map(|_| dotted(section, name))
            })
        })
    }

    /// Returns true if the value at a dotted path can only be a list.
    pub(super) fn is_list(&self, path: &str) -> bool {
        self.at(path).and_then(|schema| schema.get("type")).is_some_and(|kind| kind == "array")
    }

    /// Returns the allowed words of a value, if it is an enumeration.
    pub(super) fn choices(&self, path: &str) -> Vec<&str> {
        self.at(path).map(|schema| self.words(schema)).unwrap_or_default()
    }

    fn words<'a>(&'a self, schema: &'a Value) -> Vec<&'a str> {
        let schema = self.resolve(schema);
        if let Some(word) = schema.get("const").and_then(Value::as_str) {
            return vec![word];
        }
        let listed = |key| schema.get(key).and_then(Value::as_array).into_iter().flatten();
        let plain = listed("enum").filter_map(Value::as_str);
        plain.chain(listed("oneOf").chain(listed("anyOf")).flat_map(|schema| self.words(schema))).collect()
    }

    fn at(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(self.resolve(&self.root), |schema, name| {
            let name = name.split('[').next()?;
            let schema = schema.get("items").map_or(schema, |items| self.resolve(items));
            Some(self.resolve(schema.get("properties")?.get(name)?))
        })
    }

    /// Follows `$ref`s into `$defs`.
    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
        target.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(schema)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn unknown(value: &Value) -> String {
        Keys::new().unknown(value).map(|key| key.to_string()).unwrap_or_default()
    }

    #[test]
    fn suggests_the_nearest_key() {
        assert_eq!(
            unknown(&json!({"server": {"ack_bugdet": "4s"}})),
            "there is no key server.ack_bugdet; did you mean server.ack_budget?"
        );
        assert_eq!(
            unknown(&json!({"projects": [{"apikey": "x"}]})),
            "there is no key projects.apikey; did you mean projects.api_key?"
        );
        assert_eq!(
            unknown(&json!({"server": {"concurrency": 3}})),
            "there is no key server.concurrency; did you mean worker.concurrency?"
        );
        assert_eq!(
            unknown(&json!({"zzz": 1})),
            "there is no key zzz; `polyhook config schema` lists all keys"
        );
        assert_eq!(unknown(&json!({"worker": {"environments": ["live"]}})), "");
    }

    #[test]
    fn recognizes_list_keys() {
        let keys = Keys::new();
        assert!(
            keys.is_list("signature.secrets")
                && keys.is_list("worker.environments")
                && keys.is_list("retry.delays")
        );
        assert!(!keys.is_list("queue.url") && !keys.is_list("projects[0].api_key"));
    }

    #[test]
    fn lists_the_allowed_words_of_a_value() {
        let keys = Keys::new();
        assert_eq!(keys.choices("signature.scheme"), ["auto", "timestamped", "body"]);
        assert_eq!(keys.choices("log.format"), ["pretty", "json"]);
        assert_eq!(keys.choices("projects[0].region"), ["us", "uk", "eu", "studio"]);
        assert!(keys.choices("server.listen").is_empty() && keys.choices("queue.url").is_empty());
    }
}
