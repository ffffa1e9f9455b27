//! Small objects in which polyhook keeps its own state beside the archive.

use object_store::{GetOptions, PutMode, PutPayload, path::Path};

use super::{Archive, ArchiveError, folder};
use crate::disk::SpaceUse;

impl Archive {
    /// Reads an object of polyhook's own. Returns `None` if there is none.
    pub async fn read_private(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let found = self.backend.store.get_opts(&self.private_key(name)?, GetOptions::default()).await;
        match found {
            Ok(found) => Ok(Some(found.bytes().await?.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes an object of polyhook's own, and replaces an earlier one. It is durable when this returns.
    pub async fn write_private(&self, name: &str, content: Vec<u8>) -> Result<(), ArchiveError> {
        let (key, content) = (self.private_key(name)?, PutPayload::from(content));
        let attributes = self.backend.attributes("application/json");
        self.backend.put(&key, content, PutMode::Overwrite, attributes, SpaceUse::Document).await?;
        Ok(())
    }

    fn private_key(&self, name: &str) -> Result<Path, ArchiveError> {
        let key = format!("{}/{}/{name}.json", self.backend.prefix, folder::PRIVATE_FOLDER);
        Ok(Path::parse(key).map_err(object_store::Error::from)?)
    }
}
