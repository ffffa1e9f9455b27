//! Erasure: what is removed, what stays, and races with writers.

use std::time::Instant;

use futures_util::future::join;
use object_store::PutPayload;
use polyhook::archive::StoredObjects;

use super::*;

const ACCOUNT: &str = "acme-uk";
const PROJECT: &str = "PROJECT-1";

impl ArchiveFixture {
    async fn erase(&self, id: &str) -> StoredObjects {
        erase_objects(&self.archive, ACCOUNT, PROJECT, id, None).await.unwrap().1
    }

    /// Returns the keys of all objects except the erasure records, and the keys of the records.
    async fn keys(&self) -> (Vec<String>, Vec<String>) {
        self.objects().await.into_keys().partition(|key| !key.contains("erasures/"))
    }
}

/// An id that must be encoded, a longer one with the same beginning, and a shorter one.
const ID: &str = "CA/0123 4567";
const LONGER_ID: &str = "CA/0123 45678";
const SHORTER_ID: &str = "CA/0123 456";

async fn archive_copy(archive: &Archive, location: &Location) {
    let (ready, recording) = (draft(3, AudioStatus::Ready), wav(16_000, 5));
    expect_written(commit(archive, location, &ready, "{}", Some(&recording)).await.unwrap());
}

pub(super) async fn erases_all_copies_of_one_conversation(fixture: ArchiveFixture) {
    let archive = &fixture.archive;
    let next_day = Location::new(ACCOUNT, PROJECT, ID, "2026-11-23T10:00:00Z".parse().unwrap());
    let other_project = Location::new(ACCOUNT, "PROJECT-10", ID, STARTED_AT.parse().unwrap());
    let others = [location(LONGER_ID), location(SHORTER_ID), other_project];
    for location in [location(ID), next_day.clone()].iter().chain(&others) {
        archive_copy(archive, location).await;
    }
    // A copy that was never completed.
    let incomplete = fixture.key(&next_day, "audio.user.wav");
    fixture.raw_store.put(&incomplete, PutPayload::from_static(b"half")).await.unwrap();
    let mut unfinished = 0;
    if let Some(root) = &fixture.root {
        std::fs::write(root.join(next_day.folder()).join("conversation.json#1"), "half").unwrap();
        unfinished = 1;
    }
    let before = fixture.keys().await.0.len();

    let (stored, dates) = archive.stored_objects(ACCOUNT, PROJECT, ID).await.unwrap();
    assert_eq!(dates, [location(ID).day().date(), next_day.day().date()].into());
    assert_eq!(stored.objects, 7 + unfinished);
    assert!(!archive.is_erased(ACCOUNT, PROJECT, ID).await.unwrap(), "counting erases nothing");
    let (record, removed) = erase_objects(archive, ACCOUNT, PROJECT, ID, Some("GDPR-1")).await.unwrap();
    assert_eq!((removed, record.objects, record.bytes), (stored, stored.objects, stored.bytes));
    assert_eq!((record.environment.as_deref(), record.reason.as_deref()), (Some("live"), Some("GDPR-1")));
    assert!(archive.is_erased(ACCOUNT, PROJECT, ID).await.unwrap());
    let (objects, _) = fixture.keys().await;
    assert_eq!(objects.len(), before - 7);
    assert!(objects.iter().all(|key| !key.contains("PROJECT-1/") || !key.contains("CA%2F0123%204567/")));
    if let Some(root) = &fixture.root {
        assert!(!root.join(next_day.folder()).exists() && !root.join(location(ID).folder()).exists());
    }
    for other in &others {
        fixture.assert_consistent(other).await;
        let (project, id) = (other.project_id(), other.conversation_id());
        assert!(!archive.is_erased(ACCOUNT, project, id).await.unwrap());
    }
}

pub(super) async fn an_erasure_record_reveals_nothing(fixture: ArchiveFixture) {
    archive_copy(&fixture.archive, &location(ID)).await;
    fixture.erase(ID).await;
    let name = format!("{}erasures/{}.json", fixture.prefix, hash_of(&[ACCOUNT, PROJECT, ID]));
    assert_eq!(fixture.keys().await.1, [name.as_str()], "the name is a hash of the ids");
    let text = fixture.raw_store.get(&Key::parse(&name).unwrap()).await.unwrap().bytes().await.unwrap();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(!text.contains(ACCOUNT) && !text.contains(PROJECT) && !text.contains("0123"), "{text}");
}

pub(super) async fn an_erased_conversation_stays_erased_until_the_erasure_is_lifted(fixture: ArchiveFixture) {
    let archive = &fixture.archive;
    archive_copy(archive, &location(ID)).await;
    let (record, _) = erase_objects(archive, ACCOUNT, PROJECT, ID, Some("GDPR-1")).await.unwrap();

    // A second run has nothing to do, and the record keeps the first time.
    let other = fixture.other_process();
    assert!(other.remove_if_erased(ACCOUNT, PROJECT, ID).await.unwrap());
    let (again, removed) = erase_objects(&other, ACCOUNT, PROJECT, ID, None).await.unwrap();
    assert_eq!(
        (again.erased_at, again.objects, again.reason),
        (record.erased_at, record.objects, record.reason)
    );
    assert_eq!((removed.objects, again.environment), (0, record.environment));
    // An unknown conversation is marked as erased, too.
    assert_eq!(fixture.erase("CA-never-seen").await, StoredObjects::default());
    assert!(archive.is_erased(ACCOUNT, PROJECT, "CA-never-seen").await.unwrap());

    assert!(archive.lift_erasure(ACCOUNT, PROJECT, ID).await.unwrap());
    assert!(!archive.lift_erasure(ACCOUNT, PROJECT, ID).await.unwrap());
    assert!(!archive.remove_if_erased(ACCOUNT, PROJECT, ID).await.unwrap());
    archive_copy(archive, &location(ID)).await;
    fixture.assert_consistent(&location(ID)).await;
}

pub(super) async fn an_erasure_wins_over_concurrent_writers(fixture: ArchiveFixture) {
    let recording = wav(1000, 5);
    let begun = Instant::now();
    expect_written(
        commit(
            &fixture.archive,
            &location("CA-alone"),
            &draft(3, AudioStatus::Ready),
            "{}",
            Some(&recording),
        )
        .await
        .unwrap(),
    );
    let alone = begun.elapsed();
    fixture.erase("CA-alone").await;
    let (mut races, mut removed_by_writer) = (0, 0);
    // Covers all delays, and continues until one erasure fell into a commit.
    while races < 24 || removed_by_writer == 0 && races < 240 {
        let n = races % 24;
        races += 1;
        let id = format!("CA-race-{races}");
        let (worker, location) = (fixture.other_process(), location(&id));
        let ready = draft(3, AudioStatus::Ready);
        let working = async {
            // As in a job: the conversation was not erased when the job began.
            let committed = commit(&worker, &location, &ready, "{}", Some(&recording)).await;
            // The next try of a failed job finds the record at its beginning.
            let erased = worker.remove_if_erased(ACCOUNT, PROJECT, &id).await.unwrap();
            committed.is_ok() && erased
        };
        let erasing = async {
            // From before the first write until after the last one.
            tokio::time::sleep(alone * n / 20).await;
            fixture.erase(&id).await
        };
        removed_by_writer += usize::from(join(working, erasing).await.0);
    }
    eprintln!("in {removed_by_writer} of {races} races the writer removed its own objects");
    let (objects, records) = fixture.keys().await;
    assert_eq!(objects, [""; 0]);
    assert_eq!(records.len(), races as usize + 1);
    assert!(removed_by_writer > 0, "no erasure fell into a commit");
}

/// As on a file system that ignores case.
pub(super) async fn does_not_erase_another_conversation_with_the_same_key(fixture: ArchiveFixture) {
    let (mine, theirs) = (location("CA-one"), location("ca-one"));
    expect_written(
        commit(&fixture.archive, &theirs, &draft(3, AudioStatus::Absent), "{}", None).await.unwrap(),
    );
    for name in [CONVERSATION, MANIFEST] {
        let bytes = fixture.bytes(&theirs, name).await;
        fixture.raw_store.put(&fixture.key(&mine, name), bytes.into()).await.unwrap();
    }
    let error = erase_objects(&fixture.archive, ACCOUNT, PROJECT, "CA-one", None).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Collision { .. }), "{error:?}");
    assert_eq!(fixture.keys().await.0.len(), 4);
}

fn hash_of(ids: &[&str]) -> String {
    hex::encode(Sha256::digest(ids.join("\0")))
}
