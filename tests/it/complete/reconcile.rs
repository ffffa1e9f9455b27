//! Reconciliation in `run` and as a process of its own, with and without webhooks, with both lists.

use std::time::{Duration, Instant};

use polyhook::clock::Clock;
use serde_json::{Value, json};

use super::{RECENT_CHATS, request_count, script_call, set_served, site};
use crate::support::{
    process::{self, SimulatedPolyAi, deliver, eventually, eventually_within, metric},
    rabbit::{self, SHARED_NODE},
};

/// The full promise is 10,000 calls, with `SCALE=full`.
fn calls() -> usize {
    if std::env::var_os("SCALE").is_some_and(|scale| scale == "full") { 10_000 } else { 1_500 }
}

/// No webhook is delivered, and all conversations of a week are archived. Each one is fetched once. Later passes list only
/// what is new.
#[test]
fn the_archive_becomes_complete_without_webhooks() {
    let calls = calls();
    let spacing = 7 * 24 * 3600 / calls - 1;
    let scenario = RECENT_CHATS.replace("10m", &format!("{spacing}s"));
    let polyai = SimulatedPolyAi::start(&scenario, calls);
    let site = site(&polyai, "every = \"3s\", lookback = \"7d\", settle = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    eventually("complete", || site.manifests().len() == calls);
    assert_eq!(site.manifests().len(), calls);
    let passes = || {
        run.log().iter().filter(|line| line["message"].as_str().unwrap().starts_with("reconciled")).count()
    };
    let before = passes();
    eventually_within(Duration::from_mins(1), "a second pass", || passes() > before + 1);
    let last = run
        .log()
        .into_iter()
        .rfind(|line| line["message"].as_str().unwrap().starts_with("reconciled"))
        .unwrap();
    assert!(last["listed"].as_u64().unwrap() < 10 && last["missing"] == 0, "{last}");
    assert_eq!(metric(admin, "polyhook_reconcile_failed_windows"), 0);
    assert_eq!(request_count(&polyai, "v3_conversation"), calls as u64, "each is fetched once");
    assert_eq!(metric(admin, "polyhook_reconcile_missing_total"), calls);
    assert_eq!(metric(admin, "polyhook_queue_depth{queue=\"dead\"}"), 0);
    run.stop();
}

/// One delivery in twenty is lost. A reconcile process on RabbitMQ finds the lost ones within one interval.
#[test]
fn finds_lost_deliveries_within_one_interval() {
    const EVERY: Duration = Duration::from_secs(5);
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 120);
    let prefix = rabbit::unique_prefix();
    let queue = format!("queue = {{ url = \"{}\", prefix = \"{prefix}\" }}", SHARED_NODE.url());
    let site = site(&polyai, "every = \"0s\", lookback = \"2d\", settle = \"0s\"", &queue);
    let mut receiver = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    let mut worker = site.polyhook(["work"]).must_not_print("guest:guest").start();
    let (to, admin) = (receiver.receiver_address(), worker.wait_until_ready());
    let ids = polyai.ids();
    let (lost, delivered): (Vec<_>, Vec<_>) = ids.iter().enumerate().partition(|(n, _)| n % 20 == 7);
    for (_, id) in &delivered {
        assert_eq!(deliver(to, &polyai.access.secret, &format!("evt-{id}"), &polyai.event(id)), Some(204));
    }
    eventually("the delivered ones archived", || site.manifests().len() == delivered.len());
    // Without reconciliation they stay missing.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(site.manifests().len(), delivered.len());

    let every = format!("reconcile.every={}s", EVERY.as_secs());
    let mut reconcile = site.polyhook(["reconcile", "--set", &every]).must_not_print("guest:guest").start();
    let started = Instant::now();
    eventually("complete", || site.manifests().len() == ids.len());
    assert!(started.elapsed() < EVERY + Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(request_count(&polyai, "v3_conversation"), ids.len() as u64, "nothing is fetched twice");
    assert_eq!(metric(admin, "polyhook_jobs_total{outcome=\"archived\"}"), ids.len());
    let trigger = |id: &str| {
        let found = &crate::processes::verified_archive(&site.archive())[id];
        found["trigger"].as_str().unwrap().to_owned()
    };
    assert!(lost.iter().all(|(_, id)| trigger(id) == "reconcile"));
    assert!(delivered.iter().take(5).all(|(_, id)| trigger(id) == "webhook"));
    // The first pass does not begin before the connection to the broker.
    let incomplete = |line: &Value| line["message"].as_str().unwrap().contains("is not complete");
    assert!(!reconcile.log().iter().any(incomplete), "{:#?}", reconcile.log());
    for process in [&mut reconcile, &mut worker, &mut receiver] {
        process.stop();
    }
}

/// Status shows the failure of a pass and the last complete pass, although nothing of the list can be read.
#[test]
fn status_shows_that_passes_fail() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 1);
    let site = site(&polyai, "every = \"10s\", lookback = \"1d\", settle = \"0s\"", "");
    let last_pass = |pass_exit_code| {
        site.polyhook(["reconcile", "--once"]).run().expect_exit_code(pass_exit_code);
        site.polyhook(["status", "--json"]).run().expect_exit_code(0).json()["last_pass"].clone()
    };
    let complete = last_pass(0);
    assert!(complete["completed_at"].is_string() && complete.get("failure").is_none(), "{complete}");
    site.write("key", "a-revoked-key");
    let failed = last_pass(1);
    assert_eq!(failed["completed_at"], complete["completed_at"], "{failed}");
    assert!(failed["started_at"].as_str() > complete["completed_at"].as_str(), "{failed}");
    assert!(failed["failure"].as_str().unwrap().contains("401"), "{failed}");
    assert!(failed["failed_windows"].as_u64() > Some(0), "{failed}");
    let shown = site.polyhook(["status"]).must_not_print("a-revoked-key").run().stdout;
    assert!(shown.contains("\nlast pass   failed ") && shown.contains("; last complete pass "), "{shown}");
}

/// A call in progress is fetched when it is over. A call that was archived too early is fetched again.
#[test]
fn fetches_a_call_when_it_is_over_and_again_if_it_was_archived_too_early() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 3);
    let ids = polyai.ids();
    script_call(&polyai, &ids[1], &json!({ "in_progress_for": "8s" }));
    let site = site(&polyai, "every = \"1s\", lookback = \"1d\", settle = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    eventually("the others archived", || site.manifests().len() == 2);
    eventually("all archived", || site.manifests().len() == 3);
    assert_eq!(
        metric(admin, "polyhook_jobs_total{outcome=\"retried\"}"),
        0,
        "a call in progress is not requested"
    );

    // As if it had been archived while it was in progress.
    let path = site.manifests().into_iter().find(|path| path.to_str().unwrap().contains(&ids[0])).unwrap();
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["in_progress"] = true.into();
    manifest["turn_count"] = 0.into();
    manifest["objects"][0]["sha256"] = "0".repeat(64).into();
    std::fs::write(&path, manifest.to_string()).unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let read = || serde_json::from_slice::<Value>(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(site.polyhook(["reconcile", "--once"]).run().code, Some(0));
    eventually("fetched again", || read()["in_progress"] == false);
    assert_eq!(read()["revision"], 2);
    run.stop();
}

/// No webhook comes. A call in progress is followed by its id to its end. Another one is listed only when it is over.
#[test]
fn archives_a_call_soon_after_its_end() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 1);
    let site = site(&polyai, "every = \"2s\", settle = \"1s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    eventually("the first is archived", || site.manifests().len() == 1);
    let call = json!({ "environment": "live", "channel": "WEBCHAT", "turns": 1,
        "started_at": Clock::System.now() });
    let started = Instant::now();
    let call = polyai.control("POST", "calls", &call);
    let call = &call["calls"][0];
    let lasts = Duration::from_millis(call["duration_ms"].as_u64().unwrap());
    let id = call["id"].as_str().unwrap();
    let in_progress_for = |left: Duration| {
        script_call(&polyai, id, &json!({ "in_progress_for": format!("{}ms", left.as_millis()) }));
    };
    in_progress_for(lasts);
    eventually("followed", || request_count(&polyai, "v3_conversation") > 1);
    // For a while PolyAI does not know it.
    script_call(&polyai, id, &json!({ "missing": true }));
    let asked = request_count(&polyai, "v3_conversation");
    eventually("still followed", || request_count(&polyai, "v3_conversation") > asked + 1);
    in_progress_for(lasts.saturating_sub(started.elapsed()));
    let before = request_count(&polyai, "v3_list");
    eventually("archived", || site.manifests().len() == 2);
    assert!(started.elapsed() >= lasts, "{:?}", started.elapsed());
    // The interval, the settling time, and a fetch on a busy machine.
    assert!(started.elapsed() < lasts + Duration::from_secs(15), "{:?}", started.elapsed());
    assert!(request_count(&polyai, "v3_list") > before, "lists go on");
    assert!(request_count(&polyai, "v3_conversation") > 2, "it is followed by its id");
    // A call that is in the list only when it is over. It began long before the last pass.
    let started = Instant::now();
    polyai.control("POST", "calls", &json!({ "environment": "live", "channel": "WEBCHAT", "turns": 9 }));
    eventually("archived", || site.manifests().len() == 3);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(metric(admin, "polyhook_archive_age_seconds_count{trigger=\"reconcile\"}"), 3);
    run.stop();
}

/// Without its progress, reconciliation compares the whole lookback.
#[test]
fn begins_again_if_its_progress_is_lost_or_damaged() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 3);
    let site = site(&polyai, "every = \"1s\", settle = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    eventually("archived", || site.manifests().len() == 3);
    let progress = site.archive().join(".polyhook/reconcile-progress.json");
    eventually("the progress is kept", || progress.exists());
    let listed_all = || {
        let is_whole = |line: &&Value| {
            line["message"].as_str().unwrap().starts_with("reconciled") && line["listed"] == 3
        };
        run.log().iter().filter(is_whole).count()
    };
    assert_eq!(listed_all(), 1);
    std::fs::write(&progress, "{\"version\": 1, \"proj").unwrap();
    eventually("the lookback is compared", || listed_all() == 2);
    run.stop();
}

/// The worker that archived it may have died before the announcement. So it is announced, and not fetched again.
#[test]
fn announces_an_archived_conversation_without_a_fetch() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 1);
    let [id] = &polyai.ids()[..] else { panic!("one call") };
    let site = site(&polyai, "every = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let (to, admin) = (run.receiver_address(), run.wait_until_ready());
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
    assert_eq!(request_count(&polyai, "v3_conversation"), 1);
    let announced = ["delivered", "unrouted"]
        .map(|outcome| metric(admin, &format!("polyhook_announcements_total{{outcome=\"{outcome}\"}}")));
    assert_eq!(announced.iter().sum::<usize>(), 2, "{announced:?}");
    run.stop();
}

/// Without a list in v3, the list of the Data API is read, newest first and only until a whole page is older.
#[test]
fn falls_back_to_the_list_of_the_data_api() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 700);
    set_served(&polyai, &[("v3_list", false), ("v3_by_id", false), ("v3_audio", false)]);
    let site = site(&polyai, "settle = \"0s\", lookback = \"1d\"", "");
    let passed = site.polyhook(["reconcile", "--once", "--json"]).run();
    assert_eq!(passed.code, Some(0), "{passed:?}");
    let tally = super::json(&passed.stdout);
    // One conversation every ten minutes.
    assert!((143..=145).contains(&tally["queued"].as_u64().unwrap()), "{tally}");
    assert_eq!(request_count(&polyai, "data_list"), 2, "the second page is older as a whole");
    let again = super::json(&site.polyhook(["reconcile", "--once", "--json"]).run().stdout);
    assert_eq!((&again["queued"], &again["queued_before"]), (&json!(0), &tally["queued"]), "{again}");

    // Its list has all environments, and is read for all of them.
    let environments = "worker = { environments = [\"sandbox\", \"live\"] }";
    let site = super::site(&polyai, "settle = \"0s\", lookback = \"1d\"", environments);
    let tally = super::json(&site.polyhook(["reconcile", "--once", "--json"]).run().stdout);
    assert!((143..=145).contains(&tally["queued"].as_u64().unwrap()), "{tally}");
}

/// An error of one project is reported and does not affect the others.
#[test]
fn reports_and_retries_a_project_that_cannot_be_listed() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 5);
    let more = format!(
        "[[projects]]\naccount_id = \"acme\"\nproject_id = \"wrong\"\napi_key = \"no-such-key\"\n\
         [[projects]]\naccount_id = \"{}\"\nproject_id = \"{}\"\napi_key = \"{}\"\n",
        polyai.access.account_id, polyai.access.project_id, polyai.access.api_key
    );
    let site = site(&polyai, "every = \"1s\", settle = \"0s\"", &more);
    let mut run = site.polyhook(["run"]).must_not_print(&polyai.access.api_key).start();
    let admin = run.wait_until_ready();
    eventually("the others archived", || site.manifests().len() == 5);
    let (status, text) = process::get(admin, "/readyz").unwrap();
    assert_eq!(status, 200, "deliveries are accepted");
    assert!(
        text.contains("reconcile") && text.contains("project wrong") && text.contains("API key"),
        "{text}"
    );
    run.stop();
    let once = site.polyhook(["reconcile", "--once"]).must_not_print(&polyai.access.api_key).run();
    assert_eq!(once.code, Some(1));
    assert!(once.stderr.contains("project wrong"), "{once:?}");
}

/// An erased conversation does not count as missing.
#[test]
fn does_not_restore_erased_conversations() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 3);
    let ids = polyai.ids();
    let site = site(&polyai, "every = \"1s\", settle = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    eventually("archived", || site.manifests().len() == 3);
    assert_eq!(site.polyhook(["erase", &ids[1], "--yes"]).run().code, Some(0));
    let once = super::json(&site.polyhook(["reconcile", "--once", "--json"]).run().stdout);
    assert_eq!([&once["archived"], &once["erased"], &once["missing"]], [2, 1, 0], "{once}");
    assert_eq!((site.manifests().len(), metric(admin, "polyhook_reconcile_missing_total")), (2, 3));
    let audited = site.polyhook(["audit", "--date", "today", "--json"]).run();
    let report = &super::json(&audited.stdout)["report"];
    assert_eq!(report["counts"].get("missing"), None, "{report}");
    run.stop();
}
