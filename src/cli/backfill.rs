//! `polyhook backfill`: queue what the archive lacks of a past time.
//!
//! Nothing is remembered between runs, because nothing has to be: what is archived is in the archive. So a run that was
//! interrupted is simply run again.

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
    polyai::Project,
    queue::Queue,
    reconcile::{PassSummary, QueueingLimits, ReconcilePass},
};

/// Queue every conversation of a past time that is not in the archive.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook backfill --last 30d --dry-run
  polyhook backfill --from 2026-10-01 --to 2026-10-31 --project acme-front-desk
  polyhook backfill --from 2026-11-02T08:00:00Z --to 2026-11-02T09:30:00Z --json

Times are those of a conversation's start; a date is a day of UTC, and --to a date includes it. What is queued is
fetched by a worker (`polyhook work` or `run`), so one has to be running: no more than --ahead jobs wait at a time, and
what webhooks bring never waits behind more than that. Interrupt it whenever you like: the same command goes on, and
queues nothing that is archived by then.")]
pub(super) struct Args {
    /// From then on
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_time, required_unless_present = "last")]
    from: Option<time_arg::TimeArg>,
    /// Until then; now where absent
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_time)]
    to: Option<time_arg::TimeArg>,
    /// From so long ago
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_positive_duration, conflicts_with = "from")]
    last: Option<Duration>,
    /// Only this project; may be repeated
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    projects: Vec<String>,
    /// Only this environment, instead of worker.environments; may be repeated
    #[arg(long = "environment", value_name = "NAME")]
    environments: Vec<String>,
    /// Say what is missing and queue nothing
    #[arg(long)]
    dry_run: bool,
    /// Queue at most so many a second
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    /// Queue while no more than so many jobs wait
    #[arg(long, value_name = "N", default_value_t = 1000)]
    ahead: u64,
    /// One JSON object at the end instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let started = range(&args, clock.now())?;
    let environments =
        if args.environments.is_empty() { &config.worker.environments } else { &args.environments };
    if let Some(unwanted) = environments.iter().find(|name| !config.worker.environments.contains(name)) {
        return Err(CliError::Usage(format!(
            "the worker archives {} only: add {unwanted:?} to worker.environments",
            config.worker.environments.join(", ")
        )));
    }
    let resources = Resources::open(&config, &clock)?;
    let projects = projects(&resources, &args.projects)?;
    if args.dry_run {
        return work(&args, &resources, &projects, started, environments, None, &config, &clock).await;
    }
    with_queue(&config, Roles::NONE, clock.clone(), async |queue, _| {
        wait_until_ready(&**queue).await?;
        work(&args, &resources, &projects, started, environments, Some(&**queue), &config, &clock).await
    })
    .await
}

/// The configured projects of these names; all where none is named.
pub(super) fn projects<'a>(resources: &'a Resources, names: &[String]) -> Result<Vec<&'a Project>, CliError> {
    let all = resources.polyai.projects();
    if let Some(unknown) = names.iter().find(|name| !all.iter().any(|project| project.project_id() == **name))
    {
        let known: Vec<_> = all.iter().map(Project::project_id).collect();
        return Err(CliError::Usage(format!(
            "there is no project {unknown:?}; configured: {}",
            known.join(", ")
        )));
    }
    let wanted =
        |project: &&Project| names.is_empty() || names.iter().any(|name| name == project.project_id());
    Ok(all.iter().filter(wanted).collect())
}

fn range(args: &Args, now: Timestamp) -> Result<Range<Timestamp>, CliError> {
    let end = args.to.map_or(now, time_arg::TimeArg::range_end).min(now);
    let start = match (args.from, args.last) {
        (Some(from), _) => from.range_start(),
        (None, Some(last)) => now.checked_sub(last).unwrap_or(Timestamp::MIN),
        // clap has seen to it.
        (None, None) => now,
    };
    if start >= end {
        return Err(CliError::Usage(format!("there is no time between {start} and {end}")));
    }
    Ok(start..end)
}

#[expect(
    clippy::too_many_arguments,
    reason = "they are what a run consists of, and go together nowhere else"
)]
async fn work(
    args: &Args,
    resources: &Resources,
    projects: &[&Project],
    started: Range<Timestamp>,
    environments: &[String],
    queue: Option<&dyn Queue>,
    config: &Config,
    clock: &Clock,
) -> Result<(), CliError> {
    let rate =
        args.rate.map(|rate| RateLimiter::direct(Quota::per_second(rate).allow_burst(NonZeroU32::MIN)));
    let limits = QueueingLimits { rate, max_backlog: Some(args.ahead) };
    let pass = ReconcilePass {
        polyai: &resources.polyai,
        archive: &resources.archive,
        queue,
        clock,
        settle: config.reconcile.settle,
        environments,
        source: DiscoverySource::Command,
        requested_at: Some(clock.now()),
        limits: &limits,
    };
    let bar = bar(&started, projects.len(), args.json);
    let mut total = PassSummary::default();
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    for (done, project) in projects.iter().enumerate() {
        let mut last = PassSummary::default();
        let compared = pass.run(project, started.clone(), |tally, reached| {
            last = *tally;
            let mut sum = total;
            sum.add(tally);
            show(&bar, &started, done, reached, &sum);
        });
        let result = tokio::select! {
            result = compared => Some(result),
            _ = &mut interrupted => None,
        };
        total.add(&last);
        let why = match result {
            Some(Ok(_)) => continue,
            Some(Err(error)) => format!("project {}: {error}", project.project_id()),
            None => "interrupted".to_owned(),
        };
        bar.abandon();
        report(args, &started, &total, Some(&why));
        return Err(CliError::Failed(format!("{why}. The same command goes on where this one stopped")));
    }
    bar.finish_and_clear();
    report(args, &started, &total, None);
    Ok(())
}

/// A bar of seconds of conversations' time.
fn bar(started: &Range<Timestamp>, projects: usize, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(seconds(started) * projects as u64);
    let style = ProgressStyle::with_template("{bar:30} {percent:>3}% {msg}, {elapsed} elapsed, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn show(bar: &ProgressBar, started: &Range<Timestamp>, done: usize, reached: Timestamp, tally: &PassSummary) {
    let whole = seconds(started);
    bar.set_position(whole * done as u64 + seconds(&(reached..started.end)).min(whole));
    let rate = tally.listed as f64 / bar.elapsed().as_secs_f64().max(0.001);
    bar.set_message(format!("{} listed ({rate:.0}/s), {} queued", tally.listed, tally.queued));
}

fn seconds(range: &Range<Timestamp>) -> u64 {
    u64::try_from(range.end.as_second() - range.start.as_second()).unwrap_or_default()
}

fn report(args: &Args, started: &Range<Timestamp>, tally: &PassSummary, why: Option<&str>) {
    if args.json {
        output::json(&json!({
            "from": started.start, "to": started.end, "dry_run": args.dry_run, "complete": why.is_none(),
            "failure": why, "tally": tally,
        }));
        return;
    }
    output::line(told(tally, args.dry_run));
}

/// A tally in words.
pub(super) fn told(tally: &PassSummary, dry_run: bool) -> String {
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
    } = tally;
    let mut text = format!("{listed} conversations at PolyAI: {archived} archived, {missing} missing");
    let more = [
        (*outdated, "archived before they were over"),
        (*unsettled, "not over, or only just"),
        (*erased, "erased"),
        (*unreadable, "entries without an id"),
    ];
    let more = more.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!(", {count} {what}"));
    text.extend(more);
    text + &match (dry_run, queued_before) {
        (true, _) => "; nothing was queued (dry run)".to_owned(),
        (false, 0) => format!("; {queued} queued"),
        (false, before) => format!("; {queued} queued, {before} had been queued not long ago"),
    }
}
