//! Small objects in which polyhook keeps its own state beside the archive.

use object_store::{GetOptions, ObjectStore, PutMode, PutPayload, path::Path};

use super::{Archive, ArchiveError, folder};
use crate::disk::SpaceUse;

impl Archive {
    /// Reads an object of polyhook's own. Returns `None` if there is none.
    pub async fn read_private(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        read(&self.backend.store, &private_key(&self.backend.prefix, name)?).await
    }

    /// Writes an object of polyhook's own, and replaces an earlier one. It is durable when this returns.
    pub async fn write_private(&self, name: &str, content: Vec<u8>) -> Result<(), ArchiveError> {
        let (key, content) = (private_key(&self.backend.prefix, name)?, PutPayload::from(content));
        let attributes = self.backend.attributes("application/json");
        self.backend.put(&key, content, PutMode::Overwrite, attributes, SpaceUse::Document).await?;
        Ok(())
    }
}

/// Returns the key of an object of polyhook's own.
pub(super) fn private_key(prefix: &Path, name: &str) -> Result<Path, ArchiveError> {
    let key = format!("{prefix}/{}/{name}.json", folder::PRIVATE_FOLDER);
    Ok(Path::parse(key).map_err(object_store::Error::from)?)
}

/// Reads an object. Returns `None` if there is none.
pub(super) async fn read(store: &dyn ObjectStore, key: &Path) -> Result<Option<Vec<u8>>, ArchiveError> {
    match store.get_opts(key, GetOptions::default()).await {
        Ok(found) => Ok(Some(found.bytes().await?.into())),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
