//! What became of many deliveries.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::sender::{AttemptOutcome, DeliveryReport};

/// Counts and latencies of a run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeliverySummary {
    /// Deliveries that came to their end, copies included.
    pub deliveries: u64,
    /// Copies among them.
    pub duplicates: u64,
    /// Attempts in all.
    pub attempts: u64,
    /// Deliveries answered with a 2xx.
    pub accepted: u64,
    /// Deliveries given up at once, for an answer that PolyAI does not retry. Such events are lost.
    pub refused: u64,
    /// Deliveries given up after the last retry. Such events are lost.
    pub exhausted: u64,
    /// Attempts by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Attempts without an answer in time.
    pub timeouts: u64,
    /// Attempts without a connection, or with one that broke.
    pub network_errors: u64,
    /// From the first attempt to the last answer, in seconds.
    pub seconds: f64,
    /// Latencies of the last attempts, in microseconds.
    pub latency_us: LatencyPercentiles,
    #[serde(skip)]
    latencies: Vec<u32>,
}

/// Percentiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LatencyPercentiles {
    /// Half were faster.
    pub p50: u32,
    /// Nine of ten were faster.
    pub p90: u32,
    /// 99 of a hundred were faster.
    pub p99: u32,
    /// None was slower.
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
        let at = |part: usize| {
            let last = self.latencies.len().saturating_sub(1);
            self.latencies.get(last * part / 100).copied().unwrap_or_default()
        };
        self.latency_us = LatencyPercentiles { p50: at(50), p90: at(90), p99: at(99), max: at(100) };
    }

    /// Deliveries accepted per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.accepted as f64 / self.seconds } else { 0.0 }
    }
}
