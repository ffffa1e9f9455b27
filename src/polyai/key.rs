//! An API key, reloaded from its file.

use std::{
    path::PathBuf,
    sync::{PoisonError, RwLock},
};

use http::HeaderValue;

use crate::{bounded_file::ReloadedFile, secret::Secret};

/// The current value of a key. A request takes it once, so that its answer is about the key it was sent with.
#[derive(Debug)]
pub(super) struct Key {
    file: Option<ReloadedFile>,
    current: RwLock<HeaderValue>,
}

impl Key {
    /// Returns `None` for a key that no HTTP header can carry.
    pub(super) fn new(key: &Secret, file: Option<PathBuf>) -> Option<Self> {
        Some(Self { file: file.map(ReloadedFile::new), current: RwLock::new(header(key)?) })
    }

    /// Returns the value for `x-api-key`, marked as sensitive.
    pub(super) fn header(&self) -> HeaderValue {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again. Returns whether the key has changed, or the reason why the current one stays.
    pub(super) async fn reload(&self) -> Result<bool, String> {
        let Some(file) = &self.file else { return Ok(false) };
        let before = self.header();
        let known = Secret::new(before.to_str().unwrap_or_default());
        let problem = |text: &str| format!("{}: {text}", file.path().display());
        let read = file.read_stable(&known, Secret::parse).await;
        let key = read.map_err(|error| problem(&error.to_string()))?;
        if key.is_empty() {
            return Err(problem("there is no key in it"));
        }
        if let Some(wrong) = key.token_problem() {
            return Err(problem(wrong));
        }
        let new = header(&key).ok_or_else(|| problem("no HTTP header can carry what is in it"))?;
        if new == before {
            return Ok(false);
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
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
    async fn reloads_its_file_and_keeps_the_key_if_unusable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &[u8]| std::fs::write(file.path(), text).unwrap();
        write(b"old\n");
        let key = Key::new(&Secret::new("old"), Some(file.path().to_owned())).unwrap();
        assert_eq!(key.reload().await, Ok(false));
        write(b" new\n");
        assert_eq!(key.reload().await, Ok(true));
        assert_eq!((key.header().as_bytes(), key.header().is_sensitive()), (&b"new"[..], true));
        for good in ["\u{feff}'newer'\r\n", "# since today\rnewest\r"] {
            write(good.as_bytes());
            assert_eq!(key.reload().await, Ok(true));
        }
        assert_eq!(key.header(), "newest");
        for bad in
            [&b" \n"[..], b"two\nlines", b"\xff", b"\xff\xfet\0w\0o\0", b"two words", b"\"two", b"Bearer two"]
        {
            write(bad);
            let why = key.reload().await.unwrap_err();
            assert!(why.starts_with(file.path().to_str().unwrap()) && !why.contains("two"), "{why}");
            assert_eq!(key.header(), "newest");
        }
    }
}
