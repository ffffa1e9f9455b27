//! `polyhook queue move`: moves everything from an embedded queue to RabbitMQ.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::FutureExt;
use serde_json::json;

use super::{CliError, GlobalArgs, output, progress, queue_access::wait_until_ready};
use crate::{
    app,
    clock::Clock,
    config::{Config, Roles},
    lifecycle::{Lifecycle, TerminationSignals},
    queue::{
        Queue, QueueBackend, QueueConfig, QueueUrls, StoredCounts,
        rabbitmq::{BrokerObserver, RabbitMqQueue},
        sqlite::{self, ExclusiveQueueFile, SqliteOptions},
        transfer::Transfer,
    },
    secret::Secret,
};

/// The broker may confirm a batch slowly. No caller waits for this command as for a delivery.
const MIN_PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Move all jobs, dead letters and events from an embedded queue to RabbitMQ
    Move(MoveArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook queue move --from sqlite:polyhook-data/queue.db --dry-run
  polyhook queue move --from sqlite:polyhook-data/queue.db

Stop polyhook, set queue.url to RabbitMQ and start polyhook again. New deliveries then \
go to RabbitMQ, and this command moves the old ones while polyhook runs. It moves \
nothing if no worker consumes jobs there, because queue.url or queue.prefix may be wrong.

Delayed jobs keep their attempts and their time. If that is later than the longest \
delay of RabbitMQ's queues, they come earlier. Dead letters keep their reasons and \
attempts. Events that start no fetch go to the exchange of events.

A message leaves the file after RabbitMQ has confirmed it. An interruption loses \
nothing: run the command again until the file is empty. A message may then be in \
RabbitMQ twice, and its conversation is archived once. To erase a conversation that has \
jobs in the file, move before you erase, or repeat the erase after the move.

Exit code 1 if anything is left.")]
pub(super) struct MoveArgs {
    /// Embedded queue to empty, as in the former queue.url
    #[arg(long, value_name = "URL", value_parser = parse_source, default_value = "sqlite:polyhook-data/queue.db")]
    from: Source,
    /// Count what would be moved; polyhook may still use the file
    #[arg(long)]
    dry_run: bool,
    /// Move although no worker consumes jobs from the target
    #[arg(long)]
    without_worker: bool,
    /// Print one JSON object with the target and the counts by state
    #[arg(long)]
    json: bool,
}

/// The path of a queue file.
#[derive(Clone, Debug)]
struct Source(PathBuf);

/// Reads a URL as in `queue.url`. A path alone is understood, too.
fn parse_source(text: &str) -> Result<Source, String> {
    let is_path = !text.contains(':');
    let url = if is_path { format!("sqlite:{text}") } else { text.to_owned() };
    let config = QueueConfig { url: QueueUrls::One(Secret::new(url)), ..QueueConfig::default() };
    match config.backend() {
        Ok(QueueBackend::Sqlite(path)) => Ok(Source(path)),
        Ok(QueueBackend::RabbitMq) | Err(_) => {
            Err("write sqlite:PATH with the file of the embedded queue".to_owned())
        }
    }
}

pub(super) async fn run(global: &GlobalArgs, command: Command) -> Result<(), CliError> {
    let Command::Move(args) = command;
    let config = global.load_for_command(Roles::NONE)?;
    if config.queue.backend().ok() != Some(QueueBackend::RabbitMq) {
        return Err(CliError::Failed(
            "queue.url is not a RabbitMQ URL, so there is nothing to move to; set it to amqp://… or amqps://…"
                .to_owned(),
        ));
    }
    let path = args.from.0.as_path();
    if !path.exists() {
        return Err(CliError::Failed(format!(
            "there is no queue file {}; name the one that polyhook used before with --from sqlite:PATH",
            path.display()
        )));
    }
    if is_same_file(path, &config.spool.path) {
        return Err(CliError::Failed(format!(
            "{} is the spool, not an embedded queue; publish its deliveries with `polyhook spool drain`",
            path.display()
        )));
    }
    if args.dry_run {
        let counts = sqlite::read_counts(path, Clock::System.now()).map_err(CliError::Failed)?;
        print_result(&args, &config.queue, &StoredCounts::default(), &counts);
        return Ok(());
    }
    move_all(&args, config, path).await
}

/// Returns true if both paths lead to one existing file.
fn is_same_file(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

async fn move_all(args: &MoveArgs, mut config: Config, path: &Path) -> Result<(), CliError> {
    let clock = Clock::System;
    // Opened first: it is of no use to wait for the broker while polyhook still uses the file.
    let file = ExclusiveQueueFile::open(path, SqliteOptions::new(&config.queue, clock.clone()))
        .map_err(|error| CliError::Failed(format!("--from: {error}")))?;
    if !args.without_worker {
        require_worker(&config.queue).await?;
    }
    config.queue.publish_timeout = config.queue.publish_timeout.max(MIN_PUBLISH_TIMEOUT);
    let lifecycle = Lifecycle::new();
    let broker = app::open_broker(&config, Roles::NONE, clock, &lifecycle)?;
    let mut transfer = Transfer::default();
    let mut result = wait_until_ready(&*broker).await;
    if result.is_ok() {
        result = transfer_all(&mut transfer, &file, &broker, args.json).await;
    }
    lifecycle.drain();
    broker.close().await;
    lifecycle.wait().await;
    let left = file.counts().map_err(|error| CliError::Failed(error.to_string()))?;
    print_result(args, &config.queue, &transfer.moved, &left);
    result?;
    match transfer.first_refusal {
        None => Ok(()),
        Some(error) => Err(CliError::Failed(format!(
            "{} left in {}: {error}; fix that and run the command again",
            output::counted(left.total(), "message"),
            path.display()
        ))),
    }
}

/// Returns an error if no worker consumes jobs from the target. Declares nothing there.
async fn require_worker(target: &QueueConfig) -> Result<(), CliError> {
    let observer = BrokerObserver::new(target, &[], &[]).map_err(app::StartError::from)?;
    let workers = observer.count_workers().await;
    observer.close().await;
    match workers {
        Ok(0) => Err(CliError::Failed(format!(
            "no worker consumes `{}` on {}, so nothing was moved; start `polyhook run` or `work` there, correct queue.url \
             or queue.prefix, or add --without-worker",
            target.messaging_names().jobs,
            target.address()
        ))),
        Ok(_) => Ok(()),
        Err(error) => Err(CliError::Failed(format!("queue.url: {error}"))),
    }
}

async fn transfer_all(
    transfer: &mut Transfer,
    file: &ExclusiveQueueFile,
    broker: &RabbitMqQueue,
    json: bool,
) -> Result<(), CliError> {
    let failed = |error| CliError::Failed(format!("{error}; run the command again to continue"));
    let bar = progress::bar(file.counts().map_err(failed)?.total(), "moved", json);
    let mut termination = TerminationSignals::install();
    let mut interrupted = std::pin::pin!(termination.first());
    while transfer.move_batch(file, broker).await.map_err(failed)? {
        bar.set_position(transfer.moved.total());
        // Between two batches, so that no confirmed message stays in the file.
        if interrupted.as_mut().now_or_never().is_some() {
            return Err(CliError::Failed("interrupted; run the command again to continue".to_owned()));
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn print_result(args: &MoveArgs, target: &QueueConfig, moved: &StoredCounts, left: &StoredCounts) {
    let (path, address, prefix) = (args.from.0.display(), target.address(), &target.prefix);
    if args.json {
        output::json(&json!({
            "path": args.from.0, "target": address, "prefix": prefix, "dry_run": args.dry_run,
            "moved_by_state": moved, "left_by_state": left,
        }));
        return;
    }
    if args.dry_run {
        output::line(format!("{} in {path}", counts_text(left)));
    } else {
        output::line(format!("moved {}", counts_text(moved)));
    }
    output::line(format!("target: {address}, prefix {prefix}"));
    if args.dry_run {
        output::line("nothing was moved (dry run)");
    } else if left.total() == 0 {
        output::line(format!("{path} is empty now, and no longer needed"));
    } else {
        output::line(format!("left in {path}: {}", counts_text(left)));
    }
}

fn counts_text(counts: &StoredCounts) -> String {
    let StoredCounts { waiting_jobs, delayed_jobs, dead_letters, events } = *counts;
    [
        output::counted(waiting_jobs, "waiting job"),
        output::counted(delayed_jobs, "delayed job"),
        output::counted(dead_letters, "dead letter"),
        output::counted(events, "event"),
    ]
    .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_source_as_a_queue_url_or_a_path() {
        for (text, path) in
            [("sqlite:a/q.db", "a/q.db"), ("sqlite:///a/q.db", "/a/q.db"), ("a/q.db", "a/q.db")]
        {
            assert_eq!(parse_source(text).unwrap().0, Path::new(path));
        }
        for wrong in ["amqp://mq", "sqlite:", "postgres://x", ""] {
            assert!(parse_source(wrong).unwrap_err().contains("sqlite:PATH"), "{wrong}");
        }
    }
}
