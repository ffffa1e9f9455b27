//! Promises 1, 3 and 5 from the sender's view: 204 means durable, a signed body is kept byte for byte, and a repeated
//! delivery is one message.

use std::{sync::Arc, time::Duration};

use polyhook::{
    app::App,
    config::Roles,
    event::DedupKey,
    queue::{QueueError, QueueKind},
    signature::EVENT_ID_HEADER,
};
use tokio::task::JoinSet;

use super::{
    harness::{NOW, Server, clock, config, until},
    queues::{Behaviour, FakeQueue},
    wire::{Request, Wire, event_body},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn answers_only_after_the_queue_reports_durable() {
    let queue = FakeQueue::new(Behaviour::Hold);
    let server = Server::start(&queue).await;
    let mut wire = server.open().await;
    wire.send(&Request::event("evt-1").sized()).await;
    until("the queue has it", || queue.entered() == 1).await;
    assert!(wire.is_silent_for(Duration::from_millis(400)).await, "answered before the message was durable");
    queue.release(1);
    wire.answer().await.assert_taken();
    assert_eq!(queue.stored().len(), 1);
}

#[tokio::test]
async fn answers_503_when_the_queue_fails() {
    for error in [
        QueueError::Unavailable("amqp://user:hunter2@broker: connection refused".to_owned()),
        QueueError::Timeout(Duration::from_secs(1)),
        QueueError::Refused("NACK".to_owned()),
        QueueError::LeaseLost,
        QueueError::Closed,
    ] {
        let queue = FakeQueue::new(Behaviour::Fail(error));
        let server = Server::start(&queue).await;
        server.ask(&Request::event("evt-1")).await.assert_unavailable();
        // On the same receiver, after the queue works again.
        queue.behave(Behaviour::Store);
        server.ask(&Request::event("evt-1")).await.assert_taken();
    }
}

#[tokio::test]
async fn answers_204_to_a_duplicate() {
    let queue = FakeQueue::new(Behaviour::Know);
    Server::start(&queue).await.ask(&Request::event("evt-1")).await.assert_taken();
    assert_eq!(queue.entered(), 1);
}

#[tokio::test]
async fn keeps_signed_bodies_byte_for_byte() {
    let all_bytes: Vec<u8> = (0..=255).collect();
    let spaced =
        b" \r\n{ \"type\" :\t\"conversation.completed\",\n\"data\":{\"environment\":\"pre-release\"} }\n\0";
    let cases: [(&str, &[u8], &str); 10] = [
        ("an empty body", b"", "unparsed.unknown"),
        ("every byte value", &all_bytes, "unparsed.unknown"),
        ("JSON that was cut off", br#"{"type":"conversation.completed""#, "unparsed.unknown"),
        ("an array", br#"[{"type":"conversation.completed"}]"#, "unknown.unknown"),
        ("a number", b"1", "unknown.unknown"),
        ("an unknown type", br#"{"type":"tea.ready","data":{"environment":"live"}}"#, "tea.ready.live"),
        (
            "the reference's form",
            br#"{"event_type":"alerts.triggered","alert":{"id":"a"}}"#,
            "alerts.triggered.unknown",
        ),
        ("a type no routing key can hold", "{\"type\":\"a b\u{e9}#*\"}".as_bytes(), "a_b___.unknown"),
        ("white space around it, and a NUL", spaced, "unparsed.unknown"),
        (
            "the quickstart's form",
            br#"{"type":"conversation.completed","data":{"conversation_id":"CA1","environment":"live"}}"#,
            "conversation.completed.live",
        ),
    ];
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    for (what, body, routing_key) in cases {
        for chunked in [false, true] {
            let request = Request::signed(body).with(EVENT_ID_HEADER, "evt-7");
            let mut wire = server.open().await;
            wire.send(&if chunked { request.chunked(7) } else { request.sized() }).await;
            wire.answer().await.assert_taken();
            let message = queue.stored().pop().unwrap();
            assert_eq!(message.body, body, "{what}");
            assert_eq!(message.routing_key(), routing_key, "{what}");
            assert_eq!(message.id, "evt-7", "{what}");
            assert_eq!(message.dedup, DedupKey::new("evt-7", body), "{what}");
            assert_eq!(message.received_at.as_second(), NOW, "{what}");
        }
    }
    assert_eq!(queue.stored().len(), 2 * cases.len());
}

#[tokio::test]
async fn message_carries_id_content_type_and_trace() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let take = async |request: Request| {
        server.ask(&request).await.assert_taken();
        queue.stored().pop().unwrap()
    };

    let plain = take(Request::stamped(NOW - 2, "{}")).await;
    assert_eq!(plain.id, "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    assert_eq!(plain.content_type, "application/json");
    assert_eq!(plain.dedup, DedupKey::new(&plain.id, b"{}"));
    let fresh = plain.traceparent.expect("a new trace");
    assert_eq!((fresh.len(), fresh.starts_with("00-"), fresh.ends_with("-01")), (55, true, true), "{fresh}");

    let rich = Request::signed("{}")
        .with(EVENT_ID_HEADER, " evt_01J ")
        .with("content-type", "application/cloudevents+json; charset=utf-8")
        .with("traceparent", PARENT);
    let rich = take(rich).await;
    assert_eq!(rich.id, "evt_01J");
    assert_eq!(rich.content_type, "application/cloudevents+json; charset=utf-8");
    let continued = rich.traceparent.expect("the sender's trace");
    assert!(continued.starts_with(&format!("00-{TRACE}-")), "the trace is continued: {continued}");
    assert!(!continued.contains("b7ad6b7169203331"), "the span is a new one: {continued}");

    // Unusable headers are replaced; they never make a delivery fail.
    let odd = Request::signed("{}")
        .with(EVENT_ID_HEADER, vec![b'x'; 300])
        .with("content-type", vec![b'y'; 300])
        .with("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01");
    let odd = take(odd).await;
    assert!(odd.id.starts_with("sha256:"), "{}", odd.id);
    assert_eq!(odd.content_type, "application/json");
    assert!(!odd.traceparent.expect("a new trace").contains("00000000000000000000000000000000"));
    let bytes = take(Request::signed("{}").with(EVENT_ID_HEADER, b"\xff\xfe")).await;
    assert!(bytes.id.starts_with("sha256:"), "{}", bytes.id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_concurrent_duplicates_once() {
    let folder = tempfile::tempdir().unwrap();
    let app = App::start(&config(&folder), Roles::RECEIVE, None, clock()).await.unwrap();
    let address = app.public_address().unwrap();

    let mut senders = JoinSet::new();
    for _ in 0..100 {
        senders.spawn(async move { Wire::open(address).await.ask(&Request::event("evt-1")).await });
    }
    for answer in senders.join_all().await {
        answer.assert_taken();
    }
    assert_eq!(fetch_depth(&app).await, 1);

    // The id is not signed: another body with the same id is another event, and does not replace the first.
    let other = Request::signed(event_body("evt-2")).with(EVENT_ID_HEADER, "evt-1");
    Wire::open(address).await.ask(&other).await.assert_taken();
    assert_eq!(fetch_depth(&app).await, 2);
    // The same body with another id is another event, too.
    let replayed = Request::signed(event_body("evt-1")).with(EVENT_ID_HEADER, "evt-3");
    Wire::open(address).await.ask(&replayed).await.assert_taken();
    assert_eq!(fetch_depth(&app).await, 3);

    // The message is on disk, not only in this process's memory.
    app.lifecycle().drain();
    app.run_until_shutdown().await;
    let app = App::start(&config(&folder), Roles::RECEIVE, None, clock()).await.unwrap();
    assert_eq!(fetch_depth(&app).await, 3);
    let job = Arc::clone(&app.queue().queue).next().await.unwrap();
    assert_eq!((job.message.id.as_str(), job.message.body), ("evt-1", event_body("evt-1").into()));
    app.lifecycle().drain();
    app.run_until_shutdown().await;
}

async fn fetch_depth(app: &App) -> u64 {
    let depths = app.queue().queue.depths().await.unwrap();
    depths.into_iter().find_map(|(lane, depth)| (lane == QueueKind::Fetch).then_some(depth)).unwrap()
}
