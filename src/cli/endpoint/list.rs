//! `polyhook endpoint list` and `polyhook endpoint show`.

use super::{
    super::{CliError, GlobalArgs, output, table::Table},
    AccountArgs, failed, find, sanitize,
};
use crate::polyai::{Endpoint, EndpointSettings};

/// List the account's endpoints.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint list
  polyhook endpoint list --json | jq -r .id")]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    account: AccountArgs,
    /// Print one JSON object per line instead of text
    #[arg(long)]
    json: bool,
}

/// Show an endpoint without its secret values.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint show whe_9ZtRcXw3
  polyhook endpoint show whe_9ZtRcXw3 --json | jq .event_types

Shows the names of headers, not their values. PolyAI does not return the signing secret; if it is lost, replace it \
with `polyhook endpoint rotate-secret`.")]
pub(in crate::cli) struct ShowArgs {
    /// Endpoint (whe_…) [default: the only endpoint of the account]
    #[arg(value_name = "ENDPOINT_ID")]
    endpoint: Option<String>,
    #[command(flatten)]
    account: AccountArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(global: &GlobalArgs, args: &ListArgs) -> Result<(), CliError> {
    let config = global.load_with_optional_secrets_file()?;
    let endpoints = args.account.webhooks(&config)?.list().await.map_err(failed)?;
    if args.json {
        for endpoint in &endpoints {
            output::json(endpoint);
        }
        return Ok(());
    }
    if endpoints.is_empty() {
        output::line("the account has no webhook endpoint; create one with `polyhook endpoint create`");
        return Ok(());
    }
    // The first three columns are never cut: people copy the id.
    let mut table = Table::new(["ID", "STATE", "TIMEOUT", "NAME", "URL", "EVENTS"], 3);
    for endpoint in &endpoints {
        table.row([
            endpoint.id.clone(),
            state(endpoint.enabled).to_owned(),
            milliseconds(endpoint.timeout_ms),
            endpoint.name.clone(),
            endpoint.url.clone(),
            endpoint.event_types.join(", "),
        ]);
    }
    table.flush();
    Ok(())
}

pub(super) async fn show(global: &GlobalArgs, args: &ShowArgs) -> Result<(), CliError> {
    let config = global.load_with_optional_secrets_file()?;
    let endpoints = args.account.webhooks(&config)?.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, args.endpoint.as_deref())?;
    if args.json {
        output::json(endpoint);
    } else {
        output::line(output::bold(&endpoint.id));
        print_endpoint(endpoint);
    }
    Ok(())
}

fn state(enabled: Option<bool>) -> &'static str {
    match enabled {
        Some(true) => "enabled",
        Some(false) => "disabled",
        None => "-",
    }
}

fn milliseconds(timeout: Option<u64>) -> String {
    timeout.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"))
}

/// Prints the fields of an endpoint, one per line.
pub(super) fn print_endpoint(endpoint: &Endpoint) {
    let Endpoint { id: _, name, url, enabled, event_types, headers, timeout_ms, created_at, updated_at } =
        endpoint;
    let field = |label: &str, value: &str| output::line(format!("  {label:<10}{}", sanitize(value)));
    field("name", name);
    field("url", url);
    field("events", &event_types.join(", "));
    if let Some(enabled) = enabled {
        field("state", state(Some(*enabled)));
    }
    if timeout_ms.is_some() {
        field("timeout", &milliseconds(*timeout_ms));
    }
    for header in headers.keys() {
        field("header", &format!("{header}: [hidden]"));
    }
    for (label, at) in [("created", created_at), ("updated", updated_at)] {
        if let Some(at) = at {
            field(label, at);
        }
    }
}

/// Prints the attributes of a request, one per line.
pub(super) fn print_settings(settings: &EndpointSettings) {
    let EndpointSettings { name, url, event_types, headers, timeout_ms, enabled } = settings;
    let field = |label: &str, value: &str| output::line(format!("  {label:<10}{}", sanitize(value)));
    let texts = [
        ("name", name.clone()),
        ("url", url.clone()),
        ("events", event_types.as_ref().map(|types| types.join(", "))),
    ];
    for (label, text) in texts {
        if let Some(text) = text {
            field(label, &text);
        }
    }
    if enabled.is_some() {
        field("state", state(*enabled));
    }
    if timeout_ms.is_some() {
        field("timeout", &milliseconds(*timeout_ms));
    }
    match headers {
        Some(headers) if headers.is_empty() => field("headers", "none"),
        Some(headers) => {
            for header in headers.keys() {
                field("header", &format!("{header}: [hidden]"));
            }
        }
        None => {}
    }
}
