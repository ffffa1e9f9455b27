//! `polyhook tail`: what happens to deliveries and jobs, one line each, as it happens.
//!
//! It looks on: nothing is taken, held up or changed by it, on either queue. A line holds names, numbers and
//! reasons, never a body.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use console::{Term, measure_text_width, truncate_str};
use jiff::{Timestamp, tz::TimeZone};
use tokio::sync::mpsc;

use super::{
    CliError, GlobalArgs,
    output::{self, sanitize},
    queue_access::{READY_TIMEOUT, require_queue_file},
    time_arg,
};
use crate::{
    app::StartError,
    clock::Clock,
    config::Roles,
    lifecycle::Lifecycle,
    queue::{QueueBackend, QueueConfig, TailEvent, TailEventKind, TailMessage, rabbitmq, sqlite},
};

/// How often the embedded queue's file is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// The same while it cannot be read.
const LOOK_IN_TROUBLE: Duration = Duration::from_secs(1);

/// Follow deliveries and jobs as they happen, one line each.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook tail
  polyhook tail --since 1h --type conversation.completed --environment live
  polyhook tail --conversation CA0123456789abcdef --json
  polyhook tail --limit 1 --json | jq .what     wait for the next thing to happen

A line says when, what (delivery, done, retry, dead, ready), the event's type and
environment, the conversation, the id and what else there is to say. Nothing is
taken, held up or changed by looking on. Ctrl-C ends it. On RabbitMQ it is told by
receivers and workers what they do, from a second after it has begun at the latest.")]
pub(super) struct Args {
    /// Only events of this type, or of types below it; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    /// Only events of this environment; may be repeated
    #[arg(long, value_name = "NAME")]
    environment: Vec<String>,
    /// Only what is about this conversation; may be repeated
    #[arg(long, value_name = "ID")]
    conversation: Vec<String>,
    /// Only what names this project; may be repeated
    #[arg(long, value_name = "PROJECT_ID")]
    project: Vec<String>,
    /// Begin with what happened in this time, such as 10m (embedded queue only)
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_duration)]
    since: Option<Duration>,
    /// End after so many lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::NONE)?;
    let lifecycle = Lifecycle::new();
    lifecycle.install_signal_handlers();
    let queue = &config.queue;
    let followed = async {
        match queue.backend() {
            Ok(QueueBackend::Sqlite(path)) => follow_file(path, &args).await,
            _ => follow_broker(queue, &args, &lifecycle).await,
        }
    };
    // The first signal is how it is meant to end.
    tokio::select! {
        followed = followed => followed,
        _ = lifecycle.run_until_shutdown() => Ok(()),
    }
}

async fn follow_file(path: PathBuf, args: &Args) -> Result<(), CliError> {
    require_queue_file(&path)?;
    let now = Clock::System.now();
    let since = args.since.map_or(now, |since| now.checked_sub(since).unwrap_or(Timestamp::UNIX_EPOCH));
    let (tell, mut told) = mpsc::channel(1024);
    let follower = sqlite::Follower::open(&path, since).map_err(CliError::Failed)?;
    started(args, &path.display());
    // It ends with the process, or when nobody listens any more.
    let looking = tokio::task::spawn_blocking(move || look(follower, &tell));
    let mut shown = Shown::new(args);
    while let Some(next) = told.recv().await {
        if !shown.show(next) {
            return Ok(());
        }
    }
    let _ = looking.await;
    Err(CliError::Failed(format!("{} is followed no more", path.display())))
}

/// Looks until nobody listens any more.
fn look(mut follower: sqlite::Follower, tell: &mpsc::Sender<TailMessage>) {
    let mut trouble = None;
    while !tell.is_closed() {
        let (notes, wait) = match follower.poll() {
            Ok(notes) => {
                trouble = None;
                (notes.into_iter().map(|note| TailMessage::Event(Box::new(note))).collect(), LOOK)
            }
            // Once is enough.
            Err(error) if trouble.as_ref() == Some(&error) => (Vec::new(), LOOK_IN_TROUBLE),
            Err(error) => {
                trouble = Some(error.clone());
                (vec![TailMessage::Interrupted(error)], LOOK_IN_TROUBLE)
            }
        };
        let busy = notes.len() > 1000;
        for told in notes {
            if tell.blocking_send(told).is_err() {
                return;
            }
        }
        if !busy {
            std::thread::sleep(wait);
        }
    }
}

async fn follow_broker(config: &QueueConfig, args: &Args, lifecycle: &Lifecycle) -> Result<(), CliError> {
    if args.since.is_some() {
        return Err(CliError::Usage(
            "RabbitMQ keeps nothing of what is over: --since is for the embedded queue".to_owned(),
        ));
    }
    let mut follower =
        rabbitmq::Follower::open(config, &lifecycle.with_own_tracker()).map_err(StartError::RabbitMq)?;
    if tokio::time::timeout(READY_TIMEOUT, follower.wait_until_ready()).await.is_err() {
        return Err(CliError::Failed(format!("queue.url: {}", follower.not_ready_reason())));
    }
    started(args, &format_args!("{}.tail", config.prefix));
    let mut shown = Shown::new(args);
    while shown.show(follower.next().await) {}
    follower.close().await;
    Ok(())
}

fn started(args: &Args, what: &impl std::fmt::Display) {
    if !args.json && io::stderr().is_terminal() {
        output::note(&format!("following {what}; Ctrl-C ends it"));
    }
}

/// Shows what passes the filters, until there is enough of it or nobody reads any more.
struct Shown<'a> {
    args: &'a Args,
    left: Option<u64>,
    room: Option<usize>,
}

impl<'a> Shown<'a> {
    fn new(args: &'a Args) -> Self {
        let room = io::stdout().is_terminal().then(|| usize::from(Term::stdout().size().1));
        Self { args, left: args.limit, room }
    }

    /// Whether to go on.
    fn show(&mut self, told: TailMessage) -> bool {
        let note = match told {
            TailMessage::Event(note) => note,
            TailMessage::Missed(count) => {
                output::note(&format!("fell behind: {count} lines are missing here"));
                return true;
            }
            TailMessage::Interrupted(reason) => {
                output::note(&reason);
                return true;
            }
        };
        if !self.args.wants(&note) {
            return true;
        }
        let written = if self.args.json {
            serde_json::to_string(&note).is_ok_and(output::try_line)
        } else {
            output::try_line(line(&note, self.room))
        };
        self.left = self.left.map(|left| left - 1);
        written && self.left != Some(0)
    }
}

impl Args {
    fn wants(&self, note: &TailEvent) -> bool {
        let any = |wanted: &[String], found: Option<&str>| {
            wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|wanted| wanted == found))
        };
        let below = |wanted: &String| {
            note.kind
                .strip_prefix(wanted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        (self.kind.is_empty() || self.kind.iter().any(below))
            && any(&self.environment, Some(&note.environment))
            && any(&self.conversation, note.conversation_id.as_deref())
            && any(&self.project, note.project_id.as_deref())
    }
}

/// A note in one line; no wider than `room`.
fn line(note: &TailEvent, room: Option<usize>) -> String {
    let time = note.at.to_zoned(TimeZone::UTC).strftime("%H:%M:%S.%3fZ").to_string();
    let what = format!("{:<8}", note.what.label());
    let what = match note.what {
        TailEventKind::Delivery => output::bold(what),
        TailEventKind::Done | TailEventKind::Ready => output::green(what),
        TailEventKind::Retry => output::yellow(what),
        TailEventKind::Dead => output::red(what),
    };
    let time = output::dimmed(time);
    let kind = sanitize(&note.kind);
    let environment = format!("{:<7} ", sanitize(&note.environment));
    let conversation = sanitize(note.conversation_id.as_deref().unwrap_or("-"));
    let id = format!(" {}", output::dimmed(sanitize(&note.id)));
    let mut story = sanitize(&story(note));
    if !story.is_empty() {
        story.push_str("  ");
    }
    let whole = |environment: &str, id: &str| {
        format!("{time} {what} {kind:<22} {environment}{story}{conversation}{id}")
    };
    let Some(room) = room else { return whole(&environment, &id) };
    // What is needed least goes first.
    let shorter = [whole(&environment, &id), whole(&environment, ""), whole("", "")];
    let [.., shortest] = &shorter;
    let fits = shorter.iter().find(|line| measure_text_width(line) <= room).unwrap_or(shortest);
    truncate_str(fits, room, "…").into_owned()
}

/// What else there is to say.
fn story(note: &TailEvent) -> String {
    let mut parts = Vec::new();
    if let Some(attempt) = note.attempt {
        parts.push(format!("try {attempt}"));
    }
    if let Some(reason) = &note.reason {
        let status = note.status.map(|status| format!(" (HTTP {status})")).unwrap_or_default();
        parts.push(format!("{reason}{status}"));
    }
    if let Some(at) = note.retry_at {
        let wait = Duration::try_from(at.duration_since(note.at)).unwrap_or_default();
        parts.push(format!("again in {}", humantime::format_duration(whole_seconds(wait))));
    }
    if let Some(ms) = note.after_ms {
        parts.push(format!("after {}", humantime::format_duration(Duration::from_millis(ms))));
    }
    parts.join(", ")
}

fn whole_seconds(wait: Duration) -> Duration {
    Duration::from_secs(wait.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}
