//! Where conversations are kept: a folder or a bucket, written so that a reader never mistakes half for whole.
//!
//! # What lies where
//! ```text
//! account_id=<a>/project_id=<p>/date=<YYYY-MM-DD, UTC, of the start>/<conversation id>/
//!     conversation.json    PolyAI's bytes
//!     audio.wav            audio.user.wav, audio.agent.wav
//!     manifest.json        last: it names the others with their sizes and hashes
//! erasures/<SHA-256 of the ids>.json      that a conversation was erased, and must not come back
//! ```
//! The key is a pure function of ids and start ([`Location`]); no identifier leaves its segment.
//!
//! # What is promised
//! * When [`Archive::commit`] returns, everything the manifest names is durable (a folder is synced, a
//!   bucket has answered) and has the hashes it says.
//! * A second copy of the same conversation changes nothing; a newer one replaces the older under the next
//!   revision; an older one never replaces a newer ([`decide_write()`]). That holds for workers that race, too: see
//!   [`Archive::commit`].
//! * A recording is in memory for one part at most, and in sight only once it is whole ([`AudioWriter`]).
//! * What fails leaves the archive as it was, or with data objects ahead of a manifest that still names the
//!   old ones; the job's next try mends that. Archiving deletes nothing.
//! * What was erased ([`Archive::erase`]) does not come back, whoever is just about to archive it.
//!
//! # What a bucket needs
//! Permission to get, put, list and abort multipart uploads, and to delete for who erases (a worker deletes only
//! what it has itself written while the conversation was being erased); conditional writes (`If-None-Match`, `If-Match`; all
//! four providers have them, [`Archive::check`] tells of others); a lifecycle rule that removes unfinished
//! multipart uploads after a day, because a crash leaves some.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use object_store::{
    GetOptions, ObjectMeta, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path,
};
use tokio::sync::{Mutex, MutexGuard};

use crate::clock::Clock;

mod audio;
mod audit;
mod backend;
mod commit;
mod config;
mod day;
mod erasure;
mod error;
mod folder;
mod key;
mod lease;
mod manifest;
mod write_decision;

pub use audio::{AudioWriter, StagedAudio};
pub use commit::CommitOutcome;
pub use config::ArchiveConfig;
pub use day::{ArchivedDay, ConversationFolder};
pub use erasure::{ErasedConversations, ErasureRecord, StoredObjects};
pub use error::{ArchiveError, AudioError};
pub use key::{CONVERSATION, Location, MANIFEST};
pub use lease::ArchiveLease;
pub use manifest::{
    AudioStatus, AudioSummary, ConversationFacts, Direction, Handoff, Manifest, ManifestDraft,
    ManifestObject, ObjectKind, Provenance, SCHEMA_VERSION, ServedBy, Timings, Trigger,
};
pub use write_decision::{WriteDecision, decide_write};

use audio::Abandoned;
use backend::Backend;

/// Nobody's manifest is larger; what is, is something else.
const MANIFEST_LIMIT: u64 = 1 << 20;
/// The object that [`Archive::check`] writes.
const PROBE: &str = ".polyhook-check";

/// A folder or bucket of conversations. Cheap to clone; clones share their locks and connections.
#[derive(Clone, Debug)]
pub struct Archive {
    backend: Arc<Backend>,
    abandoned: Arc<Abandoned>,
    /// Conversations whose folders hash to the same byte are committed one after the other.
    turns: Arc<[Mutex<()>; 256]>,
    clock: Clock,
    patience: Duration,
}

/// A conversation as it lies in the archive.
#[derive(Clone, Debug)]
pub struct StoredConversation {
    /// What the manifest says.
    pub manifest: Manifest,
    damaged: Vec<String>,
    version: UpdateVersion,
}

impl StoredConversation {
    /// Whether every object the manifest names is there, in the size and (in a bucket) the very version it
    /// names.
    pub fn is_intact(&self) -> bool {
        self.damaged.is_empty()
    }

    /// The objects that are not as the manifest names them.
    pub fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// Whether it was fetched after the call had ended, so that it is all there is.
    pub fn is_final(&self) -> bool {
        !self.manifest.facts.in_progress
    }

    /// Whether there is nothing to add: these are `conversation`'s bytes, and every recording `wanted` is
    /// here, whole.
    pub fn covers(&self, conversation: &[u8], wanted: &[Direction]) -> bool {
        self.is_intact()
            && self
                .manifest
                .conversation()
                .is_some_and(|object| object.sha256 == commit::sha256(conversation))
            && wanted.iter().all(|direction| self.manifest.recording(*direction).is_some())
    }
}

impl Archive {
    /// Whether `config` makes an archive; touches nothing.
    pub fn check_config(config: &ArchiveConfig) -> Result<(), ArchiveError> {
        Backend::check(config)
    }

    /// Opens the archive. A folder is made if it is not there; a bucket is not spoken to yet, so that a
    /// store that is down does not keep the service from starting: [`Archive::check`] asks it.
    pub fn open(config: &ArchiveConfig, clock: Clock) -> Result<Self, ArchiveError> {
        Ok(Self {
            backend: Arc::new(Backend::open(config)?),
            abandoned: Arc::default(),
            turns: Arc::new(std::array::from_fn(|_| Mutex::new(()))),
            clock,
            patience: commit::PATIENCE,
        })
    }

    /// In a bucket: how long a commit that another worker began and does not finish is respected, and a lease whose
    /// holder is silent. All workers of a bucket need the same; a commit itself may take three quarters of it.
    #[must_use]
    pub fn with_takeover_timeout(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// What is archived of a conversation; nothing before its first commit.
    pub async fn read(&self, location: &Location) -> Result<Option<StoredConversation>, ArchiveError> {
        let key = self.key(location, MANIFEST)?;
        let Some((manifest, version)) = self.manifest(&key, location).await? else { return Ok(None) };
        self.examine(location, manifest, version).await.map(Some)
    }

    /// Looks for what a manifest names.
    async fn examine(
        &self,
        location: &Location,
        manifest: Manifest,
        version: UpdateVersion,
    ) -> Result<StoredConversation, ArchiveError> {
        let mut damaged = Vec::new();
        for object in &manifest.objects {
            // A name is a name: a manifest cannot make us look elsewhere.
            let meta = match self.key(location, &object.name) {
                Ok(key) => self.meta(&key).await?,
                Err(_) => None,
            };
            let intact = meta.is_some_and(|meta| {
                meta.size == object.size_bytes && (object.etag.is_none() || object.etag == meta.e_tag)
            });
            if !intact {
                damaged.push(object.name.clone());
            }
        }
        Ok(StoredConversation { manifest, damaged, version })
    }

    /// Takes a recording. Nobody sees it before it is committed.
    pub async fn recording_writer(
        &self,
        location: &Location,
        direction: Direction,
    ) -> Result<AudioWriter, ArchiveError> {
        self.abort_dropped_uploads().await;
        let key = match &self.backend.folder {
            None => self.key(location, direction.file_name())?,
            Some(folder) => Path::parse(folder.staging_key()).map_err(object_store::Error::from)?,
        };
        Ok(AudioWriter::new(Arc::clone(&self.backend), Arc::clone(&self.abandoned), key, direction))
    }

    /// Takes back the uploads that were dropped unfinished. Done whenever a recording is begun; worth a call
    /// before the process ends.
    pub async fn abort_dropped_uploads(&self) {
        self.abandoned.abort_all().await;
    }

    /// The URL of an object: `file:///…` (percent-encoded), or `s3://bucket/key`, `gs://…`, `az://…` with the
    /// key as it is, which is how the providers' own tools take it.
    pub fn object_url(&self, location: &Location, name: &str) -> Result<String, ArchiveError> {
        Ok(self.backend.url(&self.key(location, name)?))
    }

    /// Whether a conversation could be archived right now, and safely: writes a small object and sees that a
    /// second, conditional write of it is refused.
    pub async fn check(&self) -> Result<(), ArchiveError> {
        let key =
            Path::parse(format!("{}/{PROBE}", self.backend.prefix)).map_err(object_store::Error::from)?;
        let body = PutPayload::from_static(b"polyhook was here\n");
        self.backend.store.put(&key, body.clone()).await?;
        let again = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let verdict = match self.backend.store.put_opts(&key, body, again).await {
            Err(error) if conflicted(&error) => Ok(()),
            Ok(_) => Err(ArchiveError::Unconditional),
            Err(error) => Err(error.into()),
        };
        if self.backend.folder.is_some() {
            self.backend.store.delete(&key).await?;
        }
        verdict
    }

    fn key(&self, location: &Location, name: &str) -> Result<Path, ArchiveError> {
        location.key(&self.backend.prefix, name).map_err(|error| object_store::Error::from(error).into())
    }

    /// Waits for this process's turn with a bucket of conversations.
    async fn turn(&self, bucket: u8) -> MutexGuard<'_, ()> {
        self.turns[usize::from(bucket)].lock().await
    }

    async fn manifest(
        &self,
        key: &Path,
        location: &Location,
    ) -> Result<Option<(Manifest, UpdateVersion)>, ArchiveError> {
        let Some((manifest, version)) = self.any_manifest(key).await? else { return Ok(None) };
        let ids = [&manifest.account_id, &manifest.project_id, &manifest.conversation_id];
        if ids != [location.account_id(), location.project_id(), location.conversation_id()] {
            return Err(ArchiveError::Collision { key: key.to_string() });
        }
        Ok(Some((manifest, version)))
    }

    /// The manifest at `key`, whosever it is.
    async fn any_manifest(&self, key: &Path) -> Result<Option<(Manifest, UpdateVersion)>, ArchiveError> {
        let found = match self.backend.store.get_opts(key, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if found.meta.size > MANIFEST_LIMIT {
            let reason = format!("{} bytes", found.meta.size);
            return Err(ArchiveError::Manifest { key: key.to_string(), reason });
        }
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        Ok(Some((parse(key, &found.bytes().await?)?, version)))
    }

    async fn meta(&self, key: &Path) -> Result<Option<ObjectMeta>, ArchiveError> {
        match self.backend.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

fn parse(key: &Path, bytes: &Bytes) -> Result<Manifest, ArchiveError> {
    #[derive(serde::Deserialize)]
    struct Version {
        schema_version: u32,
    }
    let unreadable = |error: serde_json::Error| ArchiveError::Manifest {
        key: key.to_string(),
        // Not the error itself, which may quote what it found.
        reason: format!("line {}, column {}", error.line(), error.column()),
    };
    let version = serde_json::from_slice::<Version>(bytes).map_err(unreadable)?.schema_version;
    if version > SCHEMA_VERSION {
        return Err(ArchiveError::Newer { key: key.to_string(), version });
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

/// The condition of a write did not hold.
fn conflicted(error: &object_store::Error) -> bool {
    use object_store::Error as E;
    matches!(error, E::AlreadyExists { .. } | E::Precondition { .. } | E::NotModified { .. })
}
