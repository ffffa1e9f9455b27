//! Every example of the help runs, against a working installation on RabbitMQ.

use std::{
    fmt::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use expect_test::expect_file;
use nix::sys::signal::Signal;
use polyhook::{clock::Clock, secret::Secret, signature::sign};
use serde_json::{Value, json};

use crate::support::{
    ports,
    process::{Installation, PolyhookCommand, SimulatedPolyAi, TEST_TIMEOUT, deliver, eventually, metric},
    rabbit::{SHARED_NODE, unique_prefix},
};

/// Examples that end with another exit code than 0, with the reason.
const EXPECTED_FAILURES: [(&str, i32); 2] = [
    // No worker consumes jobs on this RabbitMQ.
    ("polyhook queue move --from sqlite:polyhook-data/queue.db", 1),
    // It asks for confirmation, and there is no terminal.
    ("polyhook endpoint delete whe_9ZtRcXw3", 2),
];

/// Words of the examples, and what they are in the test.
struct Substitutions(Vec<(&'static str, String)>);

impl Substitutions {
    fn apply(&self, example: &str) -> String {
        self.0.iter().fold(example.to_owned(), |text, (from, to)| text.replace(from, to))
    }
}

/// Returns the examples of docs/commands.md in their order, each once, without remarks.
fn examples() -> Vec<String> {
    let page = include_str!("../../../docs/commands.md").replace(" \\\n      ", " ");
    let blocks = page.split("\nExamples:\n").skip(1);
    let lines = blocks.flat_map(|block| block.lines().map_while(|line| line.strip_prefix("  ")));
    // The remark is set off by two spaces.
    let mut examples: Vec<_> =
        lines.map(|line| line.split("  ").next().unwrap_or_default().trim().to_owned()).collect();
    let mut seen = std::collections::HashSet::new();
    examples.retain(|example| seen.insert(example.clone()));
    // After these, receivers answer 503 for a while to what they cannot verify.
    examples
        .sort_by_key(|example| ["create", "rotate-secret"].iter().any(|command| example.contains(command)));
    assert!(examples.len() > 80, "found {} examples; is the pattern still right?", examples.len());
    examples
}

/// Returns true if the command runs until a signal ends it.
fn is_service(example: &str) -> bool {
    let has = |flag| example.split(' ').any(|word| word == flag);
    match example.split(' ').nth(1).unwrap_or_default() {
        "run" | "receive" | "work" | "console" | "simulate" => true,
        "reconcile" => !has("--once"),
        "tail" => !has("--limit"),
        "status" => has("--watch"),
        "demo" => !has("--exit"),
        _ => false,
    }
}

/// Returns the file with the configuration for the example. The embedded queue has one running process, and the spool
/// belongs to RabbitMQ.
fn config_of(example: &str) -> &'static str {
    match example.split(' ').nth(1) {
        Some("run" | "receive" | "work" | "reconcile" | "spool" | "queue") => "rabbitmq.toml",
        _ => "polyhook.toml",
    }
}

/// Starts the example, waits until it prints something and ends it with a signal.
fn run_service(site: &Installation, example: &str) {
    let config = config_of(example);
    let example = example.replace("polyhook.toml", config);
    let mut process = PolyhookCommand::new(site.path(), example.split(' ').skip(1))
        .env("POLYHOOK_CONFIG", config)
        .env("POLYHOOK__SERVER__LISTEN", "127.0.0.1:0")
        .env("POLYHOOK__ADMIN__LISTEN", "127.0.0.1:0")
        .may_print_secrets()
        .start();
    eventually(&example, || !process.stdout().is_empty() || !process.stderr().is_empty());
    process.signal(Signal::SIGTERM);
    let status = process.wait(TEST_TIMEOUT);
    assert!(status.success(), "{example}: {status}");
}

/// Runs the example in a shell, as a reader would. Returns its exit code and output.
fn run_in_shell(site: &Installation, example: &str) -> (Option<i32>, String) {
    let path =
        format!("{}:{}", site.path().join("bin").display(), std::env::var_os("PATH").unwrap().display());
    let output = Command::new("timeout")
        .args(["60", "bash", "-o", "pipefail", "-c", &format!("fpath=(. .); {example}")])
        .current_dir(site.path())
        .env_clear()
        .envs([("PATH", &*path), ("POLYHOOK_CONFIG", config_of(example)), ("HOME", ".")])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text.into_owned())
}

/// Writes the files that the examples name.
fn write_files(site: &Installation, ids: &[String], body: &[u8], signature: &str, now: i64) {
    let files = [
        ("alert.json", r#"{"type":"alerts.triggered","data":{}}"#.to_owned()),
        ("saved.json", format!(r#"{{"event":{}}}"#, String::from_utf8_lossy(body))),
        ("body.json", String::from_utf8_lossy(body).into_owned()),
        ("ids.txt", ids[..2].join("\n")),
        ("secret.txt", site.secret.clone()),
        ("waf-token", "Bearer waf-token".to_owned()),
        ("new-key", "a-new-key".to_owned()),
        ("faults.toml", "seed = 3".to_owned()),
        (
            "recorded.http",
            format!(
                "POST /polyai-events HTTP/1.1\r\nX-PolyAI-Signature: {signature}\r\nX-PolyAI-Timestamp: {now}\r\n\r\n{}",
                String::from_utf8_lossy(body)
            ),
        ),
    ];
    for (name, text) in files {
        site.write(name, &text);
    }
    for folder in ["bin", "etc/bash_completion.d", ".config/fish/completions", "polyhook-data"] {
        std::fs::create_dir_all(site.path().join(folder)).unwrap();
    }
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_polyhook"), site.path().join("bin/polyhook")).unwrap();
}

/// Ends the deliveries when it is dropped, also by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Delivers events until `done`, so that commands that follow have something to show.
fn keep_delivering(to: SocketAddr, site: &Installation, body: &[u8], done: &AtomicBool) {
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        number += 1;
        deliver(to, &site.secret, &format!("evt-{number}"), body);
        thread::sleep(Duration::from_millis(300));
    }
}

/// Deletes all endpoints, creates one with this URL and returns its id.
fn reset_endpoints(polyai: &SimulatedPolyAi, url: &str) -> String {
    const ENDPOINTS: &str = "/v1/webhook-endpoints";
    let endpoints = polyai.api("GET", ENDPOINTS, &Value::Null);
    for endpoint in endpoints["data"].as_array().unwrap_or_else(|| panic!("{endpoints}")) {
        polyai.api("DELETE", &format!("{ENDPOINTS}/{}", endpoint["id"].as_str().unwrap()), &Value::Null);
    }
    let settings = json!({ "name": "main", "url": url, "event_types": ["conversation.completed"] });
    let created = polyai.api("POST", ENDPOINTS, &settings);
    created["id"].as_str().unwrap_or_else(|| panic!("{created}")).to_owned()
}

#[test]
fn every_example_of_the_help_runs() {
    let project = "[[projects]]\nproject_id = \"acme-front-desk\"";
    let polyai = SimulatedPolyAi::start(&format!("spacing = \"1s\"\n{project}"), 4);
    let ids = polyai.ids();
    let [receiver, admin] = ports::free().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let more = format!(
        "server.listen = \"{receiver}\"\nadmin.listen = \"{admin}\"\nretry.delays = []\nworker.audio_wait = \"0s\""
    );
    let site = Installation::new(&polyai.access, &more);
    let rabbitmq = format!(
        "\n[queue]\nurl = \"{}\"\nprefix = \"{}\"\n[spool]\npath = \"spool.db\"\n",
        SHARED_NODE.url(),
        unique_prefix()
    );
    site.write(
        "rabbitmq.toml",
        &(std::fs::read_to_string(site.path().join("polyhook.toml")).unwrap() + &rabbitmq),
    );
    let body = polyai.event(&ids[0]);
    let now = Clock::System.now().as_second();
    let secret = Secret::new(site.secret.clone());
    let signature = sign(&secret, Some(now), &body);
    write_files(&site, &ids, &body, &signature, now);
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    // A dead letter, because PolyAI does not know the conversation.
    assert_eq!(deliver(receiver, &site.secret, "evt_3f1c0a52", &polyai.event("CA-unknown")), Some(204));
    eventually("dead", || metric(admin, "polyhook_queue_depth{queue=\"dead\"}") == 1);
    let url = format!("http://{receiver}/polyai-events");
    let substitutions = Substitutions(vec![
        ("CA0123456789abcdef", ids[0].clone()),
        ("5bdc…", signature),
        ("9f1e…", sign(&secret, None, &body)),
        ("1780000000", now.to_string()),
        ("http://127.0.0.1:8080/polyai-events", url.clone()),
        ("http://127.0.0.1:9090", format!("http://{admin}")),
        ("--url https://hooks.example.com/polyai-events", format!("--url {url}")),
        ("test --url https://hooks.example.com/polyai", format!("test --url {url}")),
        ("0.0.0.0:9000", "127.0.0.1:0".to_owned()),
        ("--count 1000", "--count 100".to_owned()),
        ("polyhook simulate", "polyhook simulate --listen 127.0.0.1:0".to_owned()),
        ("endpoint create ", "endpoint create --wait 0s ".to_owned()),
        ("rotate-secret", "rotate-secret --wait 0s".to_owned()),
        (" /etc/", " ./etc/".to_owned()),
        ("/usr/local/share", "./share".to_owned()),
        ("~/", "./".to_owned()),
        ("man -l -", "cat".to_owned()),
        ("sqlite:polyhook-data/queue.db", "sqlite:polyhook-demo/queue.db".to_owned()),
    ]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| keep_delivering(receiver, &site, &body, &done));
        let stop = Stop(&done);
        let failures: Vec<_> = examples()
            .iter()
            .filter_map(|example| {
                let mut command = substitutions.apply(example);
                if example.starts_with("polyhook endpoint") {
                    command = command.replace("whe_9ZtRcXw3", &reset_endpoints(&polyai, &url));
                }
                check(&site, example, &command)
            })
            .collect();
        drop(stop);
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    });
    expect_file!["json_shapes.txt"].assert_eq(&json_shapes(&site, receiver, &polyai, &ids));
    run.stop();
}

/// Returns the names and types in the outputs of commands with `--json`.
fn json_shapes(
    site: &Installation,
    receiver: SocketAddr,
    polyai: &SimulatedPolyAi,
    ids: &[String],
) -> String {
    assert_eq!(deliver(receiver, &site.secret, "evt-dead", &polyai.event("CA-unknown")), Some(204));
    let dead = || run_in_shell(site, "polyhook dead show evt-dead").0 == Some(0);
    eventually("a dead letter", dead);
    let commands = [
        "list --date yesterday --to today",
        "show ID",
        "fetch ID",
        "backfill --last 7d",
        "audit --date 2026-01-01",
        "erase ID --dry-run",
        "dead show evt-dead",
        "spool status",
        "spool verify",
        "config check",
        "send --event alerts.triggered --conversation ID",
        "verify --request recorded.http",
    ];
    let mut text = String::new();
    for command in commands {
        let call = format!("polyhook {} --json", command.replace("ID", &ids[1]));
        let (_, output) = run_in_shell(site, &call);
        let first = output.lines().find_map(|line| serde_json::from_str::<Value>(line).ok());
        let first = first.unwrap_or_else(|| panic!("{call}: {output}"));
        let _ = write!(text, "$ polyhook {command} --json\n{:#}\n\n", shape(&first));
    }
    text
}

/// Replaces each value by its type, and each list by its first entry.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => "null".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
        Value::Array(values) => values.iter().take(1).map(shape).collect(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| {
                // The manifest and the settings of an endpoint have schemas of their own.
                let is_document = ["manifest", "endpoint"].contains(&&**name);
                (name.clone(), if is_document { "document".into() } else { shape(value) })
            })
            .collect(),
    }
}

/// Runs one example and returns a description if it does not end as expected.
fn check(site: &Installation, example: &str, command: &str) -> Option<String> {
    if is_service(example) {
        run_service(site, command);
        return None;
    }
    let expected =
        EXPECTED_FAILURES.iter().find(|(failing, _)| *failing == example).map_or(0, |(_, code)| *code);
    let (code, output) = run_in_shell(site, command);
    (code != Some(expected)).then(|| format!("{example}: {code:?} instead of {expected}\n{output}"))
}
