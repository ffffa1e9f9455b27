//! The request rate of one project, and its pauses after a 429.
//!
//! PolyAI publishes no limit, so the rate adapts (additive increase, multiplicative decrease). A 429 halves it and pauses
//! the project. Successful requests raise it again, to the configured maximum in some minutes of full use. It never falls
//! below [`MIN_RATE`], so a project never stops for good.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, sleep_until},
};

/// The shortest pause. A `Retry-After` of zero must not cause a tight loop.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// The pause after the first 429 without `Retry-After`. It doubles with each that follows without a success.
const DEFAULT_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause without `Retry-After`: a quota per minute is over then.
const MAX_DEFAULT_PAUSE: Duration = Duration::from_secs(65);
/// The lowest rate, in requests per second.
const MIN_RATE: f64 = 0.1;
/// The seconds of full use in which the rate rises from nothing to the maximum.
const SECONDS_TO_MAX: f64 = 300.0;
/// The timer is not more exact than this.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// The rate limit and the pause of one project.
#[derive(Debug)]
pub(super) struct Throttle {
    /// Requests per second.
    max_rate: f64,
    rate: Mutex<Rate>,
    /// The time of the next request. Its lock is fair, so requests are sent in order.
    next_turn: AsyncMutex<Instant>,
}

#[derive(Debug)]
struct Rate {
    per_second: f64,
    halved_at: Option<Instant>,
    /// Halvings since the last success.
    halvings: u32,
    paused_until: Option<Instant>,
}

/// The rate and the pause after a 429.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SlowDown {
    pub(super) per_second: f64,
    pub(super) pause: Duration,
}

impl Throttle {
    pub(super) fn new(per_second: u32) -> Self {
        let max_rate = f64::from(per_second.max(1));
        let rate = Rate { per_second: max_rate, halved_at: None, halvings: 0, paused_until: None };
        Self { max_rate, rate: Mutex::new(rate), next_turn: AsyncMutex::new(Instant::now()) }
    }

    /// Waits until the rate allows another request. Returns the time from which it is sent.
    pub(super) async fn wait_for_turn(&self) -> Instant {
        let mut next = self.next_turn.lock().await;
        if next.duration_since(Instant::now()) >= TIMER_RESOLUTION {
            sleep_until(*next).await;
        }
        let now = Instant::now();
        let interval = Duration::from_secs_f64(1.0 / self.rate().per_second);
        *next = next.max(now) + interval;
        now
    }

    /// Returns how much longer the project is paused.
    pub(super) fn paused_for(&self) -> Option<Duration> {
        let until = self.rate().paused_until;
        until.and_then(|until| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Notes a 429: pauses the project, for as long as `Retry-After` says, and halves its rate. Requests that were sent
    /// before the last halving do not halve it again. A pause that ends later stays.
    pub(super) fn slow_down(&self, sent_at: Instant, retry_after: Option<Duration>) -> SlowDown {
        let mut rate = self.rate();
        if rate.halved_at.is_none_or(|halved_at| sent_at > halved_at) {
            rate.per_second = (rate.per_second / 2.0).max(MIN_RATE);
            rate.halved_at = Some(Instant::now());
            rate.halvings = rate.halvings.saturating_add(1);
        }
        let doublings = rate.halvings.saturating_sub(1).min(10);
        let default = (DEFAULT_PAUSE * 2_u32.pow(doublings)).min(MAX_DEFAULT_PAUSE);
        let pause = retry_after.unwrap_or(default).max(MIN_PAUSE);
        let until = Instant::now() + pause;
        rate.paused_until = Some(rate.paused_until.map_or(until, |current| current.max(until)));
        SlowDown { per_second: rate.per_second, pause }
    }

    /// Notes a success: raises the rate. Returns true if it has reached the maximum again.
    pub(super) fn speed_up(&self) -> bool {
        let mut rate = self.rate();
        rate.halvings = 0;
        if rate.per_second >= self.max_rate {
            return false;
        }
        // In a second as many successes follow as the rate allows, so the increase in a second is the same at every rate.
        let raised = rate.per_second + self.max_rate / SECONDS_TO_MAX / rate.per_second;
        rate.per_second = raised.min(self.max_rate);
        raised >= self.max_rate
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn per_second(throttle: &Throttle) -> f64 {
        throttle.rate().per_second
    }

    /// Returns the time that `requests` take.
    async fn time(throttle: &Throttle, requests: u32) -> Duration {
        let started = Instant::now();
        for _ in 0..requests {
            throttle.wait_for_turn().await;
        }
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_expires_and_is_never_shortened() {
        let throttle = Throttle::new(1000);
        assert_eq!(throttle.paused_for(), None);
        let pause = |seconds| throttle.slow_down(Instant::now(), Some(Duration::from_secs(seconds)));
        pause(0);
        assert_eq!(throttle.paused_for(), Some(MIN_PAUSE));
        pause(30);
        pause(5);
        assert_eq!(throttle.paused_for(), Some(Duration::from_secs(30)));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(throttle.paused_for(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn allows_no_burst_and_loses_no_turn() {
        for (limit, requests, expected) in
            [(10, 101, 10 * SECOND), (1, 4, 3 * SECOND), (500, 1001, 2 * SECOND)]
        {
            let throttle = Throttle::new(limit);
            let took = time(&throttle, requests).await;
            assert!(took >= expected && took < expected + SECOND / 10, "{limit}: {took:?}");
            // A rest is no credit.
            tokio::time::advance(60 * SECOND).await;
            assert!(time(&throttle, 11).await + TIMER_RESOLUTION >= 10 * SECOND / limit, "{limit}");
        }
        assert!(time(&Throttle::new(1_000_000), 5_000).await < SECOND / 10, "the timer is no limit");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_requests_share_the_rate() {
        let throttle = Throttle::new(10);
        let started = Instant::now();
        let turns = futures_util::future::join_all((0..8).map(|_| throttle.wait_for_turn())).await;
        let spread: Vec<_> =
            turns.iter().map(|turn| turn.duration_since(started).as_millis() / 100).collect();
        assert_eq!(spread, [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_halves_the_rate_once_for_all_requests_that_were_under_way() {
        let throttle = Throttle::new(10);
        let sent = Instant::now();
        tokio::time::advance(SECOND).await;
        let told = Some(Duration::from_secs(7));
        for _ in 0..8 {
            assert_eq!(throttle.slow_down(sent, told), SlowDown { per_second: 5.0, pause: 7 * SECOND });
        }
        tokio::time::advance(7 * SECOND).await;
        throttle.slow_down(Instant::now(), told);
        assert!((per_second(&throttle) - 2.5).abs() < 1e-9);
        time(&throttle, 1).await;
        assert!(time(&throttle, 10).await >= 4 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn never_stops_altogether() {
        let throttle = Throttle::new(10);
        for _ in 0..100 {
            tokio::time::advance(SECOND).await;
            throttle.slow_down(Instant::now(), None);
        }
        assert!((per_second(&throttle) - MIN_RATE).abs() < 1e-9);
        time(&throttle, 1).await;
        assert!(time(&throttle, 3).await <= 31 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn successes_raise_the_rate_slowly_to_the_maximum() {
        let throttle = Throttle::new(10);
        assert!(!throttle.speed_up(), "it is at the maximum");
        throttle.slow_down(Instant::now(), None);
        let started = Instant::now();
        while !{
            throttle.wait_for_turn().await;
            throttle.speed_up()
        } {}
        let took = started.elapsed().as_secs();
        assert!((140..160).contains(&took), "from half to all in {took} s");
        assert!((per_second(&throttle) - 10.0).abs() < 1e-9 && !throttle.speed_up());
        // Without requests nothing is known.
        throttle.slow_down(Instant::now(), None);
        tokio::time::advance(3600 * SECOND).await;
        assert!((per_second(&throttle) - 5.0).abs() < 1e-9);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_header_pauses_grow_to_a_minute_until_a_success() {
        let throttle = Throttle::new(10);
        let pause = async || {
            tokio::time::advance(SECOND).await;
            throttle.slow_down(Instant::now(), None).pause.as_secs()
        };
        let mut pauses = Vec::new();
        for _ in 0..6 {
            pauses.push(pause().await);
        }
        assert_eq!(pauses, [5, 10, 20, 40, 65, 65]);
        throttle.speed_up();
        assert_eq!(pause().await, 5);
    }
}
