//! `fetch`, `healthcheck`, `send` and `verify`: output and exit codes that scripts depend on.

use serde_json::Value;

use super::verified_archive;
use crate::support::{
    ports,
    process::{Installation, PolyhookCommand, SimulatedPolyAi, eventually},
};

#[test]
fn fetch_archives_and_prints_the_urls() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 3);
    let ids = polyai.ids();
    let site = Installation::new(&polyai.access, "");
    let said = site.polyhook(["fetch", &ids[0]]).run().expect_exit_code(0);
    assert!(said.stdout.contains(&ids[0]) && said.stdout.contains("audio.wav"), "{}", said.stdout);
    assert!(said.stderr.is_empty() && !said.stdout.contains('\x1b'), "{}", said.stderr);
    let archived = verified_archive(&site.archive());
    assert_eq!(archived.keys().collect::<Vec<_>>(), [&ids[0]]);
    assert_eq!(archived[&ids[0]]["trigger"], "command");

    // Again, with other ids: an archived conversation is unchanged; an unknown one is reported and changes only the exit code.
    let said = site
        .polyhook(["fetch", "--json", &ids[0], "CAunknownconversation", &ids[1]])
        .run()
        .expect_exit_code(1);
    let lines: Vec<Value> = said.stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["manifest"]["revision"], 1);
    assert_ne!(lines[0]["outcome"], lines[2]["outcome"], "one was archived before, one is new");
    assert_eq!(lines[1]["outcome"], "failed");
    assert_eq!(lines[1]["status"], 404);
    assert!(lines[1]["error"].as_str().unwrap().contains("check its id"), "{}", lines[1]);
    assert!(!lines[1]["correlation_id"].as_str().unwrap().is_empty());
    for url in lines[2]["urls"].as_object().unwrap().values() {
        let path = url::Url::parse(url.as_str().unwrap()).unwrap().to_file_path().unwrap();
        assert!(path.exists(), "{}", path.display());
    }
    assert_eq!(verified_archive(&site.archive()).len(), 2);

    let said = site.polyhook(["fetch", "CAunknownconversation", &ids[0]]).run().expect_exit_code(1);
    let failure = &said.stderr;
    assert!(!said.stdout.contains("unknown") && said.stdout.contains(&ids[0]), "only results: {said:?}");
    assert!(failure.starts_with("error: CAunknownconversation (unknown_conversation): "), "{failure}");
    assert!(failure.contains("check its id") && failure.contains("run the command again"), "{failure}");
    assert!(!failure.contains("replay"), "nothing is queued: {failure}");
    let hint = failure.to_lowercase();
    assert!(hint.contains("region") || hint.contains("project"), "hint: {failure}");
    assert!(hint.contains("correlation id"), "{failure}");

    // A rejected key is not printed.
    site.write("key", "an-unknown-key");
    let said = site.polyhook(["fetch", &ids[2]]).must_not_print("an-unknown-key").run().expect_exit_code(1);
    assert!(said.stderr.contains("key") && said.stdout.is_empty(), "{said:?}");

    // PolyAI is away.
    let [unused] = ports::free();
    let away = format!("polyai.base_url=http://127.0.0.1:{unused}");
    let away = |more: &[&str]| site.polyhook([&["fetch", "CA1", "--set", &away], more].concat()).run();
    let said = away(&[]).expect_exit_code(1);
    assert!(said.stdout.is_empty() && said.stderr.starts_with("error: CA1 (network): "), "{said:?}");
    let failed = away(&["--json"]).expect_exit_code(1).json();
    assert!(failed["error"].is_string() && failed.get("status").is_none(), "{failed}");
}

#[test]
fn healthcheck_distinguishes_ready_from_not_ready() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let [port] = ports::free();
    let site = Installation::new(&polyai.access, &format!("admin.listen = \"0.0.0.0:{port}\""));
    let said = site.polyhook(["healthcheck"]).run().expect_exit_code(1);
    assert!(said.stderr.contains("is polyhook running?"), "{}", said.stderr);
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    assert_eq!(site.polyhook(["healthcheck"]).run().expect_exit_code(0).stdout, "ready\n");
    run.stop();
    site.polyhook(["healthcheck"]).run().expect_exit_code(1);

    // Running, but unable to store deliveries.
    let [unused] = ports::free();
    let broker = format!("queue.url = \"amqp://guest:guest@127.0.0.1:{unused}/%2f\"");
    let site = Installation::new(&polyai.access, &broker);
    let mut receive = site.polyhook(["receive"]).must_not_print("guest:guest").start();
    let admin = receive.address("serving /livez, /readyz and /metrics");
    let url = format!("http://{admin}/readyz");
    let said = site.polyhook(["healthcheck", "--url", &url]).run().expect_exit_code(1);
    assert!(said.stderr.contains("not ready"), "{}", said.stderr);
    let live = format!("http://{admin}/livez");
    site.polyhook(["healthcheck", "--url", &live]).run().expect_exit_code(0);
    // A delivery is answered in time, with 503, so that PolyAI retries.
    let target = format!("http://{}/polyai-events", receive.receiver_address());
    let said = site.polyhook(["send", "--json", "--url", &target]).run().expect_exit_code(1);
    assert_eq!(said.json()["status"], 503, "{said:?}");
    assert!(said.json()["latency_ms"].as_f64().unwrap() < 5_000.0, "{said:?}");
    receive.stop();
}

#[test]
fn send_distinguishes_accepted_from_rejected() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    let target = format!("http://{}/polyai-events", receive.receiver_address());
    let send = |more: &[&str]| {
        let arguments = [&["send", "--url", target.as_str()], more].concat();
        site.polyhook(arguments).run()
    };
    let said = send(&[]).expect_exit_code(0);
    assert!(said.stdout.contains("answered 204"), "{}", said.stdout);
    for scheme in ["body", "timestamped"] {
        assert_eq!(send(&["--scheme", scheme, "--json"]).expect_exit_code(0).json()["status"], 204);
    }
    for bad in ["signature", "malformed", "missing", "body", "timestamp", "no-timestamp"] {
        let said = send(&["--bad", bad]).expect_exit_code(0);
        assert!(said.stdout.contains("answered 401"), "{bad}: {}", said.stdout);
        send(&["--bad", bad, "--expect", "204"]).expect_exit_code(1);
        let time = bad.contains("timestamp");
        send(&["--bad", bad, "--scheme", "body"]).expect_exit_code(if time { 2 } else { 0 });
    }
    send(&["--expect", "401"]).expect_exit_code(1);
    // PolyAI does not know what this command invents, unless it is the simulator.
    let said = send(&["--json", "--set", "polyai.base_url=http://127.0.0.1:9"]).expect_exit_code(0);
    for text in [said.json()["warning"].as_str().unwrap(), &said.stderr] {
        assert!(text.contains("dead letter") && text.contains("--conversation"), "{said:?}");
    }
    for quiet in [&["--conversation", "CA1"][..], &["--event", "alerts.triggered"], &["--bad", "missing"]] {
        let other = [quiet, &["--set", "polyai.base_url=http://127.0.0.1:9"]].concat();
        assert_eq!(send(&other).expect_exit_code(0).stderr, "", "{quiet:?}");
    }
    // What is accepted and never archived is said, also if the conversation has a name.
    let body =
        r#"{"type":"conversation.completed","data":{"conversation_id":"CAbody","environment":"live"}}"#;
    site.write("event.json", body);
    for (arguments, reason) in [
        (&["--project-id", "nope", "--conversation", "CAnope"][..], "no project nope"),
        (&["--environment", "sandbox"], "worker.environments"),
        (&["--event", "conversation.finished"], "starts no fetch"),
    ] {
        let said = send(arguments).expect_exit_code(0).stderr;
        assert!(said.contains(reason) && said.lines().count() == 1, "{arguments:?}: {said}");
    }
    let said = send(&["--body", "event.json"]).expect_exit_code(0).stderr;
    assert!(said.contains("has CAbody") && polyai.ids().contains(&"CAbody".to_owned()), "{said}");
    let said = send(&["--json"]).expect_exit_code(0);
    assert_eq!((&said.json()["warning"], said.stderr.as_str()), (&Value::Null, ""));
    let id = said.json()["conversation_id"].as_str().unwrap().to_owned();
    assert!(polyai.ids().contains(&id), "the simulated PolyAI has the conversation");
    let summary = send(&["--count", "300", "--json"]).expect_exit_code(0).json();
    assert_eq!(summary["accepted"], 300);
    assert_eq!(summary["unexpected"], 0);
    let summary = send(&["--count", "20", "--bad", "signature", "--json"]).expect_exit_code(0).json();
    assert_eq!((&summary["accepted"], &summary["refused"]), (&0.into(), &20.into()));
    let summary = send(&["--count", "20", "--expect", "503", "--json"]).expect_exit_code(1).json();
    assert_eq!((&summary["accepted"], &summary["unexpected"]), (&20.into(), &20.into()));
    let said = send(&["--count", "30", "--rate", "60"]).expect_exit_code(0).stdout;
    assert!(said.contains("answers  204: 30\n") && said.contains("latency  p50 "), "{said}");
    let arguments = ["send", "--url", target.as_str(), "--body", "-", "--event", "a.b"];
    site.polyhook(arguments).input(b"from a pipe").run().expect_exit_code(0);
    site.write("body", "\u{feff}no JSON at all\r\n");
    send(&["--body", "body", "--type", "whatever"]).expect_exit_code(0);
    receive.stop();
    let said = send(&["--json"]).expect_exit_code(1);
    assert_eq!(said.json()["outcome"], "network");
    let advice = format!("error: no connection to {target}: start a receiver with `polyhook run`");
    assert!(said.stderr.starts_with(&advice), "{}", said.stderr);
}

#[test]
fn verify_explains_signatures() {
    let folder = tempfile::tempdir().unwrap();
    let secret = polyhook::secret::Secret::new("whsec_0123456789abcdef");
    std::fs::write(folder.path().join("secret"), format!("another-configured-secret\n{}\n", secret.expose()))
        .unwrap();
    let body = br#"{"type":"x"}"#;
    let signature = polyhook::signature::sign(&secret, None, body);
    let verify = |signature: &str, body: &[u8], more: &[&str]| {
        let arguments = [&["verify", "--secret-file", "secret", "--signature", signature], more].concat();
        PolyhookCommand::new(folder.path(), arguments).must_not_print(secret.expose()).input(body).run()
    };
    assert!(
        verify(&signature, body, &[])
            .expect_exit_code(0)
            .stdout
            .contains("genuine: secret number 2 signed the body")
    );
    let found =
        verify(&format!("sha256={}", signature.to_uppercase()), body, &["--json"]).expect_exit_code(0).json();
    assert_eq!((&found["genuine"], &found["secret"]), (&true.into(), &2.into()));
    std::fs::write(folder.path().join("body"), body).unwrap();
    verify(&signature, b"", &["--body", "body"]).expect_exit_code(0);

    let said = verify(&signature, b"{\"type\":\"x\"}\n", &[]).expect_exit_code(1);
    assert!(said.stdout.contains("line end"), "{}", said.stdout);
    let found = verify(&signature, b"{}", &["--json"]).expect_exit_code(1).json();
    assert_eq!((&found["genuine"], &found["reason"]), (&false.into(), &"mismatch".into()));
    verify("no hex", body, &[]).expect_exit_code(1);
    verify("", body, &[]).expect_exit_code(1);
    let old = polyhook::signature::sign(&secret, Some(1_700_000_000), body);
    let said = verify(&old, body, &["--timestamp", "1700000000"]).expect_exit_code(1);
    assert!(said.stdout.contains("behind our clock"), "{}", said.stdout);
    verify(&signature, body, &["--body", "not-there"]).expect_exit_code(2);
}

#[test]
fn verify_reads_a_recorded_request() {
    let folder = tempfile::tempdir().unwrap();
    let secret = polyhook::secret::Secret::new("whsec_0123456789abcdef");
    std::fs::write(folder.path().join("secret"), secret.expose()).unwrap();
    let now = polyhook::clock::Clock::System.now().as_second();
    let signature = polyhook::signature::sign(&secret, Some(now), b"{\"a\": 1}");
    let verify = |request: String| {
        let arguments = ["verify", "--secret-file", "secret", "--request", "-", "--json"];
        PolyhookCommand::new(folder.path(), arguments)
            .must_not_print(secret.expose())
            .input(request.as_bytes())
            .run()
    };
    let request = |body: &str| {
        format!(
            "POST /polyai-events HTTP/1.1\r\nHost: a:1\r\nX-PolyAI-Signature: {signature}\r\nX-PolyAI-Timestamp: {now}\r\n\r\n{body}"
        )
    };
    assert_eq!(verify(request("{\"a\": 1}")).expect_exit_code(0).json()["form"], "timestamped");
    let found = verify(request("{\"a\":1}")).expect_exit_code(1).json();
    assert_eq!((&found["mistake"], &found["secret"]), (&"rewritten_json".into(), &1.into()), "{found}");
    verify("no empty line".to_owned()).expect_exit_code(2);
}

#[test]
fn services_raise_the_limit_of_open_files() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let mut child = std::process::Command::new("sh")
        .args([
            "-c",
            "ulimit -Sn 128 && exec \"$0\" receive --config polyhook.toml",
            env!("CARGO_BIN_EXE_polyhook"),
        ])
        .current_dir(site.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    eventually("raised", || {
        let limits = std::fs::read_to_string(&limits).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap() > 1024
    });
    child.kill().unwrap();
    child.wait().unwrap();
}
