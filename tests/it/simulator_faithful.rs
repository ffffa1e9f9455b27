//! PolyAI's own Python client works against the simulator.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::process::{Installation, SimulatedPolyAi, deliver, eventually, metric};

const CALLS: usize = 12;
/// Short calls and chats in every environment.
const SCENARIO: &str = "
    epoch = \"2026-11-03T12:00:00Z\"
    mix = { webchat = 0.4, min_turns = 1, max_turns = 2 }
";

#[test]
fn polyai_s_own_client_lists_reads_and_downloads() {
    let polyai = SimulatedPolyAi::start(SCENARIO, CALLS);
    let ids = polyai.ids();
    let access = &polyai.access;
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/adk.py"))
        .args([&access.url, &access.project_id])
        .env("POLY_ADK_KEY", &access.api_key)
        // The client would read a user's own key from the home folder.
        .env("HOME", "/nonexistent")
        .output()
        .expect("scripts/install-test-tools installs Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let (conversations, refused): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line["id"].is_string());

    let listed: Vec<_> = conversations.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(listed, ids.iter().rev().map(String::as_str).collect::<Vec<_>>(), "newest first");
    for line in &conversations {
        let (listed, conversation) = (&line["listed"], &line["whole"]);
        assert_eq!(conversation["conversationId"], line["id"]);
        assert_eq!(conversation["accountId"], access.account_id.as_str());
        for name in ["startedAt", "channel", "clientEnv", "totalDuration"] {
            assert_eq!(listed[name], conversation[name], "{name} of {}", line["id"]);
        }
        assert!(!conversation["turns"].as_array().unwrap().is_empty(), "{conversation}");
    }
    let statuses: Vec<_> = refused.iter().map(|line| (&line["refused"], &line["status"])).collect();
    assert_eq!(
        statuses,
        [
            (&json!("conversation"), &json!(404)),
            (&json!("project"), &json!(404)),
            (&json!("limit"), &json!(400)),
        ],
        "{refused:?}"
    );

    // polyhook archives the same data that the client reads.
    let site = Installation::new(
        access,
        "worker = { audio = \"both\", environments = [\"live\", \"sandbox\", \"pre-release\"] }",
    );
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    for id in &ids {
        assert_eq!(deliver(run.receiver_address(), &site.secret, id, &polyai.event(id)), Some(204));
    }
    eventually("archived", || metric(admin, "polyhook_jobs_total{outcome=\"archived\"}") == CALLS);
    run.stop();
    let (mut recorded, mut unrecorded) = (0, 0);
    for path in site.manifests() {
        let manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let line = conversations.iter().find(|line| line["id"] == manifest["conversation_id"]).unwrap();
        assert_eq!(manifest["turn_count"], line["whole"]["turns"].as_array().unwrap().len());
        let user =
            manifest["objects"].as_array().unwrap().iter().find(|object| object["direction"] == "user");
        if let Some(user) = user {
            assert_eq!(user["sha256"], line["user"]["sha256"], "{manifest}");
            assert_ne!(line["user"]["sha256"], line["audio"]["sha256"]);
            assert_ne!(line["user"]["sha256"], line["redacted"]["sha256"]);
            recorded += 1;
        } else {
            assert_eq!(line["audio"]["status"], 404, "{manifest}");
            unrecorded += 1;
        }
    }
    assert!(recorded > 0 && unrecorded > 0, "{recorded} recorded, {unrecorded} not");
}
