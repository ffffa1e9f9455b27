//! What carries a delivery from the receiver to the worker, durably.
//!
//! One trait of ours, [`Queue`], with two implementations: [`sqlite`] (embedded, one machine, no broker) and
//! [`rabbitmq`]. The same contract suite runs against both (`tests/it/queue_contract.rs`). What they promise:
//!
//! * [`Queue::publish`] returns `Ok` only after the message survives a crash (an fsync, or a publisher
//!   confirm for a persistent message that was routed). Every other end is an error; the message may then
//!   exist or not, and the sender tries again.
//! * A job handed out by [`Queue::next`] is leased. It comes back if its worker dies, and it leaves the queue
//!   only through [`Queue::settle`], which itself is durable when it returns.
//! * Nothing is dropped: a job is waiting, leased, delayed for a known time, done, or a dead letter that
//!   carries the reason and the history of its tries.

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
pub mod spool;
pub mod spooled;
pub mod sqlite;
mod tail_event;

pub use config::{QueueBackend, QueueConfig, QueueUrlError, QueueUrls, SpoolConfig};
pub use dead::{DeadLetter, DeadLetters};
pub use tail_event::{TailEvent, TailEventKind, TailMessage};

/// A genuine delivery on its way: PolyAI's bytes and what the envelope needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// PolyAI's event id, or the body's hash (see [`event::message_id`]).
    pub id: String,
    /// What makes a second delivery of it a duplicate.
    pub dedup: DedupKey,
    /// The event type as it stands in the routing key.
    pub kind: String,
    /// The environment as it stands in the routing key.
    pub environment: String,
    /// The conversation it is about, if it names one.
    pub conversation_id: Option<String>,
    /// When the receiver had read the whole request.
    pub received_at: Timestamp,
    /// W3C trace context of the delivery.
    pub traceparent: Option<String>,
    /// The request's content type; `application/json` where it named none.
    pub content_type: String,
    /// The bytes that were signed, untouched.
    pub body: Bytes,
}

impl Message {
    /// `<event type>.<environment>`
    pub fn routing_key(&self) -> String {
        event::routing_key(&self.kind, &self.environment)
    }
}

/// One try of a job that did not end in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it failed.
    pub at: Timestamp,
    /// A constant word: `rate_limited`, `unknown_project`, …
    pub reason: Cow<'static, str>,
    /// What a person should know: what happened, what it means, what to do. Nothing private.
    pub detail: String,
    /// The HTTP status that PolyAI answered with, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// PolyAI's `X-PolyAI-Correlation-Id`, to be quoted to their support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

/// The failed tries of a job: how many there were, and the latest of them in full.
///
/// Bounded, because it travels in a message header: [`History::MAX_KEPT`] tries are kept, the first among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// How many tries have failed since the job came, or since it was last replayed.
    pub failures: usize,
    /// How many of them only waited for what comes with time; these climb no ladder.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub waits: usize,
    /// The first try of all and the latest ones, in order, across replays.
    pub attempts: Vec<Attempt>,
    /// How many tries had failed before the last replay.
    #[serde(default, rename = "earlier", skip_serializing_if = "is_zero")]
    pub failures_before_replay: usize,
    /// When it was replayed: the latest times, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub replays: Vec<Timestamp>,
}

impl History {
    /// How many tries are kept in full.
    pub const MAX_KEPT: usize = 12;

    /// Adds a failed try.
    pub fn push(&mut self, attempt: Attempt) {
        self.failures += 1;
        if self.attempts.len() == Self::MAX_KEPT {
            self.attempts.remove(1);
        }
        self.attempts.push(attempt);
    }

    /// Adds a try that came too early, such as one for a call that is not over.
    pub fn push_wait(&mut self, attempt: Attempt) {
        self.waits += 1;
        self.push(attempt);
    }

    /// A person wants it tried again: what climbs the ladder begins anew, what tells the story stays.
    pub fn replay(&mut self, at: Timestamp) {
        self.failures_before_replay += std::mem::take(&mut self.failures);
        self.waits = 0;
        if self.replays.len() == Self::MAX_KEPT {
            self.replays.remove(0);
        }
        self.replays.push(at);
    }

    /// How many tries have failed in all.
    pub fn attempt_count(&self) -> usize {
        self.failures_before_replay + self.failures
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A leased message.
#[derive(Clone, Debug)]
pub struct Job {
    /// What was delivered.
    pub message: Message,
    /// The tries so far.
    pub history: History,
    /// Settles the job; worth nothing after that, or after the lease was lost.
    pub lease: LeaseId,
}

/// Names a lease to the queue that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId(pub u64);

/// How a job ended.
#[derive(Clone, Debug)]
pub enum JobOutcome {
    /// Everything is done; the queue forgets the job.
    Done,
    /// Try again no earlier than (about) `after`; `history` ends with the try that just failed.
    Retry {
        /// The wait.
        after: Duration,
        /// All tries.
        history: History,
    },
    /// No try will help until a person has done something; the last of `history` says what.
    Dead {
        /// All tries.
        history: History,
    },
    /// Not tried: hand it to somebody else at once (shutdown).
    Release,
}

/// `conversation.ready`, ready to be published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Deterministic: the same conversation with the same content has the same id.
    pub id: String,
    /// The CloudEvent's type; also the first part of the routing key.
    pub kind: String,
    /// The environment as it stands in the routing key.
    pub environment: String,
    /// The conversation's id.
    pub subject: String,
    /// When it was made.
    pub time: Timestamp,
    /// Continues the trace of the delivery.
    pub traceparent: Option<String>,
    /// The CloudEvent, in its structured JSON form.
    pub body: Bytes,
}

impl Announcement {
    /// `conversation.ready.<environment>`
    pub fn routing_key(&self) -> String {
        event::routing_key(&self.kind, &self.environment)
    }
}

/// What became of a published message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is durable, for the first time.
    New,
    /// It already was: the same id with the same body came before.
    Duplicate,
}

/// What became of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// It is durable in every queue that wants it.
    Delivered,
    /// The broker took it, but nobody has bound a queue for it.
    Unrouted,
}

/// How much of a conversation was erased from a queue, or would be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ErasedMessages {
    /// Jobs: waiting, delayed, or in a worker's hands.
    pub jobs: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Events that were kept though they ask for nothing.
    pub events: u64,
    /// Announcements.
    pub announcements: u64,
    /// Jobs that could not be looked into. Whichever is about the conversation is dropped by the worker that
    /// meets it.
    pub unsearched: u64,
}

impl ErasedMessages {
    /// How many messages it was in all.
    pub fn total(&self) -> u64 {
        self.jobs + self.dead_letters + self.events + self.announcements
    }
}

/// A queue that people and metrics know by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueKind {
    /// Jobs that can be taken now or are leased.
    Fetch,
    /// Jobs that wait for a known time.
    Retry,
    /// Dead letters.
    Dead,
    /// Events nobody has bound a queue for.
    Unrouted,
}

impl QueueKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Fetch, Self::Retry, Self::Dead, Self::Unrouted];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Retry => "retry",
            Self::Dead => "dead",
            Self::Unrouted => "unrouted",
        }
    }
}

/// Why the queue did not do it. Always worth another try: none of this is the message's fault.
#[derive(Clone, Debug, Error)]
pub enum QueueError {
    /// The broker is away, blocked, or the store cannot be written; says which and what to do.
    #[error("{0}")]
    Unavailable(String),
    /// No answer within the time allowed. The message may have been stored.
    #[error("no confirmation within {0:?}")]
    Timeout(Duration),
    /// The broker answered that it did not store the message.
    #[error("the broker refused the message: {0}")]
    Refused(String),
    /// The lease is over: somebody else has the job, or will have it.
    #[error("the lease was lost; the job will be done again")]
    LeaseLost,
    /// The queue is being shut down.
    #[error("the queue is closed")]
    Closed,
}

impl QueueError {
    /// Returns whether the same operation may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Timeout(_) | Self::Refused(_))
    }

    /// A short constant word for metric labels.
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

/// The one interface between receiver, worker and whatever carries messages between them.
#[async_trait]
pub trait Queue: fmt::Debug + Send + Sync + 'static {
    /// Makes `message` durable. Safe to cancel: the message is then stored or not, never half.
    async fn publish(&self, message: Message) -> Result<Published, QueueError>;

    /// Makes an announcement durable for those who want it.
    async fn announce(&self, announcement: Announcement) -> Result<Announced, QueueError>;

    /// Waits for the next job and leases it. Waits through trouble of the queue's own; the only error is
    /// [`QueueError::Closed`]. Safe to cancel: a job that was on its way comes back.
    async fn next(&self) -> Result<Job, QueueError>;

    /// Ends a lease.
    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError>;

    /// Whether a message could be made durable right now; the error says why not.
    async fn ready(&self) -> Result<(), QueueError>;

    /// The dead letters there are now, one after the other.
    async fn dead_letters(&self) -> Result<Box<dyn DeadLetters + '_>, QueueError>;

    /// Removes what is about a conversation ([`event::Event::is_about`]) and can be found; with `dry_run` only
    /// counts it. A late duplicate of what was removed is recognised as one, like that of a job that was done; a
    /// job in a worker's hands ends as a lost lease.
    async fn erase(&self, conversation_id: &str, dry_run: bool) -> Result<ErasedMessages, QueueError>;

    /// How many messages stand in each lane.
    async fn depths(&self) -> Result<Vec<(QueueKind, u64)>, QueueError>;

    /// Takes no more, hands every lease back, and lets go of files and connections.
    async fn close(&self);
}
