//! The only composition root: from a configuration to running services, and their ordered end.
//!
//! Start: queue, then listeners are bound, then the worker. End: the first signal makes the process not ready,
//! listeners stop accepting, open requests are answered, the worker finishes or hands back what it holds; the
//! queue is closed last, when nobody needs it any more.

mod space;
mod upkeep;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use thiserror::Error;
use tokio::net::TcpListener;

use self::upkeep::Upkeep;
use crate::{
    archive::{Archive, ArchiveError},
    clock::Clock,
    config::{Config, Roles},
    health::Health,
    lifecycle::{Lifecycle, ShutdownOutcome},
    polyai::{self, PolyAiClient},
    queue::{
        Queue, QueueBackend, QueueUrlError,
        rabbitmq::{self, RabbitMqQueue},
        spool::Spool,
        spooled::SpooledQueue,
        sqlite::{self, SqliteOptions, SqliteQueue},
    },
    reconcile,
    retry::RetrySchedule,
    web::{self, Receiver, admin::Admin},
    worker::{self, Worker},
};

/// How long the queue may take to hand everything back. With the drain before it, ten seconds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How often measured durations are added up.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// Why nothing runs.
#[derive(Debug, Error)]
pub enum StartError {
    /// The queue's URL makes no sense.
    #[error("queue.url: {0}")]
    QueueUrl(#[from] QueueUrlError),
    /// The embedded queue cannot be opened.
    #[error("queue.url: {0}")]
    Sqlite(#[from] sqlite::OpenError),
    /// The spool's file can never be used.
    #[error("spool.path: {0}")]
    Spool(#[source] sqlite::OpenError),
    /// RabbitMQ's settings make no sense.
    #[error("queue: {0}")]
    RabbitMq(#[from] rabbitmq::OpenError),
    /// The archive cannot be opened.
    #[error("archive.url: {0}")]
    Archive(#[from] ArchiveError),
    /// The projects make no sense.
    #[error("{0}")]
    PolyAi(#[from] polyai::ConfigError),
    /// A port is taken, or not ours to take.
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// What it says.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

impl StartError {
    /// Whether a person must change the configuration (as opposed to the machine's state).
    pub fn is_config(&self) -> bool {
        matches!(
            self,
            Self::QueueUrl(_) | Self::RabbitMq(_) | Self::PolyAi(_) | Self::Archive(ArchiveError::Config(_))
        )
    }
}

/// A queue in use, and its own concrete form where it is the embedded one.
#[derive(Clone, Debug)]
pub struct OpenQueue {
    /// Whichever it is.
    pub queue: Arc<dyn Queue>,
    /// The embedded queue, which can also be read.
    pub sqlite: Option<Arc<SqliteQueue>>,
}

/// Opens the configured queue for `roles`.
pub fn open_queue(
    config: &Config,
    roles: Roles,
    clock: Clock,
    health: &Health,
    lifecycle: &Lifecycle,
) -> Result<OpenQueue, StartError> {
    Ok(match config.queue.backend()? {
        QueueBackend::Sqlite(path) => {
            // One that was here before may have room again, or be put in order, while we wait.
            let start_without_file = path.metadata().is_ok_and(|file| file.len() > 0);
            let options = SqliteOptions { start_without_file, ..SqliteOptions::new(&config.queue, clock) };
            let queue = SqliteQueue::open(&path, options, lifecycle)?;
            OpenQueue { queue: Arc::clone(&queue) as Arc<dyn Queue>, sqlite: Some(queue) }
        }
        QueueBackend::RabbitMq => {
            let held = worker::max_held_jobs(config.worker.concurrency, config.projects.len());
            let consume = roles.work.then_some(held);
            let only_publishes = roles.receive && !roles.work && !roles.reconcile;
            let broker = open_rabbitmq(config, consume, only_publishes, clock.clone(), lifecycle)?;
            if !roles.receive && !roles.reconcile {
                return Ok(OpenQueue { queue: broker, sqlite: None });
            }
            // Only deliveries have to be kept while the broker is away: what is found missing is found again.
            let spool = if !roles.receive || config.spool.path.as_os_str().is_empty() {
                None
            } else {
                let spool = Spool::open(&config.spool, &config.queue, clock.clone(), lifecycle);
                Some((spool.map_err(StartError::Spool)?, config.spool.drain_rate))
            };
            let queue = SpooledQueue::new(broker, spool, &config.queue, clock, health.clone(), lifecycle);
            OpenQueue { queue, sqlite: None }
        }
    })
}

/// Opens RabbitMQ itself, to publish to it.
pub fn open_broker(
    config: &Config,
    clock: Clock,
    lifecycle: &Lifecycle,
) -> Result<Arc<RabbitMqQueue>, StartError> {
    open_rabbitmq(config, None, true, clock, lifecycle)
}

fn open_rabbitmq(
    config: &Config,
    consume: Option<usize>,
    only_publishes: bool,
    clock: Clock,
    lifecycle: &Lifecycle,
) -> Result<Arc<RabbitMqQueue>, StartError> {
    let delays = config.retry.delays.clone();
    let options = rabbitmq::RabbitMqOptions { config: &config.queue, delays, consume, only_publishes, clock };
    Ok(RabbitMqQueue::open(options, lifecycle)?)
}

/// Where conversations come from, and where they go.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Shared, so that one 429 pauses everybody.
    pub polyai: Arc<PolyAiClient>,
    /// Shared, so that commits are in order.
    pub archive: Archive,
}

impl Resources {
    /// Those of a configuration. Asks nobody yet.
    pub fn open(config: &Config, clock: &Clock) -> Result<Self, StartError> {
        let polyai = PolyAiClient::new(&config.polyai, &config.projects, clock.clone())?;
        let archive = Archive::open(&config.archive, clock.clone())?;
        Ok(Self { polyai: Arc::new(polyai), archive })
    }

    /// A worker between them.
    pub fn worker(&self, config: &Config, queue: Arc<dyn Queue>, clock: Clock) -> Worker {
        let Self { polyai, archive } = self.clone();
        Worker::new(config.worker.clone(), RetrySchedule::new(&config.retry), queue, polyai, archive, clock)
    }

    /// What compares them.
    pub fn reconciliation(
        &self,
        config: &Config,
        queue: Arc<dyn Queue>,
        clock: Clock,
        health: Health,
    ) -> reconcile::ReconcileService {
        let Self { polyai, archive } = self.clone();
        let environments = config.worker.environments.clone();
        reconcile::ReconcileService::new(
            config.reconcile.clone(),
            environments,
            polyai,
            archive,
            queue,
            clock,
            health,
        )
    }
}

/// Running services.
#[derive(Debug)]
pub struct App {
    lifecycle: Lifecycle,
    queue_life: Lifecycle,
    queue: OpenQueue,
    public: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl App {
    /// Starts the services of `roles`; with `metrics`, the admin listener too.
    pub async fn start(
        config: &Config,
        roles: Roles,
        metrics: Option<PrometheusHandle>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let lifecycle = Lifecycle::new();
        lifecycle.install_signal_handlers();
        let queue_life = lifecycle.with_own_tracker();
        let health = Health::default();
        // Everything that can fail comes before anything that takes work.
        let public =
            if roles.receive { Some(bind("server.listen", config.server.listen).await?) } else { None };
        let admin = match metrics {
            Some(handle) => Some((bind("admin.listen", config.admin.listen).await?, handle)),
            None => None,
        };
        let queue = open_queue(config, roles, clock.clone(), &health, &queue_life)?;
        let resources = (roles.work || roles.reconcile).then(|| Resources::open(config, &clock)).transpose();
        let resources = match resources {
            Ok(resources) => resources,
            Err(error) => {
                lifecycle.drain();
                queue.queue.close().await;
                return Err(error);
            }
        };

        let mut app = Self { lifecycle: lifecycle.clone(), queue_life, queue, public: None, admin: None };
        let mut kept_up = Upkeep::of(
            config,
            resources.as_ref().map(|resources| Arc::clone(&resources.polyai)),
            health.clone(),
        );
        if let Some(listener) = public {
            let address = local("server.listen", config.server.listen, &listener)?;
            let queue = Arc::clone(&app.queue.queue);
            let receiver = Receiver::new(&config.server, &config.signature, queue, clock.clone(), &health);
            let router = receiver.router(&config.server.path);
            kept_up.receiver = Some(receiver);
            let serve = web::serve("public", listener, router, config.server.ack_budget, lifecycle.clone());
            lifecycle.spawn_service("receiver", serve);
            tracing::info!(%address, path = config.server.path, "receiving deliveries");
            app.public = Some(address);
        }
        if let Some((listener, metrics)) = admin {
            let address = local("admin.listen", config.admin.listen, &listener)?;
            lifecycle.spawn_service("metrics", refresh(metrics.clone(), lifecycle.clone()));
            let queue = Arc::clone(&app.queue.queue);
            let admin = Admin {
                queue,
                receiver: kept_up.receiver.clone(),
                metrics,
                draining: lifecycle.draining(),
                health: health.clone(),
            };
            lifecycle.spawn_service(
                "admin",
                web::serve("admin", listener, admin.router(), config.server.ack_budget, lifecycle.clone()),
            );
            tracing::info!(%address, "serving /livez, /readyz and /metrics");
            app.admin = Some(address);
        }
        if let Some(resources) = resources.as_ref().filter(|_| roles.work) {
            let worker = resources.worker(config, Arc::clone(&app.queue.queue), clock.clone());
            lifecycle.spawn_service("worker", worker.run(lifecycle.clone()));
            tracing::info!(
                concurrency = config.worker.concurrency,
                environments = config.worker.environments.join(","),
                archive = config.archive.url,
                "fetching conversations"
            );
        }
        // One that was asked for by name has nothing else to do.
        let wanted = roles.reconcile && (!config.reconcile.every.is_zero() || roles == Roles::RECONCILE);
        if let Some(resources) = resources.filter(|_| wanted) {
            let service = resources.reconciliation(config, Arc::clone(&app.queue.queue), clock, health);
            lifecycle.spawn_service("reconcile", service.run(lifecycle.clone()));
            tracing::info!(
                every_s = config.reconcile.every.as_secs(),
                lookback_s = config.reconcile.lookback.as_secs(),
                "looking for what no webhook brings"
            );
        }
        lifecycle.spawn_service("space", space::watch(space::local(config, roles), lifecycle.clone()));
        lifecycle.spawn_service("upkeep", kept_up.run(lifecycle.clone()));
        Ok(app)
    }

    /// Where deliveries come in.
    pub fn public_address(&self) -> Option<SocketAddr> {
        self.public
    }

    /// Where metrics are served.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The queue in use.
    pub fn queue(&self) -> &OpenQueue {
        &self.queue
    }

    /// The tracker of all services; draining it ends them.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Runs until a signal, then ends everything in order.
    pub async fn run_until_shutdown(self) -> ShutdownOutcome {
        let ending = self.lifecycle.run_until_shutdown().await;
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, async {
            self.queue.queue.close().await;
            self.queue_life.wait().await;
        });
        if closed.await.is_err() {
            tracing::warn!("the queue did not close in time; leases run out by themselves");
        }
        tracing::info!(?ending, "stopped");
        ending
    }
}

/// Adds up what was measured until the drain. Without it the recorder keeps every single duration until
/// somebody scrapes, which may be never.
async fn refresh(metrics: PrometheusHandle, lifecycle: Lifecycle) {
    let draining = lifecycle.draining();
    while tokio::time::timeout(METRICS_UPKEEP, draining.cancelled()).await.is_err() {
        metrics.run_upkeep();
    }
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Listen { key, address, source })
}

fn local(key: &'static str, address: SocketAddr, listener: &TcpListener) -> Result<SocketAddr, StartError> {
    listener.local_addr().map_err(|source| StartError::Listen { key, address, source })
}
