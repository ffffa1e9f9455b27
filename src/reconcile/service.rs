//! The service that reconciles every `every`.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use metrics::{counter, gauge};
use tokio::time::sleep;

use super::{PassError, PassSummary, QueueingLimits, ReconcileConfig, ReconcilePass};
use crate::{
    archive::{Archive, ArchiveLease},
    clock::Clock,
    event::DiscoverySource,
    health::Health,
    lifecycle::Lifecycle,
    polyai::PolyAiClient,
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

/// The outcome of a pass over all projects.
struct AllProjectsOutcome {
    summary: PassSummary,
    /// The failed projects with their errors.
    failures: Vec<(String, PassError)>,
}

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
            let outcome = tokio::select! {
                () = draining.cancelled() => None,
                () = lease.lost() => None,
                outcome = self.run_pass() => Some(outcome),
            };
            let complete = outcome.as_ref().is_some_and(|outcome| outcome.failures.is_empty());
            release_lease(lease, complete.then(|| started_at.to_string())).await;
            match outcome {
                None if draining.is_cancelled() => return,
                None => tracing::warn!("the lease for reconciliation was lost; another process continues"),
                Some(outcome) => self.report(&outcome),
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
    pub async fn run_once(&self) -> Result<PassSummary, Vec<String>> {
        let mut lease =
            self.archive.lease(LEASE_NAME, |_| Ok(())).await.map_err(|error| vec![error.to_string()])?;
        let started_at = self.clock.now();
        let outcome = tokio::select! {
            () = lease.lost() => return Err(vec!["the lease for reconciliation was lost".to_owned()]),
            outcome = self.run_pass() => outcome,
        };
        let complete = outcome.failures.is_empty();
        release_lease(lease, complete.then(|| started_at.to_string())).await;
        self.report(&outcome);
        if complete {
            return Ok(outcome.summary);
        }
        Err(outcome
            .failures
            .into_iter()
            .map(|(project, error)| format!("project {project}: {error}"))
            .collect())
    }

    /// Returns `Ok` if a pass is due according to the note of the last one. Otherwise returns the delay until then.
    fn is_due(&self, note: Option<&str>) -> Result<(), Duration> {
        let last = note.and_then(|note| note.parse::<Timestamp>().ok());
        last.map_or(Ok(()), |last| check_due(self.clock.now(), last, self.config.every))
    }

    async fn run_pass(&self) -> AllProjectsOutcome {
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
        let mut outcome = AllProjectsOutcome { summary: PassSummary::default(), failures: Vec::new() };
        for project in self.polyai.projects() {
            let mut last = PassSummary::default();
            let result = pass
                .run(project, start..now, |summary, _| {
                    counter!("polyhook_reconcile_listed_total").increment(summary.listed - last.listed);
                    // Conversations that an earlier pass has queued are not counted again.
                    counter!("polyhook_reconcile_missing_total").increment(summary.queued - last.queued);
                    last = *summary;
                })
                .await;
            match result {
                Ok(summary) => outcome.summary.add(&summary),
                // One project's failure does not affect the others.
                Err(error) => {
                    outcome.summary.add(&last);
                    outcome.failures.push((project.project_id().to_owned(), error));
                }
            }
        }
        outcome
    }

    fn report(&self, AllProjectsOutcome { summary, failures }: &AllProjectsOutcome) {
        let unreadable = summary.unreadable;
        tracing::info!(
            listed = summary.listed,
            archived = summary.archived,
            missing = summary.missing,
            outdated = summary.outdated,
            unsettled = summary.unsettled,
            erased = summary.erased,
            queued = summary.queued,
            queued_before = summary.queued_before,
            unreadable,
            failed_projects = failures.len(),
            "reconciled"
        );
        if unreadable > 0 {
            tracing::warn!(
                unreadable,
                "PolyAI's list has entries without an id; they cannot be compared with the archive"
            );
        }
        if failures.is_empty() {
            self.health.clear(LEASE_NAME);
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
            gauge!("polyhook_reconcile_last_success_timestamp_seconds")
                .set(self.clock.now().as_second() as f64);
        } else {
            self.health.set_degraded(
                LEASE_NAME,
                format!(
                    "conversations that no webhook announced may stay missing: {}",
                    FailureList(failures)
                ),
            );
        }
    }
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

struct FailureList<'a>(&'a [(String, PassError)]);

impl fmt::Display for FailureList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (project, error)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "; " };
            write!(f, "{comma}project {project}: {error}")?;
        }
        Ok(())
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
