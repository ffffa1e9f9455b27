//! Reconciliation by itself, every `every`.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use metrics::{counter, gauge};
use tokio::time::sleep;

use super::{PassError, PassSummary, QueueingLimits, ReconcileConfig, ReconcilePass};
use crate::{
    archive::{Archive, ArchiveLease},
    clock::Clock,
    event::By,
    health::Health,
    lifecycle::Lifecycle,
    polyai::PolyAi,
    queue::Queue,
};

/// The lease's name, and that of what may be wrong with this.
const NAME: &str = "reconcile";
/// After a pass that failed, and where the lease cannot be asked for.
const PAUSE: Duration = Duration::from_secs(30);
/// How long it may take to give the lease back at the end.
const GOODBYE: Duration = Duration::from_secs(2);
/// Jobs that may wait while more are queued: an archive that lacks weeks is filled without a wall of jobs.
const MAX_BACKLOG: u64 = 1_000;

/// Compares and queues until the drain. See the [module](super).
#[derive(Clone, Debug)]
pub struct ReconcileService {
    config: ReconcileConfig,
    environments: Vec<String>,
    polyai: Arc<PolyAi>,
    archive: Archive,
    queue: Arc<dyn Queue>,
    clock: Clock,
    health: Health,
}

/// How a pass over all projects ended.
struct Passed {
    tally: PassSummary,
    /// By project, what was in the way.
    failures: Vec<(String, PassError)>,
}

impl ReconcileService {
    /// Reconciles the projects of `polyai`, for the environments that the worker wants.
    pub fn new(
        config: ReconcileConfig,
        environments: Vec<String>,
        polyai: Arc<PolyAi>,
        archive: Archive,
        queue: Arc<dyn Queue>,
        clock: Clock,
        health: Health,
    ) -> Self {
        Self { config, environments, polyai, archive, queue, clock, health }
    }

    /// Goes on until the drain.
    pub async fn run(self, life: Lifecycle) {
        let draining = life.draining();
        loop {
            let lease = tokio::select! {
                () = draining.cancelled() => return,
                lease = self.archive.lease(NAME, |note| self.is_due(note)) => lease,
            };
            let mut lease = match lease {
                Ok(lease) => lease,
                Err(error) => {
                    self.health.degraded(
                        NAME,
                        format!("no reconciliation, because the archive gives no lease for it: {error}"),
                    );
                    tokio::select! {
                        () = draining.cancelled() => return,
                        () = sleep(PAUSE) => continue,
                    }
                }
            };
            let begun = self.clock.now();
            let passed = tokio::select! {
                () = draining.cancelled() => None,
                () = lease.lost() => None,
                passed = self.pass() => Some(passed),
            };
            let complete = passed.as_ref().is_some_and(|passed| passed.failures.is_empty());
            give_back(lease, complete.then(|| begun.to_string())).await;
            match passed {
                None if draining.is_cancelled() => return,
                None => tracing::warn!("the lease for reconciliation was lost: somebody else goes on"),
                Some(passed) => self.tell(&passed),
            }
            if !complete {
                tokio::select! {
                    () = draining.cancelled() => return,
                    () = sleep(PAUSE.min(self.config.every)) => {}
                }
            }
        }
    }

    /// One pass, for whoever wants one now; waits while somebody else has one.
    pub async fn run_once(&self) -> Result<PassSummary, Vec<String>> {
        let mut lease =
            self.archive.lease(NAME, |_| Ok(())).await.map_err(|error| vec![error.to_string()])?;
        let begun = self.clock.now();
        let passed = tokio::select! {
            () = lease.lost() => return Err(vec!["the lease for reconciliation was lost".to_owned()]),
            passed = self.pass() => passed,
        };
        let complete = passed.failures.is_empty();
        give_back(lease, complete.then(|| begun.to_string())).await;
        self.tell(&passed);
        if complete {
            return Ok(passed.tally);
        }
        Err(passed
            .failures
            .into_iter()
            .map(|(project, error)| format!("project {project}: {error}"))
            .collect())
    }

    /// Whether a pass is due, by what the last one has noted.
    fn is_due(&self, note: Option<&str>) -> Result<(), Duration> {
        let last = note.and_then(|note| note.parse::<Timestamp>().ok());
        last.map_or(Ok(()), |last| due(self.clock.now(), last, self.config.every))
    }

    async fn pass(&self) -> Passed {
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
            by: By::Reconcile,
            asked_at: None,
            limits: &limits,
        };
        let mut passed = Passed { tally: PassSummary::default(), failures: Vec::new() };
        for project in self.polyai.projects() {
            let mut last = PassSummary::default();
            let result = pass
                .project(project, start..now, |tally, _| {
                    counter!("polyhook_reconcile_listed_total").increment(tally.listed - last.listed);
                    // Not what was found before and still waits.
                    counter!("polyhook_reconcile_missing_total").increment(tally.queued - last.queued);
                    last = *tally;
                })
                .await;
            match result {
                Ok(tally) => passed.tally.add(&tally),
                // The others' calls are not to suffer for it.
                Err(error) => {
                    passed.tally.add(&last);
                    passed.failures.push((project.project_id().to_owned(), error));
                }
            }
        }
        passed
    }

    fn tell(&self, Passed { tally, failures }: &Passed) {
        let unreadable = tally.unreadable;
        tracing::info!(
            listed = tally.listed,
            archived = tally.archived,
            missing = tally.missing,
            outdated = tally.outdated,
            unsettled = tally.unsettled,
            erased = tally.erased,
            queued = tally.queued,
            queued_before = tally.queued_before,
            unreadable,
            failed_projects = failures.len(),
            "reconciled"
        );
        if unreadable > 0 {
            tracing::warn!(
                unreadable,
                "PolyAI's list has entries without an id, about which nothing can be done"
            );
        }
        if failures.is_empty() {
            self.health.well(NAME);
            #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
            gauge!("polyhook_reconcile_last_success_timestamp_seconds")
                .set(self.clock.now().as_second() as f64);
        } else {
            self.health
                .degraded(NAME, format!("what no webhook brings may stay missing: {}", Failures(failures)));
        }
    }
}

/// Whether a pass is due `every` after the `last` one; else in how long. A time further ahead than that was noted by
/// somebody whose clock was wrong, and must not keep everybody from it until then.
fn due(now: Timestamp, last: Timestamp, every: Duration) -> Result<(), Duration> {
    let age = now.duration_since(last);
    match (Duration::try_from(age), Duration::try_from(-age)) {
        (Ok(age), _) => every.checked_sub(age).filter(|left| !left.is_zero()).map_or(Ok(()), Err),
        (_, Ok(ahead)) if ahead < every => Err(every),
        _ => Ok(()),
    }
}

struct Failures<'a>(&'a [(String, PassError)]);

impl fmt::Display for Failures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (project, error)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "; " };
            write!(f, "{comma}project {project}: {error}")?;
        }
        Ok(())
    }
}

async fn give_back(lease: ArchiveLease, note: Option<String>) {
    match tokio::time::timeout(GOODBYE, lease.release(note)).await {
        Ok(Ok(())) => {}
        // Others wait a minute longer then.
        Ok(Err(error)) => tracing::warn!(%error, "the lease for reconciliation could not be given back"),
        Err(_) => tracing::warn!("the lease for reconciliation could not be given back in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_due_after_its_time_and_no_wrong_clock_keeps_anybody_from_it() {
        let (now, every) = ("2026-11-02T10:00:00Z".parse().unwrap(), Duration::from_mins(15));
        let due = |last: &str| due(now, last.parse().unwrap(), every);
        assert_eq!(due("2026-11-02T09:50:00Z"), Err(Duration::from_mins(5)));
        assert_eq!(due("2026-11-02T09:45:00Z"), Ok(()));
        assert_eq!(due("2020-01-01T00:00:00Z"), Ok(()));
        assert_eq!(due("2026-11-02T10:00:05Z"), Err(every), "another's clock, a little ahead");
        assert_eq!(due("2027-11-02T10:00:00Z"), Ok(()));
    }
}
