//! The console in a real browser: one Chromium runs all checks of `browser.py`.

use std::{path::Path, process::Command};

use serde_json::{Value, json};

use crate::support::{
    process::{Installation, Process, SimulatedPolyAi, deliver, eventually, metric},
    scripted_api::ScriptedApi,
};

/// Calls of some seconds, so that a check hears one turn after the other.
const CALLS: &str = "
    seed = 7
    mix = { webchat = 0.0, chat = 0.0, min_turns = 3, max_turns = 5, sandbox = 0.0, pre_release = 0.0, handoffs = 0.5, foreign = 0.0 }
";
const TOKEN: &str = "a-console-token-of-the-tests";
/// An id that is HTML and turns the direction of the text around.
const HOSTILE_ID: &str = "C\"><script>alert('id')</script>\u{202e}/..";
const HOSTILE_EVENT: &str = "<script>alert('event')</script>";
const SETTINGS: &str = "
    worker.audio_wait = \"0s\"
    retry.delays = []
    index.every = \"1s\"
";

fn console(run: &Process) -> String {
    format!("http://{}", run.address("serving the console"))
}

fn deliver_to(run: &Process, site: &Installation, event: &str, body: &[u8]) {
    assert_eq!(deliver(run.receiver_address(), &site.secret, &format!("evt-{event}"), body), Some(204));
}

/// Returns a conversation whose every text is hostile, as v3 answers.
fn hostile_conversation() -> Value {
    let script = "<script>alert('text')</script><img src=x onerror=alert('image')>";
    let long = "A word that does not end. ".repeat(40_000);
    let unbroken = "x".repeat(1 << 20);
    let turn = |user: &str, agent: &str| {
        json!({
            "user_input": user, "agent_response": agent, "intents": [script], "entities": [{ script: script }],
            "user_input_datetime": "2026-11-02T10:00:01Z", "agent_response_datetime": "2026-11-02T10:00:03Z",
        })
    };
    json!({
        "id": HOSTILE_ID, "channel": "WEBCHAT", "environment": "live", "in_progress": false,
        "started_at": "2026-11-02T10:00:00Z", "total_duration": 61, "num_turns": 5,
        "variant_name": script, "handoff": true, "handoff_reason": script, "handoff_destination": script,
        "from_number": script, "to_number": "+441632960999", "metrics": { script: [{ "value": script }] },
        "state": { script: script },
        "turns": [
            turn(script, script),
            turn("before \u{202e}reversed\u{2066} after", "</bdi></p></section>\u{202e}"),
            turn(&long, &unbroken),
            turn("\"' onmouseover=alert('attribute') x=", "javascript:alert('link')"),
            turn("the last turn", "the end"),
        ],
    })
}

#[test]
fn works_in_a_browser() {
    let polyai = SimulatedPolyAi::start(CALLS, 12);
    let open =
        format!("{SETTINGS}console = {{ enabled = true, listen = \"127.0.0.1:0\", allow_replay = true }}");
    let site = Installation::new(&polyai.access, &open);
    let mut run = site.polyhook(["run"]).start();

    let conversation = hostile_conversation().to_string().into_bytes();
    let api = ScriptedApi::start(move |request| {
        if request.path.contains("unknown") {
            return (404, br#"{"error":{"code":"CONVERSATIONS_NOT_FOUND"}}"#.to_vec());
        }
        (200, conversation.clone())
    });
    let locked = "console = { enabled = true, listen = \"127.0.0.1:0\", token_file = \"token\" }";
    let locked_site = Installation::new(&api.access, &format!("{SETTINGS}{locked}"));
    locked_site.write("token", TOKEN);
    let mut locked_run = locked_site.polyhook(["run"]).must_not_print(TOKEN).start();
    let mut calls = polyai.ids();
    let [dead, archived @ ..]: [String; 4] = calls.drain(..4).collect::<Vec<_>>().try_into().unwrap();
    polyai.control("PUT", &format!("calls/{dead}/script"), &json!({ "missing": true }));
    for id in archived.iter().chain([&dead]) {
        deliver_to(&run, &site, id, &polyai.event(id));
    }
    deliver_to(&locked_run, &locked_site, "hostile", &polyai.event(HOSTILE_ID));
    deliver_to(&locked_run, &locked_site, HOSTILE_EVENT, &polyai.event(&format!("{HOSTILE_ID}unknown")));
    for (process, site, conversations) in [(&run, &site, 3), (&locked_run, &locked_site, 1)] {
        eventually("archived", || site.manifests().len() == conversations);
        let admin = process.wait_until_ready();
        eventually("dead", || metric(admin, "polyhook_queue_depth{queue=\"dead\"}") == 1);
    }

    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = root.join(".tools/venv/bin/python");
    assert!(python.exists(), "no Python with Playwright here: run scripts/install-test-tools");
    let setup = json!({
        "console": console(&run), "receiver": format!("http://{}/polyai-events", run.receiver_address()),
        "simulator": polyai.access.url, "archived": archived, "dead": format!("evt-{dead}"), "calls": calls,
        "locked_console": console(&locked_run), "token": TOKEN, "hostile_id": HOSTILE_ID,
        "archive": site.archive(),
    });
    let script = root.join("tests/it/processes/console/browser.py");
    let checked =
        Command::new(python).arg(script).arg(setup.to_string()).env("NO_PROXY", "*").output().unwrap();
    let output = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    eprintln!("{}", output(&checked.stdout));
    assert!(checked.status.success(), "{}", output(&checked.stderr));
    run.stop();
    locked_run.stop();
}
