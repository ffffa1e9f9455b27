//! The handling of a new secret by `create` and `rotate-secret`: its file, its rescue, and notes about both.

use std::path::{Path, PathBuf};

use super::{
    super::{CliError, output},
    locked_secrets_file::{LockedSecretsFile, WriteMethod, write_rescue_file},
};
use crate::{config::Config, secret::Secret};

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
