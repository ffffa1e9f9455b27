//! The messages that a queue file holds, in the states in which another queue can take them over.

use std::ops::AddAssign;

use jiff::Timestamp;
use serde::Serialize;

use super::{History, Message};

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
