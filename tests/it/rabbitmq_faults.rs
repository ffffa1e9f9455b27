//! The queue on RabbitMQ when the broker is in trouble, and over TLS. These take a node of their own.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use polyhook::queue::{JobOutcome, Published, Queue, QueueConfig, QueueError, QueueKind};
use tokio::{
    sync::{Mutex, MutexGuard},
    task::block_in_place,
    time::{Instant, sleep},
};

use crate::{
    rabbitmq::{Bench, at_once, config, history, message, try_open},
    support::rabbit::{ClientCertificate, Node, SHARED_NODE, unique_prefix},
};

/// A node for one test at a time.
static FRAGILE: LazyLock<Mutex<Node>> =
    LazyLock::new(|| Mutex::new(Node::start(ClientCertificate::Required)));

pub(crate) async fn fragile() -> MutexGuard<'static, Node> {
    let node = block_in_place(|| LazyLock::force(&FRAGILE)).lock().await;
    block_in_place(|| node.revive());
    node
}

/// The same, for those who are not asynchronous.
pub(crate) fn fragile_now() -> MutexGuard<'static, Node> {
    let node = FRAGILE.blocking_lock();
    node.revive();
    node
}

/// Publishing fails, and does not take the time a timeout takes.
async fn assert_fails_fast(bench: &Bench) {
    let begun = Instant::now();
    for n in 0..20 {
        let error = bench.queue.publish(message(&format!("evt_fast{n}"), "{}")).await.unwrap_err();
        assert!(matches!(error, QueueError::Unavailable(_)), "{error:?}");
    }
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_broker_costs_nothing_but_time() {
    let node = fragile().await;
    let bench = Arc::new(Bench::on(&node).await);
    bench.queue.publish(message("evt_held", "{}")).await.unwrap();
    let held = bench.take().await;

    // Under load: every one that was confirmed must be there afterwards.
    let load = (0..16).map(|task| {
        let bench = Arc::clone(&bench);
        async move {
            let (mut stored, mut failed) = (Vec::new(), 0);
            for n in 0..400 {
                let id = format!("evt_{task}_{n}");
                if bench.queue.publish(message(&id, "{}")).await.is_ok() {
                    stored.push(id);
                } else {
                    failed += 1;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            (stored, failed)
        }
    });
    let killing = async {
        sleep(Duration::from_millis(400)).await;
        block_in_place(|| node.kill());
    };
    let (results, ()) = tokio::join!(at_once(load), killing);
    let (mut stored, mut failed) = (Vec::new(), 0);
    for (some, more) in results {
        stored.extend(some);
        failed += more;
    }
    assert!(failed > 0, "the broker was killed too late to show anything");
    bench.becomes_unready("127.0.0.1").await;
    assert_fails_fast(&bench).await;
    assert!(matches!(bench.queue.settle(held.lease, JobOutcome::Done).await, Err(QueueError::LeaseLost)));

    block_in_place(|| node.restart());
    bench.becomes_ready().await;
    // What failed was not remembered as a duplicate.
    assert_eq!(bench.queue.publish(message("evt_fast0", "{}")).await.unwrap(), Published::New);
    stored.extend(["evt_held".to_owned(), "evt_fast0".to_owned()]);
    let mut missing: std::collections::HashSet<_> = stored.into_iter().collect();
    while !missing.is_empty() {
        let job = bench.take().await;
        missing.remove(&job.message.id);
        bench.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_frozen_broker_is_noticed_and_its_return_too() {
    let node = fragile().await;
    let slow =
        QueueConfig { publish_timeout: Duration::from_secs(1), ..config(&node.url(), &unique_prefix()) };
    let bench = Bench::with(&slow).await;
    node.pause();
    let begun = Instant::now();
    let error = bench.queue.publish(message("evt_1", "{}")).await.unwrap_err();
    assert!(matches!(error, QueueError::Timeout(_)), "{error:?}");
    assert!(begun.elapsed() < Duration::from_millis(1500));
    bench.becomes_unready("").await;
    assert!(begun.elapsed() < Duration::from_millis(10_500), "noticed after {:?}", begun.elapsed());
    assert_fails_fast(&bench).await;
    // Attempts to connect to it are given up and leave no thread behind.
    sleep(Duration::from_secs(12)).await;
    assert!(io_threads() <= 6, "{} threads of lapin's", io_threads());
    node.resume();
    bench.becomes_ready().await;
    assert_eq!(bench.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    bench.queue.close().await;
}

fn io_threads() -> usize {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with("lapin-io-loop"))
        .count()
}

/// RabbitMQ has the queue that was made last not on disk for up to a second: killed then, it comes back with that queue
/// empty and without a leader, whatever it confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_new_queue_holds_survives_a_kill() {
    let node = fragile().await;
    let prefix = unique_prefix();
    let again = async |bench: &Bench| {
        block_in_place(|| node.kill());
        block_in_place(|| node.restart());
        bench.becomes_ready().await;
    };

    // The longest rung is made last.
    let bench = Bench::with(&config(&node.url(), &prefix)).await;
    bench.queue.publish(message("evt_first", "{}")).await.unwrap();
    let job = bench.take().await;
    let retry = JobOutcome::Retry { after: Duration::from_mins(10), history: history(1) };
    bench.queue.settle(job.lease, retry).await.unwrap();
    again(&bench).await;
    bench
        .eventually("put off", async || {
            let depths = bench.queue.depths().await.map_err(|error| error.to_string())?;
            // The job's acknowledgement may be lost with the broker: then it is there twice.
            if depths.contains(&(QueueKind::Retry, 1)) { Ok(()) } else { Err(format!("{depths:?}")) }
        })
        .await;

    // One that somebody has deleted is made alone.
    let fetch = format!("{prefix}.fetch");
    block_in_place(|| node.ctl(&["delete_queue", &fetch]));
    bench
        .eventually("published", async || {
            let published = bench.queue.publish(message("evt_second", "{}")).await;
            published.map(drop).map_err(|error| error.to_string())
        })
        .await;
    again(&bench).await;
    while bench.take().await.message.id != "evt_second" {}
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_short_of_memory_refuses_at_once() {
    let node = fragile().await;
    let bench = Bench::on(&node).await;
    bench.queue.publish(message("evt_held", "{}")).await.unwrap();
    let held = bench.take().await;
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.0001"]));
    // The broker tells a connection when it publishes next; that one waits for the news, no longer.
    let begun = Instant::now();
    while bench.queue.publish(message(&format!("evt_{}", fastrand::u64(..)), "{}")).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the alarm does not come");
        sleep(Duration::from_millis(50)).await;
    }
    bench.becomes_unready("takes no messages").await;
    assert_fails_fast(&bench).await;
    // Acknowledgements go on: they have a connection of their own.
    bench.queue.settle(held.lease, JobOutcome::Done).await.unwrap();
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.6"]));
    bench.becomes_ready().await;
    assert_eq!(bench.queue.publish(message("evt_after", "{}")).await.unwrap(), Published::New);

    // A queue that is blocked can be closed all the same.
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.0001"]));
    while bench.queue.publish(message(&format!("evt_{}", fastrand::u64(..)), "{}")).await.is_ok() {
        sleep(Duration::from_millis(50)).await;
    }
    let begun = Instant::now();
    bench.queue.close().await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.6"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_is_away_at_first_may_come_later() {
    let node = fragile().await;
    block_in_place(|| node.stop());
    let begun = Instant::now();
    let bench = try_open(&config(&node.url(), &unique_prefix())).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    bench.becomes_unready("cannot be reached").await;
    assert_fails_fast(&bench).await;
    block_in_place(|| node.restart());
    bench.becomes_ready().await;
    assert_eq!(bench.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    bench.take().await;
    bench.queue.close().await;
}

fn tls(url: &str, ca: Option<&str>, node: &Node) -> QueueConfig {
    QueueConfig { ca_file: ca.map(|name| node.file(name)), ..config(url, &unique_prefix()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_our_authority() {
    let bench = Bench::with(&tls(&SHARED_NODE.tls_url(), Some("ca.pem"), &SHARED_NODE)).await;
    assert_eq!(bench.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    let job = bench.take().await;
    bench.queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    let connections = block_in_place(|| SHARED_NODE.ctl(&["list_connections", "ssl", "client_properties"]));
    let ours: Vec<_> = connections.lines().filter(|line| line.starts_with("true")).collect();
    assert!(ours.iter().any(|line| line.contains("polyhook publish")), "{connections}");
    assert!(ours.iter().any(|line| line.contains("polyhook consume")), "{connections}");
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_never_plain_text() {
    let plain = format!("amqps://guest:guest@localhost:{}/%2f", SHARED_NODE.port());
    let bench = try_open(&tls(&plain, Some("ca.pem"), &SHARED_NODE)).unwrap();
    bench.becomes_unready("TLS").await;
    assert!(bench.queue.publish(message("evt_1", "{}")).await.is_err());
    bench.queue.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_somebody_elses_authority_fails() {
    for ca in [Some("stranger.pem"), None] {
        let bench = match try_open(&tls(&SHARED_NODE.tls_url(), ca, &SHARED_NODE)) {
            Ok(bench) => bench,
            // A machine without any authority.
            Err(error) => {
                assert!(ca.is_none() && error.to_string().contains("ca_file"), "{error}");
                continue;
            }
        };
        bench.becomes_unready("no trusted TLS connection").await;
        assert!(bench.queue.publish(message("evt_1", "{}")).await.is_err());
        bench.queue.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tls_with_a_client_certificate() {
    let node = fragile().await;
    let without = try_open(&tls(&node.tls_url(), Some("ca.pem"), &node)).unwrap();
    let with = QueueConfig {
        client_cert_file: Some(node.file("client.pem")),
        client_key_file: Some(node.file("client.key")),
        ..tls(&node.tls_url(), Some("ca.pem"), &node)
    };
    let bench = Bench::with(&with).await;
    assert_eq!(bench.queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);
    bench.queue.close().await;
    let error = without.queue.ready().await.expect_err("the broker asks for a certificate");
    assert!(matches!(error, QueueError::Unavailable(_)), "{error}");
    without.queue.close().await;

    // The key of another certificate is found out before anything is connected to.
    let mixed = QueueConfig { client_key_file: Some(node.file("server.key")), ..with };
    let error = try_open(&mixed).err().unwrap();
    assert!(error.to_string().contains("client_key_file"), "{error}");
}
