//! `polyhook backfill`: queues the conversations of a past period that the archive lacks.
//!
//! A run stores no progress, because the archive shows what is done. To continue an interrupted run, run the same
//! command again.

mod listing;
mod wait;

use std::{num::NonZeroU32, ops::Range, pin::pin, time::Duration};

use governor::{Quota, RateLimiter};
use jiff::Timestamp;
use serde_json::json;
use tokio::sync::mpsc;

use self::{
    listing::Listing,
    wait::{Wait, WaitDisplay, WaitTimes},
};

use super::{
    CliError, GlobalArgs,
    output::{self, counted},
    queue_access::{wait_until_ready, with_queue},
    time_arg,
};
use crate::{
    app::Resources,
    clock::Clock,
    config::{Config, Roles},
    event::DiscoverySource,
    lifecycle::TerminationSignals,
    polyai::{ListQuery, Project},
    queue::{QueueBackend, rabbitmq::CONSUMER_TIMEOUT},
    reconcile::{PassSummary, PendingConversations, PendingCounts, QueueingLimits, ReconcilePass},
};

/// The number of queued conversations that `--wait` has not taken note of, before the listing pauses.
const CHANNEL_CAPACITY: usize = 1024;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook backfill --last 7d
  polyhook backfill --from yesterday --dry-run
  polyhook backfill --from 2026-10-01 --to 2026-10-31 --project acme-front-desk
  polyhook backfill --from 2026-11-02T08:00:00Z --to 2026-11-02T09:30:00Z --json
  polyhook backfill --last 7d --wait --timeout 2h

Times refer to the start of a conversation. A date is a whole day in UTC. The \
conversations are fetched by a worker, so keep `polyhook work` or `run` running. \
The command pauses while more than --ahead jobs wait, so that jobs of webhooks do \
not wait long. You can interrupt it: the same command continues, and does not queue \
what is archived by then. With --wait the exit code is also 1 if a conversation is not \
archived in the end.")]
pub(super) struct Args {
    /// Start time (inclusive)
    #[arg(long, value_name = "TIME", value_parser = time_arg::parse_time)]
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
    /// Return when everything queued is archived or a dead letter
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Give up waiting after this time, such as 2h (with --wait)
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_positive_duration, requires = "wait")]
    timeout: Option<Duration>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let clock = Clock::System;
    let period = period(&args, clock.now())?;
    let config = global.load_for_command(Roles::RECONCILE)?;
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
        queued: None,
    };
    if args.dry_run {
        return backfill(&args, &projects, &query, &pass).await;
    }
    with_queue(&config, Roles::NONE, clock.clone(), async |queue, _| {
        wait_until_ready(&**queue).await?;
        let pass = ReconcilePass { queue: Some(&**queue), ..pass };
        if args.wait {
            let pending = PendingConversations::new(&resources.archive, &**queue);
            return backfill_and_wait(&args, &projects, &query, &pass, (pending, wait_times(&args, &config)))
                .await;
        }
        backfill(&args, &projects, &query, &pass).await
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
        (None, None) => {
            return Err(CliError::Usage(
                "no period is given; start with `polyhook backfill --last 7d`, or give --from and --to"
                    .to_owned(),
            ));
        }
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
    let mut termination = TerminationSignals::install();
    let listing = Listing::new(args.json);
    let is_interrupted = tokio::select! {
        () = listing.run(projects, query, pass) => false,
        _ = termination.first() => true,
    };
    let mut failures = listing.finish();
    if is_interrupted {
        failures.push("interrupted".to_owned());
    }
    print_result(args, &query.started, &listing.summary(), None, &failures);
    ended(&to_continue(&failures))
}

fn wait_times(args: &Args, config: &Config) -> WaitTimes {
    // RabbitMQ does not count the jobs that workers have. An attempt ends before the broker takes its job back.
    let is_rabbitmq = config.queue.backend() == Ok(QueueBackend::RabbitMq);
    WaitTimes {
        poll: Duration::from_millis(500),
        remark_after: Duration::from_secs(30),
        max_empty: if is_rabbitmq { CONSUMER_TIMEOUT } else { Duration::from_secs(10) },
        timeout: args.timeout,
    }
}

async fn backfill_and_wait(
    args: &Args,
    projects: &[&Project],
    query: &ListQuery,
    pass: &ReconcilePass<'_>,
    (mut pending, times): (PendingConversations<'_>, WaitTimes),
) -> Result<(), CliError> {
    let mut termination = TerminationSignals::install();
    let listing = Listing::new(args.json);
    let (sender, queued) = mpsc::channel(CHANNEL_CAPACITY);
    let list = async {
        let sender = sender;
        listing.run(projects, query, &ReconcilePass { queued: Some(&sender), ..*pass }).await;
    };
    let wait = Wait { pending: &mut pending, times, display: &listing }.run(queued);
    let list_and_wait = async {
        let mut wait = pin!(wait);
        tokio::select! {
            // The wait ends before the listing only if it gives up.
            waited = &mut wait => return waited,
            () = list => {}
        }
        wait.await
    };
    let waited = tokio::select! {
        waited = list_and_wait => Some(waited),
        _ = termination.first() => None,
    };
    let counts = pending.counts();
    let mut failures = to_continue(&listing.finish());
    match waited {
        Some(waited) => failures.extend(waited.err()),
        None => failures.push(format!(
            "interrupted; {} in the queue for a worker; run the same command again to continue",
            output::plural(
                counts.left,
                "the job of 1 conversation stays",
                "the jobs of {} conversations stay"
            )
        )),
    }
    if counts.dead_letters > 0 {
        failures.push(format!(
            "{}; see why with `polyhook dead list`, then replay what failed",
            output::plural(
                counts.dead_letters,
                "the job of 1 conversation is a dead letter",
                "the jobs of {} conversations are dead letters"
            )
        ));
    }
    print_result(args, &query.started, &listing.summary(), Some(&counts), &failures);
    ended(&failures)
}

/// Adds to failures of a listing what to do.
fn to_continue(failures: &[String]) -> Vec<String> {
    let text = failures.join("\n");
    if text.is_empty() { Vec::new() } else { vec![format!("{text}; run the same command again to continue")] }
}

fn ended(failures: &[String]) -> Result<(), CliError> {
    if failures.is_empty() { Ok(()) } else { Err(CliError::Failed(failures.join("\n"))) }
}

impl WaitDisplay for Listing {
    fn counts(&self, counts: PendingCounts) {
        self.show_pending(counts);
    }

    fn remark(&self, text: &str) {
        self.note(text);
    }
}

fn print_result(
    args: &Args,
    period: &Range<Timestamp>,
    summary: &PassSummary,
    waited: Option<&PendingCounts>,
    failures: &[String],
) {
    let failure = (!failures.is_empty()).then(|| failures.join("; "));
    if args.json {
        let mut result = json!({
            "from": period.start, "to": period.end, "dry_run": args.dry_run, "complete": failure.is_none(),
            "failure": failure, "tally": summary,
        });
        if let Some(waited) = waited {
            result["waited"] = json!(waited);
        }
        output::json(&result);
        return;
    }
    output::line(summary_text(summary, args.dry_run));
    let is_queued = summary.queued + summary.queued_before > 0;
    if let Some(PendingCounts { archived, dead_letters, left }) = waited.filter(|_| is_queued) {
        output::line(format!(
            "since then {archived} archived, {}, {left} left",
            counted(*dead_letters, "dead letter")
        ));
    }
    if waited.is_none() && is_queued && !args.dry_run {
        output::note(
            "a worker archives them: keep `polyhook run` or `polyhook work` running, or wait for it with --wait",
        );
    }
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
    let mut text =
        format!("{} at PolyAI: {archived} archived, {missing} missing", counted(*listed, "conversation"));
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
