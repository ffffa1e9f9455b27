//! `polyhook reconcile`: look for what no webhook has brought, as a service of its own or once.

use serde_json::json;

use super::{CliError, Global, output, serve};
use crate::{app, clock::Clock, config::Roles, health::Health, lifecycle::Lifecycle};

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

pub(super) async fn run(global: &Global, args: Args) -> Result<(), CliError> {
    if !args.once {
        return serve::run(global, Roles::RECONCILE).await;
    }
    let config = global.start_quietly(Roles::RECONCILE)?;
    let (life, clock, health) = (Lifecycle::new(), Clock::System, Health::default());
    let ends = app::Ends::open(&config, &clock)?;
    let queue = app::open_queue(&config, Roles::RECONCILE, clock.clone(), &health, &life)?.queue;
    let passed = async {
        super::wait_for(&*queue).await?;
        let service = ends.reconciliation(&config, std::sync::Arc::clone(&queue), clock, health);
        Ok::<_, CliError>(service.run_once().await)
    };
    let passed = passed.await;
    life.drain();
    queue.close().await;
    life.wait().await;
    match passed? {
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
