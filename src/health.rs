//! Conditions that a person should fix although the process goes on.
//!
//! A service sets a condition when it begins and clears it when it ends. Each change is logged once. `/readyz` and the
//! metric `polyhook_condition` show the open conditions. A condition never makes the process unready: only the queue
//! decides that.

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
    /// Opens the condition `name`, or replaces its text. `text` says what happened, what it means and what to do, and
    /// contains nothing private. Only a new condition is logged, so a text with a counter does not fill the log.
    pub fn set_degraded(&self, name: &'static str, text: impl Into<String>) {
        let text = text.into();
        if self.lock().insert(name, text.clone()).is_none() {
            gauge!("polyhook_condition", "condition" => name).set(1.0);
            tracing::warn!(condition = name, "degraded: {text}");
        }
    }

    /// Closes the condition `name`, if it is open.
    pub fn clear(&self, name: &'static str) {
        if self.lock().remove(name).is_some() {
            gauge!("polyhook_condition", "condition" => name).set(0.0);
            tracing::info!(condition = name, "no longer degraded: the condition {name} is over");
        }
    }

    /// Returns the names and texts of all open conditions, sorted by name.
    pub fn conditions(&self) -> Vec<(&'static str, String)> {
        self.lock().iter().map(|(name, text)| (*name, text.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_open_conditions() {
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
