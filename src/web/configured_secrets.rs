//! Secrets as they are configured, some in the configuration itself and some in a file, and what is wrong with them.

use jiff::Timestamp;

use super::secrets_file::SecretsFile;
use crate::{
    clock::Clock,
    problem::Problem,
    secret::Secret,
    signature::{MAX_ACTIVE_SECRETS, MIN_SECRET_LENGTH},
};

/// The texts about one kind of secrets.
#[derive(Debug)]
pub(crate) struct SecretKind {
    /// The name of one.
    pub(crate) name: &'static str,
    /// The condition that reports a file that cannot be used.
    pub(crate) condition: &'static str,
    /// The key of those in the configuration.
    pub(crate) key: &'static str,
    /// The key of the file.
    pub(crate) file_key: &'static str,
    /// The meaning of one that is too short.
    pub(crate) too_short: &'static str,
    /// The fix for a wrong one.
    pub(crate) store_only: &'static str,
    /// The fix for a file without a usable one.
    pub(crate) write: &'static str,
    /// The secrets that should be removed if there are too many.
    pub(crate) removable: &'static str,
    /// The answer to what only a secret that is not active matches.
    pub(crate) excess: &'static str,
    /// Returns what is recognisably wrong with one.
    pub(crate) problem: fn(&Secret) -> Option<&'static str>,
    /// False if a secret that is configured twice counts once.
    pub(crate) is_repetition_wrong: bool,
}

/// The secrets of one kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConfiguredSecrets<'a> {
    /// Their kind.
    pub(crate) kind: &'static SecretKind,
    /// Those of the configuration itself.
    pub(crate) inline: &'a [Secret],
    /// Those of the file.
    pub(crate) file: &'a SecretsFile,
}

impl ConfiguredSecrets<'_> {
    /// Returns the different secrets that are valid at `now`: those of the configuration, then those of the file.
    pub(crate) fn valid(&self, now: Timestamp) -> Vec<Secret> {
        let mut valid = Vec::new();
        for secret in self.inline.iter().chain(self.file.valid(now)) {
            if !valid.contains(secret) {
                valid.push(secret.clone());
            }
        }
        valid
    }

    /// Returns everything that is wrong with them. `none` is the text about the absence of any.
    pub(crate) fn problems(&self, none: &str) -> Vec<Problem> {
        let SecretKind { key, file_key, .. } = *self.kind;
        let valid = self.valid(Clock::System.now()).len();
        if valid == 0 {
            return vec![Problem::new(file_key, none).with(key)];
        }
        let wrong = self
            .wrong_secrets()
            .map(|(is_inline, text)| Problem::new(if is_inline { key } else { file_key }, text));
        let mut problems: Vec<_> = wrong.collect();
        problems.extend(self.too_many(valid).map(|text| Problem::new(file_key, text).with(key)));
        problems
    }

    /// Returns an error text for the first secret that cannot be right.
    pub(super) fn wrong_secret_problem(&self) -> Option<String> {
        self.wrong_secrets().next().map(|(_, text)| text)
    }

    /// Returns an error text for each secret that cannot be right, and whether the configuration itself contains it.
    fn wrong_secrets(&self) -> impl Iterator<Item = (bool, String)> {
        let SecretKind { name, too_short, store_only, problem, is_repetition_wrong, .. } = *self.kind;
        let all: Vec<_> = self.inline.iter().chain(self.file.entries().map(|entry| &entry.secret)).collect();
        let text = move |index: usize, all: &[&Secret]| {
            let (number, secret) = (index + 1, all[index]);
            if secret.expose().chars().count() < MIN_SECRET_LENGTH {
                return Some(format!(
                    "{name} number {number} is shorter than {MIN_SECRET_LENGTH} characters: {too_short}"
                ));
            }
            if let Some(problem) = problem(secret) {
                return Some(format!("{name} number {number}: {problem}; {store_only}"));
            }
            let first =
                all[..index].iter().position(|other| *other == secret).filter(|_| is_repetition_wrong)?;
            Some(format!("{name} number {number} is the same as number {}; remove one", first + 1))
        };
        let inline = self.inline.len();
        (0..all.len()).filter_map(move |index| Some((index < inline, text(index, &all)?)))
    }

    /// Returns an error text if more than [`MAX_ACTIVE_SECRETS`] are valid.
    pub(super) fn too_many(&self, valid: usize) -> Option<String> {
        let SecretKind { name, key, file_key, removable, .. } = self.kind;
        (valid > MAX_ACTIVE_SECRETS).then(|| {
            format!(
                "{valid} {name}s are valid, but at most {MAX_ACTIVE_SECRETS} may be active: every request is compared with each \
                 of them. Remove {removable} from {file_key} and {key}"
            )
        })
    }
}
