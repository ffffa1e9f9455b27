//! The durable queue between receiver and worker.
//!
//! The trait [`Queue`] has two implementations: [`sqlite`] (embedded, one machine, no broker) and [`rabbitmq`]. One contract
//! suite runs against both (`tests/it/queue_contract`). Their guarantees:
//!
//! * [`Queue::publish`] returns `Ok` only when the message survives a crash: after an fsync, or after the publisher confirm
//!   for a persistent message that was routed. Every other outcome is an error. The message may then exist or not, and the
//!   sender retries.
//! * A job from [`Queue::next`] is leased. It is delivered again if its worker dies, and leaves the queue only through
//!   [`Queue::settle`], which is durable when it returns.
//! * No job is dropped: it is waiting, leased, delayed for a known time, done, or a dead letter that carries the reason and
//!   the history of its attempts.

use std::{borrow::Cow, fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::{self, DedupKey};

mod config;
mod dead;
mod dedup;
pub mod rabbitmq;
mod search;
pub mod spool;
pub mod spooled;
pub mod sqlite;
mod stored;
mod tail_event;
mod tail_text;
pub mod transfer;

pub use config::{QueueBackend, QueueConfig, QueueUrlError, QueueUrls, SpoolConfig};
pub use dead::{
    DeadLetter, DeadLetterAction, DeadLetterDetails, DeadLetterFilter, DeadLetterSummary, DeadLetters,
    HistoryEntry, SettleObserver, SettleOutcome, SettleTotals, next_step, next_step_for, settle,
};
pub use search::{ConversationMessages, MessageCounts, find_messages, find_messages_of_any_queue};
pub use stored::{StoredCounts, StoredMessage, StoredState};
pub use tail_event::{TailEvent, TailEventKind, TailMessage};

/// A verified event on its way to the worker: PolyAI's bytes and the values of the envelope.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// PolyAI's event id, or the body's hash (see [`event::message_id`]).
    pub id: String,
    /// The key by which a second delivery is recognised as a duplicate.
    pub dedup: DedupKey,
    /// The event type, as used in the routing key.
    pub kind: String,
    /// The environment, as used in the routing key.
    pub environment: String,
    /// The conversation that it names, if any.
    pub conversation_id: Option<String>,
    /// Time at which the receiver had read the whole request.
    pub received_at: Timestamp,
    /// W3C trace context of the delivery.
    pub traceparent: Option<String>,
    /// The request's content type, or `application/json` if it had none.
    pub content_type: String,
    /// The signed bytes, unchanged.
    pub body: Bytes,
}

impl Message {
    /// Returns `<event type>.<environment>`.
    pub fn routing_key(&self) -> String {
        event::routing_key(&self.kind, &self.environment)
    }
}

/// A failed attempt of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Time of the failure.
    pub at: Timestamp,
    /// A fixed word: `rate_limited`, `unknown_project`, …
    pub reason: Cow<'static, str>,
    /// A text for people: what happened, what it means, what to do. It holds nothing private.
    pub detail: String,
    /// The HTTP status of PolyAI's answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The `X-PolyAI-Correlation-Id` for a request to PolyAI's support: that of the answer, or of the request if there was
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// The failed attempts of a job: their number, and the latest in full.
///
/// It travels in a message header and is therefore bounded: the first attempt and the latest ones are kept,
/// [`History::MAX_KEPT`] in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Number of failed attempts since the job arrived or was last replayed.
    pub failures: usize,
    /// Number of those that only waited for data that PolyAI provides later. They do not advance the retry schedule.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waits: usize,
    /// The first attempt and the latest ones, in order, across replays.
    pub attempts: Vec<Attempt>,
    /// Number of failed attempts before the last replay.
    #[serde(default, rename = "earlier", skip_serializing_if = "is_zero")]
    pub failures_before_replay: usize,
    /// The time before which PolyAI asked for no further attempt. A queue may return the job earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// The latest times at which it was replayed, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replays: Vec<Timestamp>,
}

impl History {
    /// Maximum number of attempts and of replay times that are kept.
    pub const MAX_KEPT: usize = 12;

    /// Replaces times after `now`, which were recorded while the clock was ahead, by `now`.
    pub fn correct_times(&mut self, now: Timestamp) {
        let attempts = self.attempts.iter_mut().map(|attempt| &mut attempt.at);
        attempts.chain(&mut self.replays).for_each(|at| *at = now.min(*at));
    }

    /// Adds a failed attempt.
    pub fn push(&mut self, attempt: Attempt) {
        self.failures += 1;
        if self.attempts.len() == Self::MAX_KEPT {
            self.attempts.remove(1);
        }
        self.attempts.push(attempt);
    }

    /// Adds an attempt that came too early, such as one for a call that has not ended.
    pub fn push_wait(&mut self, attempt: Attempt) {
        self.waits += 1;
        self.push(attempt);
    }

    /// Records a replay: the retry schedule starts again, and the attempts are kept.
    pub fn replay(&mut self, at: Timestamp) {
        self.failures_before_replay += std::mem::take(&mut self.failures);
        self.waits = 0;
        self.not_before = None;
        if self.replays.len() == Self::MAX_KEPT {
            self.replays.remove(0);
        }
        self.replays.push(at);
    }

    /// Returns the time since which a job waits that was received at `since`: that of its last attempt or replay, if there
    /// is one.
    pub fn leasable_since(&self, since: Timestamp) -> Timestamp {
        let attempt = self.attempts.last().map(|attempt| attempt.at);
        [Some(since), attempt, self.replays.last().copied()].into_iter().flatten().max().unwrap_or(since)
    }

    /// Returns the number of failures that advance the retry schedule.
    pub fn counted_failures(&self) -> usize {
        self.failures.saturating_sub(self.waits)
    }

    /// Returns the number of failed attempts in all.
    pub fn attempt_count(&self) -> usize {
        self.failures_before_replay + self.failures
    }
}

/// Returns the time from `since` to `now`, or zero if `since` is later.
fn age(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A leased message.
#[derive(Clone, Debug)]
pub struct Job {
    /// The delivered event.
    pub message: Message,
    /// The failed attempts so far.
    pub history: History,
    /// Identifies the lease for [`Queue::settle`]. It is invalid after the job is settled or the lease is lost.
    pub lease: LeaseId,
}

/// Identifies a lease to the queue that granted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u64);

/// The end of a job's attempt, for [`Queue::settle`].
#[derive(Clone, Debug)]
pub enum JobOutcome {
    /// The job is finished; the queue removes it.
    Done,
    /// The job is tried again after about `after`, not earlier. `history` ends with the attempt that just failed.
    Retry {
        /// The delay.
        after: Duration,
        /// All failed attempts.
        history: History,
    },
    /// The job becomes a dead letter: no attempt helps until a person has acted. The last attempt of `history` says how.
    Dead {
        /// All failed attempts.
        history: History,
    },
    /// The job was not tried and can be leased again at once (shutdown).
    Release,
}

/// An announcement to customers' workers, such as `conversation.ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// A deterministic id: the same conversation with the same content has the same id.
    pub id: String,
    /// The CloudEvent's type; also the first part of the routing key.
    pub kind: String,
    /// The environment, as used in the routing key.
    pub environment: String,
    /// The conversation's id.
    pub subject: String,
    /// Time at which it was created.
    pub time: Timestamp,
    /// Continues the trace of the delivery.
    pub traceparent: Option<String>,
    /// The CloudEvent, in its structured JSON form.
    pub body: Bytes,
}

impl Announcement {
    /// Returns `<kind>.<environment>`, such as `conversation.ready.live`.
    pub fn routing_key(&self) -> String {
        event::routing_key(&self.kind, &self.environment)
    }
}

/// The result of publishing a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The message is durable and was not known before.
    New,
    /// The same id with the same body was already durable.
    Duplicate,
}

/// The result of publishing an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It is durable in every queue that is bound for it.
    Delivered,
    /// The broker accepted it, but no queue is bound for it.
    Unrouted,
}

/// The number of messages about a conversation that were erased from a queue, or would be in a dry run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErasedMessages {
    /// Jobs: waiting, delayed or leased.
    pub jobs: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Stored events without a job.
    pub events: u64,
    /// Announcements.
    pub announcements: u64,
    /// Jobs that could not be searched. The worker drops those that are about the conversation.
    pub unsearched: u64,
    /// The time at which one of the jobs refreshes the conversation. Only the embedded queue knows it.
    #[serde(skip)]
    pub refresh_due_at: Option<Timestamp>,
    /// The time of the next try of another delayed job. Only the embedded queue knows it.
    #[serde(skip)]
    pub retry_due_at: Option<Timestamp>,
}

impl ErasedMessages {
    /// Returns the number of erased messages.
    pub fn total(&self) -> u64 {
        self.jobs + self.dead_letters + self.events + self.announcements
    }
}

/// The queues that operators see, each a label of the depth metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    /// Jobs that can be leased now or are leased.
    Fetch,
    /// Jobs that failed and wait for their next attempt.
    Retry,
    /// Jobs that are published for a later time and wait for it ([`Queue::publish_delayed`]).
    Refresh,
    /// Dead letters.
    Dead,
    /// Events for which no queue is bound.
    Unrouted,
}

impl QueueKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Fetch, Self::Retry, Self::Refresh, Self::Dead, Self::Unrouted];

    /// Returns the metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Retry => "retry",
            Self::Refresh => "refresh",
            Self::Dead => "dead",
            Self::Unrouted => "unrouted",
        }
    }
}

/// An error of a queue. Callers may always retry: no error is caused by the message itself.
#[derive(Clone, Debug, Error)]
pub enum QueueError {
    /// The broker is unreachable or blocked, or the database cannot be written. The text says what to do.
    #[error("{0}")]
    Unavailable(String),
    /// There was no confirm in time. The message may have been stored.
    #[error("no confirmation within {0:?}")]
    Timeout(Duration),
    /// The broker reported that it did not store the message.
    #[error("the broker refused the message: {0}")]
    Refused(String),
    /// The lease has ended: another worker has the job or will get it.
    #[error("the lease was lost; the job will be done again")]
    LeaseLost,
    /// The queue is being shut down.
    #[error("the queue is closed")]
    Closed,
}

impl QueueError {
    /// Returns true if the same operation may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_) | Self::Refused(_))
    }

    /// Returns a fixed word for metric labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::Timeout(_) => "timeout",
            Self::Refused(_) => "refused",
            Self::LeaseLost => "lease_lost",
            Self::Closed => "closed",
        }
    }
}

/// The interface of receiver and worker to a queue backend.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync + 'static {
    /// Makes `message` durable. Safe to cancel: the message is then stored completely or not at all.
    async fn publish(&self, message: Message) -> Result<Published, QueueError>;

    /// Makes `message` durable as a job that can be leased after about `delay`, not earlier. Otherwise like
    /// [`Queue::publish`].
    async fn publish_delayed(&self, message: Message, delay: Duration) -> Result<Published, QueueError>;

    /// Makes an announcement durable in the queues that are bound for it.
    async fn announce(&self, announcement: Announcement) -> Result<Announced, QueueError>;

    /// Waits for the next job and leases it. It also waits while the backend fails, so its only error is
    /// [`QueueError::Closed`]. Safe to cancel: a job that was on its way is delivered again.
    async fn next(&self) -> Result<Job, QueueError>;

    /// Ends a lease with the job's outcome.
    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError>;

    /// Returns the largest expected difference between the clocks of receivers and workers, which may run on several
    /// machines. The embedded queue stores milliseconds of one clock.
    fn clock_tolerance(&self) -> Duration {
        Duration::from_millis(500)
    }

    /// Returns an error if no message could be made durable now.
    async fn ready(&self) -> Result<(), QueueError>;

    /// Returns true if the broker does not run, so that it makes no sense to wait until the queue is ready.
    fn refuses_connections(&self) -> bool {
        false
    }

    /// Opens a cursor over the present dead letters.
    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError>;

    /// Removes the messages about a conversation ([`event::Event::is_about`]) that can be searched. With `dry_run` it only
    /// counts them. A late duplicate of a removed message is recognised, like that of a finished job. A leased job ends as
    /// a lost lease.
    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError>;

    /// Returns true if [`Queue::erase`] searches all jobs in a dry run without taking them from workers.
    fn searches_jobs(&self) -> bool {
        false
    }

    /// Returns the number of messages of each kind that this queue knows.
    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError>;

    /// Returns the time for which the oldest job has waited that could be leased now, or zero if no job waits. `None`: this
    /// process cannot know. On RabbitMQ only a worker knows it. While jobs wait in the broker, its answer is the age of the
    /// job that it was delivered last, which those came after.
    async fn oldest_age(&self) -> Result<Option<Duration>, QueueError> {
        Ok(None)
    }

    /// Stops accepting and delivering, hands every lease back, and closes files and connections.
    async fn close(&self);
}
