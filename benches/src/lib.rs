//! Shared parts of the benchmark programs: arguments, measurement and report.
//!
//! Each program prints one JSON object, a [`LoadReport`], to standard output; `benches/harness` reads it.

pub mod contract;
pub mod cpu;

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

/// The highest recorded latency: a minute, in microseconds. The histogram keeps three digits.
const MAX_LATENCY_US: u64 = 60_000_000;

/// Latencies and failures of one client or of all.
#[derive(Debug)]
pub struct Measurements {
    latency_us: Histogram<u64>,
    /// Successes within the measured time.
    pub done: u64,
    /// All successes, warm-up included: this many messages must be durable.
    pub accepted: u64,
    /// Failures by reason.
    pub failed: BTreeMap<String, u64>,
}

impl Default for Measurements {
    fn default() -> Self {
        let latency_us = Histogram::new_with_bounds(1, MAX_LATENCY_US, 3)
            .unwrap_or_else(|_| unreachable!("the bounds are constants"));
        Self { latency_us, done: 0, accepted: 0, failed: BTreeMap::new() }
    }
}

impl Measurements {
    /// Records a success that took `latency`. It counts for the percentiles if it is `within` the measured time.
    pub fn success(&mut self, latency: Duration, within: bool) {
        self.accepted += 1;
        if within {
            self.done += 1;
            self.latency_us
                .saturating_record(u64::try_from(latency.as_micros()).unwrap_or(MAX_LATENCY_US).max(1));
        }
    }

    /// Records a failure.
    pub fn failure(&mut self, reason: impl Into<String>) {
        *self.failed.entry(reason.into()).or_default() += 1;
    }

    /// Adds the measurements of another.
    pub fn add(&mut self, other: &Self) {
        self.latency_us.add(&other.latency_us).unwrap_or_else(|_| unreachable!("they have the same bounds"));
        self.done += other.done;
        self.accepted += other.accepted;
        for (reason, count) in &other.failed {
            *self.failed.entry(reason.clone()).or_default() += count;
        }
    }

    /// Returns the report of a measurement that took `time`.
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds are far below 2^52")]
    pub fn report(&self, time: Duration) -> LoadReport {
        let quantile = |q| self.latency_us.value_at_quantile(q);
        let latency_us = [
            ("p50", quantile(0.5)),
            ("p90", quantile(0.9)),
            ("p99", quantile(0.99)),
            ("p999", quantile(0.999)),
            ("max", self.latency_us.max()),
        ];
        LoadReport {
            seconds: time.as_secs_f64(),
            done: self.done,
            accepted: self.accepted,
            failed: self.failed.clone(),
            per_second: self.done as f64 / time.as_secs_f64(),
            latency_us: latency_us.into_iter().collect(),
            percentiles: self
                .latency_us
                .iter_quantiles(2)
                .map(|at| (at.quantile_iterated_to(), at.value_iterated_to()))
                .collect(),
        }
    }
}

/// The result that a benchmark program prints.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    /// The measured time.
    pub seconds: f64,
    /// Successes within that time.
    pub done: u64,
    /// All successes, warm-up included.
    pub accepted: u64,
    /// Failures by reason.
    pub failed: BTreeMap<String, u64>,
    /// `done` per second.
    pub per_second: f64,
    /// Named percentiles, in microseconds.
    pub latency_us: BTreeMap<&'static str, u64>,
    /// Fractions and microseconds, for a plot.
    pub percentiles: Vec<(f64, u64)>,
}

impl LoadReport {
    /// Prints the report as one line of JSON.
    #[expect(clippy::print_stdout, reason = "the harness reads standard output")]
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).unwrap_or_else(|_| unreachable!("it is plain data")));
    }
}

/// Arguments of every program: duration and size of a measurement.
#[derive(Clone, Debug, clap::Args)]
pub struct MeasurementArgs {
    /// Measurements time
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub duration: Duration,
    /// Time before the measurement
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub warmup: Duration,
    /// Size of a body
    #[arg(long, default_value_t = 600)]
    pub body_bytes: usize,
}

/// Parses a duration such as `5s`.
fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// Sends the due times of `rate` operations per second, each when it is due, until `end`. Does not wait for earlier operations.
/// Uses a thread, because the timers of the runtime have a resolution of a millisecond.
pub fn schedule(
    start: tokio::time::Instant,
    end: tokio::time::Instant,
    rate: u32,
) -> async_channel::Receiver<tokio::time::Instant> {
    let (sender, due) = async_channel::unbounded();
    std::thread::spawn(move || {
        for n in 0.. {
            let at = start + Duration::from_secs(n) / rate.max(1);
            std::thread::sleep(at.saturating_duration_since(tokio::time::Instant::now()));
            if at >= end || sender.send_blocking(at).is_err() {
                return;
            }
        }
    });
    due
}

/// Returns an event like PolyAI's, padded to about `bytes`. Each `n` has its own conversation; projects repeat after `projects`.
pub fn event(n: u64, projects: u64, bytes: usize) -> Vec<u8> {
    let project = n % projects.max(1);
    let mut event = format!(
        "{{\"type\":\"conversation.completed\",\"created_at\":\"2026-06-03T14:15:16.123456Z\",\"data\":{{\
         \"conversation_id\":\"CA{n:032x}\",\"account_id\":\"ACCOUNT-1\",\"project_id\":\"PROJECT-{project}\",\
         \"environment\":\"live\",\"channel\":\"voice\",\"duration\":183,\"num_turns\":24,\"handoff\":false,\
         \"note\":\""
    );
    let end = "\"}}";
    let missing = bytes.saturating_sub(event.len() + end.len());
    event.extend((0..missing).map(|at| char::from(b'a' + u8::try_from(at % 26).unwrap_or_default())));
    event.push_str(end);
    event.into_bytes()
}
