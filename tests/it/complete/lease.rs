//! Leases and the locks of fetches, in a folder and in a bucket: one holder at a time, and the takeover from a dead holder.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use object_store::ObjectStore;
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

/// The contract of the lock of a fetch in any archive.
async fn one_fetch_at_a_time(config: &ArchiveConfig) {
    let (a, b) = (open(config), open(config));
    let mut first = a.try_fetch_lock("CA1").await.unwrap().expect("free");
    assert!(a.try_fetch_lock("CA1").await.unwrap().is_none(), "held by this process");
    // No other process gets the lock while the holder renews it.
    let others = async {
        let started = Instant::now();
        while started.elapsed() < TAKEOVER_TIMEOUT * 3 {
            assert!(b.try_fetch_lock("CA1").await.unwrap().is_none(), "two holders");
            tokio::time::sleep(TAKEOVER_TIMEOUT / 10).await;
        }
    };
    tokio::select! {
        never = first.keep() => match never {},
        () = others => {}
    }
    b.try_fetch_lock("CA2").await.unwrap().expect("another conversation").release().await;
    first.release().await;
    let second = b.try_fetch_lock("CA1").await.unwrap().expect("free at once");

    // The holder dies. In a folder its lock ends with it.
    std::mem::drop(second);
    let started = Instant::now();
    let third = loop {
        if let Some(lock) = a.try_fetch_lock("CA1").await.unwrap() {
            break lock;
        }
        assert!(started.elapsed() < TAKEOVER_TIMEOUT * 5, "not taken over");
        tokio::time::sleep(TAKEOVER_TIMEOUT / 10).await;
    };
    assert!(b.try_fetch_lock("CA1").await.unwrap().is_none(), "two holders");
    third.release().await;
}

#[tokio::test]
async fn the_lock_of_a_fetch_in_a_folder_has_one_holder() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().display());
    one_fetch_at_a_time(&ArchiveConfig { url, ..ArchiveConfig::default() }).await;
    let locks = folder.path().join(".polyhook/fetching");
    assert_eq!(std::fs::read_dir(locks).unwrap().count(), 0, "nothing stays");
}

#[tokio::test]
async fn the_lock_of_a_fetch_in_a_bucket_has_one_holder() {
    let store = Seaweed::shared().await;
    let name = format!("fetching-{}", fastrand::u64(..));
    one_fetch_at_a_time(&store.config(&name)).await;
    let prefix = object_store::path::Path::from(name);
    let left: Vec<_> = store.client().list(Some(&prefix)).try_collect().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// Many tasks of two processes want one lock, and each takes it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holders_of_the_lock_of_a_fetch_never_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().display());
    let config = ArchiveConfig { url, ..ArchiveConfig::default() };
    let (a, b) = (open(&config), open(&config));
    let held = std::sync::atomic::AtomicBool::new(false);
    let tasks = (0..16).map(async |n| {
        let archive = if n % 2 == 0 { &a } else { &b };
        let mut taken = 0;
        while taken < 20 {
            let Some(lock) = archive.try_fetch_lock("CA1").await.unwrap() else {
                tokio::task::yield_now().await;
                continue;
            };
            assert!(!held.swap(true, Ordering::SeqCst), "two holders");
            tokio::task::yield_now().await;
            held.store(false, Ordering::SeqCst);
            lock.release().await;
            taken += 1;
        }
    });
    futures_util::future::join_all(tasks).await;
}

#[tokio::test]
async fn locks_and_leases_of_a_folder_survive_the_removal_of_the_private_folder() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file:{}", folder.path().display());
    let archive = open(&ArchiveConfig { url, ..ArchiveConfig::default() });
    let remove = || std::fs::remove_dir_all(folder.path().join(".polyhook")).unwrap();
    remove();
    archive.try_fetch_lock("CA1").await.unwrap().expect("free").release().await;
    remove();
    let lease = timeout(TAKEOVER_TIMEOUT, archive.lease("sweep", |_| Ok(()))).await.expect("free at once");
    lease.unwrap().release(None).await.unwrap();
}
