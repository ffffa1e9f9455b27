//! The variables of PolyAI's quickstarts are sufficient, and no host is guessed.

use std::path::Path;

use jiff::SignedDuration;
use serde_json::json;

use super::verified_archive;
use crate::support::process::{
    PolyhookCommand, SimulatedPolyAi, SimulatorAccess, deliver, eventually, get, http_request,
};

/// Prepares a command with these variables alone. The simulator takes the place of both hosts.
fn polyhook(folder: &Path, arguments: &[&str], url: &str, variables: &[(&str, &str)]) -> PolyhookCommand {
    let call = PolyhookCommand::new(folder, arguments)
        .env("POLYAI_BASE_URL", url)
        .env("POLYAI_PLATFORM_URL", url)
        // The default ports may be in use.
        .env("POLYHOOK__SERVER__LISTEN", "127.0.0.1:0")
        .env("POLYHOOK__ADMIN__LISTEN", "127.0.0.1:0");
    variables
        .iter()
        .fold(call, |call, (name, value)| call.env(name, value).must_not_print(value_of_key(name, value)))
}

/// Returns what must not be printed of a variable: keys and secrets.
fn value_of_key<'a>(name: &str, value: &'a str) -> &'a str {
    if name.contains("KEY") || name.contains("SECRET") { value } else { "hunter2" }
}

#[test]
fn runs_with_only_the_variables_of_june() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 1);
    let ids = polyai.ids();
    let folder = tempfile::tempdir().unwrap();
    let SimulatorAccess { url, api_key, account_id, project_id, secret } = &polyai.access;
    let variables = [
        ("POLYAI_API_KEY", &**api_key),
        ("POLYAI_ACCOUNT_ID", account_id),
        ("POLYAI_PROJECT_ID", project_id),
        ("POLYAI_WEBHOOK_SECRET", secret),
    ];
    polyhook(folder.path(), &["doctor"], url, &variables).run().expect_exit_code(0);
    let mut run = polyhook(folder.path(), &["run"], url, &variables).start();
    run.wait_until_ready();
    let to = run.receiver_address();
    // As in the quickstart: no timestamp, no event id, no identifiers of account and project.
    let body = json!({ "type": "conversation.completed", "data": { "conversation_id": ids[0], "environment": "live" } });
    let body = body.to_string();
    let signature =
        polyhook::signature::sign(&polyhook::secret::Secret::new(secret.clone()), None, body.as_bytes());
    let headers = format!("x-polyai-signature: {signature}\r\n");
    let answer = http_request(to, "POST", "/polyai-events", &headers, body.as_bytes());
    assert_eq!(answer, Some((204, String::new())));
    let archive = folder.path().join("polyhook-data/archive");
    eventually("archived", || verified_archive(&archive).len() == 1);
    assert_eq!(verified_archive(&archive)[&ids[0]]["audio"]["status"], "ready");
    run.stop();
}

/// The current quickstart names neither an account nor a signing secret, and each API has its own key.
#[test]
fn runs_with_only_the_current_variables() {
    let scenario = format!(
        "{}\n[[projects]]\napi_key = \"simulated-key-for-v3\"\ndata_api_key = \"simulated-key-for-data\"\n",
        SimulatedPolyAi::CALLS
    );
    let polyai = SimulatedPolyAi::start(&scenario, 0);
    let folder = tempfile::tempdir().unwrap();
    let SimulatorAccess { url, account_id, project_id, secret, .. } = &polyai.access;
    let variables = [
        ("POLYAI_AGENT_ID", &**project_id),
        ("POLYAI_API_KEY", "simulated-key-for-data"),
        ("POLYAI_CONVERSATIONS_API_KEY", "simulated-key-for-v3"),
    ];
    let doctor = |expected: &str| {
        let report =
            polyhook(folder.path(), &["doctor", "--json"], url, &variables).run().expect_exit_code(0);
        let findings = report.json()["findings"].as_array().unwrap().clone();
        let found = findings.iter().find(|finding| finding["check"] == "polyai.account").unwrap();
        assert_eq!(found["state"], expected, "{found}");
    };
    doctor("warn");

    let mut run = polyhook(folder.path(), &["run"], url, &variables).start();
    let admin = run.wait_until_ready();
    let readyz = || get(admin, "/readyz").map_or_else(String::new, |(_, text)| text);
    eventually("the account is not known", || readyz().contains("degraded: account: "));
    // PolyAI sends it again until the secret is configured.
    assert_eq!(deliver(run.receiver_address(), secret, "evt", b"{}"), Some(503));
    let unsigned = http_request(run.receiver_address(), "POST", "/polyai-events", "", b"{}");
    assert_eq!(unsigned.unwrap().0, 401);

    let started_at = polyhook::clock::Clock::System.now() - SignedDuration::from_hours(1);
    let added = polyai.control("POST", "calls", &json!({ "started_at": started_at, "environment": "live" }));
    let id = added["calls"][0]["id"].as_str().unwrap();
    let archive = folder.path().join("polyhook-data/archive");
    eventually("archived", || verified_archive(&archive).len() == 1);
    let manifest = &verified_archive(&archive)[id];
    assert_eq!(
        (&manifest["account_id"], &manifest["trigger"], &manifest["audio"]["status"]),
        (&json!(account_id), &json!("reconcile"), &json!("ready"))
    );
    assert!(manifest["warnings"].is_null(), "{manifest}");
    assert_eq!(readyz(), "ready\n");
    run.stop();

    doctor("ok");
    let fetched =
        polyhook(folder.path(), &["fetch", id, "--json"], url, &variables).run().expect_exit_code(0);
    assert_eq!(fetched.json()["manifest"]["account_id"], json!(account_id), "{}", fetched.stdout);
}

#[test]
fn no_key_is_sent_to_a_host_that_was_not_named() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [
        ("POLYAI_AGENT_ID", "PROJECT-1"),
        ("POLYAI_API_KEY", "hunter2"),
        ("POLYAI_CONVERSATIONS_API_KEY", "hunter2"),
    ];
    for (url, says) in [
        ("http://127.0.0.1:1", "set polyai.platform_url (POLYAI_PLATFORM_URL) as well"),
        ("https://api.poly.ai", "use https://api.us.poly.ai"),
    ] {
        for arguments in [&["run"][..], &["work"], &["config", "check"], &["fetch", "CA1"]] {
            let refused = polyhook(folder.path(), arguments, url, &variables).env("POLYAI_PLATFORM_URL", "");
            let refused = refused.run().expect_exit_code(78);
            assert!(refused.stderr.contains(says), "{}", refused.stderr);
        }
        let refused = polyhook(folder.path(), &["doctor"], url, &variables).env("POLYAI_PLATFORM_URL", "");
        assert!(refused.run().expect_exit_code(1).stdout.contains(says));
        let refused =
            polyhook(folder.path(), &["endpoint", "list"], url, &variables).env("POLYAI_PLATFORM_URL", "");
        assert!(refused.run().expect_exit_code(1).stderr.contains(says));
    }
    let shown = polyhook(folder.path(), &["config", "show"], "https://api.eu.poly.ai", &variables)
        .env("POLYAI_PLATFORM_URL", "")
        .run()
        .expect_exit_code(0);
    let hosts = "# project PROJECT-1: v3 at api.euw-1.platform.polyai.app, data at api.eu.poly.ai";
    assert!(shown.stdout.contains(hosts), "{}", shown.stdout);
}
