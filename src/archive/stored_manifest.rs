//! Reading a manifest with what the store knows of it, for tables that are derived from the archive.

use jiff::Timestamp;
use object_store::path::Path;

use super::{
    Archive, ArchiveError, Location, MANIFEST,
    commit::sha256,
    key::ProjectDay,
    manifest::{Manifest, parse},
};

/// The manifest of an archived conversation, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredManifest {
    /// Its content.
    pub manifest: Manifest,
    /// The number of its bytes.
    pub size_bytes: u64,
    /// SHA-256 of its bytes, hexadecimal.
    pub sha256: String,
    /// The time at which the store wrote it, in whole seconds, as [`Archive::list_folders`] returns it.
    pub stored_at: Timestamp,
    /// The key of the conversation's folder below the archive's root.
    pub folder: String,
}

impl StoredManifest {
    /// Returns the place of the conversation.
    pub fn location(&self) -> Location {
        locate(&self.manifest)
    }
}

impl Archive {
    /// Reads the manifest in the folder `name` of a day. Returns `None` if there is none. It is an error if it is the
    /// manifest of another folder.
    pub async fn read_stored_manifest(
        &self,
        day: &ProjectDay,
        name: &str,
    ) -> Result<Option<StoredManifest>, ArchiveError> {
        let day = day.prefix(&self.backend.prefix).map_err(object_store::Error::from)?;
        let key = Path::parse(format!("{day}/{name}/{MANIFEST}")).map_err(object_store::Error::from)?;
        let Some((meta, bytes)) = self.get_manifest(&key).await? else { return Ok(None) };
        let manifest = parse(&key, &bytes)?;
        let location = locate(&manifest);
        if self.key(&location, MANIFEST)? != key {
            return Err(ArchiveError::Collision { key: key.to_string() });
        }
        let stored_at = Timestamp::from_second(meta.last_modified.timestamp()).unwrap_or(Timestamp::MIN);
        let folder = location.folder().to_owned();
        let (size_bytes, sha256) = (bytes.len() as u64, sha256(&bytes));
        Ok(Some(StoredManifest { manifest, size_bytes, sha256, stored_at, folder }))
    }
}

fn locate(manifest: &Manifest) -> Location {
    let Manifest { account_id, project_id, conversation_id, facts, .. } = manifest;
    Location::new(account_id, project_id, conversation_id, facts.started_at)
}
