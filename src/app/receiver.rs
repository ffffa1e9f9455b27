//! Starts the receiver and its public listener.

use std::sync::Arc;

use super::{BoundListener, Context};
use crate::{
    config::Roles,
    web::{self, Receiver, ReceiverConfig},
};

pub(super) fn start(context: &Context<'_>, roles: Roles, bound: BoundListener) -> Receiver {
    let Context { config, queue, clock, health, lifecycle } = context;
    let queue = Arc::clone(queue);
    let sections =
        ReceiverConfig { server: &config.server, signature: &config.signature, trigger: &config.trigger };
    let receiver = Receiver::new(sections, queue, clock.clone(), health, lifecycle);
    let limits = config.server.connection_limits(open_files_limit());
    let service = receiver.clone();
    let serve = web::serve("public", bound.listener, move |_| service.clone(), limits, lifecycle.clone());
    lifecycle.spawn_service("receiver", serve);
    tracing::info!(address = %bound.address, path = config.server.path, "receiving deliveries");
    if config.trigger.is_on() {
        tracing::info!(path = config.trigger.path, "the trigger is on");
    }
    if config.works_without_webhook(roles) {
        tracing::warn!(
            "no signing secret is configured: signed deliveries are answered 503, and conversations are found by \
             reconciliation and the trigger alone; set POLYAI_WEBHOOK_SECRET (or signature.secrets_file) if you register a webhook endpoint"
        );
    }
    receiver
}

/// Returns the limit of open files of this process.
fn open_files_limit() -> u64 {
    rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX)
}
