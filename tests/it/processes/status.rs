//! `polyhook status`: everything on one screen, with whatever parts answer. `metrics.rs` tests it with a worker on RabbitMQ.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{
        JobOutcome, Queue,
        sqlite::{SqliteOptions, SqliteQueue},
    },
};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    queue_contract::{history, message, take},
    support::{
        ports,
        process::{Installation, SimulatorAccess, eventually, interpreter},
    },
};

/// Runs a program on a terminal until it has shown two screens, and types Ctrl-C.
const TYPE_CTRL_C: &str = "\
import os, pty, signal, sys
signal.alarm(60)
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
shown = b''
while shown.count(b'process') < 2:
    shown += os.read(terminal, 4096)
os.write(terminal, b'\\x03')
try:
    while os.read(terminal, 4096):
        pass
except OSError:
    pass
assert shown.count(b'\\x1b[2J') >= 2, shown
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

/// Creates an installation without a PolyAI, whose processes listen on a port that nothing uses.
fn installation(more: &str) -> Installation {
    let [unused] = ports::free();
    let access = SimulatorAccess::unreachable(format_args!("127.0.0.1:{unused}"));
    Installation::new(&access, &format!("admin.listen = \"127.0.0.1:{unused}\"\n{more}"))
}

/// Returns all files and folders.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { BTreeSet::from([path]) }).collect()
}

/// Fills the embedded queue: 1 job waits, 1 is leased, 1 failed, 1 is published for later, 2 are dead letters.
async fn fill(queue: &dyn Queue) {
    let long = Duration::from_mins(10);
    for id in ["dead1", "dead2", "failed", "leased", "waiting"] {
        queue.publish(message(id, b"{}")).await.unwrap();
    }
    queue.publish_delayed(message("later", b"{}"), long).await.unwrap();
    for id in ["dead1", "dead2", "failed", "leased"] {
        let job = queue.next().await.unwrap();
        assert_eq!(job.message.id, id);
        let outcome = match id {
            "leased" => continue,
            "failed" => JobOutcome::Retry { after: long, history: history(1) },
            _ => JobOutcome::Dead { history: history(1) },
        };
        queue.settle(job.lease, outcome).await.unwrap();
    }
}

#[test]
fn shows_the_embedded_queue_and_changes_nothing() {
    let site = installation("");
    let status = |arguments: &[&str]| site.polyhook([&["status"], arguments].concat()).run();
    let none = status(&["--json"]).expect_exit_code(1).json();
    assert!(
        none["queue"]["error"].as_str().unwrap().contains("run this command where the service runs"),
        "{none}"
    );
    assert_eq!((&none["complete"], &none["last_pass"]["state"]), (&false.into(), &"off".into()));

    assert_eq!(none["last_audit"]["state"], "not_here", "{none}");
    let folder = status(&["--set", "queue.url=sqlite:.", "--json"]).expect_exit_code(1).json();
    assert_eq!(folder["queue"]["error"], ". is a folder; set queue.url to a file in it");
    let path = site.path().join("polyhook-data/queue.db");
    let runtime = Runtime::new().unwrap();
    let guard = runtime.enter();
    let queue = SqliteQueue::open(&path, SqliteOptions::default(), &Lifecycle::new()).unwrap();
    runtime.block_on(fill(&*queue));
    let before = files(site.path());
    let found = status(&["--json"]).expect_exit_code(0).json();
    assert_eq!(files(site.path()), before, "while a process has the queue open");
    let expected = [
        ("waiting_jobs", 1),
        ("in_flight_jobs", 1),
        ("retry_jobs", 1),
        ("refresh_jobs", 1),
        ("delayed_jobs", 2),
        ("dead_letters", 2),
        ("unrouted_events", 0),
    ];
    for (key, number) in expected {
        assert_eq!(found["queue"][key], number, "{key}: {found}");
    }
    let age = Clock::System.now().duration_since(message("waiting", b"").received_at).as_millis();
    let shown = found["queue"]["oldest_age_ms"].as_u64().unwrap();
    assert!(i128::from(shown) <= age && i128::from(shown) > age - 600_000, "{shown}, not {age}");
    assert_eq!(found["complete"], true);
    assert_eq!(found["process"]["state"], "not_here");
    assert_eq!(found["versions"]["polyhook"], env!("CARGO_PKG_VERSION"));
    assert!(!found.to_string().contains("null"), "{found}");

    runtime.block_on(queue.close());
    drop(guard);
    let before = files(site.path());
    let shown = status(&[]).expect_exit_code(0).stdout;
    assert_eq!(files(site.path()), before, "while no process has the queue open");
    assert!(shown.contains("\nwaiting     2 jobs"), "{shown}");
    for line in [
        "in flight   0 jobs",
        "dead        2 dead letters; `polyhook dead list`",
        "delayed     1 job after a failure, 1 refresh",
    ] {
        assert!(shown.contains(&format!("\n{line}")), "{line}: {shown}");
    }
    assert!(shown.lines().count() < 24 && shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

    // Nothing was taken or changed: the jobs come in their order, and the dead letters are still there.
    runtime.block_on(async {
        let queue: std::sync::Arc<dyn Queue> =
            SqliteQueue::open(&path, SqliteOptions::default(), &Lifecycle::new()).unwrap();
        assert_eq!(take(&queue).await.message.id, "leased");
        assert_eq!(take(&queue).await.message.id, "waiting");
        assert_eq!(queue.dead_letters().await.unwrap().total(), 2);
        queue.close().await;
    });
}

#[test]
fn shows_the_rest_when_broker_and_bucket_are_away() {
    let [broker, bucket] = ports::free();
    let site = installation(&format!(
        r#"
        queue.url = "amqp://guest:guest@127.0.0.1:{broker}/%2f"
        spool.path = "spool.db"
        [archive]
        url = "s3://calls/polyhook"
        endpoint = "http://127.0.0.1:{bucket}"
        allow_http = true
        region = "eu-west-1"
        access_key_id = "key"
        secret_access_key = "secret"
        "#
    ));
    let started = Instant::now();
    let status = |arguments: &[&str]| {
        site.polyhook([&["status"], arguments].concat())
            .must_not_print("guest:guest")
            .run()
            .expect_exit_code(1)
    };
    let found = status(&["--json"]).json();
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
    let error = |part: &str| {
        let error = found[part]["error"].as_str().unwrap_or_else(|| panic!("{part}: {found}"));
        assert!(!error.contains('\n'), "{error}");
        error.to_owned()
    };
    assert!(error("queue").ends_with("; start the broker, or correct queue.url"), "{found}");
    assert!(
        error("last_pass").starts_with("s3://calls/polyhook cannot be read (Connection refused"),
        "{found}"
    );
    assert!(error("last_audit").contains("check archive.url"), "{found}");
    assert_eq!((&found["spool"]["state"], &found["complete"]), (&"none".into(), &false.into()));
    let shown = status(&[]);
    assert!(shown.stderr.is_empty() && shown.stdout.contains("start the broker"), "{shown:?}");
    // An archive that cannot be opened hides nothing else either.
    let found = status(&["--json", "--set", "archive.secret_access_key="]).json();
    assert!(found["last_pass"]["error"].as_str().unwrap().contains("secret_access_key"), "{found}");
    assert_eq!(found["spool"]["state"], "none");
    assert!(files(site.path()).iter().all(|path| !path.ends_with("spool.db")));
}

#[test]
fn watches_until_ctrl_c() {
    let site = installation("");
    let queue = site.path().join("polyhook-data/queue.db");
    Runtime::new().unwrap().block_on(async {
        SqliteQueue::open(&queue, SqliteOptions::default(), &Lifecycle::new()).unwrap().close().await;
    });
    for json in [&[][..], &["--json"]] {
        let arguments = [&["status", "--watch", "--interval", "100ms"], json].concat();
        let mut watch = site.polyhook(arguments).start();
        eventually("three lines", || watch.stdout().len() >= 3);
        watch.signal(Signal::SIGINT);
        assert_eq!(watch.wait(Duration::from_secs(20)).code(), Some(0));
        let lines = watch.stdout();
        assert!(lines.iter().all(|line| !line.contains('\x1b')), "{lines:?}");
        for line in &lines {
            let fits = match json {
                [] => line.contains(" waiting=0 in_flight=0 ") && line.contains(" process=not_here"),
                _ => serde_json::from_str::<Value>(line).is_ok_and(|report| report["complete"] == true),
            };
            assert!(fits, "{line}");
        }
    }
    site.polyhook(["status", "--interval", "1s"]).run().expect_exit_code(2);

    // On a terminal it redraws the screen.
    let ended = interpreter("python3")
        .args(["-c", TYPE_CTRL_C, env!("CARGO_BIN_EXE_polyhook"), "status", "--watch", "--interval", "100ms"])
        .args(["--config", "polyhook.toml"])
        .current_dir(site.path())
        .env("TERM", "xterm")
        .output()
        .unwrap();
    assert!(ended.status.success(), "{ended:?}");
}
