//! The arguments of `polyhook dead`, and the dead letters that they select.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::{
    cli::{CliError, time_arg},
    queue::{DeadLetter, DeadLetterFilter},
};

#[derive(Debug, clap::Subcommand)]
pub(in crate::cli) enum Command {
    /// List dead letters, roughly in the order received
    #[command(after_help = "\
Examples:
  polyhook dead list
  polyhook dead list --reason key_rejected --older-than 1d
  polyhook dead list --json | jq -r .conversation_id

Use the configuration of the service, so that the command reads the same queue. \
On RabbitMQ, the dead letters that a `dead` command has read are hidden from other \
`dead` commands and from the metric polyhook_queue_depth until the command ends.")]
    List(ListArgs),
    /// Show a dead letter with all its attempts
    #[command(after_help = "\
Examples:
  polyhook dead show evt_3f1c0a52
  polyhook dead show evt_3f1c0a52 --body --json | jq -r .body")]
    Show(ShowArgs),
    /// Turn dead letters back into jobs, after their cause is fixed
    #[command(after_help = "\
Examples:
  polyhook dead replay evt_3f1c0a52
  polyhook dead replay --reason key_rejected --project acme-front-desk --dry-run
  polyhook dead replay --all

A replayed job starts its retry schedule again and keeps its history. You can \
interrupt the command at any time: what is not replayed yet stays a dead letter.")]
    Replay(ReplayArgs),
    /// Delete dead letters permanently
    #[command(after_help = "\
Examples:
  polyhook dead drop --reason no_conversation_id --dry-run
  polyhook dead drop --older-than 90d --yes

The conversation of a dropped dead letter is not archived, unless you archive it \
with `polyhook fetch`.")]
    Drop(DropArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    pub(super) filter: Filter,
    /// Print one JSON object per line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    /// Event ID, as shown by `dead list`
    #[arg(value_name = "ID")]
    pub(super) id: String,
    /// Show the event's body as well; it contains personal data
    #[arg(long)]
    pub(super) body: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ReplayArgs {
    #[command(flatten)]
    pub(super) selection: Selection,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct DropArgs {
    #[command(flatten)]
    pub(super) selection: Selection,
    /// Do not ask for confirmation; required without a terminal
    #[arg(long)]
    pub(super) yes: bool,
}

/// Properties that a dead letter must have.
#[derive(Debug, Default, Args)]
pub(super) struct Filter {
    /// Only dead letters with this reason, such as timeout (repeatable)
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
    /// Only dead letters whose event names this project (repeatable)
    #[arg(long, value_name = "PROJECT_ID", visible_alias = "project-id")]
    project: Vec<String>,
    /// Only dead letters older than this, such as 90m or 1d
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_duration)]
    older_than: Option<Duration>,
    /// Only dead letters newer than this
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_duration)]
    newer_than: Option<Duration>,
}

impl Filter {
    /// Returns the filter of the queue.
    pub(super) fn to_filter(&self) -> DeadLetterFilter {
        DeadLetterFilter {
            reasons: self.reason.clone(),
            projects: self.project.clone(),
            environments: Vec::new(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        }
    }
}

/// The dead letters to replay or drop. The user must name IDs, a filter or `--all`: an empty selection is an error, so
/// that a forgotten argument does not select everything.
#[derive(Debug, Args)]
pub(super) struct Selection {
    /// Event IDs, as shown by `dead list`
    #[arg(
        value_name = "ID",
        conflicts_with_all = ["all", "reason", "project", "older_than", "newer_than"]
    )]
    pub(super) ids: Vec<String>,
    /// Select all dead letters
    #[arg(long, conflicts_with_all = ["reason", "project", "older_than", "newer_than"])]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Show what would be done without doing it
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Print one JSON object per line
    #[arg(long)]
    pub(super) json: bool,
}

impl Selection {
    /// Returns an error if nothing is selected.
    pub(super) fn require(&self) -> Result<(), CliError> {
        if !self.ids.is_empty() || self.all || !self.filter.to_filter().is_empty() {
            return Ok(());
        }
        Err(CliError::Usage(
            "no dead letter is selected; give IDs, a filter such as --reason, --project or --older-than, or --all \
             (`polyhook dead list` shows IDs and reasons)"
                .to_owned(),
        ))
    }

    /// Returns the test that a dead letter must pass, as seen at `now`.
    pub(super) fn test(&self, now: Timestamp) -> impl Fn(&DeadLetter) -> bool + Send + Sync {
        let filter = self.filter.to_filter();
        move |letter| {
            (self.ids.is_empty() || self.ids.contains(&letter.message.id)) && filter.matches(letter, now)
        }
    }
}
