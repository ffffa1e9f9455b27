//! The known keys, taken from the schema, and suggestions for unknown ones.

use std::fmt;

use serde_json::{Map, Value};

/// Minimum similarity of a suggestion (0 to 1), for a name among its siblings (Jaro-Winkler). A less similar one would only
/// confuse.
const MIN_NAME_SIMILARITY: f64 = 0.75;
/// The same for a whole path (Damerau-Levenshtein).
const MIN_PATH_SIMILARITY: f64 = 0.8;

/// A key that exists: `server.listen`, or `projects[0].api_key`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) section: String,
    /// The number of the entry, if the section is a list of tables.
    pub(super) entry: Option<usize>,
    pub(super) name: String,
}

impl Key {
    /// Returns the name of its variable.
    pub(super) fn variable(&self) -> String {
        let entry = self.entry.map_or_else(String::new, |entry| format!("__{entry}"));
        format!("POLYHOOK__{}{entry}__{}", self.section, self.name).to_uppercase()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.entry {
            Some(entry) => write!(f, "{}[{entry}].{}", self.section, self.name),
            None => write!(f, "{}.{}", self.section, self.name),
        }
    }
}

/// A section of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section<'a> {
    /// True for a list of tables.
    pub(super) is_list: bool,
    keys: &'a Map<String, Value>,
    required: Option<&'a Vec<Value>>,
}

impl<'a> Section<'a> {
    pub(super) fn contains(self, name: &str) -> bool {
        self.keys.contains_key(name)
    }

    /// Returns the keys that every entry needs.
    pub(super) fn required(self) -> impl Iterator<Item = &'a str> {
        self.required.into_iter().flatten().filter_map(Value::as_str)
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

    /// Returns a section.
    pub(super) fn section(&self, name: &str) -> Option<Section<'_>> {
        let schema = self.resolve(self.root.get("properties")?.get(name)?);
        let (is_list, schema) = match schema.get("items") {
            Some(items) => (true, self.resolve(items)),
            None => (false, schema),
        };
        let required = schema.get("required").and_then(Value::as_array);
        Some(Section { is_list, keys: schema.get("properties")?.as_object()?, required })
    }

    /// Returns the names of all sections.
    pub(super) fn sections(&self) -> impl Iterator<Item = &str> {
        let sections = self.root.get("properties").and_then(Value::as_object);
        sections.into_iter().flat_map(Map::keys).map(String::as_str)
    }

    /// Returns all keys, with the first entry of lists.
    fn all(&self) -> impl Iterator<Item = Key> {
        let keys = |name| self.section(name).map(|section| (name, section));
        self.sections().filter_map(keys).flat_map(|(name, section)| {
            let key = move |key: &String| Key {
                section: name.to_owned(),
                entry: section.is_list.then_some(0),
                name: key.clone(),
            };
            section.keys.keys().map(key)
        })
    }

    /// Returns the key with this path, if there is one.
    pub(super) fn parse(&self, path: &str) -> Option<Key> {
        let (section, name) = path.split_once('.')?;
        let (section, entry) = match section.split_once('[') {
            Some((section, entry)) => (section, Some(entry.strip_suffix(']')?.parse().ok()?)),
            None => (section, None),
        };
        let known = self.section(section)?;
        let exists = known.is_list == entry.is_some() && known.contains(name);
        exists.then(|| Key { section: section.to_owned(), entry, name: name.to_owned() })
    }

    /// Returns the key that a person probably meant by the path of an unknown one.
    pub(super) fn nearest(&self, path: &str) -> Option<Key> {
        let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
        let (section, entry) =
            section.split_once('[').map_or((section, ""), |(section, entry)| (section, entry));
        let spelled = letters(path);
        let best = |similarity: &dyn Fn(&Key) -> f64, min: f64| {
            let rated =
                self.all().map(|key| (similarity(&key), key)).filter(|(similarity, _)| *similarity >= min);
            rated.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, key)| key)
        };
        let sibling = |key: &Key| {
            if key.section == section { strsim::jaro_winkler(&key.name, name) } else { 0.0 }
        };
        let whole = |key: &Key| strsim::normalized_damerau_levenshtein(&letters(&key.to_string()), &spelled);
        let mut key = best(&|key| f64::from(letters(&key.to_string()) == spelled), 1.0)
            .or_else(|| best(&sibling, MIN_NAME_SIMILARITY))
            .or_else(|| best(&whole, MIN_PATH_SIMILARITY))
            .or_else(|| self.all().find(|key| letters(&key.name) == letters(name)))?;
        if let Some(entry) = entry.strip_suffix(']').and_then(|entry| entry.parse().ok()) {
            key.entry = key.entry.map(|_| entry);
        }
        Some(key)
    }

    /// Returns the most similar section.
    pub(super) fn nearest_section(&self, name: &str) -> Option<&str> {
        let rated = self.sections().map(|section| (strsim::jaro_winkler(section, name), section));
        let similar = rated.filter(|(similarity, _)| *similarity >= MIN_NAME_SIMILARITY);
        similar.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, section)| section)
    }

    /// Returns whether a person who writes this path without dots (`worker_concurrency`) probably means a key.
    pub(super) fn resembles_key(&self, path: &str) -> bool {
        let (path, spelled) = (path.to_lowercase(), letters(path));
        let first_word = path.split('_').next().unwrap_or_default();
        self.sections().any(|section| section == first_word)
            || self.all().any(|key| {
                let whole = letters(&key.to_string());
                letters(&key.name) == spelled
                    || strsim::normalized_damerau_levenshtein(&whole, &spelled) >= MIN_PATH_SIMILARITY
            })
    }

    /// Returns true if the value of a key can only be a list.
    pub(super) fn is_list(&self, key: &Key) -> bool {
        self.at(key).and_then(|schema| schema.get("type")).is_some_and(|kind| kind == "array")
    }

    /// Returns the allowed words of a value, if it is an enumeration.
    pub(super) fn choices(&self, key: &Key) -> Vec<&str> {
        self.at(key).map(|schema| self.words(schema)).unwrap_or_default()
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

    /// Returns the schema of a value.
    pub(super) fn at(&self, key: &Key) -> Option<&Value> {
        Some(self.resolve(self.section(&key.section)?.keys.get(&key.name)?))
    }

    /// Follows `$ref`s into `$defs`.
    pub(super) fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
        target.and_then(|pointer| self.root.pointer(pointer)).unwrap_or(schema)
    }
}

/// Returns the lower-case letters of a path, without what separates its parts and without numbers.
fn letters(path: &str) -> String {
    path.chars().filter(|c| c.is_alphabetic()).flat_map(char::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_the_nearest_key() {
        let keys = Keys::new();
        for (path, nearest) in [
            ("server.ack_bugdet", "server.ack_budget"),
            ("projects[2].apikey", "projects[2].api_key"),
            ("projects.api_key", "projects[0].api_key"),
            ("server.concurrency", "worker.concurrency"),
            ("ack_budget", "server.ack_budget"),
            ("worker_concurrency", "worker.concurrency"),
            ("worker.concurency", "worker.concurrency"),
            ("wroker.concurency", "worker.concurrency"),
            ("servr.listen", "server.listen"),
            ("SERVER.LISTEN", "server.listen"),
            ("_worker.concurrency", "worker.concurrency"),
            ("projects_1_api_key", "projects[0].api_key"),
            ("server.listen.x", "server.listen"),
        ] {
            assert_eq!(keys.nearest(path).map(|key| key.to_string()).as_deref(), Some(nearest), "{path}");
        }
        assert_eq!(keys.nearest("zzz.qqq"), None);
        assert_eq!(keys.nearest_section("serverr"), Some("server"));
    }

    #[test]
    fn parses_only_keys_that_exist() {
        let keys = Keys::new();
        for path in ["server.listen", "projects[3].api_key"] {
            assert_eq!(keys.parse(path).unwrap().to_string(), path);
        }
        assert_eq!(keys.parse("projects[3].api_key").unwrap().variable(), "POLYHOOK__PROJECTS__3__API_KEY");
        for path in [
            "",
            "server",
            "server.",
            "server.listn",
            "server[0].listen",
            "projects.api_key",
            "projects[x].api_key",
            "a.b.c",
        ] {
            assert_eq!(keys.parse(path), None, "{path}");
        }
    }

    #[test]
    fn knows_lists_and_the_allowed_words_of_a_value() {
        let keys = Keys::new();
        let key = |path| keys.parse(path).unwrap();
        for path in ["signature.secrets", "worker.environments", "retry.delays"] {
            assert!(keys.is_list(&key(path)), "{path}");
        }
        assert!(!keys.is_list(&key("queue.url")) && !keys.is_list(&key("projects[0].api_key")));
        assert_eq!(keys.choices(&key("signature.scheme")), ["auto", "timestamped", "body"]);
        assert_eq!(keys.choices(&key("projects[0].region")), ["us", "uk", "eu", "studio"]);
        assert!(keys.choices(&key("server.listen")).is_empty() && keys.choices(&key("queue.url")).is_empty());
        assert_eq!(keys.section("projects").unwrap().required().collect::<Vec<_>>(), ["project_id"]);
    }
}
