//! The command line: one file a subcommand, each with its `Args` and its `run`.
//!
//! Results go to standard output, logs and progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong
//! usage, 78 bad configuration (`EX_CONFIG` of sysexits.h), found before any socket is bound.

mod audit;
mod backfill;
mod config;
mod dead;
mod demo;
mod doctor;
mod endpoint;
mod erase;
mod error;
mod fetch;
mod healthcheck;
mod manual;
pub mod output;
mod prompt;
mod queue_access;
mod reconcile;
mod send;
mod serve;
mod simulate;
mod spool;
mod table;
mod tail;
mod time_arg;
mod verify;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

pub use self::error::{CliError, ExitStatus};
use crate::{
    config::{Config, ConfigError, Roles, Sources},
    telemetry::{self, LogConfig, LogGuard},
};

/// Turns PolyAI webhooks into archived conversations: verified, durable before they are answered, fetched
/// whole with their audio, announced on the bus.
#[derive(Debug, Parser)]
#[command(name = "polyhook", version, propagate_version = true, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  polyhook demo                                  see it work, without any configuration
  polyhook config check --config polyhook.toml   find what is wrong before a deployment does
  polyhook run --config polyhook.toml            receiver and worker in one process
  polyhook fetch CA0123456789abcdef              archive one conversation now
  polyhook backfill --last 30d                   archive what no webhook has brought
  polyhook tail                                  what happens, line by line
  polyhook dead list                             what could not be archived, and why

Exit codes: 0 done, 1 failed, 2 wrong usage, 78 bad configuration.";

#[derive(Debug, Args)]
struct GlobalArgs {
    /// The configuration file (TOML)
    #[arg(long, global = true, value_name = "FILE", env = "POLYHOOK_CONFIG")]
    config: Option<PathBuf>,
    /// Set one key, over file and environment; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole path at work: simulator, receiver, worker, archive; needs no configuration
    Demo(demo::Args),
    /// Run receiver, worker and reconciliation in one process
    #[command(after_help = "\
Examples:
  polyhook run --config polyhook.toml
  polyhook run --config polyhook.toml --set log.format=json")]
    Run,
    /// Run the receiver: verify deliveries and make them durable
    #[command(after_help = "\
Examples:
  polyhook receive --config polyhook.toml
  polyhook receive --config polyhook.toml --set server.listen=0.0.0.0:9000")]
    Receive,
    /// Run the worker: fetch, archive and announce conversations; reconciliation too
    #[command(after_help = "\
Examples:
  polyhook work --config polyhook.toml
  polyhook work --config polyhook.toml --set worker.concurrency=32")]
    Work,
    /// Look for what no webhook has brought: compare PolyAI's list with the archive
    Reconcile(reconcile::Args),
    /// Run a stand-in for PolyAI: its APIs, and signed deliveries with its retry policy
    Simulate(simulate::Args),
    /// Sign deliveries as PolyAI does and post them
    Send(send::Args),
    /// Explain why a signature matches, or why it does not
    Verify(verify::Args),
    /// Follow deliveries and jobs as they happen, one line each
    Tail(tail::Args),
    /// Fetch conversations by id and archive them now
    Fetch(fetch::Args),
    /// Queue what the archive lacks of a past time
    Backfill(backfill::Args),
    /// Compare a day at PolyAI with the archive, in both directions
    Audit(audit::Args),
    /// Erase conversations: from the archive, the queue, the spool and the dead letters, for good
    Erase(erase::Args),
    /// List dead letters, show why they are dead, replay or drop them
    #[command(subcommand)]
    Dead(dead::Command),
    /// Manage the webhook endpoints registered with PolyAI
    #[command(subcommand)]
    Endpoint(endpoint::Command),
    /// Look at the spool, where deliveries wait while RabbitMQ is away, or empty it
    #[command(subcommand)]
    Spool(spool::Command),
    /// Check or show the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Look at everything polyhook needs, say what is wrong and what to do about it
    Doctor(doctor::Args),
    /// Ask a running polyhook whether it is ready (for container health checks)
    Healthcheck(healthcheck::Args),
    /// Print the completions of a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write those of all commands
    Man(manual::ManArgs),
}

/// Parses `arguments` and runs the command; the exit code says how it went.
pub async fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let Cli { global, command } = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let status = if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Success };
            return status.into();
        }
    };
    let result = match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Run => serve::run(&global, Roles::ALL).await,
        Command::Receive => serve::run(&global, Roles::RECEIVE).await,
        Command::Work => serve::run(&global, Roles::WORK).await,
        Command::Reconcile(args) => reconcile::run(&global, args).await,
        Command::Backfill(args) => backfill::run(&global, args).await,
        Command::Audit(args) => audit::run(&global, args).await,
        Command::Simulate(args) => simulate::run(args).await,
        Command::Send(args) => send::run(&global, args).await,
        Command::Verify(args) => verify::run(&global, &args),
        Command::Tail(args) => tail::run(&global, args).await,
        Command::Fetch(args) => fetch::run(&global, args).await,
        Command::Erase(args) => erase::run(&global, args).await,
        Command::Dead(command) => dead::run(&global, command).await,
        Command::Endpoint(command) => endpoint::run(&global, command).await,
        Command::Spool(command) => spool::run(&global, &command).await,
        Command::Config(command) => config::run(&global, &command),
        Command::Doctor(args) => doctor::run(&global, args).await,
        Command::Healthcheck(args) => healthcheck::run(&global, args).await,
        Command::Completions(args) => {
            manual::completions(&args);
            Ok(())
        }
        Command::Man(args) => manual::man(&args),
    };
    match result {
        Ok(()) => ExitStatus::Success.into(),
        Err(error) => {
            output::error(&error.to_string());
            error.exit_status().into()
        }
    }
}

impl GlobalArgs {
    /// The merged configuration, read but not yet checked for a role.
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&Sources::new(self.config.clone(), self.set.clone()))
    }

    /// The same where the file of signing secrets may not be there yet.
    fn load_with_optional_secrets_file(&self) -> Result<Config, ConfigError> {
        Config::load_with_optional_secrets_file(&Sources::new(self.config.clone(), self.set.clone()))
    }

    /// The same, checked, for services. Their logs end when what is returned with the configuration is dropped.
    fn load_for_service(&self, roles: Roles) -> Result<(Config, LogGuard), CliError> {
        let config = self.load()?;
        config.check(roles)?;
        let logs = telemetry::init_service_logs(&config.log)?;
        Ok((config, logs))
    }

    /// The same for commands whose result is what matters: the log tells of trouble only.
    fn load_for_command(&self, roles: Roles) -> Result<Config, CliError> {
        let mut config = self.load()?;
        config.check(roles)?;
        if config.log == LogConfig::default() {
            "warn".clone_into(&mut config.log.level);
        }
        telemetry::init_logs(&config.log)?;
        Ok(config)
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as section.key=value")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_tree_is_well_formed() {
        super::Cli::command().debug_assert();
    }
}
