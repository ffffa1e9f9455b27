//! A bucket that was restored from a backup or copied: the bytes are the same, and the `ETag`s are not.

use std::time::Instant;

use super::*;

/// Writes the object again in parts, which gives it another `ETag`.
async fn copy_with_another_etag(fixture: &ArchiveFixture, key: &Key, bytes: Bytes) {
    let before = fixture.raw_store.head(key).await.unwrap().e_tag;
    let mut upload = fixture.raw_store.put_multipart(key).await.unwrap();
    upload.put_part(bytes.into()).await.unwrap();
    upload.complete().await.unwrap();
    assert_ne!(fixture.raw_store.head(key).await.unwrap().e_tag, before);
}

async fn restore(fixture: &ArchiveFixture, location: &Location) {
    for name in ["audio.wav", CONVERSATION, MANIFEST] {
        let bytes = fixture.bytes(location, name).await;
        copy_with_another_etag(fixture, &fixture.key(location, name), bytes).await;
    }
}

async fn damaged(fixture: &ArchiveFixture, location: &Location) -> [Vec<String>; 2] {
    let mut found = Vec::new();
    for deep in [false, true] {
        let stored = fixture.archive.inspect(&location.day(), location.name(), deep).await;
        found.push(stored.unwrap().unwrap().damaged().to_vec());
    }
    found.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_conversation_is_intact_and_not_locked() {
    let fixture = ArchiveFixture::s3("restored").await;
    let (location, recording) = (location("restored"), wav(8000, 1));
    let ready = draft(3, AudioStatus::Ready);
    let manifest =
        expect_written(commit(&fixture.archive, &location, &ready, "{}", Some(&recording)).await.unwrap());
    restore(&fixture, &location).await;
    assert_eq!(damaged(&fixture, &location).await, [vec![], Vec::<String>::new()]);
    let stored = fixture.archive.read(&location).await.unwrap().unwrap();
    assert!(stored.is_intact() && stored.covers(b"{}", &[Direction::Combined]));

    // The process that has written it, and another one.
    for archive in [fixture.archive.clone(), fixture.other_process()] {
        let begun = Instant::now();
        let again = commit(&archive, &location, &ready, "{}", Some(&recording)).await.unwrap();
        assert_eq!(again, CommitOutcome::Unchanged(manifest.clone()));
        assert!(begun.elapsed() < Duration::from_secs(15), "it waited for a writer that does not exist");
    }
    let begun = Instant::now();
    let newer = draft(4, AudioStatus::Absent);
    let newer = commit(&fixture.other_process(), &location, &newer, "{\"turns\": 4}", None).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "it waited for a writer that does not exist");
    assert_eq!(expect_written(newer).revision, 2);
    fixture.assert_consistent(&location).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_object_of_the_same_size_is_damaged() {
    let fixture = ArchiveFixture::s3("changed").await;
    let (location, recording) = (location("changed"), wav(8000, 1));
    let ready = draft(3, AudioStatus::Ready);
    expect_written(commit(&fixture.archive, &location, &ready, "{}", Some(&recording)).await.unwrap());
    restore(&fixture, &location).await;
    let mut other = recording.to_vec();
    *other.last_mut().unwrap() ^= 1;
    copy_with_another_etag(&fixture, &fixture.key(&location, "audio.wav"), other.into()).await;
    assert_eq!(damaged(&fixture, &location).await, [["audio.wav"], ["audio.wav"]]);
    let repaired = commit(&fixture.archive, &location, &ready, "{}", Some(&recording)).await.unwrap();
    assert_eq!(expect_written(repaired).revision, 2);
    fixture.assert_consistent(&location).await;
}
