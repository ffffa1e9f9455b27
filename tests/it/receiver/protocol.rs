//! HTTP/1.1 with persistent connections and cleartext HTTP/2, as ingresses use them.

use std::{sync::Once, time::Duration};

use http::{HeaderMap, StatusCode, Version};
use polyhook::{
    polyai::http::USER_AGENT,
    secret::Secret,
    signature::{SIGNATURE_HEADER, sign},
};
use reqwest::Client;
use tokio::task::JoinSet;

use super::{
    harness::{PATH, SECRET, Server, TOLERANCE, budget, signature},
    queues::{Behaviour, FakeQueue},
    wire::{Request, event_body},
};

#[tokio::test]
async fn keeps_a_connection_open_between_requests() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let mut wire = server.open().await;
    for n in 0..50 {
        wire.ask(&Request::event(&format!("evt-{n}"))).await.assert_taken();
        // Neither a 401 nor a 404 closes it.
        assert_eq!(wire.ask(&Request::unsigned("{}")).await.status, 401);
        let elsewhere = Request { path: "/x".to_owned(), ..Request::event("evt") };
        assert_eq!(wire.ask(&elsewhere).await.status, 404);
    }
    assert_eq!(queue.stored().len(), 50);
    wire.ask(&Request::event("last").with("connection", "close")).await.assert_taken();
    wire.closed().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let mut wire = server.open().await;
    let mut both = Request::event("evt-1").sized();
    both.extend(Request::unsigned("{}").sized());
    both.extend(Request::event("evt-2").chunked(5));
    wire.send(&both).await;
    wire.answer().await.assert_taken();
    assert_eq!(wire.answer().await.status, 401);
    wire.answer().await.assert_taken();
    let ids: Vec<_> = queue.stored().into_iter().map(|message| message.id).collect();
    assert_eq!(ids, ["evt-1", "evt-2"]);
}

#[tokio::test]
async fn answers_expect_100_continue() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let request = Request::event("evt-1").with("expect", "100-continue");
    let mut wire = server.open().await;
    wire.send(&request.head(&format!("content-length: {}", request.body.len()))).await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(&request.body).await;
    wire.answer().await.assert_taken();
}

/// Two contradicting body lengths are used to smuggle requests past a proxy.
#[tokio::test]
async fn rejects_a_body_with_two_lengths() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let request = Request::event("evt-1");
    for framing in [
        "content-length: 5\r\ncontent-length: 6",
        "transfer-encoding: chunked, identity",
        "content-length: +5",
        "content-length: -1",
    ] {
        let mut wire = server.open().await;
        wire.send(&request.head(framing)).await;
        wire.send(b"0\r\n\r\n").await;
        let answer = wire.try_answer().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{framing}: {answer:?}");
    }
    assert_eq!(queue.entered(), 0);
}

/// A client that speaks HTTP/2 from the first byte.
#[expect(
    clippy::disallowed_methods,
    reason = "the client under `polyai::http` does not speak HTTP/2 in clear text"
)]
fn http2() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder().no_proxy().http2_prior_knowledge().user_agent(USER_AGENT).build().unwrap()
}

async fn post(
    client: &Client,
    server: &Server,
    body: String,
    signature: String,
) -> (StatusCode, HeaderMap, String) {
    let url = format!("http://{}{PATH}", server.address);
    let answer = client.post(url).header(SIGNATURE_HEADER, signature).body(body).send().await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    let (status, headers) = (answer.status(), answer.headers().clone());
    assert!(!headers.contains_key("connection"), "HTTP/2 has no such header: {headers:?}");
    (status, headers, answer.text().await.unwrap())
}

fn good(body: &str) -> String {
    sign(&Secret::new(SECRET), None, body.as_bytes())
}

#[tokio::test]
async fn http2_gets_the_same_answers_as_http1() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let client = http2();
    let body = event_body("evt-1");
    let (status, _, text) = post(&client, &server, body.clone(), good(&body)).await;
    assert_eq!((status.as_u16(), text.as_str()), (204, ""));
    assert_eq!(queue.stored()[0].body, body);

    let (status, _, text) = post(&client, &server, body.clone(), "0".repeat(64)).await;
    assert_eq!((status.as_u16(), text.as_str()), (401, "{\"error\":\"unauthorized\"}\n"));
    let large = "x".repeat((1 << 20) + 1);
    let (status, _, text) = post(&client, &server, large.clone(), good(&large)).await;
    assert_eq!((status.as_u16(), text.as_str()), (413, "{\"error\":\"payload too large\"}\n"));
    queue.behave(Behaviour::Panic);
    let (status, headers, _) = post(&client, &server, body.clone(), good(&body)).await;
    assert_eq!((status.as_u16(), headers.contains_key("retry-after")), (503, true));
    queue.behave(Behaviour::Store);
    let (status, ..) = post(&client, &server, body.clone(), good(&body)).await;
    assert_eq!(status.as_u16(), 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http2_streams_do_not_wait_for_each_other() {
    let queue = FakeQueue::new(Behaviour::Slow(Duration::from_millis(200)));
    let server = std::sync::Arc::new(Server::start(&queue).await);
    let client = http2();
    let mut streams = JoinSet::new();
    let started = std::time::Instant::now();
    for n in 0..600 {
        let (client, server) = (client.clone(), std::sync::Arc::clone(&server));
        streams.spawn(async move {
            let body = event_body(&format!("evt-{n}"));
            let signature = good(&body);
            post(&client, &server, body, signature).await.0
        });
    }
    for status in streams.join_all().await {
        assert_eq!(status, StatusCode::NO_CONTENT);
    }
    // One after another, they would take two minutes.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    let mut ids: Vec<_> = queue.stored().into_iter().map(|message| message.body).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 600);
}

#[tokio::test]
async fn answers_http2_requests_in_time() {
    const BUDGET: Duration = Duration::from_secs(1);
    let queue = FakeQueue::new(Behaviour::Hold);
    let server = Server::with(&budget(BUDGET), &signature(), &queue).await;
    let body = event_body("evt-1");
    let started = std::time::Instant::now();
    let (status, headers, _) = post(&http2(), &server, body.clone(), good(&body)).await;
    assert_eq!((status.as_u16(), headers.contains_key("retry-after")), (503, true));
    assert!(started.elapsed() < BUDGET + TOLERANCE, "{:?}", started.elapsed());
}
