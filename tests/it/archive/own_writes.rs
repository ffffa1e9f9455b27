//! A worker recognises what it has written itself, although the store failed or the answer was lost.

use std::time::Instant;

use super::*;
use crate::support::store_proxy::{StoreProxy, WriteFault};

/// Far below the takeover timeout of 40 s, after which another writer counts as dead.
const SOON: Duration = Duration::from_secs(15);
/// More than the requests that are repeated for one write.
const ALWAYS: u32 = 100;

/// An archive behind a proxy, and the same archive without it.
async fn proxied(name: &str) -> (ArchiveFixture, StoreProxy, Archive) {
    let fixture = ArchiveFixture::s3(name).await;
    let proxy = StoreProxy::start(fixture.server.as_ref().unwrap().port());
    let archive = Archive::open(&proxy.config(fixture.config.clone()), Clock::System).unwrap();
    (fixture, proxy, archive)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continues_if_the_answer_to_its_write_was_lost() {
    let (fixture, proxy, archive) = proxied("answer-lost").await;
    let recording = wav(8000, 1);
    for (name, turns) in [(CONVERSATION, 3), (MANIFEST, 4), ("audio.wav", 5)] {
        let location = location(name);
        // Once for the first copy, and once for a copy that replaces another.
        for turns in [turns, turns + 10] {
            proxy.fail_writes(name, WriteFault::AnswerLost, 1);
            let begun = Instant::now();
            let draft = draft(turns, AudioStatus::Ready);
            let done =
                commit(&archive, &location, &draft, &format!("{{\"turns\": {turns}}}"), Some(&recording))
                    .await;
            expect_written(done.unwrap());
            assert!(begun.elapsed() < SOON, "{name}: {:?}", begun.elapsed());
            assert_eq!(proxy.faults_left(), 0, "{name}");
            fixture.assert_consistent(&location).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn continues_after_its_own_failed_commit() {
    let (fixture, proxy, archive) = proxied("failed-commit").await;
    let recording = wav(8000, 1);
    for name in [MANIFEST, "audio.wav", CONVERSATION] {
        let location = location(name);
        for (turns, revision) in [(3, 1), (4, 2)] {
            let (draft, body) = (draft(turns, AudioStatus::Ready), format!("{{\"turns\": {turns}}}"));
            proxy.fail_writes(name, WriteFault::Refused, ALWAYS);
            let failed = commit(&archive, &location, &draft, &body, Some(&recording)).await;
            assert_eq!(failed.unwrap_err().label(), "store", "{name}");
            proxy.fail_writes(name, WriteFault::Refused, 0);
            let begun = Instant::now();
            let done = commit(&archive, &location, &draft, &body, Some(&recording)).await.unwrap();
            assert!(begun.elapsed() < SOON, "{name}: {:?}", begun.elapsed());
            assert_eq!(expect_written(done).revision, revision, "{name}");
            fixture.assert_consistent(&location).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_the_failed_commit_of_another_process() {
    let (fixture, proxy, archive) = proxied("others-commit").await;
    let (location, draft) = (location("theirs"), draft(3, AudioStatus::Absent));
    proxy.fail_writes(MANIFEST, WriteFault::Refused, ALWAYS);
    commit(&archive, &location, &draft, "{}", None).await.unwrap_err();
    let other = fixture.other_process().with_takeover_timeout(Duration::from_secs(2));
    let begun = Instant::now();
    expect_written(commit(&other, &location, &draft, "{\"a\": 1}", None).await.unwrap());
    assert!(begun.elapsed() >= Duration::from_secs(2), "it might still be alive");
    fixture.assert_consistent(&location).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_a_lease_if_the_answer_to_its_write_was_lost() {
    let (fixture, proxy, archive) = proxied("lease").await;
    let timeout = Duration::from_secs(2);
    let archive = archive.with_takeover_timeout(timeout);
    proxy.fail_writes("sweep.json", WriteFault::AnswerLost, 1);
    let begun = Instant::now();
    let mut lease = archive.lease("sweep", |_| Ok(())).await.unwrap();
    assert!(begun.elapsed() < timeout, "it waited for itself");
    assert_eq!(proxy.faults_left(), 0);
    // The answer to a renewal, which the store repeats and then reports as a conflict.
    proxy.fail_writes("sweep.json", WriteFault::AnswerLost, 1);
    assert!(
        tokio::time::timeout(timeout * 2, lease.lost()).await.is_err(),
        "it took itself for another holder"
    );
    assert_eq!(proxy.faults_left(), 0);
    proxy.fail_writes("sweep.json", WriteFault::AnswerLost, 1);
    lease.release(Some("done".to_owned())).await.unwrap();
    let other = fixture.other_process().with_takeover_timeout(timeout);
    let next = other.lease("sweep", |note| {
        assert_eq!(note, Some("done"));
        Ok(())
    });
    tokio::time::timeout(timeout, next).await.expect("it is free at once").unwrap();
}
