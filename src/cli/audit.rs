//! `polyhook audit`: what PolyAI has of a day against what the archive holds.

use indicatif::ProgressBar;
use jiff::civil::Date;
use serde_json::json;

use super::{
    CliError, GlobalArgs, backfill, output,
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

/// Findings that are shown one by one.
const SHOWN: usize = 50;

/// Compare a day's conversations at PolyAI with the archive; exit code 1 if anything is missing or damaged.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook audit --date yesterday
  polyhook audit --date 2026-11-02 --deep --json
  polyhook audit --date 2026-11-02 --repair

Found are: missing conversations, outdated ones (archived before they were over), incomplete ones (no manifest), damaged
ones (objects that are gone or have another size; with --deep, another hash), and, which is no fault of the archive's, extra
ones (PolyAI does not list them any more), hidden transcripts and absent recordings. The report is kept in the archive as
audits/date=DATE.json.")]
pub(super) struct Args {
    /// The day of UTC on which the conversations started: a date, `today` or `yesterday`
    #[arg(long, value_name = "DATE", value_parser = time_arg::parse_date, default_value = "yesterday")]
    date: time_arg::DateArg,
    /// Only this project; may be repeated
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    projects: Vec<String>,
    /// Read every byte and compare its hash with the manifest's
    #[arg(long)]
    deep: bool,
    /// Queue what is missing, outdated or damaged to be fetched (again)
    #[arg(long)]
    repair: bool,
    /// The report as one JSON object instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let date = args.date.resolve(clock.now());
    let resources = Resources::open(&config, &clock)?;
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
    let projects = backfill::projects(resources, &args.projects)?;
    let audit = Auditor {
        polyai: &resources.polyai,
        archive: &resources.archive,
        clock,
        settle: config.reconcile.settle,
        environments: &config.worker.environments,
        deep: args.deep,
        repair,
    };
    let bar = if args.json { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    let seen = |report: &AuditReport| {
        bar.set_message(format!("{} listed, {} archived", report.listed, report.archived));
        bar.tick();
    };
    let report = audit.run(&projects, date, seen).await;
    bar.finish_and_clear();
    let report = report.map_err(|error| CliError::Failed(error.to_string()))?;
    let part = (!args.projects.is_empty()).then(|| args.projects.join("+"));
    let text = serde_json::to_vec_pretty(&report).map_err(|error| CliError::Failed(error.to_string()))?;
    let kept = resources.archive.save_audit_report(date, part.as_deref(), text).await;
    if args.json {
        output::json(&json!({ "report": report, "url": kept.as_ref().ok() }));
    } else {
        show(&report, kept.as_deref().ok());
    }
    kept.map_err(|error| CliError::Failed(format!("the report could not be kept in the archive: {error}")))?;
    if report.complete { Ok(()) } else { Err(CliError::AlreadyReported) }
}

fn show(report: &AuditReport, url: Option<&str>) {
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
        "{verdict} {date}: {listed} conversations at PolyAI, {archived} archived ({objects} objects, {bytes})"
    ));
    if *unsettled > 0 {
        output::line(format!("  {unsettled} are not over, or only just: left alone"));
    }
    if *erased > 0 {
        output::line(format!("  {erased} were erased here"));
    }
    for (what, count) in counts {
        output::line(format!("  {count} {}", what.replace('_', " ")));
    }
    for AuditFinding { project_id, conversation_id, finding, detail } in findings.iter().take(SHOWN) {
        let what = finding.as_str();
        let what = if finding.is_fault() { output::red(what) } else { output::bold(what) };
        let detail = detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        output::line(format!("{what} {conversation_id} {}{detail}", output::dimmed(project_id)));
    }
    if findings.len() > SHOWN {
        output::line(format!("and {} more, see the report", findings.len() - SHOWN));
    }
    if *queued > 0 {
        output::line(format!("{queued} queued for repair"));
    } else if !report.complete {
        output::line("repair it with: polyhook audit --repair --date ".to_owned() + &date.to_string());
    }
    if let Some(url) = url {
        output::line(output::dimmed(url));
    }
}
