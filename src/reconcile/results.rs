//! The results of the passes over all projects so far, as the progress object keeps them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Says whether the passes succeed. A pass is complete without failures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PassResults {
    /// End of the last complete pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) completed_at: Option<Timestamp>,
    /// Start of the first pass that failed since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failing_since: Option<Timestamp>,
    /// The failure of the last pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
    /// The windows that the last pass could not read for a reason that is not in them, such as a rejected key.
    #[serde(default)]
    pub(super) blocked_windows: usize,
}

impl PassResults {
    /// Notes the result of a pass.
    pub(super) fn note(&mut self, failures: &[String], started_at: Timestamp, ended_at: Timestamp) {
        self.failure = failures.split_first().map(|(first, others)| match others.len() {
            0 => first.clone(),
            more => format!("{first}; and {more} more"),
        });
        if failures.is_empty() {
            (self.completed_at, self.failing_since) = (Some(ended_at), None);
        } else {
            self.failing_since.get_or_insert(started_at);
        }
    }

    /// Returns the end of the last complete pass. If there was none, returns the start of the first pass that failed, so
    /// that an alert can fire. `None`: no pass has ended.
    pub(super) fn last_success(&self) -> Option<Timestamp> {
        self.completed_at.or(self.failing_since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_complete_pass_while_passes_fail() {
        let at = |minute: i64| Timestamp::from_second(60 * minute).unwrap();
        let failures = ["project p: the key is rejected".to_owned(), "project q: timeout".to_owned()];
        let mut results = PassResults::default();
        assert_eq!(results.last_success(), None);
        results.note(&failures[..1], at(1), at(2));
        results.note(&failures, at(3), at(4));
        assert_eq!(results.last_success(), Some(at(1)), "an alert needs a time although no pass succeeded");
        assert_eq!(results.failure.as_deref(), Some("project p: the key is rejected; and 1 more"));
        results.note(&[], at(5), at(6));
        assert_eq!((results.completed_at, &results.failure), (Some(at(6)), &None));
        results.note(&failures, at(7), at(8));
        assert_eq!((results.completed_at, results.last_success()), (Some(at(6)), Some(at(6))));
    }
}
