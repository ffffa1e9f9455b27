//! `polyhook tail`, as a user sees it.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::{
    process::{Installation, Process, SimulatedPolyAi, TEST_TIMEOUT, deliver, eventually},
    rabbit,
};

/// Returns the lines that a tail has printed so far, as (what, id).
fn printed(tail: &Process) -> Vec<(String, String)> {
    let lines = tail.stdout();
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect(line));
    lines
        .map(|line| (line["what"].as_str().unwrap().to_owned(), line["id"].as_str().unwrap().to_owned()))
        .collect()
}

fn event(kind: &str, conversation: &str, environment: &str, project: &str) -> Vec<u8> {
    json!({ "type": kind, "data": {
        "conversation_id": conversation, "environment": environment, "project_id": project,
        "caller": "+4915112345678",
    }})
    .to_string()
    .into_bytes()
}

/// Checks that tail shows a conversation from its delivery to its announcement, and one that fails.
fn assert_shows_whole_lifecycle(config: &str) {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, &format!("{config}\nretry.delays = [\"100ms\"]"));
    let mut run = site.polyhook(["run"]).must_not_print("guest:guest").start();
    run.wait_until_ready();
    let mut tail = site.polyhook(["tail", "--json"]).must_not_print("guest:guest").start();
    let mut alerts =
        site.polyhook(["tail", "--type", "alerts", "--limit", "1"]).must_not_print("guest:guest").start();
    let seen = |what: &str, id: &str| {
        let found = printed(&tail);
        found.iter().any(|(found, about)| found == what && about == id)
    };
    // Waits until tail follows; on RabbitMQ that takes a second.
    let mut number = 0;
    eventually("tail follows", || {
        number += 1;
        let id = format!("probe-{number}");
        let body = event("a.probe", "CA-probe", "live", "P");
        deliver(run.receiver_address(), &site.secret, &id, &body);
        std::thread::sleep(Duration::from_millis(300));
        seen("delivery", &id)
    });

    let id = &polyai.ids()[0];
    assert_eq!(deliver(run.receiver_address(), &site.secret, "evt_good", &polyai.event(id)), Some(204));
    assert_eq!(
        deliver(run.receiver_address(), &site.secret, "evt_lost", &polyai.event("CA-unknown")),
        Some(204)
    );
    let alert = event("alerts.triggered", id, "live", "P");
    assert_eq!(deliver(run.receiver_address(), &site.secret, "evt_alert", &alert), Some(204));
    for (what, id) in [
        ("delivery", "evt_good"),
        ("done", "evt_good"),
        ("delivery", "evt_lost"),
        ("dead", "evt_lost"),
        ("delivery", "evt_alert"),
    ] {
        eventually(&format!("{what} {id}"), || seen(what, id));
    }
    eventually("ready", || printed(&tail).iter().any(|(what, _)| what == "ready"));
    let lines = tail.stdout();
    let of = |what: &str, id: &str| -> Value {
        let lines = lines.iter().map(|line| serde_json::from_str(line).unwrap());
        lines.into_iter().find(|line: &Value| line["what"] == what && line["id"] == id).unwrap()
    };
    assert_eq!(of("dead", "evt_lost")["reason"], "unknown_conversation");
    assert_eq!(of("delivery", "evt_good")["conversation_id"], id.as_str());
    let all = lines.join("\n");
    assert!(!all.contains("caller") && !all.contains("49151"), "{all}");

    // One tail stops at its limit; the other one stops on a signal.
    assert_eq!(alerts.wait(TEST_TIMEOUT).code(), Some(0));
    let [line] = &alerts.stdout()[..] else { panic!("{:?}", alerts.stdout()) };
    assert!(line.contains("delivery") && line.contains("alerts.triggered") && line.contains(id), "{line}");
    assert!(!line.contains('\x1b'), "{line}");
    let begun = Instant::now();
    tail.signal(Signal::SIGINT);
    assert_eq!(tail.wait(TEST_TIMEOUT).code(), Some(0), "{:?}", tail.stderr());
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    run.stop();
}

#[test]
fn shows_the_whole_lifecycle_on_the_embedded_queue() {
    assert_shows_whole_lifecycle("");
}

#[test]
fn shows_the_whole_lifecycle_on_rabbitmq() {
    let (url, prefix) = (rabbit::SHARED_NODE.url(), rabbit::unique_prefix());
    assert_shows_whole_lifecycle(&format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\" }}"));
}

#[test]
fn filters_events_and_shows_past_ones() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    for (id, kind, conversation, environment, project) in [
        // The event that no filter matches comes first, because the limit would hide a later one.
        ("1", "alertsx", "CA1", "live", "P2"),
        ("2", "alerts.triggered", "CA1", "live", "P1"),
        ("3", "alerts.triggered.v2", "CA2", "sandbox", "P2"),
        ("4", "handoff.created", "CA3", "pre-release", "P1"),
    ] {
        let body = event(kind, conversation, environment, project);
        assert_eq!(deliver(receive.receiver_address(), &site.secret, id, &body), Some(204));
    }
    let tail = |more: &[&str], wanted: &[&str]| {
        let limit = wanted.len().to_string();
        let arguments = [&["tail", "--json", "--since", "1h", "--limit", &limit], more].concat();
        let said = site.polyhook(arguments).run().expect_exit_code(0);
        let ids: Vec<_> = said
            .stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids, wanted, "{more:?}");
    };
    tail(&[], &["1", "2", "3", "4"]);
    tail(&["--type", "alerts"], &["2", "3"]);
    tail(&["--type", "alerts.triggered.v2", "--type", "handoff.created"], &["3", "4"]);
    tail(&["--conversation", "CA2"], &["3"]);
    tail(&["--environment", "sandbox", "--environment", "pre-release"], &["3", "4"]);
    tail(&["--project", "P1", "--environment", "live"], &["2"]);
    receive.stop();

    // Wrong usage, a wrong path and an unavailable broker are reported.
    site.polyhook(["tail", "--limit", "0"]).run().expect_exit_code(2);
    let said = site.polyhook(["tail", "--set", "queue.url=sqlite:not-there.db"]).run().expect_exit_code(1);
    assert!(said.stderr.contains("there is no queue file not-there.db"), "{}", said.stderr);
    let broker = "queue.url=amqp://guest:guest@127.0.0.1:1/%2f";
    let said = site
        .polyhook(["tail", "--since", "1h", "--set", broker])
        .must_not_print("guest:guest")
        .run()
        .expect_exit_code(2);
    assert!(said.stderr.contains("--since is for the embedded queue only"), "{}", said.stderr);
    let said =
        site.polyhook(["tail", "--set", broker]).must_not_print("guest:guest").run().expect_exit_code(1);
    assert!(said.stderr.contains("cannot be reached"), "{}", said.stderr);
}

#[test]
fn exits_normally_when_the_output_is_closed() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    let send = |id: &str| {
        let body = event("a.b", "CA1", "live", "P1");
        assert_eq!(deliver(receive.receiver_address(), &site.secret, id, &body), Some(204));
    };
    send("first");
    let mut child = Command::new(env!("CARGO_BIN_EXE_polyhook"))
        .args(["tail", "--config", "polyhook.toml", "--since", "1h"])
        .current_dir(site.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("first"), "{line}");
    drop(reader);
    send("second");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    receive.stop();
}
