//! `polyhook endpoint update`: what is given is changed, and nothing else.

use super::{
    super::{CliError, GlobalArgs, output},
    Account, attributes, failed, find, list,
};
use crate::polyai::EndpointSettings;

/// Change an endpoint: what is given, and nothing else.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint update whe_9ZtRcXw3 --url https://hooks.example.com/polyai-events
  polyhook endpoint update whe_9ZtRcXw3 --disable
  polyhook endpoint update whe_9ZtRcXw3 --header Authorization=@new-token --dry-run

--event and --header replace all that there were. The signing secret stays: `endpoint rotate-secret` changes it.")]
#[command(
    override_usage = "polyhook endpoint update [OPTIONS] <ENDPOINT_ID>",
    group = clap::ArgGroup::new("change").required(true).multiple(true)
)]
#[expect(clippy::struct_excessive_bools, reason = "flags are what a command line has")]
pub(in crate::cli) struct Args {
    /// The endpoint (whe_…)
    #[arg(value_name = "ENDPOINT_ID")]
    endpoint: String,
    /// What people call it
    #[arg(long, group = "change")]
    name: Option<String>,
    /// Where PolyAI delivers to, https only
    #[arg(long, group = "change")]
    url: Option<String>,
    /// An event type to deliver; may be repeated
    #[arg(long, value_name = "TYPE", group = "change")]
    event: Vec<String>,
    /// A header that PolyAI sends along; @FILE keeps it out of the shell's history
    #[arg(long, value_name = "NAME=VALUE|NAME=@FILE", group = "change")]
    header: Vec<String>,
    /// Send no header along
    #[arg(long, conflicts_with = "header", group = "change")]
    no_headers: bool,
    /// How long PolyAI waits for an answer
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1_000..=30_000), group = "change")]
    timeout_ms: Option<u64>,
    /// Deliver to it
    #[arg(long, conflicts_with = "disable", group = "change")]
    enable: bool,
    /// Deliver nothing to it; what happens meanwhile is never delivered
    #[arg(long, group = "change")]
    disable: bool,
    #[command(flatten)]
    account: Account,
    /// Say what would be changed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: &Args) -> Result<(), CliError> {
    let config = global.load_with_optional_secrets_file()?;
    let wanted = wanted(args)?;
    let webhooks = args.account.webhooks(&config)?;
    let endpoints = webhooks.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, Some(&args.endpoint))?;
    if args.dry_run {
        if args.json {
            output::json(
                &serde_json::json!({ "outcome": "dry_run", "endpoint_id": endpoint.id, "would_change": wanted }),
            );
        } else {
            output::line(format!("would change {}, and has changed nothing:", endpoint.id));
            list::wanted(&wanted);
        }
        return Ok(());
    }
    let updated = webhooks.update(endpoint, &wanted).await.map_err(|error| {
        let what = if error.is_certain() {
            "Nothing was changed"
        } else {
            "PolyAI may have changed it all the same: look with `polyhook endpoint show`"
        };
        failed(format!("{error}. {what}"))
    })?;
    if args.json {
        output::json(&updated);
    } else {
        output::line(format!("{} {}", output::green("updated"), endpoint.id));
        list::fields(&updated);
    }
    Ok(())
}

fn wanted(args: &Args) -> Result<EndpointSettings, CliError> {
    let headers = attributes::headers(&args.header)?;
    Ok(EndpointSettings {
        name: args.name.as_deref().map(attributes::name).transpose()?,
        url: args.url.as_deref().map(attributes::url).transpose()?.map(String::from),
        event_types: Some(attributes::events(&args.event)?).filter(|events| !events.is_empty()),
        headers: (args.no_headers || !headers.is_empty()).then_some(headers),
        timeout_ms: args.timeout_ms,
        enabled: (args.enable || args.disable).then_some(args.enable),
    })
}
