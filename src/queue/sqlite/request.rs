//! Requests to the writer thread, and the replies to them.

use std::sync::mpsc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::queue_file::QueueFile;
use crate::queue::{Job, JobOutcome, LeaseId, QueueError};

/// A request to the writer thread.
pub(super) enum WriterRequest {
    /// Makes a change durable.
    Write(PendingWrite),
    /// Waits for a job.
    NextJob(oneshot::Sender<JobHandover>),
    /// Returns a job that was not taken, because its consumer stopped waiting.
    ReturnJob(LeaseId),
    /// Releases all leases, closes the file, then replies.
    Close(oneshot::Sender<()>),
    /// Closes the file at once. The leases stay until they expire.
    Abandon,
}

/// A change of the file that a caller waits for.
///
/// One transaction takes the changes of many callers. The writer runs a change again after a rollback, so a change
/// depends on nothing but the file. The caller gets the result of the run that was committed.
pub(super) struct PendingWrite {
    change: Box<dyn FnMut(Step<'_>) -> rusqlite::Result<()> + Send>,
    pub(super) attributes: WriteAttributes,
    /// Counts this write among those that may wait at a time, until it is dropped. `None` for a settlement.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Facts about a change that the writer needs.
#[derive(Default)]
pub(super) struct WriteAttributes {
    /// The approximate memory that the change holds.
    pub(super) bytes: usize,
    /// True if the change adds to the backlog, and is refused when there is little room. False for what workers need to
    /// take jobs out of the queue.
    pub(super) adds: bool,
    /// The settlement that the change writes. The writer keeps it if the file cannot be written.
    pub(super) settlement: Option<Box<(LeaseId, JobOutcome)>>,
}

impl WriteAttributes {
    /// Describes a change that adds `bytes` to the backlog.
    pub(super) fn addition(bytes: usize) -> Self {
        Self { bytes, adds: true, settlement: None }
    }
}

/// The two calls of a change.
enum Step<'a> {
    Run(&'a QueueFile),
    Reply(Result<(), QueueError>),
}

impl PendingWrite {
    /// Wraps `change`; its result, or the error that kept it from being committed, is sent to `reply`.
    pub(super) fn new<T: Send + 'static>(
        change: impl Fn(&QueueFile) -> rusqlite::Result<T> + Send + 'static,
        attributes: WriteAttributes,
        reply: oneshot::Sender<Result<T, QueueError>>,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let (mut result, mut reply) = (None, Some(reply));
        let change = move |step: Step<'_>| {
            match step {
                Step::Run(file) => result = Some(change(file)?),
                Step::Reply(committed) => {
                    let result = committed.and_then(|()| result.take().ok_or(QueueError::Closed));
                    if let Some(reply) = reply.take() {
                        // The caller may have stopped waiting.
                        let _ = reply.send(result);
                    }
                }
            }
            Ok(())
        };
        Self { change: Box::new(change), attributes, _permit: permit }
    }

    /// Returns true if the change settles a lease.
    pub(super) fn is_settlement(&self) -> bool {
        self.attributes.settlement.is_some()
    }

    /// Returns true if the change adds to the backlog.
    pub(super) fn adds(&self) -> bool {
        self.attributes.adds
    }

    /// Makes the change within the current transaction.
    pub(super) fn run(&mut self, file: &QueueFile) -> rusqlite::Result<()> {
        (self.change)(Step::Run(file))
    }

    /// Tells the caller that the last run was committed, or why it was not.
    pub(super) fn reply(mut self, committed: Result<(), QueueError>) {
        // A reply does not fail.
        let _ = (self.change)(Step::Reply(committed));
    }
}

/// A job on its way to a consumer. It returns to the queue if it is dropped on the way.
pub(super) struct JobHandover {
    job: Option<Job>,
    returns: mpsc::Sender<WriterRequest>,
}

impl JobHandover {
    /// Wraps `job`; `returns` leads to the writer that leased it.
    pub(super) fn new(job: Job, returns: mpsc::Sender<WriterRequest>) -> Self {
        Self { job: Some(job), returns }
    }

    /// Takes the job out.
    pub(super) fn take(mut self) -> Option<Job> {
        self.job.take()
    }
}

impl Drop for JobHandover {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            // If the writer has ended, it has already released all leases.
            let _ = self.returns.send(WriterRequest::ReturnJob(job.lease));
        }
    }
}
