//! Erasing a conversation, and keeping it erased.
//!
//! ```text
//! erasures/<SHA-256 of account, NUL, project, NUL, conversation>.json    below the archive's root
//! ```
//! * The record is written **before** anything is removed, and is durable then. Whoever archives looks for it
//!   before it fetches, and once more when its manifest is written ([`Archive::remove_if_erased`]). One of two
//!   things has then happened: the worker sees the record and takes back what it wrote; or the record is younger
//!   than the manifest, and the eraser, which lists after it has written the record, finds all of it.
//! * Of a conversation the manifest goes first: a reader never finds one that names what is gone. Then all else
//!   that lies in its folder, under whatever date, also what a crash has left there.
//! * Killed at any point, it is completed by doing it again.
//! * The record holds no id and nothing of the conversation. Its name can be found by who knows the ids, and
//!   tells nobody else anything.
//!
//! Out of reach: older versions of objects where a bucket keeps them, its replicas and backups, and the parts of
//! an upload that a crash left unfinished (the lifecycle rule that every bucket needs removes these).

use std::{collections::HashSet, path::PathBuf};

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::{Timestamp, civil::Date};
use object_store::{GetOptions, ObjectStoreExt, PutOptions, path::Path};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Archive, ArchiveError,
    folder::{failed, files, remove},
    key::{DATE, Location, MANIFEST, project_folder},
};

const FOLDER: &str = "erasures";
const RECORD_VERSION: u32 = 1;
/// How many dates are looked at at a time.
const DATES_AT_ONCE: usize = 16;

/// The record of an erasure. It is there as long as the conversation must not come back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErasureRecord {
    /// Of this record's form.
    pub schema_version: u32,
    /// When it was first asked for.
    pub erased_at: Timestamp,
    /// When nothing was left for the last time; absent while it is going on, or after a crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// `live`, `sandbox`, …; absent where the archive did not know the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    /// How many objects were removed, by every run that came to its end.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
    /// The word, or ticket, that who erased gave for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The polyhook that wrote this.
    pub polyhook_version: String,
}

/// How much lies, or lay, in the archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoredObjects {
    /// Objects.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
}

impl StoredObjects {
    fn of(sizes: impl IntoIterator<Item = u64>) -> Self {
        sizes
            .into_iter()
            .fold(Self::default(), |sum, size| Self { objects: sum.objects + 1, bytes: sum.bytes + size })
    }
}

/// See [`Archive::erased_conversations`].
#[derive(Debug, Default)]
pub struct ErasedConversations(HashSet<String>);

impl ErasedConversations {
    /// Whether this conversation is among them.
    pub fn contain(&self, account_id: &str, project_id: &str, conversation_id: &str) -> bool {
        !self.0.is_empty() && self.0.contains(&record_name(account_id, project_id, conversation_id))
    }
}

fn record_name(account_id: &str, project_id: &str, conversation_id: &str) -> String {
    let name = Sha256::digest(format!("{account_id}\0{project_id}\0{conversation_id}"));
    format!("{}.json", hex::encode(name))
}

/// What one folder of a conversation holds.
struct Folder {
    location: Location,
    objects: Objects,
}

/// Objects with their sizes.
enum Objects {
    Files(Vec<(PathBuf, u64)>),
    Keys(Vec<(Path, u64)>),
}

impl Objects {
    fn stored_objects(&self) -> StoredObjects {
        match self {
            Self::Files(files) => StoredObjects::of(files.iter().map(|(_, size)| *size)),
            Self::Keys(keys) => StoredObjects::of(keys.iter().map(|(_, size)| *size)),
        }
    }
}

impl Archive {
    /// Whether the conversation was erased, and so must not be archived.
    pub async fn is_erased(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<bool, ArchiveError> {
        let key = self.record_key(account_id, project_id, conversation_id)?;
        Ok(self.meta(&key).await?.is_some())
    }

    /// The record of its erasure; nothing if it was not erased.
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

    /// Which conversations were erased until now, by one listing.
    pub async fn erased_conversations(&self) -> Result<ErasedConversations, ArchiveError> {
        let folder = Path::parse(format!("{}/{FOLDER}", self.backend.prefix));
        let folder = folder.map_err(object_store::Error::from)?;
        let names =
            self.backend.store.list(Some(&folder)).map_ok(|meta| meta.location.filename().map(str::to_owned));
        Ok(ErasedConversations(names.try_filter_map(async |name| Ok(name)).try_collect().await?))
    }

    /// What of it lies in the archive, erased or not, under any date; for a look before [`Archive::erase`].
    pub async fn stored_objects(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<StoredObjects, ArchiveError> {
        let folders = self.folders(account_id, project_id, conversation_id).await?;
        Ok(folders.iter().map(|folder| folder.objects.stored_objects()).fold(StoredObjects::default(), sum))
    }

    /// Removes everything of a conversation and sees to it that it does not come back. The record as it is now,
    /// and what this run has removed.
    pub async fn erase(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
        reason: Option<&str>,
    ) -> Result<(ErasureRecord, StoredObjects), ArchiveError> {
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
        // Only now can it be known; a run after a crash may find no manifest any more.
        for folder in self.folders(account_id, project_id, conversation_id).await? {
            let manifest = self.manifest(&self.key(&folder.location, MANIFEST)?, &folder.location).await;
            if let Ok(Some((manifest, _))) = manifest {
                record.environment = Some(manifest.facts.environment);
            }
        }
        self.write_record(&key, &record).await?;
        let removed = self.remove_all(account_id, project_id, conversation_id).await?;
        record.objects += removed.objects;
        record.bytes += removed.bytes;
        record.completed_at = Some(self.clock.now());
        self.write_record(&key, &record).await?;
        Ok((record, removed))
    }

    /// Whether the conversation was erased; what lies there all the same, because it was being written at that
    /// moment, is removed.
    pub async fn remove_if_erased(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<bool, ArchiveError> {
        if !self.is_erased(account_id, project_id, conversation_id).await? {
            return Ok(false);
        }
        self.remove_all(account_id, project_id, conversation_id).await?;
        Ok(true)
    }

    /// Lets an erased conversation be archived again; false if there was no record.
    pub async fn lift_erasure(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<bool, ArchiveError> {
        let key = self.record_key(account_id, project_id, conversation_id)?;
        if self.meta(&key).await?.is_none() {
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
        let key = format!("{}/{FOLDER}/{name}", self.backend.prefix);
        Path::parse(key).map_err(|error| object_store::Error::from(error).into())
    }

    async fn write_record(&self, key: &Path, record: &ErasureRecord) -> Result<(), ArchiveError> {
        let body = serde_json::to_vec_pretty(record)
            .map_err(|error| ArchiveError::Manifest { key: key.to_string(), reason: error.to_string() })?;
        let attributes = self.backend.attributes("application/json");
        let options = PutOptions { attributes, ..PutOptions::default() };
        self.backend.store.put_opts(key, body.into(), options).await?;
        Ok(())
    }

    /// The folders in which something of a conversation lies. The key needs a date that nobody may know any
    /// more, so each there is of the project is looked at.
    async fn folders(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<Vec<Folder>, ArchiveError> {
        let project = format!("{}/{}", self.backend.prefix, project_folder(account_id, project_id));
        let project = Path::parse(project).map_err(object_store::Error::from)?;
        let listed = self.backend.store.list_with_delimiter(Some(&project)).await?;
        let dates = listed
            .common_prefixes
            .iter()
            .filter_map(|folder| folder.filename()?.strip_prefix(DATE)?.parse::<Date>().ok());
        let locations: Vec<_> =
            dates.map(|date| Location::on(account_id, project_id, conversation_id, date)).collect();
        stream::iter(locations)
            .map(|location| async {
                let objects = self.objects(&location).await?;
                Ok(Folder { location, objects })
            })
            .buffer_unordered(DATES_AT_ONCE)
            .try_filter(|folder| std::future::ready(folder.objects.stored_objects().objects > 0))
            .try_collect()
            .await
    }

    async fn objects(&self, location: &Location) -> Result<Objects, ArchiveError> {
        if let Some(folder) = &self.backend.folder {
            // Not by the store, which hides what was left unfinished.
            let path = folder.path(location.folder());
            return blocking(path, files).await.map(Objects::Files);
        }
        let prefix = format!("{}/{}", self.backend.prefix, location.folder());
        let prefix = Path::parse(prefix).map_err(object_store::Error::from)?;
        let listed = self.backend.store.list(Some(&prefix)).map_ok(|meta| (meta.location, meta.size));
        Ok(Objects::Keys(listed.try_collect().await?))
    }

    async fn remove_all(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<StoredObjects, ArchiveError> {
        let mut removed = StoredObjects::default();
        for folder in self.folders(account_id, project_id, conversation_id).await? {
            removed = sum(removed, self.remove(&folder.location).await?);
        }
        Ok(removed)
    }

    /// Removes a folder, between commits and not within one.
    async fn remove(&self, location: &Location) -> Result<StoredObjects, ArchiveError> {
        let bucket = Sha256::digest(location.folder())[0];
        let _turn = self.turn(bucket).await;
        let _lock = match &self.backend.folder {
            Some(folder) => Some(folder.lock_bucket(bucket).await?),
            None => None,
        };
        let manifest = self.key(location, MANIFEST)?;
        // Damaged or of a later polyhook, it goes; but not somebody else's.
        if let Err(collision @ ArchiveError::Collision { .. }) = self.manifest(&manifest, location).await {
            return Err(collision);
        }
        // Again, now that nobody else in this process, or at this folder, is writing.
        let objects = self.objects(location).await?;
        match (&objects, &self.backend.folder) {
            (Objects::Files(_), Some(folder)) => {
                blocking(folder.path(location.folder()), |path| remove(path, MANIFEST)).await?;
            }
            (Objects::Files(_), None) => {}
            (Objects::Keys(keys), _) => {
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
        .map_err(|source| failed(&shown, source))
}
