//! PolyAI's own Python client takes the simulator for PolyAI.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::process::{Installation, SimulatedPolyAi, deliver, eventually, metric};

const CALLS: usize = 12;
/// Short ones, spoken and written, in every environment.
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
        // It would find a person's own key there.
        .env("HOME", "/nonexistent")
        .output()
        .expect("scripts/install-test-tools installs it");
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
        let (listed, whole) = (&line["listed"], &line["whole"]);
        assert_eq!(whole["conversationId"], line["id"]);
        assert_eq!(whole["accountId"], access.account_id.as_str());
        for name in ["startedAt", "channel", "clientEnv", "totalDuration"] {
            assert_eq!(listed[name], whole[name], "{name} of {}", line["id"]);
        }
        assert!(!whole["turns"].as_array().unwrap().is_empty(), "{whole}");
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

    // What polyhook archives is what that client sees.
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
    let (mut recorded, mut silent) = (0, 0);
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
            silent += 1;
        }
    }
    assert!(recorded > 0 && silent > 0, "{recorded} recorded, {silent} not");
}
