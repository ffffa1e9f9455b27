//! No accepted delivery is lost when a process ends, by SIGTERM, SIGINT or SIGKILL.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

use super::verified_archive;
use crate::support::process::{Installation, PolyhookCommand, SimulatedPolyAi, deliver, eventually, metric};

/// Senders that run until the receiver no longer answers or all calls are delivered.
struct Load {
    accepted: Arc<Mutex<BTreeSet<String>>>,
    senders: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(to: std::net::SocketAddr, polyai: &SimulatedPolyAi, ids: &Arc<Vec<String>>) -> Self {
        let accepted = Arc::new(Mutex::new(BTreeSet::new()));
        let next = Arc::new(AtomicUsize::new(0));
        let polyai = Arc::new((polyai.access.secret.clone(), polyai.event("ID")));
        let senders = (0..8).map(|_| {
            let (accepted, next) = (Arc::clone(&accepted), Arc::clone(&next));
            let (ids, polyai) = (Arc::clone(ids), Arc::clone(&polyai));
            std::thread::spawn(move || {
                let (secret, template) = &*polyai;
                let template = String::from_utf8(template.clone()).unwrap();
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let body = template.replace("\"ID\"", &format!("\"{id}\""));
                    match deliver(to, secret, &format!("evt-{id}"), body.as_bytes()) {
                        Some(204) => drop(accepted.lock().unwrap().insert(id.clone())),
                        Some(503) => {}
                        None => return,
                        Some(other) => panic!("answered {other}"),
                    }
                }
            })
        });
        Self { senders: senders.collect(), accepted }
    }

    fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    fn join(self) -> BTreeSet<String> {
        for sender in self.senders {
            sender.join().unwrap();
        }
        Arc::into_inner(self.accepted).unwrap().into_inner().unwrap()
    }
}

/// Runs a query that returns a number on the file of the embedded queue.
fn count(site: &Installation, query: &str) -> u64 {
    let path = site.path().join("polyhook-data/queue.db");
    let open = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    open.busy_timeout(Duration::from_secs(10)).unwrap();
    open.query_row(query, [], |row| row.get(0)).unwrap()
}

fn assert_every_204_is_archived_once_after(signal: Signal) {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 3000);
    let site = Installation::new(&polyai.access, "worker.concurrency = 4");
    let ids = Arc::new(polyai.ids());
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    let load = Load::start(run.receiver_address(), &polyai, &ids);
    eventually("some are accepted", || load.accepted() >= 300);
    assert!(load.accepted() < 3000, "the load ended before the signal, so the test shows nothing");
    if signal == Signal::SIGKILL {
        run.kill();
    } else {
        run.signal(signal);
        assert_eq!(run.wait(Duration::from_secs(10)).code(), Some(0), "{:?}", run.stderr().last());
    }
    let accepted = load.join();
    assert!((300..3000).contains(&accepted.len()), "{}", accepted.len());
    let archived = site.manifests().len();
    assert!(
        archived < accepted.len(),
        "everything was archived before the signal, so the test shows nothing"
    );
    eprintln!("{signal}: {} answered 204, {archived} archived at the end", accepted.len());
    if signal != Signal::SIGKILL {
        assert_eq!(
            count(&site, "SELECT count(*) FROM messages WHERE state = 'leased'"),
            0,
            "jobs are returned to the queue"
        );
    }

    let mut run = site.polyhook(["run"]).start();
    let admin = run.wait_until_ready();
    eventually("the queue is empty", || {
        let open = count(&site, "SELECT count(*) FROM messages WHERE state <> 'done'");
        open == 0 && metric(admin, "polyhook_queue_depth{queue=\"fetch\"}") == 0
    });
    run.stop();
    let archived = verified_archive(&site.archive());
    for id in &accepted {
        assert_eq!(archived.get(id).unwrap_or_else(|| panic!("{id} is lost"))["revision"], 1);
    }
    // A delivery that was stored but not answered may be archived too. Nothing else may.
    assert!(archived.keys().all(|id| ids.contains(id)));
    let announced = count(&site, "SELECT count(DISTINCT subject) FROM announcements");
    assert_eq!(announced, archived.len() as u64);
    assert_eq!(
        count(&site, "SELECT count(*) FROM announcements"),
        announced,
        "one announcement per conversation"
    );
}

#[test]
fn sigterm_under_load_loses_nothing() {
    assert_every_204_is_archived_once_after(Signal::SIGTERM);
}

#[test]
fn sigint_under_load_loses_nothing() {
    assert_every_204_is_archived_once_after(Signal::SIGINT);
}

#[test]
fn kill_9_under_load_loses_nothing() {
    assert_every_204_is_archived_once_after(Signal::SIGKILL);
}

#[test]
fn a_second_signal_aborts_and_the_job_runs_again() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let ids = polyai.ids();
    let fault = json!({ "fault": { "operations": ["v3_conversation"], "action": { "delay": "60s" } } });
    polyai.control("POST", "faults", &fault);
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run"]).start();
    run.wait_until_ready();
    assert_eq!(deliver(run.receiver_address(), &site.secret, "evt-1", &polyai.event(&ids[0])), Some(204));
    let admin = run.address("serving /livez, /readyz and /metrics");
    eventually("the job runs", || metric(admin, "polyhook_jobs_running") == 1);
    run.signal(Signal::SIGTERM);
    run.wait_for("the drain", |line| line.contains("draining").then_some(()));
    std::thread::sleep(Duration::from_millis(300));
    assert!(run.is_running(), "the first signal waits for running jobs");
    run.signal(Signal::SIGTERM);
    let code = run.wait(Duration::from_secs(3)).code();
    assert_eq!(code, Some(1), "{:#?}", run.stderr());
    assert!(run.stderr().iter().any(|line| line.contains("aborted by a second signal")));
    polyai.control("DELETE", "faults", &Value::Null);
    let mut run = site.polyhook(["run"]).start();
    eventually("archived", || site.manifests().len() == 1);
    run.stop();
}

/// The window of `run` is closed while it works on a job: the job ends, and so does the process.
#[test]
fn closing_the_terminal_ends_run_gracefully() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let ids = polyai.ids();
    let fault = json!({ "fault": { "operations": ["v3_conversation"], "action": { "delay": "1s" } } });
    polyai.control("POST", "faults", &fault);
    let site = Installation::new(&polyai.access, "");
    let mut run = site.polyhook(["run"]).start_on_terminal(80, false);
    run.wait_until_ready();
    assert_eq!(deliver(run.receiver_address(), &site.secret, "evt-1", &polyai.event(&ids[0])), Some(204));
    eventually("the job runs", || count(&site, "SELECT count(*) FROM messages WHERE state = 'leased'") == 1);
    run.close_terminal();
    run.wait_for("the drain", |line| line.contains("draining").then_some(()));
    // The system and the shell each send one. The second must not abort the drain.
    run.signal(Signal::SIGHUP);
    assert_eq!(run.wait(Duration::from_secs(10)).code(), Some(0), "{:#?}", run.stderr());
    assert_eq!(site.manifests().len(), 1, "the job was finished");
}

#[test]
fn closing_the_terminal_ends_commands_that_run_until_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, started) in [
        (&["simulate", "--listen", "127.0.0.1:0"][..], "POLYAI_WEBHOOK_SECRET"),
        (&["demo", "--calls", "1", "--rate", "100"], "Ctrl-C"),
        (&["tail", "--set", "queue.url=sqlite:polyhook-demo/queue.db"], "Ctrl-C"),
    ] {
        let command = PolyhookCommand::new(folder.path(), arguments).may_print_secrets();
        let mut process = command.start_on_terminal(80, true);
        process.wait_for(started, |line| line.contains(started).then_some(()));
        if arguments[0] == "demo" {
            process.wait_for("the end of the calls", |line| line.contains("to stop").then_some(()));
            let lines = process
                .stdout()
                .iter()
                .map(|line| console::strip_ansi_codes(line).into_owned())
                .collect::<Vec<_>>();
            let parts = lines.iter().flat_map(|line| line.split('\r'));
            assert!(parts.clone().all(|part| console::measure_text_width(part) <= 80), "{lines:#?}");
        }
        process.close_terminal();
        assert_eq!(process.wait(Duration::from_secs(10)).code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn an_open_live_view_does_not_delay_the_end() {
    let polyai = SimulatedPolyAi::start("", 1);
    let site = Installation::new(&polyai.access, "console = { enabled = true, listen = \"127.0.0.1:0\" }");
    let mut run = site.polyhook(["run"]).start();
    let address = run.address("serving the console");
    let mut viewer = TcpStream::connect(address).unwrap();
    write!(viewer, "GET /live/events HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut lines = BufReader::new(viewer).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("retry: ")), "the stream begins");
    let started = Instant::now();
    run.stop();
    // A connection with an open request would have seven seconds.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(lines.last().as_deref(), Some(""), "the stream has ended as a whole");
}
