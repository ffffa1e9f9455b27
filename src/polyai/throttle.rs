//! The request rate of one project, and its pauses after a 429.

use std::{num::NonZeroU32, sync::Mutex, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::Instant;

/// The shortest pause. A `Retry-After` of zero must not cause a tight loop.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// The rate limit and the pause of one project.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: DefaultDirectRateLimiter,
    paused_until: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = NonZeroU32::new(per_second).unwrap_or(NonZeroU32::MIN);
        // A burst would allow twice as many requests in the first second.
        let quota = Quota::per_second(per_second).allow_burst(NonZeroU32::MIN);
        Self { rate: RateLimiter::direct(quota), paused_until: Mutex::new(None) }
    }

    /// Waits until the rate allows another request.
    pub(super) async fn wait_for_turn(&self) {
        self.rate.until_ready().await;
    }

    /// Returns how much longer the project is paused.
    pub(super) fn paused_for(&self) -> Option<Duration> {
        let until = *self.paused_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        until.and_then(|until| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Pauses the project. A pause that ends later stays.
    pub(super) fn pause(&self, duration: Duration) {
        let until = Instant::now() + duration.max(MIN_PAUSE);
        let mut paused = self.paused_until.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *paused = Some(paused.map_or(until, |current| current.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_expires_and_is_never_shortened() {
        let throttle = Throttle::new(1000);
        assert_eq!(throttle.paused_for(), None);
        throttle.pause(Duration::ZERO);
        assert_eq!(throttle.paused_for(), Some(MIN_PAUSE));
        throttle.pause(Duration::from_secs(30));
        throttle.pause(Duration::from_secs(5));
        assert_eq!(throttle.paused_for(), Some(Duration::from_secs(30)));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(throttle.paused_for(), None);
    }
}
