//! The service that reconciles every `every`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use metrics::{counter, gauge};
use tokio::time::sleep;

use super::{PassSummary, QueueingLimits, ReconcileConfig, ReconcilePass};
use crate::{
    archive::{Archive, ArchiveLease},
    clock::Clock,
    event::DiscoverySource,
    health::Health,
    lifecycle::Lifecycle,
    polyai::{ListWindow, PolyAiClient, Project},
    queue::Queue,
};

/// The name of the lease, and of the condition in health reports.
const LEASE_NAME: &str = "reconcile";
/// The delay after a failed pass, and after a failed attempt to take the lease.
const RETRY_DELAY: Duration = Duration::from_secs(30);
/// The maximum time to release the lease at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);
/// The maximum number of waiting jobs while more are queued. So an archive that lacks weeks is filled gradually.
const MAX_BACKLOG: u64 = 1_000;
/// The number of windows of a project that are remembered because they could not be compared: a year of live and sandbox.
const MAX_UNREAD_WINDOWS: usize = 732;
/// The number of failures that `/readyz` names.
const MAX_NAMED_FAILURES: usize = 5;

/// The reconciliation service. See the [module](super).
#[derive(Clone, Debug)]
pub struct ReconcileService {
    config: ReconcileConfig,
    environments: Vec<String>,
    polyai: Arc<PolyAiClient>,
    archive: Archive,
    queue: Arc<dyn Queue>,
    clock: Clock,
    health: Health,
}

/// The result of a pass over all projects. It is complete without failures.
#[derive(Debug, Default, serde::Serialize)]
pub struct PassReport {
    /// The counts.
    #[serde(flatten)]
    pub summary: PassSummary,
    /// The parts that were not compared or not queued, each with its project and the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// The place of an unreadable entry of each project's list.
    #[serde(skip)]
    unreadable: Vec<String>,
}

/// The windows of each project that the last pass could not compare.
type UnreadWindows = HashMap<(String, String), Vec<ListWindow>>;

impl ReconcileService {
    /// Creates the service for the projects of `polyai` and the environments that the worker wants.
    pub fn new(
        config: ReconcileConfig,
        environments: Vec<String>,
        polyai: Arc<PolyAiClient>,
        archive: Archive,
        queue: Arc<dyn Queue>,
        clock: Clock,
        health: Health,
    ) -> Self {
        Self { config, environments, polyai, archive, queue, clock, health }
    }

    /// Reconciles until the drain.
    pub async fn run(self, lifecycle: Lifecycle) {
        let draining = lifecycle.draining();
        let mut unread = UnreadWindows::new();
        loop {
            let lease = tokio::select! {
                () = draining.cancelled() => return,
                lease = self.archive.lease(LEASE_NAME, |note| self.is_due(note)) => lease,
            };
            let mut lease = match lease {
                Ok(lease) => lease,
                Err(error) => {
                    self.health.set_degraded(
                        LEASE_NAME,
                        format!("reconciliation is paused, because its lease in the archive cannot be taken: {error}"),
                    );
                    tokio::select! {
                        () = draining.cancelled() => return,
                        () = sleep(RETRY_DELAY) => continue,
                    }
                }
            };
            let started_at = self.clock.now();
            let report = tokio::select! {
                () = draining.cancelled() => None,
                () = lease.lost() => None,
                report = self.run_pass(&mut unread) => Some(report),
            };
            let complete = report.as_ref().is_some_and(|report| report.failures.is_empty());
            release_lease(lease, complete.then(|| started_at.to_string())).await;
            match report {
                None if draining.is_cancelled() => return,
                None => tracing::warn!("the lease for reconciliation was lost; another process continues"),
                Some(report) => self.publish(&report),
            }
            if !complete {
                tokio::select! {
                    () = draining.cancelled() => return,
                    () = sleep(RETRY_DELAY.min(self.config.every)) => {}
                }
            }
        }
    }

    /// Makes one pass now. Waits while another process makes one.
    ///
    /// # Errors
    ///
    /// The lease cannot be taken, or was lost.
    pub async fn run_once(&self) -> Result<PassReport, String> {
        let mut lease =
            self.archive.lease(LEASE_NAME, |_| Ok(())).await.map_err(|error| error.to_string())?;
        let started_at = self.clock.now();
        let mut unread = UnreadWindows::new();
        let report = tokio::select! {
            () = lease.lost() => return Err("the lease for reconciliation was lost".to_owned()),
            report = self.run_pass(&mut unread) => report,
        };
        let complete = report.failures.is_empty();
        release_lease(lease, complete.then(|| started_at.to_string())).await;
        self.publish(&report);
        Ok(report)
    }

    /// Returns `Ok` if a pass is due according to the note of the last one. Otherwise returns the delay until then.
    fn is_due(&self, note: Option<&str>) -> Result<(), Duration> {
        let last = note.and_then(|note| note.parse::<Timestamp>().ok());
        last.map_or(Ok(()), |last| check_due(self.clock.now(), last, self.config.every))
    }

    async fn run_pass(&self, unread: &mut UnreadWindows) -> PassReport {
        let now = self.clock.now();
        let start = now.checked_sub(self.config.lookback).unwrap_or(Timestamp::MIN);
        let limits = QueueingLimits { rate: None, max_backlog: Some(MAX_BACKLOG) };
        let pass = ReconcilePass {
            polyai: &self.polyai,
            archive: &self.archive,
            queue: Some(&*self.queue),
            clock: &self.clock,
            settle: self.config.settle,
            environments: &self.environments,
            source: DiscoverySource::Reconcile,
            requested_at: None,
            limits: &limits,
        };
        let mut report = PassReport::default();
        for project in self.polyai.projects() {
            let ids = (project.account_id().to_owned(), project.project_id().to_owned());
            let failed_before = unread.get(&ids).cloned().unwrap_or_default();
            let mut last = PassSummary::default();
            let outcome = pass
                .run(project, start..now, failed_before, |summary, _| {
                    counter!("polyhook_reconcile_listed_total").increment(summary.listed - last.listed);
                    // Conversations that an earlier pass has queued are not counted again.
                    counter!("polyhook_reconcile_missing_total").increment(summary.queued - last.queued);
                    last = *summary;
                })
                .await;
            report.summary.add(&outcome.summary);
            report.unreadable.extend(outcome.first_unreadable);
            report.failures.extend(outcome.failures.iter().map(|error| describe(project, error)));
            unread.insert(ids, outcome.unread.into_iter().take(MAX_UNREAD_WINDOWS).collect());
        }
        report
    }

    /// Writes the result to the log, the metrics and `/readyz`.
    fn publish(&self, PassReport { summary, failures, unreadable }: &PassReport) {
        tracing::info!(
            listed = summary.listed,
            archived = summary.archived,
            missing = summary.missing,
            outdated = summary.outdated,
            unsettled = summary.unsettled,
            erased = summary.erased,
            queued = summary.queued,
            queued_before = summary.queued_before,
            unreadable = summary.unreadable,
            failures = failures.len(),
            "reconciled"
        );
        for failure in failures {
            tracing::warn!(failure, "reconciliation is not complete");
        }
        let mut problems: Vec<_> = failures.iter().take(MAX_NAMED_FAILURES).cloned().collect();
        if let Some(more @ 1..) = failures.len().checked_sub(MAX_NAMED_FAILURES) {
            problems.push(format!("and {more} more, see the log"));
        }
        if let Some(place) = unreadable.first() {
            let count = summary.unreadable;
            problems.push(format!("{count} entries of PolyAI's lists cannot be read, such as {place}"));
        }
        if problems.is_empty() {
            self.health.clear(LEASE_NAME);
        } else {
            self.health.set_degraded(
                LEASE_NAME,
                format!("conversations that no webhook announced may stay missing: {}", problems.join("; ")),
            );
        }
        if failures.is_empty() {
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
            gauge!("polyhook_reconcile_last_success_timestamp_seconds")
                .set(self.clock.now().as_second() as f64);
        }
    }
}

/// Describes a failure of a project's pass in one line.
pub(super) fn describe(project: &Project, error: impl std::fmt::Display) -> String {
    format!("project {}: {error}", project.project_id())
}

/// Returns `Ok` if a pass is due `every` after the `last` one. Otherwise returns the delay until then. If `last` is
/// further in the future than `every`, a process with a wrong clock noted it, and the pass is due now.
fn check_due(now: Timestamp, last: Timestamp, every: Duration) -> Result<(), Duration> {
    let age = now.duration_since(last);
    match (Duration::try_from(age), Duration::try_from(-age)) {
        (Ok(age), _) => every.checked_sub(age).filter(|left| !left.is_zero()).map_or(Ok(()), Err),
        (_, Ok(ahead)) if ahead < every => Err(every),
        _ => Ok(()),
    }
}

async fn release_lease(lease: ArchiveLease, note: Option<String>) {
    match tokio::time::timeout(RELEASE_TIMEOUT, lease.release(note)).await {
        Ok(Ok(())) => {}
        // Another process takes over the lease after its timeout.
        Ok(Err(error)) => tracing::warn!(%error, "the lease for reconciliation could not be released"),
        Err(_) => tracing::warn!("the lease for reconciliation could not be released in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_due_after_its_interval_even_if_the_last_one_had_a_wrong_clock() {
        let (now, every) = ("2026-11-02T10:00:00Z".parse().unwrap(), Duration::from_mins(15));
        let due = |last: &str| check_due(now, last.parse().unwrap(), every);
        assert_eq!(due("2026-11-02T09:50:00Z"), Err(Duration::from_mins(5)));
        assert_eq!(due("2026-11-02T09:45:00Z"), Ok(()));
        assert_eq!(due("2020-01-01T00:00:00Z"), Ok(()));
        assert_eq!(due("2026-11-02T10:00:05Z"), Err(every), "the clock of another process is slightly ahead");
        assert_eq!(due("2027-11-02T10:00:00Z"), Ok(()));
    }
}
