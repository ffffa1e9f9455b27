//! `polyhook endpoint rotate-secret` against a PolyAI that stops using the old secret at once.

use std::{collections::BTreeMap, net::SocketAddr, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use super::verified_archive;
use crate::support::process::{CommandOutput, Installation, SimulatedPolyAi, deliver, eventually, get};

/// Registers an endpoint that delivers to `receiver`. Returns its id and its secret.
fn register(polyai: &SimulatedPolyAi, receiver: SocketAddr) -> (String, String) {
    let body = json!({
        "name": "of the tests", "url": format!("http://{receiver}/polyai-events"),
        "event_types": ["conversation.completed"],
    });
    let created = polyai.api("POST", "/v1/webhook-endpoints", &body);
    let text = |name: &str| created[name].as_str().unwrap().to_owned();
    (text("id"), text("signing_secret"))
}

/// A running service that knows the secret of one endpoint.
struct Fixture {
    polyai: SimulatedPolyAi,
    site: Installation,
    run: crate::support::process::Process,
    endpoint: String,
    secret: String,
}

impl Fixture {
    fn start(calls: usize) -> Self {
        let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, calls);
        let site = Installation::new(&polyai.access, "queue.publish_timeout = \"3s\"");
        let run = site.polyhook(["run"]).start();
        run.wait_until_ready();
        let (endpoint, secret) = register(&polyai, run.receiver_address());
        site.write("secrets", &format!("{secret}\n"));
        eventually("the secret is active", || {
            deliver(run.receiver_address(), &secret, "evt-known", b"{}") == Some(204)
        });
        Self { polyai, site, run, endpoint, secret }
    }

    fn rotate(&self, more: &[&str]) -> crate::support::process::PolyhookCommand {
        // Long enough for a busy machine, and short enough for many tests.
        let wait: &[&str] = if more.contains(&"--wait") { &[] } else { &["--wait", "2s"] };
        let arguments = [&["endpoint", "rotate-secret"], wait, more].concat();
        self.site.polyhook(arguments).must_not_print(&self.secret)
    }

    /// Delivers all calls at `rate` per second. PolyAI's first retry comes after 0.6 s, the second 3 s later.
    fn deliver(&self, rate: u32) -> usize {
        let sender = json!({ "rate": rate, "time_scale": 0.01 });
        let started = self.polyai.control("POST", "deliver", &json!({ "sender": sender }));
        usize::try_from(started["deliveries"].as_u64().unwrap()).unwrap()
    }

    fn delivered(&self) -> Vec<Value> {
        self.polyai.control("GET", "deliveries", &Value::Null)["deliveries"].as_array().unwrap().clone()
    }

    /// Waits for the last retry. Every delivery must be accepted in the end, with no answer but 503 before.
    #[track_caller]
    fn assert_nothing_lost(&self, count: usize) -> BTreeMap<String, usize> {
        eventually("all delivered", || self.delivered().len() >= count);
        let mut answers = BTreeMap::new();
        for delivery in self.delivered() {
            assert_eq!(delivery["status"], 204, "{delivery}");
            for earlier in delivery["earlier"].as_array().unwrap() {
                *answers.entry(earlier.to_string()).or_default() += 1;
            }
        }
        let retry_later = json!({ "outcome": "answered", "status": 503 }).to_string();
        assert!(answers.keys().all(|answer| *answer == retry_later), "{answers:?}");
        eventually("all archived", || self.site.manifests().len() >= count);
        assert_eq!(verified_archive(&self.site.archive()).len(), count);
        answers
    }

    fn file(&self) -> String {
        std::fs::read_to_string(self.site.path().join("secrets")).unwrap()
    }

    fn rotations(&self) -> u64 {
        let requests = self.polyai.control("GET", "requests", &Value::Null);
        requests["endpoint_rotate"]["200"].as_u64().unwrap_or_default()
    }

    fn status(&self, secret: &str) -> Option<u16> {
        deliver(self.run.receiver_address(), secret, "evt-probe", b"{}")
    }
}

fn first_secret(file: &str) -> &str {
    file.lines().find(|line| !line.starts_with('#') && !line.is_empty()).unwrap()
}

#[test]
fn loses_no_delivery_under_load() {
    let mut world = Fixture::start(1200);
    let count = world.deliver(200);
    eventually("the deliveries have started", || world.delivered().len() > 100);
    let output = world.rotate(&["--json"]).run().expect_exit_code(0);
    let during = world.delivered().len();
    assert!(during < count, "the load ended before the rotation, so the test shows nothing");
    let report = output.json();
    assert_eq!((&report["endpoint_id"], &report["written"]), (&json!(world.endpoint), &json!("replaced")));
    assert_eq!((&report["old_secrets"], report.get("signing_secret")), (&json!(1), None));

    let answers = world.assert_nothing_lost(count);
    eprintln!("{count} delivered, {during} before the end of the rotation; earlier answers: {answers:?}");
    assert_eq!(world.rotations(), 1);
    let file = world.file();
    let mode = std::fs::metadata(world.site.path().join("secrets")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let new = first_secret(&file).to_owned();
    assert_ne!(new, world.secret);
    assert!(
        file.contains("# polyhook:expires=") && file.contains(&world.secret),
        "the old secret expires later"
    );
    // Retries may still be signed with the old secret. Until the window ends, an unknown secret gets a 503.
    assert_eq!(
        [&new, &world.secret, "whsec_an-unknown-secret"].map(|secret| world.status(secret)),
        [204, 204, 503].map(Some)
    );
    world.run.stop();
}

#[test]
fn a_kill_at_any_step_leaves_a_valid_file() {
    let mut world = Fixture::start(1200);
    let count = world.deliver(150);
    // A kill before the request to PolyAI.
    let mut rotating = world.rotate(&["--wait", "1h"]).start();
    eventually("the window is open", || world.file().contains("# polyhook:window="));
    rotating.kill();
    assert_eq!((world.rotations(), first_secret_after_window(&world.file())), (0, world.secret.clone()));
    eventually("the window is active", || world.status("whsec_an-unknown-secret") == Some(503));
    assert_eq!(world.status(&world.secret), Some(204));

    // A kill after the rotation, before the answer arrives: the new secret is lost.
    let slow = json!({ "fault": {
        "operations": ["endpoint_rotate"], "times": 1, "action": { "drip": { "bytes": 1, "pause": "1s" } },
    }});
    world.polyai.control("POST", "faults", &slow);
    let mut rotating = world.rotate(&[]).start();
    eventually("rotated", || world.rotations() == 1);
    rotating.kill();
    assert_eq!(first_secret(&world.file()), world.secret);
    assert_eq!(world.status(&world.secret), Some(204));

    // A truncated answer: PolyAI has rotated, and the new secret is lost.
    let broken =
        json!({ "fault": { "operations": ["endpoint_rotate"], "times": 1, "action": { "truncate": 5 } } });
    world.polyai.control("POST", "faults", &broken);
    let output = world.rotate(&[]).run().expect_exit_code(1);
    assert!(output.stderr.contains("run this command again before then"), "{}", output.stderr);
    assert_eq!((world.rotations(), first_secret(&world.file())), (2, &*world.secret));

    world.rotate(&[]).run().expect_exit_code(0);
    assert_eq!(world.rotations(), 3);
    let answers = world.assert_nothing_lost(count);
    eprintln!("{count} delivered; earlier answers: {answers:?}");
    world.run.stop();
}

fn first_secret_after_window(file: &str) -> String {
    assert!(file.starts_with("# polyhook:window="), "a complete file that starts with the window");
    first_secret(file).to_owned()
}

#[test]
fn rotates_nothing_if_the_new_secret_has_no_place() {
    let mut world = Fixture::start(1);
    for (file, word) in [("/proc/version", "Kubernetes"), ("not/there", "No such file")] {
        let output = world.rotate(&["--secrets-file", file]).run().expect_exit_code(1);
        assert!(
            output.stderr.contains("Nothing was rotated") && output.stderr.contains(word),
            "{}",
            output.stderr
        );
    }
    // Receivers use eight secrets.
    let others: Vec<_> = (1..8).map(|number| format!("whsec_of_another_endpoint_{number}\n")).collect();
    world.site.write("secrets", &format!("{}\n{}", world.secret, others.concat()));
    let before = world.file();
    let output = world.rotate(&[]).run().expect_exit_code(1);
    for word in ["9 signing secrets", "at most 8", "--keep-old 0s", "Nothing was rotated"] {
        assert!(output.stderr.contains(word), "{}", output.stderr);
    }
    assert_eq!((world.rotations(), world.file()), (0, before));
    world.rotate(&["--keep-old", "0s", "--wait", "0s"]).run().expect_exit_code(0);
    assert_eq!(world.rotations(), 1);
    world.run.stop();
}

#[test]
fn rescues_a_new_secret_that_cannot_be_written() {
    let mut world = Fixture::start(1);
    let folder = world.site.path().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("secrets"), &world.secret).unwrap();
    // The folder is deleted during the request to PolyAI.
    let late = json!({ "fault": {
        "operations": ["endpoint_rotate"], "times": 1, "action": { "drip": { "bytes": 20, "pause": "1s" } },
    }});
    world.polyai.control("POST", "faults", &late);
    let rotating = world.rotate(&["--secrets-file", "elsewhere/secrets"]).start();
    eventually("rotated", || world.rotations() == 1);
    std::fs::remove_dir_all(&folder).unwrap();
    let rescue_file = rotating.wait_for("the rescue file", |line| {
        let (_, rest) = line.split_once("It is in ")?;
        Some(rest.split_once(" (mode 0600)")?.0.to_owned())
    });
    let secret = std::fs::read_to_string(&rescue_file).unwrap();
    assert_eq!(std::fs::metadata(&rescue_file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(secret.trim(), world.secret);
    drop(rotating);
    // PolyAI signs with this secret now.
    world.site.write("secrets", &secret);
    eventually("the secret is active", || world.status(secret.trim()) == Some(204));
    let count = world.deliver(10);
    world.assert_nothing_lost(count);
    world.run.stop();
}

#[test]
fn keeps_the_secrets_of_other_endpoints() {
    let mut world = Fixture::start(1);
    let (other, other_secret) = register(&world.polyai, world.run.receiver_address());
    let output = world.rotate(&[]).run().expect_exit_code(2);
    assert!(output.stderr.contains(&world.endpoint) && output.stderr.contains(&other), "{}", output.stderr);
    world.site.write("secrets", &format!("{}\n{other_secret}\n", world.secret));
    let output = world.rotate(&[&world.endpoint, "--wait", "0s"]).run().expect_exit_code(0);
    assert!(
        output.stdout.contains("2 older secrets") && output.stdout.contains("0, valid until"),
        "{}",
        output.stdout
    );
    // The file now names the endpoint of the first secret.
    let output = world
        .rotate(&[&world.endpoint, "--wait", "0s", "--json", "--keep-old", "0s"])
        .run()
        .expect_exit_code(0)
        .json();
    assert_eq!(output["old_secrets"], 1, "{output}");
    eventually("the secret is active", || world.status(first_secret(&world.file())) == Some(204));
    assert_eq!(world.status(&other_secret), Some(204));
    world.run.stop();
}

#[test]
fn explains_errors_of_polyai() {
    let mut world = Fixture::start(1);
    let before = world.file();
    let refused = |more: &[&str], code, words: &[&str]| {
        let CommandOutput { stderr, stdout, .. } = world.rotate(more).run().expect_exit_code(code);
        assert!(stdout.is_empty() && words.iter().all(|word| stderr.contains(word)), "{words:?}: {stderr}");
        assert_eq!(world.file(), before, "{stderr}");
    };
    refused(&["whe_unknown"], 1, &["no endpoint whe_unknown", &world.endpoint]);
    refused(&["--project", "none"], 2, &["--project", &world.polyai.access.project_id]);
    let wrong_key = ["--set", "projects[0].data_api_key=of-another-region"];
    refused(&wrong_key, 1, &["401", "data_api_key_file", "correlation id"]);
    let fault = |status: u16| {
        let fault = json!({ "operations": ["endpoint_rotate"], "times": 1, "action": { "status": status } });
        world.polyai.control("POST", "faults", &json!({ "fault": fault }));
    };
    for (status, word) in [(403, "may not manage"), (404, "Nothing was rotated"), (409, "409"), (429, "429")]
    {
        fault(status);
        refused(&["--wait", "0s"], 1, &[word, "Nothing was rotated", "correlation id"]);
    }
    fault(500);
    let output = world.rotate(&["--wait", "0s"]).run().expect_exit_code(1);
    assert!(output.stderr.contains("may have rotated") && output.stderr.contains("500"), "{}", output.stderr);
    assert!(world.file().starts_with("# polyhook:window="), "the window stays open");
    let nothing = get(world.run.receiver_address(), "/").expect("the receiver still runs").0;
    assert_eq!((world.rotations(), nothing), (0, 404));
    world.run.stop();
}
