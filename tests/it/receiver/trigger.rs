//! The trigger: a bearer token instead of a signature, and otherwise the receiver's promises.

use std::{sync::Arc, time::Duration};

use polyhook::{
    app::App,
    config::Roles,
    event::{Discovery, DiscoverySource},
    health::Health,
    lifecycle::Lifecycle,
    queue::{Queue, QueueError, QueueKind},
    secret::Secret,
    signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, sign},
    web::{Receiver, ReceiverConfig, SecretsFile, ServerConfig, TriggerConfig},
};
use serde_json::Value;

use super::{
    harness::{
        NOW, PATH, SECRET, Server, TOLERANCE, budget, clock, config, metrics, server, signature, timed,
    },
    queues::{Behaviour, FakeQueue},
    wire::{Answer, Request, event_body},
};

pub(super) const TRIGGER: &str = "/polyai-trigger";
pub(super) const TOKEN: &str = "a-trigger-token-of-tests";
const OTHER: &str = "another-trigger-token-of-tests";

pub(super) fn trigger() -> TriggerConfig {
    TriggerConfig { path: TRIGGER.to_owned(), token: Some(Secret::new(TOKEN)), ..TriggerConfig::default() }
}

/// A request to the trigger without a token.
fn anonymous(body: impl Into<Vec<u8>>) -> Request {
    Request { path: TRIGGER.to_owned(), ..Request::unsigned(body) }
}

pub(super) fn request(body: impl Into<Vec<u8>>) -> Request {
    anonymous(body).with("authorization", format!("Bearer {TOKEN}"))
}

fn naming(id: &str) -> String {
    format!(r#"{{"conversation_id":"{id}"}}"#)
}

/// Starts a receiver with a trigger.
pub(super) async fn start(server: &ServerConfig, queue: &Arc<impl Queue>) -> Server {
    start_with(server, &trigger(), queue).await.0
}

async fn start_with(
    server: &ServerConfig,
    trigger: &TriggerConfig,
    queue: &Arc<impl Queue>,
) -> (Server, Receiver, Health) {
    let (lifecycle, health) = (Lifecycle::new(), Health::default());
    let sections = ReceiverConfig { server, signature: &signature(), trigger };
    let queue = Arc::clone(queue) as Arc<dyn Queue>;
    let receiver = Receiver::new(sections, queue, clock(), &health, &lifecycle);
    let listening = Server::serve(receiver.clone(), server.connection_limits(u64::MAX), lifecycle).await;
    (listening, receiver, health)
}

#[track_caller]
fn assert_refused(answer: &Answer) {
    assert_eq!((answer.status, &*answer.body), (401, "{\"error\":\"unauthorized\"}\n"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
}

#[tokio::test]
async fn queues_the_named_conversation_once() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = start(&server(), &queue).await;
    let body =
        r#"{"conversationId":"CA1","projectId":"desk","env":"x","clientEnv":"live","from":"+4915112345678"}"#;
    for path in [TRIGGER.to_owned(), format!("{TRIGGER}/")] {
        server.ask(&Request { path, ..request(body) }).await.assert_taken();
    }
    server.ask(&request(naming("CA2")).with(EVENT_ID_HEADER, "evt-1")).await.assert_taken();
    let [first, second, third] = &queue.stored()[..] else { panic!("three messages") };
    assert_eq!(
        (&*first.routing_key(), &first.conversation_id),
        ("conversation.discovered.live", &Some("CA1".to_owned()))
    );
    assert_eq!(
        (&first.id, &first.dedup, &first.body),
        (&second.id, &second.dedup, &second.body),
        "a duplicate for the queue"
    );
    assert!(
        !String::from_utf8_lossy(&first.body).contains("4915112345678"),
        "only what names the conversation is kept"
    );
    let found = Discovery::read(&first.body).unwrap();
    assert_eq!((&*found.project_id, found.source), ("desk", DiscoverySource::Trigger));
    assert_eq!(first.received_at.as_second(), NOW);
    assert_eq!(
        (&*third.routing_key(), &*third.content_type),
        ("conversation.discovered.unknown", "application/json")
    );
    assert!(third.id.starts_with("discovered:") && third.id != first.id && third.traceparent.is_some());
}

/// On the embedded queue; tests/it/processes/rabbitmq.rs does it on RabbitMQ.
#[tokio::test]
async fn a_repeated_request_is_one_job() {
    let folder = tempfile::tempdir().unwrap();
    let config = polyhook::config::Config { trigger: trigger(), ..config(&folder) };
    let app = App::start(&config, Roles::RECEIVE, None, clock()).await.unwrap();
    let server = Server { address: app.public_address().unwrap(), lifecycle: app.lifecycle().clone() };
    for _ in 0..3 {
        server.ask(&request(naming("CA1"))).await.assert_taken();
    }
    assert!(app.queue().queue.depths().await.unwrap().contains(&(QueueKind::Fetch, 1)));
}

#[tokio::test]
async fn refuses_a_wrong_token_before_the_body() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = start(&server(), &queue).await;
    let with = |text: &str| anonymous(naming("CA1")).with("authorization", text);
    let right = format!("Bearer {TOKEN}");
    for (reason, refused) in [
        ("token_missing", anonymous(naming("CA1"))),
        ("token_malformed", with("")),
        ("token_malformed", with(TOKEN)),
        ("token_malformed", with(&format!("Basic {TOKEN}"))),
        ("token_malformed", with(&right).with("authorization", format!("Bearer {OTHER}"))),
        ("token_malformed", with(&format!("{right}, {right}"))),
        ("token_mismatch", with(&format!("Bearer {OTHER}"))),
        ("token_mismatch", with(&format!("{right}x"))),
        ("token_mismatch", with(&format!("Bearer {SECRET}"))),
    ] {
        let counted = || {
            let all = metrics().render();
            let label = format!("polyhook_unverified_total{{reason=\"{reason}\"}} ");
            let line = all.lines().find_map(|line| line.strip_prefix(&label).map(str::to_owned));
            line.map_or(0, |count| count.parse::<u64>().unwrap())
        };
        let before = counted();
        // The body never comes.
        let mut wire = server.open().await;
        wire.send(&refused.head("content-length: 26")).await;
        assert_refused(&wire.answer().await);
        assert!(counted() > before, "{reason}");
    }
    assert_eq!(queue.entered(), 0);
    for text in [right.clone(), format!("bearer   {TOKEN} "), format!("BEARER {TOKEN}")] {
        server.ask(&with(&text)).await.assert_taken();
    }
    server.ask(&with(&right).with("authorization", right)).await.assert_taken();
}

#[tokio::test]
async fn each_path_accepts_only_its_own_proof() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = start(&server(), &queue).await;
    let body = event_body("CA1");
    let signature = sign(&Secret::new(SECRET), None, body.as_bytes());
    let signed = anonymous(&*body).with(SIGNATURE_HEADER, signature);
    assert_refused(&server.ask(&signed).await);
    let bearer = Request { path: PATH.to_owned(), ..request(&*body) };
    let answer = server.ask(&bearer).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (401, None));
    assert_eq!(queue.entered(), 0);

    // Without a path there is no trigger.
    let without = Server::start(&queue).await;
    for path in [TRIGGER, "/", ""] {
        let answer = without.ask(&Request { path: path.to_owned(), ..request(&*body) }).await;
        assert!(matches!(answer.status, 400 | 404), "{path:?}: {answer:?}");
    }
    assert_eq!(queue.entered(), 0);
}

#[tokio::test]
async fn explains_a_request_without_a_conversation() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = start(&server(), &queue).await;
    for body in [
        "",
        "{}",
        "no JSON",
        "[]",
        r#"{"deployment_id":"d-1","environment":"live"}"#,
        r#"{"conversation_id":".."}"#,
    ] {
        let answer = server.ask(&request(body)).await;
        assert_eq!(answer.status, 400, "{body}");
        let explained: Value = serde_json::from_str(&answer.body).unwrap();
        assert!(explained["error"].as_str().unwrap().contains("conversation"), "{body}: {explained}");
        assert_eq!(answer.body.lines().count(), 1);
    }
    assert_eq!(queue.entered(), 0);
}

#[tokio::test]
async fn follows_the_token_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokens");
    std::fs::write(&path, format!("# of the agent\n{TOKEN}\n")).unwrap();
    let config = TriggerConfig {
        token: None,
        file_tokens: SecretsFile::read(&path).unwrap(),
        token_file: Some(path.clone()),
        ..trigger()
    };
    let queue = FakeQueue::new(Behaviour::Store);
    let (server, receiver, health) = start_with(&server(), &config, &queue).await;
    let status = async |token: &str| {
        let request = anonymous(naming("CA1")).with("authorization", format!("Bearer {token}"));
        server.ask(&request).await.status
    };
    for (content, old, new) in [
        (format!("{TOKEN}\n{OTHER}\n"), 204, 204),
        (format!("{OTHER}\n"), 401, 204),
        // Unusable files change nothing.
        (String::new(), 401, 204),
        ("short\n".to_owned(), 401, 204),
        (format!("{TOKEN}\n{TOKEN}\n"), 401, 204),
        (format!("{OTHER}\n{TOKEN}\n"), 204, 204),
    ] {
        std::fs::write(&path, &content).unwrap();
        receiver.refresh().await;
        assert_eq!((status(TOKEN).await, status(OTHER).await), (old, new), "{content:?}");
        let is_unusable = content.lines().count() != 2 && content != format!("{OTHER}\n")
            || content == format!("{TOKEN}\n{TOKEN}\n");
        let conditions = health.conditions();
        assert_eq!(
            conditions.iter().any(|(name, _)| *name == "trigger_tokens"),
            is_unusable,
            "{conditions:?}"
        );
        assert!(!format!("{conditions:?}").contains(TOKEN));
    }
}

#[tokio::test]
async fn answers_503_in_time_if_the_queue_does_not() {
    const BUDGET: Duration = Duration::from_millis(500);
    let queue = FakeQueue::new(Behaviour::Hold);
    let limits = ServerConfig { max_in_flight: 1, ..budget(BUDGET) };
    let server = start(&limits, &queue).await;
    let request = request(naming("CA1"));
    let (answer, time) = timed(server.ask(&request)).await;
    answer.assert_unavailable();
    assert!(time < BUDGET + TOLERANCE, "{time:?}");
    queue.behave(Behaviour::Fail(QueueError::Unavailable("away".to_owned())));
    server.ask(&request).await.assert_unavailable();
    queue.behave(Behaviour::Know);
    server.ask(&request).await.assert_taken();
}
