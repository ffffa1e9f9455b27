//! `polyhook queue move`: from the embedded queue to RabbitMQ without a loss.

use std::{path::Path, time::Duration};

use polyhook::{
    clock::Clock,
    lifecycle::Lifecycle,
    queue::{
        Job, JobOutcome, Queue, QueueConfig,
        sqlite::{SqliteOptions, SqliteQueue},
    },
};
use serde_json::{Value, json};

use super::verified_archive;
use crate::{
    queue_contract::{event, history, message},
    support::{
        process::{Installation, PolyhookCommand, SimulatedPolyAi, eventually, metric},
        rabbit::{SHARED_NODE, unique_prefix},
    },
};

const CALLS: usize = 400;
const DEAD: usize = 3;

/// Fills a queue file as `run` leaves it: dead letters with two attempts, two delayed jobs, an event, and waiting jobs.
async fn fill(path: &Path, polyai: &SimulatedPolyAi, ids: &[String]) {
    let lifecycle = Lifecycle::new();
    let options = SqliteOptions {
        publish_timeout: Duration::from_secs(20),
        ..SqliteOptions::new(&QueueConfig::default(), Clock::System)
    };
    let queue = SqliteQueue::open(path, options, &lifecycle).unwrap();
    let publish = async |id: &String| {
        queue.publish(message(&format!("evt-{id}"), &polyai.event(id))).await.unwrap();
    };
    for (n, id) in ids.iter().enumerate() {
        publish(id).await;
        let outcome = match n {
            0..DEAD => JobOutcome::Dead { history: history(2) },
            DEAD => JobOutcome::Retry { after: Duration::from_mins(10), history: history(1) },
            4 => JobOutcome::Retry { after: Duration::from_hours(1), history: history(1) },
            _ => continue,
        };
        let Job { lease, .. } = queue.next().await.unwrap();
        queue.settle(lease, outcome).await.unwrap();
    }
    queue.publish(event("evt-handoff")).await.unwrap();
    lifecycle.drain();
    queue.close().await;
}

#[test]
fn carries_all_jobs_to_rabbitmq_although_it_is_killed_in_the_middle() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, CALLS);
    let ids = polyai.ids();
    let (url, prefix) = (SHARED_NODE.url(), unique_prefix());
    let queue = format!("queue = {{ url = \"{url}\", prefix = \"{prefix}\" }}\nworker.concurrency = 32");
    let site = Installation::new(&polyai.access, &queue);
    let file = site.path().join("old.db");
    tokio::runtime::Runtime::new().unwrap().block_on(fill(&file, &polyai, &ids));
    let polyhook =
        |arguments: &[&str]| site.polyhook(arguments.iter().copied()).must_not_print("guest:guest");
    let move_if_consumed = ["queue", "move", "--from", "sqlite:old.db", "--json"];
    let move_to_rabbitmq = [&move_if_consumed[..], &["--without-worker"]].concat();

    let counted =
        polyhook(&[&move_to_rabbitmq[..], &["--dry-run"]].concat()).run().expect_exit_code(0).json();
    let waiting = CALLS - DEAD - 2;
    let all = json!({ "waiting_jobs": waiting, "delayed_jobs": 2, "dead_letters": DEAD, "events": 1 });
    assert_eq!((&counted["left_by_state"], &counted["dry_run"]), (&all, &json!(true)), "{counted}");
    assert_eq!(counted["prefix"], prefix.as_str(), "{counted}");
    assert!(counted["target"].as_str().unwrap().starts_with("amqp://"), "{counted}");
    let refused = polyhook(&move_if_consumed).run().expect_exit_code(1).stderr;
    let reason = format!("no worker consumes `{prefix}.fetch` on amqp://");
    assert!(refused.contains(&reason) && refused.contains("queue.prefix"), "{refused}");
    for _ in 0..2 {
        let shown = polyhook(&["show", "CA1"]).run().expect_exit_code(1).stdout;
        assert!(shown.contains("does not exist"), "neither move nor show declares a queue: {shown}");
    }
    let still = polyhook(&[&move_to_rabbitmq[..], &["--dry-run"]].concat()).run().json();
    assert_eq!(still["left_by_state"], all, "{still}");

    let mut killed = polyhook(&move_to_rabbitmq).start();
    let log = site.path().join("old.db-wal");
    eventually("under way", || log.metadata().is_ok_and(|log| log.len() > 40_000) || !killed.is_running());
    killed.kill();
    let rest = polyhook(&move_to_rabbitmq).run().expect_exit_code(0).json();
    let none = json!({ "waiting_jobs": 0, "delayed_jobs": 0, "dead_letters": 0, "events": 0 });
    assert_eq!(rest["left_by_state"], none, "{rest}");
    let moved = rest["moved_by_state"]["waiting_jobs"].as_u64().unwrap();
    eprintln!("{moved} of {waiting} jobs were left after the kill");
    assert!(
        (1..waiting as u64).contains(&moved),
        "the first command was killed too early or too late: {rest}"
    );
    let again = polyhook(&move_to_rabbitmq).run().expect_exit_code(0).json();
    assert_eq!((&again["moved_by_state"], &again["left_by_state"]), (&none, &none));

    let listed = polyhook(&["dead", "list", "--json"]).run().expect_exit_code(0).stdout;
    let letters: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), DEAD, "{listed}");
    for letter in &letters {
        let id = letter["id"].as_str().unwrap();
        let shown = polyhook(&["dead", "show", id, "--json"]).run().expect_exit_code(0).json();
        assert_eq!(shown["attempts"].as_array().unwrap().len(), 2, "{shown}");
        assert_eq!(letter["reason"], "rate_limited", "{letter}");
        assert_eq!(letter["received_at"], "2026-11-22T10:20:30.123Z", "{letter}");
    }
    let shown = polyhook(&["show", &ids[0], "--json"]).run().expect_exit_code(1).json();
    assert_eq!((&shown["state"], &shown["queue"]["dead_letters"]), (&json!("unknown"), &json!(1)), "{shown}");
    assert!(shown["queue"]["unsearched"].as_u64() >= Some(CALLS as u64 - 10), "{shown}");
    assert!(shown["queue"].get("jobs").is_none(), "RabbitMQ's jobs cannot be searched: {shown}");
    let mut work = polyhook(&["work"]).start();
    let admin = work.wait_until_ready();
    let depth = |queue: &str| metric(admin, &format!("polyhook_queue_depth{{queue=\"{queue}\"}}"));
    eventually("waiting and delayed jobs are archived", || site.manifests().len() == CALLS - DEAD);
    eventually("the event is kept", || depth("unrouted") == 1);
    polyhook(&["dead", "replay", "--all"]).run().expect_exit_code(0);
    eventually("dead letters are archived", || site.manifests().len() == CALLS);
    polyhook(&move_if_consumed).run().expect_exit_code(0);
    work.stop();
    assert_eq!(verified_archive(&site.archive()).len(), CALLS);
}

#[test]
fn does_not_touch_a_file_that_polyhook_uses_and_says_what_to_do() {
    let polyai = SimulatedPolyAi::start(SimulatedPolyAi::CHATS, 1);
    let site = Installation::new(&polyai.access, "");
    let to_rabbitmq = |site: &Installation, more: &[&'static str]| -> PolyhookCommand {
        let command = ["queue", "move", "--set", "queue.url=amqp://127.0.0.1:1"];
        site.polyhook(command.into_iter().chain(more.iter().copied()))
    };
    let no_file = to_rabbitmq(&site, &[]).run().expect_exit_code(1);
    assert!(no_file.stderr.contains("there is no queue file polyhook-data/queue.db"), "{no_file:?}");
    let mut run = site.polyhook(["receive"]).start();
    run.wait_until_ready();
    let in_use = to_rabbitmq(&site, &[]).run().expect_exit_code(1);
    assert!(in_use.stderr.contains("another process uses the queue file"), "{in_use:?}");
    assert!(in_use.stderr.lines().count() == 1 && in_use.stderr.contains("stop polyhook"), "{in_use:?}");
    to_rabbitmq(&site, &["--dry-run"]).run().expect_exit_code(0);
    run.stop();
    let no_target = site.polyhook(["queue", "move"]).run().expect_exit_code(1);
    assert!(no_target.stderr.contains("queue.url is not a RabbitMQ URL"), "{no_target:?}");
    site.write("empty.db", "");
    to_rabbitmq(&site, &["--from", "empty.db", "--dry-run"]).run().expect_exit_code(0);
    site.write("other.db", &"?".repeat(9000));
    for more in [&["--from", "other.db"][..], &["--from", "other.db", "--dry-run"]] {
        let other = to_rabbitmq(&site, more).run().expect_exit_code(1);
        assert!(other.stderr.contains("other.db") && other.stderr.lines().count() == 1, "{other:?}");
    }
    site.write("spool.db", "");
    let spool = ["--from", "./spool.db", "--set", "spool.path=spool.db"];
    let spool = to_rabbitmq(&site, &spool).run().expect_exit_code(1);
    assert!(spool.stderr.contains("`polyhook spool drain`"), "{spool:?}");
    let wrong = to_rabbitmq(&site, &["--from", "amqp://127.0.0.1"]).run().expect_exit_code(2);
    assert!(wrong.stderr.contains("sqlite:PATH"), "{wrong:?}");
}
