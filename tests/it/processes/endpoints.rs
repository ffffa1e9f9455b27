//! `polyhook endpoint create|list|show|update|delete` against both families of PolyAI's Webhooks API.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    process::Stdio,
};

use serde_json::{Value, json};

use crate::support::process::{
    CommandOutput, Installation, PolyhookCommand, Process, SimulatedPolyAi, deliver, eventually, interpreter,
};

const URL: &str = "https://hooks.example.com/polyai-events";
const TOKEN: &str = "token-of-a-firewall";

/// Starts a simulator with this scenario and a site without a secrets file.
fn start(scenario: &str) -> (SimulatedPolyAi, Installation) {
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
    let output = endpoint(site, &["list", "--json"]).run().expect_exit_code(0);
    output.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn secrets(site: &Installation) -> String {
    fs::read_to_string(site.path().join("secrets")).unwrap()
}

/// Returns the secrets in the file, first to last.
fn secrets_in_file(site: &Installation) -> Vec<String> {
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
fn assert_mentions(output: &CommandOutput, words: &[&str]) {
    let text = format!("{}{}", output.stdout, output.stderr);
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
fn creates_updates_and_deletes_an_endpoint_that_delivers() {
    let (polyai, site) = start("");
    let output = create(&site, &["--json"]).run().expect_exit_code(0).json();
    let id = output["endpoint_id"].as_str().unwrap().to_owned();
    assert_eq!((&output["endpoint"]["enabled"], output.get("signing_secret")), (&json!(true), None));
    assert_eq!(output["endpoint"]["event_types"].as_array().unwrap().len(), 4, "all event types: {output}");
    let mode = fs::metadata(site.path().join("secrets")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(secrets(&site).lines().next().unwrap(), format!("# polyhook:endpoint={id}"));

    // PolyAI signs with this secret.
    let mut run = receiver(&site);
    let url = format!("http://{}/polyai-events", run.receiver_address());
    let output =
        endpoint(&site, &["update", &id, "--url", &url, "--timeout-ms", "9000"]).run().expect_exit_code(0);
    assert_mentions(&output, &["updated", &url, "9000 ms"]);
    let started = polyai.control("POST", "deliver", &json!({ "sender": {} }));
    assert_eq!(started["deliveries"], 1);
    eventually("delivered", || {
        let delivered = polyai.control("GET", "deliveries", &Value::Null);
        delivered["deliveries"].as_array().unwrap().iter().any(|one| one["status"] == 204)
    });
    run.stop();

    // Only the given attributes have changed.
    let output = endpoint(&site, &["show", "--json"]).run().expect_exit_code(0).json();
    assert_eq!((&output["name"], &output["timeout_ms"]), (&json!("of the tests"), &json!(9000)));
    let output = endpoint(&site, &["delete", &id]).run().expect_exit_code(2);
    assert_mentions(&output, &["--yes"]);
    assert_eq!(list(&site).len(), 1);
    let output = endpoint(&site, &["delete", &id, "--yes"]).run().expect_exit_code(0);
    assert_mentions(&output, &["deleted", &id, "1 of its secrets"]);
    assert_eq!(list(&site).len(), 0);
    assert_mentions(&endpoint(&site, &["list"]).run().expect_exit_code(0), &["endpoint create"]);
}

#[test]
fn receivers_answer_503_until_they_know_the_new_secret() {
    let (polyai, site) = start("");
    site.write("secrets", &format!("{}\n", site.secret));
    let mut run = receiver(&site);
    let status = |secret: &str| deliver(run.receiver_address(), secret, "evt-probe", b"{}");
    assert_eq!(status("whsec_an-unknown-secret-here"), Some(401));
    // PolyAI has created the endpoint and may deliver before its answer arrives.
    fault(&polyai, "endpoint_create", &json!({ "drip": { "bytes": 20, "pause": "100ms" } }));
    let mut creating = create(&site, &["--json"]).start();
    eventually("created", || requests(&polyai, "endpoint_create", "201") == 1);
    assert_eq!(secrets_in_file(&site), [&*site.secret], "the answer has not arrived yet");
    assert_eq!(status("whsec_an-unknown-secret-here"), Some(503), "PolyAI does not retry after a 401");
    assert_eq!(
        creating.wait(crate::support::process::TEST_TIMEOUT).code(),
        Some(0),
        "{:?}",
        creating.stderr()
    );
    let [new, old] = <[String; 2]>::try_from(secrets_in_file(&site)).unwrap();
    assert_eq!(old, site.secret, "the other secrets stay");
    eventually("the secret is active", || status(&new) == Some(204));
    assert_eq!(status(&old), Some(204));
    let output: Value = serde_json::from_str(&creating.stdout()[0]).unwrap();
    assert!(output["window_until"].is_string(), "{output}");
    run.stop();

    // A refused creation leaves no window.
    let before = secrets(&site);
    fault(&polyai, "endpoint_create", &json!({ "status": 403 }));
    let output = create(&site, &["--another"]).run().expect_exit_code(1);
    assert_mentions(&output, &["may not manage", "Nothing was created", "correlation id"]);
    assert_eq!(secrets(&site), before);
}

#[test]
fn rotation_recovers_from_a_kill_before_the_secret_is_written() {
    let (polyai, site) = start("");
    site.write("secrets", &format!("{}\n", site.secret));
    let mut run = receiver(&site);
    let status = |secret: &str| deliver(run.receiver_address(), secret, "evt-probe", b"{}");
    fault(&polyai, "endpoint_create", &json!({ "drip": { "bytes": 1, "pause": "1s" } }));
    let mut creating = create(&site, &[]).start();
    eventually("created", || requests(&polyai, "endpoint_create", "201") == 1);
    creating.kill();
    assert_eq!(secrets_in_file(&site), [&*site.secret]);
    assert_eq!(status("whsec_an-unknown-secret-here"), Some(503), "PolyAI retries");
    let output = create(&site, &[]).run().expect_exit_code(1);
    assert_mentions(&output, &["already delivers to this URL", "endpoint rotate-secret whe_"]);
    endpoint(&site, &["rotate-secret", "--wait", "0s"]).run().expect_exit_code(0);
    let secrets = secrets_in_file(&site);
    assert_eq!((secrets.len(), &secrets[1]), (2, &site.secret));
    eventually("the secret is active", || status(&secrets[0]) == Some(204));
    run.stop();
}

#[test]
fn creates_nothing_if_the_secrets_file_cannot_be_written() {
    let (polyai, site) = start("");
    for (file, word) in [("/proc/version", "Kubernetes"), ("not/there", "No such file")] {
        let output = create(&site, &["--secrets-file", file]).run().expect_exit_code(1);
        assert_mentions(&output, &["Nothing was created", word]);
    }
    let unconfigured = Installation::new(&polyai.access, "");
    let config = fs::read_to_string(unconfigured.path().join("polyhook.toml")).unwrap();
    unconfigured.write("polyhook.toml", &config.replace("secrets_file = \"secrets\"", ""));
    assert_mentions(
        &create(&unconfigured, &[]).run().expect_exit_code(2),
        &["signature.secrets_file", "--secrets-file"],
    );
    assert_eq!(requests(&polyai, "endpoint_create", "201"), 0);
    assert!(!site.path().join("secrets").exists(), "a check leaves no file");
}

#[test]
fn rescues_a_secret_that_cannot_be_written() {
    let (polyai, site) = start("");
    let folder = site.path().join("elsewhere");
    fs::create_dir(&folder).unwrap();
    fault(&polyai, "endpoint_create", &json!({ "drip": { "bytes": 40, "pause": "200ms" } }));
    let creating = create(&site, &["--secrets-file", "elsewhere/secrets"]).start();
    eventually("created", || requests(&polyai, "endpoint_create", "201") == 1);
    fs::remove_dir_all(&folder).unwrap();
    let rescue_file = creating.wait_for("the rescue file", |line| {
        let (_, rest) = line.split_once("It is in ")?;
        Some(rest.split_once(" (mode 0600)")?.0.to_owned())
    });
    drop(creating);
    assert_eq!(fs::metadata(&rescue_file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&rescue_file).unwrap().starts_with("whsec_"));

    // The secret in a truncated answer is lost.
    fault(&polyai, "endpoint_create", &json!({ "truncate": 5 }));
    let output = create(&site, &["--another"]).run().expect_exit_code(1);
    assert_mentions(&output, &["may have created", "endpoint rotate-secret"]);
}

#[test]
fn show_secret_prints_and_writes_the_secret() {
    let (_polyai, site) = start("");
    let output =
        create(&site, &["--show-secret", "--json"]).may_print_secrets().run().expect_exit_code(0).json();
    assert_eq!(output["signing_secret"], secrets_in_file(&site)[0]);
}

#[test]
fn sends_headers_and_hides_their_values() {
    let (polyai, site) = start("");
    site.write("token", &format!("{TOKEN}\n"));
    let header = ["--header", "Authorization=@token"];
    let output =
        create(&site, &[&header[..], &["--dry-run", "--json"]].concat()).run().expect_exit_code(0).json();
    assert_eq!(output["would_create"]["headers"]["Authorization"], "[redacted]");
    assert_eq!(requests(&polyai, "endpoint_create", "201"), 0);
    assert!(!site.path().join("secrets").exists());
    let output = create(&site, &header).run().expect_exit_code(0);
    assert_mentions(&output, &["created", "Authorization: [hidden]"]);
    let id = list(&site)[0]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/webhook-endpoints/{id}");
    let headers = || polyai.api("GET", &path, &Value::Null)["headers"].clone();
    assert_eq!(headers(), json!({ "Authorization": TOKEN }));
    for arguments in [&["list"][..], &["list", "--json"], &["show"], &["show", "--json"]] {
        endpoint(&site, arguments).run().expect_exit_code(0);
    }
    endpoint(&site, &["update", &id, "--name", "n"]).run().expect_exit_code(0);
    assert_eq!(headers(), json!({ "Authorization": TOKEN }), "the update has changed nothing else");
    endpoint(&site, &["update", &id, "--header", "X-Tenant=a", "--dry-run"]).run().expect_exit_code(0);
    endpoint(&site, &["update", &id, "--no-headers"]).run().expect_exit_code(0);
    assert_eq!(headers(), json!({}));
    assert_mentions(&endpoint(&site, &["update", &id]).run().expect_exit_code(2), &["--url"]);
    let output = create(&site, &["--header", TOKEN]).run().expect_exit_code(2);
    assert_mentions(&output, &["--header", "NAME=VALUE"]);
}

#[test]
fn explains_limits() {
    let (polyai, site) = start("webhooks = { event_types = [\"alerts.triggered\", \"alerts.resolved\"] }");
    for (more, words) in [
        (&["--url", "http://hooks.example.com/polyai-events"][..], "https:// only"),
        (&["--timeout-ms", "999"], "1000..=30000"),
    ] {
        assert_mentions(&create(&site, more).run().expect_exit_code(2), &[words]);
    }
    // The default leaves out event types that PolyAI does not offer. An explicit one is an error.
    let output = create(&site, &[]).run().expect_exit_code(0);
    assert_mentions(&output, &["does not offer conversation.completed, handoff.created", "reconciliation"]);
    assert_eq!(list(&site)[0]["event_types"], json!(["alerts.triggered", "alerts.resolved"]));
    let output = create(&site, &["--another", "--event", "conversation.completed"]).run().expect_exit_code(1);
    assert_mentions(&output, &["422", "must be among alerts.triggered", "--event", "Nothing was created"]);
    // A second endpoint for the same URL is probably a mistake.
    assert_mentions(
        &create(&site, &[]).run().expect_exit_code(1),
        &["already delivers to this URL", "--another"],
    );
    for number in 1..10 {
        let body =
            json!({ "name": "n", "url": format!("{URL}/{number}"), "event_types": ["alerts.resolved"] });
        polyai.api("POST", "/v1/webhook-endpoints", &body);
    }
    let before = secrets(&site);
    let output = create(&site, &["--another"]).run().expect_exit_code(1);
    assert_mentions(
        &output,
        &["409", "ten endpoints, the maximum", "endpoint delete", "Nothing was created"],
    );
    assert_eq!(secrets(&site), before);
    let output = endpoint(&site, &["list"]).run().expect_exit_code(0);
    assert_eq!(output.stdout.lines().count(), 11, "{}", output.stdout);
    for command in [
        &["show", "whe_unknown"][..],
        &["update", "whe_unknown", "--disable"],
        &["delete", "whe_unknown", "--yes"],
    ] {
        assert_mentions(&endpoint(&site, command).run().expect_exit_code(1), &["no endpoint whe_unknown"]);
    }
}

#[test]
fn uses_the_quickstart_api_if_the_reference_api_is_not_served() {
    let (polyai, site) = start("served = { webhook_endpoints = false }");
    let output = create(&site, &["--timeout-ms", "9000"]).run().expect_exit_code(1);
    assert_mentions(
        &output,
        &["serves the quickstart's Webhooks API only", "a timeout", "Nothing was created"],
    );
    let output = create(&site, &["--json"]).run().expect_exit_code(0).json();
    assert_eq!(output["endpoint"]["event_types"], json!(["conversation.completed", "handoff.created"]));
    assert_eq!(secrets_in_file(&site).len(), 1);
    assert_eq!(requests(&polyai, "quickstart_create", "201"), 1);
    // No document describes how to manage endpoints with the quickstart's API.
    let output = endpoint(&site, &["list"]).run().expect_exit_code(1);
    assert_mentions(&output, &["404", "platform_url", "Agent Studio"]);
}

/// Starts a host that serves both families of the API. The first request for the reference's fails in a gateway.
fn start_behind_gateway() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut failed = false;
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(&stream);
            let (mut head, mut length) = (String::new(), 0);
            while reader.read_line(&mut head).is_ok_and(|read| read > 2) {
                let last = head.lines().last().unwrap_or_default().to_lowercase();
                if let Some(value) = last.strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
            }
            let _ = reader.read_exact(&mut vec![0; length]);
            let is_reference = head.contains(" /v1/webhook-endpoints");
            let (status, body) = match head.as_bytes() {
                _ if is_reference && !std::mem::replace(&mut failed, true) => (404, "default backend - 404"),
                [b'P', ..] => (201, r#"{"id":"whe_1","signing_secret":"a-secret-of-sixteen-bytes"}"#),
                _ => (200, r#"{"data":[]}"#),
            };
            let head =
                format!("HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
            let _ = (&stream).write_all(format!("{head}{body}").as_bytes());
        }
    });
    address
}

#[test]
fn a_gateways_404_does_not_make_a_host_serve_the_quickstart_api_only() {
    let (_polyai, site) = start("");
    let platform_url = format!("polyai.platform_url=http://{}", start_behind_gateway());
    // The quickstart's API does not support this setting.
    let output = create(&site, &["--timeout-ms", "9000", "--json", "--set", &platform_url]).run();
    assert_eq!(output.expect_exit_code(0).json()["endpoint_id"], "whe_1");
}

#[test]
fn manages_endpoints_through_the_quickstart_api() {
    let (polyai, site) = start("served = { webhook_endpoints = false, quickstart_management = true }");
    let output = create(&site, &["--json"]).run().expect_exit_code(0).json();
    let id = output["endpoint_id"].as_str().unwrap();
    assert_eq!(list(&site)[0]["name"], "of the tests");
    endpoint(&site, &["update", id, "--event", "alerts.resolved", "--name", "other"])
        .run()
        .expect_exit_code(0);
    let output = endpoint(&site, &["show", id, "--json"]).run().expect_exit_code(0).json();
    assert_eq!((&output["name"], &output["event_types"]), (&json!("other"), &json!(["alerts.resolved"])));
    assert_mentions(
        &endpoint(&site, &["update", id, "--disable"]).run().expect_exit_code(1),
        &["serves the quickstart's Webhooks API only"],
    );
    let before = secrets_in_file(&site);
    endpoint(&site, &["rotate-secret", "--wait", "0s"]).run().expect_exit_code(0);
    assert_eq!((secrets_in_file(&site).len(), &secrets_in_file(&site)[1]), (2, &before[0]));
    endpoint(&site, &["delete", id, "--yes"]).run().expect_exit_code(0);
    assert_eq!(list(&site).len(), 0);
    assert_eq!(requests(&polyai, "endpoint_list", "200"), 0);
}

#[test]
fn asks_for_confirmation_before_it_deletes() {
    const IN_A_TERMINAL: &str =
        "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    let (_polyai, site) = start("");
    let output = create(&site, &["--json"]).run().expect_exit_code(0).json();
    let id = output["endpoint_id"].as_str().unwrap();
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
        let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert!(output.contains("permanently?") && output.contains(URL), "{output}");
        assert_eq!(list(&site).len(), left, "{answer:?}: {output}");
    }
}
