//! `config check`, `config show` and every start report all errors at once, each with its place, and what this machine lacks.

use std::{fs, net::TcpListener};

use serde_json::json;

use crate::support::process::{Installation, PolyhookCommand, SimulatedPolyAi};

const FILE: &str = "\
[server]
listen = \"hunter2\"
ack_budget = \"6s\"
ack_bugdet = \"4s\"
[signature]
secrets_file = \"not/there\"
[log]
level = = \"hunter2\"
";
/// Mistakes in variables and flags, with the beginnings of the errors.
const VARIABLES: [(&str, &str, &str); 4] = [
    ("POLYHOOK_WORKER__CONCURRENCY", "3", "POLYHOOK_WORKER__CONCURRENCY: this variable has no effect"),
    ("POLYHOOK__RETRY__JITTER", "hunter2", "POLYHOOK__RETRY__JITTER: retry.jitter: "),
    ("POLYHOOK__ADMIN__LISTN", "hunter2", "POLYHOOK__ADMIN__LISTN: there is no key admin.listn"),
    (
        "POLYHOOK__QUEUE__URL_FILE",
        "no/url",
        "POLYHOOK__QUEUE__URL_FILE: queue.url_file: no/url: cannot be read",
    ),
];
const FLAGS: [(&str, &str); 2] = [
    ("server.max_in_flight=0", "--set server.max_in_flight: server.max_in_flight: it is 0"),
    ("worker.concurency=hunter2", "--set worker.concurency: there is no key worker.concurency"),
];

#[test]
fn every_start_reports_all_errors_of_all_layers_with_their_places() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("polyhook.toml"), FILE).unwrap();
    let call = |arguments: &[&str]| {
        let sets = FLAGS.iter().flat_map(|(set, _)| ["--set", set]);
        let arguments = arguments.iter().copied().chain(["--config", "polyhook.toml"]).chain(sets);
        let call = PolyhookCommand::new(folder.path(), arguments)
            .must_not_print("hunter2")
            // Kubernetes sets these for services in the same namespace.
            .env("POLYHOOK_PORT", "tcp://10.0.0.1:8080")
            .env("POLYHOOK_ADMIN_PORT_9090_TCP_PROTO", "tcp")
            .env("POLYHOOK_SERVICE_PORT_HTTP", "8080");
        VARIABLES
            .iter()
            .fold(call, |call, (name, value, _)| call.env(name, *value))
            .run()
            .expect_exit_code(78)
    };
    let in_file = [
        "polyhook.toml, line 2: server.listen: this is not an address",
        "polyhook.toml, line 3: server.ack_budget: it is above",
        "polyhook.toml, line 4: there is no key server.ack_bugdet; did you mean server.ack_budget?",
        "polyhook.toml, line 6: signature.secrets_file: not/there: cannot be read",
        "polyhook.toml, line 8: ",
    ];
    let expected =
        in_file.into_iter().chain(VARIABLES.map(|(.., error)| error)).chain(FLAGS.map(|(_, error)| error));
    let mut expected: Vec<_> = expected.collect();
    expected[in_file.len()..in_file.len() + VARIABLES.len()].sort_unstable();
    for arguments in [&["receive"][..], &["config", "check", "--role", "receive"], &["run"]] {
        let said = call(arguments).stderr;
        let found: Vec<_> = said.lines().map(|line| line.strip_prefix("error: ").unwrap_or(line)).collect();
        assert_eq!(found.len(), expected.len(), "{said}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found.starts_with(expected), "{found}\ninstead of {expected}");
        }
        assert!(
            said.contains("did you mean POLYHOOK__WORKER__CONCURRENCY for worker.concurrency?"),
            "{said}"
        );
    }
    let report = call(&["config", "check", "--role", "receive", "--json"]).json();
    let problems = report["problems"].as_array().unwrap();
    assert_eq!((&report["ok"], problems.len()), (&json!(false), expected.len()), "{report}");
    let mut budget = problems[1].clone();
    assert!(budget.as_object_mut().unwrap().remove("error").is_some());
    assert_eq!(
        budget,
        json!({ "layer": "file", "file": "polyhook.toml", "line": 3, "key": "server.ack_budget" })
    );
    let layers: Vec<_> = problems.iter().map(|problem| problem["layer"].as_str().unwrap()).collect();
    assert_eq!(layers.iter().filter(|layer| **layer == "environment").count(), VARIABLES.len());
    assert_eq!(layers.iter().filter(|layer| **layer == "flag").count(), FLAGS.len());
}

#[test]
fn a_check_finds_ports_in_use_and_folders_that_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let [server, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let file = format!(
        "server.listen = \"{}\"\nadmin.listen = \"{}\"\nqueue.url = \"sqlite:file/queue.db\"\narchive.url = \"file:file/archive\"\n\
         signature.secrets = [\"0123456789abcdef\"]\n[[projects]]\naccount_id = \"a\"\nproject_id = \"p\"\napi_key = \"k\"\n",
        server.local_addr().unwrap(),
        admin.local_addr().unwrap(),
    );
    // A program that is not polyhook: it closes every connection.
    drop(std::thread::spawn(move || admin.incoming().for_each(drop)));
    fs::write(folder.path().join("polyhook.toml"), file).unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let run = |arguments: &[&str]| {
        let arguments = arguments.iter().copied().chain(["--config", "polyhook.toml"]);
        PolyhookCommand::new(folder.path(), arguments).run()
    };
    let lines = [
        "error: polyhook.toml, line 1: server.listen: cannot listen on 127.0.0.1:",
        "error: polyhook.toml, line 2: admin.listen: cannot listen on 127.0.0.1:",
        "error: polyhook.toml, line 3: queue.url: cannot write file/queue.db: ",
        "error: polyhook.toml, line 4: archive.url: cannot write file/archive: ",
    ];
    for arguments in [&["config", "check"][..], &["run"]] {
        let said = run(arguments).expect_exit_code(1).stderr;
        assert!(said.lines().count() == lines.len(), "{said}");
        for line in lines {
            assert!(said.lines().any(|said| said.starts_with(line)), "{line} is missing in:\n{said}");
        }
    }
    // Mistakes of the configuration count more, and hide none of the others.
    for arguments in [&["config", "check"][..], &["run"]] {
        let both = run(&[arguments, &["--set", "worker.concurrency=0"]].concat()).expect_exit_code(78);
        assert_eq!(both.stderr.lines().count(), lines.len() + 1, "{}", both.stderr);
    }
    let same =
        run(&["config", "check", "--set", "admin.listen=0.0.0.0:1", "--set", "server.listen=127.0.0.1:1"]);
    let same = same.expect_exit_code(78).stderr;
    assert!(same.contains("need the same port"), "{same}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "a check creates nothing");
}

#[test]
fn a_check_beside_a_running_polyhook_succeeds_and_says_so() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut first = site.polyhook(["run"]).start();
    let (admin, server) = (first.wait_until_ready().to_string(), first.receiver_address().to_string());
    let call = |arguments: &[&str]| {
        site.polyhook(arguments.iter().copied())
            .env("POLYHOOK__SERVER__LISTEN", &*server)
            .env("POLYHOOK__ADMIN__LISTEN", &*admin)
            .run()
    };
    let check = call(&["config", "check"]).expect_exit_code(0);
    assert_eq!(check.stdout, "the configuration is good for the role run\n");
    assert!(check.stderr.contains("polyhook doctor --role run"), "{}", check.stderr);
    assert_eq!(
        check.stderr.matches("the polyhook that runs here uses 127.0.0.1:").count(),
        2,
        "{}",
        check.stderr
    );
    let report = call(&["config", "check", "--json"]).expect_exit_code(0).json();
    assert_eq!((&report["ok"], report["notes"].as_array().unwrap().len()), (&json!(true), 2), "{report}");
    let second = call(&["run"]).expect_exit_code(1).stderr;
    for line in [
        "POLYHOOK__SERVER__LISTEN: server.listen: the polyhook that runs here uses 127.0.0.1:",
        "POLYHOOK__ADMIN__LISTEN: admin.listen: the polyhook",
    ] {
        assert!(second.contains(line), "{second}");
    }
    assert!(!second.contains("another program"), "{second}");
    first.stop();
}

#[test]
fn shows_where_each_value_comes_from_and_what_defaults_lead_to() {
    let folder = tempfile::tempdir().unwrap();
    let file = "[queue]\nurl = \"amqps://polyhook:hunter2/@!?#hunter2@rabbit:5671/calls?heartbeat=9\"\n\
        [archive]\nurl = \"s3://hunter2:hunter2@bucket/prefix\"\nendpoint = \"https://hunter2@minio?key=hunter2\"\n\
        [tracing]\nendpoint = \"https://user:hunter2@collector\"\n[log]\nlevel = \"warn\"\n";
    fs::write(folder.path().join("polyhook.toml"), file).unwrap();
    let call = |more: &[&str]| {
        let arguments = ["config", "show", "--config", "polyhook.toml", "--set", "worker.concurrency=3"];
        PolyhookCommand::new(folder.path(), arguments.iter().chain(more))
            .must_not_print("hunter2")
            .env("POLYAI_BASE_URL", "https://api.uk.poly.ai")
            .env("POLYAI_API_KEY", "hunter2")
            .env("POLYAI_AGENT_ID", "desk")
            .env("POLYHOOK__SERVER__ACK_BUDGET", "3s")
            .run()
            .expect_exit_code(0)
    };
    let text = call(&[]).stdout;
    let shown: toml::Table = toml::from_str(&text).unwrap();
    assert_eq!(
        shown["queue"]["url"].as_str(),
        Some("amqps://polyhook:[redacted]@rabbit:5671/calls?heartbeat=9")
    );
    assert_eq!(shown["polyai"]["base_url"].as_str(), Some("https://api.uk-1.platform.polyai.app/"));
    for (line, layer) in [
        ("ack_budget = \"3s\"", "POLYHOOK__SERVER__ACK_BUDGET"),
        ("concurrency = 3", "--set worker.concurrency"),
        ("level = \"warn\"", "polyhook.toml, line 9"),
        ("body_limit = \"1.0 MiB\"", "default"),
        ("region = \"uk\"", "POLYAI_BASE_URL"),
        ("platform_url = \"https://api.uk.poly.ai/\"", "POLYAI_BASE_URL"),
        ("project_id = \"desk\"", "POLYAI_AGENT_ID"),
        ("api_key = \"[redacted]\"", "POLYAI_API_KEY"),
    ] {
        let found =
            text.lines().find(|found| found.starts_with(line)).unwrap_or_else(|| panic!("{line}\n{text}"));
        assert_eq!(found.split_once("  # ").unwrap().1.trim(), layer, "{found}");
    }
    assert!(text.contains("# project desk: data at api.uk.poly.ai"), "{text}");

    let shown = call(&["--json"]).json();
    assert_eq!(shown["queue"]["url"], "amqps://polyhook:[redacted]@rabbit:5671/calls?heartbeat=9");
    assert_eq!(shown["layers"]["log.level"], json!({ "layer": "file", "file": "polyhook.toml", "line": 9 }));
    assert_eq!(
        shown["layers"]["server.ack_budget"],
        json!({ "layer": "environment", "variable": "POLYHOOK__SERVER__ACK_BUDGET" })
    );
    assert_eq!(shown["layers"]["server.path"], json!({ "layer": "default" }));
    assert_eq!(shown["hosts"], json!([{ "project_id": "desk", "data": "https://api.uk.poly.ai/" }]));
}
