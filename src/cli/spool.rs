//! `polyhook spool status|verify|drain`

use std::path::Path;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::{Duration, timeout};

use super::{CliError, GlobalArgs, output, queue_access::wait_until_ready};
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

/// How long a running receiver may hold messages before it is looked whether any are left.
const LEASE_WITHIN: Duration = Duration::from_secs(1);

/// Look at the spool, where deliveries wait while RabbitMQ is away, or empty it.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  polyhook spool status --json
  polyhook spool verify && polyhook spool drain

All of them may be used while polyhook runs.")]
pub(super) enum Command {
    /// How many deliveries wait, since when, and how full it is
    #[command(after_help = "\
Examples:
  polyhook spool status
  polyhook spool status --json | jq .messages")]
    Status {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Read the whole file and say what is wrong with it; exit code 1 if anything is
    #[command(after_help = "\
Examples:
  polyhook spool verify && polyhook spool drain")]
    Verify {
        /// One JSON object: {"ok", "messages", "problems"}
        #[arg(long)]
        json: bool,
    },
    /// Hand everything on to the broker now; exit code 1 if something is left
    #[command(after_help = "\
Examples:
  polyhook spool drain
  polyhook spool drain --json | jq .left")]
    Drain {
        /// One JSON object: {"moved", "left"}
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(global: &GlobalArgs, command: &Command) -> Result<(), CliError> {
    let config = global.load_for_command(Roles::NONE)?;
    let path = config.spool.path.as_path();
    if path.as_os_str().is_empty() {
        return Err(CliError::Failed("there is no spool: spool.path is empty".to_owned()));
    }
    match *command {
        Command::Status { json } => status(&config, path, json),
        Command::Verify { json } => verify(path, json),
        Command::Drain { json } => drain(&config, path, json).await,
    }
}

fn status(config: &Config, path: &Path, json: bool) -> Result<(), CliError> {
    let there = path.exists();
    let usage = if there { Some(spool::read_usage(path).map_err(CliError::Failed)?) } else { None };
    let (messages, bytes) = usage.map_or((0, 0), |usage| (usage.messages, usage.bytes));
    let oldest = usage.and_then(|usage| usage.oldest);
    let max = config.spool.max_bytes;
    if json {
        output::json(&json!({
            "path": path, "exists": there, "messages": messages, "oldest_received_at": oldest, "bytes": bytes,
            "max_bytes": max.as_u64(),
        }));
        return Ok(());
    }
    output::line(format!("{}{}", path.display(), if there { "" } else { " (not made yet)" }));
    output::line(match oldest {
        Some(oldest) => {
            let age = Duration::try_from(Clock::System.now().duration_since(oldest)).unwrap_or_default();
            let age = humantime::format_duration(Duration::from_secs(age.as_secs()));
            format!("{messages} deliveries wait, the oldest for {age} (received at {oldest})")
        }
        None => "no delivery waits".to_owned(),
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
                output::line(output::green(format!("{messages} messages, all in order")));
            }
            Ok(())
        }
        Err(_) if json => Err(CliError::AlreadyReported),
        Err(problems) => {
            let most = 20;
            let mut text: Vec<_> = problems.iter().take(most).cloned().collect();
            if problems.len() > most {
                text.push(format!("and {} more", problems.len() - most));
            }
            text.push(format!(
                "{} is damaged: move it away (polyhook begins a new one by itself) and recover what can be read with `sqlite3 FILE .recover`",
                path.display()
            ));
            Err(CliError::Failed(text.join("\n")))
        }
    }
}

async fn drain(config: &Config, path: &Path, json: bool) -> Result<(), CliError> {
    if config.queue.backend().ok() != Some(QueueBackend::RabbitMq) {
        return Err(CliError::Failed(
            "queue.url is no RabbitMQ, so there is nobody to hand anything on to".to_owned(),
        ));
    }
    let lifecycle = Lifecycle::new();
    let clock = Clock::System;
    let (mut moved, mut left) = (0, 0);
    let mut done = Ok(());
    if path.exists() {
        let broker = app::open_broker(config, clock.clone(), &lifecycle)?;
        let spool =
            Spool::open(&config.spool, &config.queue, clock, &lifecycle).map_err(app::StartError::Spool)?;
        done = wait_until_ready(&*broker).await;
        if done.is_ok() {
            done = move_all(config, &broker, &spool, &mut moved, json).await.map_err(failed);
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
        output::line(format!("{moved} handed on, {left} left"));
    }
    done?;
    if left == 0 { Ok(()) } else { Err(CliError::AlreadyReported) }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: QueueError) -> CliError {
    CliError::Failed(error.to_string())
}

async fn move_all(
    config: &Config,
    broker: &RabbitMqQueue,
    spool: &Spool,
    moved: &mut usize,
    json: bool,
) -> Result<(), QueueError> {
    let rate = drain_limiter(config.spool.drain_rate);
    let bar = if json { ProgressBar::hidden() } else { ProgressBar::new(spool.usage().await?.messages) };
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    while spool.usage().await?.messages > 0 {
        if let Ok(batch) = timeout(LEASE_WITHIN, spool.lease(DRAIN_BATCH)).await {
            let handed_on = forward(batch?, broker, spool, &rate, |_| ()).await?;
            if handed_on == 0 {
                return Err(QueueError::Refused("a queue is full, or a policy is in the way".to_owned()));
            }
            *moved += handed_on;
            bar.set_position(*moved as u64);
        }
    }
    bar.finish_and_clear();
    Ok(())
}
