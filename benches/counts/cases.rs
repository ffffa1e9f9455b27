//! What is counted. Each case prepares the same whatever the number of times, so that only the work itself is in
//! the difference.

use std::{hint::black_box, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, StatusCode, header};
use polyhook::{
    archive::Location,
    clock::Clock,
    event::{self, DedupKey, Event},
    health::Health,
    lifecycle::Lifecycle,
    queue::{
        Queue,
        sqlite::{SqliteOptions, SqliteQueue},
    },
    signature::{self, EVENT_ID_HEADER, SIGNATURE_HEADER, Scheme, TIMESTAMP_HEADER, Verifier},
    telemetry::{self, LogConfig, LogFormat},
    web::{Receiver, ServerConfig, SignatureConfig},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use crate::inputs::{NOW, USUAL, body, conversation_id, event_id, message, now, secrets};

/// A piece of work that is counted.
#[derive(Debug)]
pub(crate) struct Case {
    /// Names it in `limits.toml`.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) what: &'static str,
    /// How often it is done in the shorter run: past what only the first times cost.
    pub(crate) few: usize,
    /// How often in the longer one, at most [`MOST`].
    pub(crate) many: usize,
    /// Does it so many times.
    pub(crate) work: fn(usize),
}

/// What must be prepared to do any work as often as the longest run does.
const MOST: usize = 600;

/// Under callgrind everything is slow, and late is not what is counted.
const PATIENCE: Duration = Duration::from_secs(30);

/// All of them.
pub(crate) const CASES: [Case; 6] = [
    Case {
        name: "signature",
        what: "one secret, 600 bytes, both forms tried",
        few: 100,
        many: 600,
        work: signature,
    },
    Case { name: "event", what: "reading what 600 bytes are about", few: 100, many: 600, work: event },
    Case {
        name: "dedup_key",
        what: "the id and the hash of 600 bytes",
        few: 100,
        many: 600,
        work: dedup_key,
    },
    Case { name: "archive_key", what: "where a conversation lies", few: 100, many: 600, work: archive_key },
    Case {
        name: "append",
        what: "one message durable in the embedded queue",
        few: 100,
        many: 600,
        work: append,
    },
    Case {
        name: "delivery",
        what: "one signed delivery, from request to 204 and log",
        few: 100,
        many: 600,
        work: delivery,
    },
];

fn signature(times: usize) {
    let secrets = secrets(1);
    let verifier = Verifier::new(&secrets, Scheme::Auto, Duration::from_mins(5));
    let body = body(0, USUAL);
    let signature = signature::sign(&secrets[0], Some(NOW), &body);
    let timestamp = NOW.to_string();
    for _ in 0..times {
        black_box(&verifier)
            .verify(Some(signature.as_bytes()), Some(timestamp.as_bytes()), black_box(&body), now())
            .expect("genuine");
    }
}

fn event(times: usize) {
    let body = body(0, USUAL);
    for _ in 0..times {
        black_box(Event::read(black_box(&body)));
    }
}

fn dedup_key(times: usize) {
    let (id, body) = (event_id(0), body(0, USUAL));
    for _ in 0..times {
        let id = event::message_id(Some(black_box(id.as_bytes())), &body);
        black_box(DedupKey::new(&id, black_box(&body)));
    }
}

fn archive_key(times: usize) {
    let id = conversation_id(0);
    for _ in 0..times {
        black_box(Location::new(black_box("acme-uk"), black_box("PROJECT-1a2b"), black_box(&id), now()));
    }
}

fn append(times: usize) {
    let runtime = runtime();
    let messages: Vec<_> = (0..MOST).map(|n| message(n, USUAL)).collect();
    let store = Store::open(&runtime);
    for message in &messages[..times] {
        runtime.block_on(store.queue.publish(message.clone())).expect("durable");
    }
    store.close(&runtime);
}

/// Without a socket: the request is made here, which costs about what reading it from the wire would.
fn delivery(times: usize) {
    telemetry::init_metrics().expect("the first recorder");
    telemetry::init_logs(&LogConfig { format: Some(LogFormat::Json), ..LogConfig::default() })
        .expect("the first");
    let runtime = runtime();
    let store = Store::open(&runtime);
    let secrets = secrets(1);
    let deliveries: Vec<_> = (0..MOST)
        .map(|n| {
            let body = body(n, USUAL);
            (event_id(n), signature::sign(&secrets[0], Some(NOW), &body), body)
        })
        .collect();
    let server = ServerConfig { ack_budget: PATIENCE, ..ServerConfig::default() };
    let signature = SignatureConfig { secrets, ..SignatureConfig::default() };
    let queue = Arc::clone(&store.queue) as Arc<dyn Queue>;
    let router = Receiver::new(&server, &signature, queue, clock(), &Health::default()).router(&server.path);
    for (id, signature, body) in &deliveries[..times] {
        let request = Request::post(&server.path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, USUAL)
            .header(EVENT_ID_HEADER, id)
            .header(TIMESTAMP_HEADER, NOW)
            .header(SIGNATURE_HEADER, signature)
            .body(Body::from(body.clone()))
            .expect("a request");
        let answer = runtime.block_on(router.clone().oneshot(request)).expect("always an answer");
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }
    store.close(&runtime);
}

/// An embedded queue in a folder of its own.
struct Store {
    queue: Arc<SqliteQueue>,
    lifecycle: Lifecycle,
    _folder: TempDir,
}

impl Store {
    fn open(runtime: &Runtime) -> Self {
        let _entered = runtime.enter();
        let folder = TempDir::new().expect("a temporary folder");
        let lifecycle = Lifecycle::new();
        let options = SqliteOptions { publish_timeout: PATIENCE, clock: clock(), ..SqliteOptions::default() };
        let queue = SqliteQueue::open(&folder.path().join("queue.db"), options, &lifecycle).expect("a queue");
        Self { queue, lifecycle, _folder: folder }
    }

    fn close(self, runtime: &Runtime) {
        self.lifecycle.drain();
        runtime.block_on(self.queue.close());
    }
}

fn clock() -> Clock {
    Clock::manual(now())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
