//! Strings that must never be printed: signing secrets, API keys, passwords.
//!
//! A [`Secret`] is formatted and serialized as `[redacted]`, and its memory is wiped when it is dropped. Only
//! [`Secret::expose`] returns the text, so a search for `expose` finds every use.

use std::{borrow::Cow, fmt, io, path::Path, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// Time between two reads of a file that must agree.
const STABLE_INTERVAL: Duration = Duration::from_millis(50);
/// Reads of a changing file before it is reported as unstable.
const MAX_STABLE_READS: u32 = 20;

/// A string that is never printed.
#[derive(Clone, Deserialize, PartialEq, Eq, Default)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps `value`.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// Returns the text. Use it only where the secret is needed, never for a log line or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns true if the text is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a file that contains one secret, without surrounding white space.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        Ok(Self::new(text.trim()))
    }

    /// Reads a file that contains one secret per line. Skips empty lines and lines that start with `#`.
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

/// Reads a file that another process may be writing at this moment. Content that differs from `known` is returned only
/// after two reads, 50 ms apart, agree.
pub async fn read_stable<T>(path: &Path, known: &T, read: fn(&Path) -> io::Result<T>) -> io::Result<T>
where
    T: PartialEq + Send + 'static,
{
    let read_once = async || {
        let path = path.to_owned();
        // A blocking thread, because a mount that hangs must not block other tasks.
        tokio::task::spawn_blocking(move || read(&path))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    };
    let mut before = read_once().await;
    if before.as_ref().is_ok_and(|read| read == known) {
        return before;
    }
    for _ in 0..MAX_STABLE_READS {
        tokio::time::sleep(STABLE_INTERVAL).await;
        let again = read_once().await;
        let stable = match (&before, &again) {
            (Ok(before), Ok(again)) => before == again,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        if stable {
            return again;
        }
        before = again;
    }
    Err(io::Error::other("the file keeps changing"))
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
    async fn read_stable_ignores_a_half_written_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_owned();
        std::fs::write(&path, "half-of-the-").unwrap();
        let write = async {
            tokio::time::sleep(STABLE_INTERVAL / 3).await;
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
    fn reads_one_secret_per_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# old\none\r\n\n  two \n").unwrap();
        let secrets = Secret::read_lines(file.path()).unwrap();
        assert_eq!(secrets, [Secret::new("one"), Secret::new("two")]);
    }
}
