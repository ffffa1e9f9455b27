//! Derived objects and the notes of changes.

use polyhook::archive::{ConversationChange, DerivedVersion, ProjectDay};

use super::*;
use crate::support::store_proxy::{StoreProxy, WriteFault};

const KEY: &str = "index/calls/account_id=acme-uk/project_id=PROJECT-1/date=2026-11-22/calls.parquet";
/// More than one update of each writer meets the other's.
const UPDATES: usize = 10;

/// Appends a line to a derived object, whatever other writers do. Returns the number of conflicts.
async fn append(archive: &Archive, line: &str) -> usize {
    for conflicts in 0.. {
        let current = archive.read_derived(KEY).await.unwrap();
        let (mut content, version) = match current {
            Some(object) => (object.bytes.to_vec(), Some(object.version)),
            None => (Vec::new(), None),
        };
        content.extend_from_slice(line.as_bytes());
        if archive.replace_derived(KEY, version.as_ref(), content.into()).await.unwrap() {
            return conflicts;
        }
    }
    unreachable!()
}

pub(super) async fn concurrent_replacements_lose_no_update(fixture: ArchiveFixture) {
    let writers =
        [("a", fixture.archive.clone()), ("b", fixture.other_process())].map(|(name, archive)| async move {
            let mut conflicts = 0;
            for n in 0..UPDATES {
                conflicts += append(&archive, &format!("{name}{n}\n")).await;
            }
            conflicts
        });
    let conflicts: usize = join_all(writers).await.into_iter().sum();
    let content = fixture.archive.read_derived(KEY).await.unwrap().unwrap().bytes;
    let mut lines: Vec<_> = std::str::from_utf8(&content).unwrap().lines().collect();
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 2 * UPDATES, "{conflicts} conflicts: {lines:?}");
}

/// Replaces an object, which must succeed, and returns its new version.
async fn replaced(archive: &Archive, expected: Option<&DerivedVersion>, content: &str) -> DerivedVersion {
    assert!(archive.replace_derived(KEY, expected, content.to_owned().into()).await.unwrap(), "{content}");
    archive.read_derived(KEY).await.unwrap().unwrap().version
}

pub(super) async fn only_the_version_that_was_read_is_replaced(fixture: ArchiveFixture) {
    let archive = &fixture.archive;
    assert!(archive.read_derived(KEY).await.unwrap().is_none());
    let first = replaced(archive, None, "first").await;
    assert!(!archive.replace_derived(KEY, None, b"again".to_vec().into()).await.unwrap(), "it exists");
    // All contents have the same size, and follow each other faster than a file system counts time.
    let mut versions = vec![first];
    for n in 0..20 {
        let next = replaced(archive, versions.last(), &format!("{n:05}")).await;
        assert!(!versions.contains(&next), "version {n} is one of {versions:?}");
        versions.push(next);
    }
    for old in &versions[..versions.len() - 1] {
        assert!(!archive.replace_derived(KEY, Some(old), b"stale".to_vec().into()).await.unwrap());
    }
    let key = Key::parse(format!("{}{KEY}", fixture.prefix)).unwrap();
    fixture.raw_store.delete(&key).await.unwrap();
    assert!(
        !archive.replace_derived(KEY, versions.last(), b"after".to_vec().into()).await.unwrap(),
        "it is gone"
    );
    replaced(archive, None, "built again").await;

    let dates = archive.list_derived_dates("index/calls", "acme-uk", "PROJECT-1").await.unwrap();
    assert_eq!(dates, ["2026-11-22".parse().unwrap()].into());
    assert!(archive.list_dates("acme-uk", "PROJECT-1").await.unwrap().is_empty(), "no conversation");
    assert!(archive.list_derived_dates("index/calls", "acme-uk", "PROJECT").await.unwrap().is_empty());
    assert!(!archive.has_conversations("acme-uk", "PROJECT-1").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recognises_its_own_replacement_if_the_answer_was_lost() {
    let fixture = ArchiveFixture::s3("derived-answer-lost").await;
    let proxy = StoreProxy::start(fixture.server.as_ref().unwrap().port());
    let archive = Archive::open(&proxy.config(fixture.config.clone()), Clock::System).unwrap();
    let mut version = None;
    for content in ["created", "updated"] {
        proxy.fail_writes("calls.parquet", WriteFault::AnswerLost, 1);
        version = Some(replaced(&archive, version.as_ref(), content).await);
        assert_eq!(proxy.faults_left(), 0, "{content}");
    }
}

fn names(changes: &[ConversationChange]) -> Vec<&str> {
    let mut names: Vec<_> = changes.iter().map(|change| change.name.as_str()).collect();
    names.sort_unstable();
    names
}

pub(super) async fn notes_of_changes_are_listed_until_they_are_removed(fixture: ArchiveFixture) {
    let archive = &fixture.archive;
    let (dotted, long) = (location("CA.1.2"), location(&"x/".repeat(300)));
    for place in [&dotted, &long, &dotted] {
        archive.note_change(place).await.unwrap();
    }
    // Objects of others are ignored, and do not use the limit.
    for foreign in ["README", "account_id=a/project_id=b/date=2026-01-01/no-id", "account_id=a/x/date=1/y.z"]
    {
        let key = Key::parse(format!("{}.polyhook/index-changes/{foreign}", fixture.prefix)).unwrap();
        fixture.raw_store.put(&key, "".into()).await.unwrap();
    }
    assert_eq!(archive.list_changes(2).await.unwrap().len(), 2);
    let changes = archive.list_changes(100).await.unwrap();
    assert_eq!(names(&changes), [dotted.name(), dotted.name(), long.name()]);
    let day = ProjectDay::new("acme-uk", "PROJECT-1", "2026-11-22".parse().unwrap());
    assert!(changes.iter().all(|change| change.day == day), "{changes:?}");

    // A change that is noted after the listing stays.
    archive.note_change(&dotted).await.unwrap();
    let of_dotted = archive.list_changes_of("acme-uk", "PROJECT-1", "CA.1.2").await.unwrap();
    assert_eq!(names(&of_dotted), [dotted.name(); 3]);
    archive.remove_changes(&changes).await.unwrap();
    archive.remove_changes(&changes).await.unwrap();
    let left = archive.list_changes(100).await.unwrap();
    assert_eq!(names(&left), [dotted.name()]);
    archive.remove_changes(&left).await.unwrap();
    archive.note_change(&long).await.unwrap();
    assert_eq!(names(&archive.list_changes(100).await.unwrap()), [long.name()]);
    let (_, dates) = archive.stored_objects("acme-uk", "PROJECT-1", &"x/".repeat(300)).await.unwrap();
    assert_eq!(dates, [day.date()].into(), "an erasure finds it by the note alone");
}

pub(super) async fn a_stored_manifest_has_the_time_of_the_listing(fixture: ArchiveFixture) {
    let archive = &fixture.archive;
    let location = location("CA/1");
    expect_written(commit(archive, &location, &draft(1, AudioStatus::Absent), "{}", None).await.unwrap());
    let stored = archive.read_stored_manifest(&location.day(), location.name()).await.unwrap().unwrap();
    let bytes = fixture.bytes(&location, MANIFEST).await;
    assert_eq!(stored.sha256, hex::encode(Sha256::digest(&bytes)));
    assert_eq!((stored.folder.as_str(), stored.location()), (location.folder(), location.clone()));
    let folders: Vec<_> = archive.list_folders(&location.day()).try_collect().await.unwrap();
    assert_eq!(folders[0].archived_at, Some(stored.stored_at));
    assert_eq!(stored.stored_at.subsec_nanosecond(), 0);
    assert!(archive.read_stored_manifest(&location.day(), "CA%2F2").await.unwrap().is_none());
    // As on a file system that ignores case.
    let other =
        Key::parse(format!("{}{}/CA%2f1/{MANIFEST}", fixture.prefix, location.day().folder())).unwrap();
    fixture.raw_store.put(&other, bytes.into()).await.unwrap();
    let error = archive.read_stored_manifest(&location.day(), "CA%2f1").await.unwrap_err();
    assert!(matches!(error, ArchiveError::Collision { .. }), "{error:?}");
}
