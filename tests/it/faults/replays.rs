//! One delivery, replayed under many event ids, and one that RabbitMQ does not confirm because of another queue. PolyAI is
//! asked for the conversation once, and an honest delivery does not wait.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use lapin::types::{AMQPValue, FieldTable};
use metrics_exporter_prometheus::PrometheusBuilder;
use polyhook::{
    app::App,
    clock::Clock,
    config::{Config, Roles},
    event::DedupKey,
    lifecycle::Lifecycle,
    polyai::ProjectConfig,
    queue::{Message, QueueKind},
    secret::Secret,
};
use polyhook_simulator::{
    CallInfo, CallScript, Channel, Environment, Fault, FaultAction, NewCall, Operation, Scenario, Simulator,
};
use tempfile::TempDir;
use tokio::task::block_in_place;

use super::{Figures, milliseconds, short_or_long};
use crate::{
    rabbitmq::PlainClient,
    support::{
        process::{TEST_TIMEOUT, manifests},
        rabbit,
    },
};

/// The longest time for which the honest delivery may wait behind the replayed ones. Without coalescing, 3,000 replays take
/// a minute.
const MAX_HONEST_WAIT: Duration = Duration::from_secs(15);
/// A time of receipt that lies clearly before everything that the workers do.
const LONG_AGO: Duration = Duration::from_secs(10);
const WORK: Roles = Roles { work: true, ..Roles::NONE };

/// A simulated PolyAI, an archive and a queue, for any number of processes.
struct Site {
    folder: TempDir,
    lifecycle: Lifecycle,
    polyai: Simulator,
    config: Config,
}

impl Site {
    /// `FOLDER` in the URL is a temporary folder.
    async fn start(url: &str, prefix: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let lifecycle = Lifecycle::new();
        let scenario = Scenario { calls: 0, ..Scenario::default() };
        let project = scenario.projects[0].clone();
        let (polyai, server) = Simulator::bind(
            ([127, 0, 0, 1], 0).into(),
            scenario,
            polyhook_simulator::Clock::system(),
            lifecycle.draining(),
        )
        .await
        .unwrap();
        lifecycle.spawn_service("simulator", server.run());
        let mut config = super::repeats::config(&polyai, folder.path(), url, prefix);
        config.projects = vec![ProjectConfig {
            account_id: project.account_id,
            project_id: project.project_id,
            api_key: Secret::new(polyai.api_key()),
            ..ProjectConfig::default()
        }];
        Self { folder, lifecycle, polyai, config }
    }

    async fn app(&self, roles: Roles) -> App {
        let app = App::start(&self.config, roles, None, Clock::System).await.unwrap();
        // With a spool a queue is ready before it has declared anything.
        while app.queue().queue.depths().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        app
    }

    /// Adds a call. PolyAI takes a moment to answer, as it does over the internet.
    fn add_call(&self) -> CallInfo {
        let delay = FaultAction::Delay(Duration::from_millis(100));
        let script = CallScript {
            faults: vec![Fault::new(&[Operation::V3Conversation], delay)],
            ..CallScript::default()
        };
        let call = NewCall {
            environment: Some(Environment::Live),
            channel: Some(Channel::Webchat),
            turns: Some(2),
            script: Some(script),
            ..NewCall::default()
        };
        self.polyai.state().add_call(&call).unwrap()
    }

    fn requests(&self) -> u64 {
        self.polyai.state().request_count(Operation::V3Conversation)
    }

    fn is_archived(&self, call: &CallInfo) -> bool {
        manifests(self.folder.path()).iter().any(|path| path.to_string_lossy().contains(&call.id))
    }

    /// Waits until no job is open. Returns the time after which the call was archived.
    async fn wait_until_idle(&self, apps: &[App], call: &CallInfo) -> Duration {
        let started = Instant::now();
        let mut archived_after = None;
        let idle = async {
            loop {
                if archived_after.is_none() && self.is_archived(call) {
                    archived_after = Some(started.elapsed());
                }
                if archived_after.is_some() && is_idle(apps).await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(TEST_TIMEOUT, idle).await.expect("the queue becomes empty");
        archived_after.unwrap()
    }
}

async fn is_idle(apps: &[App]) -> bool {
    for app in apps {
        // Fails while the queue connects again.
        let Ok(depths) = app.queue().queue.depths().await else { return false };
        let is_open = |kind: QueueKind| !matches!(kind, QueueKind::Unrouted | QueueKind::Refresh);
        if depths.iter().any(|(kind, depth)| is_open(*kind) && *depth > 0) {
            return false;
        }
    }
    true
}

/// Returns an event of the call as a receiver with the same clock publishes it.
fn event(call: &CallInfo, id: &str, age: Duration) -> Message {
    let body = format!(
        r#"{{"type":"conversation.completed","data":{{"conversation_id":"{}","environment":"live","started_at":"{}"}}}}"#,
        call.id, call.started_at
    );
    Message {
        id: id.to_owned(),
        dedup: DedupKey::new(id, body.as_bytes()),
        kind: "conversation.completed".to_owned(),
        environment: "live".to_owned(),
        conversation_id: Some(call.id.clone()),
        received_at: Clock::System.now() - age,
        traceparent: None,
        content_type: "application/json".to_owned(),
        body: Bytes::from(body),
    }
}

async fn publish(app: &App, messages: impl Iterator<Item = Message>) {
    let queue = &app.queue().queue;
    let mut published = stream::iter(messages).map(|message| queue.publish(message)).buffered(128);
    while let Some(result) = published.next().await {
        result.unwrap();
    }
}

/// Replays a delivery before two workers start, and again while they run.
async fn replay(url: &str, prefix: &str, scenario: &str) {
    let mut figures = Figures::new(scenario);
    let replays = short_or_long(300, 3000);
    let site = Site::start(url, prefix).await;
    let replayed = site.add_call();
    let receiver = site.app(Roles::RECEIVE).await;
    let copies = |round| {
        let replayed = &replayed;
        move |n| {
            event(replayed, &format!("evt-{round}-{n}"), if round == 1 { LONG_AGO } else { Duration::ZERO })
        }
    };
    let honest = site.add_call();
    publish(&receiver, (0..replays).map(copies(1)).chain([event(&honest, "honest-1", LONG_AGO)])).await;

    let apps = [receiver, site.app(WORK).await, site.app(WORK).await];
    let waited = site.wait_until_idle(&apps, &honest).await;
    figures.set("replays", replays).set("requests", site.requests() - 1);
    figures.set("honest_waited_ms", milliseconds(waited));
    assert_eq!(site.requests(), 2, "one for each conversation");
    assert!(waited < MAX_HONEST_WAIT, "{waited:?}");

    // Later events may mean new data. PolyAI is asked again, but not for each of them.
    let before = site.requests();
    let honest = site.add_call();
    publish(&apps[0], (0..replays).map(copies(2)).chain([event(&honest, "honest-2", Duration::ZERO)])).await;
    let waited = site.wait_until_idle(&apps, &honest).await;
    let requests = site.requests() - before - 1;
    figures.set("requests_later", requests).set("honest_waited_later_ms", milliseconds(waited));
    assert!((1..=20).contains(&requests), "{requests}");
    assert!(waited < MAX_HONEST_WAIT, "{waited:?}");
    assert_eq!(manifests(site.folder.path()).len(), 3);
    figures.print();
    for app in apps {
        app.lifecycle().drain();
        app.run_until_shutdown().await;
    }
    site.lifecycle.drain();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_delivery_costs_one_fetch_on_the_embedded_queue() {
    replay("sqlite:FOLDER/queue.db", "polyhook", "one delivery under many ids, embedded queue").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replayed_delivery_costs_one_fetch_on_rabbitmq() {
    let url = block_in_place(|| rabbit::SHARED_NODE.url());
    replay(&url, &rabbit::unique_prefix(), "one delivery under many ids, RabbitMQ").await;
}

/// Returns the value of a metric in Prometheus' text form.
fn metric(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test]
async fn a_full_queue_of_a_customer_causes_no_further_fetches() {
    const CALLS: usize = 5;
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let url = tokio::task::spawn_blocking(|| rabbit::SHARED_NODE.url()).await.unwrap();
    let prefix = rabbit::unique_prefix();
    let site = Site::start(&url, &prefix).await;
    let app = site.app(Roles { receive: true, ..WORK }).await;
    let customer = PlainClient::new().await;
    let (full, other, events) =
        (format!("{prefix}.full"), format!("{prefix}.other"), format!("{prefix}.events"));
    let mut rejecting = FieldTable::default();
    rejecting.insert("x-max-length".into(), AMQPValue::LongInt(0));
    rejecting.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    customer.declare_queue(&full, rejecting).await;
    customer.declare_queue(&other, FieldTable::default()).await;
    customer.bind(&full, &events, "#").await;
    customer.bind(&other, &events, "#").await;

    let calls: Vec<_> = (0..CALLS).map(|_| site.add_call()).collect();
    publish(&app, calls.iter().map(|call| event(call, &format!("evt-{}", call.id), Duration::ZERO))).await;
    // The first publish stores the jobs. The spool repeats all of them at once, and later again and again.
    let repeated = async {
        let done = |outcome: &str| {
            metric(&handle.render(), &format!("polyhook_jobs_total{{outcome=\"{outcome}\"}}"))
        };
        while done("coalesced") + done("known") + done("unchanged") < CALLS as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, repeated).await.expect("repeated jobs are settled");
    assert!(calls.iter().all(|call| site.is_archived(call)));
    assert_eq!(site.requests(), CALLS as u64, "one for each call");
    let mut received = std::collections::BTreeSet::new();
    while received.len() < CALLS {
        let message = customer.receive(&other).await;
        received.insert(message.properties.message_id().clone().unwrap().to_string());
    }
    app.lifecycle().drain();
    app.run_until_shutdown().await;
    site.lifecycle.drain();
}
