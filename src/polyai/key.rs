//! An API key as the header it goes into, read again where it comes from a file.

use std::{
    path::PathBuf,
    sync::{PoisonError, RwLock},
};

use http::HeaderValue;

use crate::secret::{Secret, read_stable};

/// A key in force. A request takes it once; what it was sent with is what its answer is about.
#[derive(Debug)]
pub(super) struct Key {
    file: Option<PathBuf>,
    in_force: RwLock<HeaderValue>,
}

impl Key {
    /// None for a key that no header can carry.
    pub(super) fn new(key: &Secret, file: Option<PathBuf>) -> Option<Self> {
        Some(Self { file, in_force: RwLock::new(header(key)?) })
    }

    /// For `x-api-key`; marked sensitive.
    pub(super) fn header(&self) -> HeaderValue {
        self.in_force.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again. Whether the key is another one now, or why the one in force has to stay.
    pub(super) async fn reload(&self) -> Result<bool, String> {
        let Some(file) = &self.file else { return Ok(false) };
        let before = self.header();
        let known = Secret::new(before.to_str().unwrap_or_default());
        let why = |why: &str| format!("{}: {why}", file.display());
        let key = read_stable(file, &known, Secret::read).await.map_err(|error| why(&error.to_string()))?;
        if key.is_empty() {
            return Err(why("there is no key in it"));
        }
        let new = header(&key).ok_or_else(|| why("no HTTP header can carry what is in it"))?;
        if new == before {
            return Ok(false);
        }
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }
}

fn header(key: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(key.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn follows_its_file_and_keeps_what_it_has() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &[u8]| std::fs::write(file.path(), text).unwrap();
        write(b"old\n");
        let key = Key::new(&Secret::new("old"), Some(file.path().to_owned())).unwrap();
        assert_eq!(key.reload().await, Ok(false));
        write(b" new\n");
        assert_eq!(key.reload().await, Ok(true));
        assert_eq!((key.header().as_bytes(), key.header().is_sensitive()), (&b"new"[..], true));
        for bad in [&b" \n"[..], b"two\nlines", b"\xff"] {
            write(bad);
            let why = key.reload().await.unwrap_err();
            assert!(why.starts_with(file.path().to_str().unwrap()) && !why.contains("two"), "{why}");
            assert_eq!(key.header(), "new");
        }
    }
}
