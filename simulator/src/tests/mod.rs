//! The simulator over real sockets.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{CallInfo, Clock, Scenario, Simulator};

mod apis;
mod failures;
mod receiver;
mod sending;

/// A running simulator, its clock, and a client.
struct Fixture {
    simulator: Simulator,
    clock: ManualClock,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    client: reqwest::Client,
}

/// A time that stands still until it is advanced.
#[derive(Clone)]
struct ManualClock(Arc<Mutex<Timestamp>>);

impl ManualClock {
    fn new(start: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(start)))
    }

    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    fn clock(&self) -> Clock {
        let clock = self.clone();
        Clock::from_fn(move || clock.now())
    }
}

fn client() -> reqwest::Client {
    // Only the first installation succeeds, and one is enough.
    let _ = rustls::crypto::ring::default_provider().install_default();
    #[expect(clippy::disallowed_methods, reason = "a test checks the raw answers")]
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .no_proxy()
        .build()
        .unwrap()
}

impl Fixture {
    async fn start(scenario: Scenario) -> Self {
        let clock = ManualClock::new("2026-11-03T12:00:00Z".parse().unwrap());
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let (simulator, server) =
            Simulator::bind(listen, scenario, clock.clock(), shutdown.clone()).await.unwrap();
        tasks.spawn(server.run());
        Self { simulator, clock, shutdown, tasks, client: client() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{}", self.simulator.url(), path.trim_start_matches('/'))
    }

    /// Returns a v3 path of the first project.
    fn v3(&self, rest: &str) -> String {
        let (account, project) = (self.simulator.account_id(), self.simulator.project_id());
        format!("/v3/{account}/{project}/conversations{rest}")
    }

    fn data(&self, rest: &str) -> String {
        format!("/v1/agents/{}/conversations{rest}", self.simulator.project_id())
    }

    fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.url(path)).header("x-api-key", self.simulator.api_key())
    }

    fn request(&self, method: http::Method, path: &str, body: &Value) -> reqwest::RequestBuilder {
        self.client
            .request(method, self.url(path))
            .header("x-api-key", self.simulator.api_key())
            .body(body.to_string())
    }

    async fn json(&self, path: &str) -> (StatusCode, Value) {
        answer(self.get(path)).await
    }

    /// Returns a voice call with a recording.
    fn voice(&self) -> CallInfo {
        self.simulator.calls().into_iter().find(|call| call.has_audio).unwrap()
    }

    async fn stop(self) {
        drop(self.client);
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(Duration::from_secs(8), self.tasks.wait()).await.expect("stops in time");
    }
}

/// Sends a request, checks the fields of every answer, and returns the JSON body, or `null` if there is none.
async fn answer(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let correlation = response.headers()["x-polyai-correlation-id"].to_str().unwrap().to_owned();
    assert_eq!(correlation.len(), 36);
    let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default();
    if let Some(id) = body.get("error_id") {
        assert_eq!(id, &correlation);
        assert_eq!(body["success"], false);
        assert_eq!(body["error"], body["error_message"]);
        assert!(body["data"].is_null());
    }
    (status, body)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}
