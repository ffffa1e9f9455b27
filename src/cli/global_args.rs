//! The arguments that every command takes, and the configuration that they lead to.

use std::path::PathBuf;

use clap::ArgAction;

use super::{CliError, live_events, serve::screen};
use crate::{
    app::{self, MachineReport},
    config::{Config, ConfigError, Reading, Roles, Sources},
    telemetry::{self, LogConfig, LogGuard},
};

/// The heading of these arguments in help texts.
const HEADING: &str = "Global options";

#[derive(Debug, clap::Args)]
pub(super) struct GlobalArgs {
    // `Sources` reads the variable. If clap did, its errors would list this option as if it were required.
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE", help = "Configuration file (TOML) [env: POLYHOOK_CONFIG]")]
    config: Option<PathBuf>,
    /// Set one key, overriding file and environment
    #[arg(long, global = true, help_heading = HEADING, value_name = "KEY=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
    /// Print help
    #[arg(short, long, global = true, help_heading = HEADING, action = ArgAction::Help)]
    help: Option<bool>,
    /// Print version
    #[arg(short = 'V', long, global = true, help_heading = HEADING, action = ArgAction::Version)]
    version: Option<bool>,
}

/// The log of a command that ends. The command itself reports what fails, in one line, so that the log does not repeat it
/// for each attempt. Warnings that are no failure are kept.
const COMMAND_LOG_LEVEL: &str = "off,polyhook::polyai=warn,polyhook::reconcile::pass=warn";

/// Returns the log configuration of a command. The levels `info`, `warn` and `error` are meant for services.
fn for_command(configured: &LogConfig) -> LogConfig {
    let is_for_services = ["info", "warn", "error"].contains(&configured.level.trim());
    let level = if is_for_services { COMMAND_LOG_LEVEL } else { &configured.level };
    LogConfig { level: level.to_owned(), ..configured.clone() }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as section.key=value")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl GlobalArgs {
    fn sources(&self) -> Sources {
        Sources::new(self.config.clone(), self.set.clone())
    }

    /// Returns the path of the configuration file, if there is one.
    pub(super) fn config_file(&self) -> Option<PathBuf> {
        self.sources().file
    }

    /// Reads and merges the configuration and keeps its errors, so that more can be added to them.
    pub(super) fn read(&self) -> Reading {
        Reading::new(&self.sources())
    }

    /// Reads and merges the configuration without checking it for a role.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        self.read().finish()
    }

    /// Reads the configuration like [`Self::load`], but accepts a missing file of signing secrets.
    pub(super) fn load_with_optional_secrets_file(&self) -> Result<Config, ConfigError> {
        Reading::with_optional_secrets_file(&self.sources()).finish()
    }

    /// Reads the configuration, checks it for `roles` and starts the log of a service. The log ends when the returned
    /// [`LogGuard`] is dropped. Also returns whether the service shows events; the log then has the rest.
    ///
    /// If the configuration is wrong, the error also names what this machine lacks, as `config check` does.
    pub(super) async fn load_for_service(&self, roles: Roles) -> Result<(Config, LogGuard, bool), CliError> {
        let mut reading = self.read().check(roles);
        if !reading.is_valid() {
            let MachineReport { problems, used_by_polyhook } =
                app::check_machine(reading.config(), roles).await;
            reading.add(&problems);
            reading.add(&used_by_polyhook);
        }
        let config = reading.finish()?;
        let has_screen = screen::is_wanted(&config.log);
        let logs = telemetry::init_service_logs(&config.log, has_screen.then_some(live_events::LOG_LEVEL))?;
        Ok((config, logs, has_screen))
    }

    /// Reads the configuration, checks it for `roles` and starts the log of a command, which is [`COMMAND_LOG_LEVEL`]
    /// unless `log.level` asks for details.
    pub(super) fn load_for_command(&self, roles: Roles) -> Result<Config, CliError> {
        let config = self.read().check(roles).finish()?;
        telemetry::init_logs(&for_command(&config.log))?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_quiet_unless_details_are_asked_for() {
        let level =
            |level: &str| for_command(&LogConfig { level: level.to_owned(), ..LogConfig::default() }).level;
        for for_services in ["info", "warn", "error"] {
            assert_eq!(level(for_services), COMMAND_LOG_LEVEL);
        }
        for details in ["debug", "trace", "off", "info,polyhook::queue=debug"] {
            assert_eq!(level(details), details);
        }
    }
}
