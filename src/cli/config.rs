//! `polyhook config check|show|schema`: checks or prints the configuration.

use super::{CliError, GlobalArgs, output, role::Role};
use crate::{config::Config, polyai::Target};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Report all errors of the configuration; exit code 78 if there are any
    #[command(after_help = "\
Examples:
  polyhook config check --config polyhook.toml
  polyhook config check --role receive --json")]
    Check {
        /// Role to check the configuration for; `run` needs all settings
        #[arg(long, value_enum, default_value_t = Role::Run)]
        role: Role,
        /// Print one JSON object: {"ok", "problems"}
        #[arg(long)]
        json: bool,
    },
    /// Show the effective configuration, merged from all layers, without secrets
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

pub(super) fn run(global: &GlobalArgs, command: &Command) -> Result<(), CliError> {
    match *command {
        Command::Check { role, json } => check(global, role, json),
        Command::Show { json } => {
            let config = global.load()?;
            if json {
                output::pretty_json(&config);
            } else {
                let text = toml::to_string(&config).map_err(|error| CliError::Failed(error.to_string()))?;
                output::line(text.trim_end());
                show_hosts(&config);
            }
            Ok(())
        }
        Command::Schema => {
            output::pretty_json(&Config::schema());
            Ok(())
        }
    }
}

/// Prints the hosts that each project is served by, as comments.
fn show_hosts(config: &Config) {
    for project in &config.projects {
        let hosts = match Target::configured(&config.polyai, project) {
            Ok(targets) => {
                let host =
                    |target: &Target| format!("{} at {}", target.api().label(), target.host_and_port());
                targets.iter().map(host).collect::<Vec<_>>().join(", ")
            }
            Err(error) => format!("no host: {error}"),
        };
        output::line(format!("# project {}: {hosts}", project.project_id));
    }
}

fn check(global: &GlobalArgs, role: Role, json: bool) -> Result<(), CliError> {
    let checked = global.load().and_then(|config| config.check(role.roles()));
    if json {
        let problems: Vec<String> = match &checked {
            Ok(()) => Vec::new(),
            Err(error) => error.to_string().lines().map(str::to_owned).collect(),
        };
        output::json(&serde_json::json!({ "ok": checked.is_ok(), "problems": problems }));
    }
    match checked {
        Ok(()) if json => Ok(()),
        Ok(()) => {
            output::line(output::green("the configuration is good"));
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
