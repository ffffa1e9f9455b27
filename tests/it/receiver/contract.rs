//! Compares the receiver's answers with `docs/openapi.yaml`: each documented answer occurs, and no other.

use std::{collections::BTreeSet, time::Duration};

use polyhook::{
    health::Health,
    lifecycle::Lifecycle,
    queue::QueueError,
    signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER},
    web::{OnMismatch, ServerConfig, SignatureConfig},
};
use serde_json::Value;

use super::{
    harness::{self, NOW, PATH, Server, budget, server, signature},
    queues::{Behaviour, FakeQueue},
    trigger,
    wire::{Answer, Request},
};
use crate::contracts::{SchemaCheck, document};

/// An ack budget that is long enough for an answer and short enough for a test.
const BUDGET: Duration = Duration::from_millis(400);
/// Headers of the transport, which the document does not describe.
const FRAMING: [&str; 3] = ["content-length", "content-type", "connection"];

/// An answer, and its place in the document.
struct Given {
    path: &'static str,
    method: &'static str,
    answer: Answer,
}

#[tokio::test]
async fn answers_match_the_openapi_document() {
    let document = document("openapi.yaml");
    assert_eq!(ServerConfig::default().path, PATH);
    let mut given = deliveries().await;
    given.extend(triggers().await);
    given.extend(strangers().await);
    given.extend(probes().await);

    let mut held = Vec::new();
    let mut met = BTreeSet::new();
    for Given { path, method, answer } in &given {
        let place = format!("/paths/{}/{method}/responses/{}", path.replace('/', "~1"), answer.status);
        let response = document.pointer(&place).unwrap_or_else(|| panic!("not in the document: {place}"));
        let mut keep = |part: &str, instance: Value| {
            let schema = format!("openapi.yaml#{place}/{part}/schema");
            let schema = schema.replace(' ', "%20").replace('{', "%7B").replace('}', "%7D");
            held.push(SchemaCheck { schema, closed: true, instances: vec![instance] });
        };
        if let Some(kinds) = response["content"].as_object() {
            let kind = answer.header("content-type").unwrap_or_default();
            assert!(kinds.contains_key(kind), "{place} is not {kind:?}");
            let json = || serde_json::from_str(&answer.body).expect("JSON");
            let body = if kind == "application/json" { json() } else { answer.body.clone().into() };
            keep(&format!("content/{}", kind.replace('/', "~1")), body);
        } else {
            assert_eq!((answer.header("content-type"), answer.body.as_str()), (None, ""), "{place}");
        }
        let documented = response["headers"].as_object();
        for (name, about) in documented.into_iter().flatten() {
            let value = answer.header(&name.to_ascii_lowercase());
            assert!(value.is_some() || about["required"] != true, "{place} lacks {name}");
            keep(&format!("headers/{name}"), value.into());
        }
        for (name, _) in answer.headers.iter().filter(|(name, _)| !FRAMING.contains(&name.as_str())) {
            let known = documented.is_some_and(|all| all.keys().any(|it| it.eq_ignore_ascii_case(name)));
            assert!(known, "{place} has a header that is not documented: {name}");
        }
        met.insert(place);
    }
    SchemaCheck::assert_valid(&held);
    let documented = documented(&document);
    assert_eq!(
        documented.difference(&met).collect::<Vec<_>>(),
        [""; 0],
        "these answers are documented but never given"
    );

    let headers = &document["paths"][PATH]["post"]["parameters"];
    let headers: Vec<_> = headers.as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    for (name, documented) in [SIGNATURE_HEADER, TIMESTAMP_HEADER, EVENT_ID_HEADER].iter().zip(headers) {
        assert!(documented.eq_ignore_ascii_case(name), "{documented}");
    }
}

fn documented(document: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for status in operation["responses"].as_object().into_iter().flatten().map(|(status, _)| status) {
                all.insert(format!("/paths/{}/{method}/responses/{status}", path.replace('/', "~1")));
            }
        }
    }
    all
}

/// Returns an answer for each outcome of a delivery.
async fn deliveries() -> Vec<Given> {
    let queue = FakeQueue::new(Behaviour::Store);
    let config = ServerConfig { body_limit: "100B".parse().unwrap(), ..budget(BUDGET) };
    let receiver = Server::with(&config, &signature(), &queue).await;
    let rotation = SignatureConfig { on_mismatch: OnMismatch::Retry, ..signature() };
    let rotating = Server::with(&server(), &rotation, &queue).await;
    let wrong = || Request::unsigned("{}").with(SIGNATURE_HEADER, "0".repeat(64));
    let with_a_slash = Request { path: format!("{PATH}/"), ..Request::signed("{}") };

    let mut answers = Vec::new();
    for request in [
        Request::signed("{}"),
        Request::stamped(NOW, "{}"),
        with_a_slash,
        Request::unsigned("{}"),
        Request::stamped(NOW - 3600, "{}"),
        wrong(),
        Request::signed(vec![b'x'; 101]),
    ] {
        answers.push(receiver.ask(&request).await);
    }
    answers.push(rotating.ask(&wrong()).await);
    for behaviour in [
        Behaviour::Know,
        Behaviour::Fail(QueueError::Unavailable("away".to_owned())),
        Behaviour::Panic,
        Behaviour::Hold,
    ] {
        queue.behave(behaviour);
        answers.push(receiver.ask(&Request::signed("{}")).await);
    }
    let mut dawdling = receiver.open().await;
    dawdling.send(&Request::signed("{}").head("content-length: 2")).await;
    answers.push(dawdling.answer().await);
    answers.into_iter().map(|answer| Given { path: PATH, method: "post", answer }).collect()
}

/// Returns an answer for each outcome of a request to the trigger.
async fn triggers() -> Vec<Given> {
    let queue = FakeQueue::new(Behaviour::Store);
    let config = ServerConfig { body_limit: "100B".parse().unwrap(), ..budget(BUDGET) };
    let receiver = trigger::start(&config, &queue).await;
    let good = || trigger::request(r#"{"conversation_id":"CA1"}"#);
    let mut answers = Vec::new();
    for request in [
        good(),
        trigger::request("{}"),
        trigger::request(r#"{"conversation_id":"."}"#),
        Request { headers: Vec::new(), ..good() },
        trigger::request(vec![b'x'; 101]),
    ] {
        answers.push(receiver.ask(&request).await);
    }
    queue.behave(Behaviour::Hold);
    answers.push(receiver.ask(&good()).await);
    let mut dawdling = receiver.open().await;
    dawdling.send(&good().head("content-length: 2")).await;
    answers.push(dawdling.answer().await);
    let given = |(method, answer)| Given { path: trigger::TRIGGER, method, answer };
    let other_method = ("get", receiver.ask(&Request { method: "GET", ..good() }).await);
    answers.into_iter().map(|answer| ("post", answer)).chain([other_method]).map(given).collect()
}

/// Returns the answers to requests that are not deliveries.
async fn strangers() -> Vec<Given> {
    let receiver = Server::start(&FakeQueue::new(Behaviour::Store)).await;
    let mut given = Vec::new();
    for method in ["GET", "PUT", "DELETE"] {
        let answer = receiver.ask(&Request { method, ..Request::signed("{}") }).await;
        given.push(Given { path: PATH, method: "get", answer });
    }
    for path in ["/", "/elsewhere", "/metrics", "/livez"] {
        let answer = receiver.ask(&Request { path: path.to_owned(), ..Request::signed("{}") }).await;
        given.push(Given { path: "/{elsewhere}", method: "post", answer });
    }
    given
}

/// Returns the answers of the admin listener.
async fn probes() -> Vec<Given> {
    harness::metrics();
    metrics::counter!("polyhook_deliveries_total", "outcome" => "accepted").increment(0);
    let queue = FakeQueue::new(Behaviour::Store);
    let (lifecycle, health) = (Lifecycle::new(), Health::default());
    let admin = Server::admin_with(&queue, lifecycle.clone(), health.clone()).await;
    let mut given = Vec::new();
    let mut ask = async |path| given.push(Given { path, method: "get", answer: admin.get(path).await });
    for path in ["/livez", "/readyz", "/metrics"] {
        ask(path).await;
    }
    health.set_degraded("clock", "it is 600 s off");
    health.set_degraded("api_key", "a file cannot be read");
    ask("/readyz").await;
    queue.set_ready(Some(Err(QueueError::Unavailable("the disk is full".to_owned()))));
    ask("/readyz").await;
    lifecycle.drain();
    for path in ["/readyz", "/livez"] {
        ask(path).await;
    }
    given
}
