//! The counted cases. A case prepares the same data for every number of repetitions, so that the difference of two runs
//! contains only the work itself.

use std::{hint::black_box, sync::Arc, time::Duration};

use http::{Request, StatusCode, header};
use http_body_util::Full;
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
    web::{Receiver, ReceiverConfig, ServerConfig, SignatureConfig, TriggerConfig},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::inputs::{NOW, USUAL_BYTES, body, conversation_id, event_id, message, now, secrets};

/// A piece of work that is counted.
#[derive(Debug)]
pub(crate) struct Case {
    /// Names it in `limits.toml`.
    pub(crate) name: &'static str,
    /// Describes the case in the output.
    pub(crate) description: &'static str,
    /// Repetitions in the shorter run, enough for costs that only the first repetitions have.
    pub(crate) few: usize,
    /// Repetitions in the longer run, at most [`MAX_REPETITIONS`].
    pub(crate) many: usize,
    /// Repeats the work this many times.
    pub(crate) work: fn(usize),
}

/// Maximum repetitions of a case; data is prepared for this many.
const MAX_REPETITIONS: usize = 600;

/// A generous timeout, because everything is slow under callgrind.
const TIMEOUT: Duration = Duration::from_secs(30);

/// All cases.
pub(crate) const CASES: [Case; 6] = [
    Case {
        name: "signature",
        description: "one secret, 600 bytes, both forms tried",
        few: 100,
        many: 600,
        work: signature,
    },
    Case { name: "event", description: "reading an event of 600 bytes", few: 100, many: 600, work: event },
    Case {
        name: "dedup_key",
        description: "the id and the hash of 600 bytes",
        few: 100,
        many: 600,
        work: dedup_key,
    },
    Case {
        name: "archive_key",
        description: "the key of a conversation",
        few: 100,
        many: 600,
        work: archive_key,
    },
    Case {
        name: "append",
        description: "one message durable in the embedded queue",
        few: 100,
        many: 600,
        work: append,
    },
    Case {
        name: "delivery",
        description: "one signed delivery, from request to 204 and log",
        few: 100,
        many: 600,
        work: delivery,
    },
];

fn signature(times: usize) {
    let secrets = secrets(1);
    let verifier = Verifier::new(&secrets, Scheme::Auto, Duration::from_mins(5));
    let body = body(0, USUAL_BYTES);
    let signature = signature::sign(&secrets[0], Some(NOW), &body);
    let timestamp = NOW.to_string();
    for _ in 0..times {
        black_box(&verifier)
            .verify(Some(signature.as_bytes()), Some(timestamp.as_bytes()), black_box(&body), now())
            .expect("genuine");
    }
}

fn event(times: usize) {
    let body = body(0, USUAL_BYTES);
    for _ in 0..times {
        black_box(Event::read(black_box(&body)));
    }
}

fn dedup_key(times: usize) {
    let (id, body) = (event_id(0), body(0, USUAL_BYTES));
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
    let messages: Vec<_> = (0..MAX_REPETITIONS).map(|n| message(n, USUAL_BYTES)).collect();
    let store = Store::open(&runtime);
    for message in &messages[..times] {
        runtime.block_on(store.queue.publish(message.clone())).expect("durable");
    }
    store.close(&runtime);
}

/// Delivers without a socket. Building the request costs about as much as reading it from the network.
fn delivery(times: usize) {
    telemetry::init_metrics().expect("the first recorder");
    telemetry::init_logs(&LogConfig { format: Some(LogFormat::Json), ..LogConfig::default() })
        .expect("the first");
    let runtime = runtime();
    let store = Store::open(&runtime);
    let secrets = secrets(1);
    let deliveries: Vec<_> = (0..MAX_REPETITIONS)
        .map(|n| {
            let body = body(n, USUAL_BYTES);
            (event_id(n), signature::sign(&secrets[0], Some(NOW), &body), body)
        })
        .collect();
    let server = ServerConfig { ack_budget: TIMEOUT, ..ServerConfig::default() };
    let signature = SignatureConfig { secrets, ..SignatureConfig::default() };
    let queue = Arc::clone(&store.queue) as Arc<dyn Queue>;
    let trigger = TriggerConfig::default();
    let sections = ReceiverConfig { server: &server, signature: &signature, trigger: &trigger };
    let receiver = Receiver::new(sections, queue, clock(), &Health::default(), &store.lifecycle);
    for (id, signature, body) in &deliveries[..times] {
        let request = Request::post(&server.path)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONTENT_LENGTH, USUAL_BYTES)
            .header(EVENT_ID_HEADER, id)
            .header(TIMESTAMP_HEADER, NOW)
            .header(SIGNATURE_HEADER, signature)
            .body(Full::new(body.clone()))
            .expect("a request");
        // It starts a task before it is polled.
        let answer = runtime.block_on(async { receiver.handle(request).await }).expect("always an answer");
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
    }
    store.close(&runtime);
}

/// An embedded queue in a temporary folder.
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
        let options = SqliteOptions { publish_timeout: TIMEOUT, clock: clock(), ..SqliteOptions::default() };
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
