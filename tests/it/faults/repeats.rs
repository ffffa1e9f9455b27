//! The same event a hundred times at once, and again over hours: one conversation, archived once.

use std::{sync::Arc, time::Duration};

use polyhook::{
    app::App,
    clock::Clock,
    config::{Config, Roles},
    lifecycle::Lifecycle,
    polyai::ProjectConfig,
    queue::{QueueKind, QueueUrls},
    secret::Secret,
};
use polyhook_simulator::{Channel, Environment, NewCall, Scenario, Simulator};
use tokio::task::{JoinSet, block_in_place};

use super::{
    Figures, load,
    oracle::{self, Customer},
};
use crate::support::{process::manifests, rabbit};

const AT_ONCE: usize = 100;
const OVER_HOURS: usize = 46;

/// Answers, and what is there in the end, must be the same on either queue.
async fn many_times(url: &str, prefix: &str, figures: &mut Figures) -> (tempfile::TempDir, String) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual("2026-11-03T12:00:00Z".parse().unwrap());
    let lifecycle = Lifecycle::new();
    let local = ([127, 0, 0, 1], 0).into();
    let scenario = Scenario { calls: 0, ..Scenario::default() };
    let shared_clock = clock.clone();
    let simulated_clock = polyhook_simulator::Clock::from_fn(move || shared_clock.now());
    let (polyai, server) =
        Simulator::bind(local, scenario, simulated_clock, lifecycle.draining()).await.unwrap();
    lifecycle.spawn_service("simulator", server.run());
    let call = NewCall {
        environment: Some(Environment::Live),
        channel: Some(Channel::Webchat),
        turns: Some(2),
        ..NewCall::default()
    };
    let call = polyai.state().add_call(&call).unwrap();
    let mut config = Config::default();
    config.server.listen = local;
    config.queue.url = QueueUrls::One(Secret::new(url.replace("FOLDER", folder.path().to_str().unwrap())));
    prefix.clone_into(&mut config.queue.prefix);
    config.queue.publish_timeout = Duration::from_secs(3);
    config.spool.path = folder.path().join("spool.db");
    config.polyai.base_url = Some(polyai.url().clone());
    config.polyai.platform_url = Some(polyai.url().clone());
    config.signature.secrets = vec![Secret::new(polyai.signing_secret())];
    config.archive.url = format!("file:{}/archive", folder.path().display());
    // Nothing is fetched but what is asked for.
    config.reconcile.every = Duration::ZERO;
    config.projects = vec![ProjectConfig {
        account_id: call.account_id.clone(),
        project_id: call.project_id.clone(),
        api_key: Secret::new(polyai.api_key()),
        ..ProjectConfig::default()
    }];
    config.check(Roles::ALL).unwrap();
    let app = App::start(&config, Roles::ALL, None, clock.clone()).await.unwrap();
    let queue = Arc::clone(&app.queue().queue);
    while queue.ready().await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let address = app.public_address().unwrap();
    let body = format!(
        r#"{{"type":"conversation.completed","data":{{"conversation_id":"{}","environment":"live"}}}}"#,
        call.id
    );
    let deliver = |body: String, secret: Secret, id: String, now: i64| async move {
        let request = load::request_at(address, &secret, &id, body.as_bytes(), now);
        let head = load::exchange(address, &request).await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 204"), "{head}");
    };

    let mut at_once = JoinSet::new();
    for _ in 0..AT_ONCE {
        at_once.spawn(deliver(
            body.clone(),
            config.signature.secrets[0].clone(),
            call.id.clone(),
            clock.now().as_second(),
        ));
    }
    at_once.join_all().await;
    for _ in 0..OVER_HOURS {
        clock.advance(Duration::from_mins(11));
        deliver(body.clone(), config.signature.secrets[0].clone(), call.id.clone(), clock.now().as_second())
            .await;
    }
    let idle = async {
        loop {
            let open = |lane: &QueueKind| matches!(lane, QueueKind::Fetch | QueueKind::Retry);
            // It may be connecting again.
            if let Ok(depths) = queue.depths().await
                && !depths.iter().any(|(lane, depth)| open(lane) && *depth > 0)
                && !manifests(folder.path()).is_empty()
            {
                return depths;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let depths = tokio::time::timeout(Duration::from_mins(1), idle).await.expect("the queue is emptied");
    assert!(depths.iter().all(|(lane, depth)| *lane != QueueKind::Dead || *depth == 0), "{depths:?}");
    app.lifecycle().drain();
    app.run_until_shutdown().await;
    let found = manifests(folder.path());
    assert_eq!(found.len(), 1, "archived once");
    let manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&found[0]).unwrap()).unwrap();
    assert_eq!(manifest["revision"], 1, "{manifest}");
    figures.set("acknowledged", AT_ONCE + OVER_HOURS).set("archived", 1).set("archived_twice", 0);
    lifecycle.drain();
    (folder, call.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_event_again_and_again_on_the_embedded_queue() {
    let mut figures = Figures::new("the same event 146 times, embedded queue");
    let (folder, id) = many_times("sqlite:FOLDER/queue.db", "polyhook", &mut figures).await;
    let announced = oracle::announcements_in_file(&folder.path().join("queue.db")).unwrap();
    assert_eq!(announced[&id].len(), 1, "{announced:?}");
    figures.set("announced", 1);
    figures.print();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_event_again_and_again_on_rabbitmq() {
    let mut figures = Figures::new("the same event 146 times, RabbitMQ");
    let prefix = rabbit::unique_prefix();
    let url = block_in_place(|| rabbit::SHARED_NODE.url());
    // Its queues first, or there is nothing for a customer to bind to.
    let site = block_in_place(|| {
        let (url, prefix) = (url.clone(), prefix.clone());
        crate::rabbitmq::try_open(&crate::rabbitmq::config(&url, &prefix)).unwrap()
    });
    site.wait_until_ready().await;
    polyhook::queue::Queue::close(&*site.queue).await;
    let customer = block_in_place(|| Customer::start(std::slice::from_ref(&url), &prefix));
    let (_folder, id) = many_times(&url, &prefix, &mut figures).await;
    block_in_place(|| assert!(customer.receives_announcement(&id)));
    assert_eq!(customer.announcement_ids(&id).len(), 1, "announced under one id");
    figures.set("announced", 1);
    figures.print();
}
