//! `polyhook reconcile`: look for what no webhook has brought, as a service of its own or once.

use std::sync::Arc;

use serde_json::json;

use super::{
    CliError, GlobalArgs, output,
    queue_access::{wait_until_ready, with_queue},
    serve,
};
use crate::{app, clock::Clock, config::Roles, health::Health};

/// Compare what PolyAI has with the archive, and queue what is missing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook reconcile                  as a service, every reconcile.every
  polyhook reconcile --once --json    one pass over reconcile.lookback, now

`run` and `work` do the same unless reconcile.every is 0s; of all processes that share an archive one
does it at a time. What is queued is fetched by a worker. For a longer time use `polyhook backfill`.")]
pub(super) struct Args {
    /// One pass, then end; exit code 1 if a project could not be compared
    #[arg(long)]
    once: bool,
    /// With --once: one JSON object instead of text
    #[arg(long, requires = "once")]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    if !args.once {
        return serve::run(global, Roles::RECONCILE).await;
    }
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let resources = app::Resources::open(&config, &clock)?;
    let result = with_queue(&config, Roles::RECONCILE, clock.clone(), async |queue, _| {
        wait_until_ready(&**queue).await?;
        let service = resources.reconciliation(&config, Arc::clone(queue), clock, Health::default());
        Ok(service.run_once().await)
    });
    match result.await? {
        Ok(tally) if args.json => output::json(&tally),
        Ok(tally) => output::line(super::backfill::told(&tally, false)),
        Err(failures) => {
            if args.json {
                output::json(&json!({ "failures": failures }));
            }
            return Err(CliError::Failed(failures.join("\n")));
        }
    }
    Ok(())
}
