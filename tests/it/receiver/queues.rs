//! Queues that remember what they got, and misbehave on demand.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use polyhook::queue::{
    Announced, Announcement, DeadLetters, ErasedMessages, Job, JobOutcome, LeaseId, Message, Published,
    Queue, QueueError, QueueKind,
};
use tokio::sync::Semaphore;

/// What `publish` does.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    /// Says "durable".
    Store,
    /// Says "was durable".
    Know,
    /// Waits for a [`FakeQueue::release`], then says "durable".
    Hold,
    /// Takes its time.
    Slow(Duration),
    /// Says why not.
    Fail(QueueError),
    /// Has a bug.
    Panic,
}

/// A queue of which a test decides everything.
#[derive(Debug)]
pub(super) struct FakeQueue {
    behaviour: Mutex<Behaviour>,
    stored: Mutex<Vec<Message>>,
    ready: Mutex<Option<Result<(), QueueError>>>,
    gate: Semaphore,
    entered: AtomicUsize,
    inside: AtomicUsize,
}

impl FakeQueue {
    pub(super) fn new(behaviour: Behaviour) -> Arc<Self> {
        Arc::new(Self {
            behaviour: Mutex::new(behaviour),
            stored: Mutex::default(),
            ready: Mutex::new(Some(Ok(()))),
            gate: Semaphore::new(0),
            entered: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
        })
    }

    /// Behaves otherwise from here on; who waits already goes on waiting.
    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// What `ready` answers; `None`: nothing, ever.
    pub(super) fn set_ready(&self, ready: Option<Result<(), QueueError>>) {
        *self.ready.lock().unwrap() = ready;
    }

    /// Lets `count` of those go who are held.
    pub(super) fn release(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// How often `publish` was called.
    pub(super) fn entered(&self) -> usize {
        self.entered.load(Ordering::SeqCst)
    }

    /// How many calls of `publish` are neither finished nor given up.
    pub(super) fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }

    /// What was made "durable" so far.
    pub(super) fn stored(&self) -> Vec<Message> {
        self.stored.lock().unwrap().clone()
    }
}

/// Counts a call for as long as it lasts, however it ends.
struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Queue for FakeQueue {
    async fn publish(&self, message: Message) -> Result<Published, QueueError> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let _inside = Inside(&self.inside);
        self.entered.fetch_add(1, Ordering::SeqCst);
        let behaviour = self.behaviour.lock().unwrap().clone();
        match behaviour {
            Behaviour::Store => {}
            Behaviour::Know => return Ok(Published::Duplicate),
            Behaviour::Hold => self.gate.acquire().await.unwrap().forget(),
            Behaviour::Slow(delay) => tokio::time::sleep(delay).await,
            Behaviour::Fail(error) => return Err(error),
            Behaviour::Panic => panic!("a queue with a bug, on purpose"),
        }
        self.stored.lock().unwrap().push(message);
        Ok(Published::New)
    }

    async fn announce(&self, _: Announcement) -> Result<Announced, QueueError> {
        Ok(Announced::Delivered)
    }

    async fn next(&self) -> Result<Job, QueueError> {
        std::future::pending().await
    }

    async fn settle(&self, _: LeaseId, _: JobOutcome) -> Result<(), QueueError> {
        Ok(())
    }

    async fn ready(&self) -> Result<(), QueueError> {
        let ready = self.ready.lock().unwrap().clone();
        match ready {
            Some(ready) => ready,
            None => std::future::pending().await,
        }
    }

    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError> {
        Err(QueueError::Unavailable("it has none".to_owned()))
    }

    async fn erase(&self, _: &str, _: bool) -> Result<ErasedMessages, QueueError> {
        Ok(ErasedMessages::default())
    }

    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError> {
        self.ready().await?;
        Ok(vec![(QueueKind::Fetch, self.stored.lock().unwrap().len() as u64)])
    }

    async fn close(&self) {}
}
