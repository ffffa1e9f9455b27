//! Secrets and keys change while the service runs: no restart is needed, no delivery and no job is lost.

use std::{
    net::SocketAddr,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::process::{
    Installation, PolyhookCommand, Process, SimulatedPolyAi, deliver, eventually, get, metric,
};

/// Senders with a valid secret that run until they are stopped; every answer must be a 204.
struct ValidLoad {
    stopped: Arc<AtomicBool>,
    sent: Arc<AtomicU32>,
    senders: Vec<JoinHandle<()>>,
}

impl ValidLoad {
    fn start(to: SocketAddr, secret: &str, body: &[u8]) -> Self {
        let (stopped, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let senders = (0..3).map(|_| {
            let (stopped, sent) = (Arc::clone(&stopped), Arc::clone(&sent));
            let (secret, body) = (secret.to_owned(), body.to_owned());
            std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let n = sent.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(deliver(to, &secret, &format!("evt-{n}"), &body), Some(204), "number {n}");
                }
            })
        });
        Self { senders: senders.collect(), stopped, sent }
    }

    fn stop(self) -> u32 {
        self.stopped.store(true, Ordering::Relaxed);
        for sender in self.senders {
            sender.join().unwrap();
        }
        self.sent.load(Ordering::Relaxed)
    }
}

/// Replaces a file by renaming another one, as editors and deployment tools do.
fn replace_file(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}

/// Returns the body of `/readyz`, or an empty text if the process is not ready, which is possible for a moment on a busy
/// machine.
fn readyz(admin: SocketAddr) -> String {
    get(admin, "/readyz").filter(|(status, _)| *status == 200).map(|(_, body)| body).unwrap_or_default()
}

/// A timeout for busy disks, which these tests do not test.
const LONG_PUBLISH_TIMEOUT: &str = "queue.publish_timeout = \"3s\"";

fn reloads(process: &Process) -> usize {
    process.stderr().iter().filter(|line| line.contains("signing secrets reloaded")).count()
}

#[test]
fn reloads_secrets_under_load_without_rejecting_a_valid_delivery() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, LONG_PUBLISH_TIMEOUT);
    let mut receive = site.polyhook(["receive"]).must_not_print("of-this-round").start();
    receive.wait_until_ready();
    let to = receive.receiver_address();
    let body = polyai.event("CA1");
    let load = ValidLoad::start(to, &site.secret, &body);
    let new_secret = |round: usize| format!("secret-of-this-round-{round}");
    for round in 0..8 {
        let text = format!("{}\n{}\n", new_secret(round), site.secret);
        // Rename and overwrite, each with and without SIGHUP.
        if round % 4 < 2 {
            replace_file(&site.path().join("secrets"), &text);
        } else {
            site.write("secrets", &text);
        }
        if round % 2 == 0 {
            receive.signal(Signal::SIGHUP);
        }
        let status = |round| deliver(to, &new_secret(round), "evt-fresh", &body);
        eventually("the secret is active", || status(round) == Some(204));
        if round > 0 {
            assert_eq!(status(round - 1), Some(401), "the previous secret is inactive");
        }
    }
    let sent = load.stop();
    assert!(sent > 200, "{sent} deliveries are too few for a load test");
    assert_eq!(reloads(&receive), 8);
    assert_eq!(receive.stderr().iter().filter(|line| line.contains("SIGHUP")).count(), 4);
    receive.stop();
}

/// A Kubernetes projected volume: `secrets` → `..data/secrets`, `..data` → a folder that is replaced atomically.
#[test]
fn notices_kubernetes_volume_updates() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(
        &polyai.access,
        &format!("{LONG_PUBLISH_TIMEOUT}\nsignature.secrets_file = \"mount/secrets\""),
    );
    let mount = site.path().join("mount");
    let version = |number: usize, secret: &str| {
        let name = format!("..2026_11_24_{number}");
        std::fs::create_dir_all(mount.join(&name)).unwrap();
        std::fs::write(mount.join(&name).join("secrets"), secret).unwrap();
        symlink(&name, mount.join("..data_tmp")).unwrap();
        std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
        if number > 0 {
            std::fs::remove_dir_all(mount.join(format!("..2026_11_24_{}", number - 1))).unwrap();
        }
    };
    version(0, &site.secret);
    symlink("..data/secrets", mount.join("secrets")).unwrap();
    let mut receive = site.polyhook(["receive"]).start();
    receive.wait_until_ready();
    let (to, body) = (receive.receiver_address(), polyai.event("CA1"));
    assert_eq!(deliver(to, &site.secret, "evt-1", &body), Some(204));
    for number in 1..4 {
        let secret = format!("the-secret-of-version-{number}");
        version(number, &secret);
        eventually("the secret is active", || deliver(to, &secret, "evt-2", &body) == Some(204));
        assert_eq!(deliver(to, &site.secret, "evt-3", &body), Some(401));
    }
    receive.stop();
}

#[test]
fn reports_an_invalid_file_once_and_keeps_the_old_secrets() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, LONG_PUBLISH_TIMEOUT);
    let mut run = site.polyhook(["run"]).must_not_print("hunter2").start();
    let admin = run.wait_until_ready();
    let (to, body) = (run.receiver_address(), polyai.event("CA1"));
    site.write("secrets", "hunter2\n");
    std::fs::remove_file(site.path().join("key")).unwrap();
    eventually("reported", || readyz(admin).contains("secrets: secrets: signing secret number 1 is shorter"));
    eventually("reported", || readyz(admin).contains("degraded: api_key: key: "));
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(deliver(to, &site.secret, "evt-1", &body), Some(204));
    let logged = |condition: &str| run.log().iter().filter(|line| line["condition"] == condition).count();
    assert_eq!((logged("secrets"), logged("api_key")), (1, 1), "logged once, not every second");
    site.write("secrets", &site.secret);
    site.write("key", &polyai.access.api_key);
    eventually("ready without a condition", || readyz(admin) == "ready\n");
    // A log line is written up to 20 ms later, and all lines before the process ends.
    run.stop();
    let logged = |condition: &str| run.log().iter().filter(|line| line["condition"] == condition).count();
    assert_eq!((logged("secrets"), logged("api_key")), (2, 2));
}

#[test]
fn ignores_sighup_if_there_is_nothing_to_reload() {
    let folder = tempfile::tempdir().unwrap();
    let mut receive = PolyhookCommand::new(folder.path(), ["receive"])
        .env("POLYAI_WEBHOOK_SECRET", "0123456789abcdef")
        .env("POLYHOOK__SERVER__LISTEN", "127.0.0.1:0")
        .env("POLYHOOK__ADMIN__LISTEN", "127.0.0.1:0")
        .start();
    receive.receiver_address();
    for _ in 0..5 {
        receive.signal(Signal::SIGHUP);
    }
    receive.wait_until_ready();
    assert_eq!(deliver(receive.receiver_address(), "0123456789abcdef", "evt-1", b"{}"), Some(204));
    receive.stop();
}

/// The new key is in the file immediately before PolyAI rejects the old one.
#[test]
fn jobs_continue_with_the_new_key() {
    const CALLS: usize = 300;
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, CALLS);
    let site = Installation::new(&polyai.access, &format!("{LONG_PUBLISH_TIMEOUT}\nworker.concurrency = 4"));
    let fault = json!({ "fault": { "operations": ["v3_conversation"], "action": { "delay": "40ms" } } });
    polyai.control("POST", "faults", &fault);
    let mut run = site.polyhook(["run"]).must_not_print("another-simulated").start();
    let admin = run.wait_until_ready();
    for id in polyai.ids() {
        let body = polyai.event(&id);
        eventually("accepted", || {
            deliver(run.receiver_address(), &site.secret, &format!("evt-{id}"), &body) == Some(204)
        });
    }
    let mut rotated = 0;
    for share in [1, 2, 3] {
        eventually("some are archived", || site.manifests().len() >= CALLS * share / 4);
        let key = format!("another-simulated-one-{share}");
        replace_file(&site.path().join("key"), &key);
        polyai.control("PUT", "api-key", &json!({ "api_key": key }));
        rotated += usize::from(site.manifests().len() < CALLS);
    }
    assert_eq!(rotated, 3, "everything was archived before the last rotation, so the test shows nothing");
    eventually("all are archived or dead letters", || {
        site.manifests().len() + metric(admin, "polyhook_dead_letters_total{reason=\"key_rejected\"}")
            >= CALLS
    });
    assert_eq!(site.manifests().len(), CALLS);
    let refused = &polyai.control("GET", "requests", &Value::Null)["v3_conversation"]["401"];
    assert!(
        refused.as_u64().is_some_and(|refused| refused > 0),
        "no request used the old key before the reload"
    );
    run.stop();
}

#[test]
fn a_key_that_stops_working_is_named_as_expired_or_revoked() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 2);
    let site = Installation::new(&polyai.access, "");
    let ids = polyai.ids();
    let mut run = site.polyhook(["run"]).must_not_print("a-new-key").start();
    let admin = run.wait_until_ready();
    let deliver = |id: &str| {
        let event = polyai.event(id);
        assert_eq!(deliver(run.receiver_address(), &site.secret, &format!("evt-{id}"), &event), Some(204));
    };
    deliver(&ids[0]);
    eventually("archived", || !site.manifests().is_empty());
    assert_eq!(readyz(admin), "ready\n");

    let doctor = || site.polyhook(["doctor", "--json"]).run().stdout;
    assert!(!doctor().contains("revoked"));
    polyai.control("PUT", "api-key", &json!({ "api_key": "a-new-key" }));
    deliver(&ids[1]);
    let named = "worked before, so it is expired or revoked";
    eventually("reported", || {
        let said = readyz(admin);
        said.contains("degraded: api_key_rejected: project ") && said.contains(named)
    });
    eventually("dead", || metric(admin, "polyhook_dead_letters_total{reason=\"key_rejected\"}") == 1);
    let dead = site.polyhook(["dead", "list", "--json"]).run().expect_exit_code(0).stdout;
    assert!(dead.contains(named) && dead.contains("key_rejected"), "{dead}");
    let said = doctor();
    assert!(said.contains("expired or revoked key: the archive has conversations of this project"), "{said}");

    // The condition ends with the new key, and not only with the next request.
    replace_file(&site.path().join("key"), "a-new-key");
    eventually("no longer reported", || readyz(admin) == "ready\n");
    run.stop();
}
