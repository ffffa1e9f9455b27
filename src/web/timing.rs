//! The time limits of one request.

use std::time::Duration;

use tokio::time::Instant;

/// The part of the ack budget that is reserved for writing the response itself.
const RESPONSE_MARGIN: Duration = Duration::from_millis(50);

/// The time when a request arrived and the time when its response must be ready.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) started: Instant,
    pub(super) deadline: Instant,
    ack_budget: Duration,
}

impl Timing {
    /// Starts the ack budget now.
    pub(super) fn start(ack_budget: Duration) -> Self {
        let started = Instant::now();
        Self { started, deadline: started + ack_budget.saturating_sub(RESPONSE_MARGIN), ack_budget }
    }

    /// Returns the time when the body must have arrived. A quarter of the budget is reserved for making the delivery
    /// durable.
    pub(super) fn read_deadline(self) -> Instant {
        self.deadline - self.ack_budget / 4
    }
}
