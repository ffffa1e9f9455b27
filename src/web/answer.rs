//! Answers every request of the public listener: in time, and with one log line and one count.
//!
//! [`answer`] is the one place where the result of a request becomes a response, a span, a metric and a log line.

use std::{panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header, request::Parts};
use http_body_util::Full;
use hyper::body::Body;
use metrics::{Counter, Histogram, counter, histogram};

use super::{
    Receiver,
    delivery::{DeliveryHead, DeliveryInfo, VerifiedDelivery},
    discard::discard_body,
    outcome::Outcome,
    timing::Timing,
};
use crate::telemetry::PUBLISH_METRIC;

/// Bytes of a conversation id that are logged. Ids of PolyAI are far shorter, but the body decides how long one is.
const MAX_LOGGED_ID_BYTES: usize = 128;

/// Bytes of an `X-Request-Id` that is used.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The metrics of an accepted delivery. Looking them up for each delivery would cost as much as updating them.
#[derive(Debug)]
pub(super) struct DeliveryMetrics {
    accepted: Counter,
    ack_seconds: Histogram,
    pub(super) publish_seconds: Histogram,
}

impl DeliveryMetrics {
    /// Looks them up in the recorder, which must be installed.
    pub(super) fn new() -> Self {
        Self {
            accepted: counter!("polyhook_deliveries_total", "outcome" => Outcome::Accepted.label()),
            ack_seconds: histogram!("polyhook_ack_seconds"),
            publish_seconds: histogram!(PUBLISH_METRIC),
        }
    }
}

/// The result of a request, the information if the delivery is verified, and the body if it may not be read to its end.
type Handled<B> = (Outcome, Option<DeliveryInfo>, Option<B>);

/// Answers one request. The returned future runs to its end whatever the client does, so it must be a task of its own.
///
/// The headers may take far more memory than they have bytes, so what is needed of them is copied before this returns.
/// Otherwise requests that wait for their first turn would keep all of it.
pub(super) fn answer<B>(
    receiver: Receiver,
    request: Request<B>,
) -> impl Future<Output = Response<Full<Bytes>>> + Send + 'static
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    let timing = Timing::start(receiver.inner.ack_budget);
    let version = request.version();
    let (parts, body) = request.into_parts();
    let request_id = request_id(&parts.headers);
    let head = read_head(&receiver, &parts);
    // HTTP/2 resets a stream whose body is not needed. In HTTP/1.1, a client that waits for a 100 gets none.
    let discards_body = version != Version::HTTP_2;
    let waits_for_100 = discards_body && head.is_err() && parts.headers.contains_key(header::EXPECT);
    drop(parts);
    async move {
        // A panic is a bug of ours and the delivery is not durable, so PolyAI should send it again.
        let handled = AssertUnwindSafe(handle(&receiver, head, body, timing)).catch_unwind().await;
        let (outcome, delivery, body) = handled.unwrap_or((Outcome::Panicked, None, None));
        let keeps_connection = !waits_for_100
            && body
                .is_none_or(|body| !discards_body || discard_body(&receiver, body, timing.read_deadline()));

        let elapsed = timing.started.elapsed();
        count(receiver.inner.metrics(), &outcome, elapsed);
        if let Some(delivery) = &delivery {
            delivery.finish_span(&outcome);
        }
        log(&outcome, delivery.as_ref(), &request_id, elapsed);
        outcome.response(version, keeps_connection)
    }
}

/// Verifies a delivery, then publishes it. Each step that waits has a time limit within the ack budget. Returns the body if
/// its rest was not read.
async fn handle<B>(
    receiver: &Receiver,
    head: Result<DeliveryHead, Outcome>,
    mut body: B,
    timing: Timing,
) -> Handled<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    let head = match head {
        Ok(head) => head,
        Err(outcome) => return (outcome, None, Some(body)),
    };
    match VerifiedDelivery::extract(receiver, head, &mut body, timing).await {
        Ok(delivery) => {
            let (outcome, info) = delivery.publish(receiver, timing.deadline).await;
            (outcome, Some(info), None)
        }
        Err(outcome) => (outcome, None, Some(body)),
    }
}

/// Reads everything before the body. Returns an error if no body could make the request a delivery.
fn read_head(receiver: &Receiver, parts: &Parts) -> Result<DeliveryHead, Outcome> {
    let endpoint = receiver.endpoint(parts.uri.path()).ok_or(Outcome::NotFound)?;
    if parts.method != Method::POST {
        return Err(Outcome::MethodNotAllowed);
    }
    DeliveryHead::read(receiver, endpoint, &parts.headers)
}

/// Returns the `X-Request-Id` that the ingress set, if a log line can carry it, or a new id.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").map(HeaderValue::as_bytes);
    given
        .filter(|id| (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic))
        .and_then(|id| String::from_utf8(id.to_vec()).ok())
        .unwrap_or_else(|| uuid::Uuid::now_v7().to_string())
}

fn count(metrics: &DeliveryMetrics, outcome: &Outcome, elapsed: Duration) {
    match outcome {
        Outcome::Accepted => metrics.accepted.increment(1),
        _ => counter!("polyhook_deliveries_total", "outcome" => outcome.label()).increment(1),
    }
    if let Some((reason, _)) = outcome.refusal() {
        counter!("polyhook_unverified_total", "reason" => reason).increment(1);
    }
    metrics.ack_seconds.record(elapsed.as_secs_f64());
}

/// Writes one line. It never contains the signature or the body.
fn log(outcome: &Outcome, delivery: Option<&DeliveryInfo>, request_id: &str, elapsed: Duration) {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    match delivery {
        Some(delivery) => log_verified(outcome, delivery, request_id, elapsed_ms),
        None => log_unverified(outcome, request_id, elapsed_ms),
    }
}

fn log_unverified(outcome: &Outcome, request_id: &str, elapsed_ms: u64) {
    let status = outcome.status().as_u16();
    let label = outcome.label();
    if let Some((reason, error)) = outcome.refusal() {
        tracing::warn!(
            outcome = label,
            status,
            request.id = request_id,
            reason,
            elapsed_ms,
            "delivery refused: {error}"
        );
    } else if matches!(outcome, Outcome::NotFound | Outcome::MethodNotAllowed) {
        tracing::debug!(
            outcome = label,
            status,
            request.id = request_id,
            elapsed_ms,
            "a request that is not a delivery was answered {status}"
        );
    } else if matches!(outcome, Outcome::NoConversation(_)) {
        let text = "a request to the trigger names no conversation";
        tracing::warn!(outcome = label, status, request.id = request_id, elapsed_ms, "{text}");
    } else {
        tracing::warn!(
            outcome = label,
            status,
            request.id = request_id,
            elapsed_ms,
            "delivery not accepted: {}",
            outcome.cause()
        );
    }
}

fn log_verified(outcome: &Outcome, delivery: &DeliveryInfo, request_id: &str, elapsed_ms: u64) {
    let DeliveryInfo { message_id, event, body_bytes, trace_id, .. } = delivery;
    let status = outcome.status().as_u16();
    let conversation =
        event.conversation_id.as_deref().map(|id| &id[..id.floor_char_boundary(MAX_LOGGED_ID_BYTES)]);
    let again = if delivery.is_trigger {
        "its sender may send it again, and reconciliation finds the conversation"
    } else {
        "PolyAI will send it again"
    };
    // A macro, because `tracing` needs the level at compile time.
    macro_rules! log_delivery {
        ($level:ident, $($rest:tt)*) => {
            tracing::$level!(
                outcome = outcome.label(), status, elapsed_ms, body_bytes, trace_id,
                request.id = request_id,
                event.id = message_id,
                event.type = event.kind,
                event.environment = event.environment,
                conversation.id = conversation,
                $($rest)*
            )
        };
    }
    match outcome {
        Outcome::Accepted => log_delivery!(info, "delivery stored durably"),
        Outcome::Duplicate => {
            log_delivery!(info, "delivery known already: it is durable, and this is a duplicate");
        }
        Outcome::NotDurable(error) => {
            log_delivery!(warn, %error, "delivery not accepted: {error}; {again}");
        }
        _ => log_delivery!(warn, "delivery not accepted: {}; {again}", outcome.cause()),
    }
}
