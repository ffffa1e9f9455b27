//! The spool before RabbitMQ: messages that the broker does not take are durable and reach it later.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytesize::ByteSize;
use futures_util::future::join_all;
use lapin::types::FieldTable;
use polyhook::{
    clock::Clock,
    health::Health,
    lifecycle::Lifecycle,
    queue::{
        Announced, JobOutcome, Message, Published, Queue, QueueConfig, QueueError, QueueKind, SpoolConfig,
        rabbitmq::{CONSUMER_TIMEOUT, RabbitMqOptions, RabbitMqQueue},
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
    rabbitmq::{PlainClient, TEST_TIMEOUT, config, headers, message},
    support::rabbit::{SHARED_NODE, exclusive_node, unique_prefix},
};

mod broker_failures;
mod file_errors;
mod forwarding;

mod contract {
    super::contract_suite!(super::Replicas);
}

/// So long that a publish on a busy machine is still much faster than one that waits for the broker.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(4);
/// The limit of a publish that does not wait for the broker.
const WITHOUT_BROKER: Duration = Duration::from_secs(2);

/// The queue of a receiver with a spool of its own.
struct SpoolFixture {
    folder: TempDir,
    queue_config: QueueConfig,
    spool_config: SpoolConfig,
    clock: Clock,
    health: Health,
    lifecycle: Lifecycle,
}

impl SpoolFixture {
    fn new(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let spool_config = SpoolConfig { path: folder.path().join("spool.db"), ..SpoolConfig::default() };
        let queue_config = QueueConfig { publish_timeout: PUBLISH_TIMEOUT, ..config(url, &unique_prefix()) };
        Self {
            folder,
            queue_config,
            spool_config,
            clock: Clock::System,
            health: Health::default(),
            lifecycle: Lifecycle::new(),
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
            refresh_delays: [1, 2, 600].map(Duration::from_secs).to_vec(),
            consume: Some(250),
            consumer_timeout: CONSUMER_TIMEOUT,
            only_publishes: false,
            clock: self.clock.clone(),
        };
        let broker = RabbitMqQueue::open(options, &self.lifecycle).unwrap();
        let spool =
            Spool::open(&self.spool_config, &self.queue_config, self.clock.clone(), &self.lifecycle).unwrap();
        let spool = Some((spool, self.spool_config.drain_rate));
        SpooledQueue::new(
            broker,
            spool,
            &self.queue_config,
            self.clock.clone(),
            self.health.clone(),
            &self.lifecycle,
        )
    }

    fn spooled_messages(&self) -> u64 {
        spool::read_usage(self.path()).map_or(0, |usage| usage.messages)
    }

    fn conditions(&self) -> Vec<&'static str> {
        self.health.conditions().into_iter().map(|(what, _)| what).collect()
    }
}

/// Several replicas on one broker, each with a spool.
struct Replicas(SpoolFixture, Mutex<Vec<SpoolFixture>>);

impl QueueUnderTest for Replicas {
    const RECOGNISES_DUPLICATES: bool = false;
    const UNBOUND_ANNOUNCEMENT: Announced = Announced::Unrouted;

    async fn start() -> Self {
        Self(SpoolFixture::new(&SHARED_NODE.url()), Mutex::default())
    }

    async fn open(&self) -> Arc<dyn Queue> {
        let SpoolFixture { queue_config, lifecycle, .. } = &self.0;
        let queue_config = QueueConfig { publish_timeout: Duration::from_secs(5), ..queue_config.clone() };
        let fixture = SpoolFixture { queue_config, lifecycle: lifecycle.clone(), ..SpoolFixture::new("") };
        let queue = fixture.open_with(vec![Self::SHORT_DELAY, Self::LONG_DELAY]);
        while queue.ready().await.is_err() || !fixture.conditions().is_empty() {
            sleep(Duration::from_millis(20)).await;
        }
        self.1.lock().unwrap().push(fixture);
        queue
    }
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + TEST_TIMEOUT;
    while !check().await {
        assert!(Instant::now() < deadline, "not {what} in time");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Publishes all `evt_<n>` concurrently. Returns the time of the slowest.
async fn publish_all(queue: &SpooledQueue, numbers: impl Iterator<Item = u32>) -> Duration {
    let begun = Instant::now();
    let published = join_all(numbers.map(|n| queue.publish(message(&format!("evt_{n}"), "{}")))).await;
    assert!(published.iter().all(|published| matches!(published, Ok(Published::New))), "{published:?}");
    begun.elapsed()
}

/// Takes jobs until all `evt_<n>` have come. Returns the order of their first arrival.
async fn take_all(queue: &SpooledQueue, mut missing: std::collections::HashSet<u32>) -> Vec<u32> {
    let mut order = Vec::new();
    while !missing.is_empty() {
        let job = timeout(TEST_TIMEOUT, queue.next())
            .await
            .unwrap_or_else(|_| panic!("messages lost: {missing:?}"))
            .unwrap();
        let number = job.message.id.strip_prefix("evt_").unwrap().parse().unwrap();
        if missing.remove(&number) {
            order.push(number);
        }
        queue.settle(job.lease, JobOutcome::Done).await.unwrap();
    }
    order
}
