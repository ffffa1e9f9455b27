//! What is wrong although the process goes on: the conditions that a person should know of.
//!
//! A service reports a condition when it begins and clears it when it is over. Each change is logged once,
//! `/readyz` lists what is open, and so does the metric `polyhook_condition`. None of them makes the process unready: that is the queue's word alone.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use metrics::gauge;

/// The open conditions of this process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    open: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Health {
    /// `what` (a constant word) is wrong; `text` says what happened, what it means and what to do, and nothing
    /// private. Logged when it is new; a text that only counts on is not said again.
    pub fn set_degraded(&self, what: &'static str, text: impl Into<String>) {
        let text = text.into();
        if self.open().insert(what, text.clone()).is_none() {
            gauge!("polyhook_condition", "condition" => what).set(1.0);
            tracing::warn!(condition = what, "degraded: {text}");
        }
    }

    /// `what` is in order (again).
    pub fn clear(&self, what: &'static str) {
        if self.open().remove(what).is_some() {
            gauge!("polyhook_condition", "condition" => what).set(0.0);
            tracing::info!(condition = what, "no longer degraded");
        }
    }

    /// All open conditions, by word.
    pub fn conditions(&self) -> Vec<(&'static str, String)> {
        self.open().iter().map(|(what, text)| (*what, text.clone())).collect()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_is_open() {
        let health = Health::default();
        health.set_degraded("clock", "600 s off");
        health.clone().set_degraded("broker", "away");
        health.set_degraded("clock", "700 s off");
        assert_eq!(health.conditions(), [("broker", "away".to_owned()), ("clock", "700 s off".to_owned())]);
        health.clear("clock");
        health.clear("spool");
        assert_eq!(health.conditions().len(), 1);
    }
}
