//! `polyhook tail`: prints deliveries and jobs as they happen, one line per event.
//!
//! It only observes: on neither queue does it take, delay or change a message. A line contains names, numbers and
//! reasons, never a body.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;

use super::{
    CliError, GlobalArgs, event_line, output,
    queue_access::{require_queue_file, unavailable, wait_for_broker},
    time_arg,
};
use crate::{
    app::StartError,
    clock::Clock,
    config::Roles,
    lifecycle::Lifecycle,
    queue::{QueueBackend, QueueConfig, TailEvent, TailMessage, rabbitmq, sqlite},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook tail
  polyhook tail --since 1h --type conversation.completed --environment live
  polyhook tail --conversation CA0123456789abcdef --json
  polyhook tail --limit 1 --json | jq .what     wait for the next event

A line shows the time (UTC), the conversation (or else the event), what happened \
(delivery, done, retry, dead, ready), and as many details as fit. Following does not take, delay or \
change anything. Stop with Ctrl-C. On RabbitMQ, events are shown from one second \
after the start at the latest.")]
pub(super) struct Args {
    /// Only events of this type or its subtypes (repeatable)
    #[arg(long = "type", value_name = "TYPE")]
    kind: Vec<String>,
    /// Only events of this environment (repeatable)
    #[arg(long, value_name = "NAME")]
    environment: Vec<String>,
    /// Only events of this conversation (repeatable)
    #[arg(long, value_name = "ID")]
    conversation: Vec<String>,
    /// Only events that name this project (repeatable)
    #[arg(long, value_name = "PROJECT_ID")]
    project: Vec<String>,
    /// Start with events of this past period, such as 10m (embedded queue only: on RabbitMQ past events are not kept;
    /// use `polyhook list` or the log)
    #[arg(long, value_name = "DURATION", value_parser = time_arg::parse_duration)]
    since: Option<Duration>,
    /// Stop after N lines
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::NONE)?;
    let lifecycle = Lifecycle::new();
    lifecycle.install_signal_handlers();
    let queue = &config.queue;
    let follow = async {
        match queue.backend() {
            Ok(QueueBackend::Sqlite(path)) => follow_file(path, &args).await,
            _ => follow_broker(queue, &args, &lifecycle).await,
        }
    };
    // A signal is the normal end of this command.
    tokio::select! {
        result = follow => result,
        _ = lifecycle.run_until_shutdown() => Ok(()),
    }
}

async fn follow_file(path: PathBuf, args: &Args) -> Result<(), CliError> {
    require_queue_file(&path)?;
    let now = Clock::System.now();
    let since = args.since.map_or(now, |since| now.checked_sub(since).unwrap_or(Timestamp::UNIX_EPOCH));
    let mut messages = sqlite::Follower::open(&path, since).map_err(CliError::Failed)?.start();
    print_start(args, &path.display());
    let mut printer = Printer::new(args);
    while let Some(message) = messages.recv().await {
        if !printer.print(message) {
            return Ok(());
        }
    }
    Err(CliError::Failed(format!("stopped following {} because of an internal error", path.display())))
}

async fn follow_broker(config: &QueueConfig, args: &Args, lifecycle: &Lifecycle) -> Result<(), CliError> {
    if args.since.is_some() {
        return Err(CliError::Usage(
            "--since is for the embedded queue only: on RabbitMQ no process keeps past events, because that would slow \
             down each delivery; leave it out, and see `polyhook list` or the log for the past"
                .to_owned(),
        ));
    }
    let mut follower =
        rabbitmq::Follower::open(config, &lifecycle.with_own_tracker()).map_err(StartError::RabbitMq)?;
    let refused = follower.refused();
    let ready = async {
        tokio::select! {
            () = follower.wait_until_ready() => true,
            () = refused => false,
        }
    };
    if wait_for_broker(ready).await != Some(true) {
        return Err(unavailable(&follower.not_ready_reason()));
    }
    print_start(args, &format_args!("{}.tail", config.prefix));
    let mut printer = Printer::new(args);
    while printer.print(follower.next().await) {}
    follower.close().await;
    Ok(())
}

fn print_start(args: &Args, source: &impl std::fmt::Display) {
    if !args.json && io::stderr().is_terminal() {
        output::note(&format!("following {source}; stop with Ctrl-C"));
    }
}

/// Prints the events that pass the filters.
struct Printer<'a> {
    args: &'a Args,
    /// The number of lines until `--limit` is reached.
    lines_left: Option<u64>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a Args) -> Self {
        Self { args, lines_left: args.limit }
    }

    /// Prints a message and returns false once the limit is reached or the output is closed.
    fn print(&mut self, message: TailMessage) -> bool {
        let event = match message {
            TailMessage::Event(event) => event,
            TailMessage::Missed(count) => {
                let lines = output::plural(count, "1 line is", "{} lines are");
                output::note(&format!("tail is too slow: {lines} missing here"));
                return true;
            }
            TailMessage::Interrupted(reason) => {
                output::note(&reason);
                return true;
            }
        };
        if !self.args.match_event(&event) {
            return true;
        }
        let written = if self.args.json {
            output::try_json(&event)
        } else {
            output::try_line(event_line::format_event(&event, output::terminal_width()))
        };
        self.lines_left = self.lines_left.map(|left| left - 1);
        written && self.lines_left != Some(0)
    }
}

impl Args {
    fn match_event(&self, event: &TailEvent) -> bool {
        let matches_any = |wanted: &[String], value: Option<&str>| {
            wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value))
        };
        let is_subtype_of = |wanted: &String| {
            event
                .kind
                .strip_prefix(wanted.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        (self.kind.is_empty() || self.kind.iter().any(is_subtype_of))
            && matches_any(&self.environment, Some(&event.environment))
            && matches_any(&self.conversation, event.conversation_id.as_deref())
            && matches_any(&self.project, event.project_id.as_deref())
    }
}
