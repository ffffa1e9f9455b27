//! Finds a conversation whose date is not known, and reads its objects.

use bytes::Bytes;
use object_store::ObjectStoreExt;

use super::{Archive, ArchiveError, Location, StoredConversation};

impl Archive {
    /// Finds the copies of a conversation under every date of a project. There is more than one only if PolyAI has
    /// corrected the start of the call.
    pub async fn find(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<Vec<(Location, StoredConversation)>, ArchiveError> {
        let mut found = Vec::new();
        for folder in self.find_folders(account_id, project_id, conversation_id).await? {
            if let Some(stored) = self.read(&folder.location).await? {
                found.push((folder.location, stored));
            }
        }
        Ok(found)
    }

    /// Reads an object of a conversation into memory. Returns `None` if there is none.
    pub async fn read_object(&self, location: &Location, name: &str) -> Result<Option<Bytes>, ArchiveError> {
        match self.backend.store.get(&self.key(location, name)?).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
