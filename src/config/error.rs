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
    /// What is wrong, and what to do.
    error: String,
    /// The part of `error` that says what to do, if it is known by itself.
    #[serde(skip)]
    fix: Option<Box<str>>,
    /// The key that was probably meant.
    #[serde(skip)]
    suggestion: Option<Box<str>>,
}

impl LocatedProblem {
    /// Describes what is wrong with the value of `key` at `origin`, or with the whole place if there is no key.
    pub(super) fn new(origin: Origin, key: Option<String>, error: impl Into<String>) -> Self {
        Self { origin, key, error: error.into(), fix: None, suggestion: None }
    }

    /// Adds what to do.
    pub(super) fn fix(mut self, fix: Option<&str>) -> Self {
        if let Some(fix) = fix {
            self.error = format!("{}; {fix}", self.error);
            self.fix = Some(fix.into());
        }
        self
    }

    /// Returns what is wrong and what to do. The second is `None` if the first says it, too.
    pub fn reason_and_fix(&self) -> (String, Option<&str>) {
        let text = self.to_string();
        let fix = self.fix.as_deref();
        let reason = fix.and_then(|fix| text.strip_suffix(fix)?.strip_suffix("; ")).map(str::to_owned);
        (reason.unwrap_or(text), fix)
    }

    /// Names the key that was probably meant. Its absence is no error of its own.
    pub(super) fn suggesting(self, key: Option<String>) -> Self {
        Self { suggestion: key.map(String::into_boxed_str), ..self }
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
