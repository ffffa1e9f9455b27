//! The writer thread of a queue file.
//!
//! It takes all requests that wait, makes their changes in one transaction, commits it (one fsync for all), and
//! then replies to each caller. The more callers wait, the less each write costs. Waiting consumers get their jobs
//! from the same transaction, and it leases no more jobs than there are waiting consumers.
//!
//! * An error that one request causes fails that request only: the transaction is rolled back, and each request
//!   runs in a transaction of its own.
//! * A failed commit (disk full, read-only, locked, damaged or replaced file) fails all requests of its batch, and
//!   the file is opened again for the next batch. No error of the file ends the thread.
//! * If there is no room for a batch, everything else is written without its messages, and waiting
//!   consumers get jobs. So messages that do not fit do not keep the queue from getting shorter.
//! * A settlement that could not be written is written as soon as the file permits it, even if its caller gave up.
//!   Otherwise the lease of a job on which no worker works would be extended forever.

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

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::{
    SqliteOptions,
    cleanup::Cleanup,
    error::{OpenError, WriteError},
    queue_file::QueueFile,
    request::{JobHandover, PendingWrite, WriterRequest},
    reserve,
};
use crate::queue::{Job, JobOutcome, LeaseId};

/// The interval at which waiting consumers check for jobs of other processes and for changes of the clock.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// The maximum body bytes of one transaction. Bounds its memory and its delay.
const MAX_BATCH_BYTES: usize = 16 << 20;
/// The maximum writes of one transaction.
const MAX_BATCH: usize = 2048;

/// The state of the thread.
pub(super) struct Writer {
    path: PathBuf,
    options: SqliteOptions,
    /// Identifies this queue's leases in the file.
    holder: i64,
    requests: Receiver<WriterRequest>,
    /// Sends to `requests`: for jobs that were handed out and not taken.
    returns: Sender<WriterRequest>,
    /// `None` after an error of the file. The next transaction opens it again.
    file: Option<QueueFile>,
    waiting_consumers: VecDeque<oneshot::Sender<JobHandover>>,
    /// Settlements that are still to be written.
    pending_settlements: HashMap<LeaseId, JobOutcome>,
    commits: Arc<AtomicU64>,
    extend_leases_at: Instant,
    cleanup_at: Instant,
    poll_at: Instant,
    /// The latest reading of the clock, and the time of the next look for waits that are too long.
    last_now: Timestamp,
    shorten_waits_at: Instant,
    cleanup: Cleanup,
    /// An error of the file was logged, and no transaction has succeeded since.
    write_error_logged: bool,
}

/// The step that follows a batch.
enum AfterBatch {
    Continue,
    /// Release all leases and end.
    Close(oneshot::Sender<()>),
    /// End and leave the leases to expire, as if the process had died.
    Abandon,
}

impl Writer {
    /// Opens the file. An error is returned, unless `options.start_without_file` allows to try again later.
    pub(super) fn new(
        path: PathBuf,
        options: SqliteOptions,
        (requests, returns): (Receiver<WriterRequest>, Sender<WriterRequest>),
        commits: Arc<AtomicU64>,
    ) -> Result<Self, OpenError> {
        let holder = fastrand::i64(..);
        let file = match QueueFile::open(&path, holder, options.clone()) {
            Ok(file) => Some(file),
            Err(error) if options.start_without_file && error.is_transient() => {
                tracing::error!(%error, "the queue file cannot be used yet; polyhook keeps trying to open it");
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
            write_error_logged: file.is_none(),
            file,
            waiting_consumers: VecDeque::new(),
            pending_settlements: HashMap::new(),
            commits,
            extend_leases_at: now + options.lease / 3,
            cleanup_at: now,
            poll_at: now,
            last_now: options.clock.now(),
            shorten_waits_at: now,
            cleanup: Cleanup::new(options.clock.clone(), options.retention),
            options,
        })
    }

    /// Serves requests until one of them ends the thread.
    pub(super) fn run(mut self) {
        loop {
            let mut batch = Vec::new();
            let next = self.collect_batch(&mut batch);
            self.write(batch);
            match next {
                AfterBatch::Continue => self.clean_up_if_due(),
                AfterBatch::Close(closed) => {
                    self.close();
                    // The caller may have stopped waiting.
                    let _ = closed.send(());
                    return;
                }
                AfterBatch::Abandon => return,
            }
        }
    }

    /// Waits for the first request, or for the next scheduled task, and takes all other requests that wait.
    fn collect_batch(&mut self, batch: &mut Vec<PendingWrite>) -> AfterBatch {
        let mut until = self.extend_leases_at.min(self.cleanup_at);
        if !self.waiting_consumers.is_empty() || !self.pending_settlements.is_empty() {
            until = until.min(self.poll_at);
        }
        let mut first = match self.requests.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(request) => Some(request),
            Err(RecvTimeoutError::Timeout) => return AfterBatch::Continue,
            Err(RecvTimeoutError::Disconnected) => return AfterBatch::Abandon,
        };
        let mut bytes = 0;
        while let Some(request) = first.take().or_else(|| self.requests.try_recv().ok()) {
            match request {
                WriterRequest::Write(pending) => {
                    bytes += pending.attributes.bytes;
                    batch.push(pending);
                }
                WriterRequest::NextJob(consumer) => self.waiting_consumers.push_back(consumer),
                WriterRequest::ReturnJob(lease) => {
                    self.pending_settlements.insert(lease, JobOutcome::Release);
                }
                WriterRequest::Close(closed) => return AfterBatch::Close(closed),
                WriterRequest::Abandon => return AfterBatch::Abandon,
            }
            if batch.len() >= MAX_BATCH || bytes >= MAX_BATCH_BYTES {
                break;
            }
        }
        AfterBatch::Continue
    }

    /// Writes a batch and everything else that is due, then replies to the callers.
    fn write(&mut self, mut batch: Vec<PendingWrite>) {
        match self.run_transaction(&mut batch) {
            Ok(()) => batch.into_iter().for_each(|pending| pending.reply(Ok(()))),
            Err(error) if error.is_caused_by_request() && batch.len() > 1 => {
                for pending in batch {
                    self.write(vec![pending]);
                }
            }
            // Settlements and waiting consumers need less space than messages, and settlements free some.
            Err(error) if error.is_full() && batch.iter().any(PendingWrite::adds) => {
                self.write_without(PendingWrite::adds, batch, &error);
            }
            Err(error) if error.is_full() && batch.iter().any(|pending| !pending.is_settlement()) => {
                self.write_without(|pending| !pending.is_settlement(), batch, &error);
            }
            Err(error) => self.fail(batch, &error),
        }
    }

    /// Writes a batch again without some of its changes. Replies to those with the error.
    fn write_without(
        &mut self,
        is_refused: impl Fn(&PendingWrite) -> bool,
        batch: Vec<PendingWrite>,
        error: &WriteError,
    ) {
        let (refused, others) = batch.into_iter().partition(is_refused);
        self.fail(refused, error);
        self.write(others);
    }

    /// Replies with an error, and keeps the settlements.
    fn fail(&mut self, batch: Vec<PendingWrite>, error: &WriteError) {
        // A settlement that is itself invalid would fail again.
        let keep_settlements = !error.is_caused_by_request();
        let error = error.to_queue_error();
        for mut pending in batch {
            let settlement = pending.attributes.settlement.take().filter(|_| keep_settlements);
            self.pending_settlements.extend(settlement.map(|settlement| *settlement));
            pending.reply(Err(error.clone()));
        }
    }

    /// Runs one transaction and hands out the jobs that it leased. After an error, nothing was written or the result
    /// is unknown. Logs the first error of the file.
    fn run_transaction(&mut self, batch: &mut [PendingWrite]) -> Result<(), WriteError> {
        let done = self.try_transaction(batch);
        if let Err(error) = &done {
            let retry_at = Instant::now() + POLL_INTERVAL;
            self.poll_at = retry_at;
            self.extend_leases_at = self.extend_leases_at.max(retry_at);
            if !self.write_error_logged && !error.is_caused_by_request() {
                self.write_error_logged = true;
                tracing::error!(%error, "the queue cannot be written; deliveries are refused until it can");
            }
        }
        done
    }

    fn try_transaction(&mut self, batch: &mut [PendingWrite]) -> Result<(), WriteError> {
        self.waiting_consumers.retain(|consumer| !consumer.is_closed());
        let extend = Instant::now() >= self.extend_leases_at;
        if batch.is_empty()
            && self.pending_settlements.is_empty()
            && self.waiting_consumers.is_empty()
            && !extend
        {
            return Ok(());
        }
        let file = self.take_file()?;
        let jobs = match self.write_all(&file, batch, extend) {
            Ok(jobs) => jobs,
            Err(error) => {
                if error.is_disk_full() {
                    // Its result is that of the next transaction.
                    let _ = file.checkpoint_at_once();
                }
                self.file = Some(file).filter(|_| error.keeps_connection_usable());
                return Err(error);
            }
        };
        if extend {
            self.extend_leases_at = Instant::now() + self.options.lease / 3;
        }
        self.hand_over(jobs);
        if !self.waiting_consumers.is_empty() {
            let next_due = file.next_due()?.map_or(POLL_INTERVAL, |due| due.min(POLL_INTERVAL));
            self.poll_at = Instant::now() + next_due;
        }
        self.file = Some(file);
        Ok(())
    }

    /// Returns the open file. Opens it after an error, and if another file is at its path.
    fn take_file(&mut self) -> Result<QueueFile, WriteError> {
        if let Some(file) = self.file.take() {
            if file.is_at(&self.path) {
                return Ok(file);
            }
            match file.restore_to(&self.path) {
                Ok(true) => {
                    tracing::error!("{}; it was restored with all its messages", WriteError::FileReplaced);
                }
                Ok(false) => tracing::error!(
                    "{}, and another file is in its place: that one is opened; the messages of the first file are lost unless you restore it",
                    WriteError::FileReplaced
                ),
                Err(error) => {
                    // Kept for the next attempt: this connection is all that is left of the file.
                    self.file = Some(file);
                    return Err(WriteError::Open(error));
                }
            }
        }
        QueueFile::open(&self.path, self.holder, self.options.clone()).map_err(WriteError::Open)
    }

    /// Writes everything that is due in one transaction, if there is anything, and leases jobs for waiting consumers.
    fn write_all(
        &mut self,
        file: &QueueFile,
        batch: &mut [PendingWrite],
        extend: bool,
    ) -> Result<Vec<Job>, WriteError> {
        self.shorten_waits_if_due(file)?;
        let mut jobs = Vec::new();
        if batch.is_empty()
            && self.pending_settlements.is_empty()
            && !(extend && file.has_leases()?)
            && (self.waiting_consumers.is_empty() || !file.has_claimable_job()?)
        {
            return Ok(jobs);
        }
        let adds = batch.iter().any(PendingWrite::adds);
        if adds {
            reserve::check_disk(&self.path).map_err(WriteError::Reserve)?;
        }
        file.begin()?;
        let written = self.write_in_transaction(file, batch, extend, &mut jobs).and_then(|()| file.commit());
        if let Err(error) = written {
            // A failed commit may have reached the disk. In both cases no consumer has got these jobs.
            self.pending_settlements.extend(jobs.iter().map(|job| (job.lease, JobOutcome::Release)));
            file.roll_back()?;
            return Err(error.into());
        }
        if !file.is_at(&self.path) {
            return Err(WriteError::FileReplaced);
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.pending_settlements.clear();
        // While messages are refused, others may still be taken out.
        if self.write_error_logged && adds {
            self.write_error_logged = false;
            tracing::info!("the queue can be written again");
        }
        Ok(jobs)
    }

    /// Corrects waits that are too long: at the start, at intervals, and at once when the clock was set back.
    fn shorten_waits_if_due(&mut self, file: &QueueFile) -> rusqlite::Result<()> {
        let before = std::mem::replace(&mut self.last_now, self.options.clock.now());
        if self.last_now < before || Instant::now() >= self.shorten_waits_at {
            self.shorten_waits_at = Instant::now() + self.options.cleanup_interval;
            let jobs = file.shorten_waits()?;
            if jobs > 0 {
                tracing::warn!(
                    jobs,
                    "the clock was set back; these jobs wait for their delay, or for the end of their lease, from now on"
                );
            }
        }
        Ok(())
    }

    fn write_in_transaction(
        &mut self,
        file: &QueueFile,
        batch: &mut [PendingWrite],
        extend: bool,
        jobs: &mut Vec<Job>,
    ) -> rusqlite::Result<()> {
        for pending in batch.iter_mut() {
            if !self.pending_settlements.is_empty()
                && let Some(settlement) = &pending.attributes.settlement
            {
                // The holder of the lease settles it again, and its later outcome counts.
                self.pending_settlements.remove(&settlement.0);
            }
            pending.run(file)?;
        }
        for (lease, outcome) in &self.pending_settlements {
            file.settle(*lease, outcome)?;
        }
        if extend {
            file.extend_leases()?;
        }
        if !self.waiting_consumers.is_empty() {
            *jobs = file.claim(self.waiting_consumers.len())?;
        }
        Ok(())
    }

    fn hand_over(&mut self, jobs: Vec<Job>) {
        for job in jobs {
            let mut handover = Some(JobHandover::new(job, self.returns.clone()));
            while let Some(offered) = handover.take()
                && let Some(consumer) = self.waiting_consumers.pop_front()
            {
                // A consumer that has stopped waiting gives it back, and the next one gets it.
                handover = consumer.send(offered).err();
            }
        }
    }

    fn clean_up_if_due(&mut self) {
        if Instant::now() < self.cleanup_at {
            return;
        }
        self.cleanup_at = Instant::now() + self.options.cleanup_interval;
        let Some(file) = self.file.take() else { return };
        match self.cleanup.step(&file) {
            Ok(more) => {
                if more {
                    self.cleanup_at = Instant::now();
                }
                self.file = Some(file);
            }
            // The next transaction opens the file again and reports its error.
            Err(error) => tracing::warn!(%error, "old messages could not be deleted"),
        }
    }

    fn close(&mut self) {
        self.waiting_consumers.clear();
        if let Err(error) = self.try_transaction(&mut []) {
            tracing::warn!(%error, "the outcome of some jobs could not be written; they will run again");
        }
        let Some(file) = self.file.take() else { return };
        match release_leases(&file) {
            Ok(0) => {}
            Ok(jobs) => tracing::info!(jobs, "unfinished jobs were returned to the queue"),
            Err(error) => {
                tracing::warn!(%error, "unfinished jobs could not be returned to the queue; they return when their leases expire");
            }
        }
        if let Err(error) = file.checkpoint() {
            tracing::debug!(%error, "the write-ahead log stays until the next start");
        }
    }
}

fn release_leases(file: &QueueFile) -> rusqlite::Result<usize> {
    file.begin()?;
    let jobs = file.release_leases()?;
    file.commit()?;
    Ok(jobs)
}
