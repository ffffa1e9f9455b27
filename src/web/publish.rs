//! Publishes a verified delivery and waits until the queue reports it durable.

use tokio::time::{Instant, timeout_at};

use super::{
    Receiver,
    delivery::{DeliveryInfo, VerifiedDelivery},
    outcome::Outcome,
};
use crate::queue::Published;

impl VerifiedDelivery {
    /// Publishes the delivery, unless `server.max_in_flight` others wait for the queue. Waits until `deadline` at most.
    pub(super) async fn publish(mut self, receiver: &Receiver, deadline: Instant) -> (Outcome, DeliveryInfo) {
        let Ok(_permit) = receiver.inner.in_flight.try_acquire() else {
            return (Outcome::Overloaded, self.info);
        };
        let message = &self.message;
        let span = self.info.span.publish(&message.id, || message.routing_key(), message.body.len());
        if let Some(traceparent) = span.traceparent() {
            self.message.traceparent = Some(traceparent);
        }
        let started = Instant::now();
        let published = timeout_at(deadline, receiver.inner.queue.publish(self.message)).await;
        receiver.inner.metrics().publish_seconds.record(started.elapsed().as_secs_f64());
        let outcome = match published {
            Ok(Ok(Published::New)) => Outcome::Accepted,
            Ok(Ok(Published::Duplicate)) => Outcome::Duplicate,
            Ok(Err(error)) => {
                span.set_error(error.label());
                Outcome::NotDurable(error)
            }
            Err(_elapsed) => Outcome::Late,
        };
        (outcome, self.info)
    }
}
