//! Audit: every kind of fault is found, named, kept, and repaired.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use super::{asked, script, site};
use crate::support::process::{PolyAi, eventually};

/// All of yesterday, half of them calls.
const DAY: &str = "
    epoch = \"2026-11-03T12:00:00Z\"
    spacing = \"5m\"
    mix = { webchat = 0.5, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0, late_recordings = 0.0, missing_recordings = 0.0 }
";
const DATE: &str = "2026-11-03";

fn counts(report: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(report["counts"].clone()).unwrap()
}

#[test]
fn finds_what_is_wrong_and_repairs_it() {
    let polyai = PolyAi::start(DAY, 40);
    let calls = polyai.control("GET", "calls", &Value::Null);
    let calls = calls["calls"].as_array().unwrap();
    let ids: Vec<_> = calls.iter().map(|call| call["id"].as_str().unwrap().to_owned()).collect();
    let voice = calls.iter().position(|call| call["has_audio"] == true).unwrap();
    script(&polyai, &ids[voice], &json!({ "recording": "never" }));
    let hidden = (voice + 1) % ids.len();
    script(&polyai, &ids[hidden], &json!({ "hidden_transcript": true }));
    let site = site(&polyai, "every = \"0s\", settle = \"0s\"", "worker = { audio_wait = \"0s\" }");
    let audit = |more: &[&str]| {
        let finished = site.polyhook([&["audit", "--date", DATE, "--json"], more].concat()).run();
        (finished.code, super::json(&finished.stdout))
    };

    let (code, nothing) = audit(&[]);
    assert_eq!((code, counts(&nothing["report"])["missing"]), (Some(1), 40), "{nothing}");

    let mut work = site.polyhook(["work"]).start();
    work.ready();
    let (_, repair) = audit(&["--repair"]);
    assert_eq!(repair["report"]["queued"], 40);
    eventually("archived", || site.manifests().len() == 40);
    let (code, whole) = audit(&["--deep"]);
    assert_eq!(code, Some(0), "what is absent or hidden is no fault of the archive's: {whole}");
    assert_eq!(
        counts(&whole["report"]),
        BTreeMap::from([("absent_recording".to_owned(), 1), ("hidden_transcript".to_owned(), 1)])
    );
    assert_eq!(whole["report"]["complete"], true);

    // One of each kind, none of which anybody but an auditor would see.
    let folder = |id: &str| {
        let found = site.manifests().into_iter().find(|path| path.to_str().unwrap().contains(id)).unwrap();
        found.parent().unwrap().to_owned()
    };
    let others: Vec<_> = (0..40).filter(|n| ![voice, hidden].contains(n)).map(|n| &ids[n]).collect();
    fs::remove_dir_all(folder(others[0])).unwrap();
    fs::remove_file(folder(others[1]).join("manifest.json")).unwrap();
    fs::remove_file(folder(others[2]).join("conversation.json")).unwrap();
    let silent = folder(others[3]).join("conversation.json");
    let mut bytes = fs::read(&silent).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&silent, bytes).unwrap();
    fs::write(folder(others[4]).join("manifest.json"), "{").unwrap();
    let strange = folder(others[5]).with_file_name("nobodys");
    fs::create_dir(&strange).unwrap();
    fs::write(strange.join("conversation.json"), "{}").unwrap();
    let extra = folder(others[6]);
    script(&polyai, others[6], &json!({ "missing": true }));

    let (code, shallow) = audit(&[]);
    assert_eq!(code, Some(1));
    let found = counts(&shallow["report"]);
    for (finding, count) in
        [("missing", 2), ("incomplete", 2), ("damaged", 1), ("unreadable", 1), ("extra", 1)]
    {
        assert_eq!(found.get(finding), Some(&count), "{finding}: {shallow}");
    }
    let (_, deep) = audit(&["--deep"]);
    assert_eq!(counts(&deep["report"])["damaged"], 2, "only its hash tells: {deep}");
    let kept = fs::read_to_string(site.archive().join(format!("audits/date={DATE}.json"))).unwrap();
    assert_eq!(super::json(&kept), deep["report"]);

    // What cannot be repaired by fetching is for a person: the folder that is nobody's, the manifest that is none.
    fs::remove_dir_all(&strange).unwrap();
    fs::remove_file(folder(others[4]).join("manifest.json")).unwrap();
    let before = asked(&polyai, "v3_conversation");
    let (_, repair) = audit(&["--deep", "--repair"]);
    assert_eq!(repair["report"]["queued"], 5, "{repair}");
    let mut last = Value::Null;
    eventually("whole again", || {
        last = audit(&["--deep"]).1;
        last["report"]["complete"] == true
    });
    assert_eq!(asked(&polyai, "v3_conversation"), before + 5);
    assert!(extra.exists(), "what PolyAI has no more is kept");
    work.stop();
}
