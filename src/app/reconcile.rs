//! Starts reconciliation.

use std::sync::Arc;

use super::{Context, Resources};
use crate::config::{Config, Roles};

/// Returns true if reconciliation runs in this process. `reconcile.every = 0s` turns it off, except for
/// `polyhook reconcile`, which has nothing else to do.
pub(super) fn is_enabled(config: &Config, roles: Roles) -> bool {
    roles.reconcile && (!config.reconcile.every.is_zero() || roles == Roles::RECONCILE)
}

pub(super) fn start(context: &Context<'_>, resources: &Resources) {
    let Context { config, queue, clock, health, lifecycle } = context;
    let service = resources.reconciliation(config, Arc::clone(queue), clock.clone(), health.clone());
    lifecycle.spawn_service("reconcile", service.run(lifecycle.clone()));
    tracing::info!(
        every_s = config.reconcile.every.as_secs(),
        lookback_s = config.reconcile.lookback.as_secs(),
        "looking for conversations that no webhook announced"
    );
}
