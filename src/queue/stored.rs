//! The messages that a queue file holds, in the states in which another queue can take them over.

use std::{ops::AddAssign, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{History, Message};
use crate::event;

/// A message in a queue file.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// The number of its row.
    pub row: u64,
    /// The delivered event.
    pub message: Message,
    /// The failed attempts.
    pub history: History,
    /// Its state.
    pub state: StoredState,
}

/// The state of a message in a queue file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoredState {
    /// A job that can be leased now.
    Waiting,
    /// A job that can be leased at `due`.
    Delayed {
        /// The time of its next attempt.
        due: Timestamp,
    },
    /// A dead letter.
    Dead,
    /// An event that asks for no fetch.
    Event,
}

/// The place of a stored message in another queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// It is published like a delivery, so that customers' queues get it, too.
    Events,
    /// A job that can be leased now.
    Jobs,
    /// A job that can be leased after this time.
    DelayedJobs(Duration),
    /// A dead letter.
    DeadLetters,
}

impl StoredMessage {
    /// Returns the place in which another queue takes it over at `now`.
    ///
    /// In a spool's file every message is a job, and one that the broker refused has failures without attempts. Both are
    /// events that were not published yet.
    pub(super) fn destination(&self, now: Timestamp) -> Destination {
        let Self { message, history, .. } = self;
        let was_refused = history.failures > 0 && history.attempts.is_empty();
        match self.state {
            StoredState::Dead => Destination::DeadLetters,
            _ if was_refused || !event::triggers_fetch(&message.kind) => Destination::Events,
            StoredState::Delayed { due } if due > now => {
                Destination::DelayedJobs(Duration::try_from(due.duration_since(now)).unwrap_or_default())
            }
            _ if *history == History::default() => Destination::Events,
            _ => Destination::Jobs,
        }
    }
}

/// The number of messages in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoredCounts {
    /// Jobs that can be leased now.
    pub waiting_jobs: u64,
    /// Jobs that wait for the time of their next attempt.
    pub delayed_jobs: u64,
    /// Dead letters.
    pub dead_letters: u64,
    /// Events that ask for no fetch.
    pub events: u64,
}

impl StoredCounts {
    /// Returns the number of all messages.
    pub fn total(&self) -> u64 {
        self.waiting_jobs + self.delayed_jobs + self.dead_letters + self.events
    }
}

impl AddAssign<StoredState> for StoredCounts {
    /// Counts one message.
    fn add_assign(&mut self, state: StoredState) {
        *match state {
            StoredState::Waiting => &mut self.waiting_jobs,
            StoredState::Delayed { .. } => &mut self.delayed_jobs,
            StoredState::Dead => &mut self.dead_letters,
            StoredState::Event => &mut self.events,
        } += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::DedupKey, queue::Attempt};

    #[test]
    fn only_what_was_published_before_becomes_a_job() {
        let now: Timestamp = "2026-11-02T10:00:00Z".parse().unwrap();
        let attempt = Attempt {
            at: now,
            reason: "network".into(),
            detail: "no answer".to_owned(),
            status: None,
            correlation_id: None,
        };
        let mut tried = History::default();
        tried.push(attempt);
        let refused = History { failures: 1, ..History::default() };
        let destination = |kind: &str, history: &History, state| {
            let message = Message {
                id: "evt-1".to_owned(),
                dedup: DedupKey::new("evt-1", b"{}"),
                kind: kind.to_owned(),
                environment: "live".to_owned(),
                conversation_id: None,
                received_at: now,
                traceparent: None,
                content_type: "application/json".to_owned(),
                body: "{}".into(),
            };
            StoredMessage { row: 1, message, history: history.clone(), state }.destination(now)
        };
        let (new, completed) = (History::default(), "conversation.completed");
        let minute = Duration::from_mins(1);
        let (later, over) = (StoredState::Delayed { due: now + minute }, StoredState::Delayed { due: now });
        assert_eq!(destination(completed, &new, StoredState::Waiting), Destination::Events);
        assert_eq!(destination(completed, &tried, StoredState::Waiting), Destination::Jobs);
        assert_eq!(destination(completed, &tried, over), Destination::Jobs);
        for history in [&new, &tried] {
            assert_eq!(
                destination("conversation.discovered", history, later),
                Destination::DelayedJobs(minute)
            );
        }
        assert_eq!(destination(completed, &tried, StoredState::Dead), Destination::DeadLetters);
        // As in the file of a spool.
        for state in [StoredState::Waiting, later, over, StoredState::Event] {
            for kind in ["handoff.created", "unparsed"] {
                for history in [&new, &tried, &refused] {
                    assert_eq!(destination(kind, history, state), Destination::Events, "{kind} {state:?}");
                }
            }
            assert_eq!(destination(completed, &refused, state), Destination::Events, "{state:?}");
        }
    }
}
