//! The `[reconcile]` section.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

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

impl ReconcileConfig {
    /// Returns everything that is wrong with the section.
    pub fn problems(&self) -> Vec<Problem> {
        if self.every.is_zero() || self.lookback >= self.settle {
            return Vec::new();
        }
        let message = "it is below reconcile.settle, so every call would be too new or too old to be found; the default is 24h";
        vec![Problem::new("reconcile.lookback", message).with("reconcile.settle")]
    }
}
