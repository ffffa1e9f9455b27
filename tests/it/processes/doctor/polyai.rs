//! Hosts, keys, regions, projects, conversations.

use serde_json::{Value, json};

use super::{answer, doctor, fixed_server, server_without_tls, unused_address};
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
fn reports_ok_for_a_working_installation() {
    let polyai = SimulatedPolyAi::start(CALLS, 3);
    let site = site(&polyai);
    let found = doctor(&site, &[]);
    found.is_ok(EVERYTHING).has("polyai.recording", "ok", "not redacted");
    found.has("public_url", "skipped", "--url");
    assert!(
        !site.archive().exists() && !site.path().join("polyhook-data").exists(),
        "the doctor creates no files"
    );
    // Text output has one line per finding and a summary.
    let said = site.polyhook(["doctor", "--conversation", &polyai.ids()[0]]).run().expect_exit_code(0);
    assert_eq!(said.stdout.lines().count(), found.findings.len() + 1, "{}", said.stdout);
    assert!(said.stdout.ends_with(" skipped\n") && said.stdout.contains("→"), "{}", said.stdout);
    assert!(said.stderr.is_empty(), "{}", said.stderr);
    // A receiver needs no API key.
    doctor(&site, &["--role", "receive", "--set", "projects=[]"]).is_ok(&["secret", "queue.file"]);
}

#[test]
fn finds_the_region_of_a_rejected_key() {
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
    found.has("polyai.key", "fail", "wrong region: the key is of region uk").fails_only("polyai.key");
    found.has("polyai.key", "fail", "polyai.region = \"uk\" (or").has("polyai.key", "fail", "correlation id");
    found.has("polyai.conversation", "skipped", "no key").has("polyai.host", "ok", "");
    let found = doctor(&with_key("simulated-key-of-studio"), &places);
    found.has("polyai.key", "fail", "it is a Studio key").has(
        "polyai.key",
        "fail",
        "polyai.region = \"studio\"",
    );
    let found = doctor(&with_key("an-unknown-key"), &places);
    found.has("polyai.key", "fail", "wrong key: it is refused here and in every other region (uk, studio)");

    // The key is sent to other regions only if the hosts are PolyAI's, and not with --no-other-regions.
    for arguments in [&[][..], &[&places[..], &["--no-other-regions"]].concat()] {
        uk.control("DELETE", "requests", &Value::Null);
        let found = doctor(&with_key("simulated-key-of-uk"), arguments);
        found.has("polyai.key", "fail", "the key is wrong, expired, or of another region");
        let asked = uk.control("GET", "requests", &Value::Null);
        assert!(!asked.to_string().contains("v3_list"), "{asked}");
    }
}

#[test]
fn distinguishes_wrong_keys_projects_and_accounts() {
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
    found.has("polyai.key", "fail", "wrong kind of key").has("polyai.key", "fail", "to \"data\"");
    doctor(&key("simulated-key-for-data"), &["--set", "polyai.api=data"])
        .is_ok(&["polyai.key", "polyai.transcript"]);
    let found = doctor(&key("simulated-key-for-v3"), &[]);
    found.is_ok(&["polyai.conversation"]).has("polyai.key", "warn", "projects.data_api_key_file");

    let found = doctor(&with(access, |access| "PROJECT-UNKNOWN".clone_into(&mut access.project_id)), &[]);
    found.has("polyai.key", "fail", "wrong project: the key is good, but PolyAI knows no such project");
    found.has("polyai.key", "fail", "correct projects.project_id").fails_only("polyai.key");
    let found = doctor(&with(access, |access| "ws-unknown".clone_into(&mut access.account_id)), &[]);
    found.has("polyai.key", "fail", "wrong account").has("polyai.key", "fail", "correct projects.account_id");
    let found = doctor(&key("simulated-key-of-other"), &[]);
    found.has("polyai.key", "fail", "wrong project: the key is good, but not for this one");
}

#[test]
fn does_not_blame_the_key_for_a_wrong_host() {
    let polyai = SimulatedPolyAi::start(CALLS, 1);
    let url = &polyai.access.url;
    let hosted = |base: &str, platform: &str| {
        Installation::new(
            &polyai.access,
            &format!("polyai = {{ base_url = \"{base}\", platform_url = \"{platform}\" }}"),
        )
    };
    let html = answer("404 Not Found", "content-type: text/html\r\n", "<html>nothing</html>");
    let html = format!("http://{}", fixed_server(html));
    let found = doctor(&hosted(&html, &html), &[]);
    found.has("polyai.host", "fail", "wrong host: it answers 404 with text/html, and it is not PolyAI");
    found.fails_only("polyai.host").has("polyai.key", "skipped", "see polyai.host");
    let login = fixed_server(answer("200 OK", "content-type: text/html\r\n", "<html>sign in</html>"));
    let found = doctor(&hosted(&format!("http://{login}"), url), &[]);
    found.has("polyai.host", "fail", "answers 200, but with text/html").fails_only("polyai.host");
    let elsewhere = fixed_server(answer("302 Found", "location: https://login.example/\r\n", ""));
    doctor(&hosted(&format!("http://{elsewhere}"), url), &[]).has(
        "polyai.host",
        "fail",
        "redirects elsewhere",
    );
    let found = doctor(&hosted(&format!("http://{}", unused_address()), url), &[]);
    found.has("polyai.host", "fail", "refused").fails_only("polyai.host");
    let found = doctor(&hosted("http://no-such-host.invalid", url), &[]);
    found.has("polyai.host", "fail", "cannot be resolved").fails_only("polyai.host");
    let found = doctor(&hosted(&server_without_tls(), url), &[]);
    found.has("polyai.host", "fail", "no trusted TLS connection").fails_only("polyai.host");

    let platform = SimulatedPolyAi::start(
        &format!("{CALLS}\nserved = {{ v3_list = false, v3_by_id = false, v3_audio = false }}"),
        1,
    );
    let found = doctor(&hosted(&platform.access.url, &platform.access.url), &[]);
    found.has("polyai.host", "fail", "it serves data but not v3").fails_only("polyai.host");
    polyai.control("PUT", "served", &json!({ "data_api": false }));
    let found = doctor(&hosted(url, url), &[]);
    found.is_ok(&["polyai.key", "polyai.transcript"]).has(
        "polyai.host",
        "skipped",
        "does not serve the Data API",
    );
}

#[test]
fn does_not_blame_the_key_for_errors_of_polyai() {
    let polyai = SimulatedPolyAi::start(CALLS, 1);
    let site = site(&polyai);
    let with_faults = |operations: &[&str], action: Value| {
        polyai.control("DELETE", "faults", &Value::Null);
        let fault = json!({ "fault": { "operations": operations, "action": action } });
        polyai.control("POST", "faults", &fault);
        doctor(&site, &[])
    };
    let with_fault = |operation, action| with_faults(&[operation], action);
    with_faults(&["v3_list", "data_list"], json!({ "status": 500 })).has(
        "polyai.conversation",
        "skipped",
        "it is not known whether a key gives access",
    );
    with_fault("v3_list", json!({ "status": 503 }))
        .has("polyai.key", "fail", "answered 503")
        .fails_only("polyai.key");
    with_fault("v3_list", json!({ "rate_limited": { "seconds": 7 } })).is_ok(&[]).has(
        "polyai.key",
        "warn",
        "too many",
    );
    with_fault("v3_list", json!("hang_up")).has("polyai.host", "fail", "").fails_only("polyai.host");
    let found = with_fault("v3_conversation", json!({ "status": 500 }));
    found.is_ok(&["polyai.transcript"]).has("polyai.conversation", "warn", "answered 500");
    let found = with_fault("v3_audio", json!({ "status": 403 }));
    found.has("polyai.recording", "fail", "but not its recording").fails_only("polyai.recording");
    // Nor for the error page of a gateway, even if that repeats PolyAI's headers.
    for status in ["401 Unauthorized", "403 Forbidden"] {
        let page =
            answer(status, "x-polyai-correlation-id: 1\r\ncontent-type: text/html\r\n", "<html>no</html>");
        let base_url = format!("polyai.base_url=http://{}", fixed_server(page));
        let found = doctor(&site, &["--set", &base_url]);
        found.has("polyai.key", "fail", "a gateway or a proxy may have sent it").fails_only("polyai.key");
        found.has("polyai.key", "fail", "says nothing about the key");
    }
    let found = with_fault("v3_audio", json!("html"));
    found.has("polyai.recording", "fail", "not a recording").fails_only("polyai.recording");
}

#[test]
fn reports_missing_transcripts_recordings_and_apis() {
    let polyai = SimulatedPolyAi::start(CALLS, 3);
    let site = site(&polyai);
    let ids = polyai.ids();
    let found = doctor(&site, &["--conversation", "CAunknownconversation"]);
    found
        .has("polyai.conversation", "fail", "does not know this conversation")
        .fails_only("polyai.conversation");
    let script = |id: &str, script: Value| polyai.control("PUT", &format!("calls/{id}/script"), &script);
    script(&ids[0], json!({ "hidden_transcript": true }));
    let found = doctor(&site, &["--conversation", &ids[0]]);
    found.is_ok(&[]).has("polyai.transcript", "warn", "transcript visibility is off");
    found.has("polyai.transcript", "warn", "Configuration > Conversation transcript");
    script(&ids[1], json!({ "recording": "never" }));
    doctor(&site, &["--conversation", &ids[1]]).is_ok(&[]).has(
        "polyai.recording",
        "warn",
        "no recording of this call",
    );
    doctor(&site, &["--set", "worker.audio=off"]).is_ok(&[]).has(
        "polyai.recording",
        "skipped",
        "audio is off",
    );
    doctor(&site, &["--set", "worker.redacted=true"]).is_ok(&["polyai.recording"]);

    polyai.control("PUT", "served", &json!({ "v3_by_id": false, "v3_audio": false }));
    let found = doctor(&site, &[]);
    found.is_ok(&["polyai.transcript"]).has("polyai.conversation", "ok", "not served by v3 here");
    let found = doctor(&site, &["--set", "polyai.api=v3"]);
    found.is_ok(&[]).has(
        "polyai.conversation",
        "warn",
        "polyhook takes them from the list, without recordings",
    );

    let without_pii =
        SimulatedPolyAi::start(&format!("{CALLS}\n[[projects]]\npii_access = false\ntranscripts = false"), 1);
    let found = doctor(&Installation::new(&without_pii.access, ""), &[]);
    found.is_ok(&[]).has("polyai.recording", "warn", "the same as the redacted one");
    found.has("polyai.transcript", "warn", "visibility is off");
    let empty = SimulatedPolyAi::start(CALLS, 0);
    doctor(&Installation::new(&empty.access, ""), &[]).is_ok(&[]).has(
        "polyai.conversation",
        "skipped",
        "--conversation",
    );
}

#[test]
fn reports_a_wrong_clock() {
    let polyai = SimulatedPolyAi::start(CALLS, 1);
    let with_clock = |seconds: i64| {
        let then = polyhook::clock::Clock::System.now() + jiff::SignedDuration::from_secs(seconds);
        let date = httpdate::fmt_http_date(then.into());
        let headers =
            format!("date: {date}\r\ncontent-type: application/json\r\nx-polyai-correlation-id: 1\r\n");
        let url = format!("http://{}", fixed_server(answer("200 OK", &headers, r#"{"conversations":[]}"#)));
        let site = Installation::new(
            &polyai.access,
            &format!("polyai = {{ base_url = \"{url}\", platform_url = \"{url}\" }}"),
        );
        doctor(&site, &[])
    };
    with_clock(0).is_ok(&["clock"]);
    with_clock(30).is_ok(&[]).has("clock", "warn", "behind PolyAI's");
    with_clock(-30).is_ok(&[]).has("clock", "warn", "ahead of PolyAI's");
    with_clock(-200).has("clock", "fail", "NTP").fails_only("clock");
}
