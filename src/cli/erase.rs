//! `polyhook erase ID…`: removes all data of a conversation and prevents that it is archived again.

use std::sync::Arc;

use bytesize::ByteSize;
use serde::Serialize;

use super::{
    CliError, GlobalArgs, output, prompt,
    queue_access::{wait_until_ready, with_queue},
};
use crate::{
    app,
    clock::Clock,
    config::{Config, Roles},
    lifecycle::Lifecycle,
    queue::{ErasedMessages, Queue, QueueBackend, spool::Spool},
    shell,
    worker::{ErasureReport, ErasureRequest, JobFailure, Worker},
};

/// The maximum length of `--reason`.
const MAX_REASON_LENGTH: usize = 32;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook erase CA0123456789abcdef --dry-run
  polyhook erase CA0123456789abcdef --reason GDPR-1742 --yes
  polyhook erase --lift CA0123456789abcdef

Removes the conversation from the archive and its index, the queue, the dead letters \
and the spool, while polyhook runs, and announces conversation.erased to consumers. A record \
without personal data prevents that the conversation is archived again; --lift removes \
that record. If the command is interrupted, run it again.

Not erased: PolyAI's own copy, older versions and backups of a bucket, and copies \
made by consumers (docs/privacy.md). Exit code 1 if anything could not be erased.")]
#[expect(clippy::struct_excessive_bools, reason = "the flags are independent of each other")]
pub(super) struct Args {
    /// Conversation IDs
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Project of the conversations [default: all configured projects]
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    project_id: Option<String>,
    /// Account of the conversations
    #[arg(long, value_name = "ID")]
    account_id: Option<String>,
    /// Ticket number or word to record with the erasure; no personal data
    #[arg(long, value_name = "WORD", value_parser = parse_reason)]
    reason: Option<String>,
    /// Show what would be erased without erasing it
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation; required without a terminal
    #[arg(long)]
    yes: bool,
    /// Allow erased conversations to be archived again; does not restore them
    #[arg(long, conflicts_with_all = ["reason", "dry_run"])]
    lift: bool,
    /// Print one JSON object per conversation, one per line
    #[arg(long)]
    json: bool,
}

fn parse_reason(text: &str) -> Result<String, String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '#');
    if (1..=MAX_REASON_LENGTH).contains(&text.len()) && text.chars().all(is_allowed) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "write at most {MAX_REASON_LENGTH} letters, digits, dashes, dots, underscores and #, such as GDPR-1742"
    ))
}

/// The result for one conversation.
#[derive(Debug, Serialize)]
struct ErasureResult<'a> {
    conversation_id: &'a str,
    /// `erased`, `nothing_found`, `incomplete`, `dry_run`, `lifted`, `not_erased`
    outcome: &'static str,
    #[serde(flatten)]
    report: ErasureReport,
    /// Set if this machine has a spool.
    #[serde(skip_serializing_if = "Option::is_none")]
    spool: Option<ErasedMessages>,
}

/// The stores to erase from.
struct Stores {
    worker: Worker,
    queue: Arc<dyn Queue>,
    spool: Option<Arc<Spool>>,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let ask = !(args.yes || args.dry_run || args.lift);
    if ask {
        prompt::require_terminal("erase permanently")?;
    }
    let config = global.load_for_command(Roles::WORK)?;
    if ask && !confirm(&args.ids) {
        output::line("nothing was erased");
        return Ok(());
    }
    let clock = Clock::System;
    with_queue(&config, Roles::NONE, clock.clone(), async |queue, lifecycle| {
        let spool = open_spool(&config, &clock, lifecycle)?;
        let result = async {
            let resources = app::Resources::open_for_command(&config, &clock).await?;
            let worker = resources.worker(&config, Arc::clone(queue), clock);
            let stores = Stores { worker, queue: Arc::clone(queue), spool: spool.clone() };
            if args.lift { lift_all(&stores, &args).await } else { erase_all(&stores, &args).await }
        }
        .await;
        lifecycle.drain();
        if let Some(spool) = spool {
            spool.close().await;
        }
        result
    })
    .await
}

/// Opens the spool, if this machine has one.
fn open_spool(config: &Config, clock: &Clock, lifecycle: &Lifecycle) -> Result<Option<Arc<Spool>>, CliError> {
    let path = &config.spool.path;
    if config.queue.backend().ok() != Some(QueueBackend::RabbitMq)
        || path.as_os_str().is_empty()
        || !path.exists()
    {
        return Ok(None);
    }
    let spool = Spool::open(&config.spool, &config.queue, clock.clone(), lifecycle);
    Ok(Some(spool.map_err(app::StartError::Spool)?))
}

/// Asks the user to type the id or the number of the conversations, which does not happen by mistake.
fn confirm(ids: &[String]) -> bool {
    let (what, wanted) = match ids {
        [id] => (format!("conversation {id}"), id.clone()),
        ids => (format!("{} conversations", ids.len()), ids.len().to_string()),
    };
    let kind = if ids.len() == 1 { "its id" } else { "their number" };
    prompt::ask(&format!("All data of {what} will be removed permanently. Type {kind} to continue:"))
        == wanted
}

fn erasure_request(args: &Args, id: &str) -> ErasureRequest {
    ErasureRequest {
        conversation_id: id.to_owned(),
        account_id: args.account_id.clone(),
        project_id: args.project_id.clone(),
        reason: args.reason.clone(),
        dry_run: args.dry_run,
    }
}

async fn erase_all(stores: &Stores, args: &Args) -> Result<(), CliError> {
    // If the queue is unavailable, the archive is erased nevertheless. Each report then contains the error.
    let _ = wait_until_ready(&*stores.queue).await;
    let mut incomplete = false;
    for id in &args.ids {
        let mut report = stores
            .worker
            .erase(&erasure_request(args, id))
            .await
            .map_err(|failure| worker_failed(&failure))?;
        let spool = match &stores.spool {
            None => None,
            Some(spool) => match spool.erase(id, args.dry_run).await {
                Ok(erased) => Some(erased),
                Err(error) => {
                    report.problems.push(error.to_string());
                    None
                }
            },
        };
        let objects: u64 = report.archive.iter().map(|place| place.objects.objects + place.index_rows).sum();
        let found = objects + report.queue.total() + spool.map_or(0, |spool| spool.total());
        let outcome = match (&report.problems[..], found) {
            ([_, ..], _) => "incomplete",
            _ if args.dry_run => "dry_run",
            (_, 0) => "nothing_found",
            _ => "erased",
        };
        incomplete |= !report.problems.is_empty();
        print_result(&ErasureResult { conversation_id: id, outcome, report, spool }, args.json);
    }
    if incomplete { Err(CliError::AlreadyReported) } else { Ok(()) }
}

async fn lift_all(stores: &Stores, args: &Args) -> Result<(), CliError> {
    for id in &args.ids {
        let lifted = stores
            .worker
            .lift_erasure(&erasure_request(args, id))
            .await
            .map_err(|failure| worker_failed(&failure))?;
        let outcome = if lifted > 0 { "lifted" } else { "not_erased" };
        if args.json {
            output::json(&serde_json::json!({ "conversation_id": id, "outcome": outcome }));
        } else if lifted > 0 {
            output::line(format!(
                "{} {id}: it can be archived again; archive it now with `polyhook fetch {}`",
                output::green(outcome),
                shell::last_argument(id)
            ));
        } else {
            output::line(format!("{id} was not erased, so there is nothing to lift"));
        }
    }
    Ok(())
}

fn worker_failed(failure: &JobFailure) -> CliError {
    CliError::Failed(failure.detail.clone())
}

fn print_result(result: &ErasureResult<'_>, json: bool) {
    let ErasureResult { conversation_id: id, outcome, report, spool } = result;
    if json {
        output::json(result);
    } else {
        print_report(id, outcome, report, spool.as_ref());
    }
    if !report.problems.is_empty() {
        output::error(&format!("{id}: {}; run the command again", report.problems.join("; ")));
    }
}

fn print_report(id: &str, outcome: &str, report: &ErasureReport, spool: Option<&ErasedMessages>) {
    let word = outcome.replace('_', " ");
    let word = if report.problems.is_empty() { output::green(word) } else { output::red(word) };
    output::line(format!("{word} {id}"));
    let field = |name: &str, text: String| output::line(format!("  {name:<10}{text}"));
    for place in &report.archive {
        let announced = if place.announced { ", announced to consumers" } else { "" };
        field(
            "archive",
            format!(
                "{} of {}, {}{announced}",
                output::counted(place.objects.objects, "object"),
                place.project_id,
                ByteSize(place.objects.bytes)
            ),
        );
        field("index", format!("{} of {}", output::counted(place.index_rows, "row"), place.project_id));
    }
    field("queue", message_counts(&report.queue));
    if report.queue.unsearched > 0 {
        field(
            "",
            format!(
                "{} in RabbitMQ's fetch and retry queues cannot be searched; the worker drops those of this conversation",
                output::counted(report.queue.unsearched, "job")
            ),
        );
    }
    if let Some(spool) = spool {
        field("spool", output::counted(spool.total(), "message"));
    }
}

fn message_counts(erased: &ErasedMessages) -> String {
    let ErasedMessages { jobs, dead_letters, events, announcements, .. } = *erased;
    [
        output::counted(jobs, "job"),
        output::counted(dead_letters, "dead letter"),
        output::counted(events, "stored event"),
        output::counted(announcements, "announcement"),
    ]
    .join(", ")
}
