//! PolyAI's own trouble with one of two projects: its jobs wait, none dies of it, and the other project does not notice.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Figures,
    load::Load,
    oracle::{self, Bus},
    pick,
};
use crate::support::process::{Installation, SimulatedPolyAi, eventually, metric};

const PROJECTS: &str = r#"
    epoch = "2026-11-03T12:00:00Z"
    mix = { webchat = 1.0, chat = 0.0, min_turns = 1, max_turns = 1, sandbox = 0.0, pre_release = 0.0, handoffs = 0.0 }
    [[projects]]
    [[projects]]
    project_id = "PROJECT-SECOND"
    project_slug = "second"
    api_key = "simulated-key-0002"
"#;

/// Longer than all trouble here, and without a wait that would outlast the test's patience.
fn ladder() -> String {
    let mut delays = vec!["\"1s\"", "\"1s\"", "\"2s\"", "\"4s\""];
    delays.extend(["\"8s\""; 60]);
    format!("[{}]", delays.join(","))
}

/// Soon enough on a busy machine.
const QUICK: Duration = Duration::from_secs(8);

/// What is wrong, and how long a conversation of the other project may take from 204 to archive meanwhile.
fn troubles() -> Vec<(&'static str, Value, Duration)> {
    vec![
        ("down", json!({ "status": 503 }), QUICK),
        ("429 storm", json!({ "rate_limited": { "seconds": 1 } }), QUICK),
        ("429 without a time", json!({ "rate_limited": "absent" }), QUICK),
        ("hanging up", json!("hang_up"), QUICK),
        ("HTML for an answer", json!("html"), QUICK),
        ("broken off", json!({ "truncate": 10 }), QUICK),
        ("never answering", json!({ "delay": "10m" }), QUICK),
    ]
}

#[test]
fn trouble_of_polyai_is_waited_for_and_is_nobody_elses() {
    let polyai = SimulatedPolyAi::start(PROJECTS, pick(4000, 20_000));
    let account = &polyai.access.account_id;
    let projects = [("PROJECT-C0NC1ERG", "simulated-key-0001"), ("PROJECT-SECOND", "simulated-key-0002")]
        .map(|(project, key)| {
            format!("{{ account_id = \"{account}\", project_id = \"{project}\", api_key = \"{key}\" }}")
        });
    let config = format!("projects = [{}]\nretry = {{ delays = {} }}\n", projects.join(","), ladder());
    let site = Installation::new(&polyai.access, &config);
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    let calls = polyai.control("GET", "calls", &Value::Null);
    let owner: BTreeMap<String, String> = calls["calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|call| {
            (call["id"].as_str().unwrap().to_owned(), call["project_id"].as_str().unwrap().to_owned())
        })
        .collect();
    let deliveries = calls["calls"].as_array().unwrap().iter().map(|call| {
        let body = json!({ "type": "conversation.completed", "data": {
            "conversation_id": call["id"], "environment": "live",
            "account_id": call["account_id"], "project_id": call["project_id"],
        }});
        (call["id"].as_str().unwrap().to_owned(), body.to_string().into_bytes())
    });
    let load = Load::of(deliveries.collect(), &polyai, run.receiver_address(), 20);
    let mut figures = Figures::of("PolyAI fails for one of two projects");
    let mut lags = serde_json::Map::new();
    for (name, action, most) in troubles() {
        let fault = json!({ "project_id": "PROJECT-C0NC1ERG", "fault": { "action": action } });
        polyai.control("POST", "faults", &fault);
        thread::sleep(pick(Duration::from_millis(1500), Duration::from_secs(20)));
        // From here on, how long does the other project take?
        let before = load.look(|record| record.acknowledged.clone());
        let start = Instant::now();
        let newcomer = || {
            load.look(|record| {
                record
                    .acknowledged
                    .keys()
                    .find(|id| !before.contains_key(*id) && owner[*id] == "PROJECT-SECOND")
                    .cloned()
            })
        };
        let mut next = None;
        eventually("acknowledged", || {
            next = newcomer();
            next.is_some()
        });
        let next = next.unwrap();
        eventually("the other project's is archived", || {
            oracle::is_archived(&site.archive(), &next)
                || start.elapsed() > pick(QUICK, Duration::from_secs(40))
        });
        let lag = start.elapsed();
        lags.insert(name.to_owned(), u64::try_from(lag.as_millis()).unwrap().into());
        polyai.control("DELETE", "faults", &Value::Null);
        assert!(lag < most, "{name}: the other project waits {lag:?}");
    }
    let record = load.finish();
    let queue = site.path().join("polyhook-data/queue.db");
    figures.set("other_project_archived_after_ms", lags);
    oracle::judge(&record, &site.archive(), &Bus::Embedded(&queue), None, &mut figures);
    let dead = metric(admin, "polyhook_queue_depth{queue=\"dead\"}");
    figures.set("dead", dead);
    assert_eq!(dead, 0, "a job died of trouble that passed");
    run.stop();
    figures.print();
}
