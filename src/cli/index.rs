//! `polyhook index`: builds and verifies the Parquet tables of calls and turns.

use std::{collections::BTreeSet, fmt::Write, time::Duration};

use indicatif::ProgressBar;
use jiff::{Timestamp, civil::Date, tz::Offset};
use serde::Serialize;

use super::{
    CliError, GlobalArgs, backfill,
    output::{self, counted},
    progress, time_arg,
};
use crate::{
    app::Resources,
    archive::ProjectDay,
    clock::Clock,
    config::Roles,
    index::{DayFindings, DayUpdate, Index, IndexFinding, UpdateProgress},
    lifecycle::TerminationSignals,
    shell,
};

/// Findings that are printed; `--json` has all of them.
const MAX_PRINTED_FINDINGS: usize = 50;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Bring the tables up to date with the archive
    #[command(after_help = "\
Examples:
  polyhook index build
  polyhook index build --date yesterday
  polyhook index build --last 7d --project acme-front-desk
  polyhook index build --all --json | jq .calls

Running services keep the tables current; this command does it now, also for days \
that they have not compared yet. What is up to date is not read again, so an \
interrupted build continues with the same command. It does not disturb services. \
The exit code is 1 if a conversation cannot be read, or a day cannot be updated.")]
    Build(Args),
    /// Compare the tables with the archive; exit code 1 if they differ
    #[command(after_help = "\
Examples:
  polyhook index verify
  polyhook index verify --date yesterday
  polyhook index verify --last 7d --json | jq .counts

Findings:
  missing             the archive has the conversation, the tables lack it
  outdated            the tables have an earlier copy of the conversation
  extra               the tables have a call that the archive lacks
  duplicate           the tables have a call several times
  turns_without_call  there are turns of a call that the tables lack
  other_turns         a call has another number of turns than it says
  unreadable          the conversation cannot be read in the archive
  damaged             a file cannot be read, or one of the two is missing
  other_version       other schema version, or other form of phone numbers

Conversations that were archived just now wait for the service, and are not findings. \
Nothing is changed.")]
    Verify(Args),
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Day (UTC) on which the conversations started: a date, `today` or `yesterday`
    #[arg(long, value_name = "DATE", value_parser = time_arg::parse_date, conflicts_with_all = ["last", "all"])]
    date: Option<time_arg::DateArg>,
    /// Days since this long ago, such as 7d
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_positive_duration, conflicts_with = "all")]
    last: Option<Duration>,
    /// All days of the archive (the default)
    #[arg(long)]
    all: bool,
    /// Only this project (repeatable)
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    projects: Vec<String>,
    /// Print one JSON object per project and day, one per line
    #[arg(long)]
    json: bool,
}

/// A day of a project.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Day {
    date: Date,
    account_id: String,
    project_id: String,
}

/// The result of `build` for a day.
#[derive(Debug, Serialize)]
struct BuiltDay<'a> {
    #[serde(flatten)]
    day: &'a Day,
    complete: bool,
    calls: usize,
    read: usize,
    removed: usize,
    unreadable: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<String>,
}

/// The result of `verify` for a day.
#[derive(Debug, Serialize)]
struct VerifiedDay<'a> {
    #[serde(flatten)]
    day: &'a Day,
    complete: bool,
    #[serde(flatten)]
    findings: &'a DayFindings,
}

pub(super) async fn run(global: &GlobalArgs, command: Command) -> Result<(), CliError> {
    let (Command::Build(args) | Command::Verify(args)) = &command;
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let resources = Resources::open_for_command(&config, &clock).await?;
    let days = list_days(args, &resources, clock.now()).await?;
    if days.is_empty() && !args.json {
        output::note("the archive has no conversation of these days");
    }
    match &command {
        Command::Build(args) => {
            let mut termination = TerminationSignals::install();
            let result = tokio::select! {
                result = build(args, &resources.index, &days) => result,
                _ = termination.first() => {
                    Err(CliError::Failed("interrupted; to continue, run the same command again".to_owned()))
                }
            };
            if !config.index.enabled && !args.json {
                output::note("index.enabled is false, so nothing keeps these tables current");
            }
            result
        }
        Command::Verify(args) => verify(args, &resources.index, &days).await,
    }
}

/// Returns the days of the archive that the arguments name, newest first.
async fn list_days(args: &Args, resources: &Resources, now: Timestamp) -> Result<Vec<Day>, CliError> {
    let today = Offset::UTC.to_datetime(now).date();
    let first = args.last.map(|last| now.checked_sub(last).unwrap_or(Timestamp::MIN));
    let first = first.map(|first| Offset::UTC.to_datetime(first).date());
    let is_wanted = |date: &Date| match (args.date, first) {
        (Some(wanted), _) => wanted.resolve(now) == *date,
        (None, Some(first)) => (first..=today).contains(date),
        (None, None) => true,
    };
    let mut days = BTreeSet::new();
    for project in backfill::select_projects(resources, &args.projects)? {
        let (account_id, project_id) = (project.account_id(), project.project_id());
        let dates = resources.index.list_dates(account_id, project_id).await;
        let dates = dates.map_err(|error| CliError::Failed(format!("archive.url: {error}")))?;
        let (account_id, project_id) = (account_id.to_owned(), project_id.to_owned());
        days.extend(dates.into_iter().filter(is_wanted).map(|date| Day {
            date,
            account_id: account_id.clone(),
            project_id: project_id.clone(),
        }));
    }
    Ok(days.into_iter().rev().collect())
}

impl Day {
    fn of_project(&self) -> ProjectDay {
        ProjectDay::new(&self.account_id, &self.project_id, self.date)
    }
}

async fn build(args: &Args, index: &Index, days: &[Day]) -> Result<(), CliError> {
    let bar = progress::bar(0, "read", args.json);
    let (mut read, mut removed, mut updated, mut failures) = (0, 0, 0_u64, Vec::new());
    for (number, day) in days.iter().enumerate() {
        let show = |progress| show_progress(&bar, progress, day, number + 1, days.len());
        let update = match index.check_day(&day.of_project(), None, show).await {
            Ok(update) => update,
            Err(error) if index.is_archive_unreachable(&error).await => {
                bar.finish_and_clear();
                return Err(CliError::Failed(error.to_string()));
            }
            Err(error) => {
                failures.push(error.to_string());
                continue;
            }
        };
        read += update.read;
        removed += update.removed;
        updated += u64::from(update.is_written);
        let unreadable: Vec<_> =
            update.unreadable.iter().map(|found| format!("{}: {}", found.name, found.reason)).collect();
        if args.json {
            print_built(day, &update, &unreadable);
        } else if update.is_written {
            bar.suspend(|| output::line(describe_update(day, &update)));
        }
        failures.extend(unreadable.into_iter().map(|reason| format!("{} {reason}", day.date)));
    }
    bar.finish_and_clear();
    if !args.json && !days.is_empty() {
        let (days, read) = (counted(days.len() as u64, "day"), counted(read as u64, "conversation"));
        output::line(format!("{days} compared, {updated} updated: {read} read, {removed} removed"));
    }
    if failures.is_empty() { Ok(()) } else { Err(CliError::Failed(failures.join("\n"))) }
}

fn show_progress(bar: &ProgressBar, progress: UpdateProgress, day: &Day, number: usize, days: usize) {
    bar.set_length(progress.total as u64);
    bar.set_position(progress.done as u64);
    bar.set_message(format!("of {}, day {number} of {days}", day.date));
}

fn print_built(day: &Day, update: &DayUpdate, unreadable: &[String]) {
    output::json(&BuiltDay {
        day,
        complete: unreadable.is_empty(),
        calls: update.calls,
        read: update.read,
        removed: update.removed,
        unreadable: unreadable.len(),
        failures: unreadable.to_vec(),
    });
}

fn describe_update(day: &Day, update: &DayUpdate) -> String {
    let DayUpdate { calls, read, removed, unreadable, .. } = update;
    let mut text =
        format!("{} {}: {} ({read} read", day.date, day.project_id, counted(*calls as u64, "call"));
    if *removed > 0 {
        let _ = write!(text, ", {removed} removed");
    }
    if !unreadable.is_empty() {
        let _ = write!(text, ", {} unreadable", unreadable.len());
    }
    text + ")"
}

async fn verify(args: &Args, index: &Index, days: &[Day]) -> Result<(), CliError> {
    let bar = progress::bar(days.len() as u64, "days compared", args.json);
    let (mut sum, mut wrong, mut left) = (DayFindings::default(), Vec::new(), MAX_PRINTED_FINDINGS);
    for day in days {
        let findings = index.verify_day(&day.of_project()).await;
        let findings = findings.map_err(|error| {
            bar.finish_and_clear();
            CliError::Failed(error.to_string())
        })?;
        if args.json {
            output::json(&VerifiedDay { day, complete: findings.is_complete(), findings: &findings });
        } else if !findings.is_complete() {
            bar.suspend(|| print_findings(day, &findings, &mut left));
        }
        bar.inc(1);
        sum.archived += findings.archived;
        sum.calls += findings.calls;
        sum.turns += findings.turns;
        sum.waiting += findings.waiting;
        if !findings.is_complete() {
            wrong.push((day, findings.can_be_built()));
        }
    }
    bar.finish_and_clear();
    if !args.json && !days.is_empty() {
        print_summary(args, &sum, days, &wrong);
    }
    if wrong.is_empty() { Ok(()) } else { Err(CliError::AlreadyReported) }
}

/// Prints the findings of a day, `left` at most.
fn print_findings(day: &Day, findings: &DayFindings, left: &mut usize) {
    let counts: Vec<_> =
        findings.counts.iter().map(|(kind, count)| format!("{count} {}", kind.replace('_', " "))).collect();
    output::line(format!(
        "{} {} {}: {}",
        output::red("differs"),
        day.date,
        output::sanitize(&day.project_id),
        counts.join(", ")
    ));
    for IndexFinding { finding, conversation_id, detail } in findings.findings.iter().take(*left) {
        let id = conversation_id.as_deref().map(|id| format!(" {id}")).unwrap_or_default();
        let detail = detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        output::line(format!("  {}{}", finding.as_str(), output::sanitize(&(id + &detail))));
    }
    let hidden = findings.findings.len().saturating_sub(*left);
    *left -= findings.findings.len() - hidden;
    if hidden > 0 {
        output::line(format!("  and {hidden} more; --json lists all"));
    }
}

fn print_summary(args: &Args, sum: &DayFindings, days: &[Day], wrong: &[(&Day, bool)]) {
    let DayFindings { archived, calls, turns, waiting, .. } = sum;
    let verdict = if wrong.is_empty() { output::green("complete") } else { output::red("incomplete") };
    let days = counted(days.len() as u64, "day");
    let waiting = if *waiting > 0 { format!(", {waiting} waiting for the service") } else { String::new() };
    output::line(format!(
        "{verdict} {days}: {archived} archived, {} and {} in the tables{waiting}",
        counted(*calls as u64, "call"),
        counted(*turns, "turn")
    ));
    let mut projects = String::new();
    for project in &args.projects {
        let _ = write!(projects, " --project {}", shell::quote(project));
    }
    let built: Vec<_> = wrong.iter().filter(|(_, can_be_built)| *can_be_built).map(|(day, _)| *day).collect();
    match &built[..] {
        [] => {}
        [day] => output::line(format!("repair with `polyhook index build --date {}{projects}`", day.date)),
        _ => output::line(format!("repair with `polyhook index build{projects}`")),
    }
    for (day, _) in wrong.iter().filter(|(_, can_be_built)| !can_be_built) {
        output::line(format!("repair with `polyhook audit --repair --date {}{projects}`", day.date));
    }
}
