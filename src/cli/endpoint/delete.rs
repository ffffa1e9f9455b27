//! `polyhook endpoint delete`: deletes an endpoint after a confirmation.

use super::{
    super::{CliError, GlobalArgs, output, prompt},
    AccountArgs, failed, find, sanitize,
};
use crate::polyai::Endpoint;

/// Delete an endpoint; PolyAI then stops its deliveries.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint delete whe_9ZtRcXw3
  polyhook endpoint delete whe_9ZtRcXw3 --yes --json

To pause deliveries, use `polyhook endpoint update whe_9ZtRcXw3 --disable`.")]
pub(in crate::cli) struct Args {
    /// Endpoint (whe_…)
    #[arg(value_name = "ENDPOINT_ID")]
    endpoint: String,
    #[command(flatten)]
    account: AccountArgs,
    /// Delete without confirmation; required without a terminal
    #[arg(long)]
    yes: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: &Args) -> Result<(), CliError> {
    if !args.yes {
        prompt::require_terminal("delete the endpoint permanently")?;
    }
    let config = global.load_with_optional_secrets_file()?;
    let webhooks = args.account.webhooks(&config)?;
    let endpoints = webhooks.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, Some(&args.endpoint))?;
    if !args.yes && !confirm_deletion(endpoint) {
        output::line("nothing was deleted");
        return Ok(());
    }
    webhooks.delete(endpoint).await.map_err(|error| {
        let what = if error.is_certain() {
            "Nothing was deleted"
        } else {
            "PolyAI may have deleted it anyway; check with `polyhook endpoint list`"
        };
        failed(format!("{error}. {what}"))
    })?;
    let belongs_to_endpoint =
        |entry: &&crate::web::SecretEntry| entry.endpoint.as_deref() == Some(&*endpoint.id);
    let secrets = config.signature.file_secrets.entries().filter(belongs_to_endpoint).count();
    if args.json {
        output::json(&serde_json::json!({
            "outcome": "deleted", "endpoint_id": endpoint.id, "endpoint_url": endpoint.url, "secrets_left": secrets,
        }));
        return Ok(());
    }
    output::line(format!("{} {} ({})", output::green("deleted"), endpoint.id, sanitize(&endpoint.url)));
    if let (Some(path), 1..) = (&config.signature.secrets_file, secrets) {
        output::line(format!(
            "  note: {secrets} of its secrets stay valid in {}; delete the line after `# polyhook:endpoint={}` there",
            path.display(),
            endpoint.id
        ));
    }
    Ok(())
}

fn confirm_deletion(endpoint: &Endpoint) -> bool {
    let Endpoint { id, url, name, event_types, .. } = endpoint;
    prompt::confirm(&format!(
        "Delete {id} ({}, {}) permanently? PolyAI then stops delivering {} to it.",
        sanitize(name),
        sanitize(url),
        sanitize(&event_types.join(", "))
    ))
}
