//! The `[index]` section.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{problem::Problem, secret::Secret};

/// The shortest key of the hashes, in bytes. There are so few phone numbers that a key which can be guessed hides none.
const MIN_KEY_BYTES: usize = 16;
const NUMBERS: &str = "index.numbers";
const KEY: &str = "index.numbers_key";
const KEY_FILE: &str = "index.numbers_key_file";

/// `[index]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Keep Parquet tables of calls and turns in the archive. The processes that reconcile do that.
    pub enabled: bool,
    /// Interval at which new calls are added.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub every: Duration,
    /// Phone numbers in the tables.
    pub numbers: NumberMode,
    /// Key of the hashes of phone numbers, at least 16 bytes. Required for `numbers = "hash"`.
    pub numbers_key: Option<Secret>,
    /// File that contains `numbers_key`, and replaces it.
    pub numbers_key_file: Option<PathBuf>,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            every: Duration::from_mins(1),
            numbers: NumberMode::Omit,
            numbers_key: None,
            numbers_key_file: None,
        }
    }
}

impl IndexConfig {
    /// Returns whether phone numbers are hashed, so that the key is needed.
    pub fn hashes_numbers(&self) -> bool {
        self.numbers == NumberMode::Hash
    }

    /// Returns everything that is wrong with the section.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.every.is_zero() {
            let message = "it is 0, so the index would be updated without a pause; the default is 1m; index.enabled = false switches \
                           the index off";
            problems.push(Problem::new("index.every", message));
        }
        problems.extend(self.key_problem().filter(|_| self.hashes_numbers()));
        problems
    }

    /// Returns the key of the hashes, if there are any.
    pub(super) fn key(&self) -> Result<Option<&Secret>, Problem> {
        if !self.hashes_numbers() {
            return Ok(None);
        }
        self.key_problem().map_or_else(|| Ok(self.numbers_key.as_ref()), Err)
    }

    fn key_problem(&self) -> Option<Problem> {
        let key = if self.numbers_key_file.is_some() { KEY_FILE } else { KEY };
        let Some(secret) = self.numbers_key.as_ref().filter(|secret| !secret.is_empty()) else {
            let message = "hash needs a key, without which anyone could try all numbers: set index.numbers_key_file to a file with a \
                           random one (`openssl rand -hex 32`)";
            return Some(Problem::new(NUMBERS, message).with(KEY).with(KEY_FILE));
        };
        if let Some(mistake) = secret.password_problem() {
            return Some(Problem::new(key, format!("{mistake}; store only the key")).with(NUMBERS));
        }
        let length = secret.expose().len();
        (length < MIN_KEY_BYTES).then(|| {
            let message = format!(
                "it has {length} bytes, so it could be guessed, and the numbers with it; use at least {MIN_KEY_BYTES} \
                 (`openssl rand -hex 32`)"
            );
            Problem::new(key, message).with(NUMBERS)
        })
    }
}

/// The form of phone numbers in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NumberMode {
    /// No numbers.
    Omit,
    /// HMAC-SHA256 under `numbers_key`, so that calls of one number can be counted and found.
    Hash,
    /// The numbers as PolyAI sent them.
    Plain,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(key: Option<&str>, file: Option<&str>) -> Vec<String> {
        let config = IndexConfig {
            numbers: NumberMode::Hash,
            numbers_key: key.map(Secret::new),
            numbers_key_file: file.map(PathBuf::from),
            ..IndexConfig::default()
        };
        config.problems().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn hashes_need_a_key_that_cannot_be_guessed() {
        for (key, file, start) in [
            (None, None, "index.numbers: hash needs a key"),
            (Some(""), None, "index.numbers: hash needs a key"),
            (Some("hunter2hunter2h"), None, "index.numbers_key: it has 15 bytes"),
            (Some("hunter2hunter2h"), Some("key"), "index.numbers_key_file: it has 15 bytes"),
            (Some("hunter2hunter2\u{7}hunter2"), None, "index.numbers_key: it contains"),
        ] {
            let problems = hashed(key, file);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].starts_with(start) && !problems[0].contains("hunter"), "{problems:?}");
        }
        assert_eq!(hashed(Some("0123456789abcdef"), None), [""; 0]);
    }

    #[test]
    fn a_key_is_not_needed_without_hashes() {
        for numbers in [NumberMode::Omit, NumberMode::Plain] {
            for key in [None, Some(Secret::new("short"))] {
                let config = IndexConfig { numbers, numbers_key: key, ..IndexConfig::default() };
                assert_eq!(config.problems(), []);
            }
        }
    }

    #[test]
    fn rejects_an_interval_of_zero() {
        let config = IndexConfig { every: Duration::ZERO, ..IndexConfig::default() };
        assert_eq!(config.problems()[0].key(), "index.every");
    }
}
