//! What callers ask of the writer's thread, and how they are answered.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::store::{Row, Store};
use crate::queue::{
    Announced, Announcement, History, Job, JobOutcome, LeaseId, Message, Published, QueueError,
};

/// One request.
pub(super) enum Request {
    /// Something to be made durable.
    Write(Box<dyn Pending>),
    /// Somebody waits for a job.
    Next(oneshot::Sender<Handover>),
    /// A job that nobody took: its waiter had gone.
    Untaken(LeaseId),
    /// Hand everything back, let go of the file, then say so.
    Close(oneshot::Sender<()>),
    /// Let go of the file at once.
    Abandon,
}

/// A change that is answered after its commit.
pub(super) trait Write: Send + 'static {
    /// What the one who asked wants to know.
    type Answer: Send;

    /// Makes the change. May be undone, and done again.
    fn execute(&self, store: &Store) -> rusqlite::Result<Self::Answer>;

    /// What it takes of memory, roughly.
    fn bytes(&self) -> usize {
        0
    }

    /// The lease that it ends, and how; must not be forgotten if it fails.
    fn debt(&self) -> Option<(LeaseId, JobOutcome)> {
        None
    }
}

impl Write for Message {
    type Answer = Published;

    fn execute(&self, store: &Store) -> rusqlite::Result<Published> {
        store.publish(self)
    }

    fn bytes(&self) -> usize {
        self.body.len()
    }
}

impl Write for Announcement {
    type Answer = Announced;

    fn execute(&self, store: &Store) -> rusqlite::Result<Announced> {
        store.announce(self)
    }

    fn bytes(&self) -> usize {
        self.body.len()
    }
}

/// Ends a lease; answers whether it was still held.
pub(super) struct Settle(pub(super) LeaseId, pub(super) JobOutcome);

impl Write for Settle {
    type Answer = bool;

    fn execute(&self, store: &Store) -> rusqlite::Result<bool> {
        store.settle(self.0, &self.1)
    }

    fn debt(&self) -> Option<(LeaseId, JobOutcome)> {
        Some((self.0, self.1.clone()))
    }
}

/// Keeps a list of keys.
pub(super) struct Remember(pub(super) Vec<u8>);

impl Write for Remember {
    type Answer = ();

    fn execute(&self, store: &Store) -> rusqlite::Result<()> {
        store.remember(&self.0)
    }
}

/// Makes a dead letter a job again, with this history; answers whether it still was one.
pub(super) struct Replay(pub(super) LeaseId, pub(super) History);

impl Write for Replay {
    type Answer = bool;

    fn execute(&self, store: &Store) -> rusqlite::Result<bool> {
        store.replay(self.0, &self.1)
    }
}

/// Ends a dead letter for good; answers whether it still was one.
pub(super) struct Discard(pub(super) LeaseId);

impl Write for Discard {
    type Answer = bool;

    fn execute(&self, store: &Store) -> rusqlite::Result<bool> {
        store.discard(self.0)
    }
}

/// Erases messages and announcements.
pub(super) struct Erase(pub(super) Vec<Row>);

impl Write for Erase {
    type Answer = ();

    fn execute(&self, store: &Store) -> rusqlite::Result<()> {
        self.0.iter().try_for_each(|row| store.erase(*row))
    }
}

/// Finds out whether anything can be made durable.
pub(super) struct Probe;

impl Write for Probe {
    type Answer = ();

    fn execute(&self, store: &Store) -> rusqlite::Result<()> {
        store.probe()
    }
}

/// A [`Write`] with the way back to its caller.
pub(super) struct Asked<W: Write> {
    write: W,
    answer: Option<W::Answer>,
    reply: oneshot::Sender<Result<W::Answer, QueueError>>,
    /// Its place among those that may wait at a time, given up with the answer.
    _place: OwnedSemaphorePermit,
}

impl<W: Write> Asked<W> {
    pub(super) fn new(
        write: W,
        reply: oneshot::Sender<Result<W::Answer, QueueError>>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { write, answer: None, reply, _place: place }
    }
}

/// [`Asked`] of any kind, so that one transaction can take all kinds.
pub(super) trait Pending: Send {
    /// See [`Write::execute`].
    fn execute(&mut self, store: &Store) -> rusqlite::Result<()>;
    /// See [`Write::bytes`].
    fn bytes(&self) -> usize;
    /// See [`Write::debt`].
    fn debt(&self) -> Option<(LeaseId, JobOutcome)>;
    /// Tells the caller: what it asked for is durable, or the error. The caller may have gone.
    fn answer(self: Box<Self>, error: Option<QueueError>);
}

impl<W: Write> Pending for Asked<W> {
    fn execute(&mut self, store: &Store) -> rusqlite::Result<()> {
        self.answer = Some(self.write.execute(store)?);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.write.bytes()
    }

    fn debt(&self) -> Option<(LeaseId, JobOutcome)> {
        self.write.debt()
    }

    fn answer(self: Box<Self>, error: Option<QueueError>) {
        let answer = match error {
            Some(error) => Err(error),
            None => self.answer.ok_or(QueueError::Closed),
        };
        let _ = self.reply.send(answer);
    }
}

/// A job on its way to whoever waits for it. Dropped on the way, it goes back.
pub(super) struct Handover {
    job: Option<Job>,
    returns: std::sync::mpsc::Sender<Request>,
}

impl Handover {
    pub(super) fn new(job: Job, returns: std::sync::mpsc::Sender<Request>) -> Self {
        Self { job: Some(job), returns }
    }

    /// Arrived.
    pub(super) fn take(mut self) -> Option<Job> {
        self.job.take()
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if let Some(job) = self.job.take() {
            // Without a writer all leases have been handed back.
            let _ = self.returns.send(Request::Untaken(job.lease));
        }
    }
}
