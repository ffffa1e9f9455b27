//! Hosts, keys, regions, projects, conversations.

use serde_json::{Value, json};

use super::{answer, doctor, fixed, nobody, without_tls};
use crate::support::process::{Installation, SimulatedPolyAi, SimulatorAccess};

/// Calls with something private in them.
const CALLS: &str = "
    epoch = \"2026-11-03T12:00:00Z\"
    mix = { webchat = 0.0, chat = 0.0, min_turns = 12, max_turns = 14, sandbox = 0.0, pre_release = 0.0 }
";

const EVERYTHING: &[&str] = &[
    "configuration",
    "secret",
    "polyai.host",
    "polyai.key",
    "clock",
    "polyai.conversation",
    "polyai.transcript",
    "polyai.recording",
    "queue.file",
    "archive",
    "disk",
];

fn site(polyai: &SimulatedPolyAi) -> Installation {
    Installation::new(&polyai.access, "")
}

fn with(access: &SimulatorAccess, change: impl FnOnce(&mut SimulatorAccess)) -> Installation {
    let mut access = access.clone();
    change(&mut access);
    Installation::new(&access, "")
}

#[test]
fn what_is_well_is_green() {
    let polyai = SimulatedPolyAi::start(CALLS, 3);
    let site = site(&polyai);
    let found = doctor(&site, &[]);
    found.green(EVERYTHING).says("polyai.recording", "ok", "not redacted");
    found.says("public_url", "skipped", "--url");
    assert!(!site.archive().exists() && !site.path().join("polyhook-data").exists(), "looking makes nothing");
    // For a person: a line each, and what it comes to.
    let said = site.polyhook(["doctor", "--conversation", &polyai.ids()[0]]).run().expect_exit_code(0);
    assert_eq!(said.stdout.lines().count(), found.findings.len() + 1, "{}", said.stdout);
    assert!(said.stdout.ends_with(" skipped\n") && said.stdout.contains("→"), "{}", said.stdout);
    assert!(said.stderr.is_empty(), "{}", said.stderr);
    // The machine of a receiver needs no key.
    doctor(&site, &["--role", "receive", "--set", "projects=[]"]).green(&["secret", "queue.file"]);
}

#[test]
fn a_refused_key_is_looked_for_elsewhere() {
    let other = |region: &str, key: &str, more: &str| {
        SimulatedPolyAi::start(
            &format!("{CALLS}\nregion = \"{region}\"\n{more}\n[[projects]]\napi_key = \"{key}\""),
            1,
        )
    };
    let home = SimulatedPolyAi::start(CALLS, 1);
    let uk = other("uk", "simulated-key-of-uk", "");
    let studio = other(
        "studio",
        "simulated-key-of-studio",
        "served = { v3_list = false, v3_by_id = false, v3_audio = false }",
    );
    let places = [format!("uk={}", uk.access.url), format!("studio={}", studio.access.url)];
    let places: Vec<_> = places.iter().flat_map(|place| ["--other-region", place.as_str()]).collect();
    let with_key = |key: &str| with(&home.access, |access| key.clone_into(&mut access.api_key));

    let found = doctor(&with_key("simulated-key-of-uk"), &places);
    found.says("polyai.key", "fail", "wrong region: the key is of region uk").only("polyai.key");
    found.says("polyai.key", "fail", "polyai.region = \"uk\" (or").says(
        "polyai.key",
        "fail",
        "correlation id",
    );
    found.says("polyai.conversation", "skipped", "no key").says("polyai.host", "ok", "");
    let found = doctor(&with_key("simulated-key-of-studio"), &places);
    found.says("polyai.key", "fail", "it is a Studio key").says(
        "polyai.key",
        "fail",
        "polyai.region = \"studio\"",
    );
    let found = doctor(&with_key("a-key-of-nobody"), &places);
    found.says("polyai.key", "fail", "wrong key: it is refused here and in every other region (uk, studio)");

    // Nobody else is shown the key unless it is PolyAI, or asked for.
    for arguments in [&[][..], &[&places[..], &["--no-other-regions"]].concat()] {
        uk.control("DELETE", "requests", &Value::Null);
        let found = doctor(&with_key("simulated-key-of-uk"), arguments);
        found.says("polyai.key", "fail", "the key is wrong, expired, or of another region");
        let asked = uk.control("GET", "requests", &Value::Null);
        assert!(!asked.to_string().contains("v3_list"), "{asked}");
    }
}

#[test]
fn keys_and_projects_are_told_apart() {
    let scenario = format!(
        "{CALLS}
        [[projects]]
        api_key = \"simulated-key-for-v3\"
        data_api_key = \"simulated-key-for-data\"
        [[projects]]
        account_id = \"ws-other\"
        account_slug = \"other\"
        project_id = \"PROJECT-OTHER\"
        project_slug = \"other\"
        api_key = \"simulated-key-of-other\""
    );
    let polyai = SimulatedPolyAi::start(&scenario, 2);
    let access = &polyai.access;
    let key = |key: &str| with(access, |access| key.clone_into(&mut access.api_key));
    let found = doctor(&key("simulated-key-for-data"), &[]);
    found.says("polyai.key", "fail", "wrong kind of key").says("polyai.key", "fail", "to \"data\"");
    doctor(&key("simulated-key-for-data"), &["--set", "polyai.api=data"])
        .green(&["polyai.key", "polyai.transcript"]);
    let found = doctor(&key("simulated-key-for-v3"), &[]);
    found.green(&["polyai.conversation"]).says("polyai.key", "warn", "projects.data_api_key_file");

    let found = doctor(&with(access, |access| "PROJECT-NOBODY".clone_into(&mut access.project_id)), &[]);
    found.says("polyai.key", "fail", "wrong project: the key is good, but PolyAI knows no such project");
    found.says("polyai.key", "fail", "correct projects.project_id").only("polyai.key");
    let found = doctor(&with(access, |access| "ws-nobody".clone_into(&mut access.account_id)), &[]);
    found.says("polyai.key", "fail", "wrong account").says(
        "polyai.key",
        "fail",
        "correct projects.account_id",
    );
    let found = doctor(&key("simulated-key-of-other"), &[]);
    found.says("polyai.key", "fail", "wrong project: the key is good, but not for this one");
}

#[test]
fn a_wrong_host_is_no_wrong_key() {
    let polyai = SimulatedPolyAi::start(CALLS, 1);
    let url = &polyai.access.url;
    let hosted = |base: &str, platform: &str| {
        Installation::new(
            &polyai.access,
            &format!("polyai = {{ base_url = \"{base}\", platform_url = \"{platform}\" }}"),
        )
    };
    let html = answer("404 Not Found", "content-type: text/html\r\n", "<html>nothing</html>");
    let html = format!("http://{}", fixed(html));
    let found = doctor(&hosted(&html, &html), &[]);
    found.says("polyai.host", "fail", "wrong host: it answers 404 with text/html, and it is not PolyAI");
    found.only("polyai.host").says("polyai.key", "skipped", "see polyai.host");
    let login = fixed(answer("200 OK", "content-type: text/html\r\n", "<html>sign in</html>"));
    let found = doctor(&hosted(&format!("http://{login}"), url), &[]);
    found.says("polyai.host", "fail", "answers 200, but with text/html").only("polyai.host");
    let elsewhere = fixed(answer("302 Found", "location: https://login.example/\r\n", ""));
    doctor(&hosted(&format!("http://{elsewhere}"), url), &[]).says(
        "polyai.host",
        "fail",
        "redirects elsewhere",
    );
    let found = doctor(&hosted(&format!("http://{}", nobody()), url), &[]);
    found.says("polyai.host", "fail", "refused").only("polyai.host");
    let found = doctor(&hosted("http://no-such-host.invalid", url), &[]);
    found.says("polyai.host", "fail", "cannot be resolved").only("polyai.host");
    let found = doctor(&hosted(&without_tls(), url), &[]);
    found.says("polyai.host", "fail", "no trusted TLS connection").only("polyai.host");

    let platform = SimulatedPolyAi::start(
        &format!("{CALLS}\nserved = {{ v3_list = false, v3_by_id = false, v3_audio = false }}"),
        1,
    );
    let found = doctor(&hosted(&platform.access.url, &platform.access.url), &[]);
    found.says("polyai.host", "fail", "it serves data but not v3").only("polyai.host");
    polyai.control("PUT", "served", &json!({ "data_api": false }));
    let found = doctor(&hosted(url, url), &[]);
    found.green(&["polyai.key", "polyai.transcript"]).says(
        "polyai.host",
        "skipped",
        "does not serve the Data API",
    );
}

#[test]
fn trouble_of_polyais_is_no_wrong_key() {
    let polyai = SimulatedPolyAi::start(CALLS, 1);
    let site = site(&polyai);
    let strike = |operation: &str, action: Value| {
        polyai.control("DELETE", "faults", &Value::Null);
        let fault = json!({ "fault": { "operations": [operation], "action": action } });
        polyai.control("POST", "faults", &fault);
        doctor(&site, &[])
    };
    strike("v3_list", json!({ "status": 503 })).says("polyai.key", "fail", "answered 503").only("polyai.key");
    strike("v3_list", json!({ "rate_limited": { "seconds": 7 } })).green(&[]).says(
        "polyai.key",
        "warn",
        "too many",
    );
    strike("v3_list", json!("hang_up")).says("polyai.host", "fail", "").only("polyai.host");
    let found = strike("v3_conversation", json!({ "status": 500 }));
    found.green(&["polyai.transcript"]).says("polyai.conversation", "warn", "answered 500");
    let found = strike("v3_audio", json!({ "status": 403 }));
    found.says("polyai.recording", "fail", "but not its recording").only("polyai.recording");
    let found = strike("v3_audio", json!("html"));
    found.says("polyai.recording", "fail", "not a recording").only("polyai.recording");
}

#[test]
fn the_conversation_tells_what_is_switched_off() {
    let polyai = SimulatedPolyAi::start(CALLS, 3);
    let site = site(&polyai);
    let ids = polyai.ids();
    let found = doctor(&site, &["--conversation", "CAnobodysconversation"]);
    found.says("polyai.conversation", "fail", "does not know this conversation").only("polyai.conversation");
    let script = |id: &str, script: Value| polyai.control("PUT", &format!("calls/{id}/script"), &script);
    script(&ids[0], json!({ "hidden_transcript": true }));
    let found = doctor(&site, &["--conversation", &ids[0]]);
    found.green(&[]).says("polyai.transcript", "warn", "transcript visibility is off");
    found.says("polyai.transcript", "warn", "Configuration > Conversation transcript");
    script(&ids[1], json!({ "recording": "never" }));
    doctor(&site, &["--conversation", &ids[1]]).green(&[]).says(
        "polyai.recording",
        "warn",
        "no recording of this call",
    );
    doctor(&site, &["--set", "worker.audio=off"]).green(&[]).says(
        "polyai.recording",
        "skipped",
        "audio is off",
    );
    doctor(&site, &["--set", "worker.redacted=true"]).green(&["polyai.recording"]);

    polyai.control("PUT", "served", &json!({ "v3_by_id": false, "v3_audio": false }));
    let found = doctor(&site, &[]);
    found.green(&["polyai.transcript"]).says("polyai.conversation", "ok", "not served by v3 here");
    let found = doctor(&site, &["--set", "polyai.api=v3"]);
    found.says("polyai.conversation", "fail", "does not serve one by id").only("polyai.conversation");

    let deaf =
        SimulatedPolyAi::start(&format!("{CALLS}\n[[projects]]\npii_access = false\ntranscripts = false"), 1);
    let found = doctor(&Installation::new(&deaf.access, ""), &[]);
    found.green(&[]).says("polyai.recording", "warn", "the same as the redacted one");
    found.says("polyai.transcript", "warn", "visibility is off");
    let empty = SimulatedPolyAi::start(CALLS, 0);
    doctor(&Installation::new(&empty.access, ""), &[]).green(&[]).says(
        "polyai.conversation",
        "skipped",
        "--conversation",
    );
}

#[test]
fn a_clock_that_is_wrong_is_told() {
    let polyai = SimulatedPolyAi::start(CALLS, 1);
    let with_clock = |seconds: i64| {
        let then = polyhook::clock::Clock::System.now() + jiff::SignedDuration::from_secs(seconds);
        let date = httpdate::fmt_http_date(then.into());
        let headers =
            format!("date: {date}\r\ncontent-type: application/json\r\nx-polyai-correlation-id: 1\r\n");
        let url = format!("http://{}", fixed(answer("200 OK", &headers, r#"{"conversations":[]}"#)));
        let site = Installation::new(
            &polyai.access,
            &format!("polyai = {{ base_url = \"{url}\", platform_url = \"{url}\" }}"),
        );
        doctor(&site, &[])
    };
    with_clock(0).green(&["clock"]);
    with_clock(30).green(&[]).says("clock", "warn", "behind PolyAI's");
    with_clock(-30).green(&[]).says("clock", "warn", "ahead of PolyAI's");
    with_clock(-200).says("clock", "fail", "NTP").only("clock");
}
