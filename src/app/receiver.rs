//! Starts the receiver and its public listener.

use std::sync::Arc;

use super::{BoundListener, Context};
use crate::web::{self, Receiver};

pub(super) fn start(context: &Context<'_>, bound: BoundListener) -> Receiver {
    let Context { config, queue, clock, health, lifecycle } = context;
    let queue = Arc::clone(queue);
    let receiver = Receiver::new(&config.server, &config.signature, queue, clock.clone(), health, lifecycle);
    let serve =
        web::serve("public", bound.listener, receiver.clone(), config.server.ack_budget, lifecycle.clone());
    lifecycle.spawn_service("receiver", serve);
    tracing::info!(address = %bound.address, path = config.server.path, "receiving deliveries");
    receiver
}
