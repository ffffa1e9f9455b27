//! Strings that must never be printed: signing secrets, API keys, passwords.
//!
//! A [`Secret`] shows as `[redacted]` however it is formatted or serialised, and its memory is wiped
//! when it is dropped. [`Secret::expose`] is the only way out; a search for it finds every use.

use std::{borrow::Cow, fmt, io, path::Path, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// How long a file must look the same before it is believed, and how often that is tried.
const SETTLED: Duration = Duration::from_millis(50);
const SETTLED_TRIES: u32 = 20;

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

/// Reads a file again that somebody may be writing at this moment: what differs from `known` counts only once two
/// reads, a moment apart, agree.
pub async fn read_stable<T>(path: &Path, known: &T, read: fn(&Path) -> io::Result<T>) -> io::Result<T>
where
    T: PartialEq + Send + 'static,
{
    let look = async || {
        let path = path.to_owned();
        // A file on a mount that hangs must hold up nobody else.
        tokio::task::spawn_blocking(move || read(&path))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    let mut before = look().await;
    if before.as_ref().is_ok_and(|read| read == known) {
        return before;
    }
    for _ in 0..SETTLED_TRIES {
        tokio::time::sleep(SETTLED).await;
        let again = look().await;
        let agree = match (&before, &again) {
            (Ok(before), Ok(again)) => before == again,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        if agree {
            return again;
        }
        before = again;
    }
    Err(io::Error::other("it changes all the time"))
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

    #[tokio::test]
    async fn half_a_secret_is_not_believed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        std::fs::write(&path, "half-of-the-").unwrap();
        let write = async {
            tokio::time::sleep(SETTLED / 3).await;
            std::fs::write(&path, "half-of-the-secret").unwrap();
        };
        let known = Secret::new("known");
        let (read, ()) = tokio::join!(read_stable(&path, &known, Secret::read), write);
        assert_eq!(read.unwrap(), Secret::new("half-of-the-secret"));
        drop(file);
        assert_eq!(
            read_stable(&path, &known, Secret::read).await.unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn reads_one_secret_a_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# old\none\r\n\n  two \n").unwrap();
        let secrets = Secret::read_lines(file.path()).unwrap();
        assert_eq!(secrets, [Secret::new("one"), Secret::new("two")]);
    }
}
