//! Recognition of duplicates over PolyAI's whole retry window, in bounded memory.
//!
//! If one event is delivered several times at once, one delivery stores it and the others wait for the result, so none is
//! answered "durable" before the event is. Then its key is known for the whole window. Keys are kept in time slices. The
//! oldest slice is dropped when it has expired, or earlier if there are too many keys. A late duplicate then gets through,
//! which does no harm, because the archive is idempotent. A change of the clock neither drops nor keeps keys.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Notify;

use super::{Published, QueueError};
use crate::{clock::Clock, event::DedupKey};

/// The number of slices in the window. One more is kept, because the oldest key of a slice expires first.
const SLICES: usize = 8;
/// The maximum number of keys in a slice. A hash table of 65,536 places, about 1 MB, is full with it.
const MAX_SLICE_KEYS: usize = 57_344;

/// Half a deduplication key, which is enough to distinguish a few hundred thousand events.
type Key = u128;
/// The length of a key in [`DedupWindow::take_unsaved`]'s result.
const KEY_BYTES: usize = size_of::<Key>();

/// Keys are hashes already.
type Keys = HashSet<Key, BuildHasherDefault<KeyHasher>>;

/// The keys that were published within the window, and those that are being published: at most 516,096 in about 10 MB,
/// which are six hours of 23 deliveries a second, or two million a day.
pub(super) struct DedupWindow {
    window: Duration,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Finished slices with their start times, oldest first.
    past: VecDeque<(SignedDuration, Keys)>,
    /// Start of the current slice. Restored keys may be older than the clock's [`Clock::elapsed`].
    current_start: SignedDuration,
    current: Keys,
    /// Keys that are not saved yet.
    unsaved: Vec<u8>,
    /// Keys that are being published, each with its waiting duplicates if there are any.
    in_flight: HashMap<Key, Option<Arc<Notify>>, BuildHasherDefault<KeyHasher>>,
}

impl fmt::Debug for DedupWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupWindow").field("window", &self.window).finish_non_exhaustive()
    }
}

impl DedupWindow {
    /// Returns an empty window that remembers a key for `window`.
    pub(super) fn new(window: Duration, clock: Clock) -> Self {
        Self { window, clock, state: Mutex::default() }
    }

    /// Runs `store` for an event with `key` unless the key is known. If another caller is storing the same event, waits for
    /// its result; if that caller fails or is cancelled, the next waiting caller stores the event. Safe to cancel.
    pub(super) async fn publish_once(
        &self,
        key: DedupKey,
        store: impl Future<Output = Result<(), QueueError>>,
    ) -> Result<Published, QueueError> {
        let key = short(key);
        loop {
            let other_ends = {
                let mut state = self.state();
                if state.contains(key, self.elapsed().saturating_sub(signed(self.window))) {
                    return Ok(Published::Duplicate);
                }
                match state.in_flight.entry(key) {
                    Entry::Vacant(free) => {
                        free.insert(None);
                        break;
                    }
                    // Created under the lock, so it cannot miss the end.
                    Entry::Occupied(mut taken) => {
                        Arc::clone(taken.get_mut().get_or_insert_default()).notified_owned()
                    }
                }
            };
            other_ends.await;
        }
        let flight = Flight { dedup: self, key };
        store.await?;
        flight.dedup.insert(key, self.elapsed());
        Ok(Published::New)
    }

    /// Adds keys that [`DedupWindow::take_unsaved`] returned at the time `at`.
    pub(super) fn restore(&self, at: Timestamp, keys: &[u8]) {
        let (keys, _) = keys.as_chunks::<KEY_BYTES>();
        // A time in the future was saved while the clock was ahead.
        let age = self.clock.now().duration_since(at).max(SignedDuration::ZERO);
        for key in keys {
            self.insert(Key::from_be_bytes(*key), self.elapsed().saturating_sub(age));
        }
        self.state().unsaved.clear();
    }

    /// Returns the keys that were added since the last call, concatenated, to be saved across a restart.
    pub(super) fn take_unsaved(&self) -> Vec<u8> {
        std::mem::take(&mut self.state().unsaved)
    }

    fn insert(&self, key: Key, at: SignedDuration) {
        let slice = signed(self.window / u32::try_from(SLICES).unwrap_or(1));
        self.state().insert(key, at, slice);
    }

    fn elapsed(&self) -> SignedDuration {
        signed(self.clock.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns whether a key is known. Drops slices that ended before `oldest`.
    fn contains(&mut self, key: Key, oldest: SignedDuration) -> bool {
        // A slice ends when the next one starts.
        while self.past.get(1).map_or(self.current_start, |(began, _)| *began) <= oldest
            && !self.past.is_empty()
        {
            self.past.pop_front();
        }
        self.current.contains(&key) || self.past.iter().any(|(_, keys)| keys.contains(&key))
    }

    fn insert(&mut self, key: Key, at: SignedDuration, slice: SignedDuration) {
        let full = self.current.len() >= MAX_SLICE_KEYS;
        if full || (!self.current.is_empty() && at.saturating_sub(self.current_start) >= slice) {
            let mut keys = std::mem::take(&mut self.current);
            keys.shrink_to_fit();
            self.past.push_back((self.current_start, keys));
            if self.past.len() > SLICES {
                self.past.pop_front();
            }
        }
        if self.current.is_empty() {
            self.current_start = at;
        }
        self.current.insert(key);
        // Bounded, because without a spool no caller collects these keys.
        if self.unsaved.len() < MAX_SLICE_KEYS * KEY_BYTES {
            self.unsaved.extend_from_slice(&key.to_be_bytes());
        }
    }
}

/// The one caller that stores an event. When it ends, the others look again.
struct Flight<'a> {
    dedup: &'a DedupWindow,
    key: Key,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if let Some(Some(waiting)) = self.dedup.state().in_flight.remove(&self.key) {
            waiting.notify_waiters();
        }
    }
}

/// Uses the last bytes of a key as its hash.
#[derive(Default)]
struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.last_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn short(key: DedupKey) -> Key {
    key.as_bytes().first_chunk().map_or(0, |bytes| Key::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::join_all;

    use super::*;

    const WINDOW: Duration = Duration::from_hours(6);

    fn window() -> DedupWindow {
        DedupWindow::new(WINDOW, Clock::manual(Timestamp::from_second(1_790_000_000).unwrap()))
    }

    fn key(n: u64) -> DedupKey {
        DedupKey::new("evt", &n.to_be_bytes())
    }

    async fn publish(dedup: &DedupWindow, n: u64) -> Published {
        dedup.publish_once(key(n), async { Ok(()) }).await.unwrap()
    }

    #[tokio::test]
    async fn recognises_a_duplicate_for_the_window_and_little_longer() {
        let dedup = window();
        assert_eq!(publish(&dedup, 1).await, Published::New);
        for _ in 0..46 {
            assert_eq!(publish(&dedup, 1).await, Published::Duplicate);
            dedup.clock.advance(WINDOW / 47);
            // Other keys start new slices.
            publish(&dedup, fastrand::u64(2..)).await;
        }
        dedup.clock.advance(WINDOW / 6);
        assert_eq!(publish(&dedup, 1).await, Published::New);
        let quiet = window();
        publish(&quiet, 1).await;
        quiet.clock.advance(WINDOW * 99 / 100);
        assert_eq!(publish(&quiet, 1).await, Published::Duplicate);
    }

    #[tokio::test]
    async fn stores_a_concurrent_event_once() {
        let dedup = window();
        let stored = AtomicU32::new(0);
        let all = join_all((0..100).map(|_| {
            dedup.publish_once(key(7), async {
                tokio::task::yield_now().await;
                stored.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(())
            })
        }))
        .await;
        let new = all.iter().filter(|published| matches!(published, Ok(Published::New))).count();
        assert_eq!((new, stored.into_inner()), (1, 1));
        assert!(dedup.state().in_flight.is_empty(), "no entry remains");
    }

    #[tokio::test]
    async fn stores_an_event_again_after_failure_or_cancellation() {
        let dedup = window();
        let failed = dedup.publish_once(key(1), async { Err(QueueError::Closed) });
        let given_up = tokio::time::timeout(
            Duration::from_millis(5),
            dedup.publish_once(key(1), std::future::pending()),
        );
        let (failed, given_up) = tokio::join!(failed, given_up);
        assert!(failed.is_err() && given_up.is_err());
        assert!(dedup.state().in_flight.is_empty());
        assert_eq!(publish(&dedup, 1).await, Published::New);
    }

    #[tokio::test]
    async fn bounds_memory_by_dropping_the_oldest_keys() {
        let dedup = window();
        let max_keys = MAX_SLICE_KEYS * (SLICES + 1);
        for n in 0..(max_keys + max_keys / 4) as u64 {
            dedup.insert(short(key(n)), dedup.elapsed());
        }
        let kept: usize = dedup.state().past.iter().map(|(_, keys)| keys.len()).sum();
        assert!((max_keys - MAX_SLICE_KEYS..=max_keys).contains(&(kept + dedup.state().current.len())));
        assert_eq!(publish(&dedup, max_keys as u64).await, Published::Duplicate);
        assert_eq!(publish(&dedup, 0).await, Published::New);
    }

    #[tokio::test]
    async fn recognises_restored_keys() {
        let (before, after) = (window(), window());
        publish(&before, 1).await;
        let saved = before.take_unsaved();
        assert_eq!((saved.len(), before.take_unsaved().len()), (KEY_BYTES, 0));
        after.restore(after.clock.now() - WINDOW / 2, &saved);
        assert_eq!(publish(&after, 1).await, Published::Duplicate);
        assert!(after.take_unsaved().is_empty(), "restored keys count as saved");
    }
    #[tokio::test]
    async fn a_change_of_the_clock_neither_drops_nor_keeps_keys() {
        async fn assert_kept_for_the_window(dedup: &DedupWindow) {
            dedup.clock.advance(WINDOW / 6);
            assert_eq!(publish(dedup, 2).await, Published::New, "it starts a new slice");
            let (right, year) = (dedup.clock.now(), Duration::from_hours(400 * 24));
            for now in [right + year, right - year, right] {
                dedup.clock.set(now);
                assert_eq!(publish(dedup, 1).await, Published::Duplicate, "a replay at {now}");
            }
            dedup.clock.advance(WINDOW);
            assert_eq!(publish(dedup, 1).await, Published::New);
        }
        let dedup = window();
        publish(&dedup, 1).await;
        let saved = dedup.take_unsaved();
        assert_kept_for_the_window(&dedup).await;
        // Saved while the clock was ahead.
        let restarted = window();
        restarted.restore(restarted.clock.now() + Duration::from_hours(400 * 24), &saved);
        assert_kept_for_the_window(&restarted).await;
    }
}
