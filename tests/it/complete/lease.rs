//! Leases in a folder and in a bucket: one holder at a time, and the takeover from a dead holder.

use std::time::{Duration, Instant};

use polyhook::{
    archive::{Archive, ArchiveConfig},
    clock::Clock,
};
use tokio::time::timeout;

use crate::support::seaweed::Seaweed;

const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(2);

fn open(config: &ArchiveConfig) -> Archive {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Archive::open(config, Clock::System).unwrap().with_takeover_timeout(TAKEOVER_TIMEOUT)
}

/// The contract of a lease in any archive.
async fn one_holder_at_a_time(config: &ArchiveConfig) {
    let (a, b) = (open(config), open(config));
    let first = a.lease("sweep", |note| {
        assert_eq!(note, None);
        Ok(())
    });
    let mut first = first.await.unwrap();
    // No other process gets the lease while the holder renews it.
    let mut second = std::pin::pin!(b.lease("sweep", |_| Ok(())));
    tokio::select! {
        () = first.lost() => panic!("lost"),
        _ = &mut second => panic!("two holders"),
        () = tokio::time::sleep(TAKEOVER_TIMEOUT * 3) => {}
    }
    // A lease with another name is independent.
    timeout(TAKEOVER_TIMEOUT, b.lease("other", |_| Ok(())))
        .await
        .unwrap()
        .unwrap()
        .release(None)
        .await
        .unwrap();

    first.release(Some("done at noon".to_owned())).await.unwrap();
    let second = timeout(TAKEOVER_TIMEOUT, second).await.expect("free at once").unwrap();
    second.release(None).await.unwrap();

    // The note stays, and decides about the next lease.
    let started = Instant::now();
    let third = a.lease("sweep", |note| {
        assert_eq!(note, Some("done at noon"));
        if started.elapsed() > Duration::from_millis(300) { Ok(()) } else { Err(Duration::from_millis(100)) }
    });
    let third = timeout(TAKEOVER_TIMEOUT, third).await.unwrap().unwrap();
    assert!(started.elapsed() > Duration::from_millis(300));

    // The holder is dropped without a release.
    drop(third);
    let fourth =
        timeout(TAKEOVER_TIMEOUT * 3, b.lease("sweep", |_| Ok(()))).await.expect("taken over").unwrap();
    fourth.release(None).await.unwrap();
}

#[tokio::test]
async fn a_folder_lease_has_one_holder() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().display());
    one_holder_at_a_time(&ArchiveConfig { url, ..ArchiveConfig::default() }).await;
}

#[tokio::test]
async fn a_bucket_lease_has_one_holder() {
    let store = Seaweed::shared().await;
    one_holder_at_a_time(&store.config(&format!("lease-{}", fastrand::u64(..)))).await;
}

/// A holder that was suspended for too long notices that another process has the lease.
#[tokio::test]
async fn a_suspended_holder_notices_the_loss() {
    let store = Seaweed::shared().await;
    let config = store.config(&format!("lease-{}", fastrand::u64(..)));
    let (a, b) = (open(&config), open(&config));
    let mut sleeper = a.lease("sweep", |_| Ok(())).await.unwrap();
    let _awake =
        timeout(TAKEOVER_TIMEOUT * 3, b.lease("sweep", |_| Ok(()))).await.expect("taken over").unwrap();
    timeout(TAKEOVER_TIMEOUT, sleeper.lost()).await.expect("the loss is noticed");
}
