//! The arguments that every command takes, and the configuration that they lead to.

use std::path::PathBuf;

use super::CliError;
use crate::{
    config::{Config, ConfigError, Roles, Sources},
    telemetry::{self, LogConfig, LogGuard},
};

/// The heading of these arguments in help texts.
const HEADING: &str = "Configuration options";

#[derive(Debug, clap::Args)]
pub(super) struct GlobalArgs {
    /// Configuration file (TOML)
    #[arg(long, global = true, help_heading = HEADING, value_name = "FILE", env = "POLYHOOK_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Set one configuration key, overriding file and environment (repeatable)
    #[arg(long, global = true, help_heading = HEADING, value_name = "KEY=VALUE", value_parser = parse_setting)]
    set: Vec<(String, String)>,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as section.key=value")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl GlobalArgs {
    /// Reads and merges the configuration without checking it for a role.
    pub(super) fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&Sources::new(self.config.clone(), self.set.clone()))
    }

    /// Reads the configuration like [`Self::load`], but accepts a missing file of signing secrets.
    pub(super) fn load_with_optional_secrets_file(&self) -> Result<Config, ConfigError> {
        Config::load_with_optional_secrets_file(&Sources::new(self.config.clone(), self.set.clone()))
    }

    /// Reads the configuration, checks it for `roles` and starts the log of a service. The log ends when the returned
    /// [`LogGuard`] are dropped.
    pub(super) fn load_for_service(&self, roles: Roles) -> Result<(Config, LogGuard), CliError> {
        let config = self.load()?;
        config.check(roles)?;
        let logs = telemetry::init_service_logs(&config.log)?;
        Ok((config, logs))
    }

    /// Reads the configuration, checks it for `roles` and starts the log of a command. Unless configured otherwise the
    /// log holds warnings and errors only, so that it does not hide the results.
    pub(super) fn load_for_command(&self, roles: Roles) -> Result<Config, CliError> {
        let mut config = self.load()?;
        config.check(roles)?;
        if config.log == LogConfig::default() {
            "warn".clone_into(&mut config.log.level);
        }
        telemetry::init_logs(&config.log)?;
        Ok(config)
    }
}
