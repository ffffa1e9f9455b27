//! `polyhook fetch ID…`: archives conversations now, without waiting for a webhook.

use std::sync::Arc;

use serde::Serialize;
use serde_json::json;

use super::{
    CliError, GlobalArgs, output, progress,
    queue_access::{wait_until_ready, with_queue},
};
use crate::{
    app,
    archive::Trigger,
    clock::Clock,
    config::Roles,
    shell,
    worker::{ArchivedConversation, FetchOutcome, FetchRequest, JobFailure, RetryDecision, Worker},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook fetch CA0123456789abcdef
  polyhook fetch --project acme-front-desk $(cat ids.txt) --json

The conversations are archived and announced as if a webhook had arrived. Failures go \
to standard error. With --json, the object of a failed conversation has the key error \
instead. Exit code 1 if any of them is not archived.")]
pub(super) struct Args {
    /// Conversation IDs
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Project of the conversations [default: try all configured projects]
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    project_id: Option<String>,
    /// Account of the conversations
    #[arg(long, value_name = "ID")]
    account_id: Option<String>,
    /// Print one JSON object per conversation, one per line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::WORK)?;
    let clock = Clock::System;
    with_queue(&config, Roles::NONE, clock.clone(), async |queue, _| {
        wait_until_ready(&**queue).await?;
        let resources = app::Resources::open_for_command(&config, &clock).await?;
        let worker = resources.worker(&config, Arc::clone(queue), clock.clone());
        fetch_all(&args, &worker, &clock).await
    })
    .await
}

async fn fetch_all(args: &Args, worker: &Worker, clock: &Clock) -> Result<(), CliError> {
    let bar = progress::bar(args.ids.len() as u64, "fetched", args.json || args.ids.len() == 1);
    let mut not_archived = 0;
    for id in &args.ids {
        let request = FetchRequest {
            conversation_id: id.clone(),
            account_id: args.account_id.clone(),
            project_id: args.project_id.clone(),
            trigger: Trigger::Command,
            event_id: None,
            received_at: clock.now(),
            started_at: None,
            environment: None,
            traceparent: None,
            any_environment: true,
            discovery: None,
        };
        let result = worker.archive_now(&request).await;
        not_archived += usize::from(matches!(result, Err(_) | Ok(FetchOutcome::Erased)));
        bar.suspend(|| print_result(id, &result, args.json));
        bar.inc(1);
    }
    bar.finish_and_clear();
    if not_archived == 0 { Ok(()) } else { Err(CliError::AlreadyReported) }
}

fn print_result(id: &str, result: &Result<FetchOutcome, JobFailure>, json: bool) {
    match result {
        Ok(FetchOutcome::Archived(archived)) => print_archived(id, archived, json),
        Ok(FetchOutcome::Erased) => {
            let error = "the conversation was erased on request, so it is not archived";
            if json {
                output::json(&json!({ "conversation_id": id, "outcome": "erased", "error": error }));
            } else {
                let lift = shell::last_argument(id);
                output::error(&format!("{id}: {error}; allow it with `polyhook erase --lift {lift}`"));
            }
        }
        Ok(FetchOutcome::Skipped | FetchOutcome::Coalesced | FetchOutcome::Refreshed(_)) => {
            output::line(format!("skipped {id}"));
        }
        Err(failure) => print_failure(id, failure, json),
    }
}

fn print_archived(id: &str, archived: &ArchivedConversation, json: bool) {
    let ArchivedConversation { outcome, manifest, urls, .. } = archived;
    if json {
        output::json(
            &json!({ "conversation_id": id, "outcome": outcome, "manifest": manifest, "urls": urls }),
        );
        return;
    }
    output::line(format!(
        "{} {id} (revision {}, audio {})",
        output::green(outcome),
        manifest.revision,
        manifest.audio.status.as_str()
    ));
    for url in urls.values() {
        output::line(format!("  {url}"));
    }
    for warning in &manifest.warnings {
        output::line(format!("  warning: {warning}"));
    }
}

fn print_failure(id: &str, failure: &JobFailure, json: bool) {
    let JobFailure { reason, detail, status, correlation_id, .. } = failure;
    if json {
        output::json(&FailedFetch {
            conversation_id: id,
            outcome: "failed",
            reason,
            error: detail,
            status: *status,
            correlation_id: correlation_id.as_deref(),
        });
        return;
    }
    output::error(&format!("{} ({reason}): {}", output::sanitize(id), output::sanitize(detail)));
    if let Some(correlation_id) = correlation_id {
        output::note(&format!("  PolyAI correlation id {}", output::sanitize(correlation_id)));
    }
    if let Some(next) = next_step(failure.next) {
        output::note(&format!("  {next}"));
    }
}

/// A conversation that is not archived, as JSON.
#[derive(Debug, Serialize)]
struct FailedFetch<'a> {
    conversation_id: &'a str,
    outcome: &'static str,
    reason: &'a str,
    error: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
}

/// Returns what the user can do about a failure, beside what its text says. This command makes one attempt and leaves no
/// job and no dead letter behind.
fn next_step(decision: RetryDecision) -> Option<&'static str> {
    match decision {
        RetryDecision::Wait(_) => Some("run the command again when the call has ended"),
        RetryDecision::Retry(_) | RetryDecision::Postpone(_) => {
            Some("not final, and nothing is queued: run the command again later")
        }
        RetryDecision::Dead => None,
    }
}
