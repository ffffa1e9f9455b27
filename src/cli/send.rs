//! `polyhook send`: signs deliveries as PolyAI does and sends them.

mod advice;
mod conversations;

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::json;
use url::Url;

use self::conversations::{ConversationIds, ExpectedFetch};
use super::{CliError, GlobalArgs, output, progress, simulate::SignedForm};
use crate::{
    bounded_file,
    clock::Clock,
    config::Config,
    event::{CONVERSATION_COMPLETED, Event},
    secret::Secret,
};
use polyhook_simulator::{
    AttemptOutcome, Delivery, DeliveryReport, DeliverySummary, LatencyPercentiles, Sender, SenderOptions,
    Tampering,
};

/// The answer of a receiver to a delivery with an invalid signature.
const UNAUTHORIZED: u16 = 401;

/// Send deliveries with PolyAI's signature; exit code 1 if an answer is not the expected one.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  polyhook send --conversation CA0123456789abcdef
  polyhook send --event alerts.triggered --body alert.json
  jq -c .event saved.json | polyhook send --body -
  polyhook send --count 1000 --rate 500    with latencies in the summary
  polyhook send --bad signature            expects 401

If the configured PolyAI is `polyhook simulate`, the conversations are added to it, so \
that a worker can fetch them. The real PolyAI knows only its own conversations: name one \
with --conversation.

The secret comes from --secret-file. Without it, the first configured secret is used \
(POLYAI_WEBHOOK_SECRET, signature.secrets_file). The expected answer is a 2xx, with \
--bad a 401, with --expect the given status.")]
pub(super) struct Args {
    /// Receiver's URL [default: the configured receiver on this machine]
    #[arg(long, value_parser = parse_http_url)]
    url: Option<Url>,
    /// File with the signing secret
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Signed bytes
    #[arg(long, value_enum, default_value_t = SignedForm::Timestamped)]
    scheme: SignedForm,
    /// Event type
    #[arg(long, visible_alias = "type", value_name = "TYPE", default_value = CONVERSATION_COMPLETED)]
    event: String,
    /// Conversation id [default: a new one for each delivery]
    #[arg(long, visible_alias = "conversation-id", value_name = "ID")]
    conversation: Option<String>,
    /// Environment in the body
    #[arg(long, value_name = "NAME", default_value = "live")]
    environment: String,
    /// Account id in the body
    #[arg(long, value_name = "ID")]
    account_id: Option<String>,
    /// Project id in the body
    #[arg(long, value_name = "ID")]
    project_id: Option<String>,
    /// X-PolyAI-Event-ID [default: a new one for each delivery]
    #[arg(long, value_name = "ID")]
    event_id: Option<String>,
    /// Send this file unchanged as the body; `-` reads standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["conversation", "account_id", "project_id"])]
    body: Option<PathBuf>,
    /// Number of deliveries
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Deliveries per second [default: as fast as the receiver accepts them]
    #[arg(long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Maximum number of concurrent deliveries
    #[arg(long, value_name = "N", default_value_t = 64)]
    concurrency: usize,
    /// Make every delivery invalid
    #[arg(long, value_enum, value_name = "HOW")]
    bad: Option<Bad>,
    /// Expected HTTP status
    #[arg(long, value_name = "STATUS")]
    expect: Option<u16>,
    /// Retry like PolyAI, with its delays multiplied by this factor
    #[arg(long, value_name = "TIME_SCALE")]
    retry: Option<f64>,
    /// Print one JSON object: the delivery, or the summary of several
    #[arg(long)]
    json: bool,
}

/// A deliberate defect of every delivery.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Bad {
    /// Sign with a secret that the receiver does not have
    Signature,
    /// Send a signature that is not hex
    Malformed,
    /// Send no signature
    Missing,
    /// Sign with a timestamp of an hour ago
    Timestamp,
    /// Sign with a timestamp and do not send it
    NoTimestamp,
    /// Change the body after signing it
    Body,
}

impl From<Bad> for Tampering {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::Signature => Self::WrongSecret,
            Bad::Malformed => Self::MalformedSignature,
            Bad::Missing => Self::MissingSignature,
            Bad::Timestamp => Self::StaleTimestamp,
            Bad::NoTimestamp => Self::MissingTimestamp,
            Bad::Body => Self::ModifiedBody,
        }
    }
}

impl Args {
    fn is_expected(&self, outcome: AttemptOutcome) -> bool {
        match (self.expect, self.bad) {
            (Some(status), _) => outcome == AttemptOutcome::Answered { status },
            (None, Some(_)) => outcome == AttemptOutcome::Answered { status: UNAUTHORIZED },
            (None, None) => outcome.accepted(),
        }
    }
}

pub(super) async fn run(global: &GlobalArgs, args: Args) -> Result<(), CliError> {
    if matches!(args.bad, Some(Bad::Timestamp | Bad::NoTimestamp)) && matches!(args.scheme, SignedForm::Body)
    {
        return Err(CliError::Usage(
            "--bad timestamp and --bad no-timestamp need a signed timestamp, and --scheme body has none; use --scheme \
             timestamped"
                .to_owned(),
        ));
    }
    let config = load_config(global, &args)?;
    let (target, secret) = target_and_secret(config.as_ref(), &args)?;
    let delays = if args.retry.is_some() { SenderOptions::default().delays } else { Vec::new() };
    let options = SenderOptions {
        form: args.scheme.into(),
        rate: args.rate,
        concurrency: args.concurrency,
        time_scale: args.retry.unwrap_or(1.0),
        delays,
        tampering: args.bad.map(Tampering::from),
        ..SenderOptions::default()
    };
    let sender = Sender::new(target.clone(), secret.expose(), options, polyhook_simulator::Clock::system())
        .map_err(|error| CliError::Failed(error.to_string()))?;
    let body = args.body.as_deref().map(read_body).transpose()?;

    let ids = ConversationIds::new(&args);
    let event = Event::read(&delivery(&args, &ids, body.as_ref(), 0).body);
    let expected_fetch = ids.prepare(config.as_ref(), &event).await;
    let (accepted, unexpected) = if args.count == 1 {
        let report = sender.deliver(delivery(&args, &ids, body.as_ref(), 0)).await;
        let (accepted, expected) = (report.outcome.accepted(), args.is_expected(report.outcome));
        show_report(&report, expected, expected_fetch.warning(accepted), args.json);
        (accepted, if expected { Vec::new() } else { vec![report.outcome] })
    } else {
        let (summary, unexpected) = send_all(&args, &ids, &sender, body.as_ref()).await;
        let accepted = summary.accepted > 0;
        show_summary(&summary, unexpected.len(), expected_fetch.warning(accepted), args.json);
        (accepted, unexpected)
    };
    if let Some(warning) = expected_fetch.warning(accepted) {
        output::note(&format!("warning: {warning}"));
    } else if let ExpectedFetch::Simulated(subject) = expected_fetch
        && accepted
        && !args.json
    {
        let it = if args.count == 1 || args.body.is_some() { "it" } else { "them" };
        output::note(&format!("the simulated PolyAI has {subject}, so a worker can fetch and archive {it}"));
    }
    if unexpected.is_empty() {
        return Ok(());
    }
    let path = config.map_or_else(|| crate::web::ServerConfig::default().path, |config| config.server.path);
    let mut advice: Vec<_> =
        unexpected.iter().map(|outcome| advice::explain(*outcome, &target, &path)).collect();
    advice.sort_unstable();
    advice.dedup();
    Err(CliError::Failed(advice.join("\n")))
}

/// Sends all deliveries and returns the summary and the unexpected outcomes.
async fn send_all(
    args: &Args,
    ids: &ConversationIds<'_>,
    sender: &Sender,
    body: Option<&Bytes>,
) -> (DeliverySummary, Vec<AttemptOutcome>) {
    let bar = progress::bar(args.count, "sent", args.json);
    let unexpected = Mutex::new(Vec::new());
    let deliveries = (0..args.count).map(|number| delivery(args, ids, body, number));
    let summary = sender
        .run_with(stream::iter(deliveries), |report| {
            bar.inc(1);
            if !args.is_expected(report.outcome) {
                unexpected.lock().unwrap_or_else(PoisonError::into_inner).push(report.outcome);
            }
        })
        .await;
    bar.finish_and_clear();
    (summary, unexpected.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Parses the URL of a receiver. `localhost:8080` also parses as a URL, with the scheme `localhost`.
fn parse_http_url(text: &str) -> Result<Url, String> {
    match text.parse::<Url>() {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        _ if !text.contains("://") && format!("http://{text}").parse::<Url>().is_ok() => {
            Err(format!("write the whole URL, such as http://{text}"))
        }
        _ => {
            Err("write a URL with http:// or https://, such as http://127.0.0.1:8080/polyai-events"
                .to_owned())
        }
    }
}

fn read_body(path: &Path) -> Result<Bytes, CliError> {
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().read_to_end(&mut bytes).map(drop)
    } else {
        std::fs::read(path).map(|read| bytes = read)
    };
    read.map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?;
    Ok(bytes.into())
}

/// Reads the configuration. It may be wrong or missing if it is not needed.
fn load_config(global: &GlobalArgs, args: &Args) -> Result<Option<Config>, CliError> {
    let config = global.load();
    if args.url.is_some() && args.secret_file.is_some() { Ok(config.ok()) } else { Ok(Some(config?)) }
}

fn target_and_secret(config: Option<&Config>, args: &Args) -> Result<(Url, Secret), CliError> {
    let target = match (&args.url, config) {
        (Some(url), _) => url.clone(),
        (None, config) => {
            let server = config.map(|config| config.server.clone()).unwrap_or_default();
            format!("http://127.0.0.1:{}{}", server.listen.port(), server.path)
                .parse()
                .map_err(|error| CliError::Usage(format!("server.path: {error}")))?
        }
    };
    let secret = match &args.secret_file {
        Some(path) => bounded_file::read_text_or_pipe(path)
            .map(|text| Secret::parse_lines(&text))
            .map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?
            .into_iter()
            .next(),
        None => config.and_then(|config| config.signature.valid(Clock::System.now()).into_iter().next()),
    };
    secret.map(|secret| (target, secret)).ok_or_else(|| {
        CliError::Usage(
            "no secret is configured, so there is nothing to sign with: give --secret-file, or set POLYAI_WEBHOOK_SECRET".to_owned(),
        )
    })
}

fn delivery(args: &Args, ids: &ConversationIds<'_>, body: Option<&Bytes>, number: u64) -> Delivery {
    let event_id = match &args.event_id {
        Some(id) if args.count == 1 => id.clone(),
        Some(id) => format!("{id}-{number}"),
        None => format!("evt_{}", uuid::Uuid::now_v7()),
    };
    if let Some(body) = body {
        return Delivery::new(event_id, args.event.clone(), body.clone());
    }
    let conversation_id = ids.id(number);
    let mut data = json!({ "conversation_id": conversation_id, "environment": args.environment });
    for (name, id) in [("account_id", &args.account_id), ("project_id", &args.project_id)] {
        if let Some(id) = id {
            data[name] = json!(id);
        }
    }
    let body = json!({ "type": args.event, "data": data }).to_string();
    let mut delivery = Delivery::new(event_id, args.event.clone(), body);
    delivery.conversation_id = Some(conversation_id);
    delivery
}

/// A report or a summary as JSON, with the warning about jobs.
#[derive(Serialize)]
struct WithWarning<'a, T> {
    #[serde(flatten)]
    result: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<&'a str>,
}

fn show_report(report: &DeliveryReport, expected: bool, warning: Option<&str>, json: bool) {
    if json {
        output::json(&WithWarning { result: report, warning });
        return;
    }
    let answer = match report.outcome {
        AttemptOutcome::Answered { status } => format!("answered {status}"),
        AttemptOutcome::Timeout => "no answer in time".to_owned(),
        AttemptOutcome::Network => "no connection".to_owned(),
    };
    let answer = if expected { output::green(answer) } else { output::red(answer) };
    let DeliveryReport { event_type, id, latency_ms, .. } = report;
    output::line(format!("{event_type} {id} {answer} after {latency_ms:.1} ms"));
}

fn show_summary(summary: &DeliverySummary, unexpected: usize, warning: Option<&str>, json: bool) {
    #[derive(Serialize)]
    struct SendSummary<'a> {
        #[serde(flatten)]
        summary: &'a DeliverySummary,
        unexpected: usize,
    }

    if json {
        output::json(&WithWarning { result: SendSummary { summary, unexpected }, warning });
        return;
    }
    let DeliverySummary { deliveries, duration_ms, latencies_ms, statuses, timeouts, network_errors, .. } =
        summary;
    let deliveries = output::counted(*deliveries, "delivery");
    let verdict = if unexpected == 0 {
        output::green(format!("{deliveries}, all answered as expected"))
    } else {
        output::red(format!("{deliveries}, {unexpected} not answered as expected"))
    };
    output::line(format!("{verdict}, in {:.1} s", Duration::from_millis(*duration_ms).as_secs_f64()));
    let mut answers: Vec<_> = statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    for (what, count) in [("no answer in time", *timeouts), ("no connection", *network_errors)] {
        if count > 0 {
            answers.push(format!("{what}: {count}"));
        }
    }
    output::line(format!("answers  {}", answers.join(", ")));
    let LatencyPercentiles { p50, p90, p99, max } = latencies_ms;
    output::line(format!("latency  p50 {p50:.1} ms, p90 {p90:.1} ms, p99 {p99:.1} ms, max {max:.1} ms"));
}
