//! Polling until a condition holds.

use std::time::{Duration, Instant};

/// Bounds every wait of a test; no step takes this long, even on a busy machine.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_mins(2);

/// Polls `check` until it returns true. Panics after [`TEST_TIMEOUT`].
#[track_caller]
pub(crate) fn eventually(expectation: &str, check: impl FnMut() -> bool) {
    eventually_within(TEST_TIMEOUT, expectation, check);
}

/// Polls `check` until it returns true. Panics after `limit`.
#[track_caller]
pub(crate) fn eventually_within(limit: Duration, expectation: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !check() {
        assert!(Instant::now() < deadline, "not {expectation} within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
