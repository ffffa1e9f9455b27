//! What others build on, held against what polyhook does: `docs/schemas`, `docs/asyncapi.yaml`, `docs/openapi.yaml` and the
//! programs in `deploy/examples`.
//!
//! A document is read, and everything in it is looked for; and the other way round: what is there and is not documented
//! fails as well as what is documented and is not there.

mod asyncapi;
mod examples;
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

/// A document of `docs`.
pub(crate) fn document(name: &str) -> Value {
    python("load", &docs().join(name), &Value::Null)
}

/// Values that are to be held against a schema: a file in `docs` and, after a #, the place in it.
pub(crate) struct Held {
    pub(crate) schema: String,
    /// A field that the schema does not name is wrong too.
    pub(crate) closed: bool,
    pub(crate) instances: Vec<Value>,
}

impl Held {
    /// What is wrong with each of the instances of each of `all`.
    fn errors(all: &[Self]) -> Vec<Vec<Vec<String>>> {
        let asked = all.iter().map(|Self { schema, closed, instances }| {
            json!({ "schema": schema, "closed": closed, "instances": instances })
        });
        serde_json::from_value(python("check", &docs(), &asked.collect())).unwrap()
    }

    /// Nothing is wrong with any of them.
    #[track_caller]
    pub(crate) fn assert_good(all: &[Self]) {
        for (held, errors) in all.iter().zip(Self::errors(all)) {
            for (instance, errors) in held.instances.iter().zip(errors) {
                assert!(errors.is_empty(), "not what docs/{} says: {errors:#?}\n{instance:#}", held.schema);
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
        .expect("no Python with jsonschema here: run scripts/install-test-tools");
    // Who does not read it does not want it.
    let _ = child.stdin.take().unwrap().write_all(input.to_string().as_bytes());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "validate.py {command} {} failed; see above", path.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A PolyAI, a broker, and a polyhook between them that archives into a folder.
struct World {
    sim: Simulator,
    app: App,
    config: Config,
    sender: Sender,
    folder: TempDir,
    /// Of the PolyAI.
    lifecycle: Lifecycle,
}

impl World {
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
        config.archive.url = format!("file:{}", folder.path().join("archive").display());
        // Nothing is fetched but what is asked for.
        config.reconcile.every = Duration::ZERO;
        change(&mut config);
        config.check(Roles::ALL).unwrap();
        let app = App::start(&config, Roles::ALL, None, Clock::System).await.unwrap();
        let target = format!("http://{}{}", app.public_address().unwrap(), config.server.path);
        let sender = sim.sender(target.parse().unwrap(), SenderOptions::default()).unwrap();
        let world = Self { sim, app, config, sender, folder, lifecycle };
        eventually("ready", async || world.app.queue().queue.ready().await.is_ok()).await;
        world
    }

    /// The name that `docs/asyncapi.yaml` has for something, with this polyhook's prefix.
    fn name(&self, documented: &str) -> String {
        documented.replacen("polyhook", &self.config.queue.prefix, 1)
    }

    /// A short call that is over.
    fn call(&self, channel: Channel) -> CallInfo {
        self.sim.state().add_call(&short(channel)).unwrap()
    }

    async fn deliver(&self, call: &CallInfo) {
        self.send(Delivery::completed(call, &EventOptions::default())).await;
    }

    async fn send(&self, delivery: Delivery) {
        let report = self.sender.deliver(delivery).await;
        assert!(report.answer.accepted(), "{report:?}");
    }

    /// A worker of one's own, on the same broker.
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

    async fn end(self) {
        self.app.lifecycle().drain();
        self.app.run_until_shutdown().await;
        self.lifecycle.drain();
        drop(self.folder);
    }
}

fn short(channel: Channel) -> NewCall {
    NewCall {
        environment: Some(Environment::Live),
        channel: Some(channel),
        turns: Some(2),
        ..NewCall::default()
    }
}

async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let started = tokio::time::Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_mins(1), "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
