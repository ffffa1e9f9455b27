//! `polyhook demo`: the first command of a new user.

use std::{path::Path, process::Command, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::verified_archive;
use crate::support::process::PolyhookCommand;

#[test]
fn archives_twenty_calls() {
    let folder = tempfile::tempdir().unwrap();
    let demo = |more: &[&str]| {
        let arguments = ["demo", "--calls", "20", "--exit", "--rate", "100"];
        PolyhookCommand::new(folder.path(), arguments.iter().chain(more)).run().expect_exit_code(0)
    };
    let first = demo(&["--seed", "7"]);
    assert!(first.stdout.contains("20 of 20 conversations archived"), "{}", first.stdout);
    // Each call has its lines, also the reason for another attempt.
    assert_eq!(
        first.stdout.matches(" done     ").count(),
        first.stdout.matches(" delivery conversation.completed").count()
    );
    assert!(first.stdout.contains("no recording yet, again in "), "{}", first.stdout);
    // It leads to the commands that look at its queue and archive.
    let list = "polyhook list --config polyhook-demo/polyhook.toml";
    assert!(first.stdout.contains(list), "{}", first.stdout);
    let run = |command: &[&str]| {
        let config = ["--config", "polyhook-demo/polyhook.toml"];
        PolyhookCommand::new(folder.path(), [command, &config].concat()).run()
    };
    let days = ["list", "--date", "yesterday", "--to", "today", "--json"];
    let listed = run(&days).expect_exit_code(0).stdout;
    assert_eq!(listed.lines().count(), 20, "{listed}");
    let conversation: Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    let shown = run(&["show", conversation["conversation_id"].as_str().unwrap()]).expect_exit_code(0).stdout;
    assert!(shown.contains("queue: 1 job, 0 dead letters\na refresh is due at "), "{shown}");
    assert!(shown.lines().filter(|line| line.contains("sha256")).all(|line| line.len() < 80), "{shown}");
    run(&["status"]).expect_exit_code(0);
    run(&["dead", "list"]).expect_exit_code(0);
    assert!(!first.stdout.contains('\x1b') && !first.stderr.contains('\x1b'));
    let archive = folder.path().join("polyhook-demo/archive");
    let manifests = verified_archive(&archive);
    assert_eq!(manifests.len(), 20);
    assert!(manifests.values().any(|manifest| manifest["audio"]["status"] == "ready"));

    // A second run in the same folder keeps the archive and reports only its own calls.
    let second = demo(&["--json"]);
    let steps: Vec<Value> =
        second.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let archived: Vec<_> = steps.iter().filter(|step| step["step"] == "archived").collect();
    assert_eq!(archived.len(), 20, "{}", second.stdout);
    for step in &archived {
        let path = folder.path().join(step["path"].as_str().unwrap()).join("manifest.json");
        assert!(path.exists(), "{}", path.display());
        assert!(!manifests.contains_key(step["conversation_id"].as_str().unwrap()));
    }
    let summary = steps.last().unwrap();
    assert_eq!((&summary["step"], &summary["archived"]), (&"summary".into(), &20.into()));
    assert_eq!(crate::support::process::manifests(&archive).len(), 40);
    answers_the_questions_of_the_documentation(folder.path(), &first.stdout);
}

/// Runs the queries of docs/analyze.md, and the one that the demo prints, on the demo's archive, after phone numbers were
/// replaced by their hashes.
fn answers_the_questions_of_the_documentation(folder: &Path, printed: &str) {
    let config = "polyhook-demo/polyhook.toml";
    let index = |command: &[&str]| {
        let numbers = ["--set", "index.numbers=hash", "--set", "index.numbers_key=a-key-of-the-test"];
        PolyhookCommand::new(folder, [&["index"], command, &["--all", "--config", config], &numbers].concat())
            .run()
    };
    index(&["build"]).expect_exit_code(0);
    index(&["verify"]).expect_exit_code(0);
    let query = printed.split("duckdb -c \"").nth(1).and_then(|rest| rest.split('"').next());
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let queries = Command::new(root.join(".tools/venv/bin/python"))
        .arg(root.join("tests/it/index/analyze.py"))
        .arg(root.join("docs/analyze.md"))
        .args(["polyhook-demo/archive", "a-key-of-the-test", query.expect("the demo prints a query")])
        .current_dir(folder)
        .output()
        .expect("Python of scripts/install-test-tools");
    assert!(queries.status.success(), "{}", String::from_utf8_lossy(&queries.stderr));
}

#[test]
fn runs_until_a_signal() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = PolyhookCommand::new(folder.path(), ["demo", "--calls", "2", "--rate", "100"]).start();
        demo.wait_for("the hint to stop it", |line| line.contains("Ctrl-C").then_some(()));
        assert!(demo.is_running());
        demo.signal(signal);
        assert_eq!(demo.wait(Duration::from_secs(12)).code(), Some(0), "{signal}");
    }
}

#[test]
fn a_signal_ends_it_early() {
    for (exit, code) in [(None, 0), (Some("--exit"), 1)] {
        let folder = tempfile::tempdir().unwrap();
        let slow = ["demo", "--calls", "1000", "--rate", "2", "--json"];
        let mut demo = PolyhookCommand::new(folder.path(), slow.into_iter().chain(exit)).start();
        demo.wait_for("a call", |line| line.contains("archived\"").then_some(()));
        demo.signal(Signal::SIGTERM);
        assert_eq!(demo.wait(Duration::from_secs(12)).code(), Some(code), "{exit:?}");
        assert!(demo.stdout().last().unwrap().contains("summary"));
    }
}
