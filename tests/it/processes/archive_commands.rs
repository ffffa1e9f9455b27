//! `polyhook list` and `polyhook show`: what the archive has.

use serde_json::{Value, json};

use crate::support::{
    ports,
    process::{Installation, SimulatedPolyAi, deliver, eventually},
};

#[test]
fn list_and_show_say_what_the_archive_has() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 3);
    let ids = polyai.ids();
    let script = json!({ "recording": "never" });
    polyai.control("PUT", &format!("calls/{}/script", ids[1]), &script);
    let site = Installation::new(&polyai.access, "worker.audio_wait = \"0s\"\nretry.delays = []");
    let mut run = site.polyhook(["run"]).start();
    let to = run.receiver_address();
    for id in &ids {
        assert_eq!(deliver(to, &site.secret, &format!("evt-{id}"), &polyai.event(id)), Some(204));
    }
    eventually("archived", || site.manifests().len() == 3);

    let days = ["list", "--date", "2026-11-02", "--to", "2026-11-03"];
    let list = |more: &[&str]| site.polyhook([&days, more].concat()).run().expect_exit_code(0).stdout;
    let rows: Vec<Value> =
        list(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut listed: Vec<_> = rows.iter().map(|row| row["conversation_id"].as_str().unwrap()).collect();
    assert!(rows.is_sorted_by_key(|row| row["started_at"].as_str().unwrap().to_owned()), "{rows:?}");
    listed.sort_unstable();
    let mut expected: Vec<_> = ids.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(listed, expected);
    assert!(rows.iter().all(|row| row["duration_ms"].as_u64() > Some(0) && row["revision"] == 1), "{rows:?}");
    let without = list(&["--missing", "recording"]);
    assert!(without.contains(&ids[1]) && !without.contains(&ids[0]), "{without}");
    assert_eq!(list(&["--missing", "transcript"]), "", "nothing but a note on standard error");
    assert!(!list(&[]).contains("PROJECT"), "there is one project");
    site.polyhook(["list", "--date", "today", "--to", "yesterday"]).run().expect_exit_code(2);
    site.polyhook(["list", "--project", "other"]).run().expect_exit_code(2);

    let show = |more: &[&str]| site.polyhook([&["show"], more].concat()).run();
    let text = show(&[&ids[0]]).expect_exit_code(0).stdout;
    for part in ["audio.wav", "conversation.json", "sha256", "agent  ", "user  ", "0 jobs, 0 dead letters"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let [refused] = ports::free();
    let broker = format!("queue.url=amqp://guest:guest@127.0.0.1:{refused}/%2f");
    let text = show(&[&ids[0], "--set", &broker]).expect_exit_code(0).stdout;
    assert!(text.find("audio.wav") < text.find("queue: "), "the archive comes first: {text}");
    let reason = "queue: cannot be read from here: ";
    let line = text.lines().find_map(|line| line.strip_prefix(reason)).unwrap_or_else(|| panic!("{text}"));
    assert!(line.ends_with("; start the broker, or correct queue.url"), "{line}");
    let brief = show(&[&ids[0], "--no-transcript"]).expect_exit_code(0).stdout;
    assert!(brief.contains("audio.wav") && !brief.contains("agent  "), "{brief}");
    let shown = show(&[&ids[1], "--json"]).expect_exit_code(0).json();
    assert_eq!(
        (&shown["state"], &shown["copies"][0]["damaged"]),
        (&json!("archived"), &json!([])),
        "{shown}"
    );
    assert_eq!(shown["copies"][0]["manifest"]["audio"]["status"], "absent", "{shown}");
    let folder = shown["copies"][0]["url"].as_str().unwrap();
    std::fs::remove_file(format!("{}conversation.json", folder.trim_start_matches("file://"))).unwrap();
    let damaged = show(&[&ids[1]]).expect_exit_code(0).stdout;
    assert!(damaged.contains("missing or changed"), "{damaged}");

    site.polyhook(["erase", &ids[2], "--yes"]).run().expect_exit_code(0);
    assert!(show(&[&ids[2]]).expect_exit_code(0).stdout.contains("was erased"));
    let unknown = show(&["CA-unknown"]).expect_exit_code(1);
    assert!(unknown.stdout.contains("is not in the archive"), "{}", unknown.stdout);
    assert!(unknown.stdout.contains("polyhook fetch CA-unknown"), "{}", unknown.stdout);
    run.stop();
}
