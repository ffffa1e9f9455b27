//! `polyhook run`, `receive` and `work`: the services.

use super::{CliError, Global};
use crate::{
    app::App,
    clock::Clock,
    config::Roles,
    lifecycle::{Ending, Hangups},
    telemetry,
};

pub(super) async fn run(global: &Global, roles: Roles) -> Result<(), CliError> {
    // Who sends it early, or where there is nothing to read again, must not end a service by it.
    let _caught = Hangups::catch();
    let config = global.start(roles)?;
    let metrics = telemetry::init_metrics()?;
    let app = App::start(&config, roles, Some(metrics), Clock::System).await?;
    match app.run_to_end().await {
        Ending::Drained => Ok(()),
        Ending::Aborted | Ending::Failed => Err(CliError::Said),
    }
}
