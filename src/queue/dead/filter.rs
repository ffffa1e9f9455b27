//! The dead letters that a person selects.

use std::time::Duration;

use jiff::Timestamp;

use super::DeadLetter;
use crate::event::Event;

/// Properties that a dead letter must have. An empty filter matches every dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// One of these reasons.
    pub reasons: Vec<String>,
    /// An event that names one of these projects.
    pub projects: Vec<String>,
    /// One of these environments.
    pub environments: Vec<String>,
    /// An age above this.
    pub older_than: Option<Duration>,
    /// An age below this.
    pub newer_than: Option<Duration>,
}

impl DeadLetterFilter {
    /// Returns true if it matches every dead letter.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns whether a dead letter has all the properties.
    pub fn matches(&self, letter: &DeadLetter, now: Timestamp) -> bool {
        let age = letter.age(now);
        matches_any(&self.reasons, Some(letter.reason()))
            && matches_any(&self.environments, Some(&letter.message.environment))
            && self.older_than.is_none_or(|least| age > least)
            && self.newer_than.is_none_or(|most| age < most)
            // Reading the event is the expensive part, so it comes last.
            && (self.projects.is_empty()
                || matches_any(&self.projects, Event::read(&letter.message.body).project_id.as_deref()))
    }
}

fn matches_any(wanted: &[String], value: Option<&str>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value))
}
