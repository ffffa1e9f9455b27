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
    pub attempts: u64,
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
    /// Seconds from the first attempt to the last answer.
    pub seconds: f64,
    /// Latencies of the last attempts in microseconds.
    pub latency_us: LatencyPercentiles,
    #[serde(skip)]
    latencies: Vec<u32>,
}

/// Latency percentiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LatencyPercentiles {
    /// The median.
    pub p50: u32,
    /// The 90th percentile.
    pub p90: u32,
    /// The 99th percentile.
    pub p99: u32,
    /// The maximum.
    pub max: u32,
}

impl DeliverySummary {
    pub(crate) fn add(&mut self, report: &DeliveryReport) {
        self.deliveries += 1;
        self.duplicates += u64::from(report.duplicate);
        self.attempts += u64::from(report.attempts);
        match report.answer {
            answer if answer.accepted() => self.accepted += 1,
            answer if answer.retried() => self.exhausted += 1,
            _ => self.refused += 1,
        }
        for answer in report.earlier.iter().chain([&report.answer]) {
            match answer {
                AttemptOutcome::Status(status) => *self.statuses.entry(*status).or_default() += 1,
                AttemptOutcome::Timeout => self.timeouts += 1,
                AttemptOutcome::Network => self.network_errors += 1,
            }
        }
        self.latencies.push(u32::try_from(report.latency_us).unwrap_or(u32::MAX));
    }

    pub(crate) fn finish(&mut self, elapsed: Duration) {
        self.seconds = elapsed.as_secs_f64();
        self.latencies.sort_unstable();
        let percentile = |part: usize| {
            let last = self.latencies.len().saturating_sub(1);
            self.latencies.get(last * part / 100).copied().unwrap_or_default()
        };
        self.latency_us = LatencyPercentiles {
            p50: percentile(50),
            p90: percentile(90),
            p99: percentile(99),
            max: percentile(100),
        };
    }
}
