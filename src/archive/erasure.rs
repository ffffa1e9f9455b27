//! Erasure of conversations, and the records that keep them erased.
//!
//! ```text
//! erasures/<SHA-256 of account, NUL, project, NUL, conversation>.json    below the archive's root
//! ```
//! * The record is written and durable **before** anything is removed. A worker checks for it before it fetches, and
//!   again after it has written its manifest ([`Archive::remove_if_erased`]). So one of two things happens: the
//!   worker sees the record and removes what it wrote; or the record is younger than the manifest, and the eraser,
//!   which lists after it has written the record, finds all objects.
//! * Between the two, the caller removes what is derived from the conversation ([`StartedErasure::dates`]).
//! * The manifest is removed first, so that a reader never finds one that names removed objects. Then all other
//!   objects in the conversation's folders are removed, under every date, and also those that a crash has left there.
//! * If the eraser is killed, run it again to complete the erasure.
//! * The record contains no id and nothing from the conversation. Its name is a hash: only a person who knows the ids
//!   can find it.
//!
//! Not erased are older versions of objects in a versioned bucket, its replicas and backups, and the parts of an
//! upload that a crash left unfinished. The lifecycle rule that every bucket needs removes the last ones.

use std::{
    collections::{BTreeSet, HashSet},
    path::PathBuf,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::{Timestamp, civil::Date};
use object_store::{GetOptions, ObjectStoreExt, PutMode, path::Path};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Archive, ArchiveError,
    folder::{folder_error, list_files, remove_folder},
    key::{Location, MANIFEST},
};
use crate::disk::SpaceUse;

const RECORDS_FOLDER: &str = "erasures";
const RECORD_VERSION: u32 = 1;
/// The number of dates that are searched at the same time.
const MAX_CONCURRENT_DATES: usize = 16;

/// The record of an erasure. The conversation is not archived again while its record exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRecord {
    /// The version of this record's format.
    pub schema_version: u32,
    /// The time of the first request to erase.
    pub erased_at: Timestamp,
    /// The time at which the last complete run ended. Absent while a run is in progress, or after a crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// `live`, `sandbox`, …; absent if the archive did not have the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// The number of objects that all complete runs removed.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The reason or ticket that the operator gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version of polyhook that wrote this record.
    pub polyhook_version: String,
}

/// The number and size of objects in the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoredObjects {
    /// The number of objects.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

impl StoredObjects {
    fn of(sizes: impl IntoIterator<Item = u64>) -> Self {
        sizes
            .into_iter()
            .fold(Self::default(), |sum, size| Self { objects: sum.objects + 1, bytes: sum.bytes + size })
    }
}

/// The set of erased conversations; see [`Archive::erased_conversations`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ErasedConversations(HashSet<String>);

impl ErasedConversations {
    /// Returns true if this conversation is erased.
    pub fn contains(&self, account_id: &str, project_id: &str, conversation_id: &str) -> bool {
        !self.0.is_empty() && self.0.contains(&record_name(account_id, project_id, conversation_id))
    }
}

/// An erasure whose record is durable, and that has removed nothing yet.
#[derive(Debug)]
pub struct StartedErasure {
    key: Path,
    record: ErasureRecord,
    folders: Vec<Location>,
    dates: BTreeSet<Date>,
}

impl StartedErasure {
    /// Returns the dates under which the conversation has objects, or a note of a change.
    pub fn dates(&self) -> &BTreeSet<Date> {
        &self.dates
    }
}

fn record_name(account_id: &str, project_id: &str, conversation_id: &str) -> String {
    let name = Sha256::digest(format!("{account_id}\0{project_id}\0{conversation_id}"));
    format!("{}.json", hex::encode(name))
}

/// One folder of a conversation with its objects.
pub(super) struct ObjectFolder {
    pub(super) location: Location,
    objects: ObjectList,
}

/// Objects with their sizes in bytes.
enum ObjectList {
    Files(Vec<(PathBuf, u64)>),
    Keys(Vec<(Path, u64)>),
}

impl ObjectList {
    fn stored_objects(&self) -> StoredObjects {
        match self {
            Self::Files(files) => StoredObjects::of(files.iter().map(|(_, size)| *size)),
            Self::Keys(keys) => StoredObjects::of(keys.iter().map(|(_, size)| *size)),
        }
    }
}

impl Archive {
    /// Returns true if the conversation is erased and must not be archived.
    pub async fn is_erased(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<bool, ArchiveError> {
        let key = self.record_key(account_id, project_id, conversation_id)?;
        Ok(self.head(&key).await?.is_some())
    }

    /// Reads the record of an erasure. Returns `None` if the conversation is not erased.
    pub async fn erasure_record(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<Option<ErasureRecord>, ArchiveError> {
        let key = self.record_key(account_id, project_id, conversation_id)?;
        let found = match self.backend.store.get_opts(&key, GetOptions::default()).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found?,
        };
        let record =
            serde_json::from_slice(&found.bytes().await?).map_err(|error| ArchiveError::Manifest {
                key: key.to_string(),
                reason: format!("line {}, column {}", error.line(), error.column()),
            })?;
        Ok(Some(record))
    }

    /// Lists all erased conversations.
    pub async fn erased_conversations(&self) -> Result<ErasedConversations, ArchiveError> {
        let folder = Path::parse(format!("{}/{RECORDS_FOLDER}", self.backend.prefix));
        let folder = folder.map_err(object_store::Error::from)?;
        let names =
            self.backend.store.list(Some(&folder)).map_ok(|meta| meta.location.filename().map(str::to_owned));
        Ok(ErasedConversations(names.try_filter_map(async |name| Ok(name)).try_collect().await?))
    }

    /// Counts the objects of a conversation under every date, whether it is erased or not, and lists the dates. Shows what
    /// an erasure would remove.
    pub async fn stored_objects(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<(StoredObjects, BTreeSet<Date>), ArchiveError> {
        let folders = self.find_folders(account_id, project_id, conversation_id).await?;
        let changes = self.list_changes_of(account_id, project_id, conversation_id).await?;
        let objects = folders.iter().map(|folder| folder.objects.stored_objects());
        let dates = folders.iter().map(|folder| folder.location.day().date());
        let dates = dates.chain(changes.iter().map(|change| change.day.date())).collect();
        Ok((objects.fold(StoredObjects::default(), sum), dates))
    }

    /// Records that a conversation must not be archived again. [`Archive::finish_erasure`] then removes its objects.
    pub async fn begin_erasure(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
        reason: Option<&str>,
    ) -> Result<StartedErasure, ArchiveError> {
        let key = self.record_key(account_id, project_id, conversation_id)?;
        let earlier = self.erasure_record(account_id, project_id, conversation_id).await?;
        let mut record = earlier.unwrap_or_else(|| ErasureRecord {
            schema_version: RECORD_VERSION,
            erased_at: self.clock.now(),
            completed_at: None,
            environment: None,
            objects: 0,
            bytes: 0,
            reason: None,
            polyhook_version: String::new(),
        });
        record.completed_at = None;
        env!("CARGO_PKG_VERSION").clone_into(&mut record.polyhook_version);
        if let Some(reason) = reason {
            record.reason = Some(reason.to_owned());
        }
        // Read before the removal: a run after a crash may find no manifest any more.
        for folder in self.find_folders(account_id, project_id, conversation_id).await? {
            let manifest = self.read_manifest(&self.key(&folder.location, MANIFEST)?, &folder.location).await;
            if let Ok(Some((manifest, _))) = manifest {
                record.environment = Some(manifest.facts.environment);
            }
        }
        self.write_record(&key, &record).await?;
        // Listed again: a worker that saw no record has written its objects before.
        let folders = self.find_folders(account_id, project_id, conversation_id).await?;
        let folders: Vec<_> = folders.into_iter().map(|folder| folder.location).collect();
        let changes = self.list_changes_of(account_id, project_id, conversation_id).await?;
        let dates = folders.iter().map(|location| location.day().date());
        let dates = dates.chain(changes.iter().map(|change| change.day.date())).collect();
        Ok(StartedErasure { key, record, folders, dates })
    }

    /// Removes the objects of a conversation whose erasure has begun. Returns the record, and what this run has removed.
    pub async fn finish_erasure(
        &self,
        erasure: StartedErasure,
    ) -> Result<(ErasureRecord, StoredObjects), ArchiveError> {
        let StartedErasure { key, mut record, folders, .. } = erasure;
        let mut removed = StoredObjects::default();
        for location in &folders {
            removed = sum(removed, self.remove_folder(location).await?);
        }
        record.objects += removed.objects;
        record.bytes += removed.bytes;
        record.completed_at = Some(self.clock.now());
        self.write_record(&key, &record).await?;
        Ok((record, removed))
    }

    /// Returns true if the conversation is erased, and removes objects and notes that were written during the erasure.
    pub async fn remove_if_erased(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<bool, ArchiveError> {
        if !self.is_erased(account_id, project_id, conversation_id).await? {
            return Ok(false);
        }
        for folder in self.find_folders(account_id, project_id, conversation_id).await? {
            self.remove_folder(&folder.location).await?;
        }
        self.remove_changes(&self.list_changes_of(account_id, project_id, conversation_id).await?).await?;
        Ok(true)
    }

    /// Allows an erased conversation to be archived again. Returns false if there was no record.
    pub async fn lift_erasure(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<bool, ArchiveError> {
        let key = self.record_key(account_id, project_id, conversation_id)?;
        if self.head(&key).await?.is_none() {
            return Ok(false);
        }
        self.backend.store.delete(&key).await?;
        Ok(true)
    }

    fn record_key(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<Path, ArchiveError> {
        let name = record_name(account_id, project_id, conversation_id);
        let key = format!("{}/{RECORDS_FOLDER}/{name}", self.backend.prefix);
        Path::parse(key).map_err(|error| object_store::Error::from(error).into())
    }

    async fn write_record(&self, key: &Path, record: &ErasureRecord) -> Result<(), ArchiveError> {
        let body = serde_json::to_vec_pretty(record)
            .map_err(|error| ArchiveError::Manifest { key: key.to_string(), reason: error.to_string() })?;
        let (mode, attributes) = (PutMode::Overwrite, self.backend.attributes("application/json"));
        self.backend.put(key, body.into(), mode, attributes, SpaceUse::Erasure).await.map(drop)
    }

    /// Finds the folders of a conversation. The key contains its date, which may be unknown, so every date of the
    /// project is searched.
    pub(super) async fn find_folders(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<Vec<ObjectFolder>, ArchiveError> {
        let dates = self.list_dates(account_id, project_id).await?;
        let locations =
            dates.into_iter().map(|date| Location::on_date(account_id, project_id, conversation_id, date));
        stream::iter(locations)
            .map(|location| async {
                let objects = self.list_objects(&location).await?;
                Ok(ObjectFolder { location, objects })
            })
            .buffer_unordered(MAX_CONCURRENT_DATES)
            .try_filter(|folder| std::future::ready(folder.objects.stored_objects().objects > 0))
            .try_collect()
            .await
    }

    async fn list_objects(&self, location: &Location) -> Result<ObjectList, ArchiveError> {
        if let Some(folder) = &self.backend.folder {
            // The object store hides unfinished files, so the folder is read directly.
            let path = folder.path(location.folder());
            return blocking(path, list_files).await.map(ObjectList::Files);
        }
        let prefix = format!("{}/{}", self.backend.prefix, location.folder());
        let prefix = Path::parse(prefix).map_err(object_store::Error::from)?;
        let listed = self.backend.store.list(Some(&prefix)).map_ok(|meta| (meta.location, meta.size));
        Ok(ObjectList::Keys(listed.try_collect().await?))
    }

    /// Removes a folder while no commit changes it.
    async fn remove_folder(&self, location: &Location) -> Result<StoredObjects, ArchiveError> {
        let _lock = self.lock_commits(location).await?;
        let manifest = self.key(location, MANIFEST)?;
        // A damaged manifest, or one of a later polyhook, is removed. One of another conversation is not.
        if let Err(collision @ ArchiveError::Collision { .. }) = self.read_manifest(&manifest, location).await
        {
            return Err(collision);
        }
        // Listed again, now that no other writer of this process, or of this folder, is active.
        let objects = self.list_objects(location).await?;
        match (&objects, &self.backend.folder) {
            (ObjectList::Files(_), Some(folder)) => {
                blocking(folder.path(location.folder()), |path| remove_folder(path, MANIFEST)).await?;
            }
            (ObjectList::Files(_), None) => {}
            (ObjectList::Keys(keys), _) => {
                let others = keys.iter().map(|(key, _)| key).filter(|key| **key != manifest);
                for key in std::iter::once(&manifest).chain(others) {
                    match self.backend.store.delete(key).await {
                        Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
        }
        Ok(objects.stored_objects())
    }
}

fn sum(a: StoredObjects, b: StoredObjects) -> StoredObjects {
    StoredObjects { objects: a.objects + b.objects, bytes: a.bytes + b.bytes }
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&std::path::Path) -> std::io::Result<T> + Send + 'static,
) -> Result<T, ArchiveError> {
    let shown = path.clone();
    tokio::task::spawn_blocking(move || work(&path))
        .await
        .map_err(std::io::Error::other)
        .flatten()
        .map_err(|source| folder_error(&shown, source))
}
