//! The `[reconcile]` section.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[reconcile]`
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReconcileConfig {
    /// Interval at which PolyAI's list is compared with the archive. `0s`: `run` and `work` do not reconcile.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub every: Duration,
    /// Age up to which conversations are compared.
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
            every: Duration::from_mins(15),
            lookback: Duration::from_hours(24),
            settle: Duration::from_mins(5),
        }
    }
}
