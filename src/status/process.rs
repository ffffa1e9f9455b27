//! The part of a status that only a running process knows, from `/readyz` and `/metrics` of its admin listener.

use std::time::Duration;

use http::header::CONNECTION;
use jiff::Timestamp;
use reqwest::Client;
use tokio::time::timeout;

use super::report::{Condition, DeliveryCounts, Part, ProcessCounts, ProcessStatus};
use crate::polyai::http as client_policy;

/// Bounds the questions to the process. Its own questions to its queue take up to two seconds.
const TIMEOUT: Duration = Duration::from_secs(4);
/// More of an answer is not read.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// The running process.
#[derive(Debug)]
pub(super) struct ProcessSource {
    /// The URL of its admin listener.
    url: String,
    /// `None`: it cannot be created.
    client: Option<Client>,
}

impl ProcessSource {
    pub(super) fn new(url: String) -> Self {
        Self { url, client: client_policy::local_client().ok() }
    }

    /// Asks the process.
    pub(super) async fn read(&self) -> Part<ProcessStatus> {
        let Self { url, client } = self;
        let Some(client) = client else {
            let hint = client_policy::CLIENT_SETUP_HINT;
            return Part::Failed(format!("cannot create an HTTP client: {hint}"));
        };
        timeout(TIMEOUT, ask(client, url)).await.unwrap_or_else(|_| {
            Part::Failed(format!("{url} does not answer within {TIMEOUT:?}; the process hangs: restart it"))
        })
    }
}

async fn ask(client: &Client, url: &str) -> Part<ProcessStatus> {
    let (ready, metrics) = tokio::join!(get(client, url, "readyz"), get(client, url, "metrics"));
    match (ready, metrics) {
        (Ok((status, ready)), Ok((_, metrics))) => Part::Known(parse(url, status, &ready, &metrics)),
        (Err(error), _) if error.is_connect() => Part::absent(
            "not_here",
            format!("none answers at {url} (admin.listen); it runs elsewhere, or not at all"),
        ),
        (Err(_), _) | (_, Err(_)) => Part::Failed(format!(
            "{url} accepts connections, but does not answer; restart the process, or correct admin.listen"
        )),
    }
}

async fn get(client: &Client, url: &str, path: &str) -> reqwest::Result<(u16, String)> {
    // A connection that stays open would end with the process, and look as if its successor did not answer.
    let request = client.get(format!("{url}/{path}")).header(CONNECTION, "close");
    let response = request.send().await?;
    let status = response.status().as_u16();
    let body = client_policy::read_prefix(response, MAX_ANSWER_BYTES).await;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

fn parse(url: &str, status: u16, ready: &str, metrics: &str) -> ProcessStatus {
    let mut lines = ready.lines();
    let first = lines.next().unwrap_or_default();
    let is_ready = status == 200 && first == "ready";
    let conditions = lines.filter_map(|line| {
        let (name, text) = line.strip_prefix("degraded: ")?.split_once(": ")?;
        Some(Condition { name: name.to_owned(), text: text.to_owned() })
    });
    ProcessStatus {
        url: url.to_owned(),
        ready: is_ready,
        detail: (!is_ready).then(|| match first.strip_prefix("not ready: ") {
            Some(reason) => reason.to_owned(),
            None if first == "draining" => "it is shutting down".to_owned(),
            None => format!("{url}/readyz answered {status}; is this polyhook? correct admin.listen"),
        }),
        conditions: conditions.collect(),
        running_jobs: count(metrics, "polyhook_jobs_running"),
        version: label(metrics, "polyhook_build_info{version=\""),
        held_jobs: count(metrics, "polyhook_jobs_held"),
        oldest_age_ms: sample(metrics, "polyhook_queue_oldest_age_seconds").and_then(milliseconds),
        counts: counts(metrics),
    }
}

fn counts(metrics: &str) -> ProcessCounts {
    let started_at = sample(metrics, "process_start_time_seconds")
        .and_then(|seconds| Timestamp::from_second(format!("{seconds:.0}").parse().ok()?).ok());
    let jobs = outcomes(metrics, "polyhook_jobs_total");
    // A worker counts an outcome from its first time on.
    let is_worker = sample(metrics, "polyhook_jobs_running").is_some() || !jobs.is_empty();
    ProcessCounts {
        started_at,
        deliveries: delivery_counts(&outcomes(metrics, "polyhook_deliveries_total")),
        archived: is_worker.then(|| sum(&jobs, &["archived"])),
    }
}

/// Returns `None` for a process that is not a receiver.
fn delivery_counts(deliveries: &[(&str, u64)]) -> Option<DeliveryCounts> {
    let not_durable = sum(deliveries, &["not_durable"]);
    let other_paths = sum(deliveries, &["not_found", "method_not_allowed"]);
    let all: u64 = deliveries.iter().map(|(_, count)| count).sum();
    (!deliveries.is_empty()).then(|| DeliveryCounts {
        received: all - other_paths,
        verified: sum(deliveries, &["accepted", "duplicate"]) + not_durable,
        unverified: sum(deliveries, &["unverified", "unverified_retry"]),
        repeated: sum(deliveries, &["duplicate"]),
        not_durable,
    })
}

fn sum(counts: &[(&str, u64)], outcomes: &[&str]) -> u64 {
    counts.iter().filter(|(outcome, _)| outcomes.contains(outcome)).map(|(_, count)| count).sum()
}

/// Returns the values of a metric whose only label is the outcome.
fn outcomes<'a>(metrics: &'a str, name: &str) -> Vec<(&'a str, u64)> {
    let outcome = |line: &'a str| {
        let (outcome, count) = line.strip_prefix(name)?.strip_prefix("{outcome=\"")?.split_once("\"} ")?;
        Some((outcome, count.trim().parse().ok()?))
    };
    metrics.lines().filter_map(outcome).collect()
}

/// Returns the value of a metric without labels.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn count(metrics: &str, name: &str) -> Option<u64> {
    sample(metrics, name).and_then(|value| format!("{value:.0}").parse().ok())
}

fn milliseconds(seconds: f64) -> Option<u64> {
    let age = std::time::Duration::try_from_secs_f64(seconds).ok()?;
    u64::try_from(age.as_millis()).ok()
}

/// Returns the value of the label that `start` begins.
fn label(metrics: &str, start: &str) -> Option<String> {
    metrics.lines().find_map(|line| Some(line.strip_prefix(start)?.split('"').next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
# HELP polyhook_jobs_running Jobs that are being worked on
polyhook_jobs_running 2
polyhook_jobs_running_not 3
polyhook_jobs_held 4
polyhook_queue_oldest_age_seconds 12.5
polyhook_build_info{version=\"0.1.0\"} 1
process_start_time_seconds 1796000000
polyhook_deliveries_total{outcome=\"accepted\"} 10
polyhook_deliveries_total{outcome=\"duplicate\"} 2
polyhook_deliveries_total{outcome=\"unverified\"} 3
polyhook_deliveries_total{outcome=\"not_durable\"} 1
polyhook_deliveries_total{outcome=\"not_found\"} 500
polyhook_jobs_total{outcome=\"archived\"} 7
polyhook_jobs_total{outcome=\"retried\"} 2
";

    #[test]
    fn reads_readiness_conditions_and_metrics() {
        let ready = "ready\ndegraded: broker: the broker is away: restart it\ndegraded: clock: 600 s off\n";
        let found = parse("http://h", 200, ready, METRICS);
        assert!(found.ready && found.detail.is_none());
        let conditions: Vec<_> = found.conditions.iter().map(|c| (&*c.name, &*c.text)).collect();
        assert_eq!(conditions, [("broker", "the broker is away: restart it"), ("clock", "600 s off")]);
        assert_eq!(
            (found.running_jobs, found.held_jobs, found.oldest_age_ms),
            (Some(2), Some(4), Some(12_500))
        );
        assert_eq!(found.version.as_deref(), Some("0.1.0"));
        assert_eq!(
            found.counts,
            ProcessCounts {
                started_at: Some(Timestamp::from_second(1_796_000_000).unwrap()),
                deliveries: Some(DeliveryCounts {
                    received: 16,
                    verified: 13,
                    unverified: 3,
                    repeated: 2,
                    not_durable: 1
                }),
                archived: Some(7),
            }
        );
    }

    #[test]
    fn what_a_process_does_not_export_is_unknown_and_not_zero() {
        let found = parse(
            "http://h",
            503,
            "not ready: the disk is full\n",
            "polyhook_queue_oldest_age_seconds NaN\n",
        );
        assert_eq!((found.running_jobs, found.held_jobs, found.oldest_age_ms), (None, None, None));
        assert_eq!(found.counts, ProcessCounts::default());
        let new_worker = parse("http://h", 200, "ready\n", "polyhook_jobs_running 0\n").counts;
        assert_eq!((new_worker.archived, new_worker.deliveries), (Some(0), None));
        assert_eq!((found.ready, found.detail.as_deref()), (false, Some("the disk is full")));
        let foreign = parse("http://h", 404, "<html>", "").detail.unwrap();
        assert!(foreign.contains("is this polyhook?"), "{foreign}");
        assert_eq!(parse("http://h", 503, "draining\n", "").detail.as_deref(), Some("it is shutting down"));
    }
}
