//! `polyhook erase`: removes all data of a conversation and keeps it away, also while workers run and after kills.

use std::{
    io::Write,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use futures_util::TryStreamExt;
use object_store::{ObjectStore, path::Path as Key};
use serde_json::{Value, json};

use crate::support::{
    process::{Installation, SimulatedPolyAi, deliver, eventually, interpreter, metric},
    rabbit::{self, exclusive_node_blocking, unique_prefix},
    seaweed::Seaweed,
};

/// A rate limit so low that jobs run during an erasure, even if a busy machine starts the command late: the jobs of the
/// tests would take 11 s and more. Jobs that find the conversation erased need no request.
const SLOW_WORKER: &str = "worker.audio = \"both\"\npolyai.max_requests_per_second = 8";

fn outcome(admin: SocketAddr, outcome: &str) -> usize {
    metric(admin, &format!("polyhook_jobs_total{{outcome=\"{outcome}\"}}"))
}

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Returns the files below a folder whose path or content contains `text`.
fn files_containing(folder: &Path, text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).unwrap_or_default();
            if path.to_string_lossy().contains(text)
                || bytes.windows(text.len()).any(|part| part == text.as_bytes())
            {
                found.push(path);
            }
        }
    }
    found
}

/// Returns an event with private data that the queue keeps.
fn handoff_event(id: &str) -> Vec<u8> {
    let body = json!({ "type": "handoff.created", "data": {
        "conversation_id": id, "environment": "live", "from_number": format!("+44-private-{id}"),
    }});
    body.to_string().into_bytes()
}

#[test]
fn erases_all_data_while_the_service_runs() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 3);
    let ids = polyai.ids();
    let site = Installation::new(&polyai.access, "worker.audio = \"both\"");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    for id in &ids {
        for (event, body) in [("done", polyai.event(id)), ("handoff", handoff_event(id))] {
            assert_eq!(
                deliver(run.receiver_address(), &site.secret, &format!("{event}-{id}"), &body),
                Some(204)
            );
        }
    }
    eventually("archived", || outcome(admin, "archived") == 3);
    let (gone, kept) = (&ids[0], &ids[1]);
    let private = format!("+44-private-{gone}");
    let data = site.path().join("polyhook-data");
    assert!(!files_containing(&data, &private).is_empty());
    let erase = |arguments: &[&str]| site.polyhook([&["erase", gone], arguments].concat());

    let said = erase(&[]).run().expect_exit_code(2);
    assert!(said.stderr.contains("--yes"), "{}", said.stderr);
    for wrong in [["--reason", "+44 20 7946"], ["--reason", ""], ["--lift", "--dry-run"]] {
        erase(&wrong).run().expect_exit_code(2);
    }
    let said = erase(&["--dry-run", "--json"]).run().expect_exit_code(0).json();
    assert_eq!((&said["outcome"], &said["archive"][0]["objects"]), (&json!("dry_run"), &json!(4)), "{said}");
    assert_eq!(site.manifests().len(), 3, "a dry run removes nothing");
    let said = erase(&["--yes", "--reason", "GDPR-1", "--json"]).run().expect_exit_code(0).json();
    assert_eq!(
        (&said["outcome"], &said["archive"][0]["objects"], &said["archive"][0]["announced"]),
        (&json!("erased"), &json!(4), &json!(true)),
        "{said}"
    );
    assert_eq!((&said["queue"]["events"], &said["queue"]["announcements"]), (&json!(1), &json!(1)), "{said}");
    // Only the announcement of the erasure still names the conversation.
    assert_eq!(site.manifests().len(), 2);
    assert_eq!(files_containing(&data, &private), Vec::<PathBuf>::new());
    assert!(files_containing(&site.archive(), gone).is_empty());
    let file = rusqlite::Connection::open(data.join("queue.db")).unwrap();
    let about: Vec<String> = file
        .prepare("SELECT kind || '.' || environment || ' ' || body FROM announcements WHERE subject = ?1")
        .unwrap()
        .query_map([gone], |row| Ok(String::from_utf8(row.get::<_, Vec<u8>>(0).unwrap_or_default()).unwrap()))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(about.len(), 1, "{about:?}");
    let said = erase(&["--yes"]).run().expect_exit_code(0);
    assert!(said.stdout.contains("nothing found"), "{}", said.stdout);

    assert_stays_erased_until_lifted(&polyai, &site, run.receiver_address(), admin, gone);
    site.polyhook(["fetch", kept]).run().expect_exit_code(0);
    assert_eq!(site.manifests().len(), 3);
    run.stop();

    assert_asks_for_the_id(&site, kept);
}

/// Checks that neither a delivery, which causes no request to PolyAI, nor `fetch` restores an erased conversation, until
/// `--lift` allows it.
fn assert_stays_erased_until_lifted(
    polyai: &SimulatedPolyAi,
    site: &Installation,
    receiver: SocketAddr,
    admin: SocketAddr,
    gone: &str,
) {
    let asked = || polyai.control("GET", "requests", &Value::Null);
    let before = asked();
    assert_eq!(deliver(receiver, &site.secret, "again", &polyai.event(gone)), Some(204));
    eventually("dropped", || outcome(admin, "erased") == 1);
    let said = site.polyhook(["fetch", gone]).run().expect_exit_code(1);
    assert!(said.stderr.contains("erase --lift") && said.stdout.is_empty(), "{said:?}");
    assert_eq!(asked(), before);
    assert_eq!(
        site.polyhook(["fetch", gone, "--json"]).run().expect_exit_code(1).json()["outcome"],
        "erased"
    );
    assert_eq!(site.manifests().len(), 2);
    // It can be archived again after --lift.
    let said = site.polyhook(["erase", "--lift", gone]).run().expect_exit_code(0);
    assert!(said.stdout.contains("lifted"), "{}", said.stdout);
    assert_eq!(
        site.polyhook(["erase", "--lift", gone, "--json"]).run().expect_exit_code(0).json()["outcome"],
        "not_erased"
    );
    site.polyhook(["fetch", gone]).run().expect_exit_code(0);
    assert_eq!(site.manifests().len(), 3);
}

/// Runs `erase` on a terminal. It asks for the id, so a habitual `y` is not enough.
fn assert_asks_for_the_id(site: &Installation, id: &str) {
    for (answer, left) in [("y\n", 3), (&*format!("{id}\n"), 2)] {
        const IN_A_TERMINAL: &str = "import pty, sys; pty.spawn(sys.argv[1:])";
        let mut child = interpreter("python3")
            .args(["-c", IN_A_TERMINAL, env!("CARGO_BIN_EXE_polyhook")])
            .args(["erase", id, "--config", "polyhook.toml"])
            .current_dir(site.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let said = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout);
        assert!(said.contains("Type its id"), "{said}");
        assert_eq!(site.manifests().len(), left, "{answer:?}: {said}");
    }
}

#[test]
fn the_next_run_completes_a_killed_erasure() {
    const CALLS: usize = 60;
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, CALLS);
    let ids = polyai.ids();
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    for id in &ids {
        assert_eq!(deliver(run.receiver_address(), &site.secret, id, &polyai.event(id)), Some(204));
    }
    eventually("archived", || outcome(admin, "archived") == CALLS);
    let all: Vec<_> = ids.iter().map(String::as_str).collect();
    let arguments = [&["erase", "--yes", "--json"], &all[..]].concat();
    for killed in 1.. {
        let mut process = site.polyhook(arguments.clone()).start();
        // Lets the command get further each time.
        let far = killed * 4;
        eventually("begun", || process.stdout().len() >= far.min(CALLS) || !process.is_running());
        process.kill();
        // A half-erased archive has no manifest that names a missing object.
        super::verified_archive(&site.archive());
        if site.manifests().len() < CALLS / 2 {
            break;
        }
    }
    let left = site.manifests().len();
    assert!(left > 0, "too fast to be killed");
    let said = lines(&site.polyhook(arguments).run().expect_exit_code(0).stdout);
    assert_eq!(said.len(), CALLS);
    assert!(site.manifests().is_empty());
    let gone = |id: &String| files_containing(&site.archive(), id).is_empty();
    assert!(ids.iter().all(gone));
    let file = rusqlite::Connection::open(site.path().join("polyhook-data/queue.db")).unwrap();
    let announced: Vec<(String, usize)> = file
        .prepare("SELECT kind, count(*) FROM announcements GROUP BY kind")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(announced, [("conversation.erased".to_owned(), CALLS)], "one announcement each");
    run.stop();
}

#[test]
fn a_running_job_does_not_restore_an_erased_conversation() {
    const CALLS: usize = 40;
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, CALLS);
    let ids = polyai.ids();
    let site = Installation::new(&polyai.access, SLOW_WORKER);
    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    for id in &ids {
        assert_eq!(deliver(run.receiver_address(), &site.secret, id, &polyai.event(id)), Some(204));
    }
    eventually("the worker archives", || !site.manifests().is_empty());
    let all: Vec<_> = ids.iter().map(String::as_str).collect();
    let said = lines(
        &site.polyhook([&["erase", "--yes", "--json"], &all[..]].concat()).run().expect_exit_code(0).stdout,
    );
    let sum = |of: &str, what: &str| -> u64 {
        said.iter().map(|said| said.pointer(of).unwrap()[what].as_u64().unwrap()).sum()
    };
    eprintln!(
        "{} objects and {} jobs erased, {} jobs found the record",
        sum("/archive/0", "objects"),
        sum("/queue", "jobs"),
        outcome(admin, "erased")
    );
    let depth = |queue| metric(admin, &format!("polyhook_queue_depth{{queue=\"{queue}\"}}"));
    eventually("the queue is empty", || depth("fetch") + depth("retry") == 0);
    assert!(sum("/queue", "jobs") > 0, "the worker finished before the erasure");
    // SIGTERM lets running jobs finish.
    run.stop();
    assert!(site.manifests().is_empty());
    for id in &ids {
        assert_eq!(files_containing(&site.archive(), id), Vec::<PathBuf>::new());
    }
}

#[test]
fn on_rabbitmq_erases_dead_letters_stored_events_and_spooled_deliveries() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 4);
    let ids = polyai.ids();
    let node = exclusive_node_blocking();
    let (url, prefix) = (node.url(), unique_prefix());
    let queue = format!(
        "queue = {{ url = \"{url}\", prefix = \"{prefix}\", publish_timeout = \"5s\" }}\nspool = {{ path = \"spool.db\" }}"
    );
    let site = Installation::new(&polyai.access, &queue);
    let polyhook =
        |arguments: &[&str]| site.polyhook(arguments.iter().copied()).must_not_print("guest:guest");
    site.write("key", "an-unknown-key");
    let mut run = polyhook(&["run"]).must_not_print("an-unknown-key").start();
    let admin = run.wait_until_ready();
    for id in &ids {
        for (event, body) in [("done", polyai.event(id)), ("handoff", handoff_event(id))] {
            assert_eq!(
                deliver(run.receiver_address(), &site.secret, &format!("{event}-{id}"), &body),
                Some(204)
            );
        }
    }
    let depth = |queue| metric(admin, &format!("polyhook_queue_depth{{queue=\"{queue}\"}}"));
    eventually("dead", || depth("dead") == 4 && depth("unrouted") == 4);
    let erase = |id: &str, more: &[&str]| polyhook(&[&["erase", id, "--json"], more].concat()).run();
    let said = erase(&ids[0], &["--dry-run"]).expect_exit_code(0).json();
    assert_eq!((&said["queue"]["dead_letters"], &said["queue"]["events"]), (&json!(1), &json!(1)), "{said}");
    let said = erase(&ids[0], &["--yes"]).expect_exit_code(0).json();
    assert_eq!((&said["outcome"], &said["queue"]["dead_letters"]), (&json!("erased"), &json!(1)), "{said}");
    eventually("the others remain", || depth("dead") == 3 && depth("unrouted") == 3);
    let listed = polyhook(&["dead", "list", "--json"]).run().expect_exit_code(0).stdout;
    assert!(!listed.contains(&ids[0]) && ids[1..].iter().all(|id| listed.contains(id)), "{listed}");

    // While the broker is unavailable, the spool is erased and the rest is reported as a problem.
    node.kill();
    // A delivery at the moment of the crash may be answered 503. PolyAI sends it again.
    for id in &ids {
        let (to, event) = (run.receiver_address(), format!("late-{id}"));
        eventually("stored", || deliver(to, &site.secret, &event, &handoff_event(id)) == Some(204));
    }
    let said = erase(&ids[1], &["--yes"]).expect_exit_code(1).json();
    assert_eq!((&said["outcome"], &said["spool"]["jobs"]), (&json!("incomplete"), &json!(1)), "{said}");
    assert!(!said["problems"].as_array().unwrap().is_empty(), "{said}");
    assert_eq!(files_containing(site.path(), &format!("+44-private-{}", ids[1])), Vec::<PathBuf>::new());
    node.restart();
    eventually("published", || depth("unrouted") == 3 + 3);
    let said = erase(&ids[1], &["--yes"]).expect_exit_code(0).json();
    assert_eq!((&said["queue"]["dead_letters"], &said["queue"]["events"]), (&json!(1), &json!(1)), "{said}");

    // The worker drops a job that cannot be searched for.
    site.write("key", &polyai.access.api_key);
    assert_eq!(deliver(run.receiver_address(), &site.secret, "late", &polyai.event(&ids[1])), Some(204));
    eventually("dropped", || outcome(admin, "erased") == 1);
    run.stop();
    assert!(site.manifests().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_s3_completes_a_killed_erasure_and_restores_nothing() {
    const CALLS: usize = 30;
    let s3 = Seaweed::shared().await;
    let (store, config) = (s3.client(), s3.config("processes/erase"));
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, CALLS);
    let ids = polyai.ids();
    let rabbit = rabbit::unique_prefix();
    let site = Installation::new(
        &polyai.access,
        &format!(
            "{SLOW_WORKER}\nqueue = {{ url = \"{}\", prefix = \"{rabbit}\", publish_timeout = \"5s\" }}\n[archive]\nurl = \"{}\"\n\
             endpoint = \"{}\"\nregion = \"us-east-1\"\naccess_key_id = \"{}\"\nsecret_access_key_file = \"s3-key\"\n\
             allow_http = true",
            rabbit::SHARED_NODE.url(),
            config.url,
            config.endpoint.unwrap(),
            config.access_key_id.unwrap(),
        ),
    );
    let key = config.secret_access_key.unwrap();
    site.write("s3-key", key.expose());
    let polyhook = |arguments: &[&str]| {
        site.polyhook(arguments.iter().copied()).must_not_print("guest:guest").must_not_print(key.expose())
    };
    let keys = async || {
        let listed = store.list(Some(&Key::from("processes/erase"))).map_ok(|meta| meta.location.to_string());
        listed.try_collect::<Vec<_>>().await.unwrap()
    };
    let mut run = polyhook(&["run"]).start();
    let admin = run.wait_until_ready();
    for id in &ids {
        assert_eq!(deliver(run.receiver_address(), &site.secret, id, &polyai.event(id)), Some(204));
    }
    eventually("the worker archives", || outcome(admin, "archived") > 2);
    let all: Vec<_> = ids.iter().map(String::as_str).collect();
    let arguments = [&["erase", "--yes", "--json"], &all[..]].concat();
    let mut process = polyhook(&arguments).start();
    eventually("begun", || process.stdout().len() > 2);
    process.kill();
    // Where the walks of the one that was killed hid something, the broker has to notice first.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let said = lines(&polyhook(&arguments).run().expect_exit_code(0).stdout);
    assert_eq!(said.len(), CALLS);
    let depth = |queue| metric(admin, &format!("polyhook_queue_depth{{queue=\"{queue}\"}}"));
    eventually("the queue is empty", || depth("fetch") + depth("retry") == 0);
    eprintln!("{} archived before, {} met the record", outcome(admin, "archived"), outcome(admin, "erased"));
    // On a slow machine the worker may have been done before: one more comes after all.
    assert_eq!(deliver(run.receiver_address(), &site.secret, "again", &polyai.event(&ids[0])), Some(204));
    eventually("dropped", || outcome(admin, "erased") > 0);
    run.stop();
    let keys = keys().await;
    let is_kept = |key: &String| {
        ["/erasures/", "/.polyhook-check", "/index/", "/.polyhook/index"]
            .iter()
            .any(|part| key.contains(part))
    };
    assert!(keys.iter().all(is_kept), "{keys:?}");
    assert!(!keys.iter().any(|key| key.contains("/index-changes/")), "{keys:?}");
    polyhook(&["index", "verify"]).run().expect_exit_code(0);
    assert_eq!(keys.iter().filter(|key| key.contains("/erasures/")).count(), CALLS);
}
