//! `polyhook dead`: failed jobs are visible, and can be replayed after their cause is fixed.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{
        JobOutcome, Queue,
        rabbitmq::{CONSUMER_TIMEOUT, RabbitMqOptions, RabbitMqQueue},
        sqlite::{SqliteOptions, SqliteQueue},
    },
};
use serde_json::Value;
use tokio::{runtime::Runtime, time::timeout};

use super::verified_archive;
use crate::{
    queue_contract::{dead_letters, history, message},
    rabbitmq::config,
    support::{
        ports,
        process::{
            Installation, Process, SimulatedPolyAi, deliver, eventually, get, http_exchange, interpreter,
            metric, peak_allocated_kib,
        },
        rabbit::{self, exclusive_node_blocking},
    },
};

fn lines(stdout: &str) -> Vec<Value> {
    stdout.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn depth(admin: SocketAddr, queue: &str) -> usize {
    metric(admin, &format!("polyhook_queue_depth{{queue=\"{queue}\"}}"))
}

#[test]
fn replays_a_dead_letter_after_its_cause_is_fixed() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CALLS, 3);
    let ids = polyai.ids();
    let site = Installation::new(&polyai.access, "");
    site.write("key", "an-unknown-key");
    let mut run = site.polyhook(["run"]).must_not_print("an-unknown-key").start();
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
    assert!(ids.iter().all(|id| table.contains(id)), "nothing is cut without a terminal: {table}");
    let event = format!("evt-{}", ids[0]);
    let shown = site.polyhook(["dead", "show", &event]).run().expect_exit_code(0).stdout;
    assert!(shown.contains(&format!("polyhook dead replay {event}")), "{shown}");
    let correlation = listed[0]["correlation_id"].as_str().unwrap();
    assert!(shown.contains(correlation) && shown.contains("HTTP 401") && shown.contains(&ids[0]), "{shown}");
    let whole = site
        .polyhook(["dead", "show", &event, "--json", "--body"])
        .may_print_secrets()
        .run()
        .expect_exit_code(0);
    assert_eq!(whole.json()["body"].as_str().unwrap().as_bytes(), polyai.event(&ids[0]));
    assert_eq!(whole.json()["attempts"][0]["correlation_id"], correlation);
    assert_filters(&site, &polyai);
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
    let archived = verified_archive(&site.archive());
    assert_eq!(archived.keys().collect::<BTreeSet<_>>(), ids.iter().collect());
    let file = rusqlite::Connection::open(site.path().join("polyhook-data/queue.db")).unwrap();
    let announced: usize =
        file.query_row("SELECT count(*) FROM announcements", [], |row| row.get(0)).unwrap();
    assert_eq!(announced, 3);
}

/// Checks the filters of `dead list` with three dead letters of the reason `key_rejected`.
fn assert_filters(site: &Installation, polyai: &SimulatedPolyAi) {
    let filtered = |filter: &[&str]| {
        let arguments = [&["dead", "list", "--json"], filter].concat();
        lines(&site.polyhook(arguments).run().expect_exit_code(0).stdout).len()
    };
    assert_eq!(filtered(&["--reason", "key_rejected", "--newer-than", "1h"]), 3);
    assert_eq!(filtered(&["--project", &polyai.access.project_id, "--project", "another"]), 3);
    for nothing in [["--reason", "timeout"], ["--project", "another"], ["--older-than", "1h"]] {
        assert_eq!(filtered(&nothing), 0, "{nothing:?}");
    }
}

#[test]
fn rejects_wrong_usage_and_asks_before_dropping() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let said = site.polyhook(["dead", "list"]).run().expect_exit_code(1);
    assert!(said.stderr.contains("there is no queue file"), "{}", said.stderr);
    assert!(!site.path().join("polyhook-data").exists(), "the command creates no file");

    create_dead_letters(&Embedded::of(&site), &["a", "b", "c", "d"]);
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

    assert_asks_before_dropping(&site);

    // An unavailable broker.
    let [unused] = ports::free();
    let away = format!("queue.url = \"amqp://guest:guest@127.0.0.1:{unused}/%2f\"");
    let site = Installation::new(&polyai.access, &away);
    let begun = Instant::now();
    let said = site.polyhook(["dead", "list"]).must_not_print("guest:guest").run().expect_exit_code(1);
    assert!(said.stderr.contains("queue.url:") && said.stdout.is_empty(), "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let site = Installation::new(&polyai.access, "queue.url = \"redis://there\"");
    site.polyhook(["dead", "list"]).run().expect_exit_code(78);
}

/// Runs `dead drop` on a terminal with two dead letters.
fn assert_asks_before_dropping(site: &Installation) {
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
}

#[test]
fn listing_ten_thousand_dead_letters_needs_little_memory() {
    const LETTERS: usize = 10_000;
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    create_dead_letters(&Embedded::of(&site), &["first"]);
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
    // Stops before the end, because the process must still run when its memory is read.
    for _ in 0..LETTERS - 500 {
        stdout.read_line(&mut listed).unwrap();
    }
    let peak = peak_allocated_kib(child.id()).unwrap();
    stdout.read_to_string(&mut listed).unwrap();
    assert!(child.wait().unwrap().success());
    let ids: BTreeSet<_> = lines(&listed).iter().map(|letter| letter["id"].to_string()).collect();
    eprintln!("{} letters listed, peak {peak} KiB", ids.len());
    assert_eq!(ids.len(), LETTERS);
    assert!(peak < 16 << 10, "{peak} KiB");
}

/// A queue that the test has open beside the command.
struct OpenQueue {
    runtime: Runtime,
    queue: Arc<dyn Queue>,
    _life: Lifecycle,
}

struct Embedded;

impl Embedded {
    fn of(site: &Installation) -> OpenQueue {
        let (runtime, lifecycle) = (Runtime::new().unwrap(), Lifecycle::new());
        let path = site.path().join("polyhook-data/queue.db");
        let queue: Arc<dyn Queue> = runtime
            .block_on(async { SqliteQueue::open(&path, SqliteOptions::default(), &lifecycle).unwrap() });
        OpenQueue { runtime, queue, _life: lifecycle }
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

    fn open(&self) -> OpenQueue {
        let (runtime, lifecycle) = (Runtime::new().unwrap(), Lifecycle::new());
        let queue: Arc<dyn Queue> = runtime.block_on(async {
            let delays = [1, 2, 4].map(Duration::from_secs).to_vec();
            let config = config(&self.url, &self.prefix);
            let options = RabbitMqOptions {
                config: &config,
                delays,
                refresh_delays: Vec::new(),
                consume: Some(200),
                consumer_timeout: CONSUMER_TIMEOUT,
                only_publishes: false,
                clock: Clock::System,
            };
            RabbitMqQueue::open(options, &lifecycle).unwrap()
        });
        let open = OpenQueue { runtime, queue, _life: lifecycle };
        eventually("ready", || open.runtime.block_on(open.queue.ready()).is_ok());
        open
    }
}

impl Drop for OpenQueue {
    fn drop(&mut self) {
        self.runtime.block_on(self.queue.close());
    }
}

/// Publishes jobs and turns them into dead letters.
fn create_dead_letters<S: AsRef<str>>(open: &OpenQueue, ids: &[S]) {
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

/// Waits until each id is a dead letter or a job, takes the jobs, and returns the number of both.
#[track_caller]
fn assert_none_lost(open: &OpenQueue, ids: &[String]) -> usize {
    let mut missing: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let (mut jobs, mut dead) = (0, 0);
    // The broker returns the messages of a process once it notices that the process has ended.
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
fn on_rabbitmq_replays_a_dead_letter_after_its_cause_is_fixed() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 3);
    let ids = polyai.ids();
    // With a single project, every event would be fetched from it. Both have the same wrong key.
    let project = |name: &str| {
        format!("{{ account_id = \"{name}\", project_id = \"{name}\", api_key = \"an-unknown-key\" }}")
    };
    let console = "console = { enabled = true, listen = \"127.0.0.1:0\", allow_replay = true }";
    let others = format!("{console}\nprojects = [{}, {}]", project("one"), project("another"));
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
    assert_eq!(listed.iter().filter(|letter| letter["reason"] == "key_rejected").count(), 3, "{listed:?}");
    assert_eq!(depth(admin, "dead"), 3, "the dead letters are visible again after the command");
    assert_console_replays(&run, admin, &format!("evt-{}", ids[0]));
    run.stop();

    let project = format!(
        "account_id = \"{}\"\nproject_id = \"{}\"\napi_key_file = \"key\"\n",
        polyai.access.account_id, polyai.access.project_id
    );
    let config = std::fs::read_to_string(site.path().join("polyhook.toml")).unwrap();
    site.write("polyhook.toml", &format!("{config}\n[[projects]]\n{project}"));
    let mut work = polyhook(&["work"]).start();
    let admin = work.wait_until_ready();
    let said = polyhook(&["dead", "replay", "--reason", "key_rejected"]).run().expect_exit_code(0);
    assert_eq!(said.stdout, "replayed 3 dead letters\n");
    eventually("archived", || site.manifests().len() == 3);
    eventually("nothing is left", || depth(admin, "dead") + depth(admin, "fetch") == 0);
    let announced = metric(admin, "polyhook_announcements_total{outcome=\"unrouted\"}");
    assert_eq!(announced, 3, "no queue is bound, but each was announced");
    work.stop();
    assert_eq!(verified_archive(&site.archive()).keys().collect::<BTreeSet<_>>(), ids.iter().collect());
}

/// Replays one of three dead letters in the console while its cause is not fixed.
fn assert_console_replays(run: &Process, admin: SocketAddr, event: &str) {
    let console = run.address("serving the console");
    let page = |path: &str| {
        let (status, page) = get(console, path).unwrap();
        assert_eq!(status, 200, "{path}: {page}");
        page
    };
    let value_of = |page: &str, field: &str| {
        let (_, rest) = page.split_once(&format!("name=\"{field}\" value=\"")).expect(field);
        rest.split('"').next().unwrap().to_owned()
    };
    let submit = |action: &str, form: &str| {
        let headers = "content-type: application/x-www-form-urlencoded\r\n";
        let path = format!("/dead/actions/{action}");
        http_exchange(console, "POST", &path, headers, form.as_bytes()).unwrap()
    };
    let list = page("/dead");
    assert!(list.contains("3 dead letters in the queue") && list.contains("key_rejected"), "{list}");
    assert_eq!(depth(admin, "dead"), 3, "the dead letters are visible again after the page");
    let csrf = value_of(&list, "csrf");
    let location =
        |head: &str| head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap().to_owned();
    let (head, _) = submit("preview", &format!("csrf={csrf}&action=replay&scope=ids&id={event}"));
    let preview = page(&location(&head));
    assert!(preview.contains("Replay 1 dead letter?") && preview.contains(event), "{preview}");
    let (head, _) = submit("confirm", &format!("csrf={csrf}&selection={}", value_of(&preview, "selection")));
    assert!(page(&location(&head)).contains("Replayed 1 dead letter"));
    // The key is still wrong, so the job fails again.
    let replayed =
        || get(console, &format!("/dead/{event}")).is_some_and(|(_, page)| page.contains(">replayed<"));
    eventually("dead again, with its history", || replayed() && depth(admin, "dead") == 3);
}

#[test]
fn a_killed_replay_loses_no_message() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let rabbit = Rabbit::new(rabbit::SHARED_NODE.url(), &polyai, "");
    let ids: Vec<_> = (0..2000).map(|n| format!("evt_{n}")).collect();
    create_dead_letters(&rabbit.open(), &ids);
    let replay = ["dead", "replay", "--all", "--json"];
    for _ in 0..3 {
        let mut process = rabbit.site.polyhook(replay).must_not_print("guest:guest").start();
        eventually("begun", || process.stdout().len() > 100 || !process.is_running());
        assert!(process.is_running(), "too fast to be killed: {:?}", process.stderr());
        process.kill();
    }
    let found = assert_none_lost(&rabbit.open(), &ids);
    // A message whose replay was killed between confirm and acknowledgement is both a job and a dead letter.
    assert!(found <= ids.len() + 3 * 16, "{found}");
}

#[test]
fn a_broker_failure_ends_a_replay_without_loss() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let node = exclusive_node_blocking();
    let rabbit = Rabbit::new(node.url(), &polyai, "");
    let ids: Vec<_> = (0..2000).map(|n| format!("evt_{n}")).collect();
    create_dead_letters(&rabbit.open(), &ids);
    let mut process =
        rabbit.site.polyhook(["dead", "replay", "--all", "--json"]).must_not_print("guest:guest").start();
    eventually("begun", || process.stdout().len() > 100);
    node.kill();
    assert_eq!(process.wait(Duration::from_secs(15)).code(), Some(1));
    assert!(process.stderr().iter().any(|line| line.starts_with("error:")), "{:?}", process.stderr());
    node.restart();
    assert_none_lost(&rabbit.open(), &ids);

    // Replays the rest without a failure.
    let begun = Instant::now();
    let said = rabbit
        .site
        .polyhook(["dead", "replay", "--all"])
        .must_not_print("guest:guest")
        .run()
        .expect_exit_code(0);
    eprintln!("{} in {:?}", said.stdout.trim(), begun.elapsed());
}
