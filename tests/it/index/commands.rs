//! `polyhook index build` and `polyhook index verify`, and `erase`.

use serde_json::{Value, json};

use crate::support::process::{Installation, SimulatedPolyAi};

#[test]
fn build_and_verify_agree_and_name_what_differs() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 4);
    let ids = polyai.ids();
    let site = Installation::new(
        &polyai.access,
        "worker.audio_wait = \"0s\"\nretry.delays = []\nindex.enabled = false",
    );
    let run = |arguments: &[&str]| site.polyhook(arguments.iter().copied()).run();
    let lines =
        |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    assert_eq!(run(&["index", "verify", "--json"]).expect_exit_code(0).stdout, "", "there is nothing yet");
    run(&[&["fetch"], &[&*ids[0], &ids[1], &ids[2]][..]].concat()).expect_exit_code(0);

    let verify = run(&["index", "verify", "--json"]).expect_exit_code(1);
    let missing: u64 =
        lines(&verify.stdout).iter().map(|day| day["counts"]["missing"].as_u64().unwrap()).sum();
    assert_eq!(missing, 3, "{}", verify.stdout);
    let built = run(&["index", "build", "--json"]).expect_exit_code(0);
    let days = lines(&built.stdout);
    let sum = |name: &str| days.iter().map(|day| day[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("calls"), sum("read"), sum("removed")), (3, 3, 0), "{days:?}");
    assert!(days.iter().all(|day| day["complete"] == true && day["project_id"] == polyai.access.project_id));
    let text = run(&["index", "verify"]).expect_exit_code(0).stdout;
    assert!(text.starts_with("complete") && text.contains("3 archived, 3 calls"), "{text}");
    let again = run(&["index", "build"]).expect_exit_code(0);
    assert!(again.stdout.contains("0 updated: 0 conversations read"), "{}", again.stdout);
    assert!(again.stderr.contains("nothing keeps these tables current"), "{}", again.stderr);

    // The latest day first; other days and projects are left alone.
    let date = days[0]["date"].as_str().unwrap();
    let calls = std::fs::remove_dir_all(site.archive().join("index/calls"));
    calls.unwrap();
    let text = run(&["index", "verify", "--date", date]).expect_exit_code(1).stdout;
    let advice = format!("repair with `polyhook index build --date {date}`");
    assert!(text.contains("damaged") && text.contains(&advice), "{text}");
    let built = lines(&run(&["index", "build", "--date", date, "--json"]).expect_exit_code(0).stdout);
    assert_eq!((built.len(), &built[0]["date"]), (1, &json!(date)));
    run(&["index", "verify", "--date", date]).expect_exit_code(0);
    assert_eq!(
        run(&["index", "build", "--last", "1d", "--json"]).expect_exit_code(0).stdout,
        "",
        "the calls are old"
    );
    run(&["index", "build", "--project", "other"]).expect_exit_code(2);
    run(&["index", "build", "--date", "today", "--all"]).expect_exit_code(2);

    run(&["index", "build"]).expect_exit_code(0);
    run(&["erase", &ids[0], "--yes"]).expect_exit_code(0);
    let days = lines(&run(&["index", "verify", "--json"]).expect_exit_code(0).stdout);
    let calls: u64 = days.iter().map(|day| day["calls"].as_u64().unwrap()).sum();
    assert_eq!(calls, 2, "an erased conversation leaves the tables at once: {days:?}");
}
