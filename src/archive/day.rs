//! The archived conversations of a day, from one listing. So the archive itself records what is archived.
//!
//! The listing reads no manifests. The existence of a manifest means that the conversation is archived, and the store
//! knows since when.

use std::collections::HashMap;

use futures_util::{Stream, TryStreamExt, stream::unfold};
use jiff::{Timestamp, civil::Date};
use object_store::path::Path;
use sha2::{Digest, Sha256};

use super::{Archive, ArchiveError, Location, MANIFEST, ProjectDay, key};

/// The folder of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationFolder {
    /// The last segment of its key: the encoded conversation id.
    pub name: String,
    /// The time at which the manifest was written, by the clock of the store. `None` if there is no manifest, so that
    /// the conversation is not archived (yet).
    pub archived_at: Option<Timestamp>,
    /// The number of its objects.
    pub objects: u64,
    /// The size of its objects in bytes.
    pub bytes: u64,
}

/// The archived conversations of a day, with the times at which they were archived. Needs about 50 bytes for each.
#[derive(Debug, Default)]
pub struct ArchivedDay(HashMap<[u8; 16], i64>);

impl ArchivedDay {
    /// Returns the time at which the conversation at `location` was archived, or `None` if it is not.
    pub fn archived_at(&self, location: &Location) -> Option<Timestamp> {
        let seconds = self.0.get(&short_hash(location.name()))?;
        Some(Timestamp::from_second(*seconds).unwrap_or(Timestamp::MIN))
    }

    /// Returns the number of archived conversations.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if no conversation is archived.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Archive {
    /// Lists the archived conversations of a project's day (UTC).
    pub async fn list_day(
        &self,
        account: &str,
        project: &str,
        date: Date,
    ) -> Result<ArchivedDay, ArchiveError> {
        let mut day = ArchivedDay::default();
        let mut folders = std::pin::pin!(self.list_folders(&ProjectDay::new(account, project, date)));
        while let Some(folder) = folders.try_next().await? {
            if let Some(at) = folder.archived_at {
                day.0.insert(short_hash(&folder.name), at.as_second());
            }
        }
        Ok(day)
    }

    /// Returns the time at which the conversation was archived, by the clock of the store, or `None` if it is not.
    pub async fn archived_at(&self, location: &Location) -> Result<Option<Timestamp>, ArchiveError> {
        let found = self.head(&self.key(location, MANIFEST)?).await?;
        Ok(found.map(|meta| Timestamp::from_second(meta.last_modified.timestamp()).unwrap_or(Timestamp::MIN)))
    }

    /// Returns whether there is a conversation of this project.
    pub async fn has_conversations(&self, account: &str, project: &str) -> Result<bool, ArchiveError> {
        let prefix = key::project_prefix(&self.backend.prefix, account, project);
        let prefix = prefix.map_err(object_store::Error::from)?;
        let mut objects = self.backend.store.list(Some(&prefix));
        while let Some(object) = objects.try_next().await? {
            if object.location.filename() == Some(MANIFEST) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lists the folders of a project's day, in no particular order.
    pub fn list_folders(
        &self,
        day: &ProjectDay,
    ) -> impl Stream<Item = Result<ConversationFolder, ArchiveError>> + Send + use<> {
        let prefix = day.prefix(&self.backend.prefix);
        let objects = prefix.map(|prefix| (self.backend.store.list(Some(&prefix)), prefix));
        // Stores list the objects of a folder one after the other.
        unfold(Some((objects, None)), async |state| {
            let (objects, mut folder) = state?;
            let (mut list, prefix) = match objects {
                Ok(objects) => objects,
                Err(error) => return Some((Err(object_store::Error::from(error).into()), None)),
            };
            loop {
                let object = match list.try_next().await {
                    Ok(object) => object,
                    Err(error) => return Some((Err(error.into()), None)),
                };
                let Some(object) = object else { return folder.map(|folder| (Ok(folder), None)) };
                let Some((name, file)) = split_key(&prefix, &object.location) else { continue };
                let finished = folder.take_if(|folder: &mut ConversationFolder| folder.name != name);
                let current = folder.get_or_insert(ConversationFolder {
                    name,
                    archived_at: None,
                    objects: 0,
                    bytes: 0,
                });
                current.objects += 1;
                current.bytes += object.size;
                if file == MANIFEST {
                    current.archived_at = Timestamp::from_second(object.last_modified.timestamp()).ok();
                }
                if let Some(finished) = finished {
                    return Some((Ok(finished), Some((Ok((list, prefix)), folder))));
                }
            }
        })
    }
}

/// Returns the folder and the file name of an object below `prefix`.
fn split_key(prefix: &Path, object: &Path) -> Option<(String, String)> {
    let mut parts = object.prefix_match(prefix)?;
    let (folder, file) = (parts.next()?, parts.next()?);
    parts.next().is_none().then(|| (folder.as_ref().to_owned(), file.as_ref().to_owned()))
}

fn short_hash(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(name)[..16]);
    short
}
