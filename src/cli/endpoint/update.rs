//! `polyhook endpoint update`: changes the given attributes of an endpoint.

use super::{
    super::{CliError, GlobalArgs, output},
    AccountArgs, attributes, failed, find, list,
};
use crate::polyai::EndpointSettings;

/// Change the given attributes of an endpoint.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint update whe_9ZtRcXw3 --url https://new.example.com/hook
  polyhook endpoint update whe_9ZtRcXw3 --disable
  polyhook endpoint update whe_9ZtRcXw3 --header X-Key=@new-key --dry-run

--event and --header replace all existing ones. To replace the signing secret, use `polyhook endpoint rotate-secret`.")]
#[command(
    override_usage = "polyhook endpoint update [OPTIONS] <ENDPOINT_ID>",
    group = clap::ArgGroup::new("change").required(true).multiple(true)
)]
#[expect(clippy::struct_excessive_bools, reason = "independent command line flags")]
pub(in crate::cli) struct Args {
    /// Endpoint (whe_…)
    #[arg(value_name = "ENDPOINT_ID")]
    endpoint: String,
    /// Name of the endpoint
    #[arg(long, group = "change")]
    name: Option<String>,
    /// URL that PolyAI delivers to (https)
    #[arg(long, group = "change")]
    url: Option<String>,
    /// Event type to deliver; repeatable
    #[arg(long, value_name = "TYPE", group = "change")]
    event: Vec<String>,
    /// Header of every delivery; @FILE keeps it out of the shell's history; repeatable
    #[arg(long, value_name = "NAME=VALUE|NAME=@FILE", group = "change")]
    header: Vec<String>,
    /// Remove all headers
    #[arg(long, conflicts_with = "header", group = "change")]
    no_headers: bool,
    /// Time that PolyAI waits for an answer, in milliseconds
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1_000..=30_000), group = "change")]
    timeout_ms: Option<u64>,
    /// Start deliveries
    #[arg(long, conflicts_with = "disable", group = "change")]
    enable: bool,
    /// Stop deliveries; events of that time are never delivered
    #[arg(long, group = "change")]
    disable: bool,
    #[command(flatten)]
    account: AccountArgs,
    /// Show what would be changed and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: &Args) -> Result<(), CliError> {
    let config = global.load_with_optional_secrets_file()?;
    let settings = settings(args)?;
    let webhooks = args.account.webhooks(&config)?;
    let endpoints = webhooks.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, Some(&args.endpoint))?;
    if args.dry_run {
        if args.json {
            output::json(
                &serde_json::json!({ "outcome": "dry_run", "endpoint_id": endpoint.id, "would_change": settings }),
            );
        } else {
            output::line(format!("would change {} (dry run):", endpoint.id));
            list::print_settings(&settings);
        }
        return Ok(());
    }
    let updated = webhooks.update(endpoint, &settings).await.map_err(|error| {
        let what = if error.is_certain() {
            "Nothing was changed"
        } else {
            "PolyAI may have changed it anyway; check with `polyhook endpoint show`"
        };
        failed(format!("{error}. {what}"))
    })?;
    if args.json {
        output::json(&updated);
    } else {
        output::line(format!("{} {}", output::green("updated"), endpoint.id));
        list::print_endpoint(&updated);
    }
    Ok(())
}

fn settings(args: &Args) -> Result<EndpointSettings, CliError> {
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
