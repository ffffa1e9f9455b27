//! `polyhook list`: shows which conversations the archive has.

use std::time::Duration;

use futures_util::TryStreamExt;
use jiff::{Timestamp, ToSpan, civil::Date};
use serde::Serialize;

use super::{CliError, GlobalArgs, backfill, output, table::Table, time_arg};
use crate::{
    app::Resources,
    archive::{Archive, ArchiveError, AudioStatus, ConversationFolder, Manifest, ProjectDay},
    clock::Clock,
    config::Roles,
    index::{CallFilter, Phrase},
    polyai::Project,
    wording,
};

/// The number of conversations that are read at the same time.
const CONCURRENT_READS: usize = 16;
/// The longest period, in days.
const MAX_DAYS: i32 = CallFilter::MAX_LISTED_DAYS;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook list
  polyhook list --date yesterday --missing recording
  polyhook list --channel VOICE-SIP --handoff yes --min-length 2:00
  polyhook list --date 2026-11-02 --to 2026-11-08 --json | jq .audio

Days are those of the start of the call, in UTC. `polyhook show ID` shows one \
conversation, and `polyhook audit` finds what PolyAI has and the archive lacks.")]
pub(super) struct Args {
    /// Day: a date, `today` or `yesterday`
    #[arg(long, value_name = "DATE", value_parser = time_arg::parse_date, default_value = "today")]
    date: time_arg::DateArg,
    /// Last day of a longer period
    #[arg(long, value_name = "DATE", value_parser = time_arg::parse_date)]
    to: Option<time_arg::DateArg>,
    /// List only this project (repeatable)
    #[arg(long = "project", value_name = "PROJECT_ID", alias = "project-id")]
    projects: Vec<String>,
    /// List only conversations without this part (repeatable)
    #[arg(long, value_name = "PART")]
    missing: Vec<Part>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// The fields that the console filters by, too.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
struct FilterArgs {
    /// List only this environment (`live`, `sandbox`, …)
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// List only this channel (`VOICE-SIP`, `WEBCHAT`, …)
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// List only recordings with this status (`ready`, `absent`, …)
    #[arg(long, value_name = "STATUS")]
    audio: Option<String>,
    /// List only calls that were handed over, or only the others
    #[arg(long, value_name = "HANDOFF")]
    handoff: Option<HandoffArg>,
    /// List only handoffs with this text in their reason
    #[arg(long, value_name = "TEXT", value_parser = parse_phrase)]
    handoff_reason: Option<Phrase>,
    /// List only calls of this length or longer (`1:30`, `90s`)
    #[arg(long, value_name = "LENGTH", value_parser = parse_length)]
    min_length: Option<u32>,
    /// List only calls of this length or shorter
    #[arg(long, value_name = "LENGTH", value_parser = parse_length)]
    max_length: Option<u32>,
    /// List only conversations whose id begins with this text
    #[arg(long = "id", value_name = "TEXT")]
    id_prefix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum HandoffArg {
    /// Handed over
    Yes,
    /// Not handed over
    No,
}

fn parse_phrase(text: &str) -> Result<Phrase, String> {
    Phrase::new(text).ok_or_else(|| format!("write 1 to {} characters", Phrase::MAX_CHARS))
}

fn parse_length(text: &str) -> Result<u32, String> {
    wording::parse_length(text)
        .ok_or_else(|| "write minutes and seconds, such as 1:30, or a length, such as 90s".to_owned())
}

impl FilterArgs {
    fn filter(&self) -> CallFilter {
        CallFilter {
            environment: self.environment.clone(),
            channel: self.channel.clone(),
            audio: self.audio.clone(),
            handoff: self.handoff.map(|handoff| handoff == HandoffArg::Yes),
            handoff_reason: self.handoff_reason.clone(),
            min_seconds: self.min_length,
            max_seconds: self.max_length,
            id_prefix: self.id_prefix.clone(),
            ..CallFilter::default()
        }
    }
}

/// A part that an archived conversation may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A recording: PolyAI has none, or it could not be had
    Recording,
    /// The transcript: PolyAI counts turns, but shows none
    Transcript,
    /// PolyAI's summary
    Summary,
}

/// An archived conversation.
#[derive(Debug, Serialize)]
struct ListedRow {
    conversation_id: String,
    account_id: String,
    project_id: String,
    environment: String,
    channel: String,
    started_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    turns: u64,
    audio: AudioStatus,
    revision: u64,
    archived_at: Timestamp,
    /// The names of objects that are missing or differ from the manifest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    damaged: Vec<String>,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::RECONCILE)?;
    let clock = Clock::System;
    let (first, last) = period(&args, clock.now())?;
    let resources = Resources::open_for_command(&config, &clock).await?;
    let projects = backfill::select_projects(&resources, &args.projects)?;
    let mut table = Table::new(["STARTED", "ID", "AUDIO", "LENGTH", "TURNS", "CHANNEL", "PROJECT"], 2);
    if projects.len() == 1 {
        table.leave_out_last_column();
    }
    let filter = args.filter.filter();
    let (mut found, mut matching, mut shown, mut failures) = (0_u64, 0_u64, 0_u64, Vec::new());
    let mut date = first;
    while date <= last {
        for project in &projects {
            for (manifest, damaged) in read_day(&resources.archive, project, date, &mut failures).await? {
                found += 1;
                if !filter.matches_manifest(&manifest) {
                    continue;
                }
                matching += 1;
                if !args.missing.is_empty() && !args.missing.iter().any(|part| part.is_missing(&manifest)) {
                    continue;
                }
                shown += 1;
                let row = ListedRow::new(manifest, damaged);
                if args.json {
                    output::json(&row);
                } else {
                    table.row(row.cells(first == last));
                }
            }
        }
        date = date.saturating_add(1.day());
    }
    table.flush();
    if shown == 0 && !args.json {
        let missing = if matching == 0 { &[][..] } else { &args.missing };
        output::note(&nothing_found(first, last, missing, found > matching));
    }
    if failures.is_empty() { Ok(()) } else { Err(CliError::Failed(failures.join("\n"))) }
}

/// Says that no conversation was found, or none that matches the filter, or none of these that lacks one of these parts.
fn nothing_found(first: Date, last: Date, missing: &[Part], is_filtered: bool) -> String {
    let days = if first == last { format!("of {first}") } else { format!("from {first} to {last}") };
    if missing.is_empty() {
        let matching = if is_filtered { " that matches the filters" } else { "" };
        return format!("the archive has no conversation {days} (UTC){matching}");
    }
    let parts: Vec<_> = missing.iter().map(|part| part.label()).collect();
    format!("no conversation {days} lacks its {}", parts.join(" or "))
}

fn period(args: &Args, now: Timestamp) -> Result<(Date, Date), CliError> {
    let first = args.date.resolve(now);
    let last = args.to.as_ref().map_or(first, |to| to.resolve(now));
    let days = first.until(last).map_or(i32::MAX, |span| span.get_days());
    if !(0..MAX_DAYS).contains(&days) {
        return Err(CliError::Usage(format!(
            "--to {last}: the period must have 1 to {MAX_DAYS} days, counted from --date {first}"
        )));
    }
    Ok((first, last))
}

/// Reads the manifests of a day, in the order of the starts, each with the names of damaged objects. One that cannot be read becomes a failure.
async fn read_day(
    archive: &Archive,
    project: &Project,
    date: Date,
    failures: &mut Vec<String>,
) -> Result<Vec<(Manifest, Vec<String>)>, CliError> {
    let day = &ProjectDay::new(project.account_id(), project.project_id(), date);
    let folders = archive.list_folders(day);
    let failed = |error: ArchiveError| CliError::Failed(format!("archive.url: {error}"));
    let found: Vec<_> = folders
        .map_ok(|ConversationFolder { name, .. }| async move {
            let read = archive.inspect(day, &name, false).await;
            Ok((name, read))
        })
        .try_buffer_unordered(CONCURRENT_READS)
        .try_collect()
        .await
        .map_err(failed)?;
    let mut rows = Vec::new();
    for (name, read) in found {
        match read {
            Ok(Some(stored)) => {
                let damaged = stored.damaged().to_vec();
                rows.push((stored.manifest, damaged));
            }
            // The commit of this one is not complete.
            Ok(None) => {}
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    rows.sort_by_key(|(manifest, _)| manifest.facts.started_at);
    Ok(rows)
}

impl Part {
    fn label(self) -> &'static str {
        match self {
            Self::Recording => "recording",
            Self::Transcript => "transcript",
            Self::Summary => "summary",
        }
    }

    fn is_missing(self, manifest: &Manifest) -> bool {
        match self {
            Self::Recording => matches!(manifest.audio.status, AudioStatus::Absent | AudioStatus::Failed),
            Self::Transcript => {
                manifest.warnings.iter().any(|warning| warning.starts_with("transcript_hidden"))
            }
            Self::Summary => !manifest.facts.summarised,
        }
    }
}

impl ListedRow {
    fn new(manifest: Manifest, damaged: Vec<String>) -> Self {
        let Manifest { facts, .. } = manifest;
        Self {
            conversation_id: manifest.conversation_id,
            account_id: manifest.account_id,
            project_id: manifest.project_id,
            duration_ms: duration_ms(facts.total_duration_s),
            environment: facts.environment,
            channel: facts.channel,
            started_at: facts.started_at,
            turns: facts.turn_count,
            audio: manifest.audio.status,
            revision: manifest.revision,
            archived_at: manifest.timings.archived_at,
            damaged,
        }
    }

    /// Returns the cells of the table. With `is_single_day` the start has no date.
    fn cells(&self, is_single_day: bool) -> [String; 7] {
        let audio = if self.damaged.is_empty() { self.audio.as_str() } else { "damaged" };
        let format = if is_single_day { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
        [
            self.started_at.strftime(format).to_string(),
            self.conversation_id.clone(),
            audio.to_owned(),
            self.duration_ms.map(length).unwrap_or_default(),
            self.turns.to_string(),
            self.channel.clone(),
            self.project_id.clone(),
        ]
    }
}

/// Returns seconds as whole milliseconds.
pub(super) fn duration_ms(seconds: Option<f64>) -> Option<u64> {
    let duration = Duration::try_from_secs_f64(seconds?).ok()?;
    u64::try_from(duration.as_millis()).ok()
}

/// Formats the length of a call: `4:05`.
pub(super) fn length(duration_ms: u64) -> String {
    wording::length(Duration::from_millis(duration_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_conversations_there_are_not() {
        let (first, last) = ("2026-11-30".parse().unwrap(), "2026-12-01".parse().unwrap());
        for (last, missing, expected) in [
            (first, &[][..], "the archive has no conversation of 2026-11-30 (UTC)"),
            (last, &[], "the archive has no conversation from 2026-11-30 to 2026-12-01 (UTC)"),
            (first, &[Part::Recording], "no conversation of 2026-11-30 lacks its recording"),
            (
                first,
                &[Part::Summary, Part::Transcript],
                "no conversation of 2026-11-30 lacks its summary or transcript",
            ),
        ] {
            assert_eq!(nothing_found(first, last, missing, false), expected);
        }
        let expected = "the archive has no conversation of 2026-11-30 (UTC) that matches the filters";
        assert_eq!(nothing_found(first, first, &[], true), expected);
    }
}
