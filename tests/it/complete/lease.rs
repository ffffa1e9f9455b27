//! One process at a time, in a folder and in a bucket; and what happens to the lease of one that is gone.

use std::time::{Duration, Instant};

use polyhook::{
    archive::{Archive, ArchiveConfig},
    clock::Clock,
};
use tokio::time::timeout;

use crate::support::seaweed::Seaweed;

const PATIENCE: Duration = Duration::from_secs(2);

fn open(config: &ArchiveConfig) -> Archive {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Archive::open(config, Clock::System).unwrap().with_takeover_timeout(PATIENCE)
}

/// The contract, wherever the archive is.
async fn one_holder_at_a_time(config: &ArchiveConfig) {
    let (a, b) = (open(config), open(config));
    let first = a.lease("sweep", |note| {
        assert_eq!(note, None);
        Ok(())
    });
    let mut first = first.await.unwrap();
    // As long as it is kept, nobody else gets it.
    let mut second = std::pin::pin!(b.lease("sweep", |_| Ok(())));
    tokio::select! {
        () = first.lost() => panic!("lost"),
        _ = &mut second => panic!("two holders"),
        () = tokio::time::sleep(PATIENCE * 3) => {}
    }
    // Another name is another lease.
    timeout(PATIENCE, b.lease("other", |_| Ok(()))).await.unwrap().unwrap().release(None).await.unwrap();

    first.release(Some("done at noon".to_owned())).await.unwrap();
    let second = timeout(PATIENCE, second).await.expect("free at once").unwrap();
    second.release(None).await.unwrap();

    // The note stays, and decides.
    let started = Instant::now();
    let third = a.lease("sweep", |note| {
        assert_eq!(note, Some("done at noon"));
        if started.elapsed() > Duration::from_millis(300) { Ok(()) } else { Err(Duration::from_millis(100)) }
    });
    let third = timeout(PATIENCE, third).await.unwrap().unwrap();
    assert!(started.elapsed() > Duration::from_millis(300));

    // One that is gone without a word.
    drop(third);
    let fourth = timeout(PATIENCE * 3, b.lease("sweep", |_| Ok(()))).await.expect("taken over").unwrap();
    fourth.release(None).await.unwrap();
}

#[tokio::test]
async fn in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().display());
    one_holder_at_a_time(&ArchiveConfig { url, ..ArchiveConfig::default() }).await;
}

#[tokio::test]
async fn in_a_bucket() {
    let store = Seaweed::shared().await;
    one_holder_at_a_time(&store.config(&format!("lease-{}", fastrand::u64(..)))).await;
}

/// A holder that slept too long finds out that somebody else has it.
#[tokio::test]
async fn who_is_late_has_lost_it() {
    let store = Seaweed::shared().await;
    let config = store.config(&format!("lease-{}", fastrand::u64(..)));
    let (a, b) = (open(&config), open(&config));
    let mut sleeper = a.lease("sweep", |_| Ok(())).await.unwrap();
    let _awake = timeout(PATIENCE * 3, b.lease("sweep", |_| Ok(()))).await.expect("taken over").unwrap();
    timeout(PATIENCE, sleeper.lost()).await.expect("told");
}
