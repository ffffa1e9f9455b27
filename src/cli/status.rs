//! `polyhook status`: shows what waits, what runs and what failed.
//!
//! [`crate::status`] gathers the facts. Like `tail`, the command only looks.

mod screen;

use std::time::Duration;

use console::Term;

use super::{CliError, GlobalArgs, output, time_arg};
use crate::{
    app,
    clock::Clock,
    config::Roles,
    lifecycle::Lifecycle,
    status::{StatusReader, StatusReport},
};

/// The shortest interval of `--watch`.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook status
  polyhook status --watch
  polyhook status --json | jq .queue.dead_letters

It only reads. If a part cannot be read, its line says why, the others are shown, and \
the exit code is 1. On RabbitMQ, counts are up to 5 s old, delayed jobs are those in \
the queues of the configured and the default delays, and the process at admin.listen \
reports the jobs in flight and the age of the oldest job.")]
pub(super) struct Args {
    /// Show it again and again until Ctrl-C; without a terminal, one line each time
    #[arg(long)]
    watch: bool,
    /// Time between two reports of --watch
    #[arg(long, value_name = "DURATION", default_value = "2s", requires = "watch", value_parser = time_arg::parse_duration)]
    interval: Duration,
    /// Print one JSON object; with --watch, one per line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::NONE)?;
    let reader = app::open_status_reader(&config, Clock::System)?;
    if !args.watch {
        let report = reader.read().await;
        reader.close().await;
        if args.json {
            output::json(&report);
        } else {
            print_screen(&report);
        }
        return if report.complete { Ok(()) } else { Err(CliError::AlreadyReported) };
    }
    let lifecycle = Lifecycle::new();
    lifecycle.install_signal_handlers();
    // A signal is the normal end of this command.
    tokio::select! {
        () = watch(&reader, &args) => {}
        _ = lifecycle.run_until_shutdown() => {}
    }
    reader.close().await;
    Ok(())
}

/// Shows reports until the reader of the output has closed it.
async fn watch(reader: &StatusReader, args: &Args) {
    let mut ticks = tokio::time::interval(args.interval.max(MIN_INTERVAL));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let terminal = Term::stdout();
    loop {
        ticks.tick().await;
        let report = reader.read().await;
        let written = if args.json {
            output::try_json(&report)
        } else if terminal.is_term() {
            let cleared = terminal.clear_screen().is_ok();
            print_screen(&report);
            cleared
        } else {
            output::try_line(screen::one_line(&report))
        };
        if !written {
            return;
        }
    }
}

fn print_screen(report: &StatusReport) {
    let width = output::terminal_width().unwrap_or(screen::MAX_WIDTH);
    for line in screen::lines(report, width) {
        output::line(line.styled());
    }
}
