//! Finds out the accounts of the projects that name none, while the receiver already runs.

use std::time::Duration;

use super::Context;
use crate::{
    config::Config,
    polyai::{self, AccountError},
};

const CONDITION: &str = "account";
/// The time between the first two attempts. Each further one is twice as long.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest time between two attempts. The first call of a project is archived within a minute.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(30);

/// Returns whether a project names no account.
pub(super) fn is_unknown(config: &Config) -> bool {
    config.projects.iter().any(polyai::ProjectConfig::needs_account)
}

/// Asks for all accounts once and returns a configuration that names them.
pub(super) async fn find(config: &Config, clock: &crate::clock::Clock) -> Result<Config, AccountError> {
    let mut config = config.clone();
    for project in config.projects.iter_mut().filter(|project| project.needs_account()) {
        project.account_id = polyai::find_account(&config.polyai, project, clock.clone()).await?;
        tracing::info!(
            project.id = project.project_id,
            account.id = project.account_id,
            "the account is not configured and was read from a conversation"
        );
    }
    Ok(config)
}

/// Asks until all accounts are known and returns a configuration that names them, or `None` if the process drains first.
pub(super) async fn wait_for(context: &Context<'_>) -> Option<Config> {
    let Context { config, clock, health, lifecycle, .. } = context;
    let draining = lifecycle.draining();
    let found = async {
        let mut delay = FIRST_RETRY_DELAY;
        loop {
            match find(config, clock).await {
                Ok(found) => break found,
                Err(error) => {
                    health.set_degraded(CONDITION, format!("{error}. Until then nothing is fetched"));
                }
            }
            tokio::time::sleep(delay).await;
            delay = MAX_RETRY_DELAY.min(2 * delay);
        }
    };
    tokio::select! {
        () = draining.cancelled() => None,
        found = found => {
            health.clear(CONDITION);
            Some(found)
        }
    }
}
