//! The receiver in this process, on a port of its own.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use metrics_exporter_prometheus::PrometheusHandle;
use polyhook::{
    clock::Clock,
    config::Config,
    health::Health,
    lifecycle::{Lifecycle, ShutdownOutcome},
    queue::{Queue, QueueUrls},
    secret::Secret,
    telemetry,
    web::{self, Receiver, ServerConfig, SignatureConfig, admin::Admin},
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::wire::{Answer, Request, Wire};

pub(super) const PATH: &str = "/polyai-events";
pub(super) const SECRET: &str = "whsec_6f1d0c4e8a2b4f77b3a9e5d2c1f00d42";
/// Unix seconds; no test depends on the machine's clock.
pub(super) const NOW: i64 = 1_795_000_000;

/// What a busy machine may add to a time that polyhook promises.
pub(super) const SLACK: Duration = Duration::from_millis(500);

pub(super) fn server() -> ServerConfig {
    ServerConfig { listen: loopback(), path: PATH.to_owned(), ..ServerConfig::default() }
}

/// With this much time to answer.
pub(super) fn budget(ack_budget: Duration) -> ServerConfig {
    ServerConfig { ack_budget, ..server() }
}

pub(super) fn signature() -> SignatureConfig {
    SignatureConfig { secrets: vec![Secret::new(SECRET)], ..SignatureConfig::default() }
}

pub(super) fn clock() -> Clock {
    Clock::manual(Timestamp::from_second(NOW).unwrap())
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// A whole configuration on an embedded queue in `folder`; every port is a free one.
pub(super) fn config(folder: &TempDir) -> Config {
    let mut config = Config { server: server(), signature: signature(), ..Config::default() };
    config.admin.listen = loopback();
    config.queue.url =
        QueueUrls::One(Secret::new(format!("sqlite:{}", folder.path().join("queue.db").display())));
    // For a machine that is busy with other tests; the ack budget still holds.
    config.queue.publish_timeout = Duration::from_secs(3);
    config
}

/// The one recorder a process can have.
pub(super) fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| telemetry::init_metrics().unwrap()).clone()
}

/// Something that listens. It stops with the test.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) lifecycle: Lifecycle,
}

impl Server {
    /// The receiver with its defaults.
    pub(super) async fn start(queue: &Arc<impl Queue>) -> Self {
        Self::with(&server(), &signature(), queue).await
    }

    pub(super) async fn with(
        server: &ServerConfig,
        signature: &SignatureConfig,
        queue: &Arc<impl Queue>,
    ) -> Self {
        let queue = Arc::clone(queue) as Arc<dyn Queue>;
        let receiver = Receiver::new(server, signature, queue, clock(), &Health::default());
        Self::serve(receiver.router(&server.path), server.ack_budget, Lifecycle::new()).await
    }

    /// The admin listener of a process that lives and drains with `lifecycle`.
    pub(super) async fn admin(queue: &Arc<impl Queue>, lifecycle: Lifecycle) -> Self {
        Self::admin_with(queue, lifecycle, Health::default()).await
    }

    /// The same, of a process that has something to say about itself.
    pub(super) async fn admin_with(queue: &Arc<impl Queue>, lifecycle: Lifecycle, health: Health) -> Self {
        let queue = Arc::clone(queue) as Arc<dyn Queue>;
        let admin =
            Admin { queue, receiver: None, metrics: metrics(), draining: lifecycle.draining(), health };
        // What is shown is that it answers while draining, so it must outlive the drain.
        Self::serve(admin.router(), Duration::from_secs(4), Lifecycle::new()).await
    }

    pub(super) async fn serve(router: axum::Router, budget: Duration, lifecycle: Lifecycle) -> Self {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        lifecycle.spawn_service("server", web::serve("test", listener, router, budget, lifecycle.clone()));
        Self { address, lifecycle }
    }

    pub(super) async fn open(&self) -> Wire {
        Wire::open(self.address).await
    }

    /// One request on a connection of its own.
    pub(super) async fn ask(&self, request: &Request) -> Answer {
        self.open().await.ask(request).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        get(self.address, path).await
    }

    /// Drains, and is over when everybody was answered.
    pub(super) async fn end(&self) -> ShutdownOutcome {
        self.lifecycle.drain();
        self.lifecycle.run_until_shutdown().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.lifecycle.drain();
    }
}

pub(super) async fn get(address: SocketAddr, path: &str) -> Answer {
    let request = Request { method: "GET", path: path.to_owned(), ..Request::unsigned("") };
    Wire::open(address).await.ask(&request).await
}

/// Waits for what must come true soon.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < give_up, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// How long `work` takes, and what it gives.
pub(super) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let result = work.await;
    (result, started.elapsed())
}
