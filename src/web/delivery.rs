//! The extractor: turns a request into a delivery that PolyAI has signed.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::Body;
use jiff::Timestamp;
use tokio::time::timeout_at;

use super::{
    Receiver,
    body::{BodyLimits, Charge},
    outcome::Outcome,
    timing::Timing,
};
use crate::{
    event::{self, DedupKey, Event},
    queue::Message,
    signature::{
        EVENT_ID_HEADER, SIGNATURE_HEADER, SignatureError, SignatureHeaders, SignedForm, TIMESTAMP_HEADER,
    },
    telemetry::trace::{DeliverySpan, Span, Traceparent},
};

const TRACEPARENT_HEADER: &str = "traceparent";
/// An AMQP short string holds 255 bytes.
const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// The values of a request's head that a delivery needs, copied: a value of the request itself would keep all headers in
/// memory.
#[derive(Debug)]
pub(super) struct DeliveryHead {
    signature: SignatureHeaders,
    event_id: Option<String>,
    traceparent: Option<String>,
    content_type: String,
    content_length: Option<u64>,
}

impl DeliveryHead {
    /// Reads the head of a request. Returns an error if no body could make it a delivery.
    pub(super) fn read(receiver: &Receiver, headers: &HeaderMap) -> Result<Self, Outcome> {
        let receiver = &receiver.inner;
        let all = |name| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let scheme = receiver.secrets.scheme();
        let signature = SignatureHeaders::parse(scheme, all(SIGNATURE_HEADER), all(TIMESTAMP_HEADER))
            .map_err(Outcome::Unverified)?;
        let content_length = content_length(headers);
        if content_length.is_some_and(|length| length > receiver.body_limit as u64) {
            return Err(Outcome::TooLarge);
        }
        let event_id = headers.get(EVENT_ID_HEADER).map(HeaderValue::as_bytes);
        let traceparent = headers.get(TRACEPARENT_HEADER).and_then(|value| value.to_str().ok());
        Ok(Self {
            signature,
            event_id: event_id.and_then(event::valid_event_id).map(str::to_owned),
            traceparent: traceparent.filter(|text| Traceparent::parse(text).is_some()).map(str::to_owned),
            content_type: content_type(headers),
            content_length,
        })
    }
}

/// A delivery whose signature is verified, ready to be published.
#[derive(Debug)]
pub(super) struct VerifiedDelivery {
    pub(super) message: Message,
    pub(super) info: DeliveryInfo,
    /// Returns the body's memory when the delivery ends.
    _memory: Charge,
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
        let limits = BodyLimits { max: receiver.inner.body_limit, announced: head.content_length };
        let read = receiver.inner.body_memory.read(body, limits);
        let (body, memory) =
            timeout_at(timing.read_deadline(), read).await.unwrap_or(Err(Outcome::SlowBody))?;
        let now = receiver.inner.clock.now();
        verify(receiver, &head.signature, &body, now)?;
        // Nothing before this line has looked inside the body.
        Ok(Self::parse(receiver, head, body, memory, timing, now))
    }

    fn parse(
        receiver: &Receiver,
        head: DeliveryHead,
        body: Bytes,
        memory: Charge,
        timing: Timing,
        now: Timestamp,
    ) -> Self {
        let event = Event::read(&body);
        let id = head.event_id.unwrap_or_else(|| event::body_id(&body));
        let parent = head.traceparent.as_deref();
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
            content_type: head.content_type,
            body,
            id: id.clone(),
        };
        let info = DeliveryInfo { message_id: id, event, body_bytes, trace_id, span };
        Self { message, info, _memory: memory }
    }
}

/// Verifies the signature over the raw body at the time `now`.
fn verify(
    receiver: &Receiver,
    headers: &SignatureHeaders,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Outcome> {
    let receiver = &receiver.inner;
    let secrets = receiver.secrets.active();
    match secrets.verifier.verify_parsed(headers, body, now) {
        Ok(verified) => {
            if verified.form == SignedForm::Timestamped {
                receiver.clock_skew.observe_accepted();
            }
            Ok(())
        }
        // In the body form, another secret could match whatever the timestamp is.
        Err(error @ (SignatureError::Mismatch | SignatureError::TimestampMalformed))
            if secrets.requests_retry(now) =>
        {
            Err(Outcome::UnverifiedRetry(error))
        }
        Err(error) => {
            if let SignatureError::Stale { skew_s } = error {
                receiver.clock_skew.observe_stale(headers.signature(), skew_s, now);
            }
            Err(Outcome::Unverified(error))
        }
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
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
