//! Limits the jobs that run at the same time, so that a project whose API hangs does not delay the others.
//!
//! A running job has one of `worker.concurrency` permits. With several projects, a job that waits long for PolyAI's
//! answer returns its permit and takes one again when the answer has arrived. As many jobs may wait like that as there
//! are permits, and half as many of one project. A project that has reached its share is held up: further jobs of it are
//! postponed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use metrics::gauge;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::telemetry::GaugeGuard;

/// After this time a job waits for an answer without a permit. PolyAI usually answers within a second.
const PERMIT_RELEASE_DELAY: Duration = Duration::from_secs(2);

/// The permits of a worker; see the [module](self).
#[derive(Debug)]
pub(super) struct ConcurrencyLimiter {
    permits: Arc<Semaphore>,
    /// The largest number of jobs that wait without a permit, in all and of one project.
    max_waiting: usize,
    max_waiting_per_project: usize,
    waiting: Mutex<HashMap<String, usize>>,
}

impl ConcurrencyLimiter {
    /// Creates `concurrency` permits for the jobs of a number of projects.
    pub(super) fn new(concurrency: usize, projects: usize) -> Arc<Self> {
        let max_waiting = super::max_waiting_jobs(concurrency, projects);
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(concurrency.min(Semaphore::MAX_PERMITS))),
            max_waiting,
            max_waiting_per_project: max_waiting.div_ceil(2),
            waiting: Mutex::default(),
        })
    }

    /// Waits for a permit.
    pub(super) async fn acquire(self: &Arc<Self>) -> Option<ConcurrencyPermit> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some(ConcurrencyPermit { limiter: Arc::clone(self), permit: Mutex::new(Some(permit)) })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permit of one job. While the job waits for an answer, it may be without one.
#[derive(Debug)]
pub(super) struct ConcurrencyPermit {
    limiter: Arc<ConcurrencyLimiter>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl ConcurrencyPermit {
    /// Returns whether the project has reached its share of waiting jobs.
    pub(super) fn is_held_up(&self, project: &str) -> bool {
        let max = self.limiter.max_waiting_per_project;
        max > 0 && self.limiter.waiting().get(project).is_some_and(|waiting| *waiting >= max)
    }

    /// Waits for an answer of the API of `project`; after a while without the permit, if the limits allow it.
    pub(super) async fn wait_for<T>(&self, project: &str, answer: impl Future<Output = T>) -> T {
        let mut answer = std::pin::pin!(answer);
        if let Ok(answer) = timeout(PERMIT_RELEASE_DELAY, &mut answer).await {
            return answer;
        }
        let Some(_waiting) = self.release(project) else { return answer.await };
        let answer = answer.await;
        // The semaphore is never closed.
        if let Ok(permit) = Arc::clone(&self.limiter.permits).acquire_owned().await {
            *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = Some(permit);
        }
        answer
    }

    /// Returns the permit, if one more job of this project may wait without one.
    fn release(&self, project: &str) -> Option<WaitingJob<'_>> {
        let mut waiting = self.limiter.waiting();
        let all: usize = waiting.values().sum();
        let of_project = waiting.entry(project.to_owned()).or_default();
        if all >= self.limiter.max_waiting || *of_project >= self.limiter.max_waiting_per_project {
            return None;
        }
        *of_project += 1;
        self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let counted = GaugeGuard::increment(gauge!("polyhook_jobs_waiting"));
        Some(WaitingJob { limiter: &self.limiter, project: project.to_owned(), _counted: counted })
    }
}

/// Counts a job that waits without a permit, until it is dropped.
struct WaitingJob<'a> {
    limiter: &'a ConcurrencyLimiter,
    project: String,
    _counted: GaugeGuard,
}

impl Drop for WaitingJob<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.limiter.waiting().get_mut(&self.project) {
            *waiting -= 1;
        }
    }
}

/// Waits for an answer of the API of `project`, with or without a permit to return meanwhile.
pub(super) async fn wait_for_answer<T>(
    permit: Option<&ConcurrencyPermit>,
    project: &str,
    answer: impl Future<Output = T>,
) -> T {
    match permit {
        Some(permit) => permit.wait_for(project, answer).await,
        None => answer.await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn has_free_permit(limiter: &Arc<ConcurrencyLimiter>) -> bool {
        timeout(Duration::from_millis(1), limiter.acquire()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_job_returns_its_permit_and_takes_one_again() {
        let limiter = ConcurrencyLimiter::new(2, 2);
        let (a, b) = (limiter.acquire().await.unwrap(), limiter.acquire().await.unwrap());
        let hanging = tokio::time::sleep(Duration::from_secs(30));
        let others = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!has_free_permit(&limiter).await, "a short wait keeps the permit");
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(b.is_held_up("a") && !b.is_held_up("b"));
            let third = limiter.acquire().await;
            // The project has reached its share, so this job keeps its permit.
            b.wait_for("a", tokio::time::sleep(Duration::from_secs(5))).await;
            assert!(!has_free_permit(&limiter).await);
            drop(third);
        };
        tokio::join!(a.wait_for("a", hanging), others);
        assert!(!b.is_held_up("a"));
        assert!(!has_free_permit(&limiter).await, "both jobs have a permit again");
        drop(a);
        assert!(has_free_permit(&limiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_project_keeps_its_permits() {
        let limiter = ConcurrencyLimiter::new(1, 1);
        let only = limiter.acquire().await.unwrap();
        let others = async {
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert!(!has_free_permit(&limiter).await && !only.is_held_up("a"));
        };
        tokio::join!(only.wait_for("a", tokio::time::sleep(Duration::from_secs(30))), others);
    }
}
