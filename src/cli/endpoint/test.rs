//! `polyhook endpoint test`: a delivery from here to the public URL and back in, and what the answer means.
//!
//! What is posted is what PolyAI would post: the endpoint's own headers, its timeout, no redirect followed, signed
//! with every secret the receivers should know, in every form they should take. The event is of a type of its own
//! and about no conversation, so it makes no job. Then one without a signature, which must be refused.
//!
//! It is sent from here: what lets only PolyAI's addresses in, or a name that resolves differently outside, shows
//! itself to PolyAI alone.

mod attempt;
mod explain;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use url::Url;

use self::{
    attempt::{Answer, Poster},
    explain::{Finding, Sent},
};
use super::{
    super::{CliError, GlobalArgs, output},
    Account, attributes, failed, find, sanitize,
};
use crate::{
    clock::Clock,
    config::Config,
    secret::Secret,
    signature::{Scheme, SignedForm},
};

/// PolyAI's own, where the endpoint has none.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Deliver to an endpoint's public URL as PolyAI does, and explain what comes back.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook endpoint test
  polyhook endpoint test whe_9ZtRcXw3 --json
  polyhook endpoint test --url https://hooks.example.com/polyai-events      asks PolyAI nothing

It posts an event `polyhook.test` of the environment `sandbox` that is about no conversation, once for each secret
and signed form, and expects 204; then one without a signature, and expects 401. Exit code 1 if anything is otherwise.
The secrets are the configured ones: run it with the configuration of the receivers.")]
pub(in crate::cli) struct Args {
    /// The endpoint (whe_…); the account's only one where absent
    #[arg(value_name = "ENDPOINT_ID", conflicts_with = "url")]
    endpoint: Option<String>,
    /// Where to, without asking PolyAI which headers and timeout belong to it
    #[arg(long)]
    url: Option<Url>,
    #[command(flatten)]
    account: Account,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Where to, and how.
#[derive(Debug)]
struct Target {
    endpoint_id: Option<String>,
    url: Url,
    headers: BTreeMap<String, Secret>,
    timeout: Duration,
    notes: Vec<String>,
}

/// A secret that receivers should know, and whose it is.
#[derive(Debug)]
struct Known {
    secret: Secret,
    endpoint_id: Option<String>,
}

#[derive(Serialize)]
struct Report<'a> {
    url: &'a str,
    endpoint_id: Option<&'a str>,
    ok: bool,
    checks: Vec<Check<'a>>,
    notes: &'a [String],
}

/// One post and what came of it.
#[derive(Serialize)]
struct Check<'a> {
    /// Counted from 1; none without a signature.
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
    let known = known(&config, &clock);
    if known.is_empty() {
        return Err(CliError::Usage(
            "there is no secret to sign with: set signature.secrets_file, as the receivers have it, or \
             POLYAI_WEBHOOK_SECRET"
                .to_owned(),
        ));
    }
    let mut target = target(&config, args).await?;
    let poster = Poster::new(&target.url, &target.headers, target.timeout, clock).map_err(failed)?;
    target.notes.extend(explain::addresses(&target.url, &poster.addresses().await));
    let explain = |sent, answer: &Answer| {
        explain::explain(sent, answer, &target.url, &config.server.path, target.timeout)
    };

    let mut checks = Vec::new();
    let forms: &[SignedForm] = match config.signature.scheme {
        Scheme::Auto => &[SignedForm::Timestamped, SignedForm::Body],
        Scheme::Timestamped => &[SignedForm::Timestamped],
        Scheme::Body => &[SignedForm::Body],
    };
    let signed = known.iter().enumerate().flat_map(|one| forms.iter().map(move |form| (one, *form)));
    let posts = signed.map(Some).chain([None]);
    for post in posts {
        let (answer, latency) = poster.post(post.map(|((_, known), form)| (&known.secret, form))).await;
        let sent = post.map_or(Sent::Unsigned, |(_, form)| Sent::Signed(form));
        checks.push(Check {
            secret: post.map(|((index, _), _)| index + 1),
            secret_of: post.and_then(|((_, known), _)| known.endpoint_id.as_deref()),
            form: post.map(|(_, form)| form),
            expected: sent.expected(),
            status: answer.status(),
            latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
            finding: explain(sent, &answer),
        });
        // The others would say the same, one timeout after the other.
        if answer.status().is_none() {
            break;
        }
    }
    let ok = checks.iter().all(|check| check.finding.ok);
    let report = Report {
        url: target.url.as_str(),
        endpoint_id: target.endpoint_id.as_deref(),
        ok,
        checks,
        notes: &target.notes,
    };
    show(&report, args.json);
    if ok { Ok(()) } else { Err(CliError::AlreadyReported) }
}

/// Every secret that is valid now, as the receivers should have them.
fn known(config: &Config, clock: &Clock) -> Vec<Known> {
    let now = clock.now();
    let valid = |entry: &&crate::web::SecretEntry| entry.expires.is_none_or(|expires| now < expires);
    let given = config.signature.secrets.iter().map(|secret| (secret, None));
    let in_file = config.signature.file_secrets.entries().filter(valid);
    let in_file = in_file.map(|entry| (&entry.secret, entry.endpoint.clone()));
    given.chain(in_file).map(|(secret, endpoint_id)| Known { secret: secret.clone(), endpoint_id }).collect()
}

async fn target(config: &Config, args: &Args) -> Result<Target, CliError> {
    if let Some(url) = &args.url {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(CliError::Usage("--url: it must be an https:// URL".to_owned()));
        }
        let plain = url.scheme() == "http" && !attributes::is_loopback(url);
        let notes = plain.then(|| {
            "this is plain http: PolyAI delivers to https:// only, so this shows no more than what is behind the ingress"
                .to_owned()
        });
        return Ok(Target {
            endpoint_id: None,
            url: url.clone(),
            headers: BTreeMap::new(),
            timeout: TIMEOUT,
            notes: notes.into_iter().collect(),
        });
    }
    let endpoints = args.account.webhooks(config)?.list().await.map_err(failed)?;
    let endpoint = find(&endpoints, args.endpoint.as_deref())?;
    let url = endpoint.url.parse().map_err(|error| {
        failed(format!("{}: PolyAI has {} as its URL: {error}", endpoint.id, sanitize(&endpoint.url)))
    })?;
    let notes = (endpoint.enabled == Some(false)).then(|| {
        format!(
            "{0} is disabled, so PolyAI delivers nothing to it: `polyhook endpoint update {0} --enable`",
            endpoint.id
        )
    });
    Ok(Target {
        endpoint_id: Some(endpoint.id.clone()),
        url,
        headers: endpoint.headers.clone(),
        timeout: endpoint.timeout_ms.map_or(TIMEOUT, Duration::from_millis),
        notes: notes.into_iter().collect(),
    })
}

fn show(report: &Report<'_>, json: bool) {
    if json {
        output::json(report);
        return;
    }
    let id = report.endpoint_id.map(|id| format!("{id} ")).unwrap_or_default();
    output::line(output::bold(format!("{id}{}", report.url)));
    for (index, check) in report.checks.iter().enumerate() {
        let Check { secret, secret_of, form, status, latency_ms, finding, .. } = check;
        let what = match (secret, form) {
            (Some(secret), Some(form)) => {
                let of = secret_of.map(|id| format!(" of {}", sanitize(id))).unwrap_or_default();
                let over = if *form == SignedForm::Timestamped { "timestamp and body" } else { "body alone" };
                format!("secret {secret}{of}, {over}")
            }
            _ => "no signature".to_owned(),
        };
        let status = status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
        let status = if finding.ok { output::green(status) } else { output::red(status) };
        output::line(format!("  {what}: {status} after {latency_ms} ms, {}", finding.meaning));
        // What is to be done about several is said once, after the last.
        let again = report.checks.get(index + 1).is_some_and(|check| check.finding.next == finding.next);
        if let Some(next) = finding.next.as_ref().filter(|_| !again) {
            output::line(format!("      next: {next}"));
        }
    }
    for note in report.notes {
        output::line(format!("  note: {note}"));
    }
    if report.ok {
        output::line("deliveries arrive, and what is not PolyAI's is refused");
    }
}
