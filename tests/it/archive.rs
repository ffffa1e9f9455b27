//! The archive's contract, on a folder and on a real S3.

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
};
use sha2::{Digest, Sha256};

use self::erasure::{
    an_erasure_beats_those_who_are_writing, somebody_else_s_conversation_is_not_erased,
    what_is_erased_is_gone_and_stays_away,
};
use crate::support::{
    ports,
    seaweed::{BUCKET, Seaweed},
};

mod erasure;

const TEN: &str = "2026-11-22T10:00:00Z";

/// A store, the archive over it, and a second look at it that owes nothing to the archive.
struct Bench {
    archive: Archive,
    config: ArchiveConfig,
    raw: Arc<dyn ObjectStore>,
    /// What the raw view puts before a key.
    prefix: String,
    root: Option<PathBuf>,
    _folder: Option<tempfile::TempDir>,
    server: Option<Arc<Seaweed>>,
}

impl Bench {
    fn file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("deep/archive");
        let config = ArchiveConfig { url: format!("file:{}", root.display()), ..ArchiveConfig::default() };
        let archive = Archive::open(&config, Clock::System).unwrap();
        let raw = Arc::new(LocalFileSystem::new_with_prefix(&root).unwrap());
        Self {
            archive,
            config,
            raw,
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
            raw: Arc::new(server.client()),
            prefix: format!("{name}/"),
            root: None,
            _folder: None,
            server: Some(server),
        }
    }

    /// Another process, as far as locks and memory go.
    fn other_process(&self) -> Archive {
        Archive::open(&self.config, Clock::System).unwrap()
    }

    fn key(&self, location: &Location, name: &str) -> Key {
        Key::parse(format!("{}{}/{name}", self.prefix, location.folder())).unwrap()
    }

    async fn bytes(&self, location: &Location, name: &str) -> Bytes {
        self.raw.get(&self.key(location, name)).await.unwrap().bytes().await.unwrap()
    }

    async fn manifest(&self, location: &Location) -> Manifest {
        serde_json::from_slice(&self.bytes(location, MANIFEST).await).unwrap()
    }

    /// Every object but the archive's own, by key.
    async fn objects(&self) -> BTreeMap<String, ObjectMeta> {
        let prefix =
            (!self.prefix.is_empty()).then(|| Key::parse(self.prefix.trim_end_matches('/')).unwrap());
        let all: Vec<_> = self.raw.list(prefix.as_ref()).try_collect().await.unwrap();
        let named = all.into_iter().map(|meta| (meta.location.to_string(), meta));
        named.filter(|(key, _)| !key.contains(".polyhook")).collect()
    }

    /// The manifest's sizes and hashes are those of the bytes that lie there.
    async fn assert_consistent(&self, location: &Location) -> Manifest {
        let manifest = self.manifest(location).await;
        assert_eq!(manifest.objects[0].name, CONVERSATION);
        for object in &manifest.objects {
            let mut stream = self.raw.get(&self.key(location, &object.name)).await.unwrap().into_stream();
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

    /// Nothing of an unfinished recording is left.
    async fn assert_tidy(&self) {
        if let Some(root) = &self.root {
            // The removal of a dropped upload's file is left to the runtime's blocking threads.
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

fn place(id: &str) -> Location {
    Location::new("acme-uk", "PROJECT-1", id, TEN.parse().unwrap())
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
            started_at: TEN.parse().unwrap(),
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
        again: false,
    }
}

async fn stage(archive: &Archive, place: &Location, which: Direction, sound: &Bytes) -> StagedAudio {
    let mut writer = archive.recording_writer(place, which).await.unwrap();
    for piece in sound.chunks(100_000) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    writer.finish(Some(sound.len() as u64)).await.unwrap()
}

async fn commit(
    archive: &Archive,
    place: &Location,
    draft: &ManifestDraft,
    body: &str,
    sound: Option<&Bytes>,
) -> Result<CommitOutcome, ArchiveError> {
    let mut audio = Vec::new();
    if let Some(sound) = sound {
        audio.push(stage(archive, place, Direction::Combined, sound).await);
    }
    archive.commit(place, draft, Bytes::from(body.to_owned()), audio).await
}

fn written(committed: CommitOutcome) -> Manifest {
    match committed {
        CommitOutcome::Written(manifest) => manifest,
        other => panic!("{other:?}"),
    }
}

/// Runs each function as a test on both stores.
macro_rules! on_both_stores {
    ($($name:ident),+ $(,)?) => {
        mod on_files {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Bench::file()).await; })+
        }
        mod on_s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name(super::Bench::s3(stringify!($name)).await).await; })+
        }
    };
}

on_both_stores!(
    archives_everything_it_names,
    a_second_delivery_changes_nothing,
    newer_replaces_older_and_never_the_other_way_round,
    recordings_come_late_and_stay,
    bad_recordings_leave_nothing,
    dropped_recordings_leave_nothing,
    a_long_recording_takes_little_memory,
    racing_writers_leave_the_newest_whole,
    hostile_ids_stay_in_their_place,
    damage_is_mended,
    foreign_manifests_are_not_overwritten,
    a_dead_writer_is_taken_over,
    can_be_checked,
    what_is_erased_is_gone_and_stays_away,
    an_erasure_beats_those_who_are_writing,
    somebody_else_s_conversation_is_not_erased,
);

async fn archives_everything_it_names(bench: Bench) {
    let (archive, place) = (&bench.archive, place("first"));
    assert!(archive.read(&place).await.unwrap().is_none());
    let (both, user) = (wav(16_000, 5), wav(8000, 6));
    let audio = vec![
        stage(archive, &place, Direction::Combined, &both).await,
        stage(archive, &place, Direction::User, &user).await,
    ];
    assert!(bench.objects().await.is_empty(), "nothing is in sight before the commit");
    let body = Bytes::from_static(b" {\"id\": \"first\"}\n");
    let draft = draft(3, AudioStatus::Ready);
    let manifest = written(archive.commit(&place, &draft, body.clone(), audio).await.unwrap());

    let folder = format!("{}account_id=acme-uk/project_id=PROJECT-1/date=2026-11-22/first", bench.prefix);
    let keys: Vec<_> = bench.objects().await.into_keys().collect();
    let names = ["audio.user.wav", "audio.wav", "conversation.json", "manifest.json"];
    assert_eq!(keys, names.map(|name| format!("{folder}/{name}")));
    assert_eq!(bench.bytes(&place, CONVERSATION).await, body);
    assert_eq!(bench.bytes(&place, "audio.wav").await, both);
    assert_eq!(bench.bytes(&place, "audio.user.wav").await, user);
    assert_eq!(bench.assert_consistent(&place).await, manifest);
    assert_eq!(manifest.revision, 1);
    let sound = manifest.recording(Direction::Combined).unwrap().wav.as_ref().unwrap();
    assert!((sound.seconds - 2.0).abs() < 1e-9);
    let handoff = manifest.facts.handoff.unwrap();
    assert_eq!((handoff.reason.as_deref(), handoff.destination), (Some("billing"), None), "no numbers");

    let stored = archive.read(&place).await.unwrap().unwrap();
    assert!(stored.covers(&body, &[Direction::Combined, Direction::User]));
    assert!(!stored.covers(&body, &[Direction::Agent]) && !stored.covers(b"other", &[]));
    let url = archive.object_url(&place, "audio.wav").unwrap();
    if let Some(root) = &bench.root {
        let path = url::Url::parse(&url).unwrap().to_file_path().unwrap();
        assert_eq!(path, root.canonicalize().unwrap().join(&folder).join("audio.wav"));
    } else {
        assert_eq!(url, format!("s3://{BUCKET}/{folder}/audio.wav"));
        let found = bench.raw.get(&bench.key(&place, "audio.wav")).await.unwrap();
        let kind = found.attributes.get(&object_store::Attribute::ContentType).unwrap();
        assert_eq!(kind.as_ref(), "audio/wav");
    }
    bench.assert_tidy().await;
}

async fn a_second_delivery_changes_nothing(bench: Bench) {
    let (archive, place, sound) = (&bench.archive, place("twice"), wav(16_000, 5));
    let ready = draft(3, AudioStatus::Ready);
    let manifest = written(commit(archive, &place, &ready, "{}", Some(&sound)).await.unwrap());
    let before = bench.objects().await;
    for again in [
        commit(archive, &place, &ready, "{}", Some(&sound)).await,
        commit(archive, &place, &draft(3, AudioStatus::Absent), "{}", None).await,
        commit(&bench.other_process(), &place, &ready, "{}", Some(&sound)).await,
    ] {
        assert_eq!(again.unwrap(), CommitOutcome::Unchanged(manifest.clone()));
    }
    assert_eq!(bench.objects().await, before, "no object was written again");
    bench.assert_tidy().await;
}

async fn newer_replaces_older_and_never_the_other_way_round(bench: Bench) {
    let (archive, place) = (&bench.archive, place("grows"));
    let mut early = draft(2, AudioStatus::Absent);
    early.facts.in_progress = true;
    let late = draft(5, AudioStatus::Ready);
    assert_eq!(written(commit(archive, &place, &early, "early", None).await.unwrap()).revision, 1);
    let sound = wav(8000, 1);
    let manifest = written(commit(archive, &place, &late, "late", Some(&sound)).await.unwrap());
    assert_eq!(manifest.revision, 2);
    let stale = commit(archive, &place, &early, "early", None).await.unwrap();
    assert_eq!(stale, CommitOutcome::Stale(manifest.clone()));
    // A summary was written afterwards; the recording of the older copy stays.
    let mut summarised = draft(5, AudioStatus::Absent);
    summarised.facts.summarised = true;
    let manifest = written(commit(archive, &place, &summarised, "late and summarised", None).await.unwrap());
    assert_eq!((manifest.revision, manifest.audio.status), (3, AudioStatus::Ready));
    assert_eq!(bench.assert_consistent(&place).await.objects.len(), 2);
    assert_eq!(bench.bytes(&place, CONVERSATION).await, "late and summarised");
}

async fn recordings_come_late_and_stay(bench: Bench) {
    let (archive, place) = (&bench.archive, place("late-audio"));
    written(commit(archive, &place, &draft(3, AudioStatus::Absent), "{}", None).await.unwrap());
    let ready = draft(3, AudioStatus::Ready);
    let manifest = written(commit(archive, &place, &ready, "{}", Some(&wav(8000, 1))).await.unwrap());
    assert_eq!((manifest.revision, manifest.audio.status), (2, AudioStatus::Ready));
    // One more direction.
    let agent = stage(archive, &place, Direction::Agent, &wav(4000, 2)).await;
    let manifest = written(archive.commit(&place, &ready, "{}".into(), vec![agent]).await.unwrap());
    assert_eq!((manifest.revision, manifest.objects.len()), (3, 3));
    bench.assert_consistent(&place).await;
}

async fn bad_recordings_leave_nothing(bench: Bench) {
    let place = place("bad");
    let sound = wav(6 << 20, 3);
    let cut = sound.slice(..sound.len() - 10);
    let announced = sound.len() as u64;
    for (bytes, announced, label) in [
        (Bytes::from_static(b"<html><body>Bad gateway</body></html>"), None, "not_wav"),
        (Bytes::new(), None, "empty"),
        (sound.slice(..44), Some(44), "no_sound"),
        (cut.clone(), Some(announced), "wrong_length"),
        (cut, None, "truncated"),
    ] {
        let mut writer = bench.archive.recording_writer(&place, Direction::Combined).await.unwrap();
        let outcome = match writer.write(bytes).await {
            Ok(()) => writer.finish(announced).await.map(drop),
            Err(error) => Err(error),
        };
        match outcome {
            Err(AudioError::Bad(bad)) => assert_eq!(bad.label(), label),
            other => panic!("{label}: {other:?}"),
        }
        assert!(bench.objects().await.is_empty());
        bench.assert_tidy().await;
    }
}

async fn dropped_recordings_leave_nothing(bench: Bench) {
    let place = place("dropped");
    let sound = wav(6 << 20, 3);
    let mut writer = bench.archive.recording_writer(&place, Direction::Combined).await.unwrap();
    writer.write(sound.clone()).await.unwrap();
    drop(writer);
    drop(stage(&bench.archive, &place, Direction::Combined, &sound).await);
    if let Some(server) = &bench.server {
        let ours = |key: &String| key.starts_with(&bench.prefix);
        assert_eq!(server.unfinished_uploads().iter().filter(|key| ours(key)).count(), 1, "the view works");
    }
    bench.archive.abort_dropped_uploads().await;
    assert!(bench.objects().await.is_empty());
    bench.assert_tidy().await;
}

async fn a_long_recording_takes_little_memory(bench: Bench) {
    let place = place("long");
    let sound = wav(32 << 20, 7);
    let mut writer = bench.archive.recording_writer(&place, Direction::Combined).await.unwrap();
    for piece in sound.chunks(777_777) {
        writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    assert!(writer.peak_buffered() <= 5 << 20, "{}", writer.peak_buffered());
    let audio = writer.finish(Some(sound.len() as u64)).await.unwrap();
    let draft = draft(3, AudioStatus::Ready);
    written(bench.archive.commit(&place, &draft, "{}".into(), vec![audio]).await.unwrap());
    let manifest = bench.assert_consistent(&place).await;
    assert_eq!(manifest.recording(Direction::Combined).unwrap().size_bytes, (64 << 20) + 44);
    bench.assert_tidy().await;
}

async fn racing_writers_leave_the_newest_whole(bench: Bench) {
    const COPIES: u16 = 4;
    let processes = [bench.other_process(), bench.other_process(), bench.other_process()];
    for round in 0..3 {
        let place = place(&format!("race-{round}"));
        let attempts = (0..24u16).map(|n| {
            let (archive, place) = (processes[usize::from(n) % processes.len()].clone(), place.clone());
            async move {
                // Different recordings, too, so that a mixture would show.
                let copy = n % COPIES;
                let sound = wav(8000, i16::try_from(n).unwrap());
                let draft = draft(u64::from(copy), AudioStatus::Ready);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
                loop {
                    match commit(&archive, &place, &draft, &format!("copy {copy}"), Some(&sound)).await {
                        Ok(committed) => return committed,
                        Err(ArchiveError::Raced) => tokio::time::sleep(Duration::from_millis(50)).await,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
        let ends = join_all(attempts).await;
        let manifest = bench.assert_consistent(&place).await;
        assert_eq!(manifest.facts.turn_count, u64::from(COPIES) - 1);
        assert_eq!(bench.bytes(&place, CONVERSATION).await, format!("copy {}", COPIES - 1));
        let mut revisions: Vec<_> = ends
            .iter()
            .filter_map(|end| if let CommitOutcome::Written(m) = end { Some(m.revision) } else { None })
            .collect();
        revisions.sort_unstable();
        let expected: Vec<_> = (1..=manifest.revision).collect();
        assert_eq!(revisions, expected, "each revision was written once");
        assert!(manifest.revision <= u64::from(COPIES));
    }
    bench.assert_tidy().await;
}

async fn hostile_ids_stay_in_their_place(bench: Bench) {
    let long = "x".repeat(4096);
    let longer = format!("{long}/../..");
    let hostile = [
        "",
        ".",
        "..",
        "...",
        "../",
        "../../../../escape",
        "/etc/passwd",
        "%",
        "%2f",
        "%2F",
        "%252f",
        "/",
        "a/b",
        "a%2Fb",
        "a%2fb",
        "a\\b",
        "\0",
        "\n",
        "a\r\nb",
        "a b",
        "a+b",
        "a#1",
        "a?b",
        "a&b=c",
        "~",
        "a~b",
        "a!b",
        "a:b",
        "*",
        "\"",
        "<",
        "é",
        "e\u{301}",
        "日本語",
        "🦜",
        "ID",
        "id",
        "a.",
        "a",
        ".a",
        "conversation.json",
        &long,
        &longer,
    ];
    let draft = draft(1, AudioStatus::NotApplicable);
    let mut expected = Vec::new();
    for id in hostile {
        let place = Location::new(id, "p", id, TEN.parse().unwrap());
        let manifest = written(commit(&bench.archive, &place, &draft, id, None).await.unwrap());
        assert_eq!((manifest.revision, manifest.conversation_id.as_str()), (1, id));
        for name in [CONVERSATION, MANIFEST] {
            expected.push(format!("{}{}/{name}", bench.prefix, place.folder()));
        }
    }
    for id in hostile {
        let place = Location::new(id, "p", id, TEN.parse().unwrap());
        let stored = bench.archive.read(&place).await.unwrap().unwrap();
        assert_eq!(stored.manifest.conversation_id, id);
        assert_eq!(bench.bytes(&place, CONVERSATION).await, id.as_bytes());
    }
    expected.sort();
    if let Some(root) = &bench.root {
        // The names on the disk are the keys, letter by letter, and there are no others.
        let outside = root.parent().unwrap().parent().unwrap();
        let mut found: Vec<_> = files(outside)
            .into_iter()
            .filter(|path| !path.to_string_lossy().contains("/.polyhook/"))
            .map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, expected);
    } else {
        let found: Vec<_> = bench.objects().await.into_keys().collect();
        assert_eq!(found, expected);
    }
}

async fn damage_is_mended(bench: Bench) {
    let (archive, place, sound) = (&bench.archive, place("damaged"), wav(8000, 1));
    let ready = draft(3, AudioStatus::Ready);
    written(commit(archive, &place, &ready, "{}", Some(&sound)).await.unwrap());
    for (name, revision) in [("audio.wav", 2), (CONVERSATION, 3)] {
        bench.raw.delete(&bench.key(&place, name)).await.unwrap();
        let stored = archive.read(&place).await.unwrap().unwrap();
        assert!(!stored.is_intact() && !stored.covers(b"{}", &[]));
        let manifest = written(commit(archive, &place, &ready, "{}", Some(&sound)).await.unwrap());
        assert_eq!(manifest.revision, revision);
        bench.assert_consistent(&place).await;
    }
}

async fn foreign_manifests_are_not_overwritten(bench: Bench) {
    let (archive, place) = (&bench.archive, place("foreign"));
    let draft = draft(3, AudioStatus::Absent);
    let ours = written(commit(archive, &place, &draft, "{}", None).await.unwrap());
    let key = bench.key(&place, MANIFEST);
    let newer = serde_json::json!({ "schema_version": 2, "all": "new" }).to_string();
    let other = serde_json::to_string(&Manifest { conversation_id: "FOREIGN".to_owned(), ..ours }).unwrap();
    for (body, label) in [(newer, "newer"), (other, "collision"), ("{".to_owned(), "manifest")] {
        bench.raw.put(&key, body.clone().into()).await.unwrap();
        let error = commit(archive, &place, &draft, "{\"a\": 1}", None).await.unwrap_err();
        assert_eq!(error.label(), label, "{error}");
        assert_eq!(bench.bytes(&place, MANIFEST).await, body);
        assert_eq!(bench.bytes(&place, CONVERSATION).await, "{}");
    }
}

/// Killed between the conversation and its manifest.
async fn a_dead_writer_is_taken_over(bench: Bench) {
    let archive = bench.archive.clone().with_takeover_timeout(Duration::from_secs(2));
    let (place, sound) = (place("dead"), wav(8000, 1));
    bench.raw.put(&bench.key(&place, CONVERSATION), "half".into()).await.unwrap();
    let ready = draft(3, AudioStatus::Ready);
    let mut waiting = std::pin::pin!(commit(&archive, &place, &ready, "{}", Some(&sound)));
    if bench.server.is_some() {
        let early = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
        assert!(early.is_err(), "it might still be alive");
    }
    let manifest = waiting.await.unwrap();
    assert_eq!(written(manifest).revision, 1);
    bench.assert_consistent(&place).await;
    // The same on top of a whole one.
    bench.raw.put(&bench.key(&place, CONVERSATION), "half".into()).await.unwrap();
    let more = draft(4, AudioStatus::Absent);
    let manifest = written(commit(&archive, &place, &more, "{\"turns\": 4}", None).await.unwrap());
    assert_eq!((manifest.revision, manifest.audio.status), (2, AudioStatus::Ready));
    bench.assert_consistent(&place).await;
}

async fn can_be_checked(bench: Bench) {
    bench.archive.check().await.unwrap();
    bench.archive.check().await.unwrap();
    assert!(bench.objects().await.is_empty());
}

#[tokio::test]
async fn wrong_keys_are_refused_and_not_repeated() {
    let server = Seaweed::shared().await;
    let right = server.config("denied");
    let wrong_secret = Secret::new("certainly not the right one");
    for (config, code) in [
        (
            ArchiveConfig { secret_access_key: Some(wrong_secret.clone()), ..right.clone() },
            "SignatureDoesNotMatch",
        ),
        (ArchiveConfig { access_key_id: Some("nobody".to_owned()), ..right.clone() }, "InvalidAccessKeyId"),
    ] {
        let archive = Archive::open(&config, Clock::System).unwrap();
        let error = archive.check().await.unwrap_err();
        assert!(matches!(error, ArchiveError::Denied(_)), "{error:?}");
        let text = format!("{error} {error:?}");
        assert!(text.contains("credentials") && text.contains(code), "{text}");
        assert!(!text.contains(wrong_secret.expose()), "{text}");
        let place = place("denied");
        let error = commit(&archive, &place, &draft(1, AudioStatus::Absent), "{}", None).await.unwrap_err();
        assert!(matches!(error, ArchiveError::Denied(_)), "{error:?}");
    }
}

#[tokio::test]
async fn a_key_may_come_from_a_file() {
    let server = Seaweed::shared().await;
    let right = server.config("key-file");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", right.secret_access_key.as_ref().unwrap().expose())).unwrap();
    let config = ArchiveConfig {
        secret_access_key: None,
        secret_access_key_file: Some(file.path().to_owned()),
        ..right
    };
    Archive::open(&config, Clock::System).unwrap().check().await.unwrap();
}

/// Opening does not need the server; using it fails within a bound.
#[tokio::test]
async fn a_store_that_is_away_is_an_error_and_not_a_hang() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let [port] = ports::free();
    let config = ArchiveConfig {
        url: "s3://bucket".to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        access_key_id: Some("a".to_owned()),
        secret_access_key: Some(Secret::new("b")),
        allow_http: true,
        ..ArchiveConfig::default()
    };
    let archive = Archive::open(&config, Clock::System).unwrap();
    let answer = tokio::time::timeout(Duration::from_secs(45), archive.check()).await.unwrap();
    assert_eq!(answer.unwrap_err().label(), "store");
}

#[test]
fn every_form_of_a_folder_works() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("with space").display().to_string();
    for url in [format!("file:{path}"), format!("file://{}", path.replace(' ', "%20"))] {
        let config = ArchiveConfig { url, ..ArchiveConfig::default() };
        let archive = Archive::open(&config, Clock::System).unwrap();
        let url = archive.object_url(&place("a"), MANIFEST).unwrap();
        assert!(url.starts_with("file:///") && url.contains("with%20space"), "{url}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_work_is_told_at_once() {
    let config = |url: &str| ArchiveConfig { url: url.to_owned(), ..ArchiveConfig::default() };
    for (config, hint) in [
        (config("polyhook-data"), "file:FOLDER"),
        (config("file:"), "no folder"),
        (config("file://host/share"), "file:///FOLDER"),
        (config("ftp://host/a"), "none of"),
        (config("s3:///prefix"), "no bucket"),
        (config("s3://key:secret@bucket/"), "keys have their own"),
        (ArchiveConfig { endpoint: Some("http://a".to_owned()), ..config("s3://b") }, "allow_http"),
        (ArchiveConfig { access_key_id: Some("a".to_owned()), ..config("s3://b") }, "go together"),
        (
            ArchiveConfig { secret_access_key_file: Some("/nonexistent/key".into()), ..config("s3://b") },
            "/nonexistent/key",
        ),
        (
            ArchiveConfig { service_account_file: Some("/nonexistent/gcp".into()), ..config("gs://b") },
            "nonexistent",
        ),
    ] {
        let error = Archive::open(&config, Clock::System).unwrap_err();
        assert_eq!(error.label(), "config", "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        assert!(!error.to_string().contains("secret@"), "{error}");
    }
}

/// Google and Azure cannot be run here; what is built for them are the right requests' beginnings.
#[test]
fn google_and_azure_are_understood() {
    let azure = ArchiveConfig {
        url: "az://container/calls".to_owned(),
        access_key_id: Some("account".to_owned()),
        secret_access_key: Some(Secret::new("c2VjcmV0")),
        ..ArchiveConfig::default()
    };
    let google = ArchiveConfig { url: "gs://bucket/calls".to_owned(), ..ArchiveConfig::default() };
    for (config, start) in
        [(azure, "az://container/calls/account_id="), (google, "gs://bucket/calls/account_id=")]
    {
        let archive = Archive::open(&config, Clock::System).unwrap();
        let url = archive.object_url(&place("a"), MANIFEST).unwrap();
        assert!(url.starts_with(start), "{url}");
    }
}
