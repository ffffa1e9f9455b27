//! Recordings that an attempt has stored and its job still needs.
//!
//! With `worker.audio = "both"` one side may be late. The job then waits, and the other side is kept until the next
//! attempt in the same process, so that it is not downloaded again. It lies in the store and is as invisible as every
//! recording before the commit. Another process downloads it again.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    archive::{Location, StagedAudio},
    polyai::{AudioDirection, ConversationInfo},
};

/// The largest number of recordings that are kept; the oldest are dropped.
const MAX_PARKED: usize = 32;
/// The longest time for which one is kept, so that the disk holds no recording whose job has gone elsewhere.
const MAX_AGE: Duration = Duration::from_hours(1);

/// Identifies a recording. A conversation that has grown has another recording.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ParkingKey {
    location: Location,
    direction: AudioDirection,
    redacted: bool,
    turns: u64,
    total_duration_s: Option<f64>,
}

impl ParkingKey {
    pub(super) fn new(
        location: &Location,
        direction: AudioDirection,
        redacted: bool,
        info: &ConversationInfo,
    ) -> Self {
        Self {
            location: location.clone(),
            direction,
            redacted,
            turns: info.num_turns,
            total_duration_s: info.total_duration_s,
        }
    }
}

/// The kept recordings of a worker. A recording that is dropped is removed from the store.
#[derive(Debug, Default)]
pub(super) struct ParkedRecordings {
    entries: Mutex<VecDeque<(ParkingKey, Instant, StagedAudio)>>,
}

impl ParkedRecordings {
    /// Keeps a recording.
    pub(super) fn put(&self, key: ParkingKey, audio: StagedAudio) {
        let mut entries = self.current();
        while entries.len() >= MAX_PARKED {
            entries.pop_front();
        }
        entries.push_back((key, Instant::now(), audio));
    }

    /// Returns a recording and no longer keeps it.
    pub(super) fn take(&self, key: &ParkingKey) -> Option<StagedAudio> {
        let mut entries = self.current();
        let at = entries.iter().position(|(other, ..)| other == key)?;
        entries.remove(at).map(|(_, _, audio)| audio)
    }

    /// Drops the recordings of a conversation whose job has ended.
    pub(super) fn forget(&self, conversation_id: &str) {
        self.current().retain(|(key, ..)| key.location.conversation_id() != conversation_id);
    }

    /// Drops all recordings.
    pub(super) fn clear(&self) {
        self.current().clear();
    }

    /// Returns the entries that are not too old.
    fn current(&self) -> MutexGuard<'_, VecDeque<(ParkingKey, Instant, StagedAudio)>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|(_, since, _)| since.elapsed() < MAX_AGE);
        entries
    }
}
