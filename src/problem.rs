//! The errors of a configuration. The modules that own the keys find them; `config` adds the place of each value.

use std::{borrow::Cow, fmt};

/// A reason why configuration keys cannot be used as they are. It never contains a value that may be secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    key: Cow<'static, str>,
    related: Vec<&'static str>,
    message: String,
    fix: Option<Cow<'static, str>>,
}

impl Problem {
    /// Describes what is wrong with `key`, and how to fix it unless [`Self::fix`] adds that. If the message begins with the key, it is not repeated.
    pub fn new(key: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        let (key, mut message) = (key.into(), message.into());
        if let Some(rest) = message.strip_prefix(&*key).and_then(|rest| rest.strip_prefix(": ")) {
            message = rest.to_owned();
        }
        Self { key, related: Vec::new(), message, fix: None }
    }

    /// Adds another key on which the problem depends: it may not exist if that key were right.
    #[must_use]
    pub fn with(mut self, related: &'static str) -> Self {
        self.related.push(related);
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Returns the key that a person should look at first.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns all keys on which the problem depends.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.key()).chain(self.related.iter().copied())
    }

    /// Returns what is wrong, without the key and what [`Self::fix`] added.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Returns what to do, if [`Self::fix`] added it.
    pub fn next_step(&self) -> Option<&str> {
        self.fix.as_deref()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        self.fix.iter().try_for_each(|fix| write!(f, "; {fix}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_key_once() {
        let problem = Problem::new("server.path", "server.path: it is empty").with("trigger.path");
        assert_eq!(problem.to_string(), "server.path: it is empty");
        assert_eq!(problem.clone().fix("set it").to_string(), "server.path: it is empty; set it");
        assert_eq!(problem.keys().collect::<Vec<_>>(), ["server.path", "trigger.path"]);
    }
}
