//! The archive of conversations: a folder or a bucket. A reader never takes a partly written conversation for a
//! complete one.
//!
//! # Layout
//! ```text
//! account_id=<a>/project_id=<p>/date=<YYYY-MM-DD, UTC, of the start>/<conversation id>/
//!     conversation.json    PolyAI's bytes
//!     conversation.1.json  earlier bytes: those of revision 1
//!     audio.wav            audio.user.wav, audio.agent.wav
//!     manifest.json        written last: names the others with their sizes and hashes
//! index/                                  derived from the rest, can be removed and built again (`derived.rs`)
//! erasures/<SHA-256 of the ids>.json      marks an erased conversation that must not be archived again
//! ```
//! The key is a pure function of the ids and the start ([`Location`]). An identifier never leaves its segment of the
//! key.
//!
//! # Guarantees
//! * When [`Archive::commit`] returns, every object that the manifest names is durable (a folder is synced, a bucket
//!   has answered) and has the hash that the manifest states.
//! * A second copy of the same conversation changes nothing. A newer copy replaces an older one under the next
//!   revision, and never the other way round ([`decide_write()`]). This holds for concurrent workers, too: see
//!   [`Archive::commit`].
//! * At most one part of a recording is in memory, and a recording is visible only when it is complete
//!   ([`AudioWriter`]).
//! * `conversation.json` is never replaced without a copy of the earlier bytes (`revision.rs`).
//! * A failure leaves the archive unchanged, or leaves newer objects beside a manifest that still names the old ones.
//!   The next attempt of the job repairs the second case. Archiving deletes nothing.
//! * An erased conversation ([`Archive::begin_erasure`]) does not come back, even if a worker is archiving it at that moment.
//!
//! # Requirements for a bucket
//! * Permission to get, put and list objects, to abort multipart uploads, and to delete objects. `erase` needs the
//!   last one, and a worker that has written a conversation while it was being erased. A worker also removes the lock of
//!   each fetch with it ([`FetchLock`]), and the service of the index the notes of changes (`changes.rs`).
//! * Conditional writes (`If-None-Match`, `If-Match`). All four providers have them, and [`Archive::check`] detects a
//!   store without them.
//! * A lifecycle rule that removes unfinished multipart uploads after a day, because a crash leaves some.

use std::{
    fs::File,
    sync::{Arc, Once},
    time::Duration,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::{GetOptions, ObjectMeta, ObjectStoreExt, PutMode, PutPayload, UpdateVersion, path::Path};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::{
    clock::Clock,
    disk::{GrowingFile, SpaceUse},
    problem::Problem,
};

mod audio;
mod audit;
mod backend;
mod changes;
mod commit;
mod config;
mod day;
mod derived;
mod erasure;
mod error;
mod fetch_lock;
mod find;
mod folder;
mod folder_file;
mod folder_store;
mod key;
mod lease;
mod manifest;
mod object;
mod private_object;
mod reader;
mod revision;
mod staging;
mod stored_manifest;
mod write_decision;

pub use audio::{AudioWriter, StagedAudio};
pub use changes::ConversationChange;
pub use commit::CommitOutcome;
pub use config::{ArchiveConfig, FileMode, InvalidFileMode};
pub use day::{ArchivedDay, ConversationFolder};
pub use derived::{DerivedObject, DerivedObjectInfo, DerivedVersion};
pub use erasure::{ErasedConversations, ErasureRecord, StartedErasure, StoredObjects};
pub use error::{ArchiveError, AudioError};
pub use fetch_lock::FetchLock;
pub use find::SearchScope;
pub use key::{CONVERSATION, Location, MANIFEST, ProjectDay, encode_path_segment};
pub use lease::{ArchiveLease, check_due};
pub use manifest::{
    AudioStatus, AudioSummary, ConversationFacts, Direction, Handoff, Manifest, ManifestDraft,
    ManifestObject, ObjectKind, Provenance, SCHEMA_VERSION, ServedBy, Timings, Trigger,
};
pub use object::ObjectReader;
pub use reader::ArchiveReader;
pub use stored_manifest::StoredManifest;
pub use write_decision::{WriteDecision, decide_write};

use audio::{Destination, DroppedUploads, Upload};
use backend::StoreBackend;
use fetch_lock::WatchedLocks;
use staging::StagedFile;

/// The maximum size of a manifest. A larger object is not a manifest.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// The object that [`Archive::check`] writes.
const CHECK_OBJECT: &str = ".polyhook-check";

/// A folder or bucket of conversations. Cheap to clone; clones share their locks and connections.
#[derive(Clone, Debug)]
pub struct Archive {
    backend: Arc<StoreBackend>,
    dropped_uploads: Arc<DroppedUploads>,
    /// Marks the objects that this process writes as a lock, so that it recognises them later.
    writer: Arc<str>,
    /// One lock for each value of the first byte of a folder's hash. It serialises the commits of this process.
    commit_locks: Arc<[Mutex<()>; 256]>,
    watched_locks: WatchedLocks,
    /// Done when a foreign object among the notes of changes has been logged.
    foreign_change_logged: Arc<Once>,
    clock: Clock,
    takeover_timeout: Duration,
}

/// The locks of one commit. Keys that hash to the same byte share them.
#[derive(Debug)]
struct CommitLock<'a> {
    _folder: Option<File>,
    _process: MutexGuard<'a, ()>,
}

/// An archived conversation.
#[derive(Clone, Debug)]
pub struct StoredConversation {
    /// The conversation's manifest.
    pub manifest: Manifest,
    damaged: Vec<String>,
}

impl StoredConversation {
    /// Returns true if every object that the manifest names exists with the same size and, in a bucket, the same
    /// `ETag` or hash.
    pub fn is_intact(&self) -> bool {
        self.damaged.is_empty()
    }

    /// Returns the names of the objects that are missing or differ from the manifest.
    pub fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// Returns true if it was fetched after the end of the call, so that it is complete.
    pub fn is_final(&self) -> bool {
        !self.manifest.facts.in_progress
    }

    /// Returns true if a recording could not be had, so that another fetch may add it.
    pub fn lacks_recording(&self) -> bool {
        self.manifest.audio.status == AudioStatus::Failed
    }

    /// Returns true if the manifest names exactly these bytes as the conversation.
    pub fn names_bytes(&self, conversation: &[u8]) -> bool {
        let hash = commit::sha256(conversation);
        self.manifest.conversation().is_some_and(|object| object.sha256 == hash)
    }

    /// Returns true if a fetch would add nothing: the archive has the bytes of `conversation` and every recording in
    /// `wanted`.
    pub fn covers(&self, conversation: &[u8], wanted: &[Direction]) -> bool {
        self.is_intact()
            && self.names_bytes(conversation)
            && wanted.iter().all(|direction| self.manifest.recording(*direction).is_some())
    }
}

impl Archive {
    /// Returns everything for which [`Archive::open`] would refuse `config`, without touching the archive.
    pub fn check_config(config: &ArchiveConfig) -> Vec<Problem> {
        StoreBackend::problems(config)
    }

    /// Opens the archive. A folder is created if it does not exist. A bucket is not contacted yet, so that an
    /// unavailable store does not prevent the start; [`Archive::check`] contacts it.
    pub fn open(config: &ArchiveConfig, clock: Clock) -> Result<Self, ArchiveError> {
        Self::open_beside(config, clock, Vec::new())
    }

    /// Opens the archive like [`Archive::open`]. If it is a folder, it leaves space for the `growing` files that are on
    /// the same disk.
    pub fn open_beside(
        config: &ArchiveConfig,
        clock: Clock,
        growing: Vec<GrowingFile>,
    ) -> Result<Self, ArchiveError> {
        Ok(Self {
            backend: Arc::new(StoreBackend::open(config, growing)?),
            dropped_uploads: Arc::default(),
            writer: Uuid::new_v4().to_string().into(),
            commit_locks: Arc::new(std::array::from_fn(|_| Mutex::new(()))),
            watched_locks: WatchedLocks::default(),
            foreign_change_logged: Arc::new(Once::new()),
            clock,
            takeover_timeout: commit::TAKEOVER_TIMEOUT,
        })
    }

    /// Sets the time after which an unfinished commit, or a lease that is not renewed, may be taken over in a bucket.
    /// All workers of a bucket need the same value. A commit takes at most three quarters of it.
    #[must_use]
    pub fn with_takeover_timeout(self, takeover_timeout: Duration) -> Self {
        Self { takeover_timeout, ..self }
    }

    /// Reads the archived conversation. Returns `None` before its first commit.
    pub async fn read(&self, location: &Location) -> Result<Option<StoredConversation>, ArchiveError> {
        let key = self.key(location, MANIFEST)?;
        let Some((manifest, _)) = self.read_manifest(&key, location).await? else { return Ok(None) };
        let damaged = self.find_damage(location, &manifest, false).await?;
        Ok(Some(StoredConversation { manifest, damaged }))
    }

    /// Returns the names of the objects that are missing or differ from the manifest. With `deep`, the hash of every
    /// object is compared.
    async fn find_damage(
        &self,
        location: &Location,
        manifest: &Manifest,
        deep: bool,
    ) -> Result<Vec<String>, ArchiveError> {
        let mut damaged = Vec::new();
        for object in &manifest.objects {
            // An invalid name counts as damage, so that a manifest cannot point to another folder.
            let intact = match self.key(location, &object.name) {
                Ok(key) => self.is_intact(&key, object, deep).await?,
                Err(_) => false,
            };
            if !intact {
                damaged.push(object.name.clone());
            }
        }
        Ok(damaged)
    }

    /// Compares an object with its entry in the manifest. A bucket that was restored or copied has other `ETag`s, so
    /// the hash decides if they differ.
    async fn is_intact(&self, key: &Path, object: &ManifestObject, deep: bool) -> Result<bool, ArchiveError> {
        let Some(meta) = self.head(key).await? else { return Ok(false) };
        if meta.size != object.size_bytes {
            return Ok(false);
        }
        let same_version = object.etag.is_none() || object.etag == meta.e_tag;
        if same_version && !deep {
            return Ok(true);
        }
        Ok(self.hash_object(key).await?.is_some_and(|hash| hash == object.sha256))
    }

    /// Returns the SHA-256 of an object in hexadecimal, or `None` if there is no object.
    async fn hash_object(&self, key: &Path) -> Result<Option<String>, ArchiveError> {
        let mut hash = Sha256::new();
        let mut parts = match self.backend.store.get(key).await {
            Ok(found) => found.into_stream(),
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        while let Some(part) = parts.try_next().await? {
            hash.update(&part);
        }
        Ok(Some(hex::encode(hash.finalize())))
    }

    /// Starts to write a recording. It is not visible before it is committed. In a folder, space for its `expected`
    /// bytes is claimed at once, if they are known.
    pub async fn recording_writer(
        &self,
        location: &Location,
        direction: Direction,
        expected: Option<u64>,
    ) -> Result<AudioWriter, ArchiveError> {
        self.abort_dropped_uploads().await;
        let destination = match &self.backend.folder {
            Some(folder) => {
                let expected = expected.unwrap_or_default();
                Destination::Folder(StagedFile::create(folder, expected, SpaceUse::Recording).await?)
            }
            None => Destination::Bucket {
                key: self.key(location, direction.file_name())?,
                upload: Upload::new(Arc::clone(&self.dropped_uploads)),
                interrupted: false,
            },
        };
        Ok(AudioWriter::new(Arc::clone(&self.backend), direction, destination))
    }

    /// Checks that the archive's folder can be written, and that the largest recording that did not fit before fits
    /// now. Returns `Ok` for a bucket.
    pub async fn check_disk(&self) -> Result<(), ArchiveError> {
        let Some(folder) = self.backend.folder.clone() else { return Ok(()) };
        tokio::task::spawn_blocking(move || folder.check_disk())
            .await
            .unwrap_or(Err(ArchiveError::Interrupted))
    }

    /// Waits until a write into the archive's folder has failed. Waits forever for a bucket.
    pub async fn write_failed(&self) {
        match &self.backend.folder {
            Some(folder) => folder.write_failed().await,
            None => std::future::pending().await,
        }
    }

    /// Aborts the uploads that were dropped unfinished. Every new recording does this, too. Call it before the
    /// process ends.
    pub async fn abort_dropped_uploads(&self) {
        self.dropped_uploads.abort_all().await;
    }

    /// Returns true if the archive is a folder, and not a bucket.
    pub fn is_folder(&self) -> bool {
        self.backend.folder.is_some()
    }

    /// Returns the URL of an object: `file:///…` (percent-encoded), or `s3://bucket/key`, `gs://…`, `az://…` with the
    /// literal key, as the providers' own tools expect it.
    pub fn object_url(&self, location: &Location, name: &str) -> Result<String, ArchiveError> {
        Ok(self.backend.url(&self.key(location, name)?))
    }

    /// Checks that conversations can be archived safely now: writes a small object and verifies that a second,
    /// conditional write of it is rejected.
    pub async fn check(&self) -> Result<(), ArchiveError> {
        // Only in a folder is the object removed, which must not disturb another check.
        let id = self
            .backend
            .folder
            .as_ref()
            .map_or_else(String::new, |_| format!("-{}", Uuid::new_v4().simple()));
        let key = Path::parse(format!("{}/{CHECK_OBJECT}{id}", self.backend.prefix))
            .map_err(object_store::Error::from)?;
        let body = PutPayload::from_static(b"polyhook was here\n");
        let put = |mode| {
            let attributes = self.backend.attributes("text/plain");
            self.backend.put(&key, body.clone(), mode, attributes, SpaceUse::Document)
        };
        put(PutMode::Overwrite).await?;
        let again = put(PutMode::Create).await;
        let verdict = again.and_then(|written| match written {
            None => Ok(()),
            Some(_) => Err(ArchiveError::Unconditional),
        });
        if self.backend.folder.is_some() {
            self.backend.store.delete(&key).await?;
        }
        verdict
    }

    fn key(&self, location: &Location, name: &str) -> Result<Path, ArchiveError> {
        location.key(&self.backend.prefix, name).map_err(|error| object_store::Error::from(error).into())
    }

    /// Returns the key of an object whose place is relative to the archive's root.
    fn root_key(&self, key: &str) -> Result<Path, ArchiveError> {
        Ok(Path::parse(format!("{}/{key}", self.backend.prefix)).map_err(object_store::Error::from)?)
    }

    /// Waits until no other commit or removal changes the conversation's folder: in this process, and for a file
    /// archive in other processes, too.
    async fn lock_commits(&self, location: &Location) -> Result<CommitLock<'_>, ArchiveError> {
        self.lock_key(location.folder()).await
    }

    /// Takes the lock of a key: in this process, and for a file archive in other processes, too.
    async fn lock_key(&self, key: &str) -> Result<CommitLock<'_>, ArchiveError> {
        let lock_index = Sha256::digest(key)[0];
        let process = self.commit_locks[usize::from(lock_index)].lock().await;
        let folder = match &self.backend.folder {
            Some(folder) => Some(folder.lock_commits(lock_index).await?),
            None => None,
        };
        Ok(CommitLock { _folder: folder, _process: process })
    }

    async fn read_manifest(
        &self,
        key: &Path,
        location: &Location,
    ) -> Result<Option<(Manifest, UpdateVersion)>, ArchiveError> {
        let Some((manifest, version)) = self.read_any_manifest(key).await? else { return Ok(None) };
        let ids = [&manifest.account_id, &manifest.project_id, &manifest.conversation_id];
        if ids != [location.account_id(), location.project_id(), location.conversation_id()] {
            return Err(ArchiveError::Collision { key: key.to_string() });
        }
        Ok(Some((manifest, version)))
    }

    /// Reads the manifest at `key` of any conversation.
    async fn read_any_manifest(&self, key: &Path) -> Result<Option<(Manifest, UpdateVersion)>, ArchiveError> {
        let Some((meta, bytes)) = self.get_manifest(key).await? else { return Ok(None) };
        let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
        Ok(Some((manifest::parse(key, &bytes)?, version)))
    }

    /// Reads the bytes of a manifest.
    async fn get_manifest(&self, key: &Path) -> Result<Option<(ObjectMeta, Bytes)>, ArchiveError> {
        let found = match self.backend.store.get_opts(key, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if found.meta.size > MAX_MANIFEST_BYTES {
            let reason = format!("{} bytes", found.meta.size);
            return Err(ArchiveError::Manifest { key: key.to_string(), reason });
        }
        Ok(Some((found.meta.clone(), found.bytes().await?)))
    }

    async fn head(&self, key: &Path) -> Result<Option<ObjectMeta>, ArchiveError> {
        match self.backend.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns true if the condition of a write was not met.
fn is_conflict(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(error, E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. })
}
