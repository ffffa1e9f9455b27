//! Answers every request of the public listener: in time, and with one log line and one count.
//!
//! [`answer`] is the one place where the result of a request becomes a response, a span, a metric and a log line.

use std::{panic::AssertUnwindSafe, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version, header, request::Parts};
use http_body_util::Full;
use hyper::body::Body;
use metrics::{counter, histogram};

use super::{
    Receiver,
    delivery::{DeliveryHead, DeliveryInfo, VerifiedDelivery},
    discard::discard_body,
    outcome::Outcome,
    timing::Timing,
};

/// Bytes of a conversation id that are logged. Ids of PolyAI are far shorter, but the body decides how long one is.
const MAX_LOGGED_ID_BYTES: usize = 128;

/// Bytes of an `X-Request-Id` that is used.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// The result of a request.
struct Handled {
    outcome: Outcome,
    /// Only if the delivery is verified.
    delivery: Option<DeliveryInfo>,
    /// False if the connection cannot be used again, because the rest of the body is not read.
    keeps_connection: bool,
}

impl From<Outcome> for Handled {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, delivery: None, keeps_connection: true }
    }
}

/// Answers one request. Runs to its end whatever the client does, so it must be a task of its own.
pub(super) async fn answer<B>(receiver: Receiver, request: Request<B>) -> Response<Full<Bytes>>
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    let timing = Timing::start(receiver.inner.ack_budget);
    let version = request.version();
    let request_id = request_id(request.headers());

    // A panic is a bug of ours and the delivery is not durable, so PolyAI should send it again.
    let handled = AssertUnwindSafe(handle(&receiver, request, timing)).catch_unwind().await;
    let Handled { outcome, delivery, keeps_connection } =
        handled.unwrap_or_else(|_panic| Outcome::Panicked.into());

    let elapsed = timing.started.elapsed();
    count(&outcome, elapsed);
    if let Some(delivery) = &delivery {
        delivery.finish_span(&outcome);
    }
    log(&outcome, delivery.as_ref(), &request_id, elapsed);
    outcome.response(version, keeps_connection)
}

/// Verifies a delivery, then publishes it. Anything else than a delivery is refused. Each step that waits has a time
/// limit within the ack budget.
async fn handle<B>(receiver: &Receiver, request: Request<B>, timing: Timing) -> Handled
where
    B: Body<Data = Bytes, Error: Send> + Send + Unpin + 'static,
{
    let (parts, mut body) = request.into_parts();
    let version = parts.version;
    let (extracted, waits_for_100) = match read_head(receiver, &parts) {
        Ok(head) => {
            // Headers may take far more memory than they have bytes, and the body may take its time.
            drop(parts);
            (VerifiedDelivery::extract(receiver, head, &mut body, timing).await, false)
        }
        Err(outcome) => (Err(outcome), parts.headers.contains_key(header::EXPECT)),
    };
    match extracted {
        Ok(delivery) => {
            let (outcome, info) = delivery.publish(receiver, timing.deadline).await;
            Handled { outcome, delivery: Some(info), keeps_connection: true }
        }
        Err(outcome) => {
            let keeps_connection = version == Version::HTTP_2
                || !waits_for_100 && discard_body(receiver, body, timing.read_deadline());
            Handled { outcome, delivery: None, keeps_connection }
        }
    }
}

/// Reads everything before the body. Returns an error if no body could make the request a delivery.
fn read_head(receiver: &Receiver, parts: &Parts) -> Result<DeliveryHead, Outcome> {
    if !receiver.is_endpoint(parts.uri.path()) {
        return Err(Outcome::NotFound);
    }
    if parts.method != Method::POST {
        return Err(Outcome::MethodNotAllowed);
    }
    DeliveryHead::read(receiver, &parts.headers)
}

/// Returns the `X-Request-Id` that the ingress set, if a log line can carry it, or a new id.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").map(HeaderValue::as_bytes);
    given
        .filter(|id| (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic))
        .and_then(|id| String::from_utf8(id.to_vec()).ok())
        .unwrap_or_else(|| uuid::Uuid::now_v7().to_string())
}

fn count(outcome: &Outcome, elapsed: Duration) {
    counter!("polyhook_deliveries_total", "outcome" => outcome.label()).increment(1);
    if let Some(error) = outcome.signature_error() {
        counter!("polyhook_unverified_total", "reason" => error.label()).increment(1);
    }
    histogram!("polyhook_ack_seconds").record(elapsed.as_secs_f64());
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
    if let Some(error) = outcome.signature_error() {
        tracing::warn!(
            outcome = label,
            status,
            request.id = request_id,
            reason = error.label(),
            elapsed_ms,
            "delivery refused: {error}"
        );
    } else if matches!(outcome, Outcome::NotFound | Outcome::MethodNotAllowed) {
        tracing::debug!(outcome = label, status, request.id = request_id, elapsed_ms, "not a delivery");
    } else {
        tracing::warn!(outcome = label, status, request.id = request_id, elapsed_ms, "delivery not accepted");
    }
}

fn log_verified(outcome: &Outcome, delivery: &DeliveryInfo, request_id: &str, elapsed_ms: u64) {
    let DeliveryInfo { message_id, event, body_bytes, trace_id, .. } = delivery;
    let status = outcome.status().as_u16();
    let conversation = event.conversation_id.as_deref().unwrap_or_default();
    let conversation = &conversation[..conversation.floor_char_boundary(MAX_LOGGED_ID_BYTES)];
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
        Outcome::Accepted | Outcome::Duplicate => log_delivery!(info, "delivery"),
        Outcome::NotDurable(error) => {
            log_delivery!(warn, %error, "delivery not accepted; PolyAI will send it again");
        }
        _ => log_delivery!(warn, "delivery not accepted; PolyAI will send it again"),
    }
}
