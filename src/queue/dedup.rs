//! Recognition of duplicates over PolyAI's whole retry window, in bounded memory.
//!
//! If one event is delivered several times at once, one delivery stores it and the others wait for the result, so none is
//! answered "durable" before the event is. Then its key is known for the whole window. Keys are kept in time slices. The
//! oldest slice is dropped when it has expired, or earlier if there are too many keys. A late duplicate then gets through,
//! which does no harm, because the archive is idempotent. A change of the clock neither drops nor keeps keys.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::OnceCell;

use super::{Published, QueueError};
use crate::{clock::Clock, event::DedupKey};

/// The maximum number of keys, about 8 MB: six hours of 23 deliveries a second, or two million a day.
const MAX_KEYS: usize = 500_000;
/// The number of slices in the window.
const SLICES: usize = 12;

/// Half a deduplication key, which is enough to distinguish a few hundred thousand events.
type Key = [u8; KEY_BYTES];
/// The length of a key in [`DedupWindow::take_unsaved`]'s result.
const KEY_BYTES: usize = 16;

/// The keys that were published within the window, and those that are being published.
pub(super) struct DedupWindow {
    window: Duration,
    clock: Clock,
    known: Mutex<KnownKeys>,
    in_flight: Mutex<HashMap<DedupKey, Arc<OnceCell<()>>>>,
}

#[derive(Default)]
struct KnownKeys {
    /// Finished slices with their start times, oldest first. The keys are sorted.
    past: VecDeque<(SignedDuration, Box<[Key]>)>,
    /// Start of the current slice. Restored keys may be older than the clock's [`Clock::elapsed`].
    current_start: SignedDuration,
    current: HashSet<Key>,
    /// Keys that are not saved yet.
    unsaved: Vec<u8>,
}

impl fmt::Debug for DedupWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupWindow").field("window", &self.window).finish_non_exhaustive()
    }
}

impl DedupWindow {
    /// Returns an empty window that remembers a key for `window`.
    pub(super) fn new(window: Duration, clock: Clock) -> Self {
        Self { window, clock, known: Mutex::default(), in_flight: Mutex::default() }
    }

    /// Runs `store` for an event with `key` unless the key is known. If another caller is storing the same event, waits for
    /// its result; if that caller fails or is cancelled, the next waiting caller stores the event. Safe to cancel.
    pub(super) async fn publish_once(
        &self,
        key: DedupKey,
        store: impl Future<Output = Result<(), QueueError>>,
    ) -> Result<Published, QueueError> {
        let flight = self.join_flight(key);
        if self.contains(key) {
            return Ok(Published::Duplicate);
        }
        let mut first = false;
        let stored = flight.cell.get_or_try_init(|| async {
            first = true;
            store.await?;
            self.insert(short(key), self.elapsed());
            Ok::<_, QueueError>(())
        });
        stored.await?;
        Ok(if first { Published::New } else { Published::Duplicate })
    }

    /// Adds keys that [`DedupWindow::take_unsaved`] returned at the time `at`.
    pub(super) fn restore(&self, at: Timestamp, keys: &[u8]) {
        let (keys, _) = keys.as_chunks::<KEY_BYTES>();
        // A time in the future was saved while the clock was ahead.
        let age = self.clock.now().duration_since(at).max(SignedDuration::ZERO);
        for key in keys {
            self.insert(*key, self.elapsed().saturating_sub(age));
        }
        self.known().unsaved.clear();
    }

    /// Returns the keys that were added since the last call, concatenated, to be saved across a restart.
    pub(super) fn take_unsaved(&self) -> Vec<u8> {
        std::mem::take(&mut self.known().unsaved)
    }

    fn contains(&self, key: DedupKey) -> bool {
        let key = short(key);
        let mut known = self.known();
        let oldest = self.elapsed().saturating_sub(signed(self.window));
        // A slice ends when the next one starts.
        while known.past.get(1).map_or(known.current_start, |(began, _)| *began) <= oldest
            && !known.past.is_empty()
        {
            known.past.pop_front();
        }
        known.current.contains(&key) || known.past.iter().any(|(_, keys)| keys.binary_search(&key).is_ok())
    }

    fn insert(&self, key: Key, at: SignedDuration) {
        let mut known = self.known();
        let full = known.current.len() >= MAX_KEYS / SLICES;
        let slice = signed(self.window / u32::try_from(SLICES).unwrap_or(1));
        if full || (!known.current.is_empty() && at.saturating_sub(known.current_start) >= slice) {
            let mut keys: Box<[Key]> = std::mem::take(&mut known.current).into_iter().collect();
            keys.sort_unstable();
            let began = known.current_start;
            known.past.push_back((began, keys));
            if known.past.len() > SLICES {
                known.past.pop_front();
            }
        }
        if known.current.is_empty() {
            known.current_start = at;
        }
        known.current.insert(key);
        // Bounded, because without a spool no caller collects these keys.
        if known.unsaved.len() < MAX_KEYS / SLICES * KEY_BYTES {
            known.unsaved.extend_from_slice(&key);
        }
    }

    fn elapsed(&self) -> SignedDuration {
        signed(self.clock.elapsed())
    }

    fn known(&self) -> MutexGuard<'_, KnownKeys> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<DedupKey, Arc<OnceCell<()>>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join_flight(&self, key: DedupKey) -> Flight<'_> {
        let cell = Arc::clone(self.in_flight().entry(key).or_default());
        Flight { dedup: self, key, cell }
    }
}

/// A caller's share in storing an event. The last caller to leave removes the entry from the map.
struct Flight<'a> {
    dedup: &'a DedupWindow,
    key: DedupKey,
    cell: Arc<OnceCell<()>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.dedup.in_flight();
        // Two references are the map's and this one. All others are created and dropped under this lock.
        if Arc::strong_count(&self.cell) <= 2 {
            in_flight.remove(&self.key);
        }
    }
}

fn signed(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}

fn short(key: DedupKey) -> Key {
    let mut short = Key::default();
    short.copy_from_slice(&key.as_bytes()[..KEY_BYTES]);
    short
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
        assert!(dedup.in_flight().is_empty(), "no entry remains");
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
        assert!(dedup.in_flight().is_empty());
        assert_eq!(publish(&dedup, 1).await, Published::New);
    }

    #[tokio::test]
    async fn bounds_memory_by_dropping_the_oldest_keys() {
        let dedup = window();
        for n in 0..MAX_KEYS as u64 + MAX_KEYS as u64 / 4 {
            dedup.insert(short(key(n)), dedup.elapsed());
        }
        let kept: usize = dedup.known().past.iter().map(|(_, keys)| keys.len()).sum();
        assert!(kept + dedup.known().current.len() <= MAX_KEYS + MAX_KEYS / SLICES + SLICES);
        assert_eq!(publish(&dedup, MAX_KEYS as u64).await, Published::Duplicate);
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
