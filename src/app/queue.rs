//! Opens the configured queue.

use std::sync::Arc;

use super::StartError;
use crate::{
    clock::Clock,
    config::{Config, Roles},
    health::Health,
    lifecycle::Lifecycle,
    queue::{
        Queue, QueueBackend,
        rabbitmq::{CONSUMER_TIMEOUT, RabbitMqOptions, RabbitMqQueue},
        spool::Spool,
        spooled::SpooledQueue,
        sqlite::{SqliteOptions, SqliteQueue},
    },
    worker,
};

/// An open queue, with its concrete type if it is the embedded one.
#[derive(Clone, Debug)]
pub struct OpenQueue {
    /// The queue, whatever its backend.
    pub queue: Arc<dyn Queue>,
    /// The embedded queue, whose content can also be listed.
    pub sqlite: Option<Arc<SqliteQueue>>,
    /// RabbitMQ, whose events of this process can also be watched.
    pub broker: Option<Arc<RabbitMqQueue>>,
}

/// Opens the configured queue for `roles`.
pub fn open_queue(
    config: &Config,
    roles: Roles,
    clock: Clock,
    health: &Health,
    lifecycle: &Lifecycle,
) -> Result<OpenQueue, StartError> {
    match config.queue.backend()? {
        QueueBackend::Sqlite(path) => {
            // A file that existed before may become usable while the process waits: the disk gets free space, or a
            // person repairs it.
            let start_without_file = path.metadata().is_ok_and(|file| file.len() > 0);
            let options = SqliteOptions { start_without_file, ..SqliteOptions::new(&config.queue, clock) };
            let queue = SqliteQueue::open(&path, options, lifecycle)?;
            Ok(OpenQueue { queue: Arc::clone(&queue) as Arc<dyn Queue>, sqlite: Some(queue), broker: None })
        }
        QueueBackend::RabbitMq => {
            let broker = open_rabbitmq(config, roles, clock.clone(), lifecycle)?;
            let queue = with_spool(Arc::clone(&broker), config, roles, clock, health, lifecycle)?;
            Ok(OpenQueue { queue, sqlite: None, broker: Some(broker) })
        }
    }
}

/// Opens RabbitMQ without a spool, to publish only, with the queues that `roles` need.
pub fn open_broker(
    config: &Config,
    roles: Roles,
    clock: Clock,
    lifecycle: &Lifecycle,
) -> Result<Arc<RabbitMqQueue>, StartError> {
    open_rabbitmq(config, roles, clock, lifecycle)
}

fn with_spool(
    broker: Arc<RabbitMqQueue>,
    config: &Config,
    roles: Roles,
    clock: Clock,
    health: &Health,
    lifecycle: &Lifecycle,
) -> Result<Arc<dyn Queue>, StartError> {
    if !roles.receive && !roles.reconcile {
        return Ok(broker);
    }
    // Only deliveries need a spool while the broker is away: reconciliation finds its own messages again.
    let spool = if !roles.receive || config.spool.path.as_os_str().is_empty() {
        None
    } else {
        let spool = Spool::open(&config.spool, &config.queue, clock.clone(), lifecycle);
        Some((spool.map_err(StartError::Spool)?, config.spool.drain_rate))
    };
    Ok(SpooledQueue::new(broker, spool, &config.queue, clock, health.clone(), lifecycle))
}

fn open_rabbitmq(
    config: &Config,
    roles: Roles,
    clock: Clock,
    lifecycle: &Lifecycle,
) -> Result<Arc<RabbitMqQueue>, StartError> {
    let max_held_jobs = worker::max_held_jobs(config.worker.concurrency, config.projects.len());
    let options = RabbitMqOptions {
        config: &config.queue,
        delays: config.retry.delays.clone(),
        refresh_delays: config.refresh_ages(roles),
        consume: roles.work.then_some(max_held_jobs),
        consumer_timeout: CONSUMER_TIMEOUT,
        only_publishes: roles.only_receives(),
        clock,
    };
    Ok(RabbitMqQueue::open(options, lifecycle)?)
}
