//! Earlier revisions: the bytes of each `conversation.json` that was replaced.

use polyhook::archive::ObjectKind;

use super::*;

/// Returns the names and the bytes of the revisions that the manifest lists, in order.
async fn revisions(fixture: &ArchiveFixture, location: &Location) -> Vec<(String, Bytes)> {
    let manifest = fixture.assert_consistent(location).await;
    let listed = manifest.objects.iter().filter(|object| object.kind == ObjectKind::Revision);
    let mut found = Vec::new();
    for object in listed {
        found.push((object.name.clone(), fixture.bytes(location, &object.name).await));
    }
    found
}

/// A draft that was fetched in this minute.
fn fetched_at(minute: i8) -> ManifestDraft {
    let fetched_at = format!("2026-11-22T11:{minute:02}:00Z").parse().unwrap();
    ManifestDraft { fetched_at, ..draft(3, AudioStatus::Ready) }
}

fn json_only(minute: i8) -> ManifestDraft {
    ManifestDraft { json_only: true, ..fetched_at(minute) }
}

pub(super) async fn keeps_the_bytes_of_every_earlier_revision(fixture: ArchiveFixture) {
    let (archive, location, recording) = (&fixture.archive, location("changes"), wav(8000, 1));
    let first = ManifestDraft { warnings: vec!["recording_length: short".to_owned()], ..fetched_at(1) };
    expect_written(commit(archive, &location, &first, "a", Some(&recording)).await.unwrap());
    let before = fixture.objects().await[fixture.key(&location, "audio.wav").as_ref()].clone();

    // The second copy has no recordings, and does not ask for any.
    let second = expect_written(commit(archive, &location, &json_only(2), "b", None).await.unwrap());
    assert_eq!((second.revision, second.audio.status), (2, AudioStatus::Ready));
    assert_eq!(second.warnings, ["recording_length: short"]);
    // Another process, and the first bytes again.
    let other = fixture.other_process();
    expect_written(commit(&other, &location, &json_only(3), "a", None).await.unwrap());
    let again = commit(&other, &location, &json_only(4), "a", None).await.unwrap();
    assert!(matches!(again, CommitOutcome::Unchanged(Manifest { revision: 3, .. })), "{again:?}");
    // A recording is added: no byte of the conversation changes.
    let audio = vec![stage(archive, &location, Direction::User, &recording).await];
    let both = archive.commit(&location, &fetched_at(5), Bytes::from_static(b"a"), audio).await;
    assert_eq!(expect_written(both.unwrap()).revision, 4);
    expect_written(commit(archive, &location, &json_only(6), "c", None).await.unwrap());

    let kept = [("conversation.1.json", "a"), ("conversation.2.json", "b"), ("conversation.4.json", "a")];
    let kept = kept.map(|(name, bytes)| (name.to_owned(), Bytes::from(bytes)));
    assert_eq!(revisions(&fixture, &location).await, kept);
    let after = fixture.objects().await[fixture.key(&location, "audio.wav").as_ref()].clone();
    assert_eq!(
        (before.last_modified, before.e_tag),
        (after.last_modified, after.e_tag),
        "never written again"
    );

    let (_, removed) = erase_objects(archive, "acme-uk", "PROJECT-1", "changes", None).await.unwrap();
    assert_eq!(removed.objects, 7);
    assert!(fixture.objects().await.keys().all(|key| key.contains("erasures/")));
}

/// A writer died between two of its writes.
pub(super) async fn a_crash_between_two_writes_loses_no_revision(fixture: ArchiveFixture) {
    let archive = fixture.archive.clone().with_takeover_timeout(Duration::from_millis(500));
    let put = async |location: &Location, name: &str, bytes: &'static str| {
        fixture.raw_store.put(&fixture.key(location, name), bytes.into()).await.unwrap();
    };
    // After the copy; and after the copy and the original.
    for original in [None, Some("of a dead writer")] {
        let location = location(original.unwrap_or("copied"));
        expect_written(commit(&archive, &location, &fetched_at(1), "a", None).await.unwrap());
        put(&location, "conversation.1.json", "a").await;
        if let Some(bytes) = original {
            put(&location, CONVERSATION, bytes).await;
        }
        let manifest = expect_written(commit(&archive, &location, &json_only(2), "b", None).await.unwrap());
        assert_eq!((manifest.revision, manifest.warnings.len()), (2, 0));
        let kept = ("conversation.1.json".to_owned(), Bytes::from_static(b"a"));
        assert_eq!(revisions(&fixture, &location).await, [kept]);
    }
    // Someone replaced the original: nothing is passed off as the earlier revision.
    let location = location("replaced");
    expect_written(commit(&archive, &location, &fetched_at(1), "a", None).await.unwrap());
    put(&location, CONVERSATION, "foreign").await;
    let manifest = expect_written(commit(&archive, &location, &json_only(2), "b", None).await.unwrap());
    assert!(manifest.warnings[0].starts_with("revision_lost: "), "{:?}", manifest.warnings);
    assert_eq!(revisions(&fixture, &location).await, []);
}

pub(super) async fn a_damaged_revision_is_found_and_named_by_the_repair(fixture: ArchiveFixture) {
    let (archive, location) = (&fixture.archive, location("damaged"));
    for (minute, bytes) in [(1, "a"), (2, "b"), (3, "c")] {
        expect_written(commit(archive, &location, &json_only(minute), bytes, None).await.unwrap());
    }
    fixture.raw_store.put(&fixture.key(&location, "conversation.1.json"), "x".into()).await.unwrap();
    let inspect = async || {
        let stored = archive.inspect(&location.day(), location.name(), true).await.unwrap().unwrap();
        (stored.manifest.warnings.clone(), stored.damaged().to_vec())
    };
    assert_eq!(inspect().await.1, ["conversation.1.json"]);

    let repair = ManifestDraft { force_rewrite: true, ..fetched_at(4) };
    for _ in 0..2 {
        expect_written(commit(archive, &location, &repair, "c", None).await.unwrap());
        let (warnings, damaged) = inspect().await;
        assert_eq!(damaged, [""; 0], "no fetch restores it, so it is reported once");
        assert_eq!(warnings, ["revision_lost: conversation.1.json was removed or changed in the archive"]);
    }
    let kept = ("conversation.2.json".to_owned(), Bytes::from_static(b"b"));
    assert_eq!(revisions(&fixture, &location).await, [kept]);
}

/// The manifest of a conversation that changes with every fetch stays readable.
#[tokio::test]
async fn a_manifest_lists_a_bounded_number_of_revisions() {
    let (fixture, location) = (ArchiveFixture::file(), location("volatile"));
    for n in 0..110i64 {
        let fetched_at = draft(3, AudioStatus::Absent).fetched_at + Duration::from_secs(n.unsigned_abs());
        let draft = ManifestDraft { fetched_at, ..draft(3, AudioStatus::Absent) };
        expect_written(commit(&fixture.archive, &location, &draft, &n.to_string(), None).await.unwrap());
    }
    let kept = revisions(&fixture, &location).await;
    assert_eq!((kept.len(), kept[0].0.as_str()), (100, "conversation.1.json"));
    assert_eq!((kept[1].0.as_str(), kept[99].0.as_str()), ("conversation.11.json", "conversation.109.json"));
    assert_eq!(fixture.bytes(&location, "conversation.5.json").await, "4", "it is kept all the same");
}
