//! The keys that sign sessions and the tokens of forms.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::Secret;

/// A key of HMAC-SHA256.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SigningKey([u8; 32]);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey")
    }
}

impl SigningKey {
    /// Makes a key that only this process has.
    pub(super) fn random() -> Self {
        let (one, other) = (uuid::Uuid::new_v4(), uuid::Uuid::new_v4());
        let mut key = [0; 32];
        key[..16].copy_from_slice(one.as_bytes());
        key[16..].copy_from_slice(other.as_bytes());
        Self(key)
    }

    /// Derives the key of a token. What it has signed is valid after a restart, and in other processes with this token, until
    /// the token is removed.
    pub(super) fn of_token(token: &Secret) -> Self {
        Self(mac(token.expose().as_bytes(), &["polyhook console"]).finalize().into_bytes().into())
    }

    /// Signs `parts`. `purpose` keeps the signatures of different things apart.
    pub(super) fn sign(&self, purpose: &str, parts: &[&str]) -> String {
        hex::encode(mac(&self.0, &[&[purpose], parts].concat()).finalize().into_bytes())
    }

    /// Returns whether [`Self::sign`] returned `signature`, in constant time.
    pub(super) fn verify(&self, purpose: &str, parts: &[&str], signature: &str) -> bool {
        let mut bytes = [0; 32];
        hex::decode_to_slice(signature, &mut bytes).is_ok()
            && mac(&self.0, &[&[purpose], parts].concat()).verify_slice(&bytes).is_ok()
    }
}

/// Each part has its length before it, so different parts never make the same text.
fn mac(key: &[u8], parts: &[&str]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key may have any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part.as_bytes());
    }
    mac
}
