//! The extractor: turns a request into a delivery that PolyAI has signed, or that names a conversation for the trigger.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use hyper::body::Body;
use jiff::Timestamp;
use tokio::time::timeout_at;

use super::{
    Endpoint, Receiver,
    body::{BodyLimits, Charge},
    outcome::Outcome,
    timing::Timing,
    trigger,
};
use crate::{
    event::{self, DedupKey, Event},
    queue::Message,
    signature::{
        EVENT_ID_HEADER, SIGNATURE_HEADER, Scheme, SignatureError, SignatureHeaders, SignedForm,
        TIMESTAMP_HEADER,
    },
    telemetry::trace::{DeliverySpan, Span, Traceparent},
};

const TRACEPARENT_HEADER: &str = "traceparent";
const JSON: &str = "application/json";
/// An AMQP short string holds 255 bytes.
const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// The values of a request's head that a delivery needs, copied: a value of the request itself would keep all headers in
/// memory.
#[derive(Debug)]
pub(super) struct DeliveryHead {
    sender: Sender,
    traceparent: Option<String>,
    content_length: Option<u64>,
}

/// The sender of a request.
#[derive(Debug)]
enum Sender {
    /// PolyAI, if the body has this signature.
    PolyAi { signature: SignatureHeaders, event_id: Option<String>, content_type: String },
    /// A holder of a token.
    TokenHolder,
}

/// What the body of a request leads to.
struct Incoming {
    id: String,
    event: Event,
    body: Bytes,
    content_type: String,
}

impl DeliveryHead {
    /// Reads the head of a request. Returns an error if no body could make it a delivery.
    pub(super) fn read(
        receiver: &Receiver,
        endpoint: Endpoint<'_>,
        headers: &HeaderMap,
    ) -> Result<Self, Outcome> {
        let receiver = &receiver.inner;
        let sender = match endpoint {
            Endpoint::Webhook => Sender::signed(receiver.secrets.config().scheme, headers)?,
            Endpoint::Trigger(tokens) => {
                let given = headers.get_all(header::AUTHORIZATION).into_iter();
                tokens.active().verify(given).map_err(Outcome::Unauthorized)?;
                Sender::TokenHolder
            }
        };
        let content_length = content_length(headers);
        if content_length.is_some_and(|length| length > receiver.body_limit as u64) {
            return Err(Outcome::TooLarge);
        }
        let traceparent = headers.get(TRACEPARENT_HEADER).and_then(|value| value.to_str().ok());
        Ok(Self {
            sender,
            traceparent: traceparent.filter(|text| Traceparent::parse(text).is_some()).map(str::to_owned),
            content_length,
        })
    }
}

impl Sender {
    /// Reads the headers of a signed delivery.
    fn signed(scheme: Scheme, headers: &HeaderMap) -> Result<Self, Outcome> {
        let all = |name| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
        let signature = SignatureHeaders::parse(scheme, all(SIGNATURE_HEADER), all(TIMESTAMP_HEADER))
            .map_err(Outcome::Unverified)?;
        let event_id = headers.get(EVENT_ID_HEADER).map(HeaderValue::as_bytes);
        Ok(Self::PolyAi {
            signature,
            event_id: event_id.and_then(event::valid_event_id).map(str::to_owned),
            content_type: content_type(headers),
        })
    }

    /// Verifies that PolyAI has signed the body.
    fn verify(&self, receiver: &Receiver, body: &[u8], now: Timestamp) -> Result<(), Outcome> {
        match self {
            Self::PolyAi { signature, .. } => verify(receiver, signature, body, now),
            Self::TokenHolder => Ok(()),
        }
    }

    /// Looks inside the body.
    fn read(self, body: Bytes) -> Result<Incoming, Outcome> {
        match self {
            Self::PolyAi { event_id, content_type, .. } => Ok(Incoming {
                event: Event::read(&body),
                id: event_id.unwrap_or_else(|| event::body_id(&body)),
                body,
                content_type,
            }),
            Self::TokenHolder => {
                let found = trigger::read(&body).map_err(Outcome::NoConversation)?;
                let (event, body) = trigger::event(&found);
                let content_type = JSON.to_owned();
                Ok(Incoming { event, id: found.id(), body: body.into(), content_type })
            }
        }
    }
}

/// A delivery whose sender is verified, ready to be published.
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
    /// True for a request to the trigger.
    pub(super) is_trigger: bool,
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
    /// Reads the body, verifies the signature over its raw bytes if there must be one, and only then looks inside.
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
        head.sender.verify(receiver, &body, now)?;
        // Nothing before this line has looked inside the body.
        Self::parse(receiver, head, body, memory, timing, now)
    }

    fn parse(
        receiver: &Receiver,
        head: DeliveryHead,
        body: Bytes,
        memory: Charge,
        timing: Timing,
        now: Timestamp,
    ) -> Result<Self, Outcome> {
        let body_bytes = body.len();
        let is_trigger = matches!(head.sender, Sender::TokenHolder);
        let Incoming { id, event, body, content_type } = head.sender.read(body)?;
        let parent = head.traceparent.as_deref();
        let span = Span::delivery(&DeliverySpan {
            traceparent: parent,
            path: receiver.path_of(is_trigger),
            id: &id,
            kind: &event.kind,
            environment: &event.environment,
            read_at: now,
            read_time: timing.started.elapsed(),
        });
        let traceparent = span.traceparent().unwrap_or_else(|| continue_trace(parent));
        let trace_id =
            Traceparent::parse(&traceparent).map_or_else(String::new, |trace| trace.trace_id.to_owned());
        let message = Message {
            dedup: DedupKey::new(&id, &body),
            kind: event.kind.clone(),
            environment: event.environment.clone(),
            conversation_id: event.conversation_id.clone(),
            received_at: now,
            traceparent: Some(traceparent),
            content_type,
            body,
            id: id.clone(),
        };
        let info = DeliveryInfo { message_id: id, event, body_bytes, trace_id, span, is_trigger };
        Ok(Self { message, info, _memory: memory })
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
    given.filter(|given| (1..=MAX_CONTENT_TYPE_BYTES).contains(&given.len())).unwrap_or(JSON).to_owned()
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
