//! What the archive holds of a day, from one listing: the archive is its own ledger.
//!
//! No manifest is read for it: its being there says that a conversation is archived, and the store says since when.

use std::collections::HashMap;

use futures_util::{Stream, TryStreamExt, stream::unfold};
use jiff::{Timestamp, civil::Date};
use object_store::path::Path;
use sha2::{Digest, Sha256};

use super::{Archive, ArchiveError, Location, MANIFEST, key};

/// A conversation's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationFolder {
    /// Its last segment: the conversation's id as a key has it.
    pub name: String,
    /// When the manifest was written, by the store's clock; none where there is no manifest, so that the
    /// conversation is not archived (yet).
    pub archived_at: Option<Timestamp>,
    /// How many objects are in it.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Which conversations of a day are archived, and since when. Takes some 50 bytes for each.
#[derive(Debug, Default)]
pub struct ArchivedDay(HashMap<[u8; 16], i64>);

impl ArchivedDay {
    /// When the conversation that belongs to `location` was archived, if it was.
    pub fn archived_at(&self, location: &Location) -> Option<Timestamp> {
        let seconds = self.0.get(&digest(location.name()))?;
        Some(Timestamp::from_second(*seconds).unwrap_or(Timestamp::MIN))
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Archive {
    /// Lists what is archived of a project's day (of UTC).
    pub async fn list_day(
        &self,
        account: &str,
        project: &str,
        date: Date,
    ) -> Result<ArchivedDay, ArchiveError> {
        let mut day = ArchivedDay::default();
        let mut folders = std::pin::pin!(self.list_folders(account, project, date));
        while let Some(folder) = folders.try_next().await? {
            if let Some(at) = folder.archived_at {
                day.0.insert(digest(&folder.name), at.as_second());
            }
        }
        Ok(day)
    }

    /// The folders of a project's day, one after the other, in no order.
    pub fn list_folders(
        &self,
        account: &str,
        project: &str,
        date: Date,
    ) -> impl Stream<Item = Result<ConversationFolder, ArchiveError>> + Send + use<> {
        let prefix = key::day(&self.backend.prefix, account, project, date);
        let objects = prefix.map(|prefix| (self.backend.store.list(Some(&prefix)), prefix));
        // A store lists in an order in which a folder's objects stand together.
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
                let Some((name, file)) = place(&prefix, &object.location) else { continue };
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

/// Folder and name of an object below `prefix`.
fn place(prefix: &Path, object: &Path) -> Option<(String, String)> {
    let mut parts = object.prefix_match(prefix)?;
    let (folder, file) = (parts.next()?, parts.next()?);
    parts.next().is_none().then(|| (folder.as_ref().to_owned(), file.as_ref().to_owned()))
}

fn digest(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(name)[..16]);
    short
}
