//! Commits: what is written, which copy wins, and how damage is repaired.

use super::*;

pub(super) async fn archives_every_object_of_the_manifest(fixture: ArchiveFixture) {
    let (archive, location) = (&fixture.archive, location("first"));
    assert!(archive.read(&location).await.unwrap().is_none());
    let (both, user) = (wav(16_000, 5), wav(8000, 6));
    let audio = vec![
        stage(archive, &location, Direction::Combined, &both).await,
        stage(archive, &location, Direction::User, &user).await,
    ];
    assert!(fixture.objects().await.is_empty(), "nothing is in sight before the commit");
    let body = Bytes::from_static(b" {\"id\": \"first\"}\n");
    let draft = draft(3, AudioStatus::Ready);
    let manifest = expect_written(archive.commit(&location, &draft, body.clone(), audio).await.unwrap());

    let folder = format!("{}account_id=acme-uk/project_id=PROJECT-1/date=2026-11-22/first", fixture.prefix);
    let keys: Vec<_> = fixture.objects().await.into_keys().collect();
    let names = ["audio.user.wav", "audio.wav", "conversation.json", "manifest.json"];
    assert_eq!(keys, names.map(|name| format!("{folder}/{name}")));
    assert_eq!(fixture.bytes(&location, CONVERSATION).await, body);
    assert_eq!(fixture.bytes(&location, "audio.wav").await, both);
    assert_eq!(fixture.bytes(&location, "audio.user.wav").await, user);
    assert_eq!(fixture.assert_consistent(&location).await, manifest);
    assert_eq!(manifest.revision, 1);
    let recording = manifest.recording(Direction::Combined).unwrap().wav.as_ref().unwrap();
    assert!((recording.seconds - 2.0).abs() < 1e-9);
    let handoff = manifest.facts.handoff.unwrap();
    assert_eq!((handoff.reason.as_deref(), handoff.destination), (Some("billing"), None), "no numbers");

    let stored = archive.read(&location).await.unwrap().unwrap();
    assert!(stored.covers(&body, &[Direction::Combined, Direction::User]));
    assert!(!stored.covers(&body, &[Direction::Agent]) && !stored.covers(b"other", &[]));
    let url = archive.object_url(&location, "audio.wav").unwrap();
    if let Some(root) = &fixture.root {
        let path = url::Url::parse(&url).unwrap().to_file_path().unwrap();
        assert_eq!(path, root.canonicalize().unwrap().join(&folder).join("audio.wav"));
    } else {
        assert_eq!(url, format!("s3://{BUCKET}/{folder}/audio.wav"));
        let found = fixture.raw_store.get(&fixture.key(&location, "audio.wav")).await.unwrap();
        let kind = found.attributes.get(&object_store::Attribute::ContentType).unwrap();
        assert_eq!(kind.as_ref(), "audio/wav");
    }
    fixture.assert_no_leftovers().await;
}

pub(super) async fn a_second_delivery_changes_nothing(fixture: ArchiveFixture) {
    let (archive, location, recording) = (&fixture.archive, location("twice"), wav(16_000, 5));
    let ready = draft(3, AudioStatus::Ready);
    let manifest = expect_written(commit(archive, &location, &ready, "{}", Some(&recording)).await.unwrap());
    let before = fixture.objects().await;
    for again in [
        commit(archive, &location, &ready, "{}", Some(&recording)).await,
        commit(archive, &location, &draft(3, AudioStatus::Absent), "{}", None).await,
        commit(&fixture.other_process(), &location, &ready, "{}", Some(&recording)).await,
    ] {
        assert_eq!(again.unwrap(), CommitOutcome::Unchanged(manifest.clone()));
    }
    assert_eq!(fixture.objects().await, before, "no object was written again");
    fixture.assert_no_leftovers().await;
}

pub(super) async fn an_older_copy_never_replaces_a_newer_one(fixture: ArchiveFixture) {
    let (archive, location) = (&fixture.archive, location("grows"));
    let mut early = draft(2, AudioStatus::Absent);
    early.facts.in_progress = true;
    let late = draft(5, AudioStatus::Ready);
    assert_eq!(expect_written(commit(archive, &location, &early, "early", None).await.unwrap()).revision, 1);
    let recording = wav(8000, 1);
    let manifest = expect_written(commit(archive, &location, &late, "late", Some(&recording)).await.unwrap());
    assert_eq!(manifest.revision, 2);
    let stale = commit(archive, &location, &early, "early", None).await.unwrap();
    assert_eq!(stale, CommitOutcome::Stale(manifest.clone()));
    // A summary was added later. The recording of the older copy stays.
    let mut summarised = draft(5, AudioStatus::Absent);
    summarised.facts.summarised = true;
    let manifest =
        expect_written(commit(archive, &location, &summarised, "late and summarised", None).await.unwrap());
    assert_eq!((manifest.revision, manifest.audio.status), (3, AudioStatus::Ready));
    assert_eq!(fixture.assert_consistent(&location).await.objects.len(), 4, "two of them are earlier bytes");
    assert_eq!(fixture.bytes(&location, CONVERSATION).await, "late and summarised");
}

pub(super) async fn concurrent_writers_leave_the_newest_copy_complete(fixture: ArchiveFixture) {
    const COPIES: u16 = 4;
    let processes = [fixture.other_process(), fixture.other_process(), fixture.other_process()];
    for round in 0..3 {
        let location = location(&format!("race-{round}"));
        let attempts = (0..24u16).map(|n| {
            let (archive, location) = (processes[usize::from(n) % processes.len()].clone(), location.clone());
            async move {
                // Different recordings, so that a mixture of two copies would be noticed.
                let copy = n % COPIES;
                let recording = wav(8000, i16::try_from(n).unwrap());
                let draft = draft(u64::from(copy), AudioStatus::Ready);
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
                loop {
                    match commit(&archive, &location, &draft, &format!("copy {copy}"), Some(&recording)).await
                    {
                        Ok(committed) => return committed,
                        Err(ArchiveError::Raced) => tokio::time::sleep(Duration::from_millis(50)).await,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        });
        let ends = join_all(attempts).await;
        let manifest = fixture.assert_consistent(&location).await;
        assert_eq!(manifest.facts.turn_count, u64::from(COPIES) - 1);
        assert_eq!(fixture.bytes(&location, CONVERSATION).await, format!("copy {}", COPIES - 1));
        let mut revisions: Vec<_> = ends
            .iter()
            .filter_map(|end| if let CommitOutcome::Written(m) = end { Some(m.revision) } else { None })
            .collect();
        revisions.sort_unstable();
        let expected: Vec<_> = (1..=manifest.revision).collect();
        assert_eq!(revisions, expected, "each revision was written once");
        assert!(manifest.revision <= u64::from(COPIES));
    }
    fixture.assert_no_leftovers().await;
}

pub(super) async fn repairs_missing_objects(fixture: ArchiveFixture) {
    let (archive, location, recording) = (&fixture.archive, location("damaged"), wav(8000, 1));
    let ready = draft(3, AudioStatus::Ready);
    expect_written(commit(archive, &location, &ready, "{}", Some(&recording)).await.unwrap());
    for (name, revision) in [("audio.wav", 2), (CONVERSATION, 3)] {
        fixture.raw_store.delete(&fixture.key(&location, name)).await.unwrap();
        let stored = archive.read(&location).await.unwrap().unwrap();
        assert!(!stored.is_intact() && !stored.covers(b"{}", &[]));
        let manifest =
            expect_written(commit(archive, &location, &ready, "{}", Some(&recording)).await.unwrap());
        assert_eq!(manifest.revision, revision);
        fixture.assert_consistent(&location).await;
    }
}

pub(super) async fn does_not_overwrite_foreign_manifests(fixture: ArchiveFixture) {
    let (archive, location) = (&fixture.archive, location("foreign"));
    let draft = draft(3, AudioStatus::Absent);
    let ours = expect_written(commit(archive, &location, &draft, "{}", None).await.unwrap());
    let key = fixture.key(&location, MANIFEST);
    let newer = serde_json::json!({ "schema_version": 2, "all": "new" }).to_string();
    let other = serde_json::to_string(&Manifest { conversation_id: "FOREIGN".to_owned(), ..ours }).unwrap();
    for (body, label) in [(newer, "newer"), (other, "collision"), ("{".to_owned(), "manifest")] {
        fixture.raw_store.put(&key, body.clone().into()).await.unwrap();
        let error = commit(archive, &location, &draft, "{\"a\": 1}", None).await.unwrap_err();
        assert_eq!(error.label(), label, "{error}");
        assert_eq!(fixture.bytes(&location, MANIFEST).await, body);
        assert_eq!(fixture.bytes(&location, CONVERSATION).await, "{}");
    }
}

/// The first writer was killed between `conversation.json` and the manifest.
pub(super) async fn takes_over_from_a_dead_writer(fixture: ArchiveFixture) {
    let archive = fixture.archive.clone().with_takeover_timeout(Duration::from_secs(2));
    let (location, recording) = (location("dead"), wav(8000, 1));
    fixture.raw_store.put(&fixture.key(&location, CONVERSATION), "half".into()).await.unwrap();
    let ready = draft(3, AudioStatus::Ready);
    let mut waiting = std::pin::pin!(commit(&archive, &location, &ready, "{}", Some(&recording)));
    if fixture.server.is_some() {
        let early = tokio::time::timeout(Duration::from_secs(1), &mut waiting).await;
        assert!(early.is_err(), "it might still be alive");
    }
    let manifest = waiting.await.unwrap();
    assert_eq!(expect_written(manifest).revision, 1);
    fixture.assert_consistent(&location).await;
    // The same after a complete first copy.
    fixture.raw_store.put(&fixture.key(&location, CONVERSATION), "half".into()).await.unwrap();
    let more = draft(4, AudioStatus::Absent);
    let manifest = expect_written(commit(&archive, &location, &more, "{\"turns\": 4}", None).await.unwrap());
    assert_eq!((manifest.revision, manifest.audio.status), (2, AudioStatus::Ready));
    fixture.assert_consistent(&location).await;
}

pub(super) async fn a_check_leaves_no_objects(fixture: ArchiveFixture) {
    fixture.archive.check().await.unwrap();
    fixture.archive.check().await.unwrap();
    assert!(fixture.objects().await.is_empty());
}

/// A worker archived a copy while its clock was 400 days ahead.
#[tokio::test]
async fn a_fetch_in_the_future_does_not_keep_newer_copies_out() {
    let fixture = ArchiveFixture::file();
    let location = location("future");
    let mut copy = draft(3, AudioStatus::Absent);
    copy.fetched_at = Clock::System.now() + Duration::from_hours(400 * 24);
    expect_written(commit(&fixture.archive, &location, &copy, "{}", None).await.unwrap());
    copy.fetched_at = Clock::System.now();
    let manifest =
        expect_written(commit(&fixture.archive, &location, &copy, r#"{"later":1}"#, None).await.unwrap());
    assert_eq!(manifest.revision, 2);
}
