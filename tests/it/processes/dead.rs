//! `polyhook dead`: what could not be archived is visible, and comes back once its reason is mended.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{
        JobOutcome, Queue,
        rabbitmq::{RabbitMqOptions, RabbitMqQueue},
        sqlite::{SqliteOptions, SqliteQueue},
    },
};
use serde_json::Value;
use tokio::{runtime::Runtime, time::timeout};

use super::sound_archive;
use crate::{
    queue_contract::{dead_letters, history, message},
    rabbitmq::config,
    support::{
        ports,
        process::{Installation, SimulatedPolyAi, deliver, eventually, interpreter, metric},
        rabbit::{self, ClientCertificate, Node},
    },
};

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn depth(admin: std::net::SocketAddr, queue: &str) -> usize {
    metric(admin, &format!("polyhook_queue_depth{{queue=\"{queue}\"}}"))
}

#[test]
fn a_letter_is_replayed_once_its_reason_is_mended() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 3);
    let ids = polyai.ids();
    let site = Installation::new(&polyai.access, "");
    site.write("key", "a-key-of-nobody");
    let mut run = site.polyhook(["run"]).must_not_print("a-key-of-nobody").start();
    let admin = run.wait_until_ready();
    for id in &ids {
        let event = format!("evt-{id}");
        assert_eq!(deliver(run.receiver_address(), &site.secret, &event, &polyai.event(id)), Some(204));
    }
    eventually("dead", || depth(admin, "dead") == 3);

    // While the service runs.
    let listed = lines(&site.polyhook(["dead", "list", "--json"]).run().expect_exit_code(0).stdout);
    assert_eq!(listed.len(), 3);
    for (letter, id) in listed.iter().zip(&ids) {
        assert_eq!((&letter["reason"], &letter["status"]), (&"key_rejected".into(), &401.into()), "{letter}");
        assert!(!letter["correlation_id"].as_str().unwrap().is_empty(), "{letter}");
        assert!(letter["detail"].as_str().unwrap().contains("key"), "{letter}");
        assert_eq!(letter["project_id"], polyai.access.project_id);
        assert!(letter["id"] == format!("evt-{id}") && letter["conversation_id"] == **id, "{letter}");
    }
    let table = site.polyhook(["dead", "list"]).run().expect_exit_code(0).stdout;
    assert!(table.contains("key_rejected") && table.contains("3 dead letters") && !table.contains('\x1b'));
    assert!(ids.iter().all(|id| table.contains(id)), "nothing is cut where there is no terminal: {table}");
    let event = format!("evt-{}", ids[0]);
    let shown = site.polyhook(["dead", "show", &event]).run().expect_exit_code(0).stdout;
    let correlation = listed[0]["correlation_id"].as_str().unwrap();
    assert!(shown.contains(correlation) && shown.contains("HTTP 401") && shown.contains(&ids[0]), "{shown}");
    let whole = site
        .polyhook(["dead", "show", &event, "--json", "--body"])
        .may_print_secrets()
        .run()
        .expect_exit_code(0);
    assert_eq!(whole.json()["body"].as_str().unwrap().as_bytes(), polyai.event(&ids[0]));
    assert_eq!(whole.json()["attempts"][0]["correlation_id"], correlation);
    let filtered = |filter: &[&str]| {
        let arguments = [&["dead", "list", "--json"], filter].concat();
        lines(&site.polyhook(arguments).run().expect_exit_code(0).stdout).len()
    };
    assert_eq!(filtered(&["--reason", "key_rejected", "--newer-than", "1h"]), 3);
    assert_eq!(filtered(&["--project", &polyai.access.project_id, "--project", "another"]), 3);
    for nothing in [["--reason", "timeout"], ["--project", "another"], ["--older-than", "1h"]] {
        assert_eq!(filtered(&nothing), 0, "{nothing:?}");
    }
    run.stop();

    site.write("key", &polyai.access.api_key);
    let mut work = site.polyhook(["work"]).start();
    let admin = work.wait_until_ready();
    let said = site.polyhook(["dead", "replay", "--all", "--dry-run"]).run().expect_exit_code(0);
    assert!(said.stdout.contains("would have replayed 3 dead letters"), "{}", said.stdout);
    assert_eq!(depth(admin, "dead"), 3, "a dry run changes nothing");
    let said = site.polyhook(["dead", "replay", &event, "--json"]).run().expect_exit_code(0).json();
    assert_eq!((&said["outcome"], &said["id"]), (&"replayed".into(), &event.as_str().into()));
    eventually("archived", || site.manifests().len() == 1);
    let said = site.polyhook(["dead", "replay", "--all"]).run().expect_exit_code(0);
    assert_eq!(said.stdout, "replayed 2 dead letters\n");
    eventually("archived", || site.manifests().len() == 3);
    eventually("nothing is left", || depth(admin, "dead") + depth(admin, "fetch") == 0);
    assert_eq!(site.polyhook(["dead", "list"]).run().expect_exit_code(0).stdout, "no dead letters\n");
    work.stop();
    let archived = sound_archive(&site.archive());
    assert_eq!(archived.keys().collect::<BTreeSet<_>>(), ids.iter().collect());
    let file = rusqlite::Connection::open(site.path().join("polyhook-data/queue.db")).unwrap();
    let announced: usize =
        file.query_row("SELECT count(*) FROM announcements", [], |row| row.get(0)).unwrap();
    assert_eq!(announced, 3);
}

#[test]
fn says_what_it_cannot_do() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let said = site.polyhook(["dead", "list"]).run().expect_exit_code(1);
    assert!(said.stderr.contains("there is no queue file"), "{}", said.stderr);
    assert!(!site.path().join("polyhook-data").exists(), "and it makes none");

    bury(&Embedded::of(&site), &["a", "b", "c", "d"]);
    for wrong in [
        &["dead", "replay"][..],
        &["dead", "drop"],
        &["dead", "drop", "--yes"],
        &["dead", "drop", "--all"],
        &["dead", "replay", "--dry-run"],
        &["dead", "replay", "a", "--all"],
        &["dead", "replay", "--all", "--reason", "x"],
        &["dead", "list", "--older-than", "soon"],
        &["dead", "show"],
    ] {
        let said = site.polyhook(wrong.iter().copied()).run().expect_exit_code(2);
        assert!(!said.stderr.is_empty() && said.stdout.is_empty(), "{wrong:?}");
    }
    assert!(
        site.polyhook(["dead", "show", "x"]).run().expect_exit_code(1).stderr.contains("no dead letter x")
    );
    let said = site.polyhook(["dead", "replay", "a", "x"]).run().expect_exit_code(1);
    assert!(said.stdout.contains("replayed 1") && said.stderr.contains("no dead letter x"), "{said:?}");
    site.polyhook(["dead", "drop", "b", "--dry-run"]).run().expect_exit_code(0);
    let said = site.polyhook(["dead", "drop", "b", "--yes", "--json"]).run().expect_exit_code(0).json();
    assert_eq!((&said["outcome"], &said["id"]), (&"dropped".into(), &"b".into()));
    assert_eq!(lines(&site.polyhook(["dead", "list", "--json"]).run().expect_exit_code(0).stdout).len(), 2);

    // On a terminal it asks.
    for (answer, left) in [("\n", 2), ("n\n", 2), ("y\n", 0)] {
        const IN_A_TERMINAL: &str = "import pty, sys; pty.spawn(sys.argv[1:])";
        let mut child = interpreter("python3")
            .args(["-c", IN_A_TERMINAL, env!("CARGO_BIN_EXE_polyhook")])
            .args(["dead", "drop", "--all", "--config", "polyhook.toml"])
            .current_dir(site.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("Drop 2 dead letters permanently?"), "{said}");
        let listed = site.polyhook(["dead", "list", "--json"]).run().expect_exit_code(0).stdout;
        assert_eq!(lines(&listed).len(), left, "{answer:?}: {said}");
    }

    // A broker that is not there.
    let [nobody] = ports::free();
    let away = format!("queue.url = \"amqp://guest:guest@127.0.0.1:{nobody}/%2f\"");
    let site = Installation::new(&polyai.access, &away);
    let begun = Instant::now();
    let said = site.polyhook(["dead", "list"]).must_not_print("guest:guest").run().expect_exit_code(1);
    assert!(said.stderr.contains("queue.url:") && said.stdout.is_empty(), "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let site = Installation::new(&polyai.access, "queue.url = \"redis://there\"");
    site.polyhook(["dead", "list"]).run().expect_exit_code(78);
}

#[test]
fn ten_thousand_letters_need_no_more_memory_than_a_few() {
    const LETTERS: usize = 10_000;
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    bury(&Embedded::of(&site), &["first"]);
    let file = rusqlite::Connection::open(site.path().join("polyhook-data/queue.db")).unwrap();
    // 160 MB of bodies.
    file.execute_batch(&format!(
        "BEGIN;
         WITH RECURSIVE n (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM n WHERE n < {LETTERS})
         INSERT INTO messages (seq, dedup, state, id, kind, environment, received_at, content_type, history)
             SELECT n.n, CAST(n.n AS BLOB), state, 'evt_' || n.n, kind, environment, received_at, content_type, history
             FROM messages JOIN n;
         INSERT INTO bodies SELECT seq, zeroblob(16384) FROM messages WHERE seq > 1;
         COMMIT;"
    ))
    .unwrap();
    drop(file);
    let mut child = Command::new(env!("CARGO_BIN_EXE_polyhook"))
        .args(["dead", "list", "--json", "--config", "polyhook.toml"])
        .current_dir(site.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut listed = String::new();
    // Not to the end, where it would be gone.
    for _ in 0..LETTERS - 500 {
        stdout.read_line(&mut listed).unwrap();
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    stdout.read_to_string(&mut listed).unwrap();
    assert!(child.wait().unwrap().success());
    let ids: BTreeSet<_> = lines(&listed).iter().map(|letter| letter["id"].to_string()).collect();
    eprintln!("{} letters listed, peak {peak} KiB", ids.len());
    assert_eq!(ids.len(), LETTERS);
    assert!(peak < 48 << 10, "{peak} KiB");
}

/// A queue of the test's own, as the service would have it open.
struct Open {
    runtime: Runtime,
    queue: Arc<dyn Queue>,
    _life: Lifecycle,
}

struct Embedded;

impl Embedded {
    fn of(site: &Installation) -> Open {
        let (runtime, lifecycle) = (Runtime::new().unwrap(), Lifecycle::new());
        let path = site.path().join("polyhook-data/queue.db");
        let queue: Arc<dyn Queue> = runtime
            .block_on(async { SqliteQueue::open(&path, SqliteOptions::default(), &lifecycle).unwrap() });
        Open { runtime, queue, _life: lifecycle }
    }
}

struct Rabbit {
    site: Installation,
    url: String,
    prefix: String,
}

impl Rabbit {
    fn new(url: String, polyai: &SimulatedPolyAi, more: &str) -> Self {
        let prefix = rabbit::unique_prefix();
        let queue =
            format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\", publish_timeout = \"5s\" }}\n");
        Self { site: Installation::new(&polyai.access, &(queue + more)), url, prefix }
    }

    fn open(&self) -> Open {
        let (runtime, lifecycle) = (Runtime::new().unwrap(), Lifecycle::new());
        let queue: Arc<dyn Queue> = runtime.block_on(async {
            let delays = [1, 2, 4].map(Duration::from_secs).to_vec();
            let config = config(&self.url, &self.prefix);
            let options = RabbitMqOptions {
                config: &config,
                delays,
                consume: Some(200),
                only_publishes: false,
                clock: Clock::System,
            };
            RabbitMqQueue::open(options, &lifecycle).unwrap()
        });
        let open = Open { runtime, queue, _life: lifecycle };
        eventually("ready", || open.runtime.block_on(open.queue.ready()).is_ok());
        open
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.runtime.block_on(self.queue.close());
    }
}

/// Makes dead letters.
fn bury<S: AsRef<str>>(open: &Open, ids: &[S]) {
    open.runtime.block_on(async {
        let publish = ids.iter().map(|id| open.queue.publish(message(id.as_ref(), b"{}")));
        for published in futures_util::future::join_all(publish).await {
            published.unwrap();
        }
        for _ in ids {
            let job = open.queue.next().await.unwrap();
            open.queue.settle(job.lease, JobOutcome::Dead { history: history(2) }).await.unwrap();
        }
    });
}

/// Waits until each of these is a dead letter or a job; how many there are of both. The jobs are taken.
#[track_caller]
fn assert_all_there(open: &Open, ids: &[String]) -> usize {
    let mut missing: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let (mut jobs, mut dead) = (0, 0);
    // The broker gives back what a process held once it knows that it is gone.
    eventually("all there", || {
        open.runtime.block_on(async {
            let letters = dead_letters(&*open.queue).await;
            dead = letters.len();
            for letter in &letters {
                missing.remove(letter.message.id.as_str());
            }
            while let Ok(job) = timeout(Duration::from_secs(1), open.queue.next()).await {
                let job = job.unwrap();
                missing.remove(job.message.id.as_str());
                jobs += 1;
                open.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
            }
        });
        eprintln!("{jobs} jobs and {dead} dead letters, {} of {} missing", missing.len(), ids.len());
        missing.is_empty()
    });
    jobs + dead
}

#[test]
fn on_rabbitmq_a_letter_is_replayed_once_its_reason_is_mended() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 3);
    let ids = polyai.ids();
    // A single project would be asked for every event.
    let project = |name: &str| {
        format!("{{ account_id = \"{name}\", project_id = \"{name}\", api_key = \"a-key-of-nobody\" }}")
    };
    let others = format!("projects = [{}, {}]", project("one"), project("another"));
    let Rabbit { site, .. } = Rabbit::new(rabbit::SHARED_NODE.url(), &polyai, &others);
    let polyhook =
        |arguments: &[&str]| site.polyhook(arguments.iter().copied()).must_not_print("guest:guest");
    let mut run = polyhook(&["run"]).start();
    let admin = run.wait_until_ready();
    for id in &ids {
        let event = format!("evt-{id}");
        assert_eq!(deliver(run.receiver_address(), &site.secret, &event, &polyai.event(id)), Some(204));
    }
    eventually("dead", || depth(admin, "dead") == 3);
    let listed = lines(&polyhook(&["dead", "list", "--json"]).run().expect_exit_code(0).stdout);
    assert_eq!(listed.iter().filter(|letter| letter["reason"] == "unknown_project").count(), 3, "{listed:?}");
    assert_eq!(depth(admin, "dead"), 3, "they are back when it ends");
    run.stop();

    let project = format!(
        "account_id = \"{}\"\nproject_id = \"{}\"\napi_key_file = \"key\"\n",
        polyai.access.account_id, polyai.access.project_id
    );
    let config = std::fs::read_to_string(site.path().join("polyhook.toml")).unwrap();
    site.write("polyhook.toml", &format!("{config}\n[[projects]]\n{project}"));
    let mut work = polyhook(&["work"]).start();
    let admin = work.wait_until_ready();
    let said = polyhook(&["dead", "replay", "--reason", "unknown_project"]).run().expect_exit_code(0);
    assert_eq!(said.stdout, "replayed 3 dead letters\n");
    eventually("archived", || site.manifests().len() == 3);
    eventually("nothing is left", || depth(admin, "dead") + depth(admin, "fetch") == 0);
    let announced = metric(admin, "polyhook_announcements_total{outcome=\"unrouted\"}");
    assert_eq!(announced, 3, "nobody has bound a queue, but each was announced");
    work.stop();
    assert_eq!(sound_archive(&site.archive()).keys().collect::<BTreeSet<_>>(), ids.iter().collect());
}

#[test]
fn a_killed_replay_loses_nothing() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let rabbit = Rabbit::new(rabbit::SHARED_NODE.url(), &polyai, "");
    let ids: Vec<_> = (0..2000).map(|n| format!("evt_{n}")).collect();
    bury(&rabbit.open(), &ids);
    let replay = ["dead", "replay", "--all", "--json"];
    for _ in 0..3 {
        let mut process = rabbit.site.polyhook(replay).must_not_print("guest:guest").start();
        eventually("begun", || process.stdout().len() > 100 || !process.is_running());
        assert!(process.is_running(), "too fast to be killed: {:?}", process.stderr());
        process.kill();
    }
    let there = assert_all_there(&rabbit.open(), &ids);
    // What was killed between confirm and acknowledgement is both.
    assert!(there <= ids.len() + 3 * 16, "{there}");
}

#[test]
fn a_broker_that_goes_away_ends_a_replay_and_loses_nothing() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let node = Node::start(ClientCertificate::Optional);
    let rabbit = Rabbit::new(node.url(), &polyai, "");
    let ids: Vec<_> = (0..2000).map(|n| format!("evt_{n}")).collect();
    bury(&rabbit.open(), &ids);
    let mut process =
        rabbit.site.polyhook(["dead", "replay", "--all", "--json"]).must_not_print("guest:guest").start();
    eventually("begun", || process.stdout().len() > 100);
    node.kill();
    assert_eq!(process.wait(Duration::from_secs(15)).code(), Some(1));
    assert!(process.stderr().iter().any(|line| line.starts_with("error:")), "{:?}", process.stderr());
    node.restart();
    assert_all_there(&rabbit.open(), &ids);

    // The rest, undisturbed.
    let begun = Instant::now();
    let said = rabbit
        .site
        .polyhook(["dead", "replay", "--all"])
        .must_not_print("guest:guest")
        .run()
        .expect_exit_code(0);
    eprintln!("{} in {:?}", said.stdout.trim(), begun.elapsed());
}
