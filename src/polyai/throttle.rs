//! How fast one project may be asked, and when not at all.

use std::{num::NonZeroU32, sync::Mutex, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

/// The longest pause a `Retry-After` can cause: a wrong header must not silence a project for a week.
const MAX_PAUSE: Duration = Duration::from_hours(1);

/// A rate and a pause, for one project.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: DefaultDirectRateLimiter,
    paused_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        // Without a burst: with one, the first second would have twice as many.
        let quota = Quota::per_second(per_second).allow_burst(NonZeroU32::MIN);
        Self { rate: RateLimiter::direct(quota), paused_until: Mutex::new(None) }
    }

    /// Waits for this request's turn.
    pub(super) async fn turn(&self) {
        self.rate.until_ready().await;
    }

    /// How much longer the project is paused.
    pub(super) fn paused_for(&self) -> Option<Duration> {
        let until = *self.paused_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        until.and_then(|until| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Pauses the project; a longer pause in force stays.
    pub(super) fn pause(&self, for_: Duration) {
        let until = Instant::now() + for_.min(MAX_PAUSE);
        let mut paused = self.paused_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |before| before.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_ends_by_itself_and_only_grows() {
        let throttle = Throttle::new(1000);
        assert_eq!(throttle.paused_for(), None);
        throttle.pause(Duration::from_secs(30));
        throttle.pause(Duration::from_secs(5));
        assert_eq!(throttle.paused_for(), Some(Duration::from_secs(30)));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(throttle.paused_for(), None);
    }
}
