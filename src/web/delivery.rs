//! The extractor: from a request to a delivery that is proved to be PolyAI's.

use std::sync::Arc;

use axum::extract::{FromRequest, Request};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    Receiver,
    answer::{About, Outcome, Timing},
};
use crate::{
    event::{self, DedupKey, Event},
    queue::Message,
    signature::{EVENT_ID_HEADER, SIGNATURE_HEADER, SignatureError, SignedForm, TIMESTAMP_HEADER},
    telemetry::trace::{Arrival, Span, Traceparent},
};

const TRACEPARENT: &str = "traceparent";
/// What a body is charged for at a time.
const BUDGET_STEP_BYTES: usize = 16 << 10;

/// A genuine delivery, read and ready to be published.
#[derive(Debug)]
pub(super) struct SignedDelivery {
    pub(super) message: Message,
    pub(super) about: About,
    pub(super) deadline: Instant,
    /// Gives the body's bytes back to the budget when the delivery is over.
    pub(super) _held: Vec<OwnedSemaphorePermit>,
}

impl FromRequest<Receiver> for SignedDelivery {
    type Rejection = Outcome;

    async fn from_request(request: Request, receiver: &Receiver) -> Result<Self, Outcome> {
        let receiver = &receiver.inner;
        let Timing { started, deadline } = request.extensions().get().copied().unwrap_or_else(|| {
            let started = Instant::now();
            Timing { started, deadline: started + receiver.ack_budget }
        });
        let (head, body) = request.into_parts();
        if content_length(&head.headers).is_some_and(|length| length > receiver.body_limit as u64) {
            return Err(Outcome::TooLarge);
        }
        // A quarter of the budget is kept for making it durable.
        let read_by = deadline - receiver.ack_budget / 4;
        let mut charged = Vec::new();
        let body = timeout_at(read_by, read(body, receiver.body_limit, &receiver.body_budget, &mut charged))
            .await
            .unwrap_or(Err(Outcome::SlowBody))?;

        let now = receiver.clock.now();
        // Several timestamps are none. The body form does not sign one, so they must not cost such an event.
        let timestamp = single(&head.headers, TIMESTAMP_HEADER).unwrap_or(Some(b""));
        let signature = single(&head.headers, SIGNATURE_HEADER)
            .map_err(|()| Outcome::Unverified(SignatureError::SignatureMalformed))?;
        let secrets = receiver.secrets.in_force();
        match secrets.verifier.verify(signature, timestamp, &body, now) {
            Ok(genuine) if genuine.form == SignedForm::Timestamped => receiver.skew.accepted(),
            Ok(_) => {}
            Err(rejection @ SignatureError::Mismatch) if secrets.asks_again(now) => {
                return Err(Outcome::UnverifiedRetry(rejection));
            }
            Err(rejection) => {
                if let SignatureError::Stale { skew_s } = rejection {
                    receiver.skew.stale(signature.unwrap_or_default(), skew_s, now);
                }
                return Err(Outcome::Unverified(rejection));
            }
        }

        // Nothing before this line has looked inside the body.
        let event = Event::read(&body);
        let id = event::message_id(head.headers.get(EVENT_ID_HEADER).map(HeaderValue::as_bytes), &body);
        let given = head.headers.get(TRACEPARENT).and_then(|value| value.to_str().ok());
        let span = Span::delivery(&Arrival {
            traceparent: given,
            path: head.uri.path(),
            id: &id,
            kind: &event.kind,
            environment: &event.environment,
            read_at: now,
            took: started.elapsed(),
        });
        let traceparent = span.traceparent().unwrap_or_else(|| continued(given));
        let trace_id =
            Traceparent::parse(&traceparent).map_or_else(String::new, |trace| trace.trace_id.to_owned());
        let message = Message {
            dedup: DedupKey::new(&id, &body),
            kind: event.kind.clone(),
            environment: event.environment.clone(),
            conversation_id: event.conversation_id.clone(),
            received_at: now,
            traceparent: Some(traceparent),
            content_type: content_type(&head.headers),
            body: body.clone(),
            id: id.clone(),
        };
        let about = About { message_id: id, event, body_bytes: body.len(), trace_id, span };
        Ok(Self { message, about, deadline, _held: charged })
    }
}

/// Reads a body of at most `limit` bytes, charging the budget as it grows: a client that announces much and
/// sends little costs little.
async fn read(
    mut body: axum::body::Body,
    limit: usize,
    budget: &Arc<Semaphore>,
    held: &mut Vec<OwnedSemaphorePermit>,
) -> Result<Bytes, Outcome> {
    let mut bytes = BytesMut::new();
    let mut charged = 0;
    while let Some(frame) = body.frame().await {
        let Ok(part) = frame.map_err(|_| Outcome::BrokenBody)?.into_data() else { continue };
        let length = bytes.len() + part.len();
        if length > limit {
            return Err(Outcome::TooLarge);
        }
        while charged < length {
            let kib = u32::try_from(BUDGET_STEP_BYTES / 1024).unwrap_or(u32::MAX);
            held.push(Arc::clone(budget).try_acquire_many_owned(kib).map_err(|_| Outcome::Overloaded)?);
            charged += BUDGET_STEP_BYTES;
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.freeze())
}

/// A header that may stand there once; twice is no way to sign anything.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a [u8]>, ()> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(HeaderValue::as_bytes);
    if values.next().is_some() { Err(()) } else { Ok(first) }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// An AMQP short string holds 255 bytes.
fn content_type(headers: &HeaderMap) -> String {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    given.filter(|given| (1..=255).contains(&given.len())).unwrap_or("application/json").to_owned()
}

/// The sender's trace continued with a span of ours, or a new one: for those who follow a call without spans.
fn continued(given: Option<&str>) -> String {
    let span = fastrand::u64(1..);
    match given.and_then(Traceparent::parse) {
        Some(parent) => format!("00-{}-{span:016x}-01", parent.trace_id),
        None => format!("00-{}-{span:016x}-01", uuid::Uuid::new_v4().simple()),
    }
}
