//! `polyhook reconcile`: queues the conversations that PolyAI lists but the archive lacks, as a service or once.

use std::sync::Arc;

use super::{
    CliError, GlobalArgs, output,
    queue_access::{wait_until_ready, with_queue},
    serve,
};
use crate::{app, clock::Clock, config::Roles, health::Health, reconcile::Scope};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook reconcile                  run as a service, every reconcile.every
  polyhook reconcile --once --json    run one pass over reconcile.lookback now

`run` and `work` also reconcile, unless reconcile.every is 0s. Of all processes that \
share an archive, one reconciles at a time. A worker fetches what is queued. For a \
longer period use `polyhook backfill`. A pass also updates the index, unless \
index.enabled is false.")]
pub(super) struct Args {
    /// Run one pass and exit; exit code 1 if something could not be compared
    #[arg(long)]
    once: bool,
    /// Print the result as one JSON object (with --once)
    #[arg(long, requires = "once")]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    if !args.once {
        return serve::run(global, Roles::RECONCILE).await;
    }
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let resources = app::Resources::open_for_command(&config, &clock).await?;
    let result = with_queue(&config, Roles::RECONCILE, clock.clone(), async |queue, _| {
        wait_until_ready(&**queue).await?;
        let service = resources.reconciliation(&config, Arc::clone(queue), clock, Health::default());
        Ok(service.run_once(Scope::Lookback).await)
    });
    let report = result.await?.map_err(CliError::Failed)?;
    let index_failures = if config.index.enabled {
        let service = resources.index_service(&config, Health::default());
        service.run_once().await.map_or_else(|error| vec![error], |report| report.failures)
    } else {
        Vec::new()
    };
    if args.json {
        output::json(&report);
    } else {
        output::line(super::backfill::summary_text(&report.summary, false));
    }
    let failures = [report.failures, index_failures].concat();
    if failures.is_empty() { Ok(()) } else { Err(CliError::Failed(failures.join("\n"))) }
}
