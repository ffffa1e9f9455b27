//! Erasure of a conversation from an archive without an index.

use polyhook::archive::{Archive, ArchiveError, ErasureRecord, StoredObjects};

/// Records the erasure of a conversation and removes its objects.
pub(crate) async fn erase_objects(
    archive: &Archive,
    account_id: &str,
    project_id: &str,
    conversation_id: &str,
    reason: Option<&str>,
) -> Result<(ErasureRecord, StoredObjects), ArchiveError> {
    let erasure = archive.begin_erasure(account_id, project_id, conversation_id, reason).await?;
    archive.finish_erasure(erasure).await
}
