//! The options of a sender.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::signing::{SignatureForm, Tampering};

/// The options of a [`Sender`](super::Sender).
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SenderOptions {
    /// The signed bytes: `timestamped` (the reference) or `body` (the quickstart, which has no other header either).
    pub form: SignatureForm,
    /// The maximum duration of an attempt.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The waits before the second attempt, the third attempt and so on.
    #[serde(with = "crate::durations")]
    pub delays: Vec<Duration>,
    /// The factor of all waits: 0.001 makes a minute 60 ms.
    pub time_scale: f64,
    /// The first attempts per second. Absent means that only the concurrency limits them.
    pub rate: Option<f64>,
    /// The maximum number of concurrent attempts.
    pub concurrency: usize,
    /// The share of deliveries that are sent twice in succession.
    pub duplicates: f64,
    /// The size of the window in which deliveries are shuffled. 0 and 1 keep the order.
    pub reorder: usize,
    /// Additional headers, like those of a registered endpoint.
    pub headers: BTreeMap<String, String>,
    /// The seed of duplicates and order.
    pub seed: u64,
    /// A deliberate defect of every attempt.
    #[serde(skip)]
    pub tampering: Option<Tampering>,
}

impl Default for SenderOptions {
    fn default() -> Self {
        Self {
            form: SignatureForm::Timestamped,
            timeout: Duration::from_secs(5),
            delays: [60, 300, 900, 3_600, 14_400].map(Duration::from_secs).to_vec(),
            time_scale: 1.0,
            rate: None,
            concurrency: 64,
            duplicates: 0.0,
            reorder: 0,
            headers: BTreeMap::new(),
            seed: 1,
            tampering: None,
        }
    }
}
