//! `polyhook endpoint test`: sends test deliveries to the public URL and explains the answers.
//!
//! A test delivery is like PolyAI's: it has the endpoint's own headers and timeout, and it does not follow redirects. The
//! command sends one for each secret that receivers should know, in each form that they should accept, and then one without
//! a signature, which receivers must refuse. The event has a type of its own and no conversation, so it creates no job.
//!
//! The deliveries come from this machine. The test does not find a firewall that allows only PolyAI's addresses, or a host
//! name that resolves differently elsewhere.

mod attempt;
mod explain;
mod explain_status;
mod finding;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use url::Url;

use self::{
    attempt::TestSender,
    explain::{explain, private_address_note},
    finding::{Finding, TestDelivery},
};
use super::{
    super::{CliError, GlobalArgs, output},
    AccountArgs, attributes, failed, find, sanitize,
};
use crate::{
    clock::Clock,
    config::Config,
    secret::Secret,
    shell,
    signature::{Scheme, SignedForm},
    web::POLYAI_TIMEOUT,
};

/// Send test deliveries to an endpoint's public URL and explain the answers.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint test
  polyhook endpoint test whe_9ZtRcXw3 --json
  polyhook endpoint test --url https://hooks.example.com/polyai

Posts an event `polyhook.test` of the environment `sandbox` without a conversation, once for each secret and signed \
form, and expects 204. Then posts one without a signature, and expects 401. Exit code 1 if an answer differs. \
Uses the configured secrets: run it with the configuration of the receivers. With --url, PolyAI is not asked.")]
pub(in crate::cli) struct Args {
    /// Endpoint (whe_…) [default: the only endpoint of the account]
    #[arg(value_name = "ENDPOINT_ID", conflicts_with = "url")]
    endpoint: Option<String>,
    /// Post to this URL, without the headers and timeout of an endpoint
    #[arg(long)]
    url: Option<Url>,
    #[command(flatten)]
    account: AccountArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// The target of the test deliveries.
#[derive(Debug)]
struct TestTarget {
    endpoint_id: Option<String>,
    url: Url,
    headers: BTreeMap<String, Secret>,
    timeout: Duration,
    notes: Vec<String>,
}

/// A secret that receivers should know, and its endpoint.
#[derive(Debug)]
struct KnownSecret {
    secret: Secret,
    endpoint_id: Option<String>,
}

/// The result of the command.
#[derive(Serialize)]
struct TestReport<'a> {
    url: &'a str,
    endpoint_id: Option<&'a str>,
    ok: bool,
    checks: Vec<Check<'a>>,
    notes: &'a [String],
}

/// One test delivery and its outcome.
#[derive(Serialize)]
struct Check<'a> {
    /// The number of the secret, from 1. None for a delivery without a signature.
    secret: Option<usize>,
    secret_of: Option<&'a str>,
    form: Option<SignedForm>,
    expected: u16,
    status: Option<u16>,
    latency_ms: u64,
    #[serde(flatten)]
    finding: Finding,
}

pub(super) async fn run(global: &GlobalArgs, args: &Args) -> Result<(), CliError> {
    let config = global.load()?;
    let clock = Clock::System;
    let secrets = known_secrets(&config, &clock);
    if secrets.is_empty() {
        return Err(CliError::Usage(
            "no secret is configured, so the test cannot sign: set signature.secrets_file to the file of the receivers, or set \
             POLYAI_WEBHOOK_SECRET"
                .to_owned(),
        ));
    }
    let mut target = target(&config, args).await?;
    let sender = TestSender::new(&target.url, &target.headers, target.timeout, clock).map_err(failed)?;
    target.notes.extend(private_address_note(&target.url, &sender.addresses().await));
    let checks = run_checks(&config, &secrets, &target, &sender).await;
    let ok = checks.iter().all(|check| check.finding.ok);
    let report = TestReport {
        url: target.url.as_str(),
        endpoint_id: target.endpoint_id.as_deref(),
        ok,
        checks,
        notes: &target.notes,
    };
    show(&report, args.json);
    if ok { Ok(()) } else { Err(CliError::AlreadyReported) }
}

/// Sends the signed deliveries, then the one without a signature. Ends early if there is no answer, because the other
/// deliveries would end the same way, one timeout after the other.
async fn run_checks<'a>(
    config: &Config,
    secrets: &'a [KnownSecret],
    target: &TestTarget,
    sender: &TestSender,
) -> Vec<Check<'a>> {
    let forms: &[SignedForm] = match config.signature.scheme {
        Scheme::Auto => &[SignedForm::Timestamped, SignedForm::Body],
        Scheme::Timestamped => &[SignedForm::Timestamped],
        Scheme::Body => &[SignedForm::Body],
    };
    let signed = secrets.iter().enumerate().flat_map(|secret| forms.iter().map(move |form| (secret, *form)));
    let mut checks = Vec::new();
    for signature in signed.map(Some).chain([None]) {
        let (outcome, latency) = sender.send(signature.map(|((_, known), form)| (&known.secret, form))).await;
        let delivery = signature.map_or(TestDelivery::Unsigned, |(_, form)| TestDelivery::Signed(form));
        checks.push(Check {
            secret: signature.map(|((index, _), _)| index + 1),
            secret_of: signature.and_then(|((_, known), _)| known.endpoint_id.as_deref()),
            form: signature.map(|(_, form)| form),
            expected: delivery.expected(),
            status: outcome.status(),
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            finding: explain(delivery, &outcome, &target.url, &config.server.path, target.timeout),
        });
        if outcome.status().is_none() {
            break;
        }
    }
    if config.signature.scheme == Scheme::Auto {
        accept_stricter_receivers(&mut checks);
    }
    checks
}

/// Accepts that receivers refuse the form without a timestamp of a secret that they know: their `signature.scheme` is
/// `timestamped`. This command knows it only if it is configured here, too.
fn accept_stricter_receivers(checks: &mut [Check<'_>]) {
    let timestamped = |check: &&Check<'_>| check.form == Some(SignedForm::Timestamped) && check.finding.ok;
    let known: Vec<_> = checks.iter().filter(timestamped).map(|check| check.secret).collect();
    for check in checks {
        if check.form == Some(SignedForm::Body)
            && check.finding.problem == Some("secret")
            && known.contains(&check.secret)
        {
            check.expected = 401;
            check.finding = Finding::expected(
                "refused, because these receivers accept only signatures with a timestamp, which PolyAI sends",
            );
        }
    }
}

/// Returns every secret that is valid now and that receivers should know.
fn known_secrets(config: &Config, clock: &Clock) -> Vec<KnownSecret> {
    let now = clock.now();
    let valid = |entry: &&crate::web::SecretEntry| entry.expires.is_none_or(|expires| now < expires);
    let configured = config.signature.secrets.iter().map(|secret| (secret, None));
    let in_file = config.signature.file_secrets.entries().filter(valid);
    let in_file = in_file.map(|entry| (&entry.secret, entry.endpoint.clone()));
    configured
        .chain(in_file)
        .map(|(secret, endpoint_id)| KnownSecret { secret: secret.clone(), endpoint_id })
        .collect()
}

async fn target(config: &Config, args: &Args) -> Result<TestTarget, CliError> {
    if let Some(url) = &args.url {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(CliError::Usage("--url: the URL must start with https://".to_owned()));
        }
        let plain = url.scheme() == "http" && !attributes::is_loopback(url);
        let notes = plain.then(|| {
            "PolyAI delivers only to https://. This URL is plain http, so the test covers only what is behind the ingress"
                .to_owned()
        });
        return Ok(TestTarget {
            endpoint_id: None,
            url: url.clone(),
            headers: BTreeMap::new(),
            timeout: POLYAI_TIMEOUT,
            notes: notes.into_iter().collect(),
        });
    }
    let endpoints = args.account.webhooks(config)?.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, args.endpoint.as_deref())?;
    let url = endpoint.url.parse().map_err(|error| {
        failed(format!(
            "{}: its registered URL {} is not valid: {error}",
            endpoint.id,
            sanitize(&endpoint.url)
        ))
    })?;
    let notes = (endpoint.enabled == Some(false)).then(|| {
        format!(
            "{} is disabled, so PolyAI delivers nothing to it; to enable it, run `polyhook endpoint update --enable {}`",
            endpoint.id,
            shell::last_argument(&endpoint.id)
        )
    });
    Ok(TestTarget {
        endpoint_id: Some(endpoint.id.clone()),
        url,
        headers: endpoint.headers.clone(),
        timeout: endpoint.timeout_ms.map_or(POLYAI_TIMEOUT, Duration::from_millis),
        notes: notes.into_iter().collect(),
    })
}

fn show(report: &TestReport<'_>, json: bool) {
    if json {
        output::json(report);
        return;
    }
    let id = report.endpoint_id.map(|id| format!("{id} ")).unwrap_or_default();
    output::line(output::bold(format!("{id}{}", report.url)));
    for (index, check) in report.checks.iter().enumerate() {
        let Check { secret, secret_of, form, status, latency_ms, finding, .. } = check;
        let delivery = match (secret, form) {
            (Some(secret), Some(form)) => {
                let of = secret_of.map(|id| format!(" of {}", sanitize(id))).unwrap_or_default();
                let signed =
                    if *form == SignedForm::Timestamped { "timestamp and body" } else { "body alone" };
                format!("secret {secret}{of}, {signed}")
            }
            _ => "no signature".to_owned(),
        };
        let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        let status = if finding.ok { output::green(status) } else { output::red(status) };
        output::line(format!("  {delivery}: {status} after {latency_ms} ms, {}", finding.meaning));
        // The same next step of several deliveries is printed once, after the last of them.
        let repeated = report.checks.get(index + 1).is_some_and(|check| check.finding.next == finding.next);
        if let Some(next) = finding.next.as_ref().filter(|_| !repeated) {
            output::line(format!("      next: {next}"));
        }
    }
    for note in report.notes {
        output::line(format!("  note: {note}"));
    }
    if report.ok {
        output::line("deliveries arrive, and unsigned requests are refused");
    }
}
