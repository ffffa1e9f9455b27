//! Starts the receiver in this process, on a free port.

use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{body::Body, service::Service};
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
    web::{
        self, ConnectionLimits, Receiver, ReceiverConfig, RequestBody, ServerConfig, SignatureConfig,
        TriggerConfig, admin::Admin,
    },
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::wire::{Answer, Request, Wire};

pub(super) const PATH: &str = "/polyai-events";
pub(super) const SECRET: &str = "whsec_6f1d0c4e8a2b4f77b3a9e5d2c1f00d42";
/// Unix seconds of the manual clock. No test depends on the machine's clock.
pub(super) const NOW: i64 = 1_795_000_000;

/// The limit of an answer that waits for nothing; see [`assert_faster_than`](crate::support::timing::assert_faster_than).
pub(super) const AT_ONCE: Duration = Duration::from_millis(500);
/// Tolerance for a busy machine after the ack budget. Without the budget, the answers of these tests would take much
/// longer.
pub(super) const TOLERANCE: Duration = Duration::from_secs(2);

pub(super) fn server() -> ServerConfig {
    ServerConfig { listen: loopback(), path: PATH.to_owned(), ..ServerConfig::default() }
}

/// Default settings with another ack budget.
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

/// A complete configuration with an embedded queue in `folder` and free ports.
pub(super) fn config(folder: &TempDir) -> Config {
    let mut config = Config { server: server(), signature: signature(), ..Config::default() };
    config.admin.listen = loopback();
    config.queue.url =
        QueueUrls::One(Secret::new(format!("sqlite:{}", folder.path().join("queue.db").display())));
    // Long, because other tests keep the machine busy. The ack budget still applies.
    config.queue.publish_timeout = Duration::from_secs(3);
    config
}

/// Returns the process's only metrics recorder.
pub(super) fn metrics() -> PrometheusHandle {
    static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();
    METRICS.get_or_init(|| telemetry::init_metrics().unwrap()).clone()
}

/// A running listener. It stops when the test ends.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) lifecycle: Lifecycle,
}

impl Server {
    /// Starts the receiver with default settings.
    pub(super) async fn start(queue: &Arc<impl Queue>) -> Self {
        Self::with(&server(), &signature(), queue).await
    }

    pub(super) async fn with(
        server: &ServerConfig,
        signature: &SignatureConfig,
        queue: &Arc<impl Queue>,
    ) -> Self {
        let queue = Arc::clone(queue) as Arc<dyn Queue>;
        let lifecycle = Lifecycle::new();
        let sections = ReceiverConfig { server, signature, trigger: &TriggerConfig::default() };
        let receiver = Receiver::new(sections, queue, clock(), &Health::default(), &lifecycle);
        Self::serve(receiver, server.connection_limits(u64::MAX), lifecycle).await
    }

    /// Starts the admin listener of a process with this lifecycle.
    pub(super) async fn admin(queue: &Arc<impl Queue>, lifecycle: Lifecycle) -> Self {
        Self::admin_with(queue, lifecycle, Health::default()).await
    }

    /// Starts the admin listener of a process with these conditions.
    pub(super) async fn admin_with(queue: &Arc<impl Queue>, lifecycle: Lifecycle, health: Health) -> Self {
        let queue = Arc::clone(queue) as Arc<dyn Queue>;
        let admin =
            Admin { queue, receiver: None, metrics: metrics(), draining: lifecycle.draining(), health };
        // The tests check that it answers during the drain, so it has a lifecycle of its own.
        Self::serve(admin.service(), Admin::connection_limits(&server()), Lifecycle::new()).await
    }

    pub(super) async fn serve<S, B>(service: S, limits: ConnectionLimits, lifecycle: Lifecycle) -> Self
    where
        S: Service<http::Request<RequestBody>, Response = http::Response<B>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>,
        B: From<&'static str> + Unpin + Send + 'static,
    {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = move |_| service.clone();
        lifecycle.spawn_service("server", web::serve("test", listener, service, limits, lifecycle.clone()));
        Self { address, lifecycle }
    }

    pub(super) async fn open(&self) -> Wire {
        Wire::open(self.address).await
    }

    /// Sends one request on a new connection.
    pub(super) async fn ask(&self, request: &Request) -> Answer {
        self.open().await.ask(request).await
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        get(self.address, path).await
    }

    /// Drains, and waits until every open request is answered.
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

/// Waits until `holds` returns true. Fails after ten seconds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < give_up, "did not happen: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Returns the result of `work` and its duration.
pub(super) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let result = work.await;
    (result, started.elapsed())
}
