//! The contract that every queue keeps, checked on RabbitMQ.

use std::sync::Arc;

use polyhook::{
    clock::Clock,
    health::Health,
    lifecycle::Lifecycle,
    queue::{
        Announced, Queue,
        rabbitmq::{CONSUMER_TIMEOUT, RabbitMqOptions, RabbitMqQueue},
        spooled::SpooledQueue,
    },
};
use tokio::time::{Duration, sleep, timeout};

use crate::{
    queue_contract::{QueueUnderTest, contract_suite},
    rabbitmq::config,
    support::rabbit::{SHARED_NODE, unique_prefix},
};

struct RabbitMq {
    prefix: String,
    lifecycle: Lifecycle,
}

impl QueueUnderTest for RabbitMq {
    // Each process remembers its own messages only, and the suite uses two processes.
    const RECOGNISES_DUPLICATES: bool = false;
    const UNBOUND_ANNOUNCEMENT: Announced = Announced::Unrouted;

    async fn start() -> Self {
        Self { prefix: unique_prefix(), lifecycle: Lifecycle::new() }
    }

    async fn open(&self) -> Arc<dyn Queue> {
        let config = config(&SHARED_NODE.url(), &self.prefix);
        let options = RabbitMqOptions {
            config: &config,
            delays: vec![Self::SHORT_DELAY, Self::LONG_DELAY],
            refresh_delays: vec![Self::SHORT_DELAY, Self::SHORT_DELAY * 2, Self::LONG_DELAY],
            // The suite holds many jobs at a time.
            consume: Some(250),
            consumer_timeout: CONSUMER_TIMEOUT,
            only_publishes: false,
            clock: Clock::System,
        };
        let broker = RabbitMqQueue::open(options, &self.lifecycle).unwrap();
        let queue =
            SpooledQueue::new(broker, None, &config, Clock::System, Health::default(), &self.lifecycle);
        let ready = async {
            while queue.ready().await.is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), ready).await.expect("ready in time");
        queue
    }
}

contract_suite!(RabbitMq);
