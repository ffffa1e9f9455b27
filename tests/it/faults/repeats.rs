//! One event, delivered a hundred times at once and again over hours. Its conversation is archived once.

use std::{path::Path, time::Duration};

use polyhook::{
    app::App,
    clock::Clock,
    config::{Config, Roles},
    lifecycle::Lifecycle,
    polyai::ProjectConfig,
    queue::{Queue, QueueKind, QueueUrls},
    secret::Secret,
};
use polyhook_simulator::{Channel, Environment, NewCall, Scenario, Simulator};
use tempfile::TempDir;
use tokio::task::{JoinSet, block_in_place};

use super::{
    Figures, load,
    oracle::{self, Customer},
};
use crate::support::{
    process::{TEST_TIMEOUT, eventually, manifests},
    rabbit,
};

const CONCURRENT: usize = 100;
const OVER_HOURS: usize = 46;

/// A whole polyhook and a simulated PolyAI with one call, in this process and on one manual clock.
struct Fixture {
    folder: TempDir,
    clock: Clock,
    lifecycle: Lifecycle,
    config: Config,
    app: App,
    conversation: String,
}

impl Fixture {
    /// Starts both with the queue at `url`. `FOLDER` in the URL is a temporary folder.
    async fn start(url: &str, prefix: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-11-03T12:00:00Z".parse().unwrap());
        let lifecycle = Lifecycle::new();
        let scenario = Scenario { calls: 0, ..Scenario::default() };
        let shared_clock = clock.clone();
        let simulated_clock = polyhook_simulator::Clock::from_fn(move || shared_clock.now());
        let (polyai, server) =
            Simulator::bind(([127, 0, 0, 1], 0).into(), scenario, simulated_clock, lifecycle.draining())
                .await
                .unwrap();
        lifecycle.spawn_service("simulator", server.run());
        let call = NewCall {
            environment: Some(Environment::Live),
            channel: Some(Channel::Webchat),
            turns: Some(2),
            ..NewCall::default()
        };
        let call = polyai.state().add_call(&call).unwrap();
        let mut config = config(&polyai, folder.path(), url, prefix);
        config.projects = vec![ProjectConfig {
            account_id: call.account_id.clone(),
            project_id: call.project_id.clone(),
            api_key: Secret::new(polyai.api_key()),
            ..ProjectConfig::default()
        }];
        config.check(Roles::ALL).unwrap();
        let app = App::start(&config, Roles::ALL, None, clock.clone()).await.unwrap();
        while app.queue().queue.ready().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { folder, clock, lifecycle, config, app, conversation: call.id }
    }

    /// Delivers the event of the call, signed at the time of the clock.
    fn deliver(&self) -> impl Future<Output = ()> + Send + 'static {
        let (secret, id) = (self.config.signature.secrets[0].clone(), self.conversation.clone());
        let (address, now) = (self.app.public_address().unwrap(), self.clock.now().as_second());
        async move {
            let body = format!(
                r#"{{"type":"conversation.completed","data":{{"conversation_id":"{id}","environment":"live"}}}}"#
            );
            let request = load::request_at(address, &secret, &id, body.as_bytes(), now);
            let head = load::exchange(address, &request).await.expect("an answer");
            assert_eq!(load::status(&head), "204", "{head}");
        }
    }

    /// Waits until the call is archived and no job is open. Returns the depths of the queue.
    async fn wait_until_idle(&self) -> Vec<(QueueKind, u64)> {
        let is_open = |kind: &QueueKind| matches!(kind, QueueKind::Fetch | QueueKind::Retry);
        let idle = async {
            loop {
                // Fails while the queue connects again.
                if let Ok(depths) = self.app.queue().queue.depths().await
                    && !depths.iter().any(|(kind, depth)| is_open(kind) && *depth > 0)
                    && !manifests(self.folder.path()).is_empty()
                {
                    return depths;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, idle).await.expect("the queue becomes empty")
    }
}

/// Returns the configuration of a polyhook that fetches only what is delivered.
pub(super) fn config(polyai: &Simulator, folder: &Path, url: &str, prefix: &str) -> Config {
    let mut config = Config::default();
    config.server.listen = ([127, 0, 0, 1], 0).into();
    config.queue.url = QueueUrls::One(Secret::new(url.replace("FOLDER", folder.to_str().unwrap())));
    prefix.clone_into(&mut config.queue.prefix);
    config.queue.publish_timeout = Duration::from_secs(3);
    config.spool.path = folder.join("spool.db");
    config.polyai.base_url = Some(polyai.url().clone());
    config.polyai.platform_url = Some(polyai.url().clone());
    config.polyai.max_requests_per_second = 1_000;
    config.signature.secrets = vec![Secret::new(polyai.signing_secret())];
    config.archive.url = format!("file:{}/archive", folder.display());
    config.reconcile.every = Duration::ZERO;
    config
}

/// Delivers one event many times and checks that its conversation is archived once. Returns the folder and the
/// conversation.
async fn deliver_many_times(url: &str, prefix: &str, figures: &mut Figures) -> (TempDir, String) {
    let fixture = Fixture::start(url, prefix).await;
    let mut concurrent = JoinSet::new();
    for _ in 0..CONCURRENT {
        concurrent.spawn(fixture.deliver());
    }
    concurrent.join_all().await;
    for _ in 0..OVER_HOURS {
        fixture.clock.advance(Duration::from_mins(11));
        fixture.deliver().await;
    }
    let depths = fixture.wait_until_idle().await;
    assert!(depths.iter().all(|(kind, depth)| *kind != QueueKind::Dead || *depth == 0), "{depths:?}");
    fixture.app.lifecycle().drain();
    fixture.app.run_until_shutdown().await;
    let found = manifests(fixture.folder.path());
    assert_eq!(found.len(), 1, "archived once");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&found[0]).unwrap()).unwrap();
    assert_eq!(manifest["revision"], 1, "{manifest}");
    figures.set("acknowledged", CONCURRENT + OVER_HOURS).set("archived", 1).set("archived_twice", 0);
    fixture.lifecycle.drain();
    (fixture.folder, fixture.conversation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_a_repeated_event_once_on_the_embedded_queue() {
    let mut figures = Figures::new("the same event 146 times, embedded queue");
    let (folder, id) = deliver_many_times("sqlite:FOLDER/queue.db", "polyhook", &mut figures).await;
    let announced = oracle::announcements_in_file(&folder.path().join("queue.db")).unwrap();
    assert_eq!(announced[&id].len(), 1, "{announced:?}");
    figures.set("announced", 1);
    figures.print();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_a_repeated_event_once_on_rabbitmq() {
    let mut figures = Figures::new("the same event 146 times, RabbitMQ");
    let prefix = rabbit::unique_prefix();
    let url = block_in_place(|| rabbit::SHARED_NODE.url());
    // Declares the exchanges that the customer binds its queue to.
    let site = block_in_place(|| {
        let (url, prefix) = (url.clone(), prefix.clone());
        crate::rabbitmq::try_open(&crate::rabbitmq::config(&url, &prefix)).unwrap()
    });
    site.wait_until_ready().await;
    site.queue.close().await;
    let customer = block_in_place(|| Customer::start(std::slice::from_ref(&url), &prefix));
    let (_folder, id) = deliver_many_times(&url, &prefix, &mut figures).await;
    block_in_place(|| eventually("announced", || customer.has_announcement(&id)));
    assert_eq!(customer.announcement_ids(&id).len(), 1, "announced under one id");
    figures.set("announced", 1);
    figures.print();
}
