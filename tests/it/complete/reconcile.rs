//! Reconciliation: in `run` and alone, with and without webhooks, on both lists.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{RECENT, asked, script, serve, site};
use crate::support::{
    process::{self, PolyAi, deliver, eventually, metric, within},
    rabbit::{self, SHARED},
};

/// The promise in full is 10,000 calls, `SCALE=full`.
fn calls() -> usize {
    if std::env::var_os("SCALE").is_some_and(|scale| scale == "full") { 10_000 } else { 1_500 }
}

/// Nobody delivers anything, and all of a week comes into the archive; each conversation is fetched once, and goes on being
/// left alone when all is there.
#[test]
fn without_a_single_webhook_the_archive_becomes_complete() {
    let calls = calls();
    let spacing = 7 * 24 * 3600 / calls - 1;
    let scenario = RECENT.replace("10m", &format!("{spacing}s"));
    let polyai = PolyAi::start(&scenario, calls);
    let site = site(&polyai, "every = \"3s\", lookback = \"7d\", settle = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.ready();
    eventually("complete", || site.manifests().len() == calls);
    assert_eq!(site.manifests().len(), calls);
    let passes = || run.log().iter().filter(|line| line["message"] == "reconciled").count();
    let before = passes();
    within(Duration::from_mins(1), "at it again", || passes() > before + 1);
    let last = run.log().into_iter().rfind(|line| line["message"] == "reconciled").unwrap();
    assert_eq!((last["listed"].as_u64(), last["missing"].as_u64()), (Some(calls as u64), Some(0)), "{last}");
    assert_eq!(asked(&polyai, "v3_conversation"), calls as u64, "each is fetched once");
    assert_eq!(metric(admin, "polyhook_reconcile_missing_total"), calls);
    assert_eq!(metric(admin, "polyhook_queue_depth{queue=\"dead\"}"), 0);
    run.stop();
}

/// One delivery in twenty gets lost on its way; a process of its own finds them within a period, on RabbitMQ.
#[test]
fn what_webhooks_lose_is_found_within_a_period() {
    const EVERY: Duration = Duration::from_secs(5);
    let polyai = PolyAi::start(RECENT, 120);
    let prefix = rabbit::prefix();
    let queue = format!("queue = {{ url = \"{}\", prefix = \"{prefix}\" }}", SHARED.url());
    let site = site(&polyai, "every = \"0s\", lookback = \"2d\", settle = \"0s\"", &queue);
    let mut receiver = site.polyhook(["receive"]).private("guest:guest").start();
    let mut worker = site.polyhook(["work"]).private("guest:guest").start();
    let (to, admin) = (receiver.receiver(), worker.ready());
    let ids = polyai.ids();
    let (lost, delivered): (Vec<_>, Vec<_>) = ids.iter().enumerate().partition(|(n, _)| n % 20 == 7);
    for (_, id) in &delivered {
        assert_eq!(deliver(to, &polyai.access.secret, &format!("evt-{id}"), &polyai.event(id)), Some(204));
    }
    eventually("the delivered ones archived", || site.manifests().len() == delivered.len());
    // Nobody looks: they stay missing.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(site.manifests().len(), delivered.len());

    let every = format!("reconcile.every={}s", EVERY.as_secs());
    let mut reconcile = site.polyhook(["reconcile", "--set", &every]).private("guest:guest").start();
    let started = Instant::now();
    eventually("complete", || site.manifests().len() == ids.len());
    assert!(started.elapsed() < EVERY + Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(asked(&polyai, "v3_conversation"), ids.len() as u64, "nothing is fetched twice");
    assert_eq!(metric(admin, "polyhook_jobs_total{outcome=\"archived\"}"), ids.len());
    let trigger = |id: &str| {
        let found = &crate::processes::sound_archive(&site.archive())[id];
        found["trigger"].as_str().unwrap().to_owned()
    };
    assert!(lost.iter().all(|(_, id)| trigger(id) == "reconcile"));
    assert!(delivered.iter().take(5).all(|(_, id)| trigger(id) == "webhook"));
    for process in [&mut reconcile, &mut worker, &mut receiver] {
        process.stop();
    }
}

/// A call that goes on is left alone, and fetched when it is over. One that was archived too early is fetched again.
#[test]
fn a_call_is_fetched_when_it_is_over_and_again_if_it_was_not() {
    let polyai = PolyAi::start(RECENT, 3);
    let ids = polyai.ids();
    script(&polyai, &ids[1], &json!({ "in_progress_for": "8s" }));
    let site = site(&polyai, "every = \"1s\", lookback = \"1d\", settle = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.ready();
    eventually("the others archived", || site.manifests().len() == 2);
    eventually("all archived", || site.manifests().len() == 3);
    assert_eq!(
        metric(admin, "polyhook_jobs_total{outcome=\"retried\"}"),
        0,
        "nobody asks for it while it goes on"
    );

    // As if somebody had archived it while it was going on.
    let path = site.manifests().into_iter().find(|path| path.to_str().unwrap().contains(&ids[0])).unwrap();
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["in_progress"] = true.into();
    manifest["turn_count"] = 0.into();
    manifest["objects"][0]["sha256"] = "0".repeat(64).into();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
    eventually("fetched again", || read()["in_progress"] == false);
    assert_eq!(read()["revision"], 2);
    run.stop();
}

/// Whoever archived it may have died before it was announced: so it is announced, and not fetched.
#[test]
fn what_is_archived_by_then_is_announced_and_not_fetched() {
    let polyai = PolyAi::start(RECENT, 1);
    let [id] = &polyai.ids()[..] else { panic!("one call") };
    let site = site(&polyai, "every = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let (to, admin) = (run.receiver(), run.ready());
    let archived = |outcome: &str| metric(admin, &format!("polyhook_jobs_total{{outcome=\"{outcome}\"}}"));
    assert_eq!(deliver(to, &polyai.access.secret, "evt", &polyai.event(id)), Some(204));
    eventually("archived", || archived("archived") == 1);
    let manifest: Value = serde_json::from_slice(&std::fs::read(&site.manifests()[0]).unwrap()).unwrap();
    let found = json!({ "type": "conversation.discovered", "data": {
        "conversation_id": id, "account_id": polyai.access.account_id, "project_id": polyai.access.project_id,
        "environment": "live", "started_at": manifest["started_at"],
    } });
    assert_eq!(deliver(to, &polyai.access.secret, "found", found.to_string().as_bytes()), Some(204));
    eventually("known", || archived("known") == 1);
    assert_eq!(asked(&polyai, "v3_conversation"), 1);
    let announced = ["delivered", "unrouted"]
        .map(|outcome| metric(admin, &format!("polyhook_announcements_total{{outcome=\"{outcome}\"}}")));
    assert_eq!(announced.iter().sum::<usize>(), 2, "{announced:?}");
    run.stop();
}

/// Where v3 has no list, the Data API's is read, newest first and no further than needed.
#[test]
fn the_data_api_does_as_well() {
    let polyai = PolyAi::start(RECENT, 700);
    serve(&polyai, &[("v3_list", false), ("v3_by_id", false), ("v3_audio", false)]);
    let site = site(&polyai, "settle = \"0s\", lookback = \"1d\"", "");
    let passed = site.polyhook(["reconcile", "--once", "--json"]).run();
    assert_eq!(passed.code, Some(0), "{passed:?}");
    let tally = super::json(&passed.stdout);
    // One every ten minutes.
    assert!((143..=145).contains(&tally["queued"].as_u64().unwrap()), "{tally}");
    assert_eq!(asked(&polyai, "data_list"), 1, "one page is enough");
    let again = super::json(&site.polyhook(["reconcile", "--once", "--json"]).run().stdout);
    assert_eq!((&again["queued"], &again["queued_before"]), (&json!(0), &tally["queued"]), "{again}");
}

/// Trouble with one project is told, and costs the others nothing.
#[test]
fn a_project_that_cannot_be_listed_is_said_and_tried_again() {
    let polyai = PolyAi::start(RECENT, 5);
    let more = format!(
        "[[projects]]\naccount_id = \"acme\"\nproject_id = \"wrong\"\napi_key = \"no-such-key\"\n\
         [[projects]]\naccount_id = \"{}\"\nproject_id = \"{}\"\napi_key = \"{}\"\n",
        polyai.access.account_id, polyai.access.project_id, polyai.access.api_key
    );
    let site = site(&polyai, "every = \"1s\", settle = \"0s\"", &more);
    let mut run = site.polyhook(["run"]).private(&polyai.access.api_key).start();
    let admin = run.ready();
    eventually("the others archived", || site.manifests().len() == 5);
    let (status, text) = process::get(admin, "/readyz").unwrap();
    assert_eq!(status, 200, "it takes deliveries all the same");
    assert!(
        text.contains("reconcile") && text.contains("project wrong") && text.contains("API key"),
        "{text}"
    );
    run.stop();
    let once = site.polyhook(["reconcile", "--once"]).private(&polyai.access.api_key).run();
    assert_eq!(once.code, Some(1));
    assert!(once.stderr.contains("project wrong"), "{once:?}");
}

/// What a person has erased is not missing.
#[test]
fn what_was_erased_is_not_brought_back() {
    let polyai = PolyAi::start(RECENT, 3);
    let ids = polyai.ids();
    let site = site(&polyai, "every = \"1s\", settle = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.ready();
    eventually("archived", || site.manifests().len() == 3);
    assert_eq!(site.polyhook(["erase", &ids[1], "--yes"]).run().code, Some(0));
    let passes = || run.log().iter().filter(|line| line["message"] == "reconciled").count();
    let before = passes();
    eventually("looked again", || passes() > before + 2);
    let last = run.log().into_iter().rfind(|line| line["message"] == "reconciled").unwrap();
    let counted = ["archived", "erased", "missing"].map(|name| last[name].as_u64().unwrap());
    assert_eq!(counted, [2, 1, 0], "{last}");
    assert_eq!((site.manifests().len(), metric(admin, "polyhook_reconcile_missing_total")), (2, 3));
    let audited = site.polyhook(["audit", "--date", "today", "--json"]).run();
    let report = &super::json(&audited.stdout)["report"];
    assert_eq!(report["counts"].get("missing"), None, "{report}");
    run.stop();
}
