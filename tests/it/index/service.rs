//! The service: what it adds, replaces and removes, at what cost, and what survives failures.

use std::time::Duration;

use futures_util::future::join_all;
use object_store::{ObjectStoreExt, path::Path as Key};
use polyhook::{
    index::{Index, IndexConfig, NumberMode},
    lifecycle::{Lifecycle, ShutdownOutcome},
};

use super::Site;
use crate::support::{seaweed::Seaweed, store_proxy::StoreProxy};

#[tokio::test]
async fn new_calls_appear_a_refresh_replaces_them_and_a_rebuild_gives_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::file(folder.path());
    // An earlier polyhook noted no changes.
    site.archive("CA/old 1", 1).await;
    let notes = site.archive.list_changes(10).await.unwrap();
    site.archive.remove_changes(&notes).await.unwrap();
    let report = site.pass().await;
    assert_eq!((report.read, report.failures, report.changes), (1, vec![], 0));
    site.archive("CA2", 3).await;
    site.archive("CA3", 2).await;
    site.pass().await;
    let rows = |rows: &[(&str, i64, usize)]| {
        rows.iter().map(|(id, revision, turns)| ((*id).to_owned(), (*revision, *turns))).collect()
    };
    assert_eq!(site.rows().await, rows(&[("CA/old 1", 1, 1), ("CA2", 1, 3), ("CA3", 1, 2)]));

    site.archive("CA2", 4).await;
    let report = site.pass().await;
    assert_eq!((report.read, report.days), (1, 1), "only what has changed is read");
    let expected = rows(&[("CA/old 1", 1, 1), ("CA2", 2, 4), ("CA3", 1, 2)]);
    assert_eq!(site.rows().await, expected);
    assert_eq!(site.archive.list_changes(10).await.unwrap(), []);

    let tables = [site.read("calls").await, site.read("turns").await];
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    let report = site.pass().await;
    assert_eq!(report.read, 3, "a day without files is due");
    assert_eq!([site.read("calls").await, site.read("turns").await], tables);
}

#[tokio::test]
async fn files_that_do_not_belong_together_are_noticed_and_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::file(folder.path());
    let day = super::location("").day();
    let turns = folder.path().join("index/turns").join(day.folder()).join("turns.parquet");
    let complete = async || site.index.verify_day(&day).await.unwrap().is_complete();
    site.archive("CA1", 2).await;
    site.archive("CA2", 3).await;
    site.pass().await;
    // The turns are those of before.
    let earlier = std::fs::read(&turns).unwrap();
    site.archive("CA3", 1).await;
    site.pass().await;
    let mut rows = site.rows().await;
    std::fs::write(&turns, earlier).unwrap();
    assert!(!complete().await);
    site.index.check_day(&day, None, |_| ()).await.unwrap();
    assert!(site.rows().await == rows && complete().await);

    // The turns have phone numbers in another form.
    let config = IndexConfig { numbers: NumberMode::Plain, ..IndexConfig::default() };
    let plain = Index::open(&config, site.archive.clone(), site.clock.clone()).unwrap();
    plain.check_day(&day, None, |_| ()).await.unwrap();
    let of_plain = std::fs::read(&turns).unwrap();
    site.index.check_day(&day, None, |_| ()).await.unwrap();
    std::fs::write(&turns, of_plain).unwrap();
    assert!(!complete().await);
    site.index.check_day(&day, None, |_| ()).await.unwrap();
    assert!(site.rows().await == rows && complete().await);

    // Erasures and notes find one of the files, or none.
    std::fs::remove_file(&turns).unwrap();
    site.erase("CA3").await;
    rows.remove("CA3");
    assert_eq!(site.rows().await, rows);
    let remove_index = || std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    remove_index();
    site.erase("CA2").await;
    rows.remove("CA2");
    assert_eq!(site.rows().await, rows);
    remove_index();
    site.archive("CA4", 1).await;
    site.pass().await;
    rows.insert("CA4".to_owned(), (1, 1));
    assert!(site.rows().await == rows && complete().await);

    // The archive has lost the conversation.
    std::fs::remove_dir_all(folder.path().join(super::location("CA4").folder())).unwrap();
    let dates = site.index.find_dates(super::ACCOUNT, super::PROJECT, "CA4").await.unwrap();
    assert_eq!(dates, [day.date()].into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_runs_until_the_drain_and_reports_what_it_cannot_read() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::file(folder.path());
    let lifecycle = Lifecycle::new();
    lifecycle.spawn_service("index", site.service().run(lifecycle.clone()));
    site.archive("CA1", 1).await;
    let calls = folder.path().join("index/calls");
    while !calls.exists() {
        site.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lifecycle.drain();
    assert_eq!(lifecycle.run_until_shutdown().await, ShutdownOutcome::Drained);
    assert_eq!(site.health.conditions(), []);

    // The files cannot be written.
    let index = folder.path().join("index");
    std::fs::remove_dir_all(&index).unwrap();
    std::fs::write(&index, "a file").unwrap();
    site.archive("CA2", 1).await;
    let report = site.pass().await;
    let conditions = site.health.conditions();
    assert!(!report.failures.is_empty() && conditions[0].0 == "index", "{report:?} {conditions:?}");
    let waiting = site.archive.list_changes(10).await.unwrap();
    assert!(waiting.iter().any(|change| change.name == "CA2"), "{waiting:?}");
    std::fs::remove_file(&index).unwrap();
    site.pass().await;
    assert_eq!((site.health.conditions(), site.rows().await.len()), (vec![], 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_at_the_same_time_lose_no_row_and_an_erasure_wins() {
    let folder = tempfile::tempdir().unwrap();
    let first = Site::file(folder.path());
    for number in 0..6 {
        first.archive(&format!("CA{number}"), 2).await;
    }
    // Each writer has an archive of its own, so that only files are shared.
    let writers = (0..4).map(|writer| {
        let site = Site::file(folder.path());
        async move {
            site.archive(&format!("CB{writer}"), 2).await;
            if writer % 2 == 0 {
                site.pass().await;
            } else {
                site.index.check_day(&super::location("").day(), None, |_| ()).await.unwrap();
            }
        }
    });
    let eraser = async {
        let site = Site::file(folder.path());
        site.erase("CA0").await;
        assert!(!site.rows().await.contains_key("CA0"), "it is gone before the erasure ends");
    };
    tokio::join!(join_all(writers), eraser);
    assert_eq!(first.pass().await.failures, [""; 0]);
    let ids: Vec<_> = first.rows().await.into_keys().collect();
    assert_eq!(ids, ["CA1", "CA2", "CA3", "CA4", "CA5", "CB0", "CB1", "CB2", "CB3"]);
    assert!(first.index.verify_day(&super::location("").day()).await.unwrap().is_complete());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_write_to_a_bucket_loses_and_doubles_nothing() {
    let server = Seaweed::shared().await;
    let (proxy, raw) = (StoreProxy::start(server.port()), server.client());
    let mut crashes = 0;
    loop {
        let prefix = format!("index-crash-{crashes}");
        let direct = Site::open(&server.config(&prefix));
        direct.archive("CA1", 3).await;
        direct.pass().await;
        direct.archive("CA1", 4).await;
        direct.archive("CA2", 1).await;
        proxy.allow_writes(Some(crashes));
        let crashing = Site::open(&proxy.config(server.config(&prefix))).service().run_once().await;
        proxy.allow_writes(None);
        let is_complete = crashing.is_ok_and(|report| report.failures.is_empty());
        // The dead process held the lease.
        raw.delete(&Key::parse(format!("{prefix}/.polyhook/index.json")).unwrap()).await.unwrap();
        assert_eq!(direct.pass().await.failures, [""; 0], "after {crashes} writes");
        let rows: Vec<_> = direct.rows().await.into_iter().collect();
        let expected = [("CA1".to_owned(), (2, 4)), ("CA2".to_owned(), (1, 1))];
        assert_eq!(rows, expected, "after {crashes} writes");
        assert_eq!(direct.archive.list_changes(10).await.unwrap(), [], "after {crashes} writes");
        if is_complete {
            break;
        }
        crashes += 1;
    }
    assert!(crashes >= 5, "the lease, two files, two notes: {crashes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_conversation_is_read_once_for_each_change_and_not_again_for_checks() {
    let server = Seaweed::shared().await;
    let proxy = StoreProxy::start(server.port());
    let (direct, site) =
        (Site::open(&server.config("index-reads")), Site::open(&proxy.config(server.config("index-reads"))));
    let reads = |requests: &[String], end: &str| {
        requests.iter().filter(|request| request.starts_with("GET ") && request.ends_with(end)).count()
    };
    for id in ["CA1", "CA2", "CA3"] {
        direct.archive(id, 2).await;
    }
    site.pass().await;
    let requests = proxy.take_requests();
    assert_eq!(reads(&requests, "/conversation.json"), 3, "{requests:#?}");
    direct.archive("CA2", 4).await;
    site.pass().await;
    let requests = proxy.take_requests();
    assert_eq!(
        (reads(&requests, "/conversation.json"), reads(&requests, "/manifest.json")),
        (1, 1),
        "{requests:#?}"
    );
    // The day is over.
    site.clock.set("2026-11-23T01:00:00Z".parse().unwrap());
    let report = site.pass().await;
    let requests = proxy.take_requests();
    assert_eq!(
        (report.days, reads(&requests, "/conversation.json"), reads(&requests, "/manifest.json")),
        (1, 0, 0)
    );
    let writes =
        requests.iter().filter(|request| request.contains("PUT") && request.contains("/index/")).count();
    assert_eq!(writes, 0, "{requests:#?}");
    site.pass().await;
    let requests = proxy.take_requests();
    assert!(requests.len() <= 10, "an idle pass is cheap: {requests:#?}");
}
