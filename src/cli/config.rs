//! `polyhook config check|show|schema`: checks or prints the configuration.

use super::{CliError, GlobalArgs, output, role::Role};
use crate::{
    app::MachineReport,
    config::{Config, ConfigError},
};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Report all errors of the configuration, and ports and folders that cannot be used here
    #[command(after_help = "\
Examples:
  polyhook config check --config polyhook.toml
  polyhook config check --role receive --json

Exit code 78 if the configuration is wrong, 1 if only this machine is: a port that \
another program uses, or a folder that cannot be written. Changes nothing.")]
    Check {
        /// Role to check the configuration for; `run` needs all settings
        #[arg(long, value_enum, default_value_t = Role::Run)]
        role: Role,
        /// Print one JSON object: {"ok", "problems"}
        #[arg(long)]
        json: bool,
    },
    /// Show the effective configuration and the layer of each value, without secrets
    #[command(after_help = "\
Examples:
  polyhook config show --config polyhook.toml
  polyhook config show --json | jq .queue")]
    Show {
        /// Print JSON instead of TOML
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of the configuration file
    #[command(after_help = "\
Examples:
  polyhook config schema > polyhook.schema.json     for completion in an editor")]
    Schema,
}

pub(super) async fn run(global: &GlobalArgs, command: &Command) -> Result<(), CliError> {
    match *command {
        Command::Check { role, json } => check(global, role, json).await,
        Command::Show { json } => {
            let shown = global.load()?.shown();
            let failed = |error: &dyn std::fmt::Display| CliError::Failed(error.to_string());
            if json {
                output::pretty_json(&shown.json().map_err(|error| failed(&error))?);
            } else {
                output::line(shown.toml().map_err(|error| failed(&error))?);
            }
            Ok(())
        }
        Command::Schema => {
            output::pretty_json(&Config::schema());
            Ok(())
        }
    }
}

/// Reports all errors of the configuration, and of this machine.
async fn check(global: &GlobalArgs, role: Role, json: bool) -> Result<(), CliError> {
    let mut reading = global.read().check(role.roles());
    let is_config_wrong = !reading.is_valid();
    let MachineReport { problems, used_by_polyhook } = role.check_machine(reading.config()).await;
    reading.add(&problems);
    let checked = reading.finish();
    let notes: Vec<_> = used_by_polyhook.iter().map(ToString::to_string).collect();
    if json {
        let problems = checked.as_ref().err().map_or(&[][..], ConfigError::problems);
        let mut report = serde_json::json!({ "ok": problems.is_empty(), "problems": problems });
        if !notes.is_empty() {
            report["notes"] = notes.into();
        }
        output::json(&report);
    } else {
        for note in &notes {
            output::note(&format!("note: {note}"));
        }
    }
    match checked {
        Ok(_) if json => Ok(()),
        Ok(_) => {
            let role = role.label();
            output::line(output::green(format!("the configuration is good for the role {role}")));
            output::note(&format!("next, check what it depends on: polyhook doctor --role {role}"));
            Ok(())
        }
        Err(error) if is_config_wrong => Err(error.into()),
        Err(error) => Err(CliError::Failed(error.to_string())),
    }
}
