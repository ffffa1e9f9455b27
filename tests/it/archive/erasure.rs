//! Erasing: what is gone, what stays, and who is at work meanwhile.

use std::time::Instant;

use futures_util::future::join;
use object_store::PutPayload;
use polyhook::archive::StoredObjects;

use super::*;

const ACCOUNT: &str = "acme-uk";
const PROJECT: &str = "PROJECT-1";

impl Bench {
    async fn erase(&self, id: &str) -> StoredObjects {
        self.archive.erase(ACCOUNT, PROJECT, id, None).await.unwrap().1
    }

    /// The keys of all objects but the records of erasures, and the records.
    async fn keys(&self) -> (Vec<String>, Vec<String>) {
        self.objects().await.into_keys().partition(|key| !key.contains("erasures/"))
    }
}

pub(super) async fn what_is_erased_is_gone_and_stays_away(bench: Bench) {
    // An id that needs escaping, one that begins with it, and one that it begins with.
    let (id, longer, shorter) = ("CA/0123 4567", "CA/0123 45678", "CA/0123 456");
    let archive = &bench.archive;
    let next_day = Location::new(ACCOUNT, PROJECT, id, "2026-11-23T10:00:00Z".parse().unwrap());
    let other_project = Location::new(ACCOUNT, "PROJECT-10", id, TEN.parse().unwrap());
    let sound = wav(16_000, 5);
    for place in [place(id), next_day.clone(), place(longer), place(shorter), other_project] {
        written(commit(archive, &place, &draft(3, AudioStatus::Ready), "{}", Some(&sound)).await.unwrap());
    }
    // Of a copy that was never completed.
    let left = bench.key(&next_day, "audio.user.wav");
    bench.raw.put(&left, PutPayload::from_static(b"half")).await.unwrap();
    let mut unfinished = 0;
    if let Some(root) = &bench.root {
        std::fs::write(root.join(next_day.folder()).join("conversation.json#1"), "half").unwrap();
        unfinished = 1;
    }
    let before = bench.keys().await.0.len();

    let lying = archive.stored_objects(ACCOUNT, PROJECT, id).await.unwrap();
    assert_eq!(lying.objects, 7 + unfinished);
    assert!(!archive.is_erased(ACCOUNT, PROJECT, id).await.unwrap(), "a look erases nothing");
    let (record, removed) = archive.erase(ACCOUNT, PROJECT, id, Some("GDPR-1")).await.unwrap();
    assert_eq!((removed, record.objects, record.bytes), (lying, lying.objects, lying.bytes));
    assert_eq!((record.environment.as_deref(), record.reason.as_deref()), (Some("live"), Some("GDPR-1")));
    let (objects, records) = bench.keys().await;
    assert_eq!(objects.len(), before - 7);
    assert!(objects.iter().all(|key| !key.contains("PROJECT-1/") || !key.contains("CA%2F0123%204567/")));
    if let Some(root) = &bench.root {
        assert!(!root.join(next_day.folder()).exists() && !root.join(place(id).folder()).exists());
    }
    for other in [longer, shorter] {
        bench.assert_consistent(&place(other)).await;
        assert!(!archive.is_erased(ACCOUNT, PROJECT, other).await.unwrap());
    }
    assert!(!archive.is_erased(ACCOUNT, "PROJECT-10", id).await.unwrap());

    // The record: found by who knows the ids, and telling nothing to who does not.
    assert_eq!(records.len(), 1);
    let name = format!("{}erasures/{}.json", bench.prefix, hash_of(&[ACCOUNT, PROJECT, id]));
    assert_eq!(records[0], name);
    let text = bench.raw.get(&Key::parse(&name).unwrap()).await.unwrap().bytes().await.unwrap();
    let text = std::str::from_utf8(&text).unwrap();
    assert!(!text.contains(ACCOUNT) && !text.contains(PROJECT) && !text.contains("0123"), "{text}");

    // Again: nothing to do, and the record remembers the first time.
    let other = bench.other_process();
    assert!(other.remove_if_erased(ACCOUNT, PROJECT, id).await.unwrap());
    let (again, removed) = other.erase(ACCOUNT, PROJECT, id, None).await.unwrap();
    assert_eq!(
        (again.erased_at, again.objects, again.reason),
        (record.erased_at, record.objects, record.reason)
    );
    assert_eq!((removed.objects, again.environment), (0, record.environment));
    // One that is nowhere is kept away all the same.
    assert_eq!(bench.erase("CA-never-seen").await, StoredObjects::default());
    assert!(archive.is_erased(ACCOUNT, PROJECT, "CA-never-seen").await.unwrap());

    assert!(archive.lift_erasure(ACCOUNT, PROJECT, id).await.unwrap());
    assert!(!archive.lift_erasure(ACCOUNT, PROJECT, id).await.unwrap());
    assert!(!archive.remove_if_erased(ACCOUNT, PROJECT, id).await.unwrap());
    written(commit(archive, &place(id), &draft(3, AudioStatus::Ready), "{}", Some(&sound)).await.unwrap());
    bench.assert_consistent(&place(id)).await;
}

pub(super) async fn an_erasure_beats_those_who_are_writing(bench: Bench) {
    let sound = wav(1000, 5);
    let begun = Instant::now();
    written(
        commit(&bench.archive, &place("CA-alone"), &draft(3, AudioStatus::Ready), "{}", Some(&sound))
            .await
            .unwrap(),
    );
    let alone = begun.elapsed();
    bench.erase("CA-alone").await;
    let (mut races, mut withdrawn) = (0, 0);
    // All moments, and then until one was met.
    while races < 24 || withdrawn == 0 && races < 240 {
        let n = races % 24;
        races += 1;
        let id = format!("CA-race-{races}");
        let (worker, place) = (bench.other_process(), place(&id));
        let ready = draft(3, AudioStatus::Ready);
        let working = async {
            // As a job does: it was not erased when the job began.
            let committed = commit(&worker, &place, &ready, "{}", Some(&sound)).await;
            // A job that has failed is tried again, and finds the record at its beginning.
            let erased = worker.remove_if_erased(ACCOUNT, PROJECT, &id).await.unwrap();
            committed.is_ok() && erased
        };
        let erasing = async {
            // From before the first write to after the last.
            tokio::time::sleep(alone * n / 20).await;
            bench.erase(&id).await
        };
        withdrawn += usize::from(join(working, erasing).await.0);
    }
    eprintln!("{withdrawn} of {races} were taken back by their writers");
    let (objects, records) = bench.keys().await;
    assert_eq!(objects, [""; 0]);
    assert_eq!(records.len(), races as usize + 1);
    assert!(withdrawn > 0, "no erasure fell into a commit");
}

/// As on a file system that does not tell case apart.
pub(super) async fn somebody_else_s_conversation_is_not_erased(bench: Bench) {
    let (mine, theirs) = (place("CA-one"), place("ca-one"));
    written(commit(&bench.archive, &theirs, &draft(3, AudioStatus::Absent), "{}", None).await.unwrap());
    for name in [CONVERSATION, MANIFEST] {
        let bytes = bench.bytes(&theirs, name).await;
        bench.raw.put(&bench.key(&mine, name), bytes.into()).await.unwrap();
    }
    let error = bench.archive.erase(ACCOUNT, PROJECT, "CA-one", None).await.unwrap_err();
    assert!(matches!(error, ArchiveError::Collision { .. }), "{error:?}");
    assert_eq!(bench.keys().await.0.len(), 4);
}

fn hash_of(ids: &[&str]) -> String {
    hex::encode(Sha256::digest(ids.join("\0")))
}
