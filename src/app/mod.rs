//! The composition root: starts the services of a configuration and shuts them down in order.
//!
//! Start: the listeners are bound, then the queue and the resources are opened, then the services start. Everything
//! that can fail comes before anything that accepts work.
//!
//! Shutdown: the first signal makes the process not ready. Listeners stop accepting, open requests are answered, and the
//! worker finishes or returns its jobs. The queue is closed last, because the others need it until then.

mod account;
mod admin;
mod archive_disk;
mod console;
mod disk_metrics;
mod index;
mod machine;
mod queue;
mod receiver;
mod reconcile;
mod resources;
mod secret_reloader;
mod status;
mod worker;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use thiserror::Error;
use tokio::net::TcpListener;

use self::secret_reloader::SecretReloader;
use crate::{
    archive::ArchiveError,
    clock::Clock,
    config::{Config, Roles},
    health::Health,
    lifecycle::{Lifecycle, ShutdownOutcome},
    polyai,
    problem::Problem,
    queue::{Queue, QueueUrlError, rabbitmq, sqlite},
};

pub use self::{
    machine::{MachineReport, Place, check_machine},
    queue::{OpenQueue, open_broker, open_queue},
    resources::Resources,
    status::open_status_reader,
};

/// Time that the queue has to return all jobs at the end. Together with the drain before it: ten seconds.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The reason why the services cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The queue's URL is not valid.
    #[error("queue.url: {0}")]
    QueueUrl(#[from] QueueUrlError),
    /// The embedded queue cannot be opened.
    #[error("queue.url: {0}")]
    Sqlite(#[from] sqlite::OpenError),
    /// The spool's file can never be used.
    #[error("spool.path: {0}")]
    Spool(#[source] sqlite::OpenError),
    /// RabbitMQ's settings are not valid.
    #[error("{0}")]
    RabbitMq(#[from] rabbitmq::OpenError),
    /// The archive cannot be opened.
    #[error("archive.url: {0}")]
    Archive(#[from] ArchiveError),
    /// The index cannot be written as configured.
    #[error("{0}")]
    Index(Problem),
    /// The projects are not valid.
    #[error("{0}")]
    PolyAi(#[from] polyai::ConfigError),
    /// A project names no account, and it cannot be found out now.
    #[error("{0}")]
    Account(#[from] polyai::AccountError),
    /// A port is in use, or this user may not open it.
    #[error("{}", machine::listen_problem(key, *address, source))]
    Listen {
        /// The configuration key.
        key: &'static str,
        /// The key's value.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
}

impl StartError {
    /// Returns the configuration key that led to the error, if one did.
    pub fn key(&self) -> Option<&str> {
        match self {
            Self::QueueUrl(_) | Self::Sqlite(_) => Some("queue.url"),
            Self::Spool(_) => Some("spool.path"),
            Self::RabbitMq(error) => Some(error.key()),
            Self::Archive(ArchiveError::Config(problem)) | Self::Index(problem) => Some(problem.key()),
            Self::Archive(_) => Some("archive.url"),
            Self::Listen { key, .. } => Some(key),
            Self::PolyAi(_) | Self::Account(_) => None,
        }
    }

    /// Returns true if a person must change the configuration, as opposed to the machine's state.
    pub fn is_config(&self) -> bool {
        matches!(
            self,
            Self::QueueUrl(_)
                | Self::RabbitMq(_)
                | Self::PolyAi(_)
                | Self::Index(_)
                | Self::Archive(ArchiveError::Config(_))
        )
    }
}

/// The running services of a process.
#[derive(Debug)]
pub struct App {
    lifecycle: Lifecycle,
    queue_lifecycle: Lifecycle,
    queue: OpenQueue,
    public: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    console: Option<SocketAddr>,
}

/// Everything that each service gets.
struct Context<'a> {
    config: &'a Config,
    queue: Arc<dyn Queue>,
    clock: Clock,
    health: Health,
    lifecycle: Lifecycle,
}

impl App {
    /// Starts the services of `roles`; with `metrics`, also the admin listener.
    pub async fn start(
        config: &Config,
        roles: Roles,
        metrics: Option<PrometheusHandle>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let lifecycle = Lifecycle::new();
        lifecycle.install_signal_handlers();
        let public = if roles.receive {
            Some(BoundListener::bind("server.listen", config.server.listen).await?)
        } else {
            None
        };
        let admin = match metrics {
            Some(metrics) => Some((BoundListener::bind("admin.listen", config.admin.listen).await?, metrics)),
            None => None,
        };
        let console = if config.serves_console(roles) {
            Some(BoundListener::bind("console.listen", config.console.listen).await?)
        } else {
            None
        };
        let health = Health::default();
        let queue_lifecycle = lifecycle.with_own_tracker();
        let queue = open_queue(config, roles, clock.clone(), &health, &queue_lifecycle)?;
        let archives = roles.work || roles.reconcile;
        let resources = (archives && !account::is_unknown(config)).then(|| Resources::open(config, &clock));
        let bound_admin = admin.as_ref().map(|(listener, _)| listener.address);
        let pages =
            console.as_ref().map(|_| console::open(config, &queue.queue, bound_admin, &clock, &lifecycle));
        let pages = pages.transpose();
        let (resources, pages) = match (resources.transpose(), pages) {
            (Ok(resources), Ok(pages)) => (resources, pages),
            (Err(error), _) | (_, Err(error)) => {
                lifecycle.drain();
                queue.queue.close().await;
                return Err(error);
            }
        };

        let context = Context { config, queue: Arc::clone(&queue.queue), clock, health, lifecycle };
        let (public_address, admin_address, console_address) = (
            public.as_ref().map(|listener| listener.address),
            admin.as_ref().map(|(listener, _)| listener.address),
            console.as_ref().map(|listener| listener.address),
        );
        let receiver = public.map(|listener| receiver::start(&context, roles, listener));
        if let Some((listener, metrics)) = admin {
            admin::start(&context, listener, metrics, receiver.clone());
        }
        let console = console.zip(pages).map(|(listener, pages)| console::start(&context, listener, pages));
        match &resources {
            Some(resources) => start_archiving(&context, roles, resources),
            None if archives => start_archiving_later(&context, roles),
            None => {}
        }
        disk_metrics::start(&context, roles);
        let polyai = resources.map(|resources| resources.polyai);
        SecretReloader::new(&context, receiver, console, polyai).start(&context);
        Ok(Self {
            lifecycle: context.lifecycle,
            queue_lifecycle,
            queue,
            public: public_address,
            admin: admin_address,
            console: console_address,
        })
    }

    /// Returns the address of the public listener.
    pub fn public_address(&self) -> Option<SocketAddr> {
        self.public
    }

    /// Returns the address of the admin listener.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Returns the address of the console.
    pub fn console_address(&self) -> Option<SocketAddr> {
        self.console
    }

    /// Returns the queue in use.
    pub fn queue(&self) -> &OpenQueue {
        &self.queue
    }

    /// Returns the lifecycle of all services. A drain of it ends them.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// Runs until a signal, then shuts everything down in order.
    pub async fn run_until_shutdown(self) -> ShutdownOutcome {
        let outcome = self.drained().await;
        self.close(outcome).await;
        outcome
    }

    /// Runs until a signal, then stops everything but the queue.
    pub async fn drained(&self) -> ShutdownOutcome {
        self.lifecycle.run_until_shutdown().await
    }

    /// Closes the queue, after everything else has ended with `outcome`.
    pub async fn close(self, outcome: ShutdownOutcome) {
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, async {
            self.queue.queue.close().await;
            self.queue_lifecycle.wait().await;
        });
        if closed.await.is_err() {
            tracing::warn!("the queue did not close in time; its leases expire by themselves");
        }
        tracing::info!("stopped: {}", outcome.meaning());
    }
}

/// Starts the services that fetch and archive.
fn start_archiving(context: &Context<'_>, roles: Roles, resources: &Resources) {
    if roles.work {
        archive_disk::start(context, resources.archive.clone());
        worker::start(context, resources);
    }
    if reconcile::is_enabled(context.config, roles) {
        reconcile::start(context, resources);
    }
    if index::is_enabled(context.config, roles) {
        index::start(context, resources);
    }
}

/// Starts the services that fetch and archive as soon as the account of every project is known.
fn start_archiving_later(context: &Context<'_>, roles: Roles) {
    let Context { queue, clock, health, lifecycle, .. } = context;
    let (queue, clock, health) = (Arc::clone(queue), clock.clone(), health.clone());
    let (config, lifecycle) = (context.config.clone(), lifecycle.clone());
    context.lifecycle.spawn_service("account", async move {
        let context = Context { config: &config, queue, clock, health, lifecycle };
        let Some(config) = account::wait_for(&context).await else { return };
        let context = Context { config: &config, ..context };
        let resources = match Resources::open(&config, &context.clock) {
            Ok(resources) => resources,
            Err(error) => {
                tracing::error!(%error, "cannot start to archive");
                return;
            }
        };
        start_archiving(&context, roles, &resources);
        SecretReloader::new(&context, None, None, Some(resources.polyai)).start(&context);
        context.lifecycle.draining().cancelled().await;
    });
}

/// A listener that is bound, and the address that it got.
struct BoundListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl BoundListener {
    async fn bind(key: &'static str, address: SocketAddr) -> Result<Self, StartError> {
        let bound = async {
            let listener = TcpListener::bind(address).await?;
            Ok(Self { address: listener.local_addr()?, listener })
        };
        bound.await.map_err(|source| StartError::Listen { key, address, source })
    }
}
