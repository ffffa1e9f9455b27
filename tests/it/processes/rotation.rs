//! `polyhook endpoint rotate-secret` against a PolyAI that forgets the old secret at once.

use std::{collections::BTreeMap, net::SocketAddr, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use super::verified_archive;
use crate::support::process::{CommandOutput, Installation, SimulatedPolyAi, deliver, eventually, get};

/// An endpoint of the stand-in that delivers to `receiver`: its id and its secret.
fn register(polyai: &SimulatedPolyAi, receiver: SocketAddr) -> (String, String) {
    let body = json!({
        "name": "of the tests", "url": format!("http://{receiver}/polyai-events"),
        "event_types": ["conversation.completed"],
    });
    let made = polyai.api("POST", "/v1/webhook-endpoints", &body);
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (text("id"), text("signing_secret"))
}

/// A running service with one endpoint whose secret it knows.
struct World {
    polyai: SimulatedPolyAi,
    site: Installation,
    run: crate::support::process::Process,
    endpoint: String,
    secret: String,
}

impl World {
    fn start(calls: usize) -> Self {
        let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, calls);
        let site = Installation::new(&polyai.access, "queue.publish_timeout = \"3s\"");
        let run = site.polyhook(["run"]).start();
        run.wait_until_ready();
        let (endpoint, secret) = register(&polyai, run.receiver_address());
        site.write("secrets", &format!("{secret}\n"));
        eventually("in force", || deliver(run.receiver_address(), &secret, "evt-known", b"{}") == Some(204));
        Self { polyai, site, run, endpoint, secret }
    }

    fn rotate(&self, more: &[&str]) -> crate::support::process::PolyhookCommand {
        // Long enough for a busy machine to notice, and short enough to wait for it often.
        let wait: &[&str] = if more.contains(&"--wait") { &[] } else { &["--wait", "2s"] };
        let arguments = [&["endpoint", "rotate-secret"], wait, more].concat();
        self.site.polyhook(arguments).must_not_print(&self.secret)
    }

    /// Delivers all calls, `rate` a second; PolyAI's first retry comes after 0.6 s, the next 3 s later.
    fn deliver(&self, rate: u32) -> usize {
        let sender = json!({ "rate": rate, "time_scale": 0.01 });
        let started = self.polyai.control("POST", "deliver", &json!({ "sender": sender }));
        usize::try_from(started["deliveries"].as_u64().unwrap()).unwrap()
    }

    fn delivered(&self) -> Vec<Value> {
        self.polyai.control("GET", "deliveries", &Value::Null)["deliveries"].as_array().unwrap().clone()
    }

    /// Waits for the last retry. Every delivery is accepted at last, and none was refused on the way.
    #[track_caller]
    fn assert_nothing_lost(&self, count: usize) -> BTreeMap<String, usize> {
        eventually("all delivered", || self.delivered().len() >= count);
        let mut answers = BTreeMap::new();
        for delivery in self.delivered() {
            assert_eq!(delivery["answer"], json!({ "status": 204 }), "{delivery}");
            for earlier in delivery["earlier"].as_array().unwrap() {
                *answers.entry(earlier.to_string()).or_default() += 1;
            }
        }
        let asked_again = json!({ "status": 503 }).to_string();
        assert!(answers.keys().all(|answer| *answer == asked_again), "{answers:?}");
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
fn nothing_is_lost_in_a_rotation_under_load() {
    let mut world = World::start(1200);
    let count = world.deliver(200);
    eventually("under way", || world.delivered().len() > 100);
    let said = world.rotate(&["--json"]).run().expect_exit_code(0);
    let during = world.delivered().len();
    assert!(during < count, "the load was over before the rotation: it shows nothing");
    let done = said.json();
    assert_eq!((&done["endpoint_id"], &done["written"]), (&json!(world.endpoint), &json!("replaced")));
    assert_eq!((&done["old_secrets"], done.get("signing_secret")), (&json!(1), None));

    let answers = world.assert_nothing_lost(count);
    eprintln!("{count} delivered, {during} before the rotation was over; on the way: {answers:?}");
    assert_eq!(world.rotations(), 1);
    let file = world.file();
    let mode = std::fs::metadata(world.site.path().join("secrets")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let new = first_secret(&file).to_owned();
    assert_ne!(new, world.secret);
    assert!(file.contains("# polyhook:expires=") && file.contains(&world.secret), "the old one ends later");
    // Retries may still be signed with the old one; a stranger is told to come again for a few minutes.
    assert_eq!(
        [&new, &world.secret, "whsec_of-a-stranger"].map(|secret| world.status(secret)),
        [204, 204, 503].map(Some)
    );
    world.run.stop();
}

#[test]
fn a_kill_at_any_step_leaves_a_file_that_works() {
    let mut world = World::start(1200);
    let count = world.deliver(150);
    // Before PolyAI is asked.
    let mut rotating = world.rotate(&["--wait", "1h"]).start();
    eventually("the window is open", || world.file().contains("# polyhook:window="));
    rotating.kill();
    assert_eq!((world.rotations(), first_secret_after_window(&world.file())), (0, world.secret.clone()));
    eventually("asked again", || world.status("whsec_of-a-stranger") == Some(503));
    assert_eq!(world.status(&world.secret), Some(204));

    // After PolyAI has rotated, while the answer is on its way: nobody knows the new secret.
    let slow = json!({ "fault": {
        "operations": ["endpoint_rotate"], "times": 1, "action": { "drip": { "bytes": 1, "pause": "1s" } },
    }});
    world.polyai.control("POST", "faults", &slow);
    let mut rotating = world.rotate(&[]).start();
    eventually("rotated", || world.rotations() == 1);
    rotating.kill();
    assert_eq!(first_secret(&world.file()), world.secret);
    assert_eq!(world.status(&world.secret), Some(204));

    // The answer breaks: PolyAI has rotated, and says so to nobody.
    let broken =
        json!({ "fault": { "operations": ["endpoint_rotate"], "times": 1, "action": { "truncate": 5 } } });
    world.polyai.control("POST", "faults", &broken);
    let said = world.rotate(&[]).run().expect_exit_code(1);
    assert!(said.stderr.contains("run this command again before then"), "{}", said.stderr);
    assert_eq!((world.rotations(), first_secret(&world.file())), (2, &*world.secret));

    world.rotate(&[]).run().expect_exit_code(0);
    assert_eq!(world.rotations(), 3);
    let answers = world.assert_nothing_lost(count);
    eprintln!("{count} delivered; on the way: {answers:?}");
    world.run.stop();
}

fn first_secret_after_window(file: &str) -> String {
    assert!(file.starts_with("# polyhook:window="), "whole, with the window before all else");
    first_secret(file).to_owned()
}

#[test]
fn what_cannot_be_written_is_found_out_before_anything_is_rotated() {
    let mut world = World::start(1);
    for (file, word) in [("/proc/version", "Kubernetes"), ("not/there", "No such file")] {
        let said = world.rotate(&["--secrets-file", file]).run().expect_exit_code(1);
        assert!(said.stderr.contains("Nothing was rotated") && said.stderr.contains(word), "{}", said.stderr);
    }
    assert_eq!(world.rotations(), 0);
    world.run.stop();
}

#[test]
fn a_new_secret_that_cannot_be_written_is_rescued() {
    let mut world = World::start(1);
    let folder = world.site.path().join("elsewhere");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("secrets"), &world.secret).unwrap();
    // The folder goes away while PolyAI is being asked.
    let late = json!({ "fault": {
        "operations": ["endpoint_rotate"], "times": 1, "action": { "drip": { "bytes": 20, "pause": "1s" } },
    }});
    world.polyai.control("POST", "faults", &late);
    let rotating = world.rotate(&["--secrets-file", "elsewhere/secrets"]).start();
    eventually("rotated", || world.rotations() == 1);
    std::fs::remove_dir_all(&folder).unwrap();
    let place = rotating.wait_for("the place", |line| {
        let (_, rest) = line.split_once("It is in ")?;
        Some(rest.split_once(" (mode 0600)")?.0.to_owned())
    });
    let secret = std::fs::read_to_string(&place).unwrap();
    assert_eq!(std::fs::metadata(&place).unwrap().permissions().mode() & 0o777, 0o600);
    assert_ne!(secret.trim(), world.secret);
    drop(rotating);
    // It is the one PolyAI signs with now.
    world.site.write("secrets", &secret);
    eventually("in force", || world.status(secret.trim()) == Some(204));
    let count = world.deliver(10);
    world.assert_nothing_lost(count);
    world.run.stop();
}

#[test]
fn the_secrets_of_other_endpoints_stay() {
    let mut world = World::start(1);
    let (other, others_secret) = register(&world.polyai, world.run.receiver_address());
    let said = world.rotate(&[]).run().expect_exit_code(2);
    assert!(said.stderr.contains(&world.endpoint) && said.stderr.contains(&other), "{}", said.stderr);
    world.site.write("secrets", &format!("{}\n{others_secret}\n", world.secret));
    let said = world.rotate(&[&world.endpoint, "--wait", "0s"]).run().expect_exit_code(0);
    assert!(
        said.stdout.contains("2 older secrets") && said.stdout.contains("0, valid until"),
        "{}",
        said.stdout
    );
    // From now on it is known whose the first one is.
    let said = world
        .rotate(&[&world.endpoint, "--wait", "0s", "--json", "--keep-old", "0s"])
        .run()
        .expect_exit_code(0)
        .json();
    assert_eq!(said["old_secrets"], 1, "{said}");
    eventually("in force", || world.status(first_secret(&world.file())) == Some(204));
    assert_eq!(world.status(&others_secret), Some(204));
    world.run.stop();
}

#[test]
fn what_polyai_says_is_told_in_words() {
    let mut world = World::start(1);
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
    let said = world.rotate(&["--wait", "0s"]).run().expect_exit_code(1);
    assert!(said.stderr.contains("may have rotated") && said.stderr.contains("500"), "{}", said.stderr);
    assert!(world.file().starts_with("# polyhook:window="), "it may have");
    let nothing = get(world.run.receiver_address(), "/").expect("it goes on").0;
    assert_eq!((world.rotations(), nothing), (0, 404));
    world.run.stop();
}
