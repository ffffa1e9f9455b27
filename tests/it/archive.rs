//! The archive in a folder and in an S3 store.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future::join_all};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as Key};
use polyhook::{
    archive::{
        Archive, ArchiveConfig, ArchiveError, AudioError, AudioStatus, AudioSummary, CONVERSATION,
        CommitOutcome, ConversationFacts, Direction, Handoff, Location, MANIFEST, Manifest, ManifestDraft,
        Provenance, ServedBy, StagedAudio, Trigger,
    },
    clock::Clock,
    secret::Secret,
    wav::{StreamEnd, WavDefect},
};
use sha2::{Digest, Sha256};

use crate::support::{
    erasure::erase_objects,
    ports,
    seaweed::{BUCKET, Seaweed},
};

mod commit;
mod configuration;
mod derived;
mod erasure;
mod full_disk;
mod keys;
mod own_writes;
mod permissions;
mod recordings;
mod restored;
mod revisions;

const STARTED_AT: &str = "2026-11-22T10:00:00Z";

/// A store, the archive in it, and direct access to the same store.
struct ArchiveFixture {
    archive: Archive,
    config: ArchiveConfig,
    raw_store: Arc<dyn ObjectStore>,
    /// The prefix of the archive's keys in `raw_store`.
    prefix: String,
    root: Option<PathBuf>,
    _folder: Option<tempfile::TempDir>,
    server: Option<Arc<Seaweed>>,
}

impl ArchiveFixture {
    fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("deep/archive");
        let config = ArchiveConfig { url: format!("file:{}", root.display()), ..ArchiveConfig::default() };
        let archive = Archive::open(&config, Clock::System).unwrap();
        let raw_store = Arc::new(LocalFileSystem::new_with_prefix(&root).unwrap());
        Self {
            archive,
            config,
            raw_store,
            prefix: String::new(),
            root: Some(root),
            _folder: Some(folder),
            server: None,
        }
    }

    async fn s3(name: &str) -> Self {
        Self::on(Seaweed::shared().await, name)
    }

    fn on(server: Arc<Seaweed>, name: &str) -> Self {
        let config = server.config(name);
        Self {
            archive: Archive::open(&config, Clock::System).unwrap(),
            config,
            raw_store: Arc::new(server.client()),
            prefix: format!("{name}/"),
            root: None,
            _folder: None,
            server: Some(server),
        }
    }

    /// Opens the archive again, without the locks and the memory of the first one.
    fn other_process(&self) -> Archive {
        Archive::open(&self.config, Clock::System).unwrap()
    }

    fn key(&self, location: &Location, name: &str) -> Key {
        Key::parse(format!("{}{}/{name}", self.prefix, location.folder())).unwrap()
    }

    async fn bytes(&self, location: &Location, name: &str) -> Bytes {
        self.raw_store.get(&self.key(location, name)).await.unwrap().bytes().await.unwrap()
    }

    async fn manifest(&self, location: &Location) -> Manifest {
        serde_json::from_slice(&self.bytes(location, MANIFEST).await).unwrap()
    }

    /// Returns all objects by key, except those in the archive's private folder.
    async fn objects(&self) -> BTreeMap<String, ObjectMeta> {
        let prefix =
            (!self.prefix.is_empty()).then(|| Key::parse(self.prefix.trim_end_matches('/')).unwrap());
        let all: Vec<_> = self.raw_store.list(prefix.as_ref()).try_collect().await.unwrap();
        let named = all.into_iter().map(|meta| (meta.location.to_string(), meta));
        named.filter(|(key, _)| !key.contains(".polyhook")).collect()
    }

    /// Checks that the manifest's sizes and hashes match the stored bytes.
    async fn assert_consistent(&self, location: &Location) -> Manifest {
        let manifest = self.manifest(location).await;
        assert_eq!(manifest.objects[0].name, CONVERSATION);
        for object in &manifest.objects {
            let mut stream =
                self.raw_store.get(&self.key(location, &object.name)).await.unwrap().into_stream();
            let (mut hash, mut size) = (Sha256::new(), 0);
            while let Some(bytes) = stream.next().await {
                let bytes = bytes.unwrap();
                hash.update(&bytes);
                size += bytes.len() as u64;
            }
            assert_eq!(
                (size, hex::encode(hash.finalize())),
                (object.size_bytes, object.sha256.clone()),
                "{object:?}"
            );
        }
        assert!(self.archive.read(location).await.unwrap().unwrap().is_intact());
        manifest
    }

    /// Checks that no unfinished recording is left.
    async fn assert_no_leftovers(&self) {
        if let Some(root) = &self.root {
            // The runtime's blocking threads remove the file of a dropped upload.
            for _ in 0..100 {
                let left: Vec<_> = files(root).into_iter().filter(|path| is_leftover(path)).collect();
                if left.is_empty() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!("left behind: {:?}", files(root));
        }
        if let Some(server) = &self.server {
            let mut uploads = server.unfinished_uploads();
            uploads.retain(|key| key.starts_with(&self.prefix));
            assert!(uploads.is_empty(), "{uploads:?}");
        }
    }
}

fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name.contains('#') || (path.to_string_lossy().contains(".polyhook/staging/") && name != "lock")
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

fn location(id: &str) -> Location {
    Location::new("acme-uk", "PROJECT-1", id, STARTED_AT.parse().unwrap())
}

fn wav(samples: u32, tone: i16) -> Bytes {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 8000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for _ in 0..samples {
        writer.write_sample(tone).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner().into()
}

fn draft(turns: u64, audio: AudioStatus) -> ManifestDraft {
    ManifestDraft {
        facts: ConversationFacts {
            channel: "VOICE-SIP".to_owned(),
            environment: "live".to_owned(),
            direction: None,
            started_at: STARTED_AT.parse().unwrap(),
            finished_at: None,
            total_duration_s: Some(12.5),
            polyai_duration_s: None,
            handoff: Some(Handoff {
                reason: Some("billing".to_owned()),
                destination: Some("+44 20 7946 0018".to_owned()),
            }),
            turn_count: turns,
            in_progress: false,
            summarised: false,
        },
        provenance: Provenance {
            served_by: ServedBy::V3,
            trigger: Trigger::Webhook,
            event_id: Some("evt-1".to_owned()),
        },
        received_at: Some("2026-11-22T10:05:00Z".parse().unwrap()),
        fetched_at: "2026-11-22T10:05:01Z".parse().unwrap(),
        audio: AudioSummary { status: audio, redacted: false },
        warnings: Vec::new(),
        force_rewrite: false,
        json_only: false,
    }
}

async fn stage(
    archive: &Archive,
    location: &Location,
    direction: Direction,
    recording: &Bytes,
) -> StagedAudio {
    let mut writer = archive.recording_writer(location, direction, None).await.unwrap();
    for piece in recording.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.finish(StreamEnd::Announced(recording.len() as u64)).await.unwrap()
}

async fn commit(
    archive: &Archive,
    location: &Location,
    draft: &ManifestDraft,
    body: &str,
    recording: Option<&Bytes>,
) -> Result<CommitOutcome, ArchiveError> {
    let mut audio = Vec::new();
    if let Some(recording) = recording {
        audio.push(stage(archive, location, Direction::Combined, recording).await);
    }
    archive.commit(location, draft, Bytes::from(body.to_owned()), audio).await
}

fn expect_written(committed: CommitOutcome) -> Manifest {
    match committed {
        CommitOutcome::Written(manifest) => manifest,
        other => panic!("{other:?}"),
    }
}

/// Runs each function of each module as a test on both stores.
macro_rules! on_both_stores {
    ($($module:ident: [$($name:ident),+ $(,)?]),+ $(,)?) => {
        mod on_files {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$module::$name(super::ArchiveFixture::file()).await; })+)+
        }
        mod on_s3 {
            $($(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$module::$name(super::ArchiveFixture::s3(stringify!($name)).await).await;
            })+)+
        }
    };
}

on_both_stores! {
    commit: [
        archives_every_object_of_the_manifest,
        a_second_delivery_changes_nothing,
        an_older_copy_never_replaces_a_newer_one,
        concurrent_writers_leave_the_newest_copy_complete,
        repairs_missing_objects,
        does_not_overwrite_foreign_manifests,
        takes_over_from_a_dead_writer,
        a_check_leaves_no_objects,
    ],
    derived: [
        concurrent_replacements_lose_no_update,
        only_the_version_that_was_read_is_replaced,
        notes_of_changes_are_listed_until_they_are_removed,
        a_stored_manifest_has_the_time_of_the_listing,
    ],
    recordings: [
        late_recordings_are_added_and_kept,
        bad_recordings_leave_no_objects,
        dropped_recordings_leave_no_objects,
        a_long_recording_needs_little_memory,
        whole_recordings_with_a_wrong_header_are_kept,
        a_short_recording_can_be_kept_outside_memory,
    ],
    revisions: [
        keeps_the_bytes_of_every_earlier_revision,
        a_crash_between_two_writes_loses_no_revision,
        a_damaged_revision_is_found_and_named_by_the_repair,
    ],
    keys: [
        hostile_ids_stay_in_their_folders,
    ],
    erasure: [
        erases_all_copies_of_one_conversation,
        an_erasure_record_reveals_nothing,
        an_erased_conversation_stays_erased_until_the_erasure_is_lifted,
        an_erasure_wins_over_concurrent_writers,
        does_not_erase_another_conversation_with_the_same_key,
    ],
}
