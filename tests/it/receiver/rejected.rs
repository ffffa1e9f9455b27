//! Promise 4: without a valid signature there is only a 401 that reveals nothing. Promise 11: the log states the reason,
//! without the signature, the secret or the body.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use polyhook::{
    secret::Secret,
    signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, Scheme, TIMESTAMP_HEADER, sign},
    web::{OnMismatch, SignatureConfig},
};
use tracing_subscriber::fmt::MakeWriter;

use super::{
    harness::{self, AT_ONCE, NOW, PATH, SECRET, Server, server, signature},
    queues::{Behaviour, FakeQueue},
    wire::{Answer, Request},
};
use crate::support::timing::assert_faster_than;

const BODY: &str =
    r#"{"type":"conversation.completed","data":{"conversation_id":"CA1","from_number":"+4915112345678"}}"#;
const OTHER_SECRET: &str = "whsec_ffffffffffffffffffffffffffffffff";
const TOLERANCE: i64 = 300;

fn hex(body: &str) -> String {
    sign(&Secret::new(SECRET), None, body.as_bytes())
}

fn stamped_hex(timestamp: i64) -> String {
    sign(&Secret::new(SECRET), Some(timestamp), BODY.as_bytes())
}

fn signed_with(signature: impl Into<Vec<u8>>) -> Request {
    Request::unsigned(BODY).with(SIGNATURE_HEADER, signature)
}

/// A recorded timestamped delivery: what it signs, as the body of a request without a timestamp.
fn sent_as_a_body(timestamp: i64) -> Request {
    let body = format!("{timestamp}.{BODY}");
    Request { body: body.into(), ..signed_with(stamped_hex(timestamp)) }
}

/// Requests with a missing, malformed or stale signature. No other secret could make them valid.
fn never_valid() -> Vec<(&'static str, Request)> {
    let good = hex(BODY);
    vec![
        ("missing", Request::unsigned(BODY)),
        ("missing, with a timestamp", Request::unsigned(BODY).with(TIMESTAMP_HEADER, NOW.to_string())),
        ("empty", signed_with("")),
        ("white space", signed_with(" \t ")),
        ("a prefix alone", signed_with("sha256=")),
        ("a digit short", signed_with(&good[1..])),
        ("a digit long", signed_with(format!("{good}0"))),
        ("twice in one", signed_with(format!("{good}{good}"))),
        ("a list", signed_with(format!("{good}, {good}"))),
        ("another algorithm", signed_with(format!("sha1={good}"))),
        ("the prefix twice", signed_with(format!("sha256=sha256={good}"))),
        ("0x", signed_with(format!("0x{good}"))),
        ("a letter that is no digit", signed_with(good.replacen(|_: char| true, "g", 1))),
        ("base64", signed_with("w0mcVaGmXXpTIJ2BXfp4jUpsGP3LIbU1UhZUMQbo2sY=")),
        ("no ASCII", signed_with(b"\xff\xfe\x80".repeat(20))),
        ("seven kilobytes", signed_with(vec![b'a'; 7 << 10])),
        ("two headers, one right", signed_with(good.clone()).with(SIGNATURE_HEADER, "0".repeat(64))),
        ("two headers, one empty", signed_with("").with(SIGNATURE_HEADER, good)),
        ("too old", Request::stamped(NOW - TOLERANCE - 1, BODY)),
        ("from the future", Request::stamped(NOW + TOLERANCE + 1, BODY)),
        ("from 1970", Request::stamped(0, BODY)),
        ("stamped, sent as a body", sent_as_a_body(NOW - 30 * 86_400)),
        ("stamped, sent as a body, now", sent_as_a_body(NOW)),
        ("stamped in milliseconds, sent as a body", sent_as_a_body(NOW * 1000)),
        ("sent as a body with a useless timestamp", sent_as_a_body(NOW - 900).with(TIMESTAMP_HEADER, "now")),
    ]
}

/// Requests with a well-formed signature that matches no active secret.
fn mismatched() -> Vec<(&'static str, Request)> {
    let stamp = |timestamp: &str| signed_with(stamped_hex(NOW)).with(TIMESTAMP_HEADER, timestamp);
    vec![
        ("zeros", signed_with("0".repeat(64))),
        ("another secret", signed_with(sign(&Secret::new(OTHER_SECRET), None, BODY.as_bytes()))),
        ("another body", signed_with(hex("{}"))),
        ("one bit off", Request { body: BODY.replacen('C', "B", 1).into(), ..signed_with(hex(BODY)) }),
        ("no body", Request { body: Vec::new(), ..signed_with(hex(BODY)) }),
        ("a stamped one without its timestamp", signed_with(stamped_hex(NOW))),
        ("another timestamp", stamp(&(NOW + 1).to_string())),
        ("a timestamp in another form", stamp(&format!("+{NOW}"))),
        ("a timestamp that is none", stamp("yesterday")),
        ("an endless timestamp", stamp(&"9".repeat(400))),
        ("two timestamps", stamp(&NOW.to_string()).with(TIMESTAMP_HEADER, (NOW + 1).to_string())),
        (
            "sent as a body with a new timestamp",
            sent_as_a_body(NOW - 900).with(TIMESTAMP_HEADER, NOW.to_string()),
        ),
        (
            "milliseconds",
            signed_with(stamped_hex(NOW * 1000)).with(TIMESTAMP_HEADER, (NOW * 1000).to_string()),
        ),
    ]
}

#[tokio::test]
async fn all_401_answers_are_identical() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let expected = Answer {
        status: 401,
        headers: vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("content-length".to_owned(), "25".to_owned()),
        ],
        body: "{\"error\":\"unauthorized\"}\n".to_owned(),
    };
    // All on one connection: if a 401 closed it, that would be a visible difference.
    let mut wire = server.open().await;
    for (what, request) in never_valid().into_iter().chain(mismatched()) {
        assert_eq!(wire.ask(&request).await, expected, "{what}");
    }
    assert_eq!(queue.entered(), 0);
    wire.ask(&Request::signed(BODY)).await.assert_taken();
}

/// No secret could make these valid, so the body is not needed, whatever the scheme.
#[tokio::test]
async fn answers_401_at_once_without_the_body() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let timestamped = SignatureConfig { scheme: Scheme::Timestamped, ..signature() };
    let pinned = Server::with(&harness::server(), &timestamped, &queue).await;
    let good = hex(BODY);
    for (server, request) in [
        (&server, Request::unsigned(BODY)),
        (&server, signed_with("")),
        (&server, signed_with("zz")),
        (&server, signed_with(good.clone()).with(SIGNATURE_HEADER, "0".repeat(64))),
        (&pinned, signed_with(good.clone())),
        (&pinned, signed_with(good).with(TIMESTAMP_HEADER, (NOW * 1000).to_string())),
    ] {
        for framing in ["content-length: 90", "content-length: 1048576", "transfer-encoding: chunked"] {
            assert_faster_than(AT_ONCE, async || {
                let mut wire = server.open().await;
                wire.send(&request.head(framing)).await;
                assert_eq!(wire.answer().await.status, 401, "{framing} {request:?}");
            })
            .await;
        }
    }
    assert_eq!(queue.entered(), 0);
}

/// The body may follow the answer. Only if it is too long, the connection is closed.
#[tokio::test]
async fn a_refused_body_is_skipped() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let mut wire = server.open().await;
    for size in [90, 100_000, 1 << 20] {
        for path in [PATH, "/elsewhere"] {
            let request = Request { path: path.to_owned(), ..Request::unsigned(vec![b'x'; size]) };
            for bytes in [request.sized(), request.chunked(8 << 10)] {
                let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
                wire.send(&bytes[..head]).await;
                let answer = wire.answer().await;
                assert_eq!(answer.status, if path == PATH { 401 } else { 404 });
                assert_eq!(answer.header("connection"), None, "{size}");
                wire.send(&bytes[head..]).await;
            }
        }
    }
    wire.ask(&Request::signed(BODY)).await.assert_taken();

    // Nobody waits for more than a delivery may have, or for what the client sends only after a 100.
    for (headers, framing) in
        [("", "content-length: 1048577"), ("expect: 100-continue\r\n", "content-length: 90")]
    {
        let mut wire = server.open().await;
        wire.send(&Request::unsigned("").head(&format!("{headers}{framing}"))).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (401, Some("close")));
        wire.closed().await;
    }
    // A longer one in chunks is not read to its end.
    let mut wire = server.open().await;
    let endless = Request::unsigned(vec![b'x'; 64 << 20]).chunked(1 << 20);
    assert!(wire.try_send(&endless).await.is_err(), "the whole body was read");
    assert_eq!(queue.entered(), 1);
}

/// Only a delivery that a new secret could match is answered 503.
#[tokio::test]
async fn on_mismatch_retry_answers_503_only_to_a_mismatch() {
    let queue = FakeQueue::new(Behaviour::Store);
    let rotation = SignatureConfig { on_mismatch: OnMismatch::Retry, ..signature() };
    let server = Server::with(&server(), &rotation, &queue).await;
    for (what, request) in never_valid() {
        assert_eq!(server.ask(&request).await.status, 401, "{what}");
    }
    for (what, request) in mismatched() {
        let answer = server.ask(&request).await;
        assert_eq!(answer.status, 503, "{what}");
        answer.assert_unavailable();
    }
    assert_eq!(queue.entered(), 0);
}

#[tokio::test]
async fn accepts_the_header_forms_of_polyai_and_proxies() {
    let queue = FakeQueue::new(Behaviour::Store);
    let server = Server::start(&queue).await;
    let good = hex(BODY);
    let stamped = stamped_hex(NOW);
    for request in [
        signed_with(good.clone()),
        signed_with(good.to_uppercase()),
        signed_with(format!("sha256={good}")),
        signed_with(format!("SHA256={}", good.to_uppercase())),
        signed_with(format!("  {good}\t")),
        Request::unsigned(BODY).with("X-POLYAI-SIGNATURE", good.clone()),
        signed_with(stamped.clone()).with(TIMESTAMP_HEADER, NOW.to_string()),
        signed_with(stamped.to_uppercase()).with(TIMESTAMP_HEADER, NOW.to_string()),
        Request::stamped(NOW - TOLERANCE, BODY),
        Request::stamped(NOW + TOLERANCE, BODY),
        // The body form does not sign the timestamp, so no timestamp can make such a delivery fail.
        signed_with(good.clone()).with(TIMESTAMP_HEADER, "17"),
        signed_with(good.clone()).with(TIMESTAMP_HEADER, "yesterday"),
        signed_with(good.clone()).with(TIMESTAMP_HEADER, "1").with(TIMESTAMP_HEADER, "2"),
        signed_with(good.clone()).with(TIMESTAMP_HEADER, (NOW * 1000).to_string()),
        // A proxy may repeat headers.
        signed_with(good.clone()).with(SIGNATURE_HEADER, good.clone()),
        signed_with(good.clone())
            .with(SIGNATURE_HEADER, good.clone())
            .with(SIGNATURE_HEADER, good.to_uppercase()),
        Request::stamped(NOW, BODY).with(SIGNATURE_HEADER, stamped.clone()),
        Request::stamped(NOW, BODY).with(TIMESTAMP_HEADER, NOW.to_string()),
    ] {
        server.ask(&request).await.assert_taken();
    }
    assert_eq!(queue.entered(), 18);
}

#[tokio::test]
async fn a_fixed_scheme_accepts_only_its_form() {
    let queue = FakeQueue::new(Behaviour::Store);
    let body_form = || signed_with(hex(BODY));
    let stamp = |timestamp: &str| signed_with(stamped_hex(NOW)).with(TIMESTAMP_HEADER, timestamp);
    let now = NOW.to_string();

    let pinned = SignatureConfig { scheme: Scheme::Timestamped, ..signature() };
    let receiver = Server::with(&server(), &pinned, &queue).await;
    for (request, status) in [
        (stamp(&now), 204),
        (body_form(), 401),
        (body_form().with(TIMESTAMP_HEADER, now.clone()), 401),
        (signed_with(stamped_hex(NOW)), 401),
        (stamp(""), 401),
        (stamp("now"), 401),
        (stamp(&now).with(TIMESTAMP_HEADER, now.clone()), 204),
        (stamp(&now).with(TIMESTAMP_HEADER, "1"), 401),
    ] {
        assert_eq!(receiver.ask(&request).await.status, status, "{request:?}");
    }

    let pinned = SignatureConfig { scheme: Scheme::Body, ..signature() };
    let receiver = Server::with(&server(), &pinned, &queue).await;
    for (request, status) in [
        (body_form(), 204),
        (body_form().with(TIMESTAMP_HEADER, now.clone()), 204),
        (stamp(&now), 401),
        (sent_as_a_body(NOW), 401),
    ] {
        assert_eq!(receiver.ask(&request).await.status, status, "{request:?}");
    }
}

#[tokio::test]
async fn accepts_every_active_secret_and_no_other() {
    let queue = FakeQueue::new(Behaviour::Store);
    let secrets = [OTHER_SECRET, SECRET, "a third one, of words and \u{e9}"].map(Secret::new);
    let several = SignatureConfig { secrets: secrets.to_vec(), ..signature() };
    let server = Server::with(&server(), &several, &queue).await;
    for secret in &secrets {
        server.ask(&signed_with(sign(secret, None, BODY.as_bytes()))).await.assert_taken();
        let stamped = signed_with(sign(secret, Some(NOW), BODY.as_bytes()));
        server.ask(&stamped.with(TIMESTAMP_HEADER, NOW.to_string())).await.assert_taken();
    }
    let retired = Secret::new("whsec_0000000000000000000000000000");
    assert_eq!(server.ask(&signed_with(sign(&retired, None, BODY.as_bytes()))).await.status, 401);
    assert_eq!(queue.entered(), 6);
}

/// Collects everything that this thread logs.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Runs at the most verbose level, including libraries. The runtime has one thread, so that all lines are collected.
#[tokio::test]
async fn logs_the_reason_and_nothing_private() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .with_ansi(false);
    // With a single dispatcher, a call site that another test's thread reaches first would stay disabled.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber.finish());

    let queue = FakeQueue::new(Behaviour::Store);
    let receiver = Server::start(&queue).await;
    let rotation = SignatureConfig { on_mismatch: OnMismatch::Retry, ..signature() };
    let rotating = Server::with(&server(), &rotation, &queue).await;
    let mut signatures = Vec::new();
    for (_, request) in never_valid().into_iter().chain(mismatched()) {
        for server in [&receiver, &rotating] {
            server.ask(&request).await;
        }
        signatures.extend(request.headers.into_iter().filter(|(name, _)| name == SIGNATURE_HEADER));
    }
    let taken = Request::signed(BODY).with(EVENT_ID_HEADER, "evt-in-the-log");
    receiver.ask(&taken).await.assert_taken();
    for behaviour in [
        Behaviour::Know,
        Behaviour::Panic,
        Behaviour::Fail(polyhook::queue::QueueError::Timeout(Duration::from_secs(1))),
    ] {
        queue.behave(behaviour);
        receiver.ask(&taken).await;
    }

    // The length of logged values is bounded.
    let endless = "Z".repeat(1000);
    queue.behave(Behaviour::Store);
    let names = format!(
        r#"{{"type":"{endless}","data":{{"conversation_id":"{endless}","environment":"{endless}"}}}}"#
    );
    receiver.ask(&Request::signed(names)).await.assert_taken();

    let text = log.text();
    assert!(
        text.contains("ZZZ") && !text.contains(&"Z".repeat(200)),
        "the log must contain a shortened name"
    );
    for reason in [
        "signature_missing",
        "signature_malformed",
        "stale",
        "mismatch",
        "timestamp_malformed",
        "timestamp_in_body",
        "unverified_retry",
    ] {
        assert!(text.contains(reason), "the log must contain {reason}");
    }
    for outcome in ["accepted", "duplicate", "panicked", "not_durable", "evt-in-the-log", "CA1", "trace_id"] {
        assert!(text.contains(outcome), "the log must contain {outcome}");
    }
    signatures.push((SIGNATURE_HEADER.to_owned(), hex(BODY).into_bytes()));
    for (_, signature) in signatures {
        let signature = String::from_utf8_lossy(&signature).trim().to_owned();
        if signature.len() > 8 {
            assert!(!text.contains(&signature), "the log contains a signature: {signature}");
        }
    }
    for private in [SECRET, OTHER_SECRET, "+4915112345678", "from_number", BODY] {
        assert!(!text.contains(private), "the log contains {private}");
    }
}
