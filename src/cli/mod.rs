//! The command line.
//!
//! Each subcommand is one file (or folder) with its `Args` and its `run`. To add one, write the file and add its `mod`,
//! a variant of `Command`, an arm of `Command::run` and a name in `help::GROUPS`. Results go to standard output; logs, progress and errors go to
//! standard error.
//! Scripts depend on the exit codes: see [`ExitStatus`].

mod audit;
mod backfill;
mod completions;
mod config;
mod dead;
mod demo;
mod doctor;
mod endpoint;
mod erase;
mod error;
mod event_line;
mod fetch;
mod global_args;
mod healthcheck;
mod help;
mod index;
mod list;
mod live_events;
mod man;
pub mod output;
mod progress;
mod prompt;
mod queue;
mod queue_access;
mod reconcile;
mod role;
mod send;
mod serve;
mod show;
mod simulate;
mod spool;
mod status;
mod table;
mod tail;
mod time_arg;
mod verify;

use std::{ffi::OsString, io, panic, process::ExitCode, time::Duration};

use clap::{
    FromArgMatches, Parser, Subcommand,
    error::{ContextKind, ContextValue},
};
use tokio::runtime::{self, Runtime};

pub use self::error::{CliError, ExitStatus};
use self::global_args::GlobalArgs;
use crate::config::Roles;

/// A blocking call that hangs, for example on a disk that does not answer, delays the exit no longer than this.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// Archive PolyAI conversations: receive signed webhooks, store them durably before answering, fetch each
/// conversation with its audio and announce it to your systems.
#[derive(Debug, Parser)]
#[command(
    name = "polyhook",
    version,
    propagate_version = true,
    disable_help_flag = true,
    disable_version_flag = true,
    max_term_width = 80,
    after_help = EXAMPLES
)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  polyhook demo                                 try it without configuration
  polyhook config check --config polyhook.toml  find configuration errors
  polyhook run --config polyhook.toml           run receiver and worker
  polyhook status                               what waits, runs and failed
  polyhook tail                                 follow what happens
  polyhook fetch CA0123456789abcdef             archive one conversation now
  polyhook backfill --last 7d                   archive past conversations
  polyhook dead list                            show failed jobs with reasons

Exit codes: 0 success, 1 failure, 2 wrong usage, 78 wrong configuration";

/// The subcommands, in the order of `polyhook --help`.
#[derive(Debug, Subcommand)]
enum Command {
    /// Try everything with a simulated PolyAI; needs no configuration
    Demo(demo::Args),
    /// Run receiver, worker and reconciliation in one process
    #[command(after_help = "\
Examples:
  polyhook run --config polyhook.toml
  polyhook run --config polyhook.toml --set log.format=json")]
    Run,
    /// Run the receiver: verify webhook deliveries and store them
    #[command(after_help = "\
Examples:
  polyhook receive --config polyhook.toml
  polyhook receive --config polyhook.toml --set server.listen=0.0.0.0:9000")]
    Receive,
    /// Run the worker and reconciliation: fetch, archive and announce
    #[command(after_help = "\
Examples:
  polyhook work --config polyhook.toml
  polyhook work --config polyhook.toml --set worker.concurrency=32")]
    Work,
    /// Queue conversations that PolyAI lists but the archive lacks
    Reconcile(reconcile::Args),
    /// Serve the pages on which people see and hear conversations
    #[command(after_help = "\
Examples:
  polyhook console --config polyhook.toml
  polyhook console --config polyhook.toml --set console.listen=127.0.0.1:9000

Open http://127.0.0.1:8090. It reads the queue and the archive of the service that \
runs with the same configuration. `run` serves the console, too, if console.enabled \
is true.")]
    Console,
    /// Show what waits, what runs and what failed, on one screen
    Status(status::Args),
    /// Follow deliveries and jobs, one line per event
    Tail(tail::Args),
    /// List the conversations of a day in the archive
    List(list::Args),
    /// Show what the archive has of a conversation
    Show(show::Args),
    /// Fetch conversations by ID and archive them now
    Fetch(fetch::Args),
    /// Queue the conversations of a past period that the archive lacks
    Backfill(backfill::Args),
    /// Compare one day of PolyAI's conversations with the archive
    Audit(audit::Args),
    /// Build or verify the tables of calls and turns for analysts
    #[command(subcommand)]
    Index(index::Command),
    /// Erase conversations from archive, queue and spool permanently
    Erase(erase::Args),
    /// List, show, replay or drop dead letters (failed jobs)
    #[command(subcommand)]
    Dead(dead::Command),
    /// Manage the webhook endpoints registered with PolyAI
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Inspect or drain the deliveries stored while RabbitMQ was away
    #[command(subcommand)]
    Spool(spool::Command),
    /// Move the jobs of an embedded queue to RabbitMQ
    #[command(subcommand)]
    Queue(queue::Command),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Check everything that polyhook depends on and suggest fixes
    Doctor(doctor::Args),
    /// Check whether a running polyhook is ready
    Healthcheck(healthcheck::Args),
    /// Explain why a signature is valid or invalid
    Verify(verify::Args),
    /// Send signed test deliveries
    Send(send::Args),
    /// Run a simulated PolyAI: its APIs and signed webhook deliveries
    Simulate(simulate::Args),
    /// Print shell completions
    Completions(completions::Args),
    /// Print the manual page, or write one page per command
    Man(man::Args),
}

impl Command {
    /// Builds the runtime of the command.
    ///
    /// A receiver has one thread. It does nothing that takes long, and with more threads each delivery would be handed
    /// from one to another: waking a thread costs more than the delivery itself. Receivers multiply behind the ingress.
    fn runtime(&self) -> io::Result<Runtime> {
        let mut builder = runtime::Builder::new_multi_thread();
        if matches!(self, Self::Receive) {
            builder.worker_threads(1);
        }
        builder.enable_all().build()
    }

    async fn run(self, global: &GlobalArgs) -> Result<(), CliError> {
        match self {
            Self::Demo(args) => demo::run(args).await,
            Self::Run => serve::run(global, Roles::ALL).await,
            Self::Receive => serve::run(global, Roles::RECEIVE).await,
            Self::Work => serve::run(global, Roles::WORK).await,
            Self::Reconcile(args) => reconcile::run(global, args).await,
            Self::Console => serve::run(global, Roles::CONSOLE).await,
            Self::Status(args) => status::run(global, args).await,
            Self::Tail(args) => tail::run(global, args).await,
            Self::List(args) => list::run(global, args).await,
            Self::Show(args) => show::run(global, args).await,
            Self::Fetch(args) => fetch::run(global, args).await,
            Self::Backfill(args) => backfill::run(global, args).await,
            Self::Audit(args) => audit::run(global, args).await,
            Self::Index(command) => index::run(global, command).await,
            Self::Erase(args) => erase::run(global, args).await,
            Self::Dead(command) => dead::run(global, command).await,
            Self::Endpoint(command) => endpoint::run(global, command).await,
            Self::Spool(command) => spool::run(global, &command).await,
            Self::Queue(command) => queue::run(global, command).await,
            Self::Config(command) => config::run(global, &command).await,
            Self::Doctor(args) => doctor::run(global, args).await,
            Self::Healthcheck(args) => healthcheck::run(global, args).await,
            Self::Verify(args) => verify::run(global, &args),
            Self::Send(args) => send::run(global, args).await,
            Self::Simulate(args) => simulate::run(args).await,
            Self::Completions(args) => {
                completions::run(&args);
                Ok(())
            }
            Self::Man(args) => man::run(&args),
        }
    }
}

/// Parses `arguments`, runs the command and returns the exit code of the process.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match help::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches))
    {
        Ok(cli) => cli,
        // clap also returns the texts of --help and --version as errors.
        Err(mut error) => {
            let is_of = |name: &str| matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(argument)) if argument.starts_with(name));
            // The value may be a secret.
            if is_of("--set") {
                error.insert(ContextKind::InvalidValue, ContextValue::String("[not shown]".to_owned()));
            }
            if error.use_stderr() {
                let _ = error.print();
                return ExitStatus::Usage.into();
            }
            output::help(&error);
            return exit_status(Ok(())).into();
        }
    };
    let runtime = match cli.command.runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::error(&format!("cannot start the runtime: {error}"));
            return ExitStatus::Failure.into();
        }
    };
    let status = exit_status(runtime.block_on(cli.command.run(&cli.global)));
    // The result is known. A task that sets a timer at this moment panics, because the runtime has no timers any more.
    panic::set_hook(Box::new(|_| ()));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    status.into()
}

/// Reports the error of a command, or that its output is lost, and returns the exit status.
fn exit_status(result: Result<(), CliError>) -> ExitStatus {
    let lost = output::failure().map(|reason| {
        CliError::Failed(format!(
            "cannot write the output: {reason}; a part of it is missing, so run the command again with another output"
        ))
    });
    let errors = [result.err(), lost];
    errors.iter().flatten().for_each(|error| output::error(&error.to_string()));
    errors.iter().flatten().next().map_or(ExitStatus::Success, CliError::exit_status)
}
