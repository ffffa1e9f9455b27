//! What every command that gets a new secret does about the file that receivers read, and what it says of it.

use std::path::{Path, PathBuf};

use super::{
    super::{CliError, output},
    store::{self, Store, Written},
};
use crate::{config::Config, secret::Secret};

/// The file that a new secret is put into.
pub(super) fn path<'a>(given: Option<&'a Path>, config: &'a Config) -> Result<&'a Path, CliError> {
    given.or(config.signature.secrets_file.as_deref()).ok_or_else(|| {
        CliError::Usage(
            "there is no file to put the new secret into: set signature.secrets_file, which receivers read, or give \
             --secrets-file"
                .to_owned(),
        )
    })
}

/// Puts a secret that its file does not take somewhere else, and says where. It is in nobody else's hands.
pub(super) fn rescue(store: &Store, endpoint_id: &str, secret: &Secret) -> String {
    let folders = [
        store.path().parent().unwrap_or(Path::new(".")).to_owned(),
        PathBuf::from("."),
        std::env::temp_dir(),
    ];
    if let Some(path) = store::rescue(&folders, endpoint_id, secret) {
        return format!("It is in {} (mode 0600)", path.canonicalize().as_ref().unwrap_or(&path).display());
    }
    // Better read over somebody's shoulder than gone: PolyAI shows it to nobody again.
    output::line(secret.expose());
    "No file could be written, so it is on standard output".to_owned()
}

pub(super) fn mode_note(before: Option<u32>, after: Option<u32>) -> Option<String> {
    let (before, after) = (before?, after?);
    (before != after).then(|| {
        format!(
            "the file's mode was {before:04o} and is {after:04o}: receivers must run as its owner (or group)"
        )
    })
}

pub(super) fn written_note(written: Written) -> Option<String> {
    (written == Written::InPlace)
        .then(|| "the file cannot be replaced (a mount of its own?), so it was written over".to_owned())
}

pub(super) fn link_note(path: &Path) -> Option<String> {
    path.is_symlink().then(|| format!("{} is a link; what it leads to was written", path.display()))
}
