//! The tokens with which people log in.

use std::path::PathBuf;

use jiff::Timestamp;

use super::keys::SigningKey;
use crate::{
    console::ConsoleConfig,
    secret::Secret,
    signature::MAX_ACTIVE_SECRETS,
    web::{ActiveTokens, ConfiguredSecrets, SecretsConfig},
};

/// The active tokens, and the key of each.
#[derive(Debug)]
pub(crate) struct ConsoleTokens {
    pub(super) tokens: ActiveTokens,
    pub(super) keys: Vec<SigningKey>,
}

impl SecretsConfig for ConsoleConfig {
    type Active = ConsoleTokens;

    fn configured(&self) -> (ConfiguredSecrets<'_>, Option<&PathBuf>) {
        (self.configured_tokens(), self.token_file.as_ref())
    }

    fn activate(&self, valid: &[Secret], _: Option<Timestamp>) -> ConsoleTokens {
        let active = valid.get(..MAX_ACTIVE_SECRETS).unwrap_or(valid);
        ConsoleTokens {
            tokens: ActiveTokens::new(active),
            keys: active.iter().map(SigningKey::of_token).collect(),
        }
    }
}
