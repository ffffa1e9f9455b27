//! Commands while something that they need is away: one line that says what failed, why, and what to do.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::process::{Installation, SimulatorAccess};

/// Nothing listens on this port.
const DEAD_PORT: &str = "127.0.0.1:1";
const BUCKET: &str = "http://127.0.0.1:1";

fn site(more: &str) -> Installation {
    let site = Installation::new(&SimulatorAccess::unreachable(DEAD_PORT), more);
    site.write("spool.db", "");
    site.write("old.db", "");
    site
}

/// Runs all commands at the same time. Each must fail with one line on standard error that contains `reason`, and print
/// nothing but JSON.
#[track_caller]
fn assert_one_line(site: &Installation, commands: &[&[&str]], reason: &str) {
    let mut running: Vec<_> = commands
        .iter()
        .map(|command| {
            let arguments = command.iter().copied().chain(["--json"]);
            let bucket = [("AWS_ENDPOINT", BUCKET), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "x")];
            let keys = [("AWS_ACCESS_KEY_ID", "x"), ("AWS_SECRET_ACCESS_KEY", "x")];
            let process = site.polyhook(arguments).must_not_print("guest:guest");
            let variables = bucket.into_iter().chain(keys);
            (command, variables.fold(process, |process, (name, value)| process.env(name, value)).start())
        })
        .collect();
    for (command, process) in &mut running {
        let status = process.wait(Duration::from_secs(90));
        let (stdout, stderr) = (process.stdout(), process.stderr());
        assert_eq!(status.code(), Some(1), "{command:?}: {stdout:?} {stderr:?}");
        let [line] = &stderr[..] else { panic!("{command:?}: {stderr:#?}") };
        assert!(line.starts_with("error: ") && line.contains(reason), "{command:?}: {line}");
        for line in stdout {
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{command:?}: {line}");
        }
    }
}

#[test]
fn with_the_broker_away_a_command_says_one_line() {
    let queue = format!("queue.url = \"amqp://guest:guest@{DEAD_PORT}\"");
    let commands: &[&[&str]] = &[
        &["dead", "list"],
        &["dead", "show", "evt-1"],
        &["dead", "replay", "--all"],
        &["dead", "drop", "--all", "--yes"],
        &["tail"],
        &["spool", "drain"],
        &["queue", "move", "--from", "sqlite:old.db"],
        &["backfill", "--last", "1h"],
        &["audit", "--repair"],
        &["fetch", "CA1"],
        &["reconcile", "--once"],
        &["erase", "CA1", "--yes"],
    ];
    // Also if the service's own log is configured.
    let log = "log = { level = \"info\", format = \"json\" }\nspool.path = \"spool.db\"";
    let site = site(&format!("{queue}\n{log}"));
    assert_one_line(&site, commands, &format!("amqp://{DEAD_PORT}/ cannot be reached"));
    // A broker that refuses the connection does not run, so no command waits ten seconds for it.
    for command in [["dead", "list"], ["tail", "--json"]] {
        let started_at = Instant::now();
        site.polyhook(command).run().expect_exit_code(1);
        assert!(started_at.elapsed() < Duration::from_secs(8), "{command:?}: {:?}", started_at.elapsed());
    }
}

#[test]
fn with_polyai_or_the_bucket_away_a_command_says_one_line() {
    let commands: &[&[&str]] = &[
        &["backfill", "--last", "1h"],
        &["backfill", "--last", "1h", "--wait"],
        &["audit"],
        &["audit", "--repair"],
        &["reconcile", "--once"],
    ];
    assert_one_line(&site(""), commands, "check DNS, proxy and firewall");
    let more: &[&[&str]] = &[&["list"], &["show", "CA1"], &["erase", "CA1", "--yes"]];
    let bucket = site("archive.url = \"s3://bucket/prefix\"");
    assert_one_line(&bucket, &[commands, more].concat(), "check archive.url");
}
