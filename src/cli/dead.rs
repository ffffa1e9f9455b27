//! `polyhook dead list|show|replay|drop`: what could not be archived, why, and what becomes of it.
//!
//! Letters are read one after the other and shown or ended as they come, so their number does not matter. A
//! replay is a move that the queue confirms: whenever this process ends, a letter is a dead letter still, or a
//! job again.

mod table;

use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use futures_util::future::join_all;
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::Serialize;

use self::table::DeadLetterTable;
use super::{
    CliError, GlobalArgs,
    output::{self, sanitize},
    prompt,
    queue_access::{require_queue_file, wait_until_ready, with_queue},
    time_arg,
};
use crate::{
    clock::Clock,
    config::Roles,
    event::Event,
    queue::{Attempt, DeadLetter, DeadLetters, Queue, QueueBackend, QueueError},
};

/// How many letters are ended at a time: they share a commit, or the wait for confirms. With the largest body
/// that is taken it is also what a replay may need of memory.
const AT_ONCE: usize = 16;

/// List dead letters, show why they are dead, replay or drop them.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List dead letters, oldest first
    #[command(after_help = "\
Examples:
  polyhook dead list
  polyhook dead list --reason key_rejected --older-than 1d
  polyhook dead list --json | jq -r .conversation_id

The queue is that of the configuration: use the service's own. On RabbitMQ, what a `dead` command
has read is hidden from other `dead` commands, and missing in polyhook_queue_depth, until it ends.")]
    List(ListArgs),
    /// Show everything about a dead letter: its tries with times, statuses and PolyAI's correlation ids
    #[command(after_help = "\
Examples:
  polyhook dead show 3f1c0a52-8f43-4c39-a9f4-0d6f0a1c2b3d
  polyhook dead show 3f1c0a52-8f43-4c39-a9f4-0d6f0a1c2b3d --body --json | jq -r .body")]
    Show(ShowArgs),
    /// Make dead letters jobs again, once their reason is mended
    #[command(after_help = "\
Examples:
  polyhook dead replay 3f1c0a52-8f43-4c39-a9f4-0d6f0a1c2b3d
  polyhook dead replay --reason key_rejected --project acme-front-desk --dry-run
  polyhook dead replay --all

The retries of a replayed job begin anew; its history stays with it. The command can be interrupted
at any time: what was not replayed yet stays a dead letter.")]
    Replay(ReplayArgs),
    /// Delete dead letters for good
    #[command(after_help = "\
Examples:
  polyhook dead drop --reason no_conversation_id --dry-run
  polyhook dead drop --older-than 90d --yes

A conversation whose letter was dropped is not archived, unless `polyhook fetch` is asked for it.")]
    Drop(DropArgs),
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    filter: Filter,
    /// One JSON object a line for each letter
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// The event's id, as `dead list` shows it
    #[arg(value_name = "ID")]
    id: String,
    /// Show PolyAI's event itself too; it holds personal data
    #[arg(long)]
    body: bool,
    /// One JSON object a line for each letter of this id
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub(super) struct DropArgs {
    #[command(flatten)]
    selection: Selection,
    /// Do not ask; needed where there is no terminal to ask on
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Default, Args)]
struct Filter {
    /// Only those that died of this, such as timeout; may be repeated
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
    /// Only those whose event names this project; may be repeated
    #[arg(long, value_name = "PROJECT_ID", visible_alias = "project-id")]
    project: Vec<String>,
    /// Only those that have been dead for longer than this, such as 90m or 1d
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_duration)]
    older_than: Option<Duration>,
    /// Only those that have been dead for less than this
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_duration)]
    newer_than: Option<Duration>,
}

impl Filter {
    fn matches(&self, letter: &DeadLetter, now: Timestamp) -> bool {
        let any = |wanted: &[String], found: Option<&str>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|wanted| wanted == found))
        };
        let age = age(letter, now);
        any(&self.reason, Some(letter.reason()))
            && self.older_than.is_none_or(|least| age > least)
            && self.newer_than.is_none_or(|most| age < most)
            && (self.project.is_empty()
                || any(&self.project, Event::read(&letter.message.body).project_id.as_deref()))
    }
}

/// What is replayed or dropped. Without any of it: wrong usage, and not everything.
#[derive(Debug, Args)]
struct Selection {
    /// The events' ids, as `dead list` shows them
    #[arg(
        value_name = "ID",
        required_unless_present_any = ["all", "reason", "project", "older_than", "newer_than"],
        conflicts_with_all = ["all", "reason", "project", "older_than", "newer_than"]
    )]
    ids: Vec<String>,
    /// All dead letters there are
    #[arg(long, conflicts_with_all = ["reason", "project", "older_than", "newer_than"])]
    all: bool,
    #[command(flatten)]
    filter: Filter,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// One JSON object a line for each letter
    #[arg(long)]
    json: bool,
}

impl Selection {
    fn matches(&self, letter: &DeadLetter, now: Timestamp) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.message.id)) && self.filter.matches(letter, now)
    }
}

pub(super) async fn run(global: &GlobalArgs, command: Command) -> Result<(), CliError> {
    if let Command::Drop(DropArgs { selection, yes: false }) = &command
        && !selection.dry_run
    {
        prompt::require_terminal("drop dead letters permanently")?;
    }
    let config = global.load_for_command(Roles::NONE)?;
    if let Ok(QueueBackend::Sqlite(path)) = config.queue.backend() {
        require_queue_file(&path)?;
    }
    let now = Clock::System.now();
    with_queue(&config, Roles::NONE, Clock::System, async |queue, _| {
        let queue = &**queue;
        wait_until_ready(queue).await?;
        match &command {
            Command::List(args) => list(queue, args, now).await,
            Command::Show(args) => show(queue, args, now).await,
            Command::Replay(ReplayArgs { selection }) => end(queue, Verb::Replay, selection, now, None).await,
            Command::Drop(DropArgs { selection, yes }) => {
                // What dies while the question is being read was not asked about.
                let asked_at = (!yes && !selection.dry_run).then_some(now);
                if asked_at.is_some() && !may_drop(queue, selection, now).await? {
                    return Ok(());
                }
                end(queue, Verb::Drop, selection, now, asked_at).await
            }
        }
    })
    .await
}

async fn letters(queue: &dyn Queue) -> Result<Box<dyn DeadLetters + '_>, CliError> {
    queue.dead_letters().await.map_err(|error| failed(&error))
}

fn failed(error: &QueueError) -> CliError {
    CliError::Failed(format!("queue.url: {error}"))
}

async fn list(queue: &dyn Queue, args: &ListArgs, now: Timestamp) -> Result<(), CliError> {
    let mut letters = letters(queue).await?;
    let mut table = DeadLetterTable::new(now);
    let mut found = 0_u64;
    let read = loop {
        match letters.next().await {
            Ok(Some(letter)) if args.filter.matches(&letter, now) => {
                found += 1;
                if args.json {
                    output::json(&Summary::of(&letter));
                } else {
                    table.row(&letter);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(failed(&error)),
        }
    };
    letters.close().await;
    table.flush();
    if !args.json && read.is_ok() {
        output::line(output::dimmed(dead_letters(found)));
    }
    read
}

async fn show(queue: &dyn Queue, args: &ShowArgs, now: Timestamp) -> Result<(), CliError> {
    let mut letters = letters(queue).await?;
    let mut found = false;
    let read = loop {
        match letters.next().await {
            Ok(Some(letter)) if letter.message.id == args.id => {
                found = true;
                if args.json {
                    output::json(&Whole::of(&letter, args.body));
                } else {
                    tell(&letter, args.body, now);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => break Ok(()),
            Err(error) => break Err(failed(&error)),
        }
    };
    letters.close().await;
    match read {
        Ok(()) if !found => Err(unknown(&args.id)),
        read => read,
    }
}

fn unknown(id: &str) -> CliError {
    CliError::Failed(format!("there is no dead letter {id}; `polyhook dead list` shows those there are"))
}

/// Counts what would be dropped and asks.
async fn may_drop(queue: &dyn Queue, selection: &Selection, now: Timestamp) -> Result<bool, CliError> {
    let mut letters = letters(queue).await?;
    let mut found = 0_u64;
    let read = loop {
        match letters.next().await {
            Ok(Some(letter)) => found += u64::from(selection.matches(&letter, now)),
            Ok(None) => break Ok(()),
            Err(error) => break Err(failed(&error)),
        }
    };
    letters.close().await;
    read?;
    if found == 0 {
        // There is nothing to ask, and what follows says so.
        return Ok(true);
    }
    let yes = prompt::confirm(&format!(
        "Drop {} permanently? They cannot be replayed afterwards.",
        dead_letters(found)
    ));
    if !yes {
        output::line("nothing was dropped");
    }
    Ok(yes)
}

/// What is done with dead letters.
#[derive(Clone, Copy, Debug)]
enum Verb {
    Replay,
    Drop,
}

impl Verb {
    fn done(self) -> &'static str {
        match self {
            Self::Replay => "replayed",
            Self::Drop => "dropped",
        }
    }

    async fn apply(self, letters: &dyn DeadLetters, letter: DeadLetter) -> Result<(), QueueError> {
        match self {
            Self::Replay => letters.replay(letter).await,
            Self::Drop => letters.discard(letter).await,
        }
    }
}

/// What became of the letters.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    /// Somebody else was faster.
    gone: u64,
    failed: u64,
    first_error: Option<QueueError>,
    ids: BTreeSet<String>,
}

/// Replays or drops what is selected; with `until`, only what was dead by then.
async fn end(
    queue: &dyn Queue,
    verb: Verb,
    selection: &Selection,
    now: Timestamp,
    until: Option<Timestamp>,
) -> Result<(), CliError> {
    let mut letters = letters(queue).await?;
    let bar = if selection.json || selection.dry_run {
        ProgressBar::hidden()
    } else {
        ProgressBar::new(letters.total())
    };
    let mut table = DeadLetterTable::new(now);
    let mut tally = Tally::default();
    let read = loop {
        let (batch, met, more) = next_batch(&mut *letters, selection, now, until).await;
        tally.ids.extend(
            batch.iter().map(|letter| letter.message.id.clone()).filter(|_| !selection.ids.is_empty()),
        );
        if selection.dry_run {
            for letter in &batch {
                tally.done += 1;
                if selection.json {
                    output::json(&Ended { letter: Summary::of(letter), outcome: "dry_run", error: None });
                } else {
                    table.row(letter);
                }
            }
        } else {
            let ending = batch.iter().cloned().map(|letter| verb.apply(&*letters, letter));
            for (letter, ended) in batch.iter().zip(join_all(ending).await) {
                tally.add(verb, letter, ended, selection.json);
            }
        }
        bar.inc(met);
        match more {
            Ok(true) if tally.may_go_on() => {}
            Ok(_) => break Ok(()),
            Err(error) => break Err(failed(&error)),
        }
    };
    bar.finish_and_clear();
    letters.close().await;
    table.flush();
    tally.tell(verb, selection, read)
}

/// The next letters that are selected, how many were met for that, and whether there may be more.
async fn next_batch(
    letters: &mut dyn DeadLetters,
    selection: &Selection,
    now: Timestamp,
    until: Option<Timestamp>,
) -> (Vec<DeadLetter>, u64, Result<bool, QueueError>) {
    let (mut batch, mut met) = (Vec::with_capacity(AT_ONCE), 0);
    // Looks up now and then, for the progress bar.
    while batch.len() < AT_ONCE && met < 64 * AT_ONCE as u64 {
        match letters.next().await {
            Ok(Some(letter)) => {
                met += 1;
                if selection.matches(&letter, now) && until.is_none_or(|until| letter.since() <= until) {
                    batch.push(letter);
                }
            }
            Ok(None) => return (batch, met, Ok(false)),
            Err(error) => return (batch, met, Err(error)),
        }
    }
    (batch, met, Ok(true))
}

impl Tally {
    fn add(&mut self, verb: Verb, letter: &DeadLetter, ended: Result<(), QueueError>, json: bool) {
        let (outcome, error) = match ended {
            Ok(()) => {
                self.done += 1;
                (verb.done(), None)
            }
            Err(QueueError::LeaseLost) => {
                self.gone += 1;
                ("gone", None)
            }
            Err(error) => {
                self.failed += 1;
                let text = error.to_string();
                self.first_error.get_or_insert(error);
                ("failed", Some(text))
            }
        };
        if json {
            output::json(&Ended { letter: Summary::of(letter), outcome, error });
        }
    }

    /// One that is refused says nothing about the others; a queue that is away does.
    fn may_go_on(&self) -> bool {
        matches!(self.first_error, None | Some(QueueError::Refused(_)))
    }

    fn tell(self, verb: Verb, selection: &Selection, read: Result<(), CliError>) -> Result<(), CliError> {
        let Self { done, gone, failed, first_error, ids } = self;
        if !selection.json {
            let would = if selection.dry_run { "would have " } else { "" };
            output::line(format!("{would}{} {}", verb.done(), dead_letters(done)));
            if gone > 0 {
                output::line(format!("{} had been taken by somebody else meanwhile", dead_letters(gone)));
            }
        }
        if let Some(error) = first_error {
            output::error(&format!("{} stayed where they were: {error}", dead_letters(failed)));
        }
        read?;
        let missing: Vec<_> = selection.ids.iter().filter(|id| failed == 0 && !ids.contains(*id)).collect();
        for id in &missing {
            output::error(&unknown(id).to_string());
        }
        if failed == 0 && missing.is_empty() { Ok(()) } else { Err(CliError::AlreadyReported) }
    }
}

fn dead_letters(count: u64) -> String {
    match count {
        0 => "no dead letters".to_owned(),
        1 => "1 dead letter".to_owned(),
        count => format!("{count} dead letters"),
    }
}

fn age(letter: &DeadLetter, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(letter.since())).unwrap_or_default()
}

/// A letter in one line.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    id: &'a str,
    reason: &'a str,
    detail: Option<&'a str>,
    status: Option<u16>,
    correlation_id: Option<&'a str>,
    dead_since: Timestamp,
    tries: usize,
    replays: usize,
    #[serde(rename = "type")]
    kind: &'a str,
    environment: &'a str,
    account_id: Option<String>,
    project_id: Option<String>,
    conversation_id: Option<String>,
    received_at: Timestamp,
}

impl<'a> Summary<'a> {
    fn of(letter: &'a DeadLetter) -> Self {
        let DeadLetter { message, history, .. } = letter;
        let last = history.attempts.last();
        let event = Event::read(&message.body);
        Self {
            id: &message.id,
            reason: letter.reason(),
            detail: last.map(|last| last.detail.as_str()),
            status: last.and_then(|last| last.status),
            correlation_id: letter.correlation_id(),
            dead_since: letter.since(),
            tries: history.attempt_count(),
            replays: history.replays.len(),
            kind: &message.kind,
            environment: &message.environment,
            account_id: event.account_id,
            project_id: event.project_id,
            conversation_id: event.conversation_id,
            received_at: message.received_at,
        }
    }
}

/// What became of a letter.
#[derive(Debug, Serialize)]
struct Ended<'a> {
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    letter: Summary<'a>,
}

/// All of a letter.
#[derive(Debug, Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    attempts: &'a [Attempt],
    replayed_at: &'a [Timestamp],
    traceparent: Option<&'a str>,
    content_type: &'a str,
    body_bytes: usize,
    /// Where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// Where it is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl<'a> Whole<'a> {
    fn of(letter: &'a DeadLetter, with_body: bool) -> Self {
        let DeadLetter { message, history, .. } = letter;
        let text = std::str::from_utf8(&message.body).ok();
        Self {
            summary: Summary::of(letter),
            attempts: &history.attempts,
            replayed_at: &history.replays,
            traceparent: message.traceparent.as_deref(),
            content_type: &message.content_type,
            body_bytes: message.body.len(),
            body: text.filter(|_| with_body),
            body_hex: (with_body && text.is_none()).then(|| hex::encode(&message.body)),
        }
    }
}

/// All of a letter, for a person.
fn tell(letter: &DeadLetter, with_body: bool, now: Timestamp) {
    let DeadLetter { message, history, .. } = letter;
    let Summary { account_id, project_id, conversation_id, .. } = Summary::of(letter);
    let line = |name: &str, text: &str| output::line(format!("  {name:<15}{}", sanitize(text)));
    let or_none = |name: Option<String>| name.unwrap_or_else(|| "not named by the event".to_owned());
    output::line(format!(
        "{} {}, dead for {} (since {})",
        output::bold(sanitize(&message.id)),
        output::red(sanitize(letter.reason())),
        table::short_age(age(letter, now)),
        letter.since()
    ));
    line("conversation", &or_none(conversation_id));
    line("project", &or_none(project_id));
    line("account", &or_none(account_id));
    line("event", &format!("{}, environment {}", message.kind, message.environment));
    line("received", &message.received_at.to_string());
    line("trace", message.traceparent.as_deref().unwrap_or("none"));
    let bytes = message.body.len();
    line("body", &format!("{bytes} bytes of {}", message.content_type));
    line("tries", &history.attempt_count().to_string());
    let mut replays = history.replays.iter().copied().peekable();
    for attempt in &history.attempts {
        while let Some(at) = replays.next_if(|at| *at <= attempt.at) {
            output::line(format!("  {at}  replayed"));
        }
        let Attempt { at, reason, detail, status, correlation_id } = attempt;
        let status = status.map(|status| format!(", HTTP {status}")).unwrap_or_default();
        output::line(format!("  {at}  {}{status}", output::red(sanitize(reason))));
        output::line(format!("      {}", sanitize(detail)));
        if let Some(id) = correlation_id {
            output::line(format!("      PolyAI correlation id {}", sanitize(id)));
        }
    }
    for at in replays {
        output::line(format!("  {at}  replayed"));
    }
    if with_body {
        output::line("");
        for text in String::from_utf8_lossy(&message.body).lines() {
            output::line(sanitize(text));
        }
    }
}
