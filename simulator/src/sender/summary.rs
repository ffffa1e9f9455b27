//! Counts and latencies of many deliveries.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::report::{AttemptOutcome, DeliveryReport};

/// The counts and latencies of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeliverySummary {
    /// Finished deliveries, including duplicates.
    pub deliveries: u64,
    /// Finished duplicates.
    pub duplicates: u64,
    /// All attempts.
    pub tries: u64,
    /// Deliveries answered with a 2xx.
    pub accepted: u64,
    /// Deliveries with an answer that PolyAI does not retry. These events are lost.
    pub refused: u64,
    /// Deliveries that failed after the last retry. These events are lost.
    pub exhausted: u64,
    /// Attempts by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Attempts without an answer in time.
    pub timeouts: u64,
    /// Attempts whose connection failed.
    pub network_errors: u64,
    /// Milliseconds from the first attempt to the last answer.
    pub duration_ms: u64,
    /// Latencies of the last attempts in milliseconds.
    pub latencies_ms: LatencyPercentiles,
    #[serde(skip)]
    samples: Vec<f64>,
}

/// Latency percentiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct LatencyPercentiles {
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
    /// The 99th percentile.
    pub p99: f64,
    /// The maximum.
    pub max: f64,
}

impl DeliverySummary {
    pub(crate) fn add(&mut self, report: &DeliveryReport) {
        self.deliveries += 1;
        self.duplicates += u64::from(report.duplicate);
        self.tries += u64::from(report.tries);
        match report.outcome {
            outcome if outcome.accepted() => self.accepted += 1,
            outcome if outcome.retried() => self.exhausted += 1,
            _ => self.refused += 1,
        }
        for outcome in report.earlier.iter().chain([&report.outcome]) {
            match outcome {
                AttemptOutcome::Answered { status } => *self.statuses.entry(*status).or_default() += 1,
                AttemptOutcome::Timeout => self.timeouts += 1,
                AttemptOutcome::Network => self.network_errors += 1,
            }
        }
        self.samples.push(report.latency_ms);
    }

    pub(crate) fn finish(&mut self, elapsed: Duration) {
        self.duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        self.samples.sort_unstable_by(f64::total_cmp);
        let percentile = |part: usize| {
            let last = self.samples.len().saturating_sub(1);
            self.samples.get(last * part / 100).copied().unwrap_or_default()
        };
        self.latencies_ms = LatencyPercentiles {
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max: percentile(100),
        };
    }
}
