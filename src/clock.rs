//! The single source of wall-clock time.
//!
//! All code that compares or records a time takes it from a [`Clock`], so that a test can move a service ten minutes
//! into the past or let six hours pass at once. `clippy.toml` bans the other sources. Durations are measured with
//! [`std::time::Instant`], which a clock change does not affect.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

/// A source of the current time: the system's clock, or a manual one for tests and simulations.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clock.
    #[default]
    System,
    /// Milliseconds since the Unix epoch. Only [`Clock::advance`] changes them.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// Creates a clock that stays at `start` until it is advanced.
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.as_millisecond())))
    }

    /// Returns the current time.
    #[expect(clippy::disallowed_methods, reason = "this is the injected clock")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(ms) => {
                Timestamp::from_millisecond(ms.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Moves a manual clock forward. Does nothing on the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(ms) = self {
            ms.fetch_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}
