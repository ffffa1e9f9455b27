//! The `[reconcile]` section.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[reconcile]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileConfig {
    /// Interval at which new calls are looked for in PolyAI's list. `0s`: `run` and `work` do not reconcile.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub every: Duration,
    /// Age up to which calls are looked for: at the first start, and once more when they reach it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub lookback: Duration,
    /// Time after the end of a call during which it is ignored, because its webhook may still come.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub settle: Duration,
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        Self {
            every: Duration::from_mins(1),
            lookback: Duration::from_hours(24),
            settle: Duration::from_secs(30),
        }
    }
}
