//! `polyhook endpoint delete`: never without being asked, and never silently.

use std::io::{self, BufRead, IsTerminal, Write};

use super::{
    super::{CliError, Global, output},
    Account, failed, find, harmless,
};
use crate::polyai::Endpoint;

/// Delete an endpoint, and with it all deliveries to it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint delete whe_9ZtRcXw3
  polyhook endpoint delete whe_9ZtRcXw3 --yes --json

To stop deliveries for a while: `polyhook endpoint update whe_9ZtRcXw3 --disable`.")]
pub(in crate::cli) struct Args {
    /// The endpoint (whe_…)
    #[arg(value_name = "ENDPOINT_ID")]
    endpoint: String,
    #[command(flatten)]
    account: Account,
    /// Do not ask; needed where there is no terminal to ask on
    #[arg(long)]
    yes: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &Global, args: &Args) -> Result<(), CliError> {
    let can_ask = io::stdin().is_terminal() && io::stderr().is_terminal();
    if !args.yes && !can_ask {
        return Err(CliError::Usage(
            "there is no terminal to ask on: add --yes to delete the endpoint for good".to_owned(),
        ));
    }
    let config = global.load_before_secrets()?;
    let webhooks = args.account.webhooks(&config)?;
    let endpoints = webhooks.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, Some(&args.endpoint))?;
    if !args.yes && !may_delete(endpoint) {
        output::line("nothing was deleted");
        return Ok(());
    }
    webhooks.delete(endpoint).await.map_err(|error| {
        let what = if error.is_certain() {
            "Nothing was deleted"
        } else {
            "PolyAI may have deleted it all the same: look with `polyhook endpoint list`"
        };
        failed(format!("{error}. {what}"))
    })?;
    let is_its = |entry: &&crate::web::Entry| entry.endpoint.as_deref() == Some(&*endpoint.id);
    let secrets = config.signature.file_secrets.entries().filter(is_its).count();
    if args.json {
        output::json(&serde_json::json!({
            "outcome": "deleted", "endpoint_id": endpoint.id, "endpoint_url": endpoint.url, "secrets_left": secrets,
        }));
        return Ok(());
    }
    output::line(format!("{} {} ({})", output::good("deleted"), endpoint.id, harmless(&endpoint.url)));
    if let (Some(path), 1..) = (&config.signature.secrets_file, secrets) {
        output::line(format!(
            "  note: {secrets} of its secrets stay valid in {}: delete what follows `# polyhook:endpoint={}` there",
            path.display(),
            endpoint.id
        ));
    }
    Ok(())
}

fn may_delete(endpoint: &Endpoint) -> bool {
    let Endpoint { id, url, name, event_types, .. } = endpoint;
    let mut stderr = io::stderr().lock();
    let _ = write!(
        stderr,
        "Delete {id} ({}, {}) for good? PolyAI then delivers no {} there. [y/N] ",
        harmless(name),
        harmless(url),
        harmless(&event_types.join(", "))
    );
    let _ = stderr.flush();
    let mut answer = String::new();
    let _ = io::stdin().lock().read_line(&mut answer);
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}
