//! The backfill queues the missing conversations of a past time, and no others, also after interruptions.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{RECENT_CHATS, request_count, site};
use crate::support::{
    process::{SimulatedPolyAi, eventually, metric},
    rabbit::{self, SHARED_NODE},
};

#[test]
fn queues_only_the_requested_time_project_and_environment() {
    let polyai = SimulatedPolyAi::start(&RECENT_CHATS.replace("sandbox = 0.0", "sandbox = 0.5"), 400);
    let site = site(&polyai, "settle = \"0s\"", "worker.environments = [\"live\", \"sandbox\"]");
    let tally = |arguments: &[&str]| {
        let finished = site.polyhook([&["backfill", "--dry-run", "--json"], arguments].concat()).run();
        assert_eq!(finished.code, Some(0), "{finished:?}");
        super::json(&finished.stdout)["tally"].clone()
    };
    let day = tally(&["--last", "24h"]);
    assert!((143..=145).contains(&day["missing"].as_u64().unwrap()), "{day}");
    let live = tally(&["--last", "24h", "--environment", "live"]);
    let sandbox = tally(&["--last", "24h", "--environment", "sandbox"]);
    let sum = live["missing"].as_u64().unwrap() + sandbox["missing"].as_u64().unwrap();
    assert!(day["missing"].as_u64().unwrap().abs_diff(sum) <= 1 && live["missing"] != sandbox["missing"]);
    assert_eq!(tally(&["--from", "2020-01-01", "--to", "2020-01-31"])["listed"], 0);
    assert!(site.manifests().is_empty());

    for (arguments, message) in [
        (&["--last", "1d", "--project", "nobody"][..], "not a configured project"),
        (&["--last", "1d", "--environment", "pre-release"], "worker.environments"),
        (&["--from", "2026-11-02", "--to", "2026-11-01"], "the period is empty"),
        (&["--from", "soon"], "write a date"),
        (&["--last", "0s"], "the duration is zero"),
        (&[], "--from"),
    ] {
        let refused = site.polyhook([&["backfill"], arguments].concat()).run();
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(message), "{refused:?}");
    }
}

/// The backfill is killed several times, on RabbitMQ, while a worker fetches. In the end every conversation is
/// archived, and none was fetched again after it was archived.
#[test]
fn a_killed_backfill_continues_without_repeated_fetches() {
    const CALLS: usize = 800;
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, CALLS);
    let prefix = rabbit::unique_prefix();
    let queue = format!("queue = {{ url = \"{}\", prefix = \"{prefix}\" }}", SHARED_NODE.url());
    let site = site(&polyai, "every = \"0s\", settle = \"0s\"", &queue);
    let mut worker = site.polyhook(["work"]).must_not_print("guest:guest").start();
    let admin = worker.wait_until_ready();
    let backfill = |more: &[&str]| {
        site.polyhook([&["backfill", "--last", "7d", "--ahead", "50"], more].concat())
            .must_not_print("guest:guest")
    };
    for kill in 1..=3 {
        let mut run = backfill(&[]).start();
        eventually("under way", || site.manifests().len() > kill * 100);
        run.signal(Signal::SIGKILL);
        run.wait(Duration::from_secs(10));
    }
    let last = backfill(&["--json"]).run();
    assert_eq!(last.code, Some(0), "{last:?}");
    let tally = &super::json(&last.stdout)["tally"];
    assert!(tally["archived"].as_u64().unwrap() > 300, "{tally}");
    eventually("complete", || site.manifests().len() == CALLS);
    eventually("idle", || metric(admin, "polyhook_queue_depth{queue=\"fetch\"}") == 0);
    // A later run queued again what waited in the queue at a kill. The worker did not fetch what was already
    // archived.
    let known = metric(admin, "polyhook_jobs_total{outcome=\"known\"}");
    let fetched = request_count(&polyai, "v3_conversation");
    assert!(fetched <= CALLS as u64 + 8, "fetched {fetched}, known {known}: at most what was in hand, twice");
    let nothing = backfill(&["--json"]).run();
    assert_eq!(super::json(&nothing.stdout)["tally"]["missing"], 0);
    worker.stop();
}

/// Events from webhooks do not wait behind a month of old calls.
#[test]
fn limits_the_number_of_waiting_jobs() {
    let polyai = SimulatedPolyAi::start(RECENT_CHATS, 300);
    let site = site(&polyai, "every = \"0s\", settle = \"0s\"", "");
    let mut run = site.polyhook(["backfill", "--last", "7d", "--ahead", "40"]).start();
    let mut receiver = site.polyhook(["receive"]).start();
    let admin = receiver.wait_until_ready();
    let depth = || metric(admin, "polyhook_queue_depth{queue=\"fetch\"}");
    eventually("as many as allowed", || depth() > 40);
    std::thread::sleep(Duration::from_secs(3));
    assert!(depth() <= 40 + 32, "{}", depth());
    assert!(run.is_running(), "it waits for a worker");
    run.signal(Signal::SIGINT);
    assert_eq!(run.wait(Duration::from_secs(10)).code(), Some(1));
    assert!(run.stderr().join(" ").contains("run the same command again to continue"), "{:?}", run.stderr());
    receiver.stop();
}
