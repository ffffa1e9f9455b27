//! The extractor: turns a request into a delivery that PolyAI has signed.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{Receiver, outcome::Outcome, timing::Timing};
use crate::{
    event::{self, DedupKey, Event},
    queue::Message,
    signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, SignatureError, SignedForm, TIMESTAMP_HEADER},
    telemetry::trace::{DeliverySpan, Span, Traceparent},
};

const TRACEPARENT_HEADER: &str = "traceparent";
/// Body memory is reserved in steps of this size.
const MEMORY_STEP_BYTES: usize = 16 << 10;
/// An AMQP short string holds 255 bytes.
const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// The values of a request's head that a delivery needs.
#[derive(Debug)]
pub(super) struct DeliveryHead {
    signature: Result<Option<HeaderValue>, RepeatedHeader>,
    timestamp: Result<Option<HeaderValue>, RepeatedHeader>,
    event_id: Option<HeaderValue>,
    traceparent: Option<HeaderValue>,
    content_type: Option<HeaderValue>,
    content_length: Option<u64>,
}

/// A header that must be there once is there more than once.
#[derive(Clone, Copy, Debug)]
struct RepeatedHeader;

impl DeliveryHead {
    pub(super) fn new(headers: &HeaderMap) -> Self {
        Self {
            signature: single_header(headers, SIGNATURE_HEADER),
            timestamp: single_header(headers, TIMESTAMP_HEADER),
            event_id: headers.get(EVENT_ID_HEADER).cloned(),
            traceparent: headers.get(TRACEPARENT_HEADER).cloned(),
            content_type: headers.get(header::CONTENT_TYPE).cloned(),
            content_length: content_length(headers),
        }
    }
}

/// A delivery whose signature is verified, ready to be published.
#[derive(Debug)]
pub(super) struct VerifiedDelivery {
    pub(super) message: Message,
    pub(super) info: DeliveryInfo,
    /// Returns the body's memory to the budget when the delivery ends.
    _memory: Vec<OwnedSemaphorePermit>,
}

/// The facts about a verified delivery that its log line and its span report.
#[derive(Debug)]
pub(super) struct DeliveryInfo {
    pub(super) message_id: String,
    pub(super) event: Event,
    pub(super) body_bytes: usize,
    pub(super) trace_id: String,
    pub(super) span: Span,
}

impl DeliveryInfo {
    /// Adds the outcome to the span. The span ends when it is dropped.
    pub(super) fn finish_span(&self, outcome: &Outcome) {
        let status = outcome.status();
        self.span.set_attribute("polyhook.outcome", outcome.label());
        self.span.set_attribute("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.span.set_error(outcome.label());
        }
    }
}

impl VerifiedDelivery {
    /// Reads the body, verifies the signature over its raw bytes, and only then looks inside.
    pub(super) async fn extract(
        receiver: &Receiver,
        head: DeliveryHead,
        body: impl Body<Data = Bytes> + Unpin,
        timing: Timing,
    ) -> Result<Self, Outcome> {
        // A quarter of the budget is reserved for making the delivery durable.
        let read_deadline = timing.deadline - receiver.inner.ack_budget / 4;
        let (body, memory) = read_body(receiver, head.content_length, body, read_deadline).await?;
        let now = receiver.inner.clock.now();
        verify(receiver, &head, &body, now)?;
        // Nothing before this line has looked inside the body.
        Ok(Self::parse(receiver, &head, body, memory, timing, now))
    }

    fn parse(
        receiver: &Receiver,
        head: &DeliveryHead,
        body: Bytes,
        memory: Vec<OwnedSemaphorePermit>,
        timing: Timing,
        now: Timestamp,
    ) -> Self {
        let event = Event::read(&body);
        let id = event::message_id(head.event_id.as_ref().map(HeaderValue::as_bytes), &body);
        let parent = head.traceparent.as_ref().and_then(|value| value.to_str().ok());
        let span = Span::delivery(&DeliverySpan {
            traceparent: parent,
            path: &receiver.inner.path,
            id: &id,
            kind: &event.kind,
            environment: &event.environment,
            read_at: now,
            read_time: timing.started.elapsed(),
        });
        let traceparent = span.traceparent().unwrap_or_else(|| continue_trace(parent));
        let trace_id =
            Traceparent::parse(&traceparent).map_or_else(String::new, |trace| trace.trace_id.to_owned());
        let body_bytes = body.len();
        let message = Message {
            dedup: DedupKey::new(&id, &body),
            kind: event.kind.clone(),
            environment: event.environment.clone(),
            conversation_id: event.conversation_id.clone(),
            received_at: now,
            traceparent: Some(traceparent),
            content_type: content_type(head),
            body,
            id: id.clone(),
        };
        let info = DeliveryInfo { message_id: id, event, body_bytes, trace_id, span };
        Self { message, info, _memory: memory }
    }
}

/// Reads a body of at most `server.body_limit` bytes until `deadline`, and returns it with the memory reserved for it.
async fn read_body(
    receiver: &Receiver,
    content_length: Option<u64>,
    body: impl Body<Data = Bytes> + Unpin,
    deadline: Instant,
) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Outcome> {
    let receiver = &receiver.inner;
    if content_length.is_some_and(|length| length > receiver.body_limit as u64) {
        return Err(Outcome::TooLarge);
    }
    let read = read_frames(body, receiver.body_limit, &receiver.body_budget);
    timeout_at(deadline, read).await.unwrap_or(Err(Outcome::SlowBody))
}

/// Reserves memory as the body arrives, so a client that announces much and sends little reserves little.
async fn read_frames(
    mut body: impl Body<Data = Bytes> + Unpin,
    limit: usize,
    budget: &Arc<Semaphore>,
) -> Result<(Bytes, Vec<OwnedSemaphorePermit>), Outcome> {
    let mut bytes = BytesMut::new();
    let mut memory = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(|_| Outcome::BrokenBody)?.into_data() else { continue };
        let length = bytes.len() + part.len();
        if length > limit {
            return Err(Outcome::TooLarge);
        }
        while memory.len() * MEMORY_STEP_BYTES < length {
            let kib = u32::try_from(MEMORY_STEP_BYTES / 1024).unwrap_or(u32::MAX);
            memory.push(Arc::clone(budget).try_acquire_many_owned(kib).map_err(|_| Outcome::Overloaded)?);
        }
        bytes.extend_from_slice(&part);
    }
    Ok((bytes.freeze(), memory))
}

/// Verifies the signature over the raw body at the time `now`.
fn verify(receiver: &Receiver, head: &DeliveryHead, body: &[u8], now: Timestamp) -> Result<(), Outcome> {
    let receiver = &receiver.inner;
    // Several timestamp headers count as an unusable one. The body form does not sign the timestamp, so they must not
    // make such a delivery fail.
    let timestamp =
        head.timestamp.as_ref().map_or(Some(&b""[..]), |value| value.as_ref().map(HeaderValue::as_bytes));
    let signature =
        head.signature.as_ref().map_err(|_| Outcome::Unverified(SignatureError::SignatureMalformed))?;
    let signature = signature.as_ref().map(HeaderValue::as_bytes);
    let secrets = receiver.secrets.active();
    match secrets.verifier.verify(signature, timestamp, body, now) {
        Ok(verified) => {
            if verified.form == SignedForm::Timestamped {
                receiver.clock_skew.observe_accepted();
            }
            Ok(())
        }
        Err(error @ SignatureError::Mismatch) if secrets.requests_retry(now) => {
            Err(Outcome::UnverifiedRetry(error))
        }
        Err(error) => {
            if let SignatureError::Stale { skew_s } = error {
                receiver.clock_skew.observe_stale(signature.unwrap_or_default(), skew_s, now);
            }
            Err(Outcome::Unverified(error))
        }
    }
}

/// Returns a header's value, if it is present, and an error if it is present more than once.
fn single_header(headers: &HeaderMap, name: &str) -> Result<Option<HeaderValue>, RepeatedHeader> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() { Err(RepeatedHeader) } else { Ok(first.cloned()) }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn content_type(head: &DeliveryHead) -> String {
    let given = head.content_type.as_ref().and_then(|value| value.to_str().ok());
    given
        .filter(|given| (1..=MAX_CONTENT_TYPE_BYTES).contains(&given.len()))
        .unwrap_or("application/json")
        .to_owned()
}

/// Returns a `traceparent` with a new span id, in the sender's trace or in a new one. Log lines carry its trace id even
/// when no spans are exported.
fn continue_trace(parent: Option<&str>) -> String {
    let span = fastrand::u64(1..);
    match parent.and_then(Traceparent::parse) {
        Some(parent) => format!("00-{}-{span:016x}-01", parent.trace_id),
        None => format!("00-{}-{span:016x}-01", uuid::Uuid::new_v4().simple()),
    }
}
