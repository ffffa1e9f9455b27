//! Logs, metrics and spans.
//!
//! Logs go to standard error: pretty on a terminal, one JSON object per line elsewhere. Field names follow
//! `entity.attribute` with the unit as a suffix (`elapsed_ms`, `body_bytes`). No field contains a secret, a body, a
//! transcript or a phone number; the type [`crate::secret::Secret`] makes the first impossible.
//!
//! A separate thread writes a service's lines, because the reader of the log may stop reading, and no answer may wait
//! for that. Lines that do not fit into its buffer are dropped and counted.

mod ecs;
mod fields;
mod line;
pub mod trace;
mod writer;

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use self::line::{FieldNames, JsonLines};
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
    /// `pretty`, `json`, or `ecs` (JSON with the field names of the Elastic Common Schema). Default: pretty on a terminal,
    /// JSON elsewhere.
    pub format: Option<LogFormat>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,polyhook::worker=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: None, level: "info".to_owned() }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// For programs: one object per line.
    Json,
    /// Like JSON, with the field names of the Elastic Common Schema.
    Ecs,
}

/// The target of lapin, which logs returned messages with their bodies. Its errors reach us as return values anyway.
const SILENCED_TARGET: &str = "lapin";

/// The reason why telemetry could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// `log.level` cannot be parsed.
    #[error("log.level: it is neither a level nor a list of directives: {0}")]
    Level(#[from] ParseError),
    /// A word of `log.level` is not a level.
    #[error(
        "log.level: use error, warn, info, debug, trace or off; add MODULE=LEVEL directives after a comma"
    )]
    Word,
    /// The log's thread cannot be started.
    #[error("logs: cannot start a thread: {0}")]
    Thread(io::Error),
    /// Logs were set up before.
    #[error("logs are set up already: {0}")]
    AlreadyInitialized(#[from] tracing_subscriber::util::TryInitError),
    /// Spans cannot be exported.
    #[error("tracing.endpoint: {0}")]
    Traces(String),
    /// A metrics recorder is already installed, or its buckets are not valid.
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
}

/// Returns an error if `level` is not valid. A word without `=` must be a level: the library would also accept it as the
/// name of a module, and then `warning` would silence everything.
pub fn validate_level(level: &str) -> Result<(), TelemetryError> {
    let mut bare_words = level.split(',').map(str::trim).filter(|word| !word.contains('='));
    if bare_words.any(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(TelemetryError::Word);
    }
    level.parse::<Targets>().map(drop).map_err(Into::into)
}

/// The buffer of a service's lines, once its logs are set up.
static LINES: OnceLock<writer::Lines> = OnceLock::new();

/// Writes a service's remaining lines when it is dropped. Waits at most one second for that.
#[derive(Debug)]
#[must_use]
pub struct LogGuard {
    _writer: writer::Writer,
}

/// Writes logs to standard error from now on, each line at once. For commands.
pub fn init_logs(config: &LogConfig) -> Result<(), TelemetryError> {
    init_logs_on(config, io::stderr)
}

/// Writes logs to standard error from now on, on a separate thread, so that a reader that stops blocks nothing. For
/// services. `beside_events` is the level beside lines about events, if they are shown: see [`init_logs_beside_events`].
pub fn init_service_logs(
    config: &LogConfig,
    beside_events: Option<&str>,
) -> Result<LogGuard, TelemetryError> {
    let (lines, writer) = writer::start(io::stderr()).map_err(TelemetryError::Thread)?;
    if let Some(level) = beside_events {
        init_logs_beside_events(config, level, lines.clone())?;
    } else {
        init_logs_on(config, lines.clone())?;
    }
    let _ = LINES.set(lines);
    Ok(LogGuard { _writer: writer })
}

/// Writes logs from now on between lines about events, which say the same as most of the log. Unless another level is
/// configured, shows the messages of `level` without their fields.
pub fn init_logs_beside_events<W>(config: &LogConfig, level: &str, writer: W) -> Result<(), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let is_default = config.level == LogConfig::default().level;
    let level = if is_default { level } else { &config.level };
    let registry = tracing_subscriber::registry()
        .with(level.parse::<Targets>()?.with_target(SILENCED_TARGET, LevelFilter::OFF));
    let layer = fmt::layer().with_writer(writer).with_target(false).with_timer(fields::ShortTime);
    if is_default {
        registry.with(layer.fmt_fields(fields::MessageOnly)).try_init()?;
    } else {
        registry.with(layer.fmt_fields(fields::EscapedFields)).try_init()?;
    }
    Ok(())
}

fn init_logs_on<W>(config: &LogConfig, writer: W) -> Result<(), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = config.level.parse::<Targets>()?.with_target(SILENCED_TARGET, LevelFilter::OFF);
    let terminal = io::stderr().is_terminal();
    let format = config.format.unwrap_or(if terminal { LogFormat::Pretty } else { LogFormat::Json });
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        LogFormat::Pretty => {
            // On a terminal the layer itself honours NO_COLOR.
            let layer = fmt::layer().fmt_fields(fields::EscapedFields).with_writer(writer).with_target(false);
            let layer = if terminal { layer } else { layer.with_ansi(false) };
            registry.with(layer).try_init()?;
        }
        LogFormat::Json => registry.with(JsonLines { writer, names: FieldNames::Own }).try_init()?,
        LogFormat::Ecs => registry.with(JsonLines { writer, names: FieldNames::Ecs }).try_init()?,
    }
    Ok(())
}

/// Updates the metrics that are measured only for a scrape. Blocks.
pub fn update_process_metrics() {
    metrics_process::Collector::default().collect();
    if let Some(lines) = LINES.get() {
        counter!("polyhook_log_lines_dropped_total").absolute(lines.dropped());
    }
}

/// Metric: time from publish to durable.
pub const PUBLISH_METRIC: &str = "polyhook_publish_seconds";

/// Metric: time from the receipt of an event to the first attempt of its job.
pub const JOB_WAIT_METRIC: &str = "polyhook_job_wait_seconds";

/// Metric: age of a call, counted from its end, when it was first archived.
pub const ARCHIVE_AGE_METRIC: &str = "polyhook_archive_age_seconds";

/// Installs the metrics recorder and describes every metric.
pub fn init_metrics() -> Result<PrometheusHandle, TelemetryError> {
    const SECONDS: &[f64] = &[
        0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 30.0, 120.0,
        600.0,
    ];
    // A job waits for the broker, in the spool or for a worker, possibly for hours.
    const WAITS: &[f64] = &[0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0];
    const AGES: &[f64] = &[5.0, 15.0, 30.0, 60.0, 90.0, 120.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];
    // A broker or disk nearby takes far less than a millisecond.
    let publish: Vec<f64> = [0.0001, 0.0002, 0.0003, 0.0005].iter().chain(SECONDS).copied().collect();
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .set_buckets_for_metric(Matcher::Full(PUBLISH_METRIC.to_owned()), &publish)?
        .set_buckets_for_metric(Matcher::Full(JOB_WAIT_METRIC.to_owned()), WAITS)?
        .set_buckets_for_metric(Matcher::Full(ARCHIVE_AGE_METRIC.to_owned()), AGES)?
        .install_recorder()?;
    describe_metrics();
    metrics_process::Collector::default().describe();
    describe_gauge!("polyhook_build_info", "Always 1; the label is the version");
    gauge!("polyhook_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

fn describe_metrics() {
    describe_counter!("polyhook_deliveries_total", "Requests to the webhook path, by outcome");
    describe_counter!("polyhook_unverified_total", "Deliveries whose signature was not accepted, by reason");
    describe_histogram!("polyhook_ack_seconds", "Time from request header to response");
    describe_histogram!(PUBLISH_METRIC, "Time from publish to durable");
    describe_gauge!("polyhook_queue_depth", "Messages in a queue");
    describe_gauge!(
        "polyhook_queue_oldest_age_seconds",
        "Time that the oldest job has waited that a worker could take now, 0 if none waits"
    );
    describe_gauge!("polyhook_connections", "Open connections, by listener");
    describe_gauge!("polyhook_deliveries_in_flight", "Deliveries that wait for the queue");
    describe_gauge!("polyhook_body_bytes", "Memory reserved for bodies of deliveries");
    describe_gauge!("polyhook_queue_writes", "Writes that wait for a commit of the embedded queue");
    describe_gauge!("polyhook_spool_writes", "Writes that wait for a commit of the spool");
    describe_gauge!("polyhook_spool_messages", "Messages in the spool");
    describe_gauge!(
        "polyhook_spool_oldest_age_seconds",
        "Age of the oldest message in the spool, 0 if empty"
    );
    describe_gauge!("polyhook_spool_bytes", "Bytes of the spool's file in use");
    describe_gauge!("polyhook_spool_max_bytes", "Maximum size of the spool's file");
    describe_counter!("polyhook_spooled_total", "Deliveries that went to the spool");
    describe_counter!(
        "polyhook_notes_dropped_total",
        "Tail events that were dropped because a buffer was full"
    );
    describe_gauge!("polyhook_jobs_held", "Jobs that the broker has delivered to this process");
    describe_gauge!("polyhook_jobs_running", "Jobs that are being worked on");
    describe_gauge!("polyhook_jobs_waiting", "Running jobs that wait for PolyAI without a slot");
    describe_counter!("polyhook_jobs_total", "Tries of jobs, by outcome");
    describe_histogram!("polyhook_job_seconds", "Duration of one attempt of a job");
    describe_histogram!(
        ARCHIVE_AGE_METRIC,
        "Age of a call after its end when it was first archived, by trigger"
    );
    describe_histogram!(JOB_WAIT_METRIC, "Time from the receipt of an event to the first attempt of its job");
    describe_counter!("polyhook_api_requests_total", "Requests to PolyAI, by operation and status");
    describe_histogram!("polyhook_api_seconds", "Time from request to response header");
    describe_counter!("polyhook_archive_bytes_total", "Bytes written to the archive, by kind");
    describe_counter!("polyhook_dead_letters_total", "Jobs that ended as dead letters, by reason");
    describe_counter!("polyhook_announcements_total", "Announcements, by outcome");
    describe_counter!("polyhook_refreshes_total", "Later fetches of archived conversations, by outcome");
    describe_counter!("polyhook_reconcile_listed_total", "Conversations that reconciliation has compared");
    describe_counter!("polyhook_reconcile_missing_total", "Conversations that reconciliation has queued");
    describe_gauge!("polyhook_reconcile_failed_windows", "Parts of PolyAI's list that cannot be read so far");
    describe_gauge!(
        "polyhook_reconcile_last_success_timestamp_seconds",
        "Time at which the last pass over all projects ended"
    );
    describe_gauge!("polyhook_index_changes", "Archived conversations that the index does not have yet");
    describe_histogram!("polyhook_index_update_seconds", "Duration of the update of a day of the index");
    describe_gauge!(
        "polyhook_index_last_success_timestamp_seconds",
        "Time at which the index was last brought up to date without a failure"
    );
    describe_gauge!("polyhook_condition", "1 while the condition is open, 0 after it is closed");
    describe_gauge!("polyhook_disk_free_bytes", "Free space of local disks that polyhook writes to");
    describe_counter!(
        "polyhook_log_lines_dropped_total",
        "Log lines that were dropped because they were not read in time"
    );
    describe_counter!(
        "polyhook_hidden_transcripts_total",
        "Conversations whose transcript PolyAI hides from this project"
    );
}

/// Keeps a gauge incremented by one until it is dropped.
#[derive(Debug)]
#[must_use]
pub struct GaugeGuard(Gauge);

impl GaugeGuard {
    /// Increments `gauge` by one.
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
