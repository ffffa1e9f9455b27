//! The spool before RabbitMQ: what the broker does not take is durable all the same, and reaches it later.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytesize::ByteSize;
use futures_util::future::join_all;
use polyhook::{
    clock::Clock,
    health::Health,
    lifecycle::Lifecycle,
    queue::{
        Announced, JobOutcome, Message, Published, Queue, QueueConfig, QueueError, QueueKind, SpoolConfig,
        rabbitmq::{RabbitMqOptions, RabbitMqQueue},
        spool::{self, Spool},
        spooled::SpooledQueue,
    },
};
use tempfile::TempDir;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep, timeout},
};

use crate::{
    queue_contract::{QueueUnderTest, contract_suite},
    rabbitmq::{SOON, config, message},
    rabbitmq_faults::fragile,
    support::rabbit::{SHARED, prefix},
};

mod contract {
    super::contract_suite!(super::Replicas);
}

/// A receiver's queue with a spool of its own.
struct Site {
    folder: TempDir,
    queue_config: QueueConfig,
    spool_config: SpoolConfig,
    clock: Clock,
    health: Health,
    life: Lifecycle,
}

impl Site {
    fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spool_config = SpoolConfig { path: folder.path().join("spool.db"), ..SpoolConfig::default() };
        let queue_config = QueueConfig { publish_timeout: Duration::from_secs(1), ..config(url, &prefix()) };
        Self {
            folder,
            queue_config,
            spool_config,
            clock: Clock::System,
            health: Health::default(),
            life: Lifecycle::new(),
        }
    }

    fn path(&self) -> &Path {
        &self.spool_config.path
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.folder.path()).unwrap().map(|file| file.unwrap().path()).collect()
    }

    fn open(&self) -> Arc<SpooledQueue> {
        self.open_with(vec![Duration::from_secs(1)])
    }

    fn open_with(&self, delays: Vec<Duration>) -> Arc<SpooledQueue> {
        let options = RabbitMqOptions {
            config: &self.queue_config,
            delays,
            consume: Some(250),
            only_publishes: false,
            clock: self.clock.clone(),
        };
        let broker = RabbitMqQueue::open(options, &self.life).unwrap();
        let spool =
            Spool::open(&self.spool_config, &self.queue_config, self.clock.clone(), &self.life).unwrap();
        let spool = Some((spool, self.spool_config.drain_rate));
        SpooledQueue::new(
            broker,
            spool,
            &self.queue_config,
            self.clock.clone(),
            self.health.clone(),
            &self.life,
        )
    }

    fn waiting(&self) -> u64 {
        spool::read_usage(self.path()).map_or(0, |usage| usage.messages)
    }

    fn conditions(&self) -> Vec<&'static str> {
        self.health.conditions().into_iter().map(|(what, _)| what).collect()
    }
}

/// Several replicas on one broker, each with a spool.
struct Replicas(Site, Mutex<Vec<Site>>);

impl QueueUnderTest for Replicas {
    const RECOGNISES_DUPLICATES: bool = false;
    const UNASKED_ANNOUNCEMENT: Announced = Announced::Unrouted;

    async fn start() -> Self {
        Self(Site::new(&SHARED.url()), Mutex::default())
    }

    async fn open(&self) -> Arc<dyn Queue> {
        let Site { queue_config, life, .. } = &self.0;
        let queue_config = QueueConfig { publish_timeout: Duration::from_secs(5), ..queue_config.clone() };
        let site = Site { queue_config, life: life.clone(), ..Site::new("") };
        let queue = site.open_with(vec![Self::SHORT_WAIT, Self::LONG_WAIT]);
        while queue.ready().await.is_err() || !site.conditions().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
        self.1.lock().unwrap().push(site);
        queue
    }
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !check().await {
        assert!(Instant::now() < deadline, "not {what} in time");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes `evt_<n>` for all of them at once; how long the slowest took.
async fn publish_all(queue: &SpooledQueue, numbers: impl Iterator<Item = u32>) -> Duration {
    let begun = Instant::now();
    let published = join_all(numbers.map(|n| queue.publish(message(&format!("evt_{n}"), "{}")))).await;
    assert!(published.iter().all(|published| matches!(published, Ok(Published::New))), "{published:?}");
    begun.elapsed()
}

/// Takes jobs until all `evt_<n>` were among them; in which order they came first.
async fn take_all(queue: &SpooledQueue, mut missing: std::collections::HashSet<u32>) -> Vec<u32> {
    let mut order = Vec::new();
    while !missing.is_empty() {
        let job =
            timeout(SOON, queue.next()).await.unwrap_or_else(|_| panic!("{missing:?} are lost")).unwrap();
        let number = job.message.id.strip_prefix("evt_").unwrap().parse().unwrap();
        if missing.remove(&number) {
            order.push(number);
        }
        queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    order
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_is_away_costs_nobody_a_delivery() {
    let node = fragile().await;
    block_in_place(|| node.stop());
    let site = Site::new(&node.url());
    // A runtime of its own, which ends as if the process had been killed: nothing of it drains the spool any more.
    let process = tokio::runtime::Runtime::new().unwrap();
    block_in_place(|| {
        process.block_on(async {
            let queue = site.open();
            queue.ready().await.expect("ready, with the spool");
            assert_eq!(site.conditions(), ["broker"]);
            for n in 0..300 {
                let took = publish_all(&queue, n..=n).await;
                assert!(took < Duration::from_millis(500), "known to be away, but waited for: {took:?}");
            }
            assert_eq!(site.waiting(), 300);
            // A duplicate is one, wherever the first went.
            assert_eq!(queue.publish(message("evt_7", "{}")).await.unwrap(), Published::Duplicate);
            assert_eq!(spool::verify(site.path()), Ok(300));
        });
    });
    process.shutdown_background();
    let queue = site.open();
    publish_all(&queue, 300..310).await;
    block_in_place(|| node.restart());
    let order = take_all(&queue, (0..310).collect()).await;
    assert_eq!(order[..300], (0..300).collect::<Vec<_>>(), "in order of arrival");
    eventually("empty", async || site.waiting() == 0).await;
    eventually("well", async || queue.ready().await.is_ok() && site.conditions().is_empty()).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_dies_in_the_middle_of_a_drain_costs_nothing() {
    let node = fragile().await;
    block_in_place(|| node.stop());
    let mut site = Site::new(&node.url());
    site.spool_config.drain_rate = 200.try_into().unwrap();
    let queue = site.open();
    publish_all(&queue, 0..600).await;
    for left in [500, 250] {
        block_in_place(|| node.restart());
        eventually("in the middle", async || site.waiting() < left).await;
        block_in_place(|| node.kill());
        assert!(site.waiting() > 0, "the drain was too fast to show anything");
    }
    // Frozen, too: what is on its way then is unconfirmed for long.
    block_in_place(|| node.restart());
    eventually("in the middle", async || site.waiting() < 150).await;
    node.pause();
    sleep(Duration::from_secs(3)).await;
    block_in_place(|| node.kill());
    block_in_place(|| node.restart());
    take_all(&queue, (0..600).collect()).await;
    eventually("empty", async || site.waiting() == 0).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_falls_silent_is_waited_for_once() {
    let node = fragile().await;
    let site = Site::new(&node.url());
    let queue = site.open();
    eventually("connected", async || queue.ready().await.is_ok() && site.conditions().is_empty()).await;
    publish_all(&queue, 0..10).await;
    assert_eq!(site.waiting(), 0);
    node.pause();
    let took = publish_all(&queue, 10..20).await;
    assert!((Duration::from_secs(1)..Duration::from_millis(2500)).contains(&took), "{took:?}");
    let took = publish_all(&queue, 20..30).await;
    assert!(took < Duration::from_millis(500), "waited for again: {took:?}");
    node.resume();
    take_all(&queue, (0..30).collect()).await;
    eventually("empty", async || site.waiting() == 0).await;
    let took = publish_all(&queue, 30..40).await;
    assert!(took < Duration::from_millis(900), "{took:?}");
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_short_of_memory_is_bridged() {
    let node = fragile().await;
    let site = Site::new(&node.url());
    let queue = site.open();
    eventually("connected", async || queue.ready().await.is_ok() && site.conditions().is_empty()).await;
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.0001"]));
    eventually("blocked", async || {
        publish_all(&queue, std::iter::once(fastrand::u32(1000..))).await;
        site.waiting() > 0
    })
    .await;
    let took = publish_all(&queue, 0..50).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    queue.ready().await.unwrap();
    assert!(site.conditions().contains(&"broker"));
    block_in_place(|| node.ctl(&["set_vm_memory_high_watermark", "0.6"]));
    take_all(&queue, (0..50).collect()).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_spool_refuses_at_once_and_recovers() {
    let node = fragile().await;
    block_in_place(|| node.stop());
    let mut site = Site::new(&node.url());
    site.spool_config.max_bytes = ByteSize::kib(512);
    let queue = site.open();
    let big = |n: u32| message(&format!("evt_{n}"), &format!("{{\"x\":\"{}\"}}", "x".repeat(10_000)));
    let mut stored = Vec::new();
    let refused = loop {
        let n = u32::try_from(stored.len()).unwrap();
        let begun = Instant::now();
        match queue.publish(big(n)).await {
            Ok(_) => stored.push(n),
            Err(error) => break (error, begun.elapsed()),
        }
        assert!(stored.len() < 60, "the cap is not kept");
    };
    assert!(refused.1 < Duration::from_millis(500), "{refused:?}");
    let text = refused.0.to_string();
    assert!(text.contains("the spool") && text.contains("free space"), "{text}");
    assert!(queue.ready().await.is_err(), "neither of the two takes anything");
    assert!(stored.len() > 20);
    block_in_place(|| node.restart());
    take_all(&queue, stored.iter().copied().collect()).await;
    eventually("empty", async || site.waiting() == 0).await;
    queue.publish(big(1000)).await.unwrap();
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_damaged_spool_stands_in_nobodys_way() {
    let node = fragile().await;
    block_in_place(|| node.stop());
    let site = Site::new(&node.url());
    fs::write(site.path(), vec![b'?'; 9000]).unwrap();
    let queue = site.open();
    let begun = Instant::now();
    let error = queue.publish(message("evt_1", "{}")).await.unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert!(spool::verify(site.path()).is_err());

    // With the broker nobody needs it, and everybody is told.
    block_in_place(|| node.restart());
    eventually("ready", async || queue.ready().await.is_ok()).await;
    assert_eq!(site.conditions(), ["spool"]);
    assert_eq!(queue.publish(message("evt_1", "{}")).await.unwrap(), Published::New);

    // Moved away, as the message says: it is one again without a restart.
    fs::rename(site.path(), site.folder.path().join("moved-away")).unwrap();
    eventually("well", async || queue.ready().await.is_ok() && site.conditions().is_empty()).await;
    block_in_place(|| node.stop());
    eventually("spooled", async || queue.publish(message("evt_2", "{}")).await.is_ok()).await;
    assert_eq!(site.waiting(), 1);
    block_in_place(|| node.restart());
    take_all(&queue, [1, 2].into()).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deleted_spool_is_put_back() {
    let node = fragile().await;
    block_in_place(|| node.stop());
    let site = Site::new(&node.url());
    let queue = site.open();
    publish_all(&queue, 0..20).await;
    for file in site.files() {
        fs::remove_file(file).unwrap();
    }
    eventually("spooled", async || queue.publish(message("evt_20", "{}")).await.is_ok()).await;
    block_in_place(|| node.restart());
    take_all(&queue, (0..=20).collect()).await;
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn duplicates_are_known_after_a_restart_and_over_hours() {
    let mut site = Site::new(&SHARED.url());
    site.clock = Clock::manual("2026-11-22T12:00:00Z".parse().unwrap());
    let sent = message("evt_1", "{}");
    let mut new = 0;
    for hour in 0..6 {
        let queue = site.open();
        eventually("connected", async || queue.ready().await.is_ok() && site.conditions().is_empty()).await;
        eventually("published", async || match queue.publish(sent.clone()).await {
            Ok(published) => {
                new += u32::from(published == Published::New);
                true
            }
            Err(_) => false,
        })
        .await;
        assert_eq!(new, 1, "in hour {hour}");
        let copies = join_all((0..100).map(|_| queue.publish(sent.clone()))).await;
        assert!(copies.iter().all(|copy| matches!(copy, Ok(Published::Duplicate))));
        let other_body = Message { body: format!("{{\"hour\":{hour}}}").into(), ..sent.clone() };
        let other_body =
            Message { dedup: polyhook::event::DedupKey::new("evt_1", &other_body.body), ..other_body };
        assert_eq!(queue.publish(other_body).await.unwrap(), Published::New, "the id is not signed");
        queue.close().await;
        site.clock.advance(Duration::from_mins(59));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deleted_fetch_queue_costs_no_delivery() {
    let site = Site::new(&SHARED.url());
    let queue = site.open();
    eventually("connected", async || queue.ready().await.is_ok() && site.conditions().is_empty()).await;
    publish_all(&queue, 0..20).await;
    // In the hands of a worker, and on their way to one.
    let held = timeout(SOON, queue.next()).await.unwrap().unwrap();
    eventually("taken", async || {
        let listed = block_in_place(|| SHARED.ctl(&["list_queues", "name", "messages_unacknowledged"]));
        listed.contains(&format!("{}.fetch\t20", site.queue_config.prefix))
    })
    .await;
    let fetch = format!("{}.fetch", site.queue_config.prefix);
    block_in_place(|| SHARED.ctl(&["delete_queue", &fetch]));
    for n in 20..60 {
        assert_eq!(queue.publish(message(&format!("evt_{n}"), "{}")).await.unwrap(), Published::New);
        sleep(Duration::from_millis(10)).await;
    }
    take_all(&queue, (0..60).collect()).await;
    assert!(matches!(queue.settle(held.lease, JobOutcome::Done).await, Err(QueueError::LeaseLost)));
    let depths = queue.depths().await.unwrap();
    assert!(depths.contains(&(QueueKind::Unrouted, 0)), "{depths:?}");
    queue.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_queue_that_refuses_is_named_and_holds_up_nobody() {
    let site = Site::new(&SHARED.url());
    let queue = site.open();
    eventually("connected", async || queue.ready().await.is_ok() && site.conditions().is_empty()).await;
    let (prefix, policy) = (&site.queue_config.prefix, format!("full-{}", site.queue_config.prefix));
    let pattern = format!("^{prefix}\\.unrouted$");
    let definition = r#"{"max-length": 0, "overflow": "reject-publish"}"#;
    block_in_place(|| SHARED.ctl(&["set_policy", &policy, &pattern, definition, "--apply-to", "queues"]));
    let alert =
        |n: u32| Message { kind: "alerts.triggered".to_owned(), ..message(&format!("evt_{n}"), "{}") };
    // What has been refused is spooled.
    eventually("refused", async || {
        queue.publish(alert(fastrand::u32(10_000..))).await.unwrap();
        site.conditions() == ["publishing"]
    })
    .await;
    assert!(site.waiting() > 0);
    publish_all(&queue, 0..10).await;
    take_all(&queue, (0..10).collect()).await;
    block_in_place(|| SHARED.ctl(&["clear_policy", &policy]));
    eventually("handed on", async || site.waiting() == 0).await;
    queue.close().await;
}
