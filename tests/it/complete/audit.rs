//! The audit finds, reports, stores and repairs every kind of fault.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde_json::{Value, json};

use super::{request_count, script_call, site};
use crate::support::process::{Installation, SimulatedPolyAi, eventually};

/// Conversations of all of yesterday, half of them calls.
const DAY: &str = "
    epoch = \"2026-11-03T12:00:00Z\"
    spacing = \"5m\"
    mix = { webchat = 0.5, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0, late_recordings = 0.0, missing_recordings = 0.0 }
";
const DATE: &str = "2026-11-03";

fn counts(report: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(report["counts"].clone()).unwrap()
}

/// Returns the archived folder of a conversation.
fn conversation_folder(site: &Installation, id: &str) -> PathBuf {
    let found = site.manifests().into_iter().find(|path| path.to_str().unwrap().contains(id)).unwrap();
    found.parent().unwrap().to_owned()
}

/// Changes the archive so that it has one fault of each kind.
fn introduce_faults(site: &Installation, ids: &[&str]) {
    let folder = |n: usize| conversation_folder(site, ids[n]);
    fs::remove_dir_all(folder(0)).unwrap();
    fs::remove_file(folder(1).join("manifest.json")).unwrap();
    fs::remove_file(folder(2).join("conversation.json")).unwrap();
    let changed = folder(3).join("conversation.json");
    let mut bytes = fs::read(&changed).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&changed, bytes).unwrap();
    fs::write(folder(4).join("manifest.json"), "{").unwrap();
    let unknown = folder(5).with_file_name("nobodys");
    fs::create_dir(&unknown).unwrap();
    fs::write(unknown.join("conversation.json"), "{}").unwrap();
}

/// Starts a simulated PolyAI with a call that has no recording and a conversation without a visible transcript.
/// Returns the ids of all conversations, and the indices of these two.
fn start_polyai() -> (SimulatedPolyAi, Vec<String>, [usize; 2]) {
    let polyai = SimulatedPolyAi::start(DAY, 40);
    let calls = polyai.control("GET", "calls", &Value::Null);
    let calls = calls["calls"].as_array().unwrap();
    let ids: Vec<_> = calls.iter().map(|call| call["id"].as_str().unwrap().to_owned()).collect();
    let voice = calls.iter().position(|call| call["has_audio"] == true).unwrap();
    script_call(&polyai, &ids[voice], &json!({ "recording": "never" }));
    let hidden = (voice + 1) % ids.len();
    script_call(&polyai, &ids[hidden], &json!({ "hidden_transcript": true }));
    (polyai, ids, [voice, hidden])
}

#[test]
fn reports_and_repairs_every_kind_of_fault() {
    let (polyai, ids, [voice, hidden]) = start_polyai();
    let site = site(&polyai, "every = \"0s\", settle = \"0s\"", "worker = { audio_wait = \"0s\" }");
    let audit = |more: &[&str]| {
        let finished = site.polyhook([&["audit", "--date", DATE, "--json"], more].concat()).run();
        (finished.code, super::json(&finished.stdout))
    };

    let (code, nothing) = audit(&[]);
    assert_eq!((code, counts(&nothing["report"])["missing"]), (Some(1), 40), "{nothing}");

    let mut work = site.polyhook(["work"]).start();
    work.wait_until_ready();
    let (_, repair) = audit(&["--repair"]);
    assert_eq!(repair["report"]["queued"], 40);
    eventually("archived", || site.manifests().len() == 40);
    let (code, whole) = audit(&["--deep"]);
    assert_eq!(code, Some(0), "absent recordings and hidden transcripts are not faults: {whole}");
    assert_eq!(
        counts(&whole["report"]),
        BTreeMap::from([("absent_recording".to_owned(), 1), ("hidden_transcript".to_owned(), 1)])
    );
    assert_eq!(whole["report"]["complete"], true);

    let others: Vec<_> = (0..40).filter(|n| ![voice, hidden].contains(n)).map(|n| &*ids[n]).collect();
    let folder = |id: &str| conversation_folder(&site, id);
    introduce_faults(&site, &others);
    let unknown = folder(others[5]).with_file_name("nobodys");
    let extra = folder(others[6]);
    script_call(&polyai, others[6], &json!({ "missing": true }));

    let (code, shallow) = audit(&[]);
    assert_eq!(code, Some(1));
    let found = counts(&shallow["report"]);
    for (finding, count) in
        [("missing", 2), ("incomplete", 2), ("damaged", 1), ("unreadable", 1), ("extra", 1)]
    {
        assert_eq!(found.get(finding), Some(&count), "{finding}: {shallow}");
    }
    let (_, deep) = audit(&["--deep"]);
    assert_eq!(counts(&deep["report"])["damaged"], 2, "only the hash reveals the change: {deep}");
    let kept = fs::read_to_string(site.archive().join(format!("audits/date={DATE}.json"))).unwrap();
    assert_eq!(super::json(&kept), deep["report"]);

    // A person must remove what a fetch cannot repair: the unknown folder and the broken manifest.
    fs::remove_dir_all(&unknown).unwrap();
    fs::remove_file(folder(others[4]).join("manifest.json")).unwrap();
    let before = request_count(&polyai, "v3_conversation");
    let (_, repair) = audit(&["--deep", "--repair"]);
    assert_eq!(repair["report"]["queued"], 5, "{repair}");
    let mut last = Value::Null;
    eventually("whole again", || {
        last = audit(&["--deep"]).1;
        last["report"]["complete"] == true
    });
    assert_eq!(request_count(&polyai, "v3_conversation"), before + 5);
    assert!(extra.exists(), "a conversation that PolyAI no longer has is kept");
    work.stop();
}

#[test]
fn a_failed_recording_is_no_fault_and_is_added_by_a_repair() {
    let polyai = SimulatedPolyAi::start(&DAY.replace("webchat = 0.5", "webchat = 0.0"), 2);
    let calls = polyai.control("GET", "calls", &Value::Null);
    let id = calls["calls"][0]["id"].as_str().unwrap().to_owned();
    let refused = json!({ "operations": ["v3_audio"], "action": { "status": 403 } });
    script_call(&polyai, &id, &json!({ "faults": [refused] }));
    let site = site(
        &polyai,
        "every = \"0s\", settle = \"0s\"",
        "retry = { delays = [\"200ms\"] }\npolyai.api = \"v3\"",
    );
    let audit = |more: &[&str]| {
        let finished = site.polyhook([&["audit", "--date", DATE, "--json"], more].concat()).run();
        (finished.code, super::json(&finished.stdout)["report"].clone())
    };
    let status = || {
        let text = fs::read_to_string(conversation_folder(&site, &id).join("manifest.json")).unwrap();
        super::json(&text)["audio"]["status"].clone()
    };

    let mut work = site.polyhook(["work"]).start();
    work.wait_until_ready();
    assert_eq!(audit(&["--repair"]).1["queued"], 2);
    eventually("archived", || site.manifests().len() == 2);
    assert_eq!(status(), "failed");
    let (code, report) = audit(&["--deep"]);
    assert_eq!((code, &report["complete"]), (Some(0), &json!(true)), "{report}");
    assert_eq!(counts(&report), BTreeMap::from([("failed_recording".to_owned(), 1)]));
    let detail = report["findings"][0]["detail"].as_str().unwrap();
    assert!(detail.starts_with("recording_failed: ") && detail.contains("403"), "{detail}");

    script_call(&polyai, &id, &json!({}));
    assert_eq!(audit(&["--repair"]).1["queued"], 1);
    eventually("the recording is added", || status() == "ready");
    assert_eq!(counts(&audit(&[]).1), BTreeMap::new());
    work.stop();
}
