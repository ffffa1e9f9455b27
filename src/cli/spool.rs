//! `polyhook spool status|verify|drain`: inspects, verifies or empties the spool, which holds deliveries while RabbitMQ is
//! unavailable.

use std::path::Path;

use bytesize::ByteSize;
use serde_json::json;
use tokio::time::{Duration, Instant, timeout};

use super::{CliError, GlobalArgs, output, progress, queue_access::wait_until_ready};
use crate::{
    app,
    clock::Clock,
    config::{Config, Roles},
    lifecycle::Lifecycle,
    queue::{
        Queue, QueueBackend, QueueError,
        rabbitmq::RabbitMqQueue,
        spool::{self, Spool},
        spooled::{DRAIN_BATCH, drain_limiter, forward},
    },
};

/// Time to wait for messages before the number of remaining ones is checked again. A running receiver may hold them.
const LEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// Time without progress after which the command gives up. The leases of a dead process end earlier.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  polyhook spool status --json
  polyhook spool verify && polyhook spool drain

You can use all subcommands while polyhook runs.")]
pub(super) enum Command {
    /// Show the number and age of stored deliveries and the space in use
    #[command(after_help = "\
Examples:
  polyhook spool status
  polyhook spool status --json | jq .messages")]
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read the whole file and report damage; exit code 1 if it is damaged
    #[command(after_help = "\
Examples:
  polyhook spool verify && polyhook spool drain")]
    Verify {
        /// Print one JSON object: {"ok", "messages", "problems"}
        #[arg(long)]
        json: bool,
    },
    /// Publish all stored deliveries to RabbitMQ now; exit code 1 if any remain
    #[command(after_help = "\
Examples:
  polyhook spool drain
  polyhook spool drain --json | jq .left")]
    Drain {
        /// Print one JSON object: {"moved", "left"}
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(global: &GlobalArgs, command: &Command) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::NONE)?;
    let path = config.spool.path.as_path();
    if path.as_os_str().is_empty() {
        return Err(CliError::Failed(
            "there is no spool, because spool.path is empty; set it to a file on a local disk".to_owned(),
        ));
    }
    match *command {
        Command::Status { json } => status(&config, path, json),
        Command::Verify { json } => verify(path, json),
        Command::Drain { json } => drain(&config, path, json).await,
    }
}

fn status(config: &Config, path: &Path, json: bool) -> Result<(), CliError> {
    let exists = path.exists();
    let usage = if exists { Some(spool::read_usage(path).map_err(CliError::Failed)?) } else { None };
    let (messages, bytes) = usage.map_or((0, 0), |usage| (usage.messages, usage.bytes));
    let oldest = usage.and_then(|usage| usage.oldest);
    let max = config.spool.max_bytes;
    if json {
        output::json(&json!({
            "path": path, "exists": exists, "messages": messages, "oldest_received_at": oldest, "bytes": bytes,
            "max_bytes": max.as_u64(),
        }));
        return Ok(());
    }
    output::line(format!("{}{}", path.display(), if exists { "" } else { " (does not exist yet)" }));
    output::line(match oldest {
        Some(oldest) => {
            let age = Duration::try_from(Clock::System.now().duration_since(oldest)).unwrap_or_default();
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            let wait = output::plural(messages, "1 delivery waits", "{} deliveries wait");
            format!("{wait}, the oldest for {age} (received at {oldest})")
        }
        None => "no deliveries wait".to_owned(),
    });
    output::line(format!("{} of {max} in use", ByteSize(bytes)));
    Ok(())
}

fn verify(path: &Path, json: bool) -> Result<(), CliError> {
    let verified = if path.exists() { spool::verify(path) } else { Ok(0) };
    let problems = verified.as_ref().err().cloned().unwrap_or_default();
    if json {
        let messages = verified.as_ref().ok();
        output::json(&json!({ "ok": problems.is_empty(), "messages": messages, "problems": problems }));
    }
    match verified {
        Ok(messages) => {
            if !json {
                output::line(output::green(format!(
                    "{}, no damage found",
                    output::counted(messages, "message")
                )));
            }
            Ok(())
        }
        Err(_) if json => Err(CliError::AlreadyReported),
        Err(problems) => {
            const MAX_PRINTED: usize = 20;
            let mut text: Vec<_> = problems.iter().take(MAX_PRINTED).cloned().collect();
            if problems.len() > MAX_PRINTED {
                text.push(format!("and {} more", problems.len() - MAX_PRINTED));
            }
            text.push(format!(
                "{} is damaged; move it away (polyhook then creates a new file) and recover readable messages with `sqlite3 FILE .recover`",
                path.display()
            ));
            Err(CliError::Failed(text.join("\n")))
        }
    }
}

async fn drain(config: &Config, path: &Path, json: bool) -> Result<(), CliError> {
    if config.queue.backend().ok() != Some(QueueBackend::RabbitMq) {
        return Err(CliError::Failed(
            "queue.url is not a RabbitMQ URL, so there is nothing to drain to; set it to amqp://… or amqps://…".to_owned(),
        ));
    }
    let lifecycle = Lifecycle::new();
    let clock = Clock::System;
    let (mut moved, mut left) = (0, 0);
    let mut result = Ok(());
    if path.exists() {
        let broker = app::open_broker(config, Roles::RECEIVE, clock.clone(), &lifecycle)?;
        let spool =
            Spool::open(&config.spool, &config.queue, clock, &lifecycle).map_err(app::StartError::Spool)?;
        result = wait_until_ready(&*broker).await;
        if result.is_ok() {
            result = publish_all(config, &broker, &spool, &mut moved, json)
                .await
                .map_err(|error| CliError::Failed(error.to_string()));
        }
        left = spool.usage().await.map_or(0, |usage| usage.messages);
        lifecycle.drain();
        spool.close().await;
        broker.close().await;
        lifecycle.wait().await;
    }
    if json {
        output::json(&json!({ "moved": moved, "left": left }));
    } else {
        output::line(format!("{moved} published, {left} left"));
        output::line(format!("target: {}, prefix {}", config.queue.address(), config.queue.prefix));
    }
    result?;
    if left == 0 { Ok(()) } else { Err(CliError::AlreadyReported) }
}

async fn publish_all(
    config: &Config,
    broker: &RabbitMqQueue,
    spool: &Spool,
    moved: &mut usize,
    json: bool,
) -> Result<(), QueueError> {
    let rate = drain_limiter(config.spool.drain_rate);
    let bar = progress::bar(spool.usage().await?.messages, "published", json);
    let (mut fewest, mut progress_at) = (u64::MAX, Instant::now());
    loop {
        let left = spool.usage().await?.messages;
        if left < fewest {
            (fewest, progress_at) = (left, Instant::now());
        }
        // A running receiver may add deliveries and forward them, too.
        bar.set_length(*moved as u64 + left);
        if left == 0 {
            break;
        }
        if let Ok(batch) = timeout(LEASE_TIMEOUT, spool.lease(DRAIN_BATCH)).await {
            let published = forward(batch?, broker, spool, &rate, |_| ()).await?;
            if published == 0 {
                return Err(QueueError::Refused("a queue is full, or a policy rejects messages; check the queues and policies of the broker".to_owned()));
            }
            *moved += published;
            progress_at = Instant::now();
            bar.set_position(*moved as u64);
        } else {
            spool.check_writable().await?;
            if progress_at.elapsed() > STALL_TIMEOUT {
                return Err(QueueError::Unavailable(format!(
                    "the spool: {}: a running polyhook holds them, or repeats those that the broker refused; see its log",
                    output::plural(left, "1 delivery stays", "{} deliveries stay")
                )));
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}
