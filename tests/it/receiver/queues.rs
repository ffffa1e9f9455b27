//! A queue that records its messages and fails on demand.

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

/// The behaviour of `publish`.
#[derive(Clone, Debug)]
pub(super) enum Behaviour {
    /// Reports a new message as durable.
    Store,
    /// Reports a duplicate.
    Know,
    /// Waits for [`FakeQueue::release`], then reports durable.
    Hold,
    /// Reports durable after a delay.
    Slow(Duration),
    /// Returns an error.
    Fail(QueueError),
    /// Panics.
    Panic,
}

/// A queue that a test controls.
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

    /// Changes the behaviour of later calls. Calls that wait already continue to wait.
    pub(super) fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    /// Sets the answer of `ready`. With `None` it never answers.
    pub(super) fn set_ready(&self, ready: Option<Result<(), QueueError>>) {
        *self.ready.lock().unwrap() = ready;
    }

    /// Releases `count` of the waiting calls.
    pub(super) fn release(&self, count: usize) {
        self.gate.add_permits(count);
    }

    /// Returns the number of calls of `publish`.
    pub(super) fn entered(&self) -> usize {
        self.entered.load(Ordering::SeqCst)
    }

    /// Returns the number of calls of `publish` that have neither returned nor been cancelled.
    pub(super) fn inside(&self) -> usize {
        self.inside.load(Ordering::SeqCst)
    }

    /// Returns the messages that were reported as durable.
    pub(super) fn stored(&self) -> Vec<Message> {
        self.stored.lock().unwrap().clone()
    }
}

/// Counts a call until it returns, is cancelled or panics.
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
            Behaviour::Panic => panic!("the queue panics on purpose"),
        }
        self.stored.lock().unwrap().push(message);
        Ok(Published::New)
    }

    async fn publish_delayed(&self, message: Message, _: Duration) -> Result<Published, QueueError> {
        self.publish(message).await
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
