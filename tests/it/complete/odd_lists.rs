//! Lists that are nearly right: unreadable entries, odd pages, failing windows. Nothing hides the rest, and what is
//! missing is named.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jiff::{ToSpan, tz::TimeZone};
use polyhook::clock::Clock;
use serde_json::{Value, json};

use crate::support::{
    process::{self, CommandOutput, Installation, deliver, eventually, metric},
    scripted_api::{ScriptedAnswer, ScriptedApi, ScriptedRequest},
};

/// A final answer of PolyAI, which is not requested again.
fn refusal() -> ScriptedAnswer {
    let body =
        json!({ "success": false, "error_code": "CONVERSATIONS_VALIDATION_FAILED", "error_message": "no" });
    (400, body.to_string().into_bytes())
}

/// Creates an installation with these `reconcile` settings (TOML).
fn site(api: &ScriptedApi, reconcile: &str, more: &str) -> Installation {
    Installation::new(&api.access, &format!("reconcile = {{ {reconcile} }}\n{more}"))
}

fn page(entries: &[String], rest: &str) -> ScriptedAnswer {
    (200, format!("{{\"conversations\":[{}]{rest}}}", entries.join(",")).into_bytes())
}

/// An entry of a list: a chat that ended at once.
fn entry(id: &str, started_at: &str) -> String {
    json!({ "id": id, "channel": "CHAT", "environment": "live", "in_progress": false, "started_at": started_at, "total_duration": 1 })
        .to_string()
}

/// Returns the day (UTC) this many days ago, and a time in it that is surely over.
fn day(days_ago: i64) -> (String, String) {
    let now = Clock::System.now() - (24 * days_ago).hours();
    let date = now.to_zoned(TimeZone::UTC).date().to_string();
    let time = format!("{date}T00:00:00Z");
    (date, time)
}

fn is_list(request: &ScriptedRequest) -> bool {
    request.path.ends_with("/conversations")
}

/// Answers the request for one conversation.
fn conversation(request: &ScriptedRequest) -> ScriptedAnswer {
    let id = request.path.rsplit('/').next().unwrap();
    (200, entry(id, &day(0).1).into_bytes())
}

fn dry_run(site: &Installation, more: &[&str]) -> (CommandOutput, Value) {
    let ran = site.polyhook([&["backfill", "--dry-run", "--json"], more].concat()).run();
    let result = super::json(&ran.stdout);
    (ran, result)
}

#[test]
fn an_unreadable_entry_is_counted_and_hides_no_other() {
    let api = ScriptedApi::start(|request| {
        let start = request.parameter("start_time").to_owned();
        let good = |id: &str| entry(id, &start);
        let with = |id: &str, more: &str| format!("{},{more}}}", good(id).trim_end_matches('}'));
        let entries = [
            good("C1"),
            with("C2", "\"metrics\":{\"m\":[{\"value\":NaN},{\"value\":-Infinity}]}"),
            with("C3", "\"note\":\"\\ud800\","),
            good("C4").replace("\"C4\"", "123456789012345678901234567890"),
            "null".to_owned(),
            "{\"note\":\"no id\"}".to_owned(),
            with("C5", "\"turns\":["),
            good("C6"),
        ];
        let (status, mut body) = page(&entries, ",\"cursor\":null,");
        body.splice(0..0, *b"\xef\xbb\xbf");
        (status, body)
    });
    let site = site(&api, "settle = \"0s\"", "");
    let (ran, result) = dry_run(&site, &["--from", "2026-11-02", "--to", "2026-11-02"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(
        (&result["tally"]["missing"], &result["tally"]["unreadable"]),
        (&json!(6), &json!(3)),
        "{result}"
    );
    assert!(ran.stderr.contains("cannot be read") && ran.stderr.contains("[5, 6, 7]"), "{ran:?}");
}

#[test]
fn an_event_and_a_conversation_that_are_nearly_json_are_archived() {
    let long_id = "123456789012345678901234567890";
    let api = ScriptedApi::start(move |request| {
        let known = conversation(request).1;
        let known = String::from_utf8(known).unwrap().replace(&format!("\"{long_id}\""), long_id);
        let odd = format!("\u{feff}{},\"metrics\":{{\"x\":[NaN]}},\"state\":\"", known.trim_end_matches('}'));
        (200, [odd.as_bytes(), b"\xff\\ud800\"}\n"].concat())
    });
    let site = site(&api, "every = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let (to, admin) = (run.receiver_address(), run.wait_until_ready());
    for (number, id) in ["\"CONV-1\"", long_id].into_iter().enumerate() {
        let event = format!(
            "{{\"score\":NaN,\"type\":\"conversation.completed\",\"data\":{{\"conversation_id\":{id},\"environment\":\"live\",}}}}"
        );
        assert_eq!(deliver(to, &site.secret, &format!("evt-{number}"), event.as_bytes()), Some(204));
    }
    eventually("archived", || site.manifests().len() == 2);
    assert_eq!(metric(admin, "polyhook_queue_depth{queue=\"dead\"}"), 0);
    let folder = site.manifests().into_iter().find(|path| path.to_str().unwrap().contains(long_id)).unwrap();
    let stored = std::fs::read(folder.with_file_name("conversation.json")).unwrap();
    assert!(
        stored.ends_with(b"\xff\\ud800\"}\n") && stored.starts_with("\u{feff}".as_bytes()),
        "every byte is kept"
    );
    run.stop();
}

#[test]
fn null_is_an_empty_page() {
    let api = ScriptedApi::start(|request| match (request.day(), request.parameter("cursor")) {
        ("2026-11-04", "") => page(&[entry("C1", "2026-11-04T10:00:00Z")], ",\"cursor\":\"c1\""),
        ("2026-11-04", "c1") => (200, b"{\"conversations\":null,\"cursor\":\"c2\"}".to_vec()),
        ("2026-11-04", "c2") => page(&[entry("C2", "2026-11-04T09:00:00Z")], ""),
        ("2026-11-03", _) => (200, b"{\"conversations\":null,\"cursor\":null,\"next_offset\":-1}".to_vec()),
        ("2026-11-02", _) => (200, b"{}".to_vec()),
        _ => page(&[entry("C3", "2026-11-01T09:00:00Z")], ",\"next_offset\":\"x\",\"count\":0"),
    });
    let site = site(&api, "settle = \"0s\"", "");
    let (ran, result) = dry_run(&site, &["--from", "2026-11-01", "--to", "2026-11-04"]);
    assert_eq!((ran.code, &result["tally"]["missing"]), (Some(0), &json!(3)), "{ran:?}");
}

#[test]
fn pages_that_never_end_are_bounded_and_named() {
    let api = ScriptedApi::start(|request| {
        let next: usize = request.parameter("cursor").parse().unwrap_or(0) + 1;
        match request.day() {
            "2026-11-03" => page(&[], &format!(",\"cursor\":\"{next}\"")),
            day => page(&[entry("C1", &format!("{day}T10:00:00Z"))], ""),
        }
    });
    let site = site(&api, "settle = \"0s\"", "");
    let (ran, result) = dry_run(&site, &["--from", "2026-11-02", "--to", "2026-11-04"]);
    assert_eq!((ran.code, &result["complete"]), (Some(1), &json!(false)), "{ran:?}");
    assert_eq!(result["tally"]["missing"], 2, "those of the other windows: {ran:?}");
    assert!(ran.stderr.contains("2026-11-03 (live)") && ran.stderr.contains("empty pages"), "{ran:?}");
    assert!(!ran.stderr.contains("2026-11-02 (live)"), "{ran:?}");
    assert!(api.requests().len() < 200, "{}", api.requests().len());
}

#[test]
fn a_failing_window_does_not_hide_another_and_is_tried_first() {
    let healed = Arc::new(AtomicBool::new(false));
    let is_healed = Arc::clone(&healed);
    let (today, yesterday) = (day(0), day(1));
    let failing = yesterday.0.clone();
    let api = ScriptedApi::start(move |request| {
        if !is_list(request) {
            conversation(request)
        } else if request.day() == today.0 {
            page(&["C1", "C2", "C3"].map(|id| entry(id, &today.1)), "")
        } else if is_healed.load(Ordering::SeqCst) {
            let end = format!("{}T23:59:59.999Z", yesterday.0);
            page(&[entry("C4", &end)], "")
        } else {
            refusal()
        }
    });
    let site = site(&api, "every = \"1s\", settle = \"0s\"", "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    eventually("today's are archived", || site.manifests().len() == 3);
    let readyz = || process::get(admin, "/readyz").unwrap().1;
    eventually("the window is named", || readyz().contains(&format!("{failing} (live)")));
    assert!(readyz().contains("project desk"), "{}", readyz());
    run.stop();
    // The next process knows the window, although it does not list the whole lookback again.
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    let readyz = || process::get(admin, "/readyz").unwrap().1;
    eventually("the window is still named", || readyz().contains(&format!("{failing} (live)")));
    healed.store(true, Ordering::SeqCst);
    eventually("yesterday's is archived", || site.manifests().len() == 4);
    eventually("nothing is degraded", || !readyz().contains("degraded: reconcile"));
    let days: Vec<_> = api.requests().iter().filter(|r| is_list(r)).map(|r| r.day() == failing).collect();
    assert_eq!(days[..3], [false, true, true], "the second pass begins with the window that failed");
    run.stop();
}

#[test]
fn a_failing_project_does_not_hide_another_in_backfill_and_audit() {
    let api = ScriptedApi::start(|request| match (request.path.contains("/broken/"), request.day()) {
        (true, "2026-11-02") => refusal(),
        (_, day) => page(&[entry("C1", &format!("{day}T10:00:00Z"))], ""),
    });
    let project =
        |id: &str| format!("[[projects]]\naccount_id = \"acme\"\nproject_id = \"{id}\"\napi_key = \"k\"\n");
    let projects = project("broken") + &project("desk");
    let site = site(&api, "settle = \"0s\"", &projects);
    let (ran, result) = dry_run(&site, &["--from", "2026-11-01", "--to", "2026-11-02"]);
    assert_eq!((ran.code, &result["complete"]), (Some(1), &json!(false)), "{ran:?}");
    assert_eq!(result["tally"]["missing"], 3, "one of the broken project, too: {ran:?}");
    assert!(ran.stderr.contains("project broken") && ran.stderr.contains("2026-11-02 (live)"), "{ran:?}");

    let audited = site.polyhook(["audit", "--date", "2026-11-02", "--json"]).run();
    assert_eq!(audited.code, Some(1), "{audited:?}");
    let report = super::json(&audited.stdout)["report"].clone();
    assert_eq!((&report["complete"], &report["counts"]["missing"]), (&json!(false), &json!(1)), "{report}");
    assert!(report["failures"][0].as_str().unwrap().contains("project broken"), "{report}");
    assert!(audited.stderr.contains("not everything was compared"), "{audited:?}");

    let once = site.polyhook(["reconcile", "--once", "--json"]).run();
    assert_eq!(once.code, Some(0), "the last day works: {once:?}");
}

#[test]
fn an_audit_without_errors_but_with_an_unreadable_entry_is_not_complete() {
    let api = ScriptedApi::start(|_| page(&["7".to_owned()], ""));
    let site = site(&api, "settle = \"0s\"", "");
    let audited = site.polyhook(["audit", "--date", "2026-11-02", "--json"]).run();
    assert_eq!((audited.code, &super::json(&audited.stdout)["report"]["complete"]), (Some(1), &json!(false)));
    assert!(audited.stderr.contains("entry 1 of a page"), "{audited:?}");
}

/// 120 entries, 50 a page. One is out of order, one has no date.
#[test]
fn the_list_of_the_data_api_does_not_end_at_an_old_entry() {
    let api = ScriptedApi::start(|request| {
        let all: Vec<_> = (0..120)
            .map(|n| match n {
                20 => entry("C20", "1970-01-01T00:00:00Z"),
                30 => entry("C30", "soon"),
                n => entry(&format!("C{n}"), &format!("2026-11-02T{:02}:00:00Z", 23 - n / 6)),
            })
            .collect();
        let entries: Vec<_> = all.into_iter().skip(request.offset()).take(50).collect();
        page(&entries, ",\"count\":3,\"limit\":50")
    });
    let site = site(&api, "settle = \"0s\"", "polyai.api = \"data\"");
    let (ran, result) = dry_run(&site, &["--from", "2026-11-02", "--to", "2026-11-02"]);
    assert_eq!((ran.code, &result["tally"]["missing"]), (Some(0), &json!(119)), "{ran:?}");
}

#[test]
fn a_failing_page_of_the_data_api_does_not_hide_the_next() {
    let api = ScriptedApi::start(|request| match request.offset() {
        50 => refusal(),
        offset @ (0 | 100) => {
            let entries: Vec<_> =
                (offset..offset + 50).map(|n| entry(&format!("C{n}"), "2026-11-02T10:00:00Z")).collect();
            page(&entries, ",\"count\":150")
        }
        _ => page(&[], ""),
    });
    let site = site(&api, "settle = \"0s\"", "polyai.api = \"data\"");
    let (ran, result) = dry_run(&site, &["--from", "2026-11-02", "--to", "2026-11-02"]);
    assert_eq!((ran.code, &result["tally"]["missing"]), (Some(1), &json!(100)), "{ran:?}");
    assert!(ran.stderr.contains("2026-11-02 (live)"), "{ran:?}");
}

/// A service that reads six fractional digits refuses nine.
#[test]
fn asks_for_times_in_milliseconds() {
    let api = ScriptedApi::start(|_| page(&[], ""));
    let site = site(&api, "settle = \"0s\"", "");
    let once = site.polyhook(["reconcile", "--once", "--json"]).run();
    assert_eq!(once.code, Some(0), "{once:?}");
    let requests = api.requests();
    assert!(requests.len() > 1);
    for request in requests {
        for time in ["start_time", "end_time"].map(|name| request.parameter(name)) {
            let digits = time.trim_end_matches('Z').split_once('.').map_or(0, |(_, digits)| digits.len());
            assert!(time.ends_with('Z') && digits <= 3, "{time}");
        }
    }
}

#[test]
fn a_manifest_that_cannot_be_read_does_not_hide_other_calls() {
    let api = ScriptedApi::start(|_| page(&["C1", "C2"].map(|id| entry(id, "2026-11-02T10:00:00Z")), ""));
    let site = site(&api, "settle = \"0s\"", "");
    let folder = site.archive().join("account_id=acme/project_id=desk/date=2026-11-02/C1");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = std::fs::File::create(folder.join("manifest.json")).unwrap();
    // It was archived before the call ended, so the manifest has to say whether it is whole.
    manifest.set_modified(std::time::UNIX_EPOCH).unwrap();
    let (ran, result) = dry_run(&site, &["--from", "2026-11-02", "--to", "2026-11-02"]);
    assert_eq!((ran.code, &result["tally"]["missing"]), (Some(1), &json!(1)), "{ran:?}");
    assert!(ran.stderr.contains("C1/manifest.json"), "{ran:?}");
}
