//! `polyhook backfill`: queues the conversations of a past period that the archive lacks.
//!
//! A run stores no progress, because the archive shows what is done. To continue an interrupted run, run the same
//! command again.

use std::{num::NonZeroU32, ops::Range, time::Duration};

use governor::{Quota, RateLimiter};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::json;

use super::{
    CliError, GlobalArgs, output,
    queue_access::{wait_until_ready, with_queue},
    time_arg,
};
use crate::{
    app::Resources,
    clock::Clock,
    config::{Config, Roles},
    event::DiscoverySource,
    polyai::{ListQuery, Project},
    reconcile::{PassSummary, QueueingLimits, ReconcilePass},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook backfill --last 7d
  polyhook backfill --from yesterday --dry-run
  polyhook backfill --from 2026-10-01 --to 2026-10-31 --project acme-front-desk
  polyhook backfill --from 2026-11-02T08:00:00Z --to 2026-11-02T09:30:00Z --json

Times refer to the start of a conversation. A date is a whole day in UTC. The \
conversations are fetched by a worker, so keep `polyhook work` or `run` running. \
The command pauses while more than --ahead jobs wait, so that jobs of webhooks do \
not wait long. You can interrupt it: the same command continues, and does not queue \
what is archived by then.")]
pub(super) struct Args {
    /// Start time (inclusive)
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_time, required_unless_present = "last")]
    from: Option<time_arg::TimeArg>,
    /// End time (exclusive; a date includes the day) [default: now]
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_time)]
    to: Option<time_arg::TimeArg>,
    /// Start this long ago, such as 30d
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_positive_duration, conflicts_with = "from")]
    last: Option<Duration>,
    /// Backfill only this project (repeatable)
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    projects: Vec<String>,
    /// Backfill only this environment (repeatable) [default: worker.environments]
    #[arg(long = "environment", value_name = "NAME")]
    environments: Vec<String>,
    /// Count what is missing without queueing it
    #[arg(long)]
    dry_run: bool,
    /// Maximum conversations queued per second
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Pause while more than N jobs wait
    #[arg(long, value_name = "N", default_value_t = 1000)]
    ahead: u64,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let period = period(&args, clock.now())?;
    let environments = environments(&args, &config)?;
    let resources = Resources::open_for_command(&config, &clock).await?;
    let projects = select_projects(&resources, &args.projects)?;
    let rate =
        args.rate.map(|rate| RateLimiter::direct(Quota::per_second(rate).allow_burst(NonZeroU32::MIN)));
    let limits = QueueingLimits { rate, max_backlog: Some(args.ahead) };
    let query =
        ListQuery { started: period.clone(), environments: environments.to_vec(), failed_before: false };
    let pass = ReconcilePass {
        polyai: &resources.polyai,
        archive: &resources.archive,
        queue: None,
        clock: &clock,
        settle: config.reconcile.settle,
        source: DiscoverySource::Command,
        requested_at: Some(clock.now()),
        limits: &limits,
    };
    if args.dry_run {
        return backfill(&args, &projects, &query, &pass).await;
    }
    with_queue(&config, Roles::NONE, clock.clone(), async |queue, _| {
        wait_until_ready(&**queue).await?;
        backfill(&args, &projects, &query, &ReconcilePass { queue: Some(&**queue), ..pass }).await
    })
    .await
}

/// Returns the environments to backfill. The worker does not archive others than the configured ones.
fn environments<'a>(args: &'a Args, config: &'a Config) -> Result<&'a [String], CliError> {
    let archived = &config.worker.environments;
    if args.environments.is_empty() {
        return Ok(archived);
    }
    match args.environments.iter().find(|name| !archived.contains(name)) {
        None => Ok(&args.environments),
        Some(other) => Err(CliError::Usage(format!(
            "--environment {other}: the worker archives only {}; add {other:?} to worker.environments",
            archived.join(", ")
        ))),
    }
}

/// Returns the configured projects with these ids, or all projects if `names` is empty.
pub(super) fn select_projects<'a>(
    resources: &'a Resources,
    names: &[String],
) -> Result<Vec<&'a Project>, CliError> {
    let all = resources.polyai.projects();
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|project| project.project_id() == **name))
    {
        let known: Vec<_> = all.iter().map(Project::project_id).collect();
        return Err(CliError::Usage(format!(
            "--project {unknown}: not a configured project; choose one of {}",
            known.join(", ")
        )));
    }
    let wanted =
        |project: &&Project| names.is_empty() || names.iter().any(|name| name == project.project_id());
    Ok(all.iter().filter(wanted).collect())
}

fn period(args: &Args, now: Timestamp) -> Result<Range<Timestamp>, CliError> {
    let end = args.to.map_or(now, |to| to.range_end(now)).min(now);
    let start = match (args.from, args.last) {
        (Some(from), _) => from.range_start(now),
        (None, Some(last)) => now.checked_sub(last).unwrap_or(Timestamp::MIN),
        // clap requires one of them.
        (None, None) => now,
    };
    if start >= end {
        return Err(CliError::Usage(format!(
            "the period is empty: its start {start} is not before its end {end}; check --from and --to"
        )));
    }
    Ok(start..end)
}

async fn backfill(
    args: &Args,
    projects: &[&Project],
    query: &ListQuery,
    pass: &ReconcilePass<'_>,
) -> Result<(), CliError> {
    let period = &query.started;
    let progress = Progress::new(period, projects.len(), args.json);
    let mut total = PassSummary::default();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    let mut failures = Vec::new();
    for (done, project) in projects.iter().enumerate() {
        let mut last = PassSummary::default();
        let compared = pass.run(project, query.clone(), |summary, reached| {
            last = *summary;
            let mut sum = total;
            sum.add(summary);
            progress.update(done, reached, &sum);
        });
        let outcome = tokio::select! {
            outcome = compared => Some(outcome),
            _ = &mut interrupted => None,
        };
        let Some(outcome) = outcome else {
            total.add(&last);
            failures.push("interrupted".to_owned());
            break;
        };
        total.add(&outcome.summary);
        let name = |error| format!("project {}: {error}", project.project_id());
        failures.extend(outcome.failures.iter().map(name));
    }
    if failures.is_empty() {
        progress.bar.finish_and_clear();
        print_result(args, period, &total, None);
        return Ok(());
    }
    progress.bar.abandon();
    print_result(args, period, &total, Some(&failures.join("; ")));
    Err(CliError::Failed(format!("{}; run the same command again to continue", failures.join("\n"))))
}

/// A progress bar that counts seconds of the period, once per project.
struct Progress {
    bar: ProgressBar,
    period: Range<Timestamp>,
}

impl Progress {
    fn new(period: &Range<Timestamp>, projects: usize, hidden: bool) -> Self {
        let bar = if hidden {
            ProgressBar::hidden()
        } else {
            let template = "{bar:30} {percent:>3}% {msg}, {elapsed} elapsed, {eta} left";
            let style =
                ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(seconds(period) * projects as u64).with_style(style)
        };
        Self { bar, period: period.clone() }
    }

    /// Shows that `done` projects are finished and that the current one is listed back to `reached`.
    #[expect(clippy::cast_precision_loss, reason = "the rate is shown without decimals")]
    fn update(&self, done: usize, reached: Timestamp, summary: &PassSummary) {
        let period = seconds(&self.period);
        self.bar.set_position(period * done as u64 + seconds(&(reached..self.period.end)).min(period));
        let rate = summary.listed as f64 / self.bar.elapsed().as_secs_f64().max(0.001);
        self.bar.set_message(format!("{} listed ({rate:.0}/s), {} queued", summary.listed, summary.queued));
    }
}

fn seconds(range: &Range<Timestamp>) -> u64 {
    u64::try_from(range.end.as_second() - range.start.as_second()).unwrap_or_default()
}

fn print_result(args: &Args, period: &Range<Timestamp>, summary: &PassSummary, failure: Option<&str>) {
    if args.json {
        output::json(&json!({
            "from": period.start, "to": period.end, "dry_run": args.dry_run, "complete": failure.is_none(),
            "failure": failure, "tally": summary,
        }));
        return;
    }
    output::line(summary_text(summary, args.dry_run));
}

/// Describes the result of a pass in one line.
pub(super) fn summary_text(summary: &PassSummary, dry_run: bool) -> String {
    let PassSummary {
        listed,
        archived,
        missing,
        outdated,
        unsettled,
        erased,
        queued,
        queued_before,
        unreadable,
    } = summary;
    let mut text = format!("{listed} conversations at PolyAI: {archived} archived, {missing} missing");
    let more = [
        (*outdated, "archived before they were over"),
        (*unsettled, "still open or ended only recently"),
        (*erased, "erased"),
        (*unreadable, "entries that cannot be read"),
    ];
    let more = more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    text.extend(more);
    text + &match (dry_run, queued_before) {
        (true, _) => "; nothing was queued (dry run)".to_owned(),
        (false, 0) => format!("; {queued} queued"),
        (false, before) => format!("; {queued} queued, {before} already queued recently"),
    }
}
