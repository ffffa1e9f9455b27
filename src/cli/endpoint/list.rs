//! `polyhook endpoint list` and `show`: what PolyAI has registered.

use std::io::{self, IsTerminal};

use console::{Alignment, Term, measure_text_width, pad_str};

use super::{
    super::{CliError, Global, output},
    Account, failed, find, harmless,
};
use crate::polyai::{Endpoint, Wanted};

const HEAD: [&str; 6] = ["ID", "STATE", "TIMEOUT", "NAME", "URL", "EVENTS"];
/// The first columns are never cut: an id is there to be copied.
const WHOLE: usize = 3;
/// No other is made narrower.
const NARROWEST: usize = 12;
const GAP: &str = "  ";

type Row = [String; HEAD.len()];

/// List the account's endpoints.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint list
  polyhook endpoint list --json | jq -r .id")]
pub(in crate::cli) struct ListArgs {
    #[command(flatten)]
    account: Account,
    /// One JSON object a line for each endpoint
    #[arg(long)]
    json: bool,
}

/// Show everything about an endpoint but what is secret.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint show whe_9ZtRcXw3
  polyhook endpoint show whe_9ZtRcXw3 --json | jq .event_types

Of headers the names are shown. The signing secret is shown by nobody: where it is lost, `endpoint rotate-secret`
makes another one.")]
pub(in crate::cli) struct ShowArgs {
    /// The endpoint (whe_…); the account's only one where absent
    #[arg(value_name = "ENDPOINT_ID")]
    endpoint: Option<String>,
    #[command(flatten)]
    account: Account,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn list(global: &Global, args: &ListArgs) -> Result<(), CliError> {
    let config = global.load_before_secrets()?;
    let endpoints = args.account.webhooks(&config)?.list().await.map_err(failed)?;
    if args.json {
        for endpoint in &endpoints {
            output::json(endpoint);
        }
        return Ok(());
    }
    if endpoints.is_empty() {
        output::line("the account has no webhook endpoint; `polyhook endpoint create` makes one");
        return Ok(());
    }
    let rows: Vec<_> = endpoints.iter().map(row).collect();
    let room = io::stdout().is_terminal().then(|| usize::from(Term::stdout().size().1));
    let widths = widths(&rows, room);
    output::line(output::dim(line(&HEAD.map(str::to_owned), &widths, room.is_some())));
    for row in &rows {
        output::line(line(row, &widths, room.is_some()));
    }
    Ok(())
}

pub(super) async fn show(global: &Global, args: &ShowArgs) -> Result<(), CliError> {
    let config = global.load_before_secrets()?;
    let endpoints = args.account.webhooks(&config)?.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, args.endpoint.as_deref())?;
    if args.json {
        output::json(endpoint);
    } else {
        output::line(output::strong(&endpoint.id));
        fields(endpoint);
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

fn row(endpoint: &Endpoint) -> Row {
    [
        harmless(&endpoint.id),
        state(endpoint.enabled).to_owned(),
        milliseconds(endpoint.timeout_ms),
        harmless(&endpoint.name),
        harmless(&endpoint.url),
        harmless(&endpoint.event_types.join(", ")),
    ]
}

/// As wide as the widest, then less for the widest until all of it has room.
fn widths(rows: &[Row], room: Option<usize>) -> Vec<usize> {
    let mut columns = HEAD.map(str::len).to_vec();
    for row in rows {
        for (width, cell) in columns.iter_mut().zip(row) {
            *width = (*width).max(measure_text_width(cell));
        }
    }
    let Some(room) = room else { return columns };
    let taken = |columns: &[usize]| columns.iter().sum::<usize>() + GAP.len() * (columns.len() - 1);
    while taken(&columns) > room
        && let Some(widest) = columns[WHOLE..].iter_mut().max().filter(|widest| **widest > NARROWEST)
    {
        *widest -= 1;
    }
    columns
}

fn line(row: &Row, widths: &[usize], cut: bool) -> String {
    let cells = row.iter().zip(widths);
    let cells = cells.map(|(cell, width)| pad_str(cell, *width, Alignment::Left, cut.then_some("…")));
    cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
}

/// All that is known of an endpoint, a field a line.
pub(super) fn fields(endpoint: &Endpoint) {
    let Endpoint { id: _, name, url, enabled, event_types, headers, timeout_ms, created_at, updated_at } =
        endpoint;
    let field = |label: &str, value: &str| output::line(format!("  {label:<10}{}", harmless(value)));
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

/// The same of what an endpoint is to be.
pub(super) fn wanted(wanted: &Wanted) {
    let Wanted { name, url, event_types, headers, timeout_ms, enabled } = wanted;
    let field = |label: &str, value: &str| output::line(format!("  {label:<10}{}", harmless(value)));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint {
            id: "whe_9ZtRcXw3nByK5pVqMaEfJs".to_owned(),
            name: "Production\u{1b}[31m".to_owned(),
            url: url.to_owned(),
            enabled: Some(true),
            event_types: vec!["conversation.completed".to_owned(), "handoff.created".to_owned()],
            timeout_ms: Some(5000),
            ..Endpoint::default()
        }
    }

    #[test]
    fn fits_the_terminal_and_cuts_nothing_elsewhere() {
        let long = format!("https://hooks.example.com/{}", "p".repeat(100));
        let rows = [row(&endpoint("https://h.example/")), row(&endpoint(&long))];
        for room in [90, 120, 400] {
            let widths = widths(&rows, Some(room));
            for row in &rows {
                let line = line(row, &widths, true);
                assert!(measure_text_width(&line) <= room && line.starts_with(&row[0]), "{room}: {line}");
                assert!(!line.contains('\u{1b}'));
            }
        }
        assert!(line(&rows[1], &widths(&rows, None), false).contains(&long));
        // Narrower than anybody's: it wraps.
        widths(&rows, Some(3));
    }
}
