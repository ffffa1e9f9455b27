//! All that is wrong with a configuration, for the person who wrote it.

use std::fmt;

use serde::Serialize;
use thiserror::Error;

use super::origin::Origin;

/// The errors of a configuration: at least one. One line of text for each.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError(pub(super) Vec<LocatedProblem>);

impl ConfigError {
    /// Returns the errors in the order of the layers and lines.
    pub fn problems(&self) -> &[LocatedProblem] {
        &self.0
    }
}

/// An error, and where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct LocatedProblem {
    #[serde(flatten)]
    origin: Origin,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    error: String,
    /// The key that was probably meant.
    #[serde(skip)]
    suggestion: Option<String>,
}

impl LocatedProblem {
    /// Describes what is wrong with the value of `key` at `origin`, or with the whole place if there is no key.
    pub(super) fn new(origin: Origin, key: Option<String>, error: impl Into<String>) -> Self {
        Self { origin, key, error: error.into(), suggestion: None }
    }

    /// Names the key that was probably meant. Its absence is no error of its own.
    pub(super) fn suggesting(self, key: Option<String>) -> Self {
        Self { suggestion: key, ..self }
    }

    /// Returns the key that was probably meant.
    pub(super) fn suggestion(&self) -> Option<&str> {
        self.suggestion.as_deref()
    }

    /// Returns the place of the value.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Returns true if no layer sets the value.
    pub fn is_missing(&self) -> bool {
        self.origin == Origin::Default
    }

    /// Returns the key, if the error is about one that exists.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

impl fmt::Display for LocatedProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.error)
    }
}
