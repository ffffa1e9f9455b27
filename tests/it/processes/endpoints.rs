//! `polyhook endpoint create|list|show|update|delete` against both families of PolyAI's Webhooks API.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, process::Stdio};

use serde_json::{Value, json};

use crate::support::process::{
    CommandOutput, Installation, PolyhookCommand, Process, SimulatedPolyAi, deliver, eventually, interpreter,
};

const URL: &str = "https://hooks.example.com/polyai-events";
const TOKEN: &str = "token-of-a-firewall";

/// A stand-in that is like this, and a site whose file of secrets is not there yet.
fn world(scenario: &str) -> (SimulatedPolyAi, Installation) {
    let polyai = SimulatedPolyAi::start(&format!("{}\n{scenario}", SimulatedPolyAi::CHATS), 1);
    let site = Installation::new(&polyai.access, "");
    fs::remove_file(site.path().join("secrets")).unwrap();
    (polyai, site)
}

fn endpoint(site: &Installation, arguments: &[&str]) -> PolyhookCommand {
    site.polyhook([&["endpoint"], arguments].concat()).must_not_print(TOKEN)
}

fn create(site: &Installation, more: &[&str]) -> PolyhookCommand {
    let url: &[&str] = if more.contains(&"--url") { &[] } else { &["--url", URL] };
    endpoint(site, &[&["create", "--name", "of the tests", "--wait", "2s"], url, more].concat())
}

fn list(site: &Installation) -> Vec<Value> {
    let said = endpoint(site, &["list", "--json"]).run().expect_exit_code(0);
    said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn secrets(site: &Installation) -> String {
    fs::read_to_string(site.path().join("secrets")).unwrap()
}

/// The secrets in the file, first to last.
fn in_file(site: &Installation) -> Vec<String> {
    secrets(site).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

fn requests(polyai: &SimulatedPolyAi, operation: &str, status: &str) -> u64 {
    let requests = polyai.control("GET", "requests", &Value::Null);
    requests[operation][status].as_u64().unwrap_or_default()
}

fn fault(polyai: &SimulatedPolyAi, operation: &str, action: &Value) {
    let fault = json!({ "operations": [operation], "times": 1, "action": action });
    polyai.control("POST", "faults", &json!({ "fault": fault }));
}

#[track_caller]
fn says(said: &CommandOutput, words: &[&str]) {
    let text = format!("{}{}", said.stdout, said.stderr);
    for word in words {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

fn receiver(site: &Installation) -> Process {
    let run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    run
}

#[test]
fn from_the_first_endpoint_to_its_last_delivery() {
    let (polyai, site) = world("");
    let said = create(&site, &["--json"]).run().expect_exit_code(0).json();
    let id = said["endpoint_id"].as_str().unwrap().to_owned();
    assert_eq!((&said["endpoint"]["enabled"], said.get("signing_secret")), (&json!(true), None));
    assert_eq!(said["endpoint"]["event_types"].as_array().unwrap().len(), 4, "all that there are: {said}");
    let mode = fs::metadata(site.path().join("secrets")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(secrets(&site).lines().next().unwrap(), format!("# polyhook:endpoint={id}"));

    // It is the secret that PolyAI signs with.
    let mut run = receiver(&site);
    let url = format!("http://{}/polyai-events", run.receiver_address());
    let said =
        endpoint(&site, &["update", &id, "--url", &url, "--timeout-ms", "9000"]).run().expect_exit_code(0);
    says(&said, &["updated", &url, "9000 ms"]);
    let started = polyai.control("POST", "deliver", &json!({ "sender": {} }));
    assert_eq!(started["deliveries"], 1);
    eventually("delivered", || {
        let delivered = polyai.control("GET", "deliveries", &Value::Null);
        delivered["deliveries"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["answer"] == json!({ "status": 204 }))
    });
    run.stop();

    // Only what is given was changed.
    let said = endpoint(&site, &["show", "--json"]).run().expect_exit_code(0).json();
    assert_eq!((&said["name"], &said["timeout_ms"]), (&json!("of the tests"), &json!(9000)));
    let said = endpoint(&site, &["delete", &id]).run().expect_exit_code(2);
    says(&said, &["--yes"]);
    assert_eq!(list(&site).len(), 1);
    let said = endpoint(&site, &["delete", &id, "--yes"]).run().expect_exit_code(0);
    says(&said, &["deleted", &id, "1 of its secrets"]);
    assert_eq!(list(&site).len(), 0);
    says(&endpoint(&site, &["list"]).run().expect_exit_code(0), &["endpoint create"]);
}

#[test]
fn receivers_ask_again_until_they_know_the_new_secret() {
    let (polyai, site) = world("");
    site.write("secrets", &format!("{}\n", site.secret));
    let mut run = receiver(&site);
    let status = |secret: &str| deliver(run.receiver_address(), secret, "evt-probe", b"{}");
    assert_eq!(status("whsec_nobody-knows-this-one"), Some(401));
    // PolyAI has made it, and delivers, while its answer is on its way.
    fault(&polyai, "endpoint_create", &json!({ "drip": { "bytes": 20, "pause": "100ms" } }));
    let mut creating = create(&site, &["--json"]).start();
    eventually("created", || requests(&polyai, "endpoint_create", "201") == 1);
    assert_eq!(in_file(&site), [&*site.secret], "the answer is still on its way");
    assert_eq!(status("whsec_nobody-knows-this-one"), Some(503), "PolyAI would lose it at a 401");
    assert_eq!(
        creating.wait(crate::support::process::TEST_TIMEOUT).code(),
        Some(0),
        "{:?}",
        creating.stderr()
    );
    let [new, old] = <[String; 2]>::try_from(in_file(&site)).unwrap();
    assert_eq!(old, site.secret, "the others stay");
    eventually("in force", || status(&new) == Some(204));
    assert_eq!(status(&old), Some(204));
    let said: Value = serde_json::from_str(&creating.stdout()[0]).unwrap();
    assert!(said["window_until"].is_string(), "{said}");
    run.stop();

    // What was refused leaves no window behind.
    let before = secrets(&site);
    fault(&polyai, "endpoint_create", &json!({ "status": 403 }));
    let said = create(&site, &["--another"]).run().expect_exit_code(1);
    says(&said, &["may not manage", "Nothing was created", "correlation id"]);
    assert_eq!(secrets(&site), before);
}

#[test]
fn a_kill_before_the_secret_is_written_costs_a_rotation_and_no_delivery() {
    let (polyai, site) = world("");
    site.write("secrets", &format!("{}\n", site.secret));
    let mut run = receiver(&site);
    let status = |secret: &str| deliver(run.receiver_address(), secret, "evt-probe", b"{}");
    fault(&polyai, "endpoint_create", &json!({ "drip": { "bytes": 1, "pause": "1s" } }));
    let mut creating = create(&site, &[]).start();
    eventually("created", || requests(&polyai, "endpoint_create", "201") == 1);
    creating.kill();
    assert_eq!(in_file(&site), [&*site.secret]);
    assert_eq!(status("whsec_nobody-knows-this-one"), Some(503), "PolyAI tries again");
    let said = create(&site, &[]).run().expect_exit_code(1);
    says(&said, &["delivers to this URL already", "endpoint rotate-secret whe_"]);
    endpoint(&site, &["rotate-secret", "--wait", "0s"]).run().expect_exit_code(0);
    let secrets = in_file(&site);
    assert_eq!((secrets.len(), &secrets[1]), (2, &site.secret));
    eventually("in force", || status(&secrets[0]) == Some(204));
    run.stop();
}

#[test]
fn nothing_is_made_whose_secret_could_not_be_kept() {
    let (polyai, site) = world("");
    for (file, word) in [("/proc/version", "Kubernetes"), ("not/there", "No such file")] {
        let said = create(&site, &["--secrets-file", file]).run().expect_exit_code(1);
        says(&said, &["Nothing was created", word]);
    }
    let nowhere = Installation::new(&polyai.access, "");
    let config = fs::read_to_string(nowhere.path().join("polyhook.toml")).unwrap();
    nowhere.write("polyhook.toml", &config.replace("secrets_file = \"secrets\"", ""));
    says(&create(&nowhere, &[]).run().expect_exit_code(2), &["signature.secrets_file", "--secrets-file"]);
    assert_eq!(requests(&polyai, "endpoint_create", "201"), 0);
    assert!(!site.path().join("secrets").exists(), "a check leaves nothing behind");
}

#[test]
fn a_secret_that_cannot_be_written_after_all_is_rescued() {
    let (polyai, site) = world("");
    let folder = site.path().join("elsewhere");
    fs::create_dir(&folder).unwrap();
    fault(&polyai, "endpoint_create", &json!({ "drip": { "bytes": 40, "pause": "200ms" } }));
    let creating = create(&site, &["--secrets-file", "elsewhere/secrets"]).start();
    eventually("created", || requests(&polyai, "endpoint_create", "201") == 1);
    fs::remove_dir_all(&folder).unwrap();
    let place = creating.wait_for("the place", |line| {
        let (_, rest) = line.split_once("It is in ")?;
        Some(rest.split_once(" (mode 0600)")?.0.to_owned())
    });
    drop(creating);
    assert_eq!(fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&place).unwrap().starts_with("whsec_"));

    // An answer that breaks off is no answer: nobody knows that secret.
    fault(&polyai, "endpoint_create", &json!({ "truncate": 5 }));
    let said = create(&site, &["--another"]).run().expect_exit_code(1);
    says(&said, &["may have created", "endpoint rotate-secret"]);
}

#[test]
fn the_secret_is_shown_to_who_asks_and_written_all_the_same() {
    let (_polyai, site) = world("");
    let said =
        create(&site, &["--show-secret", "--json"]).may_print_secrets().run().expect_exit_code(0).json();
    assert_eq!(said["signing_secret"], in_file(&site)[0]);
}

#[test]
fn headers_are_sent_and_never_shown() {
    let (polyai, site) = world("");
    site.write("token", &format!("{TOKEN}\n"));
    let header = ["--header", "Authorization=@token"];
    let said =
        create(&site, &[&header[..], &["--dry-run", "--json"]].concat()).run().expect_exit_code(0).json();
    assert_eq!(said["would_create"]["headers"]["Authorization"], "[redacted]");
    assert_eq!(requests(&polyai, "endpoint_create", "201"), 0);
    assert!(!site.path().join("secrets").exists());
    let said = create(&site, &header).run().expect_exit_code(0);
    says(&said, &["created", "Authorization: [hidden]"]);
    let id = list(&site)[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/webhook-endpoints/{id}");
    let headers = || polyai.api("GET", &path, &Value::Null)["headers"].clone();
    assert_eq!(headers(), json!({ "Authorization": TOKEN }));
    for arguments in [&["list"][..], &["list", "--json"], &["show"], &["show", "--json"]] {
        endpoint(&site, arguments).run().expect_exit_code(0);
    }
    endpoint(&site, &["update", &id, "--name", "n"]).run().expect_exit_code(0);
    assert_eq!(headers(), json!({ "Authorization": TOKEN }), "only what is given");
    endpoint(&site, &["update", &id, "--header", "X-Tenant=a", "--dry-run"]).run().expect_exit_code(0);
    endpoint(&site, &["update", &id, "--no-headers"]).run().expect_exit_code(0);
    assert_eq!(headers(), json!({}));
    says(&endpoint(&site, &["update", &id]).run().expect_exit_code(2), &["--url"]);
    let said = create(&site, &["--header", TOKEN]).run().expect_exit_code(2);
    says(&said, &["--header", "NAME=VALUE"]);
}

#[test]
fn limits_are_told_in_words() {
    let (polyai, site) = world("webhooks = { event_types = [\"alerts.triggered\", \"alerts.resolved\"] }");
    for (more, word) in [
        (&["--url", "http://hooks.example.com/polyai-events"][..], "https:// only"),
        (&["--timeout-ms", "999"], "1000..=30000"),
    ] {
        says(&create(&site, more).run().expect_exit_code(2), &[word]);
    }
    // What PolyAI does not announce is left out of the default, and said of what is asked for.
    let said = create(&site, &[]).run().expect_exit_code(0);
    says(&said, &["does not announce conversation.completed, handoff.created", "reconciliation"]);
    assert_eq!(list(&site)[0]["event_types"], json!(["alerts.triggered", "alerts.resolved"]));
    let said = create(&site, &["--another", "--event", "conversation.completed"]).run().expect_exit_code(1);
    says(&said, &["422", "must be among alerts.triggered", "--event", "Nothing was created"]);
    // The same URL twice is more likely a mistake.
    says(&create(&site, &[]).run().expect_exit_code(1), &["delivers to this URL already", "--another"]);
    for number in 1..10 {
        let body =
            json!({ "name": "n", "url": format!("{URL}/{number}"), "event_types": ["alerts.resolved"] });
        polyai.api("POST", "/v1/webhook-endpoints", &body);
    }
    let before = secrets(&site);
    let said = create(&site, &["--another"]).run().expect_exit_code(1);
    says(&said, &["409", "ten endpoints", "endpoint delete", "Nothing was created"]);
    assert_eq!(secrets(&site), before);
    let said = endpoint(&site, &["list"]).run().expect_exit_code(0);
    assert_eq!(said.stdout.lines().count(), 11, "{}", said.stdout);
    for command in [
        &["show", "whe_unknown"][..],
        &["update", "whe_unknown", "--disable"],
        &["delete", "whe_unknown", "--yes"],
    ] {
        says(&endpoint(&site, command).run().expect_exit_code(1), &["no endpoint whe_unknown"]);
    }
}

#[test]
fn the_quickstarts_path_is_asked_where_the_references_is_not_there() {
    let (polyai, site) = world("served = { webhook_endpoints = false }");
    let said = create(&site, &["--timeout-ms", "9000"]).run().expect_exit_code(1);
    says(&said, &["quickstart's Webhooks API only", "a timeout", "Nothing was created"]);
    let said = create(&site, &["--json"]).run().expect_exit_code(0).json();
    assert_eq!(said["endpoint"]["event_types"], json!(["conversation.completed", "handoff.created"]));
    assert_eq!(in_file(&site).len(), 1);
    assert_eq!(requests(&polyai, "quickstart_create", "201"), 1);
    // No document says that it can be managed there.
    let said = endpoint(&site, &["list"]).run().expect_exit_code(1);
    says(&said, &["404", "platform_url", "Agent Studio"]);
}

#[test]
fn the_quickstarts_family_is_managed_alike_where_that_is_served() {
    let (polyai, site) = world("served = { webhook_endpoints = false, quickstart_management = true }");
    let said = create(&site, &["--json"]).run().expect_exit_code(0).json();
    let id = said["endpoint_id"].as_str().unwrap();
    assert_eq!(list(&site)[0]["name"], "of the tests");
    endpoint(&site, &["update", id, "--event", "alerts.resolved", "--name", "other"])
        .run()
        .expect_exit_code(0);
    let said = endpoint(&site, &["show", id, "--json"]).run().expect_exit_code(0).json();
    assert_eq!((&said["name"], &said["event_types"]), (&json!("other"), &json!(["alerts.resolved"])));
    says(
        &endpoint(&site, &["update", id, "--disable"]).run().expect_exit_code(1),
        &["quickstart's Webhooks API only"],
    );
    let before = in_file(&site);
    endpoint(&site, &["rotate-secret", "--wait", "0s"]).run().expect_exit_code(0);
    assert_eq!((in_file(&site).len(), &in_file(&site)[1]), (2, &before[0]));
    endpoint(&site, &["delete", id, "--yes"]).run().expect_exit_code(0);
    assert_eq!(list(&site).len(), 0);
    assert_eq!(requests(&polyai, "endpoint_list", "200"), 0);
}

#[test]
fn a_person_is_asked_before_anything_is_deleted() {
    const IN_A_TERMINAL: &str =
        "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let (_polyai, site) = world("");
    let said = create(&site, &["--json"]).run().expect_exit_code(0).json();
    let id = said["endpoint_id"].as_str().unwrap();
    for (answer, left) in [("n\n", 1), ("\n", 1), ("y\n", 0)] {
        let child = interpreter("python3")
            .args(["-c", IN_A_TERMINAL, env!("CARGO_BIN_EXE_polyhook"), "endpoint", "delete", id])
            .args(["--config", "polyhook.toml"])
            .current_dir(site.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_ref().unwrap().write_all(answer.as_bytes()).unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(said.contains("permanently?") && said.contains(URL), "{said}");
        assert_eq!(list(&site).len(), left, "{answer:?}: {said}");
    }
}
