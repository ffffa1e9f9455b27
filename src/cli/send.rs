//! `polyhook send`: deliveries signed as PolyAI signs them.

use std::path::PathBuf;

use bytes::Bytes;
use futures_util::stream;
use indicatif::ProgressBar;
use serde_json::json;
use url::Url;

use super::{CliError, Global, output, simulate::SignedForm};
use crate::{
    clock::Clock,
    event::CONVERSATION_COMPLETED,
    secret::Secret,
    simulator::{Answer, Delivery, Report, Sender, SenderOptions, Summary},
};

/// Sign deliveries as PolyAI does and post them; exit code 1 unless all are accepted.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook send --conversation-id CA0123456789abcdef
  polyhook send --type alerts.triggered --body alert.json --url https://hooks.example.com/polyai-events
  polyhook send --count 10000 --concurrency 128
  polyhook send --bad-signature                              must be answered 401

The secret is the first configured one (POLYAI_WEBHOOK_SECRET, signature.secrets_file) or --secret-file's.")]
pub(super) struct Args {
    /// Where to; the configured receiver on this machine where absent
    #[arg(long)]
    url: Option<Url>,
    /// A file with the signing secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// What is signed
    #[arg(long, value_enum, default_value_t = SignedForm::Timestamped)]
    scheme: SignedForm,
    /// The event's type
    #[arg(long = "type", value_name = "TYPE", default_value = CONVERSATION_COMPLETED)]
    kind: String,
    /// The conversation it is about; a made-up one where absent
    #[arg(long, value_name = "ID")]
    conversation_id: Option<String>,
    /// The environment it says
    #[arg(long, default_value = "live")]
    environment: String,
    /// The account it says
    #[arg(long)]
    account_id: Option<String>,
    /// The project it says
    #[arg(long)]
    project_id: Option<String>,
    /// The X-PolyAI-Event-ID; a new one for each where absent
    #[arg(long)]
    event_id: Option<String>,
    /// Send this file as the body, byte for byte
    #[arg(long, value_name = "FILE", conflicts_with_all = ["conversation_id", "account_id", "project_id"])]
    body: Option<PathBuf>,
    /// How many deliveries
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Deliveries a second; as fast as they are taken where absent
    #[arg(long)]
    rate: Option<f64>,
    /// Most deliveries at a time
    #[arg(long, default_value_t = 64)]
    concurrency: usize,
    /// Sign with a secret that is not the receiver's
    #[arg(long)]
    bad_signature: bool,
    /// Retry as PolyAI does, with its waits multiplied by this (1 is PolyAI's own pace)
    #[arg(long, value_name = "TIME_SCALE")]
    retry: Option<f64>,
    /// One JSON object for a single delivery, or a summary
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(global: &Global, args: Args) -> Result<(), CliError> {
    let (target, secret) = whereto(global, &args)?;
    let delays = if args.retry.is_some() { SenderOptions::default().delays } else { Vec::new() };
    let options = SenderOptions {
        form: args.scheme.into(),
        rate: args.rate,
        concurrency: args.concurrency,
        time_scale: args.retry.unwrap_or(1.0),
        delays,
        ..SenderOptions::default()
    };
    let sender = Sender::new(target, secret, options, Clock::System)
        .map_err(|error| CliError::Failed(error.to_string()))?;
    let body = match &args.body {
        Some(path) => Some(Bytes::from(
            std::fs::read(path).map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?,
        )),
        None => None,
    };

    if args.count == 1 {
        let report = sender.deliver(delivery(&args, body.as_ref(), 0)).await;
        show_report(&report, args.json);
        return if report.answer.accepted() { Ok(()) } else { Err(CliError::Said) };
    }
    let bar = ProgressBar::new(args.count);
    let deliveries = (0..args.count).map(|number| {
        bar.inc(1);
        delivery(&args, body.as_ref(), number)
    });
    let summary = sender.run(stream::iter(deliveries)).await;
    bar.finish_and_clear();
    show_summary(&summary, args.json);
    if summary.accepted == summary.deliveries { Ok(()) } else { Err(CliError::Said) }
}

fn whereto(global: &Global, args: &Args) -> Result<(Url, Secret), CliError> {
    let config = match (&args.url, &args.secret_file) {
        (Some(_), Some(_)) => None,
        _ => Some(global.load()?),
    };
    let target = match (&args.url, &config) {
        (Some(url), _) => url.clone(),
        (None, config) => {
            let server = config.as_ref().map(|config| config.server.clone()).unwrap_or_default();
            format!("http://127.0.0.1:{}{}", server.listen.port(), server.path)
                .parse()
                .map_err(|error| CliError::Usage(format!("server.path: {error}")))?
        }
    };
    if args.bad_signature {
        return Ok((target, Secret::new("not-the-secret-of-any-receiver")));
    }
    let secret = match &args.secret_file {
        Some(path) => Secret::read_lines(path)
            .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?
            .into_iter()
            .next(),
        None => config.and_then(|config| config.signature.valid(Clock::System.now()).into_iter().next()),
    };
    secret.map(|secret| (target, secret)).ok_or_else(|| {
        CliError::Usage(
            "there is no secret to sign with: give --secret-file, or set POLYAI_WEBHOOK_SECRET".to_owned(),
        )
    })
}

fn delivery(args: &Args, body: Option<&Bytes>, number: u64) -> Delivery {
    let event_id = match &args.event_id {
        Some(id) if args.count == 1 => id.clone(),
        Some(id) => format!("{id}-{number}"),
        None => format!("evt_{}", uuid::Uuid::now_v7()),
    };
    if let Some(body) = body {
        return Delivery::new(event_id, args.kind.clone(), body.clone());
    }
    let conversation_id = match &args.conversation_id {
        Some(id) if args.count == 1 => id.clone(),
        Some(id) => format!("{id}-{number}"),
        None => format!("CA{}", uuid::Uuid::new_v4().simple()),
    };
    let mut data = json!({ "conversation_id": conversation_id, "environment": args.environment });
    for (name, id) in [("account_id", &args.account_id), ("project_id", &args.project_id)] {
        if let Some(id) = id {
            data[name] = json!(id);
        }
    }
    let body = json!({ "type": args.kind, "data": data }).to_string();
    let mut delivery = Delivery::new(event_id, args.kind.clone(), body);
    delivery.conversation_id = Some(conversation_id);
    delivery
}

fn show_report(report: &Report, json: bool) {
    if json {
        output::json(report);
        return;
    }
    #[expect(clippy::cast_precision_loss, reason = "microseconds of one request")]
    let ms = report.latency_us as f64 / 1000.0;
    let answer = match report.answer {
        Answer::Status(status) => format!("answered {status}"),
        Answer::Timeout => "no answer in time".to_owned(),
        Answer::Network => "no connection".to_owned(),
    };
    let answer = if report.answer.accepted() { output::good(answer) } else { output::bad(answer) };
    output::line(format!("{} {} {answer} after {ms:.1} ms", report.kind, report.event_id));
}

fn show_summary(summary: &Summary, json: bool) {
    if json {
        output::json(summary);
        return;
    }
    output::line(format!("{} of {} accepted", summary.accepted, summary.deliveries));
    output::line(serde_json::to_string_pretty(summary).unwrap_or_default());
}
