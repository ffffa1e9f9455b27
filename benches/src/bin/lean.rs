//! The bound of a durable delivery over HTTP: a minimal receiver with polyhook's duties and none of its features.
//!
//! It verifies the signature and its age in constant time, reads type, environment and conversation, recognises duplicates,
//! publishes with the properties and headers of polyhook's contract, answers 204 after a confirm that it has read in full, and
//! writes one line of JSON for each delivery. It has one secret, one form of signature, no metrics, no spans, no spool, and no
//! protection against hostile clients; it does not connect to the broker again.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    io::Write,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use clap::Parser;
use futures_util::{
    FutureExt,
    future::{MaybeDone, maybe_done},
};
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Empty};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, body::Incoming, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use polyhook_bench::contract::{EventProperties, declare_topology, short};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

const PATH: &str = "/polyai-events";
/// Maximum difference between the time of a signature and the clock.
const TOLERANCE_SECONDS: u64 = 300;
/// Maximum time until a delivery is durable.
const ACK_BUDGET: Duration = Duration::from_secs(4);
/// Maximum deliveries that wait for the publisher.
const MAX_WAITING: usize = 1024;
/// Maximum messages that go out together.
const MAX_BATCH: usize = 256;
/// Maximum batches that wait for their confirms.
const MAX_UNCONFIRMED_BATCHES: usize = 4;
/// Number of deliveries that are remembered to recognise duplicates.
const MAX_DEDUP_KEYS: usize = 100_000;
/// An AMQP short string holds 255 bytes.
const MAX_ID_BYTES: usize = 255;
const UNKNOWN: &str = "unknown";

/// Receives signed deliveries and publishes them.
#[derive(Debug, Parser)]
struct Args {
    /// Address to listen on
    #[arg(long)]
    listen: String,
    /// Signing secret of the deliveries
    #[arg(long)]
    secret: String,
    /// Broker: `amqp://…`
    #[arg(long)]
    url: String,
    /// Prefix of the exchange `PREFIX.events` and the queue `PREFIX.fetch`
    #[arg(long)]
    prefix: String,
    /// Threads of the runtime; 1 is a runtime on the main thread
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

/// The data that all connections share.
struct Receiver {
    key: Hmac<Sha256>,
    known: Mutex<DedupKeys>,
    publisher: mpsc::Sender<PublishRequest>,
    log: Arc<Log>,
}

/// A message that waits for the publisher task.
struct PublishRequest {
    routing_key: ShortString,
    properties: BasicProperties,
    body: Bytes,
    durable: oneshot::Sender<bool>,
}

/// The head of a request, reduced to what a delivery needs.
struct Head {
    timestamp: Option<Bytes>,
    signature: Option<[u8; 32]>,
    event_id: Option<String>,
    content_type: String,
    trace_id: Option<u128>,
    request_id: Option<String>,
}

/// The facts that an event states about itself.
#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    data: EventData,
}

#[derive(Default, Deserialize)]
struct EventData {
    conversation_id: Option<String>,
    environment: Option<String>,
}

impl Event {
    /// Returns the event of a body that is not JSON.
    fn unparsed() -> Self {
        Self { kind: Some("unparsed".to_owned()), data: EventData::default() }
    }
}

/// The fields of a log line; the same as polyhook's.
#[derive(Serialize)]
struct LogLine<'a> {
    timestamp: &'a str,
    level: &'a str,
    message: &'a str,
    outcome: &'a str,
    status: u16,
    elapsed_ms: u128,
    body_bytes: usize,
    trace_id: &'a str,
    #[serde(rename = "request.id")]
    request_id: &'a str,
    #[serde(rename = "event.id")]
    message_id: &'a str,
    #[serde(rename = "event.type")]
    kind: &'a str,
    #[serde(rename = "event.environment")]
    environment: &'a str,
    #[serde(rename = "conversation.id")]
    conversation_id: &'a str,
}

impl Receiver {
    async fn answer(&self, request: Request<Incoming>) -> Response<Empty<Bytes>> {
        let started = Instant::now();
        let mut response = Response::new(Empty::new());
        *response.status_mut() = if request.uri().path() != PATH {
            StatusCode::NOT_FOUND
        } else if request.method() != Method::POST {
            StatusCode::METHOD_NOT_ALLOWED
        } else {
            let head = Head::read(request.headers());
            match timeout(ACK_BUDGET, request.into_body().collect()).await {
                Ok(Ok(body)) => self.receive(head, body.to_bytes(), started).await,
                _ => StatusCode::REQUEST_TIMEOUT,
            }
        };
        response
    }

    /// Verifies a delivery, makes it durable and logs it.
    async fn receive(&self, head: Head, body: Bytes, started: Instant) -> StatusCode {
        let now = now();
        if !self.is_genuine(&head, &body, now) {
            return StatusCode::UNAUTHORIZED;
        }
        let event: Event = serde_json::from_slice(&body).unwrap_or_else(|_| Event::unparsed());
        let kind = routing_word(event.kind.as_deref());
        let environment = routing_word(event.data.environment.as_deref());
        let conversation_id = event.data.conversation_id.as_deref().unwrap_or_default();
        let message_id =
            head.event_id.unwrap_or_else(|| format!("sha256:{}", hex::encode(Sha256::digest(&body))));
        let received_at = humantime::format_rfc3339_millis(UNIX_EPOCH + now).to_string();
        let trace_id = format!("{:032x}", head.trace_id.unwrap_or_else(|| fastrand::u128(1..)));
        let body_bytes = body.len();

        let dedup_key = DedupKeys::key(&message_id, &body);
        let (status, outcome) = if self.known().contains(&dedup_key) {
            (StatusCode::NO_CONTENT, "duplicate")
        } else {
            let traceparent = format!("00-{trace_id}-{:016x}-01", fastrand::u64(1..));
            let properties = EventProperties {
                message_id: &message_id,
                kind,
                conversation_id,
                content_type: &head.content_type,
                seconds: now.as_secs(),
                received_at: &received_at,
                traceparent: &traceparent,
            };
            let routing_key = short(&format!("{kind}.{environment}"));
            if self.publish(routing_key, properties.build(), body).await {
                self.known().insert(dedup_key);
                (StatusCode::NO_CONTENT, "accepted")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not_durable")
            }
        };
        self.log.write(&LogLine {
            timestamp: &received_at,
            level: "INFO",
            message: "delivery stored durably",
            outcome,
            status: status.as_u16(),
            elapsed_ms: started.elapsed().as_millis(),
            body_bytes,
            trace_id: &trace_id,
            request_id: &head.request_id.unwrap_or_else(|| format!("{:032x}", fastrand::u128(..))),
            message_id: &message_id,
            kind,
            environment,
            conversation_id,
        });
        status
    }

    fn is_genuine(&self, head: &Head, body: &[u8], now: Duration) -> bool {
        let (Some(timestamp), Some(signature)) = (&head.timestamp, &head.signature) else { return false };
        let mut mac = self.key.clone();
        mac.update(timestamp);
        mac.update(b".");
        mac.update(body);
        let signed_at = std::str::from_utf8(timestamp).ok().and_then(|seconds| seconds.parse::<u64>().ok());
        // The comparison takes constant time.
        mac.verify_slice(signature).is_ok()
            && signed_at.is_some_and(|seconds| seconds.abs_diff(now.as_secs()) <= TOLERANCE_SECONDS)
    }

    /// Returns true if the message is durable.
    async fn publish(&self, routing_key: ShortString, properties: BasicProperties, body: Bytes) -> bool {
        let (durable, reply) = oneshot::channel();
        let request = PublishRequest { routing_key, properties, body, durable };
        self.publisher.try_send(request).is_ok() && matches!(timeout(ACK_BUDGET, reply).await, Ok(Ok(true)))
    }

    fn known(&self) -> MutexGuard<'_, DedupKeys> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Head {
    fn read(headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let bounded =
            |name| text(name).filter(|text| (1..=MAX_ID_BYTES).contains(&text.len())).map(str::to_owned);
        let mut signature = [0; 32];
        let is_hex =
            text("x-polyai-signature").is_some_and(|text| hex::decode_to_slice(text, &mut signature).is_ok());
        Self {
            timestamp: headers
                .get("x-polyai-timestamp")
                .map(|value| Bytes::copy_from_slice(value.as_bytes())),
            signature: is_hex.then_some(signature),
            event_id: bounded("x-polyai-event-id"),
            content_type: bounded("content-type").unwrap_or_else(|| "application/json".to_owned()),
            trace_id: text("traceparent")
                .and_then(|trace| u128::from_str_radix(trace.split('-').nth(1)?, 16).ok()),
            request_id: bounded("x-request-id"),
        }
    }
}

/// Returns a word that a routing key can carry, or [`UNKNOWN`].
fn routing_word(word: Option<&str>) -> &str {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    word.filter(|word| (1..=100).contains(&word.len()) && word.bytes().all(is_allowed)).unwrap_or(UNKNOWN)
}

#[expect(clippy::disallowed_methods, reason = "a receiver checks the signature against the real time")]
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Keys of the latest durable deliveries.
#[derive(Default)]
struct DedupKeys {
    keys: HashSet<[u8; 16]>,
    oldest_first: VecDeque<[u8; 16]>,
}

impl DedupKeys {
    /// Computes the key of a delivery from its id and its body, because the signature does not cover the id.
    fn key(message_id: &str, body: &[u8]) -> [u8; 16] {
        let mut hash = Sha256::new();
        hash.update(message_id.len().to_be_bytes());
        hash.update(message_id);
        hash.update(body);
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        key
    }

    fn contains(&self, key: &[u8; 16]) -> bool {
        self.keys.contains(key)
    }

    fn insert(&mut self, key: [u8; 16]) {
        if self.keys.insert(key) {
            self.oldest_first.push_back(key);
        }
        if self.oldest_first.len() > MAX_DEDUP_KEYS
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }
}

/// Collects log lines and writes all that are there in one system call.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<u8>>,
    filled: Notify,
}

impl Log {
    fn write(&self, line: &LogLine<'_>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        serde_json::to_writer(&mut *lines, line).unwrap_or_else(|_| unreachable!("it is plain data"));
        lines.push(b'\n');
        self.filled.notify_one();
    }

    /// Writes the lines to standard error as they come.
    async fn drain(self: Arc<Self>) {
        let mut written = Vec::new();
        loop {
            self.filled.notified().await;
            std::mem::swap(&mut written, &mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
            // A log that cannot be written does not stop the receiver.
            let _ = std::io::stderr().write_all(&written);
            written.clear();
        }
    }
}

/// Messages that went out together.
struct Batch<F: Future> {
    replies: Vec<oneshot::Sender<bool>>,
    confirms: Vec<Pin<Box<MaybeDone<F>>>>,
    /// A message was returned, and it may be one of these.
    failed: bool,
}

impl<F: Future<Output = lapin::Result<Confirmation>>> Batch<F> {
    /// Queues the frames of all messages, in their order.
    fn start(messages: impl Iterator<Item = (oneshot::Sender<bool>, F)>) -> Self {
        let (replies, confirms) =
            messages.map(|(reply, message)| (reply, Box::pin(maybe_done(message)))).unzip();
        let mut batch = Self { replies, confirms, failed: false };
        batch.poll();
        batch
    }

    /// Polls all messages. The first poll of a message queues its frames.
    fn poll(&mut self) {
        for confirm in &mut self.confirms {
            let _ = confirm.as_mut().now_or_never();
        }
    }

    /// Waits until all messages are confirmed. The broker confirms in the order of publishing, so waiting for the last one first
    /// wakes the task once for the whole batch.
    async fn confirmed(&mut self) {
        for confirm in self.confirms.iter_mut().rev() {
            confirm.as_mut().await;
        }
    }

    /// Returns true if a returned message came with a confirm that has arrived.
    fn has_returned_message(&mut self) -> bool {
        self.poll();
        self.confirms.iter_mut().any(|confirm| {
            let output = confirm.as_mut().output_mut();
            matches!(output, Some(Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)))))
        })
    }

    /// Replies to the waiting handlers.
    fn reply(mut self) {
        for (reply, confirm) in self.replies.into_iter().zip(&mut self.confirms) {
            let is_acknowledged = matches!(confirm.as_mut().take_output(), Some(Ok(Confirmation::Ack(None))));
            // Fails if the handler has stopped waiting.
            let _ = reply.send(is_acknowledged && !self.failed);
        }
    }
}

/// Publishes all that is waiting in one batch, with at most [`MAX_UNCONFIRMED_BATCHES`]. The only owner of the channel.
async fn publish_batches(
    channel: Channel,
    exchange: ShortString,
    mut requests: mpsc::Receiver<PublishRequest>,
) {
    let mut waiting = Vec::with_capacity(MAX_BATCH);
    let mut unconfirmed = VecDeque::new();
    loop {
        tokio::select! {
            biased;
            () = oldest_confirmed(&mut unconfirmed), if !unconfirmed.is_empty() => {
                // lapin attaches a returned message to any confirm, so one fails all that are unconfirmed.
                if unconfirmed.iter_mut().any(Batch::has_returned_message) {
                    for batch in &mut unconfirmed {
                        batch.failed = true;
                    }
                }
                if let Some(batch) = unconfirmed.pop_front() {
                    batch.reply();
                }
            }
            received = requests.recv_many(&mut waiting, MAX_BATCH),
                if unconfirmed.len() < MAX_UNCONFIRMED_BATCHES =>
            {
                if received == 0 {
                    return;
                }
                unconfirmed.push_back(Batch::start(waiting.drain(..).map(|request| {
                    let PublishRequest { routing_key, properties, body, durable } = request;
                    (durable, publish_one(&channel, exchange.clone(), routing_key, properties, body))
                })));
            }
        }
    }
}

async fn oldest_confirmed<F>(batches: &mut VecDeque<Batch<F>>)
where
    F: Future<Output = lapin::Result<Confirmation>>,
{
    if let Some(oldest) = batches.front_mut() {
        oldest.confirmed().await;
    }
}

/// Publishes a message and waits for its confirm.
async fn publish_one(
    channel: &Channel,
    exchange: ShortString,
    routing_key: ShortString,
    properties: BasicProperties,
    body: Bytes,
) -> lapin::Result<Confirmation> {
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await
}

async fn serve(args: Args) -> std::io::Result<()> {
    let key = Hmac::new_from_slice(args.secret.as_bytes()).map_err(std::io::Error::other)?;
    let connection = Connection::connect(&args.url, ConnectionProperties::default())
        .await
        .map_err(std::io::Error::other)?;
    let exchange = format!("{}.events", args.prefix);
    let channel = async {
        let channel = connection.create_channel().await?;
        declare_topology(&channel, &exchange, &format!("{}.fetch", args.prefix)).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        lapin::Result::Ok(channel)
    };
    let channel = channel.await.map_err(std::io::Error::other)?;

    let log = Arc::new(Log::default());
    let (publisher, requests) = mpsc::channel(MAX_WAITING);
    let receiver = Arc::new(Receiver { key, known: Mutex::default(), publisher, log: Arc::clone(&log) });
    let listener = TcpListener::bind(args.listen).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(publish_batches(channel, short(&exchange), requests));
    tasks.spawn(log.drain());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let receiver = Arc::clone(&receiver);
        tasks.spawn(async move {
            let service = service_fn(move |request| {
                let receiver = Arc::clone(&receiver);
                async move { Ok::<_, Infallible>(receiver.answer(request).await) }
            });
            // Fails if the client breaks the protocol or the connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while tasks.try_join_next().is_some() {}
    }
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let mut runtime = match args.workers {
        1 => tokio::runtime::Builder::new_current_thread(),
        workers => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(workers);
            runtime
        }
    };
    runtime.enable_all().build()?.block_on(serve(args))
}
