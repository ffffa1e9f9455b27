//! `polyhook doctor`: checks everything that polyhook depends on and suggests fixes.
//!
//! Each check is a function that returns findings. Checks run concurrently, each with a time limit, and are printed in a
//! fixed order. Each role has its own: a check needs no key, permission or access that the role does not need. Checks leave
//! nothing behind except one small object in the bucket of the archive (`Archive::check`). No finding contains a secret or a part of
//! a transcript.

mod archive;
mod broker;
mod disk;
mod endpoint;
mod local;
mod polyai;
mod public;
mod report;
mod secrets;

use std::{pin::Pin, time::Duration};

use futures_util::future::join_all;
use url::Url;

use self::report::{DoctorReport, Finding, Subject};
use super::{CliError, GlobalArgs, role::Role};
use crate::{
    clock::Clock,
    config::Config,
    queue::QueueBackend,
    secret::shown_address,
    telemetry::{self, LogConfig},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook doctor --url https://hooks.example.com/polyai-events
  polyhook doctor --conversation CA0123456789abcdef
  polyhook doctor --role receive --json

Run it on the machine where polyhook runs, as the same user. docs/doctor.md explains \
every check. Exit code 1 if a check fails, 78 if the configuration cannot be read.")]
pub(super) struct Args {
    /// Check only what this role needs
    #[arg(long, value_enum, default_value_t = Role::Run)]
    role: Role,
    /// Public URL of the endpoint; an unsigned POST must be answered with 401
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
    /// Conversation to fetch, preferably a call with a recording [default: a recent one]
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
    /// Do not try a rejected key in other PolyAI regions
    #[arg(long)]
    no_other_regions: bool,
    /// Regions to try a rejected key in, instead of PolyAI's
    #[arg(long, value_name = "NAME=URL", hide = true, value_parser = parse_region)]
    other_region: Vec<(String, Url)>,
    /// Print one JSON object: {"ok", "summary", "findings"}
    #[arg(long)]
    json: bool,
}

fn parse_region(text: &str) -> Result<(String, Url), String> {
    let (name, url) = text.split_once('=').ok_or("write it as NAME=URL")?;
    Ok((name.to_owned(), url.parse().map_err(|error| format!("{url}: {error}"))?))
}

type Check<'a> = Pin<Box<dyn Future<Output = Vec<Finding>> + 'a>>;

/// The time limit of a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit of the PolyAI check, which sends several requests per project.
const POLYAI_TIMEOUT: Duration = Duration::from_mins(2);

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    telemetry::init_logs(&LogConfig { level: "off".to_owned(), ..LogConfig::default() })?;
    let reading = global.read();
    let is_readable = reading.is_valid();
    let mut reading = reading.check(args.role.roles());
    let mut machine = args.role.check_machine(reading.config()).await.problems;
    if is_readable {
        // The checks of queue, spool and archive say more about their paths.
        machine.retain(|problem| problem.key().ends_with(".listen"));
    }
    reading.add(&machine);
    let config = reading.config().clone();
    let checked = reading.finish().map(drop);
    let mut findings = local::configuration(&checked, args.role);
    match checked {
        // No other check could trust the configuration.
        Err(_) if !is_readable && args.json => {
            DoctorReport::new(findings).print(true);
            return Err(CliError::ConfigAlreadyReported);
        }
        Err(error) if !is_readable => return Err(error.into()),
        _ => findings.extend(join_all(checks(&config, global, &args)).await.concat()),
    }
    let report = DoctorReport::new(findings);
    report.print(args.json);
    if report.has_failures() { Err(CliError::AlreadyReported) } else { Ok(()) }
}

/// Returns the checks in the order of output.
fn checks<'a>(config: &'a Config, global: &'a GlobalArgs, args: &'a Args) -> Vec<Check<'a>> {
    let roles = args.role.roles();
    let archives = roles.work || roles.reconcile;
    let mut checks: Vec<Check<'a>> =
        vec![Box::pin(async move { secrets::check(config, roles, global.config_file().as_deref()) })];
    if archives {
        let check = polyai::check(config, args, Clock::System);
        checks.push(with_timeout(Subject::new("polyai", "all projects"), POLYAI_TIMEOUT, check));
    }
    match config.queue.backend() {
        Ok(QueueBackend::Sqlite(path)) => {
            let subject = Subject::new("queue.file", path.display().to_string());
            checks.push(with_timeout(subject.clone(), CHECK_TIMEOUT, local::queue(subject, path)));
        }
        Ok(QueueBackend::RabbitMq) => {
            checks.push(with_timeout(
                Subject::new("broker", "queue.url"),
                CHECK_TIMEOUT,
                broker::check(config, args.role),
            ));
            if roles.receive {
                checks.push(with_timeout(
                    Subject::new("spool", "spool.path"),
                    CHECK_TIMEOUT,
                    local::spool(config),
                ));
            }
        }
        // The check of the configuration reports this.
        Err(_) => {}
    }
    if archives || config.serves_console(roles) {
        let subject = Subject::new("archive", config.archive.url.clone());
        checks.push(with_timeout(
            subject.clone(),
            CHECK_TIMEOUT,
            archive::check(config, subject, Clock::System, roles.work),
        ));
    }
    if roles.receive || args.role == Role::Operate {
        let check = endpoint::check(config, args.url.as_ref(), Clock::System);
        checks.push(with_timeout(endpoint::subject("webhook"), CHECK_TIMEOUT, check));
    }
    if roles.receive {
        let target = args.url.as_ref().map_or_else(|| "no URL".to_owned(), shown_address);
        let subject = Subject::new("public_url", target);
        let check = public::check(config, args.url.as_ref(), subject.clone(), Clock::System);
        checks.push(with_timeout(subject, CHECK_TIMEOUT, check));
    }
    checks
}

fn with_timeout<'a>(
    subject: Subject,
    limit: Duration,
    check: impl Future<Output = Vec<Finding>> + 'a,
) -> Check<'a> {
    Box::pin(async move {
        tokio::time::timeout(limit, check).await.unwrap_or_else(|_| {
            vec![subject.fail(
                format!("the check did not finish within {limit:?}"),
                "try again; if it persists, check the network to the target",
            )]
        })
    })
}
