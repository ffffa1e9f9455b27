//! `polyhook run`, `receive` and `work`: the services.

use super::{CliError, GlobalArgs};
use crate::{
    app::App,
    clock::Clock,
    config::Roles,
    lifecycle::{HangupSignals, ShutdownOutcome},
    telemetry,
};

/// Open files asked for; and how few are worth a word.
const OPEN_FILES: u64 = 65_536;
const FEW_OPEN_FILES: u64 = 4096;

pub(super) async fn run(global: &GlobalArgs, roles: Roles) -> Result<(), CliError> {
    // Who sends it early, or where there is nothing to read again, must not end a service by it.
    let _caught = HangupSignals::install();
    let (config, _logs) = global.load_for_service(roles)?;
    raise_open_files();
    let _traces = telemetry::trace::init(&config.tracing, config.queue.messaging_names())?;
    let metrics = telemetry::init_metrics()?;
    let app = App::start(&config, roles, Some(metrics), Clock::System).await?;
    match app.run_until_shutdown().await {
        ShutdownOutcome::Drained => Ok(()),
        ShutdownOutcome::Aborted | ShutdownOutcome::Failed => Err(CliError::AlreadyReported),
    }
}

/// Each connection is an open file, and many systems allow 1024 unless a process asks for more.
fn raise_open_files() {
    match rlimit::increase_nofile_limit(OPEN_FILES) {
        Ok(limit) if limit < FEW_OPEN_FILES => tracing::warn!(
            limit,
            "few open files are allowed, so few connections at a time: raise the hard limit (ulimit -Hn, LimitNOFILE)"
        ),
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files could not be raised"),
    }
}
