//! Phone numbers in the tables: left out, hashed, or as PolyAI sent them.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::phone;
use crate::{
    index::config::{IndexConfig, NumberMode},
    problem::Problem,
    secret::Secret,
};

/// The text whose hash identifies a key. It is not a phone number.
const KEY_ID_TEXT: &[u8] = b"polyhook index.numbers_key";
/// The digits of the hash that identifies a key.
const KEY_ID_LENGTH: usize = 16;

/// The form of phone numbers in the tables.
pub struct Numbers {
    mode: NumberMode,
    /// The hash under the key, before any text. Present if the mode is [`NumberMode::Hash`].
    hash: Option<Hmac<Sha256>>,
}

impl Numbers {
    /// Returns the form that the configuration demands, or an error if it lacks the key.
    pub fn new(config: &IndexConfig) -> Result<Self, Problem> {
        let hash =
            config.key()?.map(Secret::expose).and_then(|key| Hmac::new_from_slice(key.as_bytes()).ok());
        Ok(Self { mode: config.numbers, hash })
    }

    /// Returns numbers as PolyAI sent them.
    pub fn plain() -> Self {
        Self { mode: NumberMode::Plain, hash: None }
    }

    /// Returns the mode.
    pub fn mode(&self) -> NumberMode {
        self.mode
    }

    /// Returns an id of the key, which differs for another key and does not reveal it. Only hashes have one.
    pub fn key_id(&self) -> Option<String> {
        let mut id = self.keyed(KEY_ID_TEXT)?;
        id.truncate(KEY_ID_LENGTH);
        Some(id)
    }

    /// Returns true if the tables contain numbers as PolyAI sent them.
    pub(super) fn are_plain(&self) -> bool {
        self.mode == NumberMode::Plain
    }

    /// Returns the text of a column for a number.
    pub(super) fn column(&self, number: &str) -> Option<String> {
        if self.are_plain() {
            return Some(number.to_owned()).filter(|number| !number.trim().is_empty());
        }
        self.hash(&phone::normalize(number))
    }

    /// Returns the hash of a normalized number, or `None` if the mode has no hashes or the number is empty.
    pub(super) fn hash(&self, normalized: &str) -> Option<String> {
        if normalized.is_empty() { None } else { self.keyed(normalized.as_bytes()) }
    }

    fn keyed(&self, text: &[u8]) -> Option<String> {
        let mut hash = self.hash.clone()?;
        hash.update(text);
        Some(hex::encode(hash.finalize().into_bytes()))
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers").field("mode", &self.mode).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(mode: NumberMode) -> Numbers {
        let numbers_key = Some(Secret::new("0123456789abcdef"));
        Numbers::new(&IndexConfig { numbers: mode, numbers_key, ..IndexConfig::default() }).unwrap()
    }

    #[test]
    fn hashes_as_openssl_does() {
        // printf %s +15550100 | openssl dgst -sha256 -hmac 0123456789abcdef
        let expected = "8168b73935369d2037683b1a4e1628d3765d6f7cd3361541552c2eb8db9c73a0";
        let numbers = numbers(NumberMode::Hash);
        for number in
            ["+15550100", " +1 (555) 01-00 ", "tel:+1-555-0100", "sip:+15550100@host.example;user=phone"]
        {
            assert_eq!(numbers.column(number).as_deref(), Some(expected), "{number}");
        }
        for empty in ["", " ", "-", "tel:"] {
            assert_eq!(numbers.column(empty), None, "{empty:?}");
        }
    }

    #[test]
    fn leaves_numbers_out_or_as_they_are() {
        assert_eq!(numbers(NumberMode::Omit).column("+15550100"), None);
        assert_eq!(numbers(NumberMode::Plain).column(" +1 555-0100").as_deref(), Some(" +1 555-0100"));
        assert_eq!(numbers(NumberMode::Plain).column(" "), None);
    }

    #[test]
    fn a_hash_needs_its_key_and_another_key_has_another_id() {
        let config = |key| IndexConfig {
            numbers: NumberMode::Hash,
            numbers_key: Some(Secret::new(key)),
            ..IndexConfig::default()
        };
        assert!(Numbers::new(&config("")).is_err() && Numbers::new(&config("0123456789")).is_err());
        let id = |key| Numbers::new(&config(key)).unwrap().key_id().unwrap();
        assert_ne!(id("0123456789abcdef"), id("0123456789abcdeF"));
        assert_eq!(id("0123456789abcdef").len(), KEY_ID_LENGTH);
        assert_eq!(numbers(NumberMode::Omit).key_id(), None);
        assert_eq!(format!("{:?}", numbers(NumberMode::Hash)), "Numbers { mode: Hash, .. }");
    }
}
