//! The jobs that this process holds: those that wait for a worker, and those that a worker has.
//!
//! When the channel that delivered them ends, all of them are forgotten: the broker delivers them again, and the old
//! leases are lost. The prefetch bounds their number. If their queue was deleted, the broker has none of them: they are orphans until
//! this process has published them again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use lapin::Acker;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::queue::{History, Job, LeaseId, Message, QueueError};

/// A job that could not be settled goes back to the broker after this time, unless its worker settles it before. It does
/// not go back at once, because the cause is a failure of the broker that the next attempt would meet again.
const RETURN_DELAY: Duration = Duration::from_secs(10);

/// A job that is not settled, with what settles it.
#[derive(Debug)]
pub(super) struct InFlightJob {
    pub(super) acker: Acker,
    pub(super) message: Message,
    pub(super) history: History,
    /// The time since which it could be leased.
    leasable_since: Timestamp,
    delivered_at: Instant,
    return_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Job>,
    /// The `leasable_since` of the job that was delivered last.
    last_leasable_since: Option<Timestamp>,
    unsettled: HashMap<LeaseId, InFlightJob>,
    /// Number of jobs that a [`Settlement`] has taken out of `unsettled` and that may return there.
    being_settled: u64,
    /// Number of the channel that delivered them.
    generation: u64,
    /// Number of the last channel that ended because the queue was deleted.
    deleted_generation: Option<u64>,
    /// Jobs whose queue was deleted, which only this process has.
    orphans: VecDeque<(Message, History)>,
    last_lease: u64,
    closed: bool,
}

/// All jobs in flight; see the [module](self).
#[derive(Debug, Default)]
pub(super) struct InFlightJobs {
    inner: Mutex<Inner>,
    arrived: Notify,
    requested: CancellationToken,
}

impl InFlightJobs {
    /// Waits for a job. Safe to cancel: it never holds a job across an await.
    pub(super) async fn next(&self) -> Result<Job, QueueError> {
        self.requested.cancel();
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            {
                let mut inner = self.inner();
                if inner.closed {
                    return Err(QueueError::Closed);
                }
                if let Some(job) = inner.waiting.pop_front() {
                    return Ok(job);
                }
            }
            arrived.await;
        }
    }

    /// Waits until [`next`](Self::next) is called for the first time. A process that wants no job must not take any
    /// from other processes.
    pub(super) async fn first_request(&self) {
        self.requested.cancelled().await;
    }

    /// Adds a delivered job and gives it its lease. It could be leased since `leasable_since`.
    pub(super) fn add(&self, acker: Acker, mut job: Job, leasable_since: Timestamp) {
        let mut inner = self.inner();
        inner.last_leasable_since = Some(leasable_since);
        inner.last_lease += 1;
        job.lease = LeaseId(inner.last_lease);
        let (message, history) = (job.message.clone(), job.history.clone());
        let in_flight = InFlightJob {
            acker,
            message,
            history,
            leasable_since,
            delivered_at: Instant::now(),
            return_at: None,
        };
        inner.unsettled.insert(job.lease, in_flight);
        inner.waiting.push_back(job);
        drop(inner);
        self.arrived.notify_one();
    }

    /// Takes a job out to settle it. It returns here if the [`Settlement`] is dropped unfinished.
    pub(super) fn begin_settlement(&self, lease: LeaseId) -> Result<Settlement<'_>, QueueError> {
        let mut inner = self.inner();
        let Some(job) = inner.unsettled.remove(&lease) else {
            return Err(if inner.closed { QueueError::Closed } else { QueueError::LeaseLost });
        };
        inner.being_settled += 1;
        Ok(Settlement { jobs: self, lease, generation: inner.generation, job: Some(job) })
    }

    /// Removes and returns the jobs that must go back to the broker now.
    pub(super) fn take_overdue(&self) -> Vec<InFlightJob> {
        let now = Instant::now();
        self.inner()
            .unsettled
            .extract_if(|_, job| job.return_at.is_some_and(|at| at <= now))
            .map(|(_, job)| job)
            .collect()
    }

    /// Returns the time for which this process has held its oldest job.
    pub(super) fn longest_hold(&self) -> Duration {
        let held = self.inner().unsettled.values().map(|job| job.delivered_at.elapsed()).max();
        held.unwrap_or_default()
    }

    /// Returns the number of jobs that this process holds.
    pub(super) fn count(&self) -> u64 {
        let inner = self.inner();
        (inner.unsettled.len() + inner.orphans.len()) as u64 + inner.being_settled
    }

    /// Returns the time since which the oldest job waits that no worker has begun.
    pub(super) fn waiting_since(&self) -> Option<Timestamp> {
        let inner = self.inner();
        let waiting = inner.waiting.iter().filter_map(|job| inner.unsettled.get(&job.lease));
        waiting.map(|job| job.leasable_since).min()
    }

    /// Returns the time since which the job could be leased that was delivered last, if this process holds `max_jobs`.
    /// With fewer, the broker would deliver the jobs that wait.
    pub(super) fn full_since(&self, max_jobs: usize) -> Option<Timestamp> {
        let inner = self.inner();
        let held = inner.unsettled.len() as u64 + inner.being_settled;
        inner.last_leasable_since.filter(|_| held >= max_jobs as u64)
    }

    /// Removes and returns the jobs that no worker has yet.
    pub(super) fn take_waiting(&self) -> Vec<InFlightJob> {
        let inner = &mut *self.inner();
        inner.waiting.drain(..).filter_map(|job| inner.unsettled.remove(&job.lease)).collect()
    }

    /// Makes all jobs orphans after their queue was deleted. All leases are lost. A job that is being settled becomes an orphan if
    /// that fails.
    pub(super) fn orphan_all(&self) {
        let mut inner = self.inner();
        let orphans: Vec<_> = inner.unsettled.drain().map(|(_, job)| (job.message, job.history)).collect();
        inner.orphans.extend(orphans);
        inner.deleted_generation = Some(inner.generation);
        drop(inner);
        self.forget_all();
    }

    /// Removes and returns an orphan.
    pub(super) fn take_orphan(&self) -> Option<(Message, History)> {
        self.inner().orphans.pop_front()
    }

    /// Puts back an orphan that could not be published.
    pub(super) fn return_orphan(&self, orphan: (Message, History)) {
        self.inner().orphans.push_front(orphan);
    }

    /// Forgets all jobs after the end of their channel. All leases are lost.
    pub(super) fn forget_all(&self) {
        let mut inner = self.inner();
        inner.generation += 1;
        inner.waiting.clear();
        inner.unsettled.clear();
    }

    /// Ends all present and future calls of [`next`](Self::next).
    pub(super) fn close(&self) {
        self.inner().closed = true;
        self.forget_all();
        self.arrived.notify_waiters();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that is being settled.
#[derive(Debug)]
pub(super) struct Settlement<'a> {
    jobs: &'a InFlightJobs,
    lease: LeaseId,
    generation: u64,
    job: Option<InFlightJob>,
}

impl Settlement<'_> {
    pub(super) fn job(&self) -> Option<&InFlightJob> {
        self.job.as_ref()
    }

    /// Ends the lease for good.
    pub(super) fn finish(mut self) {
        self.job = None;
    }
}

impl Drop for Settlement<'_> {
    fn drop(&mut self) {
        let mut inner = self.jobs.inner();
        inner.being_settled -= 1;
        let Some(mut job) = self.job.take() else { return };
        if inner.generation == self.generation {
            job.return_at = Some(Instant::now() + RETURN_DELAY);
            inner.unsettled.insert(self.lease, job);
        } else if inner.deleted_generation == Some(self.generation) {
            inner.orphans.push_back((job.message, job.history));
        }
    }
}
