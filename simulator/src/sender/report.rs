//! The outcome of an attempt and the report of a delivery.

use serde::Serialize;

/// The outcome of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum AttemptOutcome {
    /// The receiver answered.
    Answered {
        /// The HTTP status.
        status: u16,
    },
    /// The receiver did not answer in time.
    Timeout,
    /// The connection failed.
    Network,
}

impl AttemptOutcome {
    /// Returns true if PolyAI regards the event as delivered.
    pub fn accepted(self) -> bool {
        matches!(self, Self::Answered { status: 200..=299 })
    }

    /// Returns true if PolyAI sends the event again.
    pub fn retried(self) -> bool {
        matches!(self, Self::Timeout | Self::Network | Self::Answered { status: 408 | 429 | 500..=599 })
    }
}

/// The report of one finished delivery.
#[derive(Clone, Debug, Serialize)]
pub struct DeliveryReport {
    /// The event's id.
    pub id: String,
    /// The event's type.
    pub event_type: String,
    /// The conversation, if the event is about one.
    pub conversation_id: Option<String>,
    /// The number of attempts.
    pub tries: u32,
    /// The outcome of the last attempt.
    #[serde(flatten)]
    pub outcome: AttemptOutcome,
    /// The outcomes of all earlier attempts.
    pub earlier: Vec<AttemptOutcome>,
    /// The duration of the last attempt in milliseconds, exact to a microsecond.
    pub latency_ms: f64,
    /// True if this is a deliberate duplicate.
    pub duplicate: bool,
}
