//! The handler: enqueues, and answers when the queue says "durable".

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use metrics::histogram;
use tokio::time::{Instant, timeout_at};

use super::{Receiver, answer::Outcome, delivery::SignedDelivery};
use crate::queue::Published;

/// `POST {path}`
pub(super) async fn ingest(State(receiver): State<Receiver>, delivery: SignedDelivery) -> Response {
    let SignedDelivery { mut message, about, deadline, _held } = delivery;
    let outcome = match receiver.inner.in_flight.try_acquire() {
        Err(_) => Outcome::Overloaded,
        Ok(_permit) => {
            let span = about.span.publish(&message.id, || message.routing_key(), message.body.len());
            if let Some(traceparent) = span.traceparent() {
                message.traceparent = Some(traceparent);
            }
            let started = Instant::now();
            let published = timeout_at(deadline, receiver.inner.queue.publish(message)).await;
            histogram!("polyhook_publish_seconds").record(started.elapsed().as_secs_f64());
            if let Ok(Err(error)) = &published {
                span.set_error(error.label());
            }
            match published {
                Ok(Ok(Published::New)) => Outcome::Accepted,
                Ok(Ok(Published::Duplicate)) => Outcome::Duplicate,
                Ok(Err(error)) => Outcome::NotDurable(error),
                Err(_) => Outcome::Late,
            }
        }
    };
    let mut response = outcome.into_response();
    response.extensions_mut().insert(about);
    response
}
