//! Duplicates, recognised over PolyAI's whole retry window in bounded memory.
//!
//! Of several deliveries of one event at once, one is stored and the others wait for it: none of them is told
//! "durable" before it is. Once it is, its key is known for the window. Keys are kept in slices of time;
//! the oldest slice goes when it is over, or earlier when there are too many keys: then a late duplicate gets
//! through, which the archive does not mind.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::OnceCell;

use super::{Published, QueueError};
use crate::{clock::Clock, event::DedupKey};

/// How many keys are known at most; 8 MB. Six hours of 23 deliveries a second, two million a day.
const MOST_KEYS: usize = 500_000;
/// How many slices the window has.
const SLICES: usize = 12;

/// Half of a key is as good as the whole to tell a few hundred thousand apart.
type Key = [u8; KEY_BYTES];
/// How long a key is where many stand in a row.
const KEY_BYTES: usize = 16;

/// What was published within the window, and what is being published.
pub(super) struct DedupWindow {
    window: Duration,
    clock: Clock,
    known: Mutex<Known>,
    in_flight: Mutex<HashMap<DedupKey, Arc<OnceCell<()>>>>,
}

#[derive(Default)]
struct Known {
    /// Ended slices, oldest first, each sorted.
    past: VecDeque<(Timestamp, Box<[Key]>)>,
    /// When the present slice began.
    began: Timestamp,
    present: HashSet<Key>,
    /// Those that are not saved yet.
    unsaved: Vec<u8>,
}

impl fmt::Debug for DedupWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DedupWindow").field("window", &self.window).finish_non_exhaustive()
    }
}

impl DedupWindow {
    /// Knows nothing yet, and what it learns for `window`.
    pub(super) fn new(window: Duration, clock: Clock) -> Self {
        Self { window, clock, known: Mutex::default(), in_flight: Mutex::default() }
    }

    /// Stores what has `key`, unless it is known or somebody is just storing it; then the outcome is that
    /// one's. If that one fails or hangs up, the next who waits stores it. Safe to cancel.
    pub(super) async fn publish_once(
        &self,
        key: DedupKey,
        store: impl Future<Output = Result<(), QueueError>>,
    ) -> Result<Published, QueueError> {
        let flight = self.board(key);
        if self.knows(key) {
            return Ok(Published::Duplicate);
        }
        let mut first = false;
        let stored = flight.cell.get_or_try_init(|| async {
            first = true;
            store.await?;
            self.learn(short(key), self.clock.now());
            Ok(())
        });
        stored.await?;
        Ok(if first { Published::New } else { Published::Duplicate })
    }

    /// Takes over keys that [`DedupWindow::take_unsaved`] gave at `at`.
    pub(super) fn restore(&self, at: Timestamp, keys: &[u8]) {
        let (keys, _) = keys.as_chunks::<KEY_BYTES>();
        for key in keys {
            self.learn(*key, at);
        }
        self.known().unsaved.clear();
    }

    /// The keys learnt since the last call, in a row, for a place that survives a restart.
    pub(super) fn take_unsaved(&self) -> Vec<u8> {
        std::mem::take(&mut self.known().unsaved)
    }

    fn knows(&self, key: DedupKey) -> bool {
        let key = short(key);
        let mut known = self.known();
        let oldest = self.clock.now() - self.window;
        // A slice lasts from its beginning to the next one's.
        while known.past.get(1).map_or(known.began, |(began, _)| *began) <= oldest && !known.past.is_empty() {
            known.past.pop_front();
        }
        known.present.contains(&key) || known.past.iter().any(|(_, keys)| keys.binary_search(&key).is_ok())
    }

    fn learn(&self, key: Key, at: Timestamp) {
        let mut known = self.known();
        let full = known.present.len() >= MOST_KEYS / SLICES;
        if full || (!known.present.is_empty() && at.duration_since(known.began) >= self.slice()) {
            let mut keys: Box<[Key]> = std::mem::take(&mut known.present).into_iter().collect();
            keys.sort_unstable();
            let began = known.began;
            known.past.push_back((began, keys));
            if known.past.len() > SLICES {
                known.past.pop_front();
            }
        }
        if known.present.is_empty() {
            known.began = at;
        }
        known.present.insert(key);
        // What nobody collects is bounded all the same.
        if known.unsaved.len() < MOST_KEYS / SLICES * KEY_BYTES {
            known.unsaved.extend_from_slice(&key);
        }
    }

    fn slice(&self) -> jiff::SignedDuration {
        jiff::SignedDuration::try_from(self.window / u32::try_from(SLICES).unwrap_or(1)).unwrap_or_default()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<DedupKey, Arc<OnceCell<()>>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn board(&self, key: DedupKey) -> Flight<'_> {
        let cell = Arc::clone(self.in_flight().entry(key).or_default());
        Flight { recent: self, key, cell }
    }
}

/// One of those who are waiting for the same event; the last one clears up.
struct Flight<'a> {
    recent: &'a DedupWindow,
    key: DedupKey,
    cell: Arc<OnceCell<()>>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.recent.in_flight();
        // The map's and ours; all others are made and dropped under this lock.
        if Arc::strong_count(&self.cell) <= 2 {
            in_flight.remove(&self.key);
        }
    }
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

    fn recent() -> DedupWindow {
        DedupWindow::new(WINDOW, Clock::manual(Timestamp::from_second(1_790_000_000).unwrap()))
    }

    fn key(n: u64) -> DedupKey {
        DedupKey::new("evt", &n.to_be_bytes())
    }

    async fn publish(recent: &DedupWindow, n: u64) -> Published {
        recent.publish_once(key(n), async { Ok(()) }).await.unwrap()
    }

    #[tokio::test]
    async fn a_duplicate_is_known_for_the_window_and_not_much_longer() {
        let recent = recent();
        assert_eq!(publish(&recent, 1).await, Published::New);
        for _ in 0..46 {
            assert_eq!(publish(&recent, 1).await, Published::Duplicate);
            recent.clock.advance(WINDOW / 47);
            // Others keep the slices going.
            publish(&recent, fastrand::u64(2..)).await;
        }
        recent.clock.advance(WINDOW / 6);
        assert_eq!(publish(&recent, 1).await, Published::New);
        let quiet = self::recent();
        publish(&quiet, 1).await;
        quiet.clock.advance(WINDOW * 99 / 100);
        assert_eq!(publish(&quiet, 1).await, Published::Duplicate);
    }

    #[tokio::test]
    async fn of_many_at_once_one_stores_and_the_others_wait() {
        let recent = recent();
        let stored = AtomicU32::new(0);
        let all = join_all((0..100).map(|_| {
            recent.publish_once(key(7), async {
                tokio::task::yield_now().await;
                stored.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                Ok(())
            })
        }))
        .await;
        let new = all.iter().filter(|published| matches!(published, Ok(Published::New))).count();
        assert_eq!((new, stored.into_inner()), (1, 1));
        assert!(recent.in_flight().is_empty(), "nothing is left behind");
    }

    #[tokio::test]
    async fn what_failed_or_was_given_up_is_no_first() {
        let recent = recent();
        let failed = recent.publish_once(key(1), async { Err(QueueError::Closed) });
        let given_up = tokio::time::timeout(
            Duration::from_millis(5),
            recent.publish_once(key(1), std::future::pending()),
        );
        let (failed, given_up) = tokio::join!(failed, given_up);
        assert!(failed.is_err() && given_up.is_err());
        assert!(recent.in_flight().is_empty());
        assert_eq!(publish(&recent, 1).await, Published::New);
    }

    #[tokio::test]
    async fn memory_is_bounded_and_the_oldest_goes_first() {
        let recent = recent();
        for n in 0..MOST_KEYS as u64 + MOST_KEYS as u64 / 4 {
            recent.learn(short(key(n)), recent.clock.now());
        }
        let kept: usize = recent.known().past.iter().map(|(_, keys)| keys.len()).sum();
        assert!(kept + recent.known().present.len() <= MOST_KEYS + MOST_KEYS / SLICES + SLICES);
        assert_eq!(publish(&recent, MOST_KEYS as u64).await, Published::Duplicate);
        assert_eq!(publish(&recent, 0).await, Published::New);
    }

    #[tokio::test]
    async fn what_was_saved_is_known_to_the_next() {
        let (before, after) = (recent(), recent());
        publish(&before, 1).await;
        let saved = before.take_unsaved();
        assert_eq!((saved.len(), before.take_unsaved().len()), (KEY_BYTES, 0));
        after.restore(after.clock.now() - WINDOW / 2, &saved);
        assert_eq!(publish(&after, 1).await, Published::Duplicate);
        assert!(after.take_unsaved().is_empty(), "it is saved already");
    }
}
