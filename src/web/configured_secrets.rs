//! Secrets as they are configured, some in the configuration itself and some in a file, and what is wrong with them.

use jiff::Timestamp;

use super::secrets_file::SecretsFile;
use crate::{
    secret::Secret,
    signature::{MAX_ACTIVE_SECRETS, MIN_SECRET_LENGTH},
};

/// The texts about one kind of secrets.
#[derive(Debug)]
pub(super) struct SecretKind {
    /// The name of one.
    pub(super) name: &'static str,
    /// The condition that reports a file that cannot be used.
    pub(super) condition: &'static str,
    /// The key of those in the configuration.
    pub(super) key: &'static str,
    /// The key of the file.
    pub(super) file_key: &'static str,
    /// The meaning of one that is too short.
    pub(super) too_short: &'static str,
    /// The fix for a wrong one.
    pub(super) store_only: &'static str,
    /// The fix for a file without a usable one.
    pub(super) write: &'static str,
    /// The secrets that should be removed if there are too many.
    pub(super) removable: &'static str,
    /// The answer to what only a secret that is not active matches.
    pub(super) excess: &'static str,
    /// Returns what is recognisably wrong with one.
    pub(super) problem: fn(&Secret) -> Option<&'static str>,
    /// False if a secret that is configured twice counts once.
    pub(super) is_repetition_wrong: bool,
}

/// The secrets of one kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConfiguredSecrets<'a> {
    pub(super) kind: &'static SecretKind,
    pub(super) inline: &'a [Secret],
    pub(super) file: &'a SecretsFile,
}

impl ConfiguredSecrets<'_> {
    /// Returns the different secrets that are valid at `now`: those of the configuration, then those of the file.
    pub(super) fn valid(&self, now: Timestamp) -> Vec<Secret> {
        let mut valid = Vec::new();
        for secret in self.inline.iter().chain(self.file.valid(now)) {
            if !valid.contains(secret) {
                valid.push(secret.clone());
            }
        }
        valid
    }

    /// Returns an error text for the first secret that cannot be right.
    pub(super) fn wrong_secret_problem(&self) -> Option<String> {
        let SecretKind { name, too_short, store_only, problem, is_repetition_wrong, .. } = *self.kind;
        let all: Vec<_> = self.inline.iter().chain(self.file.entries().map(|entry| &entry.secret)).collect();
        all.iter().enumerate().find_map(|(index, secret)| {
            let number = index + 1;
            if secret.expose().chars().count() < MIN_SECRET_LENGTH {
                return Some(format!(
                    "{name} number {number} is shorter than {MIN_SECRET_LENGTH} characters: {too_short}"
                ));
            }
            if let Some(problem) = problem(secret) {
                return Some(format!("{name} number {number}: {problem}; {store_only}"));
            }
            let first =
                all[..index].iter().position(|other| other == secret).filter(|_| is_repetition_wrong)?;
            Some(format!("{name} number {number} is the same as number {}; remove one", first + 1))
        })
    }

    /// Returns an error text if more than [`MAX_ACTIVE_SECRETS`] are valid.
    pub(super) fn too_many(&self, valid: usize) -> Option<String> {
        let SecretKind { name, key, file_key, removable, .. } = self.kind;
        (valid > MAX_ACTIVE_SECRETS).then(|| {
            format!(
                "{valid} {name}s are valid, but at most {MAX_ACTIVE_SECRETS} may be active: each costs time for every \
                 delivery, genuine or not. Remove {removable} from {file_key} and {key}"
            )
        })
    }
}
