//! Detects that this machine's clock is wrong, from correctly signed deliveries with a stale timestamp.
//!
//! A stale delivery is a replay, or our clock is wrong. One delivery does not prove either, and neither does the same
//! delivery sent again. Two different deliveries that are equally far away prove a wrong clock, as long as no
//! timestamped delivery was accepted since: PolyAI signs each attempt when it sends it, so a wrong clock is off by the
//! same amount for all of them, while replays have different ages.
//!
//! The detector reports the condition `clock` to the log and to `/readyz`. Stale deliveries are still answered 401 and
//! the process stays ready, so that a stranger with recorded deliveries cannot take a receiver out of service.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use jiff::{SignedDuration, Timestamp};

use crate::health::Health;

const CONDITION: &str = "clock";
/// Different stale deliveries, equally far away, that prove a wrong clock.
const MIN_DELIVERIES: u64 = 2;
/// Two deliveries within this difference count as equally far away: a delivery takes at most this long from its
/// signature to us.
const MAX_SKEW_DIFFERENCE_S: u64 = 60;
/// A stale delivery is forgotten after this time without another one.
const FORGET_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// Remembers the last stale delivery and the number of different ones that are equally far away.
#[derive(Debug)]
pub(super) struct ClockSkewDetector {
    health: Health,
    /// True if `last_stale` holds something. Lets accepted deliveries skip the lock.
    has_stale: AtomicBool,
    last_stale: Mutex<Option<StaleDelivery>>,
}

#[derive(Debug)]
struct StaleDelivery {
    count: u64,
    skew_s: i64,
    signature: Vec<u8>,
    at: Timestamp,
}

impl ClockSkewDetector {
    pub(super) fn new(health: Health) -> Self {
        Self { health, has_stale: AtomicBool::new(false), last_stale: Mutex::new(None) }
    }

    /// Records a correctly signed delivery that was rejected because its timestamp is `skew_s` (our time minus the
    /// sender's) away.
    pub(super) fn observe_stale(&self, signature: &[u8], skew_s: i64, now: Timestamp) {
        let mut last = self.last_stale.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match &*last {
            Some(before) if before.signature == signature => return,
            Some(before) if before.skew_s.abs_diff(skew_s) <= MAX_SKEW_DIFFERENCE_S => before.count + 1,
            _ => 1,
        };
        *last = Some(StaleDelivery { count, skew_s, signature: signature.to_owned(), at: now });
        self.has_stale.store(true, Ordering::Release);
        if count >= MIN_DELIVERIES {
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

    /// Records that a timestamped delivery was accepted, so the clock is good enough.
    pub(super) fn observe_accepted(&self) {
        if self.has_stale.load(Ordering::Acquire) {
            self.forget_if(|_| true);
        }
    }

    /// Forgets a stale delivery that is older than ten minutes.
    pub(super) fn expire(&self, now: Timestamp) {
        // The clock may have been set back since, probably because of this condition.
        self.forget_if(|last| now.duration_since(last.at).abs() >= FORGET_AFTER);
    }

    fn forget_if(&self, condition: impl Fn(&StaleDelivery) -> bool) {
        let mut last = self.last_stale.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(condition) {
            *last = None;
            self.has_stale.store(false, Ordering::Release);
            self.health.clear(CONDITION);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn condition_text(health: &Health) -> String {
        let conditions = health.conditions();
        conditions.first().map(|(what, text)| format!("{what}: {text}")).unwrap_or_default()
    }

    #[test]
    fn two_stale_deliveries_equally_far_away_report_a_wrong_clock() {
        let health = Health::default();
        let detector = ClockSkewDetector::new(health.clone());
        detector.observe_stale(b"one", 600, NOW);
        detector.observe_stale(b"one", 601, NOW);
        assert_eq!(condition_text(&health), "", "a repeated delivery does not count twice");
        detector.observe_stale(b"two", 5000, NOW);
        detector.observe_stale(b"three", 900, NOW);
        assert_eq!(condition_text(&health), "", "deliveries of different ages do not count together");
        detector.observe_stale(b"four", 903, NOW);
        assert!(condition_text(&health).starts_with("clock: 2 genuine"), "{}", condition_text(&health));
        assert!(
            condition_text(&health).contains("903 s behind this machine's clock"),
            "{}",
            condition_text(&health)
        );
    }

    #[test]
    fn an_accepted_delivery_or_ten_minutes_clear_the_condition() {
        let health = Health::default();
        let detector = ClockSkewDetector::new(health.clone());
        let report = || {
            detector.observe_stale(b"one", -600, NOW);
            detector.observe_stale(b"two", -600, NOW);
            assert!(condition_text(&health).contains("600 s ahead of"), "{}", condition_text(&health));
        };
        report();
        detector.observe_accepted();
        assert_eq!(condition_text(&health), "");
        report();
        detector.expire(NOW + FORGET_AFTER - SignedDuration::from_secs(1));
        assert_ne!(condition_text(&health), "");
        detector.expire(NOW + FORGET_AFTER);
        assert_eq!(condition_text(&health), "");
        report();
        detector.expire(NOW - SignedDuration::from_hours(400 * 24));
        assert_eq!(condition_text(&health), "", "the clock was set back");
    }
}
