//! Text from outside cannot change a terminal: not in tables, details, lines, errors and logs, and not in JSON.

use crate::support::process::{
    CommandOutput, Installation, PolyhookCommand, SimulatedPolyAi, deliver, eventually, metric,
};

/// A control sequence that hides text, marks of the writing direction, separators, and characters without width.
const HOSTILE: &str =
    "CA\u{1b}[8m\u{7}\r\u{9b}\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{2029}\u{200b}\u{feff}\u{e0041}x";

#[track_caller]
fn assert_harmless(output: &CommandOutput) {
    for text in [&output.stdout, &output.stderr] {
        let found = text
            .chars()
            .find(|c| (c.is_control() && *c != '\n') || HOSTILE[2..].contains(*c) && !c.is_ascii());
        assert_eq!(found, None, "{text:?}");
    }
}

#[test]
fn hostile_ids_are_escaped_in_every_output() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    site.write("key", "an-unknown-key");
    let mut run = site.polyhook(["run"]).must_not_print("an-unknown-key").start();
    let admin = run.wait_until_ready();
    assert_eq!(deliver(run.receiver_address(), &site.secret, "evt-1", &polyai.event(HOSTILE)), Some(204));
    eventually("dead", || metric(admin, "polyhook_queue_depth{queue=\"dead\"}") == 1);

    let pretty = ["--set", "log.format=pretty", "--set", "log.level=debug"];
    for arguments in [
        &["dead", "list"][..],
        &["dead", "show", "evt-1", "--body"],
        &["dead", "replay", "--all", "--dry-run"],
        &["tail", "--since", "1h", "--limit", "1"],
        &["fetch", HOSTILE],
        &["erase", HOSTILE, "--dry-run"],
    ] {
        let output = site.polyhook([arguments, &pretty].concat()).may_print_secrets().run();
        assert_harmless(&output);
        let text = format!("{}{}", output.stdout, output.stderr);
        assert!(text.contains("\\u{202e}") && text.contains("\\u{1b}[8m"), "{arguments:?}: {text}");
    }
    for arguments in [
        &["dead", "list", "--json"][..],
        &["dead", "show", "evt-1", "--json"],
        &["tail", "--since", "1h", "--limit", "1", "--json"],
        &["fetch", HOSTILE, "--json"],
    ] {
        let output = site.polyhook(arguments.iter().copied()).run();
        assert_harmless(&output);
        assert_eq!(output.json()["conversation_id"], HOSTILE, "{arguments:?}");
    }

    // An id that a shell would run, and that a command would take for an option.
    let hostile_event = "-f;$(reboot)";
    assert_eq!(
        deliver(run.receiver_address(), &site.secret, hostile_event, &polyai.event("CA-2")),
        Some(204)
    );
    let quoted = "dead replay -- '-f;$(reboot)'";
    run.wait_for("the quoted command", |line| line.contains(quoted).then_some(()));
    let show = ["dead", "show", "--config", "polyhook.toml", "--", hostile_event];
    let shown = PolyhookCommand::new(site.path(), show).run().expect_exit_code(0).stdout;
    assert!(shown.contains(quoted), "{shown}");
    run.stop();
}
