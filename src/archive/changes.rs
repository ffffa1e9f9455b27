//! Notes of changed conversations, for tables that are derived from the archive.
//!
//! ```text
//! .polyhook/index-changes/account_id=<a>/project_id=<p>/date=<D>/<conversation's segment>.<random id>
//! ```
//! A note is an empty object, because its key says everything: it costs one small write, and one listing reads many. Each
//! change has a note of its own, so that a reader who removes the notes that it has listed removes no later one.

use std::{fs, sync::Arc};

use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectStoreExt, PutMode, PutPayload, path::Path};
use uuid::Uuid;

use super::{
    Archive, ArchiveError, Location,
    folder::{PRIVATE_FOLDER, PrivateFolder, folder_error, if_exists},
    key::{ProjectDay, encode_path_segment, project_folder},
    staging,
};
use crate::disk::SpaceUse;

/// The folder of the notes within the private folder.
const CHANGES_FOLDER: &str = "index-changes";
/// The number of notes that are removed from a bucket at the same time.
const MAX_CONCURRENT_REMOVALS: usize = 16;

/// The note of a conversation that was archived or erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationChange {
    /// The day of the conversation.
    pub day: ProjectDay,
    /// The name of the conversation's folder: its encoded id.
    pub name: String,
    key: Path,
}

impl ConversationChange {
    /// Reads the key of a note below `folder`. Returns `None` for other objects.
    fn from_key(folder: &Path, key: Path) -> Option<Self> {
        let segments: Vec<_> = key.prefix_match(folder)?.map(|part| part.as_ref().to_owned()).collect();
        let [account, project, date, name] = &segments[..] else { return None };
        let day = ProjectDay::from_segments(account, project, date)?;
        let (name, id) = name.rsplit_once('.')?;
        Uuid::try_parse(id).ok()?;
        let name = Some(name.to_owned()).filter(|name| !name.is_empty())?;
        Some(Self { day, name, key })
    }
}

impl Archive {
    /// Notes that a conversation was archived or erased. The note is durable when this returns.
    pub async fn note_change(&self, location: &Location) -> Result<(), ArchiveError> {
        let folder = location.folder();
        let key = format!("{PRIVATE_FOLDER}/{CHANGES_FOLDER}/{folder}.{}", Uuid::new_v4().simple());
        if let Some(folder) = &self.backend.folder {
            return staging::create_empty_file(folder, folder.path(&key)).await;
        }
        let attributes = self.backend.attributes("text/plain");
        let (body, mode) = (PutPayload::new(), PutMode::Overwrite);
        self.backend.put(&self.root_key(&key)?, body, mode, attributes, SpaceUse::Document).await?;
        Ok(())
    }

    /// Lists the notes of changes, `limit` at most.
    pub async fn list_changes(&self, limit: usize) -> Result<Vec<ConversationChange>, ArchiveError> {
        self.list_changes_below("", limit, |_| true).await
    }

    /// Lists the notes of changes of one conversation.
    pub async fn list_changes_of(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<Vec<ConversationChange>, ArchiveError> {
        let (project, name) = (project_folder(account_id, project_id), encode_path_segment(conversation_id));
        self.list_changes_below(&project, usize::MAX, |change| change.name == name).await
    }

    async fn list_changes_below(
        &self,
        folder: &str,
        limit: usize,
        is_wanted: impl Fn(&ConversationChange) -> bool,
    ) -> Result<Vec<ConversationChange>, ArchiveError> {
        let root = self.root_key(&format!("{PRIVATE_FOLDER}/{CHANGES_FOLDER}"))?;
        let prefix = self.root_key(&format!("{PRIVATE_FOLDER}/{CHANGES_FOLDER}/{folder}"))?;
        let objects = self.backend.store.list(Some(&prefix));
        let changes = objects.try_filter_map(|object| {
            let key = object.location.to_string();
            let change = ConversationChange::from_key(&root, object.location);
            if change.is_none() {
                self.foreign_change_logged.call_once(|| {
                    tracing::warn!(
                        object.key = key,
                        "an object that polyhook did not write is among the changes for the index; remove it"
                    );
                });
            }
            std::future::ready(Ok(change.filter(&is_wanted)))
        });
        Ok(changes.take(limit).try_collect().await?)
    }

    /// Removes the notes of changes.
    pub async fn remove_changes(&self, changes: &[ConversationChange]) -> Result<(), ArchiveError> {
        if let Some(folder) = &self.backend.folder {
            let (folder, keys) = (Arc::clone(folder), keys(changes));
            return tokio::task::spawn_blocking(move || remove_files(&folder, &keys))
                .await
                .unwrap_or(Err(ArchiveError::Interrupted));
        }
        let removals = stream::iter(keys(changes)).map(|key| async move {
            match self.backend.store.delete(&key).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(error.into()),
            }
        });
        removals.buffer_unordered(MAX_CONCURRENT_REMOVALS).try_collect().await
    }
}

fn keys(changes: &[ConversationChange]) -> Vec<Path> {
    changes.iter().map(|change| change.key.clone()).collect()
}

/// Removes files, and their folders if they are empty now. Blocks.
fn remove_files(folder: &PrivateFolder, keys: &[Path]) -> Result<(), ArchiveError> {
    for key in keys {
        let path = folder.path(key.as_ref());
        if_exists(fs::remove_file(&path)).map_err(|error| folder_error(&path, error))?;
        if let Some(day) = path.parent() {
            // Fails while it has other notes.
            let _ = fs::remove_dir(day);
        }
    }
    Ok(())
}
