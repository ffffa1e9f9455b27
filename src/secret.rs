//! Strings that must never be printed: signing secrets, API keys, passwords.
//!
//! A [`Secret`] shows as `[redacted]` however it is formatted or serialised, and its memory is wiped
//! when it is dropped. [`Secret::expose`] is the only way out; a search for it finds every use.

use std::{borrow::Cow, fmt, io, path::Path};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// A string that does not print itself.
#[derive(Clone, Deserialize, PartialEq, Eq, Default)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The string itself: for the one place that needs it, never for a log or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a file that holds one secret; surrounding white space is not part of it.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        Ok(Self::new(text.trim()))
    }

    /// Reads a file that holds one secret a line; empty lines and lines starting with `#` are skipped.
    pub fn read_lines(path: &Path) -> io::Result<Vec<Self>> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        Ok(text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(Self::new)
            .collect())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl JsonSchema for Secret {
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "writeOnly": true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_prints_itself() {
        let secret = Secret::new("hunter2hunter2hunter2");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(serde_json::to_string(&secret).unwrap(), r#""[redacted]""#);
    }

    #[test]
    fn reads_one_secret_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# old\none\r\n\n  two \n").unwrap();
        let secrets = Secret::read_lines(file.path()).unwrap();
        assert_eq!(secrets, [Secret::new("one"), Secret::new("two")]);
    }
}
