//! `backfill --wait` returns when everything that it queued is archived or a dead letter.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use super::{RECENT_CHATS, request_count, script_call, site};
use crate::support::{
    process::{CommandOutput, SimulatedPolyAi, eventually},
    rabbit::{self, SHARED_NODE},
};

const CALLS: usize = 60;

/// Waits on this queue without a worker, then with one, while a conversation cannot be fetched.
#[track_caller]
fn assert_waits_on(queue: &str) {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, CALLS);
    let more = "retry = { delays = [\"50ms\"] }\npolyai.api = \"v3\"\n";
    let site = site(&polyai, "every = \"0s\", settle = \"0s\"", &format!("{more}{queue}"));
    let polyhook =
        |command: &[&str]| site.polyhook(command.iter().copied()).must_not_print("guest:guest").run();
    let backfill =
        |more: &[&str]| polyhook(&[&["backfill", "--last", "7d", "--wait", "--json"], more].concat());

    // What it queued stays in the queue.
    let command = ["backfill", "--last", "7d", "--wait"];
    let mut interrupted = site.polyhook(command).must_not_print("guest:guest").start();
    eventually("listing", || request_count(&polyai, "v3_list") > 0);
    interrupted.signal(Signal::SIGINT);
    assert_eq!(interrupted.wait(Duration::from_secs(20)).code(), Some(1));
    let stderr = interrupted.stderr();
    assert!(stderr.len() == 1 && stderr[0].contains(" in the queue for a worker"), "{stderr:?}");
    // A busy machine may need longer to list them.
    let given_up = ["1s", "5s", "30s"]
        .iter()
        .map(|time| backfill(&["--timeout", time]).expect_exit_code(1))
        .find(|given_up| !given_up.stderr.contains("before all were listed"))
        .expect("the listing ends");
    let left = json!({ "archived": 0, "dead_letters": 0, "left": CALLS });
    assert_eq!(given_up.json()["waited"], left, "{given_up:?}");
    assert!(given_up.stderr.contains("gave up: 60 conversations are not archived"), "{given_up:?}");

    let failing = &polyai.ids()[0];
    let fault = json!({ "operations": ["v3_conversation"], "action": { "status": 500 } });
    script_call(&polyai, failing, &json!({ "faults": [fault] }));
    let mut worker = site.polyhook(["work"]).must_not_print("guest:guest").start();
    worker.wait_until_ready();
    let dead = backfill(&[]).expect_exit_code(1);
    // The worker has archived some before this listing.
    let before = |output: &CommandOutput| output.json()["tally"]["archived"].as_u64().unwrap();
    let counts = json!({ "archived": CALLS as u64 - 1 - before(&dead), "dead_letters": 1, "left": 0 });
    assert_eq!(dead.json()["waited"], counts, "{dead:?}");
    assert!(dead.stderr.contains("`polyhook dead list`"), "{dead:?}");
    assert_eq!(site.manifests().len(), CALLS - 1, "all are archived when it returns");

    script_call(&polyai, failing, &json!({}));
    let whole = backfill(&[]).expect_exit_code(0);
    // On RabbitMQ each command queued a job of its own, and the worker may still have an earlier one.
    let counts = json!({ "archived": CALLS as u64 - before(&whole), "dead_letters": 0, "left": 0 });
    assert_eq!((&whole.json()["waited"], &whole.json()["complete"]), (&counts, &json!(true)), "{whole:?}");
    assert_eq!((site.manifests().len(), &*whole.stderr), (CALLS, ""));
    worker.stop();
}

#[test]
fn on_the_embedded_queue_it_returns_when_all_is_archived_or_dead() {
    assert_waits_on("");
}

#[test]
fn on_rabbitmq_it_returns_when_all_is_archived_or_dead() {
    let prefix = rabbit::unique_prefix();
    assert_waits_on(&format!("queue = {{ url = \"{}\", prefix = \"{prefix}\" }}", SHARED_NODE.url()));
}
