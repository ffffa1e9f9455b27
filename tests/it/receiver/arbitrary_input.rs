//! Arbitrary input never leads to a 204, a 5xx or a panic, and every signed body is kept.

use polyhook::signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, TIMESTAMP_HEADER};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use tokio::runtime::Runtime;

use super::{
    harness::{NOW, Server},
    queues::{Behaviour, FakeQueue},
    wire::Request,
};

/// Runs `property` on many values against one receiver, then checks that it still works.
fn for_all<S: Strategy>(
    cases: u32,
    strategy: &S,
    property: &impl AsyncFn(&Server, &FakeQueue, S::Value) -> Result<(), TestCaseError>,
) {
    let runtime = Runtime::new().unwrap();
    let queue = FakeQueue::new(Behaviour::Store);
    let server = runtime.block_on(Server::start(&queue));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(strategy, |value| runtime.block_on(property(&server, &queue, value)))
        .unwrap_or_else(|failure| panic!("{failure}"));
    runtime.block_on(async { server.ask(&Request::event("still well")).await.assert_taken() });
}

/// Bytes that are allowed inside a header value.
fn header_value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), proptest::sample::select(b"0123456789abcdefABCDEF=, ".to_vec())];
    proptest::collection::vec(byte.prop_filter("a line end", |b| !b"\r\n\0".contains(b)), 0..120)
}

fn header_name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(SIGNATURE_HEADER.to_owned()),
        Just(TIMESTAMP_HEADER.to_owned()),
        Just(EVENT_ID_HEADER.to_owned()),
        Just("traceparent".to_owned()),
        Just("content-type".to_owned()),
        "[a-zA-Z0-9-]{1,20}".prop_filter("how a body is framed is another test", |name| {
            let name = name.to_ascii_lowercase();
            !["content-length", "transfer-encoding", "expect", "connection", "upgrade"]
                .contains(&name.as_str())
        }),
    ]
}

fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    proptest::collection::vec((header_name(), header_value()), 0..8)
}

#[test]
fn no_headers_pass_without_a_signature() {
    let body = proptest::collection::vec(any::<u8>(), 0..200);
    for_all(300, &(headers(), body), &async |server, queue, (headers, body)| {
        let request = Request { headers, ..Request::unsigned(body) };
        let answer = server.open().await.ask(&request).await;
        // The HTTP library answers 400 to a control character in a header.
        prop_assert!(matches!(answer.status, 400 | 401), "{:?}", answer);
        prop_assert_eq!(queue.entered(), 0);
        Ok(())
    });
}

#[test]
fn survives_arbitrary_bytes() {
    let start = prop_oneof![
        Just(Vec::new()),
        Just(b"POST /polyai-events HTTP/1.1\r\nhost: a\r\n".to_vec()),
        Just(b"POST /polyai-events HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec()),
        Just(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ];
    let noise = proptest::collection::vec(any::<u8>(), 1..300);
    for_all(300, &(start, noise), &async |server, queue, (start, noise)| {
        let mut wire = server.open().await;
        let _ = wire.try_send(&[start, noise].concat()).await;
        drop(wire);
        prop_assert_eq!(queue.entered(), 0);
        Ok(())
    });
}

#[test]
fn keeps_every_signed_body() {
    let body = proptest::collection::vec(any::<u8>(), 0..2000)
        .prop_filter("may be a replay", |body| !(body.len() > 1 && body[0].is_ascii_digit()));
    let printable = "[ -~]{0,80}";
    let strategy = (body, printable, printable, any::<bool>(), 1..600usize);
    for_all(200, &strategy, &async |server, queue, (body, id, trace, stamped, chunk)| {
        let request = if stamped { Request::stamped(NOW, body) } else { Request::signed(body) };
        let request = request.with(EVENT_ID_HEADER, id).with("traceparent", trace);
        let mut wire = server.open().await;
        wire.send(&request.chunked(chunk)).await;
        prop_assert_eq!(wire.answer().await.status, 204);
        prop_assert_eq!(&queue.stored().pop().unwrap().body[..], &request.body[..]);
        Ok(())
    });
}
