//! The log has one line per delivery and per job attempt, connected by a trace id.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::process::{Installation, SimulatedPolyAi, deliver, eventually, get, http_request};

#[test]
fn a_trace_id_connects_the_lines_of_receiver_and_worker() {
    const CALLS: usize = 12;
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, CALLS);
    let ids = polyai.ids();
    // One conversation needs two attempts, one is unknown in both.
    polyai.control("PUT", &format!("calls/{}/script", ids[0]), &json!({ "in_progress_requests": 1 }));
    polyai.control("PUT", &format!("calls/{}/script", ids[1]), &json!({ "missing": true }));
    let site = Installation::new(&polyai.access, "retry.delays = [\"100ms\"]");
    let mut receive = site.polyhook(["receive"]).start();
    let mut work = site.polyhook(["work"]).start();
    let admin = work.wait_until_ready();
    receive.wait_until_ready();
    let to = receive.receiver_address();
    for id in &ids {
        assert_eq!(deliver(to, &site.secret, &format!("evt-{id}"), &polyai.event(id)), Some(204));
    }
    // Rejected deliveries are logged too, without their content.
    assert_eq!(deliver(to, "not-the-configured-secret", "evt-bad", b"{}"), Some(401));
    assert_eq!(http_request(to, "GET", "/polyai-events", "", b"").map(|(status, _)| status), Some(405));
    eventually("archived", || site.manifests().len() == CALLS - 1);
    eventually("a dead letter", || {
        get(admin, "/metrics").is_some_and(|(_, text)| text.contains("polyhook_dead_letters_total{"))
    });
    receive.stop();
    work.stop();

    let by_event = |log: &[Value], message: &str| {
        let mut lines: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for line in log.iter().filter(|line| line["message"].as_str().unwrap().starts_with(message)) {
            if let Some(id) = line["event.id"].as_str() {
                lines.entry(id.to_owned()).or_default().push(line.clone());
            }
        }
        lines
    };
    let deliveries = by_event(&receive.log(), "delivery");
    let jobs = by_event(&work.log(), "job");
    assert_eq!((deliveries.len(), jobs.len()), (CALLS, CALLS));
    for (number, id) in ids.iter().enumerate() {
        let event_id = format!("evt-{id}");
        let [delivery] = &deliveries[&event_id][..] else { panic!("one line per delivery: {deliveries:?}") };
        assert_eq!(
            (&delivery["level"], &delivery["message"]),
            (&"INFO".into(), &"delivery stored durably".into())
        );
        assert_eq!(delivery["outcome"], "accepted");
        assert_eq!(delivery["conversation.id"], id.as_str());
        let trace = delivery["trace_id"].as_str().unwrap();
        assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{trace}");
        let tries = &jobs[&event_id];
        assert_eq!(tries.len(), if number <= 1 { 2 } else { 1 }, "{tries:?}");
        assert!(tries.iter().all(|line| line["trace_id"] == trace && line["elapsed_ms"].is_u64()));
        let last = tries.last().unwrap();
        let said = last["message"].as_str().unwrap();
        if number == 1 {
            assert_eq!((&last["level"], &last["outcome"]), (&"ERROR".into(), &"dead".into()));
            // The advice fits a dead letter: what to check, then the replay.
            let replay = format!("polyhook dead replay {event_id}");
            assert!(said.contains("check its id") && said.ends_with(&replay), "{said}");
            assert!(!last["polyai.correlation_id"].as_str().unwrap().is_empty());
        } else {
            assert_eq!((&last["level"], &last["conversation.id"]), (&"INFO".into(), &id.as_str().into()));
            assert_eq!(said, "job done: archived the conversation");
        }
    }
    let refused: Vec<_> = receive.log().into_iter().filter(|line| line["outcome"] == "unverified").collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0]["reason"], "mismatch");

    let mut receive = site.polyhook(["receive", "--set", "log.format=ecs"]).start();
    let to = receive.wait_for("the address", |line| {
        serde_json::from_str::<Value>(line).ok()?["polyhook.address"].as_str()?.parse().ok()
    });
    assert_eq!(deliver(to, "not-the-configured-secret", "evt-bad", b"{}"), Some(401));
    receive.stop();
    let log = receive.log();
    for name in ["@timestamp", "message", "log.logger", "ecs.version", "service.name", "service.version"] {
        assert!(log.iter().all(|line| line[name].is_string()), "{name}: {log:?}");
    }
    let refused = log.iter().find(|line| line["log.level"] == "warn").unwrap();
    assert_eq!(
        (&refused["http.response.status_code"], &refused["polyhook.reason"]),
        (&401.into(), &"mismatch".into())
    );
}
