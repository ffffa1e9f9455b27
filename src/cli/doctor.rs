//! `polyhook doctor`: everything that can be looked at from here, looked at.
//!
//! A check is one function that returns its findings; checks run at the same time, each within its own limit, and are
//! shown in one order. Nothing is changed but a small object in the archive's bucket (`Archive::check`). No finding
//! holds a secret, or anything that somebody said.

mod archive;
mod broker;
mod local;
mod polyai;
mod public;
mod report;
mod secrets;
mod space;

use std::{pin::Pin, time::Duration};

use futures_util::future::join_all;
use url::Url;

use self::report::{Finding, Report, Subject};
use super::{CliError, GlobalArgs, config::Role};
use crate::{
    clock::Clock,
    config::Config,
    queue::QueueBackend,
    telemetry::{self, LogConfig},
};

/// Look at everything polyhook needs, say what is wrong and what to do about it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook doctor --url https://hooks.example.com/polyai-events
  polyhook doctor --conversation CA0123456789abcdef      with a call whose recording is there
  polyhook doctor --role receive --json

Run it where polyhook runs, as the user it runs as. docs/doctor.md explains every line.
Exit code 1 if anything is red, 78 if the configuration cannot be read.")]
pub(super) struct Args {
    /// The role that the machine has; `run` is both
    #[arg(long, value_enum, default_value_t = Role::Run)]
    role: Role,
    /// The endpoint's public URL: an unsigned post must be answered 401
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// The conversation to ask PolyAI for; a recent one where absent
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
    /// Show a key that PolyAI refuses to no other region of PolyAI's
    #[arg(long)]
    no_other_regions: bool,
    /// Where a refused key may belong, instead of PolyAI's own regions
    #[arg(long, value_name = "NAME=URL", hide = true, value_parser = parse_place)]
    other_region: Vec<(String, Url)>,
    /// One JSON object: {"ok", "summary", "findings"}
    #[arg(long)]
    json: bool,
}

fn parse_place(text: &str) -> Result<(String, Url), String> {
    let (name, url) = text.split_once('=').ok_or("write it as NAME=URL")?;
    Ok((name.to_owned(), url.parse().map_err(|error| format!("{url}: {error}"))?))
}

type Check<'a> = Pin<Box<dyn Future<Output = Vec<Finding>> + 'a>>;

/// What a check may take; those that ask PolyAI, one project after several questions, more.
const LIMIT: Duration = Duration::from_secs(30);
const POLYAI_LIMIT: Duration = Duration::from_mins(2);

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    telemetry::init_logs(&LogConfig { level: "off".to_owned(), ..LogConfig::default() })?;
    let config = match global.load() {
        Ok(config) => config,
        Err(error) => {
            let findings = local::unreadable(&error);
            Report::new(findings).show(args.json);
            return Err(error.into());
        }
    };
    let findings = join_all(checks(&config, global, &args)).await.concat();
    let report = Report::new(findings);
    report.show(args.json);
    if report.is_red() { Err(CliError::AlreadyReported) } else { Ok(()) }
}

/// In the order in which they are shown.
fn checks<'a>(config: &'a Config, global: &'a GlobalArgs, args: &'a Args) -> Vec<Check<'a>> {
    let roles = args.role.roles();
    let mut checks: Vec<Check<'a>> = vec![Box::pin(async move {
        let mut findings = local::configuration(config, roles);
        findings.extend(secrets::check(config, roles, global.config.as_deref()));
        findings
    })];
    if roles.work {
        let asked = polyai::check(config, args, Clock::System);
        checks.push(limited(Subject::new("polyai", "all projects"), POLYAI_LIMIT, asked));
    }
    match config.queue.backend() {
        Ok(QueueBackend::Sqlite(path)) => {
            let subject = Subject::new("queue.file", path.display().to_string());
            checks.push(limited(subject.clone(), LIMIT, local::queue(subject, path)));
        }
        Ok(QueueBackend::RabbitMq) => {
            checks.push(limited(Subject::new("broker", "queue.url"), LIMIT, broker::check(config, roles)));
            if roles.receive {
                checks.push(limited(Subject::new("spool", "spool.path"), LIMIT, local::spool(config)));
            }
        }
        // The configuration's finding says it.
        Err(_) => {}
    }
    if roles.work {
        let subject = Subject::new("archive", config.archive.url.clone());
        checks.push(limited(subject.clone(), LIMIT, archive::check(config, subject, Clock::System)));
    }
    if roles.receive {
        let target = args.url.as_ref().map_or_else(|| "no URL".to_owned(), public::shown);
        let subject = Subject::new("public_url", target);
        let visited = public::check(config, args.url.as_ref(), subject.clone(), Clock::System);
        checks.push(limited(subject, LIMIT, visited));
    }
    checks
}

fn limited<'a>(
    subject: Subject,
    limit: Duration,
    check: impl Future<Output = Vec<Finding>> + 'a,
) -> Check<'a> {
    Box::pin(async move {
        tokio::time::timeout(limit, check).await.unwrap_or_else(|_| {
            vec![subject.fail(
                format!("not done within {limit:?}"),
                "something between here and there is very slow: try again, then look at the network",
            )]
        })
    })
}
