//! The `[index]` section.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::secret::Secret;

/// `[index]`
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IndexConfig {
    /// Keep Parquet tables of calls and turns in the archive. The processes that reconcile do that.
    pub enabled: bool,
    /// Interval at which new calls are added.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub every: Duration,
    /// Phone numbers in the tables.
    pub numbers: NumberMode,
    /// Key of the hashes of phone numbers, at least 16 bytes. Required for `numbers = "hash"`.
    pub numbers_key: Option<Secret>,
    /// File that contains `numbers_key`.
    pub numbers_key_file: Option<PathBuf>,
}

impl Default for IndexConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            every: Duration::from_mins(1),
            numbers: NumberMode::Omit,
            numbers_key: None,
            numbers_key_file: None,
        }
    }
}

/// The form of phone numbers in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NumberMode {
    /// No numbers.
    Omit,
    /// HMAC-SHA256 under `numbers_key`, so that calls of one number can be counted and found.
    Hash,
    /// The numbers as PolyAI sent them.
    Plain,
}
