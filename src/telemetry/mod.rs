//! Logs, metrics and spans.
//!
//! Logs go to standard error: pretty on a terminal, one JSON object a line elsewhere. Field names follow
//! `entity.attribute` with the unit as a suffix (`elapsed_ms`, `body_bytes`). No field ever holds a secret, a
//! body, a transcript or a phone number; the types make the first impossible ([`crate::secret::Secret`]).
//!
//! A service's lines are written by a thread of their own: whoever reads them may stop reading, and no answer may
//! wait for that. What it cannot take is dropped and counted.

mod line;
pub mod trace;
mod writer;

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use metrics::{Gauge, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing_subscriber::{
    filter::{LevelFilter, ParseError, Targets},
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// `[log]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `pretty` or `json`; where it is not set, pretty on a terminal and JSON elsewhere.
    pub format: Option<LogFormat>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,polyhook::worker=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: None, level: "info".to_owned() }
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For programs: one object a line.
    Json,
}

/// lapin logs returned messages with their bodies; what it has to say reaches us as errors anyway.
const SILENT: &str = "lapin";

/// Why telemetry could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// `log.level` is none.
    #[error("log.level is no level and no list of directives: {0}")]
    Level(#[from] ParseError),
    /// A word of `log.level` is no level.
    #[error(
        "log.level: write error, warn, info, debug, trace or off; MODULE=LEVEL may follow, with commas between"
    )]
    Word,
    /// There is no thread for the log.
    #[error("logs: no thread can be started: {0}")]
    Thread(io::Error),
    /// Something else has been set up before.
    #[error("logs are set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// Spans cannot be exported.
    #[error("tracing.endpoint: {0}")]
    Traces(String),
    /// The metrics recorder is there already, or its buckets are wrong.
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
}

/// Whether `level` can be understood. A lone word must be a level: as the name of a module, which it could be too,
/// `warning` would silence everything.
pub fn validate_level(level: &str) -> Result<(), TelemetryError> {
    let mut lone = level.split(',').map(str::trim).filter(|word| !word.contains('='));
    if lone.any(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(TelemetryError::Word);
    }
    level.parse::<Targets>().map(drop).map_err(Into::into)
}

/// Where a service's lines go, once its logs are set up.
static LINES: OnceLock<writer::Lines> = OnceLock::new();

/// Writes what is left of a service's lines when it is dropped; waits a second for that at the most.
#[derive(Debug)]
#[must_use]
pub struct LogGuard {
    _writer: writer::Writer,
}

/// Sends logs to standard error from here on, each line at once: for commands.
pub fn init_logs(config: &LogConfig) -> Result<(), TelemetryError> {
    init_logs_on(config, io::stderr)
}

/// The same for services: whoever does not read the lines holds nothing up.
pub fn init_service_logs(config: &LogConfig) -> Result<LogGuard, TelemetryError> {
    let (lines, writer) = writer::start(io::stderr()).map_err(TelemetryError::Thread)?;
    init_logs_on(config, lines.clone())?;
    let _ = LINES.set(lines);
    Ok(LogGuard { _writer: writer })
}

fn init_logs_on<W>(config: &LogConfig, writer: W) -> Result<(), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = config.level.parse::<Targets>()?.with_target(SILENT, LevelFilter::OFF);
    let terminal = io::stderr().is_terminal();
    let format = config.format.unwrap_or(if terminal { LogFormat::Pretty } else { LogFormat::Json });
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Pretty => {
            // On a terminal the layer itself honours NO_COLOR.
            let layer = fmt::layer().with_writer(writer).with_target(false);
            let layer = if terminal { layer } else { layer.with_ansi(false) };
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => {
            registry.with(fmt::layer().event_format(line::JsonLine).with_writer(writer)).try_init()?;
        }
    }
    Ok(())
}

/// Brings up to date what is only looked at when somebody asks for metrics. Blocks.
pub fn update_process_metrics() {
    metrics_process::Collector::default().collect();
    if let Some(lines) = LINES.get() {
        counter!("polyhook_log_lines_dropped_total").absolute(lines.dropped());
    }
}

/// From the receipt of an event to the first try of its job.
pub const JOB_WAIT_METRIC: &str = "polyhook_job_wait_seconds";

/// Installs the metrics recorder and describes every metric.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    const SECONDS: &[f64] = &[
        0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, 120.0,
        600.0,
    ];
    // A job waits for a broker, a worker, or in the spool, and that may be hours.
    const WAITS: &[f64] = &[0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Full(JOB_WAIT_METRIC.to_owned()), WAITS)?
        .install_recorder()?;
    describe_counter!("polyhook_deliveries_total", "Requests to the webhook path, by outcome");
    describe_counter!(
        "polyhook_unverified_total",
        "Deliveries that are not proved to be PolyAI's, by reason"
    );
    describe_histogram!("polyhook_ack_seconds", "From request header to answer");
    describe_histogram!("polyhook_publish_seconds", "From publish to durable");
    describe_gauge!("polyhook_queue_depth", "Messages in a queue");
    describe_gauge!("polyhook_connections", "Open connections, by listener");
    describe_gauge!("polyhook_deliveries_in_flight", "Deliveries that are being made durable");
    describe_gauge!("polyhook_body_bytes", "Memory set aside for bodies of deliveries");
    describe_gauge!("polyhook_queue_writes", "Writes that wait for a commit of the embedded queue");
    describe_gauge!("polyhook_spool_writes", "Writes that wait for a commit of the spool");
    describe_gauge!("polyhook_spool_messages", "Messages in the spool");
    describe_gauge!("polyhook_spool_bytes", "Bytes of the spool's file in use");
    describe_gauge!("polyhook_spool_max_bytes", "How large it may grow");
    describe_counter!("polyhook_spooled_total", "Deliveries that went to the spool");
    describe_counter!("polyhook_notes_dropped_total", "What a follower was not told of, for want of room");
    describe_gauge!("polyhook_jobs_held", "Jobs that the broker has handed to this process");
    describe_gauge!("polyhook_jobs_running", "Jobs that are being worked on");
    describe_gauge!("polyhook_jobs_waiting", "Those of them that wait for PolyAI without a slot");
    describe_counter!("polyhook_jobs_total", "Tries of jobs, by outcome");
    describe_histogram!("polyhook_job_seconds", "One try of a job");
    describe_histogram!(JOB_WAIT_METRIC, "From the receipt of an event to the first try of its job");
    describe_counter!("polyhook_api_requests_total", "Requests to PolyAI, by operation and status");
    describe_histogram!("polyhook_api_seconds", "From request to response header");
    describe_counter!("polyhook_archive_bytes_total", "Bytes written to the archive, by kind");
    describe_counter!("polyhook_dead_letters_total", "Jobs that ended as dead letters, by reason");
    describe_counter!("polyhook_announcements_total", "Announcements, by outcome");
    describe_counter!("polyhook_reconcile_listed_total", "Conversations that reconciliation has compared");
    describe_counter!("polyhook_reconcile_missing_total", "Conversations that reconciliation has queued");
    describe_gauge!(
        "polyhook_reconcile_last_success_timestamp_seconds",
        "When a pass over all projects last came to its end"
    );
    describe_gauge!("polyhook_condition", "1 while that condition stands in /readyz, 0 when it is over");
    describe_gauge!("polyhook_disk_free_bytes", "Free space where something of ours lies on a local disk");
    describe_counter!("polyhook_log_lines_dropped_total", "Log lines that nobody read in time");
    describe_counter!(
        "polyhook_hidden_transcripts_total",
        "Conversations whose transcript PolyAI does not show to this project"
    );
    metrics_process::Collector::default().describe();
    describe_gauge!("polyhook_build_info", "Always 1; which version this is");
    gauge!("polyhook_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Adds one to a gauge for as long as it lives.
#[derive(Debug)]
#[must_use]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// One more.
    pub fn increment(gauge: Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
