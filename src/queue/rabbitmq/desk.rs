//! The jobs this process holds: those that wait for a worker, and those a worker has.
//!
//! All of it is forgotten when the channel they came through ends: the broker gives them to somebody else
//! then, and an old lease is worth nothing. What is held is bounded by the prefetch.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use lapin::Acker;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::queue::{History, Job, LeaseId, Message, QueueError};

/// A job whose end could not be recorded goes back to the broker after this, unless its worker has more
/// luck before. Not at once: the reason is the broker's trouble, and would be met again.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(10);

/// What settles a job.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) acker: Acker,
    pub(super) message: Message,
    pub(super) history: History,
    give_back_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Job>,
    held: HashMap<LeaseId, Held>,
    /// How many are being settled just now: neither here nor gone.
    settling: u64,
    /// Which channel they came through.
    generation: u64,
    last: u64,
    closed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Desk {
    inner: Mutex<Inner>,
    arrived: Notify,
    wanted: CancellationToken,
}

impl Desk {
    /// Waits for a job. Safe to cancel: nothing is awaited with a job in hand.
    pub(super) async fn next(&self) -> Result<Job, QueueError> {
        self.wanted.cancel();
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

    /// Waits until somebody has asked for a job: a process that asks for none takes none from others.
    pub(super) async fn wanted(&self) {
        self.wanted.cancelled().await;
    }

    /// Puts a job on the desk; it gets its lease here.
    pub(super) fn put(&self, acker: Acker, mut job: Job) {
        let mut inner = self.inner();
        inner.last += 1;
        job.lease = LeaseId(inner.last);
        let (message, history) = (job.message.clone(), job.history.clone());
        let held = Held { acker, message, history, give_back_at: None };
        inner.held.insert(job.lease, held);
        inner.waiting.push_back(job);
        drop(inner);
        self.arrived.notify_one();
    }

    /// Takes a lease to end it. Unless it is [ended](Ending::done), it is back on the desk when dropped.
    pub(super) fn end(&self, lease: LeaseId) -> Result<Ending<'_>, QueueError> {
        let mut inner = self.inner();
        let Some(held) = inner.held.remove(&lease) else {
            return Err(if inner.closed { QueueError::Closed } else { QueueError::LeaseLost });
        };
        inner.settling += 1;
        Ok(Ending { desk: self, lease, generation: inner.generation, held: Some(held) })
    }

    /// Those that are to be given back now, with their leases over.
    pub(super) fn overdue(&self) -> Vec<Held> {
        let now = Instant::now();
        self.inner()
            .held
            .extract_if(|_, held| held.give_back_at.is_some_and(|at| at <= now))
            .map(|(_, held)| held)
            .collect()
    }

    /// How many jobs this process holds.
    pub(super) fn holds(&self) -> u64 {
        let inner = self.inner();
        inner.held.len() as u64 + inner.settling
    }

    /// Takes back those that no worker has yet.
    pub(super) fn take_waiting(&self) -> Vec<Held> {
        let inner = &mut *self.inner();
        inner.waiting.drain(..).filter_map(|job| inner.held.remove(&job.lease)).collect()
    }

    /// The queue that all of them came from is gone, and they with it: what they were. All leases are lost.
    pub(super) fn take_orphans(&self) -> Vec<(Message, History)> {
        let orphans = self.inner().held.drain().map(|(_, held)| (held.message, held.history)).collect();
        self.forget();
        orphans
    }

    /// The channel is gone: all leases are lost.
    pub(super) fn forget(&self) {
        let mut inner = self.inner();
        inner.generation += 1;
        inner.waiting.clear();
        inner.held.clear();
    }

    /// Nobody gets a job any more.
    pub(super) fn close(&self) {
        self.inner().closed = true;
        self.forget();
        self.arrived.notify_waiters();
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lease that is being ended.
#[derive(Debug)]
pub(super) struct Ending<'a> {
    desk: &'a Desk,
    lease: LeaseId,
    generation: u64,
    held: Option<Held>,
}

impl Ending<'_> {
    /// What is being ended.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// The lease is over.
    pub(super) fn done(mut self) {
        self.held = None;
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut inner = self.desk.inner();
        inner.settling -= 1;
        if let Some(mut held) = self.held.take()
            && inner.generation == self.generation
        {
            held.give_back_at = Some(Instant::now() + GIVE_BACK_AFTER);
            inner.held.insert(self.lease, held);
        }
    }
}
