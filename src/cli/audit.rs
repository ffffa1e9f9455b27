//! `polyhook audit`: compares one day of PolyAI's conversations with the archive, in both directions.

use jiff::civil::Date;
use serde_json::json;

use super::{
    CliError, GlobalArgs, backfill,
    output::{self, sanitize},
    progress,
    queue_access::{wait_until_ready, with_queue},
    time_arg,
};
use crate::{
    app::Resources,
    clock::Clock,
    config::{Config, Roles},
    queue::Queue,
    reconcile::{AuditFinding, AuditReport, Auditor},
};

/// Findings that are printed; the saved report has all of them.
const MAX_PRINTED_FINDINGS: usize = 50;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook audit --date yesterday
  polyhook audit --date 2026-11-02 --deep --json
  polyhook audit --date 2026-11-02 --repair

Errors (exit code 1):
  missing             PolyAI lists the conversation, the archive lacks it
  outdated            archived before the conversation was over
  incomplete          objects without a manifest
  damaged             an object is missing or changed (size; with --deep, hash)
  unreadable          the manifest cannot be read, or is in the wrong place
  undated             PolyAI lists it without a start, so its day is unknown
Remarks:
  extra               archived, but PolyAI no longer lists it
  hidden transcript   PolyAI does not show the transcript
  absent recording    a call without a recording
  failed recording    a recording could not be fetched; --repair tries again

The exit code is also 1 if a part of PolyAI's list or of the archive cannot be \
read. The report is saved in the archive as audits/date=DATE.json.")]
pub(super) struct Args {
    /// Day (UTC) on which the conversations started: a date, `today` or `yesterday`
    #[arg(long, value_name = "DATE", value_parser = time_arg::parse_date, default_value = "yesterday")]
    date: time_arg::DateArg,
    /// Audit only this project (repeatable)
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    projects: Vec<String>,
    /// Read all objects and compare their hashes with the manifests
    #[arg(long)]
    deep: bool,
    /// Queue missing, outdated and damaged conversations to be fetched again
    #[arg(long)]
    repair: bool,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let date = args.date.resolve(clock.now());
    let resources = Resources::open_for_command(&config, &clock).await?;
    if !args.repair {
        return audit(&args, &resources, date, None, &config, &clock).await;
    }
    with_queue(&config, Roles::NONE, clock.clone(), async |queue, _| {
        wait_until_ready(&**queue).await?;
        audit(&args, &resources, date, Some(&**queue), &config, &clock).await
    })
    .await
}

async fn audit(
    args: &Args,
    resources: &Resources,
    date: Date,
    repair: Option<&dyn Queue>,
    config: &Config,
    clock: &Clock,
) -> Result<(), CliError> {
    let projects = backfill::select_projects(resources, &args.projects)?;
    let auditor = Auditor {
        polyai: &resources.polyai,
        archive: &resources.archive,
        clock,
        settle: config.reconcile.settle,
        environments: &config.worker.environments,
        deep: args.deep,
        repair,
    };
    let bar = progress::spinner(args.json);
    let show_progress = |report: &AuditReport| {
        bar.set_message(format!("{} listed, {} archived", report.listed, report.archived));
        bar.tick();
    };
    let report = auditor.run(&projects, date, show_progress).await;
    bar.finish_and_clear();
    let report_name = (!args.projects.is_empty()).then(|| args.projects.join("+"));
    let text = serde_json::to_vec_pretty(&report).map_err(|error| CliError::Failed(error.to_string()))?;
    let saved = resources.archive.save_audit_report(date, report_name.as_deref(), text).await;
    if args.json {
        output::json(&json!({ "report": report, "url": saved.as_ref().ok() }));
    } else {
        print_report(&report, saved.as_deref().ok());
    }
    saved.map_err(|error| CliError::Failed(format!("cannot save the report in the archive: {error}")))?;
    match report {
        report if report.complete => Ok(()),
        report if report.failures.is_empty() => Err(CliError::AlreadyReported),
        report => {
            Err(CliError::Failed(format!("not everything was compared: {}", report.failures.join("\n"))))
        }
    }
}

fn print_report(report: &AuditReport, url: Option<&str>) {
    let AuditReport {
        date,
        listed,
        unsettled,
        erased,
        archived,
        objects,
        bytes,
        counts,
        queued,
        findings,
        ..
    } = report;
    let verdict = if report.complete { output::green("complete") } else { output::red("incomplete") };
    let bytes = bytesize::ByteSize(*bytes);
    output::line(format!(
        "{verdict} {date}: {} at PolyAI, {archived} archived ({}, {bytes})",
        output::counted(*listed, "conversation"),
        output::counted(*objects, "object")
    ));
    if *unsettled > 0 {
        output::line(format!("  {unsettled} skipped because they are still open or ended only recently"));
    }
    if *erased > 0 {
        output::line(format!("  {erased} erased from the archive on request"));
    }
    for (what, count) in counts {
        output::line(format!("  {count} {}", what.replace('_', " ")));
    }
    for AuditFinding { project_id, conversation_id, finding, detail } in
        findings.iter().take(MAX_PRINTED_FINDINGS)
    {
        let what = finding.as_str();
        let what = if finding.is_fault() { output::red(what) } else { output::bold(what) };
        let detail = detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let (id, detail) = (sanitize(conversation_id), sanitize(&detail));
        output::line(format!("{what} {id} {}{detail}", output::dimmed(project_id)));
    }
    if findings.len() > MAX_PRINTED_FINDINGS {
        output::line(format!("and {} more findings, see the report", findings.len() - MAX_PRINTED_FINDINGS));
    }
    if *queued > 0 {
        output::line(format!("{queued} queued for repair"));
    } else if !report.complete {
        output::line(format!("repair with `polyhook audit --repair --date {date}`"));
    }
    if let Some(url) = url {
        output::line(output::dimmed(url));
    }
}
