//! The handling of a new secret by `create` and `rotate-secret`: its file, its rescue, and notes about both.

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::{
    super::{CliError, output},
    locked_secrets_file::{LockedSecretsFile, WriteMethod, write_rescue_file},
};
use crate::{
    config::Config,
    secret::Secret,
    signature::MAX_ACTIVE_SECRETS,
    web::{SecretsFile, SignatureConfig},
};

/// Stands for the secret that PolyAI has not created yet.
pub(super) const FUTURE_SECRET: &str = "the secret that PolyAI creates next";

/// Returns the file for a new secret.
pub(super) fn path<'a>(given: Option<&'a Path>, config: &'a Config) -> Result<&'a Path, CliError> {
    given.or(config.signature.secrets_file.as_deref()).ok_or_else(|| {
        CliError::Usage(
            "no secrets file is configured, so the new secret has no place: set signature.secrets_file, which receivers \
             read, or give --secrets-file"
                .to_owned(),
        )
    })
}

/// Returns an error if receivers would have more secrets than may be active. `file` is the content of their secrets file
/// with the new secret in it.
pub(super) fn check_count(config: &Config, file: SecretsFile, now: Timestamp) -> Result<(), String> {
    let valid = SignatureConfig { file_secrets: file, ..config.signature.clone() }.valid(now).len();
    if valid <= MAX_ACTIVE_SECRETS {
        return Ok(());
    }
    Err(format!(
        "with a new one, {valid} signing secrets would be valid, but receivers use at most {MAX_ACTIVE_SECRETS}. Remove those \
         of endpoints that no longer exist (`polyhook endpoint list`), or wait until old ones expire"
    ))
}

/// Saves a secret that could not be written to its file, and returns a sentence that names the place. PolyAI does not return
/// a secret twice.
pub(super) fn rescue(locked_file: &LockedSecretsFile, endpoint_id: &str, secret: &Secret) -> String {
    let folders = [
        locked_file.path().parent().unwrap_or(Path::new(".")).to_owned(),
        PathBuf::from("."),
        std::env::temp_dir(),
    ];
    if let Some(path) = write_rescue_file(&folders, endpoint_id, secret) {
        return format!("It is in {} (mode 0600)", path.canonicalize().as_ref().unwrap_or(&path).display());
    }
    // A secret on the screen is better than a lost secret.
    output::line(secret.expose());
    "No file could be written, so the secret is on standard output".to_owned()
}

pub(super) fn mode_note(before: Option<u32>, after: Option<u32>) -> Option<String> {
    let (before, after) = (before?, after?);
    (before != after).then(|| {
        format!(
            "the file's mode changed from {before:04o} to {after:04o}: receivers must run as its owner or group"
        )
    })
}

pub(super) fn written_note(method: WriteMethod) -> Option<String> {
    (method == WriteMethod::Overwritten).then(|| {
        "the file could not be replaced, for example because it is a mount, so it was overwritten".to_owned()
    })
}

pub(super) fn link_note(path: &Path) -> Option<String> {
    path.is_symlink().then(|| format!("{} is a link; its target was written", path.display()))
}
