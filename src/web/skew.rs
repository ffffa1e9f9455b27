//! Whether it is our clock that keeps genuine deliveries out.
//!
//! A signature that is right but too far away in time is a replay, or our clock is wrong. One such delivery
//! proves nothing, and neither does the same one again. Two different ones that are equally far away do, as long
//! as no timestamped delivery was accepted since: PolyAI signs each attempt when it sends it, so replays are as
//! old as they happen to be, and a wrong clock is off by the same for all. The log and `/readyz` say so, and the
//! answer stays 401: a stranger who has recorded old deliveries must not take a receiver out of service.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use jiff::{SignedDuration, Timestamp};

use crate::health::Health;

const CONDITION: &str = "clock";
/// So many different deliveries, equally far away, are no accident.
const ENOUGH: u64 = 2;
/// How far apart two of them may be: a delivery takes that long at most from its signature to us.
const ALIKE_S: u64 = 60;
/// When none was seen for so long it is forgotten.
const MEMORY: SignedDuration = SignedDuration::from_mins(10);

/// What is remembered: the last of them, and how many there were.
#[derive(Debug)]
pub(super) struct Skew {
    health: Health,
    /// Whether `seen` holds anything: an accepted delivery looks no further.
    any: AtomicBool,
    seen: Mutex<Option<Seen>>,
}

#[derive(Debug)]
struct Seen {
    count: u64,
    skew_s: i64,
    signature: Vec<u8>,
    at: Timestamp,
}

impl Skew {
    pub(super) fn new(health: Health) -> Self {
        Self { health, any: AtomicBool::new(false), seen: Mutex::new(None) }
    }

    /// A genuine delivery was refused because it is `skew_s` (our time less the sender's) away.
    pub(super) fn stale(&self, signature: &[u8], skew_s: i64, now: Timestamp) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let alike = |before: &Seen| before.skew_s.abs_diff(skew_s) <= ALIKE_S;
        let count = match &*seen {
            Some(before) if before.signature == signature => return,
            Some(before) if alike(before) => before.count + 1,
            _ => 1,
        };
        *seen = Some(Seen { count, skew_s, signature: signature.to_owned(), at: now });
        self.any.store(true, Ordering::Release);
        if count >= ENOUGH {
            self.health.set_degraded(
                CONDITION,
                format!(
                    "{count} genuine deliveries were refused only because they are {} s {} this machine's clock: set \
                     the clock (NTP). PolyAI does not send them again; `polyhook fetch` archives what was missed",
                    skew_s.unsigned_abs(),
                    if skew_s > 0 { "behind" } else { "ahead of" }
                ),
            );
        }
    }

    /// A timestamped delivery was accepted: the clock is good enough.
    pub(super) fn accepted(&self) {
        if self.any.load(Ordering::Acquire) {
            self.forget(|_| true);
        }
    }

    /// Forgets what is long over.
    pub(super) fn expire(&self, now: Timestamp) {
        self.forget(|seen| now.duration_since(seen.at) >= MEMORY);
    }

    fn forget(&self, over: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.as_ref().is_some_and(over) {
            *seen = None;
            self.any.store(false, Ordering::Release);
            self.health.clear(CONDITION);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn said(health: &Health) -> String {
        let conditions = health.conditions();
        conditions.first().map(|(what, text)| format!("{what}: {text}")).unwrap_or_default()
    }

    #[test]
    fn two_different_ones_equally_far_away_are_our_clock() {
        let health = Health::default();
        let skew = Skew::new(health.clone());
        skew.stale(b"one", 600, NOW);
        skew.stale(b"one", 601, NOW);
        assert_eq!(said(&health), "", "a replay proves nothing");
        skew.stale(b"two", 5000, NOW);
        skew.stale(b"three", 900, NOW);
        assert_eq!(said(&health), "", "each of its own age");
        skew.stale(b"four", 903, NOW);
        assert!(said(&health).starts_with("clock: 2 genuine"), "{}", said(&health));
        assert!(said(&health).contains("903 s behind this machine's clock"), "{}", said(&health));
    }

    #[test]
    fn one_that_is_accepted_clears_it_and_so_does_time() {
        let health = Health::default();
        let skew = Skew::new(health.clone());
        let off = || {
            skew.stale(b"one", -600, NOW);
            skew.stale(b"two", -600, NOW);
            assert!(said(&health).contains("600 s ahead of"), "{}", said(&health));
        };
        off();
        skew.accepted();
        assert_eq!(said(&health), "");
        off();
        skew.expire(NOW + MEMORY - SignedDuration::from_secs(1));
        assert_ne!(said(&health), "");
        skew.expire(NOW + MEMORY);
        assert_eq!(said(&health), "");
    }
}
