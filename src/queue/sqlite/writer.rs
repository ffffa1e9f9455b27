//! The one thread that writes.
//!
//! It takes everything that waits, does all of it in one transaction, commits (one fsync for all), and only
//! then answers each: the more are waiting, the cheaper each becomes. Jobs are claimed in the same
//! transaction for those who wait for one, never more than there are waiting.
//!
//! * What is wrong with one request fails that one: the transaction is undone, and each runs by itself.
//! * A commit that fails (full disk, read-only, locked, damaged, file gone) fails all of its requests, and the
//!   file is opened anew for the next. The thread outlives every trouble of the file's.
//! * The end of a lease that could not be written is written as soon as it can be, whoever asked for it:
//!   nobody else would know that the job is not being worked on.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{
    SqliteOptions,
    request::{Handover, Pending, Request},
    schema::OpenError,
    store::Store,
    trouble::Trouble,
};
use crate::queue::{Job, JobOutcome, LeaseId};

/// How often a waiting consumer looks for jobs of other processes, and for a clock that was moved.
const POLL: Duration = Duration::from_millis(250);
/// Bounds the memory, and the delay, of one transaction.
const MAX_BATCH_BYTES: usize = 16 << 20;
const MAX_BATCH: usize = 2048;

/// The thread's state.
pub(super) struct Writer {
    path: PathBuf,
    options: SqliteOptions,
    holder: i64,
    requests: Receiver<Request>,
    /// Leads to `requests`: for jobs that were handed out and not taken.
    returns: Sender<Request>,
    /// None after trouble: it is opened again for the next transaction.
    store: Option<Store>,
    waiting: VecDeque<oneshot::Sender<Handover>>,
    /// Ends of leases that are still to be written.
    owed: HashMap<LeaseId, JobOutcome>,
    commits: Arc<AtomicU64>,
    extend_at: Instant,
    sweep_at: Instant,
    poll_at: Instant,
    in_trouble: bool,
}

/// What [`Writer::gather`] found beside things to write.
enum Next {
    GoOn,
    /// Hand back all leases and end.
    Close(oneshot::Sender<()>),
    /// End as if the process had died: the leases run out.
    Abandon,
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        options: SqliteOptions,
        (requests, returns): (Receiver<Request>, Sender<Request>),
        commits: Arc<AtomicU64>,
    ) -> Result<Self, OpenError> {
        let holder = fastrand::i64(..);
        let store = match Store::open(&path, holder, options.clone()) {
            Ok(store) => Some(store),
            Err(error) if options.start_without_file && error.may_pass() => {
                tracing::error!(%error, "the queue cannot be used yet; it is opened as soon as it can be");
                None
            }
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        Ok(Self {
            path,
            holder,
            requests,
            returns,
            in_trouble: store.is_none(),
            store,
            waiting: VecDeque::new(),
            owed: HashMap::new(),
            commits,
            extend_at: now + options.lease / 3,
            sweep_at: now,
            poll_at: now,
            options,
        })
    }

    /// Works until it is told to end.
    pub(super) fn run(mut self) {
        loop {
            let mut batch = Vec::new();
            let next = self.gather(&mut batch);
            self.write(batch);
            match next {
                Next::GoOn => self.housekeeping(),
                Next::Close(done) => {
                    self.close();
                    // Whoever asked may have gone.
                    let _ = done.send(());
                    return;
                }
                Next::Abandon => return,
            }
        }
    }

    /// Waits for the first request (or the next thing to do by the clock) and takes all others that wait.
    fn gather(&mut self, batch: &mut Vec<Box<dyn Pending>>) -> Next {
        let mut until = self.extend_at.min(self.sweep_at);
        if !self.waiting.is_empty() || !self.owed.is_empty() {
            until = until.min(self.poll_at);
        }
        let mut first = match self.requests.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => return Next::GoOn,
            Err(RecvTimeoutError::Disconnected) => return Next::Abandon,
        };
        let mut bytes = 0;
        while let Some(request) = first.take().or_else(|| self.requests.try_recv().ok()) {
            match request {
                Request::Write(pending) => {
                    bytes += pending.bytes();
                    batch.push(pending);
                }
                Request::Next(waiter) => self.waiting.push_back(waiter),
                Request::Untaken(lease) => {
                    self.owed.insert(lease, JobOutcome::Release);
                }
                Request::Close(done) => return Next::Close(done),
                Request::Abandon => return Next::Abandon,
            }
            if batch.len() >= MAX_BATCH || bytes >= MAX_BATCH_BYTES {
                break;
            }
        }
        Next::GoOn
    }

    /// Writes a batch, with all else that is to be written now, and answers.
    fn write(&mut self, mut batch: Vec<Box<dyn Pending>>) {
        match self.transact(&mut batch) {
            Ok(()) => batch.into_iter().for_each(|pending| pending.answer(None)),
            Err(trouble) if trouble.is_one_requests() && batch.len() > 1 => {
                for pending in batch {
                    self.write(vec![pending]);
                }
            }
            Err(trouble) => {
                let error = trouble.to_queue_error();
                let its_own = trouble.is_one_requests();
                for pending in batch {
                    // Trying again would not help what is wrong in itself.
                    self.owed.extend(pending.debt().filter(|_| !its_own));
                    pending.answer(Some(error.clone()));
                }
            }
        }
    }

    /// One transaction, and the hand-over of the jobs claimed in it. On an error nothing was written, or
    /// it is unknown whether it was.
    fn transact(&mut self, batch: &mut [Box<dyn Pending>]) -> Result<(), Trouble> {
        let done = self.transact_quietly(batch);
        if let Err(trouble) = &done {
            let again = Instant::now() + POLL;
            self.poll_at = again;
            self.extend_at = self.extend_at.max(again);
            if !self.in_trouble && !trouble.is_one_requests() {
                self.in_trouble = true;
                tracing::error!(error = %trouble, "the queue cannot be written; deliveries are refused until it can");
            }
        }
        done
    }

    fn transact_quietly(&mut self, batch: &mut [Box<dyn Pending>]) -> Result<(), Trouble> {
        self.waiting.retain(|waiter| !waiter.is_closed());
        let extend = Instant::now() >= self.extend_at;
        if batch.is_empty() && self.owed.is_empty() && self.waiting.is_empty() && !extend {
            return Ok(());
        }
        let store = self.take_store()?;
        let jobs = match self.write_all(&store, batch, extend) {
            Ok(jobs) => jobs,
            Err(trouble) => {
                self.store = Some(store).filter(|_| trouble.leaves_the_file_usable());
                return Err(trouble);
            }
        };
        if extend {
            self.extend_at = Instant::now() + self.options.lease / 3;
        }
        self.hand_over(jobs);
        if !self.waiting.is_empty() {
            self.poll_at = Instant::now() + store.next_due()?.map_or(POLL, |due| due.min(POLL));
        }
        self.store = Some(store);
        Ok(())
    }

    /// The open file; opened anew after trouble, or if another lies in its place.
    fn take_store(&mut self) -> Result<Store, Trouble> {
        if let Some(store) = self.store.take() {
            if store.is_at(&self.path) {
                return Ok(store);
            }
            match store.put_back(&self.path) {
                Ok(true) => {
                    tracing::error!("{}; it was put back with everything that was in it", Trouble::Gone);
                }
                Ok(false) => tracing::error!(
                    "{}, and another lies there: it is opened; what was in the first is lost unless you put it back",
                    Trouble::Gone
                ),
                Err(error) => {
                    let trouble = Trouble::Open(error);
                    // For the next attempt: it is all there is of the file.
                    self.store = Some(store);
                    return Err(trouble);
                }
            }
        }
        self.open()
    }

    fn open(&self) -> Result<Store, Trouble> {
        Store::open(&self.path, self.holder, self.options.clone()).map_err(Trouble::Open)
    }

    /// Writes what there is to write, if anything, and claims jobs for those who wait.
    fn write_all(
        &mut self,
        store: &Store,
        batch: &mut [Box<dyn Pending>],
        extend: bool,
    ) -> Result<Vec<Job>, Trouble> {
        let mut jobs = Vec::new();
        if batch.is_empty()
            && self.owed.is_empty()
            && !(extend && store.has_leases()?)
            && (self.waiting.is_empty() || !store.is_claimable()?)
        {
            return Ok(jobs);
        }
        store.begin()?;
        let written =
            self.write_in_transaction(store, batch, extend, &mut jobs).and_then(|()| store.commit());
        if let Err(error) = written {
            // Whether a failed commit is on the disk is not known: nobody has these jobs in any case.
            self.owed.extend(jobs.iter().map(|job| (job.lease, JobOutcome::Release)));
            store.roll_back()?;
            return Err(error.into());
        }
        if !store.is_at(&self.path) {
            return Err(Trouble::Gone);
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.owed.clear();
        if self.in_trouble {
            self.in_trouble = false;
            tracing::info!("the queue can be written again");
        }
        Ok(jobs)
    }

    fn write_in_transaction(
        &mut self,
        store: &Store,
        batch: &mut [Box<dyn Pending>],
        extend: bool,
        jobs: &mut Vec<Job>,
    ) -> rusqlite::Result<()> {
        for pending in batch.iter_mut() {
            if !self.owed.is_empty()
                && let Some((lease, _)) = pending.debt()
            {
                // Asked again by its holder, who knows best how it ended.
                self.owed.remove(&lease);
            }
            pending.execute(store)?;
        }
        for (lease, outcome) in &self.owed {
            store.settle(*lease, outcome)?;
        }
        if extend {
            store.extend()?;
        }
        if !self.waiting.is_empty() {
            *jobs = store.claim(self.waiting.len())?;
        }
        Ok(())
    }

    fn hand_over(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            let mut handover = Some(Handover::new(job, self.returns.clone()));
            while let Some(offered) = handover.take()
                && let Some(waiter) = self.waiting.pop_front()
            {
                // One who has gone gives it back, for the next.
                handover = waiter.send(offered).err();
            }
        }
    }

    /// Deletes what is older than the retention, in steps, so that nobody waits long behind it.
    fn housekeeping(&mut self) {
        if Instant::now() < self.sweep_at {
            return;
        }
        self.sweep_at = Instant::now() + self.options.housekeeping;
        let Some(store) = self.store.take() else { return };
        match sweep(&store) {
            Ok(more) => {
                if more {
                    self.sweep_at = Instant::now();
                }
                self.store = Some(store);
            }
            // The next transaction finds out and says so.
            Err(error) => tracing::warn!(%error, "old messages could not be deleted"),
        }
    }

    fn close(&mut self) {
        self.waiting.clear();
        if let Err(trouble) = self.transact_quietly(&mut []) {
            tracing::warn!(error = %trouble, "the end of some leases could not be written");
        }
        let Some(store) = self.store.take() else { return };
        match hand_back(&store) {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "unfinished jobs were handed back to the queue"),
            Err(error) => {
                tracing::warn!(%error, "unfinished jobs could not be handed back; they come back when their lease ends");
            }
        }
        if let Err(error) = store.checkpoint() {
            tracing::debug!(%error, "the write-ahead log stays until the next start");
        }
    }
}

fn sweep(store: &Store) -> rusqlite::Result<bool> {
    store.begin()?;
    let more = store.sweep().and_then(|more| store.commit().map(|()| more));
    if more.is_err() {
        store.roll_back()?;
    }
    Ok(more? || store.shrink()?)
}

fn hand_back(store: &Store) -> rusqlite::Result<usize> {
    store.begin()?;
    let jobs = store.hand_back()?;
    store.commit()?;
    Ok(jobs)
}
