//! The layer that a value comes from.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Serialize, Serializer, ser::SerializeMap};

/// The place where a value is written, in the order in which the layers override each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// Built in.
    #[default]
    Default,
    /// A line of the configuration file, counted from 1. No line: the whole file.
    File(PathBuf, Option<usize>),
    /// An environment variable.
    Variable(String),
    /// `--set` with this key.
    Flag(String),
}

impl Origin {
    /// Returns a word for the layer.
    pub fn layer(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File(..) => "file",
            Self::Variable(_) => "environment",
            Self::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::File(path, Some(line)) => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(key) => write!(f, "--set {key}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("layer", self.layer())?;
        match self {
            Self::Default => {}
            Self::File(path, line) => {
                map.serialize_entry("file", &path.to_string_lossy())?;
                if let Some(line) = line {
                    map.serialize_entry("line", line)?;
                }
            }
            Self::Variable(name) => map.serialize_entry("variable", name)?,
            Self::Flag(key) => map.serialize_entry("flag", &format!("--set {key}"))?,
        }
        map.end()
    }
}

/// Returns whether the file of a key adds to its values and does not replace them.
pub(super) fn file_only_adds(key: &str) -> bool {
    matches!(key, "signature.secrets" | "trigger.token" | "console.token")
}

/// The origins of all values that a layer sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, Origin>);

impl Origins {
    /// Returns the key that decides about `key`, and its origin, if a layer sets it. A file of a value has priority over the
    /// value, unless both count.
    pub(super) fn find(&self, key: &str) -> Option<(String, Origin)> {
        let file = format!("{key}_file");
        let of = |key: &str| self.0.get(key).map(|origin| (key.to_owned(), origin.clone()));
        let own = of(key).filter(|_| file_only_adds(key));
        own.or_else(|| of(&file)).or_else(|| of(key))
    }

    /// Returns the key that a person should look at, and its origin. What an entry of a list lacks belongs into that entry.
    pub(super) fn locate(&self, key: &str) -> (String, Origin) {
        self.find(key).unwrap_or_else(|| {
            let entry = key.split_once(']').map(|(entry, _)| format!("{entry}]."));
            let of_entry =
                self.0.iter().find(|(key, _)| entry.as_ref().is_some_and(|entry| key.starts_with(entry)));
            (key.to_owned(), of_entry.map(|(_, origin)| origin.clone()).unwrap_or_default())
        })
    }

    /// Returns the origin of exactly this key.
    pub(super) fn of(&self, key: &str) -> Origin {
        self.0.get(key).cloned().unwrap_or_default()
    }
}

impl FromIterator<(String, Origin)> for Origins {
    fn from_iter<T: IntoIterator<Item = (String, Origin)>>(origins: T) -> Self {
        Self(origins.into_iter().collect())
    }
}
