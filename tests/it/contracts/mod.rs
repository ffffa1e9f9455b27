//! Compares the public contract with polyhook's behavior: `docs/schemas`, `docs/asyncapi.yaml`, `docs/openapi.yaml` and
//! the programs in `deploy/examples`.
//!
//! The comparison goes both ways: something documented but absent fails, and so does something present but not
//! documented.

mod asyncapi;
mod examples;
mod install;
mod schemas;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use polyhook::{
    app::{App, Resources},
    clock::Clock,
    config::{Config, Roles},
    lifecycle::Lifecycle,
    polyai::ProjectConfig,
    queue::QueueUrls,
    secret::Secret,
    worker::{ErasureRequest, Worker},
};
use polyhook_simulator::{
    CallInfo, Channel, Delivery, Environment, EventOptions, NewCall, Scenario, Sender, SenderOptions,
    Simulator,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::rabbit::{self, Node};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn docs() -> PathBuf {
    root().join("docs")
}

/// Reads a YAML document of `docs`.
pub(crate) fn document(name: &str) -> Value {
    python("load", &docs().join(name), &Value::Null)
}

/// Values to validate against a schema.
pub(crate) struct SchemaCheck {
    /// A file in `docs` and, after a `#`, the path of the schema in it.
    pub(crate) schema: String,
    /// Rejects fields that the schema does not name.
    pub(crate) closed: bool,
    pub(crate) instances: Vec<Value>,
}

impl SchemaCheck {
    /// Returns the errors of each instance of each check.
    fn errors(all: &[Self]) -> Vec<Vec<Vec<String>>> {
        let checks = all.iter().map(|Self { schema, closed, instances }| {
            json!({ "schema": schema, "closed": closed, "instances": instances })
        });
        serde_json::from_value(python("check", &docs(), &checks.collect())).unwrap()
    }

    /// Panics with the first instance that is not valid.
    #[track_caller]
    pub(crate) fn assert_valid(all: &[Self]) {
        for (check, errors) in all.iter().zip(Self::errors(all)) {
            for (instance, errors) in check.instances.iter().zip(errors) {
                assert!(errors.is_empty(), "not valid by docs/{}: {errors:#?}\n{instance:#}", check.schema);
            }
        }
    }
}

fn python(command: &str, path: &Path, input: &Value) -> Value {
    let mut child = Command::new(root().join(".tools/venv/bin/python"))
        .arg(root().join("tests/it/contracts/validate.py"))
        .arg(command)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python with jsonschema is missing: run scripts/install-test-tools");
    // `load` does not read its input, so the pipe may be closed.
    let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "validate.py {command} {} failed: see above", path.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A running polyhook between a simulated PolyAI and a broker, with an archive in a folder.
struct TestSystem {
    sim: Simulator,
    app: App,
    config: Config,
    sender: Sender,
    folder: TempDir,
    /// Stops the simulated PolyAI.
    lifecycle: Lifecycle,
}

impl TestSystem {
    async fn start(node: &Node, change: impl FnOnce(&mut Config)) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let lifecycle = Lifecycle::new();
        let scenario = Scenario { calls: 0, ..Scenario::default() };
        let project = &scenario.projects[0];
        let project = ProjectConfig {
            account_id: project.account_id.clone(),
            project_id: project.project_id.clone(),
            api_key: Secret::new(project.api_key.as_str()),
            ..ProjectConfig::default()
        };
        let simulated_clock = polyhook_simulator::Clock::system();
        let (sim, server) =
            Simulator::bind(([127, 0, 0, 1], 0).into(), scenario, simulated_clock, lifecycle.draining())
                .await
                .unwrap();
        lifecycle.spawn_service("simulator", server.run());
        let mut config = Config { projects: vec![project], ..Config::default() };
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.signature.secrets = vec![Secret::new(sim.signing_secret())];
        config.queue.url = QueueUrls::One(Secret::new(node.url()));
        config.queue.prefix = rabbit::unique_prefix();
        config.queue.publish_timeout = Duration::from_secs(3);
        config.polyai.base_url = Some(sim.url().clone());
        config.polyai.platform_url = Some(sim.url().clone());
        config.polyai.max_requests_per_second = 1_000;
        config.archive.url = format!("file:{}", folder.path().join("archive").display());
        // Only deliveries cause fetches.
        config.reconcile.every = Duration::ZERO;
        change(&mut config);
        config.check(Roles::ALL).unwrap();
        let app = App::start(&config, Roles::ALL, None, Clock::System).await.unwrap();
        let target = format!("http://{}{}", app.public_address().unwrap(), config.server.path);
        let sender = sim.sender(target.parse().unwrap(), SenderOptions::default()).unwrap();
        let system = Self { sim, app, config, sender, folder, lifecycle };
        eventually("ready", async || system.app.queue().queue.ready().await.is_ok()).await;
        system
    }

    /// Converts a name of `docs/asyncapi.yaml` to the prefix of this polyhook.
    fn prefixed(&self, documented: &str) -> String {
        documented.replacen("polyhook", &self.config.queue.prefix, 1)
    }

    /// Adds a short, finished call to the simulated PolyAI.
    fn add_call(&self, channel: Channel) -> CallInfo {
        self.sim.state().add_call(&short_call(channel)).unwrap()
    }

    async fn announce_call(&self, call: &CallInfo) {
        self.send(Delivery::completed(call, &EventOptions::default())).await;
    }

    async fn send(&self, delivery: Delivery) {
        let report = self.sender.deliver(delivery).await;
        assert!(report.outcome.accepted(), "{report:?}");
    }

    /// Creates a separate worker on the same broker.
    fn worker(&self, config: &Config) -> Worker {
        let queue = std::sync::Arc::clone(&self.app.queue().queue);
        Resources::open(config, &Clock::System).unwrap().worker(config, queue, Clock::System)
    }

    async fn erase(&self, call: &CallInfo) {
        let order = ErasureRequest {
            conversation_id: call.id.clone(),
            account_id: None,
            project_id: None,
            reason: None,
            dry_run: false,
        };
        let report = self.worker(&self.config).erase(&order).await.unwrap();
        assert_eq!(report.problems, [""; 0]);
    }

    async fn shut_down(self) {
        self.app.lifecycle().drain();
        self.app.run_until_shutdown().await;
        self.lifecycle.drain();
        drop(self.folder);
    }
}

fn short_call(channel: Channel) -> NewCall {
    NewCall {
        environment: Some(Environment::Live),
        channel: Some(channel),
        turns: Some(2),
        ..NewCall::default()
    }
}

async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let started = tokio::time::Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_mins(1), "did not happen within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
