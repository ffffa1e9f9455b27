//! The display of a service on a terminal: lines of `tail`, warnings between them, and what to do next.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::{
    ports,
    process::{Installation, PolyhookCommand, Process, SimulatedPolyAi, deliver, eventually, get},
    rabbit,
};

/// Returns what a person sees on the terminal.
fn shown(process: &Process) -> Vec<String> {
    let lines = process.stdout();
    lines.iter().map(|line| console::strip_ansi_codes(line).trim_end().to_owned()).collect()
}

fn assert_run_shows_events(config: &str) {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 1);
    let id = &polyai.ids()[0];
    let script = json!({ "recording": { "after_requests": 1 } });
    polyai.control("PUT", &format!("calls/{id}/script"), &script);
    let site = Installation::new(&polyai.access, &format!("{config}\nretry.delays = [\"1s\"]"));
    let mut run = site.polyhook(["run"]).must_not_print("guest:guest").start_on_terminal(80, true);
    let to = run.wait_for("the address", |line| {
        line.split_once("receiver  http://")?.1.split_once("/polyai-events")?.0.parse().ok()
    });
    run.wait_for("the last line of the start", |line| line.contains("Each event is a line").then_some(()));
    // A delivery is stored once the broker is connected.
    eventually("stored", || deliver(to, &site.secret, "evt-1", &polyai.event(id)) == Some(204));
    run.wait_for("the last event", |line| line.contains("done ").then_some(()));
    assert_eq!(deliver(to, "not-the-configured-secret", "evt-2", b"{}"), Some(401));
    run.wait_for("the warning", |line| line.contains("delivery refused").then_some(()));
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(Duration::from_secs(20)).code(), Some(0));

    let lines = shown(&run);
    let about = |text: &str| lines.iter().filter(|line| line.contains(id) && line.contains(text)).count();
    for (text, count) in [
        ("delivery conversation.completed", 1),
        ("no recording yet, in ", 1),
        ("ready    conversation.ready", 1),
        ("done     after ", 1),
    ] {
        assert_eq!(about(text), count, "{text}: {lines:#?}");
    }
    let has = |text: &str| lines.iter().any(|line| line.contains(text));
    for text in [
        "  queue ",
        "  archive ",
        "polyhook send --config polyhook.toml",
        "polyhook status",
        "  no job waits",
    ] {
        assert!(has(text), "{text}: {lines:#?}");
    }
    // Only the log may be wider: nothing of it is cut.
    let is_log = |line: &str| line.contains(" WARN ") || line.contains(" INFO ");
    assert!(has(" WARN delivery refused: no active secret gives this signature"), "{lines:#?}");
    assert!(lines.iter().all(|line| is_log(line) || console::measure_text_width(line) <= 80), "{lines:#?}");
    assert!(!has("{\"") && !has("guest:guest"), "{lines:#?}");
}

#[test]
fn run_shows_events_on_the_embedded_queue() {
    assert_run_shows_events("");
}

#[test]
fn run_shows_events_on_rabbitmq() {
    let (url, prefix) = (rabbit::SHARED_NODE.url(), rabbit::unique_prefix());
    assert_run_shows_events(&format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\" }}"));
}

#[test]
fn a_configured_log_format_replaces_the_screen() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run", "--set", "log.format=json"]).start_on_terminal(80, true);
    run.wait_for("a log line", |line| line.contains("\"message\":\"receiving deliveries\"").then_some(()));
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(Duration::from_secs(20)).code(), Some(0));
    assert!(
        shown(&run).iter().all(|line| line.starts_with('{') || line == "^C" || line.is_empty()),
        "{:#?}",
        shown(&run)
    );
}

/// A delivery may come as soon as the port is open, and a terminal may take the first lines late.
fn assert_shows_events_of_the_start(queue: &str) {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let id = &polyai.ids()[0];
    let [port] = ports::free();
    let site = Installation::new(&polyai.access, &format!("server.listen = \"127.0.0.1:{port}\"\n{queue}"));
    let mut run = site.polyhook(["run"]).must_not_print("guest:guest").start_on_stopped_terminal(true);
    let to = ([127, 0, 0, 1], port).into();
    eventually("stored", || deliver(to, &site.secret, "evt-1", &polyai.event(id)) == Some(204));
    assert_eq!(shown(&run), [""; 0], "the terminal takes no text");
    run.resume_terminal();
    run.wait_for("the last event", |line| line.contains("done ").then_some(()));
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(Duration::from_secs(20)).code(), Some(0));

    let lines = shown(&run);
    let place = |text: &str| lines.iter().position(|line| line.contains(text));
    let (start, delivery) = (place("Each event is a line"), place("delivery conversation.completed"));
    assert!(start.is_some() && start < delivery, "{lines:#?}");
}

#[test]
fn an_event_during_the_start_is_shown_after_it_on_the_embedded_queue() {
    assert_shows_events_of_the_start("");
}

#[test]
fn an_event_during_the_start_is_shown_after_it_on_rabbitmq() {
    let (url, prefix) = (rabbit::SHARED_NODE.url(), rabbit::unique_prefix());
    assert_shows_events_of_the_start(&format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\" }}"));
}

/// Ctrl-S stops a terminal, and no text leaves the process. The service must start, work, and end all the same.
#[test]
fn a_stopped_terminal_keeps_no_process_from_ending() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let [admin] = ports::free();
    let site = Installation::new(&polyai.access, &format!("admin.listen = \"127.0.0.1:{admin}\""));
    let mut run = site.polyhook(["run"]).start_on_stopped_terminal(true);
    let mut demo =
        PolyhookCommand::new(site.path(), ["demo", "--calls", "1"]).start_on_stopped_terminal(false);

    let admin = ([127, 0, 0, 1], admin).into();
    eventually("ready", || get(admin, "/readyz").is_some_and(|(status, _)| status == 200));
    run.signal(Signal::SIGTERM);
    // It shows the start before it sends the first call, and never comes that far.
    eventually("the demo runs", || site.path().join("polyhook-demo/polyhook.toml").exists());
    demo.signal(Signal::SIGTERM);
    demo.signal(Signal::SIGINT);
    assert_eq!(run.wait(Duration::from_secs(20)).code(), Some(0), "the queue was closed");
    assert_eq!(demo.wait(Duration::from_secs(20)).code(), Some(1), "its second signal aborts it");
}
