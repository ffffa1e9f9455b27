//! Starts the service that keeps the index current.

use super::{Context, Resources};
use crate::config::{Config, Roles};

/// Returns true if this process keeps the index current: one that reconciles does, whatever the interval of that.
pub(super) fn is_enabled(config: &Config, roles: Roles) -> bool {
    roles.reconcile && config.index.enabled
}

pub(super) fn start(context: &Context<'_>, resources: &Resources) {
    let Context { config, health, lifecycle, .. } = context;
    let service = resources.index_service(config, health.clone());
    lifecycle.spawn_service("index", service.run(lifecycle.clone()));
    tracing::info!(every_s = config.index.every.as_secs(), "keeping the index of the archive current");
}
