//! `/metrics` of a process that has received, archived, failed and reconciled.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    net::SocketAddr,
    process::Stdio,
    time::Duration,
};

use serde_json::json;

use crate::support::{
    process::{Installation, SimulatedPolyAi, deliver, eventually, get, interpreter, metric},
    rabbit,
};

/// Metric names with labels that alerts and dashboards of users depend on.
const CONTRACT: [&str; 14] = [
    "polyhook_deliveries_total{outcome=",
    "polyhook_ack_seconds_bucket{le=",
    "polyhook_publish_seconds_bucket{le=",
    "polyhook_queue_depth{queue=",
    "polyhook_spool_messages ",
    "polyhook_spool_bytes ",
    "polyhook_jobs_total{outcome=",
    "polyhook_job_seconds_bucket{le=",
    "polyhook_api_requests_total{operation=",
    "polyhook_api_seconds_bucket{operation=",
    "polyhook_archive_bytes_total{kind=",
    "polyhook_dead_letters_total{reason=",
    "polyhook_reconcile_missing_total ",
    "polyhook_build_info{version=",
];

#[test]
fn reports_all_documented_metrics_without_identifiers() {
    // A short lookback finds the call without a webhook. The calls have just ended, so that they are refreshed.
    let now = polyhook::clock::Clock::System.now() - Duration::from_mins(3);
    let scenario = format!(
        "epoch = \"{now}\"\nspacing = \"1s\"\n[mix]\nmax_turns = 2\nwebchat = 0.0\nchat = 0.0\n\
        sandbox = 0.0\npre_release = 0.0\n"
    );
    let polyai = SimulatedPolyAi::start(&scenario, 3);
    let ids = polyai.ids();
    polyai.control("PUT", &format!("calls/{}/script", ids[1]), &json!({ "missing": true }));
    let (url, prefix) = (rabbit::SHARED_NODE.url(), rabbit::unique_prefix());
    let config = format!(
        r#"
        queue = {{ url = "{url}", prefix = "{prefix}" }}
        spool.path = "spool.db"
        retry.delays = ["100ms"]
        refresh.after = ["100ms"]
        reconcile = {{ every = "1s", lookback = "3h", settle = "0s" }}
        index.every = "1s"
        "#
    );
    let site = Installation::new(&polyai.access, &config);
    let mut run = site.polyhook(["run"]).start();
    let (admin, to) = (run.wait_until_ready(), run.receiver_address());
    for id in &ids[..2] {
        assert_eq!(deliver(to, &site.secret, &format!("evt-{id}"), &polyai.event(id)), Some(204));
    }
    assert_eq!(deliver(to, "not-the-configured-secret", "evt-bad", b"{}"), Some(401));
    site.write("secrets", "short\n");
    eventually("archived", || site.manifests().len() == 2);
    eventually("a dead letter", || {
        metric(admin, "polyhook_dead_letters_total{reason=\"unknown_conversation\"}") > 0
    });
    eventually("a condition", || metric(admin, "polyhook_condition{condition=\"secrets\"}") == 1);
    site.write("secrets", &site.secret);
    eventually("no condition", || metric(admin, "polyhook_condition{condition=\"secrets\"}") == 0);
    eventually("a refresh", || metric(admin, "polyhook_refreshes_total{outcome=\"unchanged\"}") > 0);
    eventually("measured", || metric(admin, "polyhook_disk_free_bytes{what=\"archive\"}") > 0);

    eventually("indexed", || metric(admin, "polyhook_index_update_seconds_count") > 0);
    // A refresh may just be waiting, and a delivery may just be in the spool.
    let mut text = String::new();
    eventually("nothing waits", || {
        (_, text) = get(admin, "/metrics").unwrap();
        ["queue", "spool"]
            .iter()
            .all(|what| text.contains(&format!("\npolyhook_{what}_oldest_age_seconds 0\n")))
    });
    for name in CONTRACT {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is missing:\n{text}");
    }
    assert_eq!(metric(admin, "polyhook_deliveries_total{outcome=\"unverified\"}"), 1);
    assert_eq!(metric(admin, "polyhook_unverified_total{reason=\"mismatch\"}"), 1);
    assert!(metric(admin, "polyhook_job_wait_seconds_count") >= 3);
    assert!(metric(admin, "polyhook_disk_free_bytes{what=\"spool\"}") > 0);

    // A broker nearby confirms in less than a millisecond.
    assert!(text.contains("polyhook_publish_seconds_bucket{le=\"0.0001\"} "), "{text}");

    // Dashboards need buckets around the ack budget to show whether answers are in time.
    for le in ["0.005", "0.1", "1", "2", "3", "4", "5"] {
        let bucket = format!("polyhook_ack_seconds_bucket{{le=\"{le}\"}} ");
        assert!(text.contains(&bucket), "no {bucket}");
    }

    assert_described_and_documented(&text);
    assert_accepted_by_promtool(&text);
    assert_shown_by_status(&site, admin);
    let access = &polyai.access;
    let identifiers = ids.iter().chain([&access.account_id, &access.project_id, &access.api_key, &prefix]);
    for id in identifiers.map(String::as_str).chain(["evt-"]) {
        assert!(!text.contains(id), "{id} is in the metrics");
    }
    run.stop();
}

/// Checks that every metric has a description, a name for its type and an entry in docs/architecture.md.
#[track_caller]
fn assert_described_and_documented(text: &str) {
    let help: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let types: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let documented = include_str!("../../../docs/architecture.md");
    for (name, kind) in &types {
        assert!(help.contains(name), "{name} has no description");
        assert!(documented.contains(&format!("`{name}")), "docs/architecture.md does not name {name}");
        assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
    }
    // Otherwise promtool would not see it.
    let list = documented.split("\n# Metrics\n").nth(1).unwrap().split("\n# ").next().unwrap();
    let names = list.split('`').skip(1).step_by(2).map(|name| name.split('{').next().unwrap());
    let metrics = names.filter(|name| name.starts_with("polyhook_") || name.starts_with("process_"));
    let missing: Vec<_> = metrics.filter(|name| !types.contains_key(name)).collect();
    assert_eq!(missing, ["polyhook_queue_writes"], "only the embedded queue has it");
}

/// Checks the names, types and texts with Prometheus's linter, which prints one line for each problem.
#[track_caller]
fn assert_accepted_by_promtool(text: &str) {
    let mut promtool = interpreter("promtool");
    let mut child = promtool
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let problems = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && problems.is_empty(), "{problems}");
}

/// Checks what `polyhook status` shows of the broker, the worker, the spool and the archive.
fn assert_shown_by_status(site: &Installation, admin: SocketAddr) {
    site.polyhook(["audit", "--date", "today"]).run();
    let set = format!("admin.listen={admin}");
    let status = |arguments: &[&str]| {
        let arguments = [&["status", "--set", &set], arguments].concat();
        site.polyhook(arguments).must_not_print("guest:guest").run().expect_exit_code(0)
    };
    let mut found = status(&["--json"]).json();
    // The broker updates the counts of a quorum queue only every few seconds.
    eventually("counted", || {
        found = status(&["--json"]).json();
        let queue = &found["queue"];
        let counts = ["dead_letters", "workers", "waiting_jobs", "in_flight_jobs"].map(|key| &queue[key]);
        counts == [1, 1, 0, 0]
    });
    assert!(found["versions"]["broker"].as_str().unwrap().starts_with("RabbitMQ "), "{found}");
    assert_eq!(found["versions"]["process"], found["versions"]["polyhook"]);
    assert_eq!(
        (&found["process"]["ready"], &found["process"]["conditions"]),
        (&json!(true), &json!([])),
        "{found}"
    );
    assert_eq!(
        (&found["spool"]["messages"], &found["spool"]["max_bytes"]),
        (&json!(0), &json!(1 << 30)),
        "{found}"
    );
    assert_eq!(
        (&found["last_pass"]["projects"], &found["last_pass"]["failed_windows"]),
        (&json!(1), &json!(0))
    );
    assert!(
        found["last_pass"]["started_at"].is_string()
            && found["last_audit"]["date"].is_string()
            && found["index"]["newest_archived_at"].is_string(),
        "{found}"
    );
    let shown = status(&[]).stdout;
    assert!(shown.contains(", 1 worker\n") && shown.contains("\nin flight   0 jobs\n"), "{shown}");
}
