//! The single source of wall-clock time.
//!
//! All code that compares or records a time takes it from a [`Clock`], so that a test can move a service ten minutes
//! into the past or let six hours pass at once. `clippy.toml` bans the other sources. Durations are measured with
//! [`std::time::Instant`], which a clock change does not affect.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// The time from which [`Clock::elapsed`] counts.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A source of the current time: the system's clock, or a manual one for tests and simulations.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Only [`Clock::advance`] and [`Clock::set`] change it.
    Manual(Arc<ManualClock>),
}

/// The state of a manual clock, in milliseconds.
#[derive(Debug)]
pub struct ManualClock {
    since_epoch: AtomicI64,
    elapsed: AtomicU64,
}

impl Clock {
    /// Creates a clock that stays at `start` until it is advanced.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(ManualClock {
            since_epoch: AtomicI64::new(start.as_millisecond()),
            elapsed: AtomicU64::new(0),
        }))
    }

    /// Returns the current time.
    #[expect(clippy::disallowed_methods, reason = "this is the injected clock")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(clock) => {
                let ms = clock.since_epoch.load(Ordering::SeqCst);
                Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Returns the time since an arbitrary moment. A change of the clock does not affect it.
    pub fn elapsed(&self) -> Duration {
        match self {
            Self::System => START.elapsed(),
            Self::Manual(clock) => Duration::from_millis(clock.elapsed.load(Ordering::SeqCst)),
        }
    }

    /// Lets time pass on a manual clock. Does nothing on the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(clock) = self {
            let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
            clock.elapsed.fetch_add(ms, Ordering::SeqCst);
            clock.since_epoch.fetch_add(i64::try_from(ms).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Sets a manual clock to another time, as a person or NTP does. No time passes. Does nothing on the system's clock.
    pub fn set(&self, to: Timestamp) {
        if let Self::Manual(clock) = self {
            clock.since_epoch.store(to.as_millisecond(), Ordering::SeqCst);
        }
    }
}

/// A clock for deletions by age: it does not follow a jump ahead before the jump has lasted for an hour.
///
/// Otherwise a clock that is wrong for a minute would delete everything that is kept for a week.
#[derive(Debug)]
pub struct PrudentClock {
    clock: Clock,
    /// The last time that was accepted, and [`Clock::elapsed`] then.
    accepted: (Timestamp, Duration),
    /// [`Clock::elapsed`] at the beginning of the jump.
    ahead_since: Option<Duration>,
}

impl PrudentClock {
    /// The largest difference that is not a jump.
    const MAX_DRIFT: Duration = Duration::from_mins(1);
    /// The time after which a jump is accepted.
    const MIN_DURATION: Duration = Duration::from_hours(1);

    /// Creates a clock that starts at `accepted`, for example the time of the newest stored row.
    pub fn new(clock: Clock, accepted: Timestamp) -> Self {
        let elapsed = clock.elapsed();
        Self { clock, accepted: (accepted, elapsed), ahead_since: None }
    }

    /// Returns the current time, or the time that was expected if the clock has jumped ahead.
    pub fn now(&mut self) -> Timestamp {
        let (now, elapsed) = (self.clock.now(), self.clock.elapsed());
        let (accepted, accepted_at) = self.accepted;
        let expected = accepted.saturating_add(elapsed.saturating_sub(accepted_at)).unwrap_or(Timestamp::MAX);
        if now > expected.saturating_add(Self::MAX_DRIFT).unwrap_or(Timestamp::MAX) {
            let since = *self.ahead_since.get_or_insert(elapsed);
            if elapsed.saturating_sub(since) < Self::MIN_DURATION {
                return expected;
            }
        }
        (self.accepted, self.ahead_since) = ((now, elapsed), None);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prudent_clock_follows_a_jump_ahead_after_an_hour() {
        let start: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let clock = Clock::manual(start);
        let mut prudent = PrudentClock::new(clock.clone(), start);
        clock.advance(Duration::from_mins(10));
        assert_eq!(prudent.now(), clock.now());
        clock.set(start + Duration::from_hours(400 * 24));
        for minutes in [10, 11, 69] {
            assert_eq!(prudent.now(), start + Duration::from_mins(minutes));
            clock.advance(Duration::from_mins(if minutes == 10 { 1 } else { 58 }));
        }
        assert_eq!(prudent.now(), clock.now());
        clock.set(start);
        assert_eq!(prudent.now(), start, "a jump back is followed at once");
    }
}
