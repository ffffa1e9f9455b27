//! `[reconcile]`

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[reconcile]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileConfig {
    /// How often PolyAI's list is compared with the archive; `0s`: `run` and `work` never do.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub every: Duration,
    /// How far back.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub lookback: Duration,
    /// How long after its end a call is left alone: its webhook is on its way.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub settle: Duration,
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_mins(15),
            lookback: Duration::from_hours(24),
            settle: Duration::from_mins(5),
        }
    }
}
