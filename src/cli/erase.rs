//! `polyhook erase ID…`: everything of a conversation removed, and kept away.

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
    worker::{ErasureReport, ErasureRequest, JobFailure, Worker},
};

/// The longest `--reason`.
const LONGEST_REASON: usize = 32;

/// Erase conversations: from the archive, the queue, the spool and the dead letters, for good.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook erase CA0123456789abcdef --dry-run
  polyhook erase CA0123456789abcdef --reason GDPR-1742 --yes
  polyhook erase --lift CA0123456789abcdef

May be used while polyhook runs. A record without ids keeps workers and reconciliation from bringing
it back; --lift removes the record. Interrupted, it is completed by doing it again. Consumers are
told by conversation.erased. Out of reach are PolyAI's own copy, older versions and backups of a
bucket, and what consumers have copied: docs/privacy.md. Exit code 1 if something is left.")]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line are independent of each other")]
pub(super) struct Args {
    /// PolyAI's conversation ids
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// The project it belongs to; each configured one where absent
    #[arg(long)]
    project_id: Option<String>,
    /// The account it belongs to
    #[arg(long)]
    account_id: Option<String>,
    /// A word, or a ticket's number, for the record of the erasure; nothing personal
    #[arg(long, value_name = "WORD", value_parser = parse_reason)]
    reason: Option<String>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where there is no terminal to ask on
    #[arg(long)]
    yes: bool,
    /// Let erased conversations be archived again; brings nothing back by itself
    #[arg(long, conflicts_with_all = ["reason", "dry_run"])]
    lift: bool,
    /// One JSON object a line for each conversation
    #[arg(long)]
    json: bool,
}

fn parse_reason(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '#');
    if (1..=LONGEST_REASON).contains(&text.len()) && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a word of at most {LONGEST_REASON} letters, digits, dashes, dots and underscores, such as GDPR-1742"
    ))
}

/// What became of one conversation.
#[derive(Debug, Serialize)]
struct Ended<'a> {
    conversation_id: &'a str,
    /// `erased`, `nothing_found`, `incomplete`, `dry_run`, `lifted`, `not_erased`
    outcome: &'static str,
    #[serde(flatten)]
    report: ErasureReport,
    /// Where there is a spool here.
    #[serde(skip_serializing_if = "Option::is_none")]
    spool: Option<ErasedMessages>,
}

/// Where it is looked.
struct Places {
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
    if ask && !confirmed(&args.ids) {
        output::line("nothing was erased");
        return Ok(());
    }
    let clock = Clock::System;
    with_queue(&config, Roles::NONE, clock.clone(), async |queue, lifecycle| {
        let spool = open_spool(&config, &clock, lifecycle)?;
        let done = async {
            let worker = app::Resources::open(&config, &clock)?.worker(&config, Arc::clone(queue), clock);
            let places = Places { worker, queue: Arc::clone(queue), spool: spool.clone() };
            if args.lift { lift_all(&places, &args).await } else { erase_all(&places, &args).await }
        }
        .await;
        lifecycle.drain();
        if let Some(spool) = spool {
            spool.close().await;
        }
        done
    })
    .await
}

/// The spool's file, where there is one on this machine.
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

/// Asks for what cannot be typed by mistake.
fn confirmed(ids: &[String]) -> bool {
    let (what, wanted) = match ids {
        [id] => (format!("conversation {id}"), id.clone()),
        ids => (format!("{} conversations", ids.len()), ids.len().to_string()),
    };
    let kind = if ids.len() == 1 { "its id" } else { "their number" };
    prompt::ask(&format!("All data of {what} will be removed permanently. Type {kind} to continue:"))
        == wanted
}

fn order(args: &Args, id: &str) -> ErasureRequest {
    ErasureRequest {
        conversation_id: id.to_owned(),
        account_id: args.account_id.clone(),
        project_id: args.project_id.clone(),
        reason: args.reason.clone(),
        dry_run: args.dry_run,
    }
}

async fn erase_all(places: &Places, args: &Args) -> Result<(), CliError> {
    // A broker that is away keeps nobody from erasing what lies in the archive; each report says it is.
    let _ = wait_until_ready(&*places.queue).await;
    let mut left = false;
    for id in &args.ids {
        let mut report = places.worker.erase(&order(args, id)).await.map_err(|failure| failed(&failure))?;
        let spool = match &places.spool {
            None => None,
            Some(spool) => match spool.erase(id, args.dry_run).await {
                Ok(erased) => Some(erased),
                Err(error) => {
                    report.problems.push(error.to_string());
                    None
                }
            },
        };
        let objects: u64 = report.archive.iter().map(|place| place.lying.objects).sum();
        let found = objects + report.queue.total() + spool.map_or(0, |spool| spool.total());
        let outcome = match (&report.problems[..], found) {
            ([_, ..], _) => "incomplete",
            _ if args.dry_run => "dry_run",
            (_, 0) => "nothing_found",
            _ => "erased",
        };
        left |= !report.problems.is_empty();
        show(&Ended { conversation_id: id, outcome, report, spool }, args.json);
    }
    if left { Err(CliError::AlreadyReported) } else { Ok(()) }
}

async fn lift_all(places: &Places, args: &Args) -> Result<(), CliError> {
    for id in &args.ids {
        let lifted =
            places.worker.lift_erasure(&order(args, id)).await.map_err(|failure| failed(&failure))?;
        let outcome = if lifted > 0 { "lifted" } else { "not_erased" };
        if args.json {
            output::json(&serde_json::json!({ "conversation_id": id, "outcome": outcome }));
        } else if lifted > 0 {
            output::line(format!(
                "{} {id}: it may be archived again; `polyhook fetch {id}` does it now",
                output::green(outcome)
            ));
        } else {
            output::line(format!("{id} was not erased"));
        }
    }
    Ok(())
}

fn failed(failure: &JobFailure) -> CliError {
    CliError::Failed(failure.detail.clone())
}

fn show(ended: &Ended<'_>, json: bool) {
    if json {
        output::json(ended);
        return;
    }
    let Ended { conversation_id: id, outcome, report, spool } = ended;
    let word = outcome.replace('_', " ");
    let word = if report.problems.is_empty() { output::green(word) } else { output::red(word) };
    output::line(format!("{word} {id}"));
    let line = |name: &str, text: String| output::line(format!("  {name:<10}{text}"));
    for place in &report.archive {
        let told = if place.announced { ", consumers were told" } else { "" };
        line(
            "archive",
            format!(
                "{} of {}, {}{told}",
                count(place.lying.objects, "object"),
                place.project_id,
                ByteSize(place.lying.bytes)
            ),
        );
    }
    line("queue", messages(&report.queue));
    if report.queue.unsearched > 0 {
        line(
            "",
            format!(
                "{} in RabbitMQ's fetch and retry queues cannot be searched; the worker drops what is about it",
                count(report.queue.unsearched, "job")
            ),
        );
    }
    if let Some(spool) = spool {
        line("spool", count(spool.total(), "message"));
    }
    for problem in &report.problems {
        output::error(&format!("{id}: {problem}; do it again"));
    }
}

fn messages(erased: &ErasedMessages) -> String {
    let ErasedMessages { jobs, dead_letters, events, announcements, unsearched: _ } = *erased;
    [
        count(jobs, "job"),
        count(dead_letters, "dead letter"),
        count(events, "kept event"),
        count(announcements, "announcement"),
    ]
    .join(", ")
}

fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
