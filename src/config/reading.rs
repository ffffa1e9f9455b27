//! Reads a configuration and collects everything that is wrong with it.

use std::collections::BTreeSet;

use super::{
    Config, ConfigError, Roles, Sources,
    error::LocatedProblem,
    layers::Layers,
    origin::{Origin, file_only_adds},
};
use crate::problem::Problem;

/// A configuration that has been read, and its errors so far.
#[derive(Debug)]
pub struct Reading {
    config: Config,
    problems: Vec<LocatedProblem>,
    /// The keys whose values are not known, because they are wrong or in files that cannot be read.
    unknown: BTreeSet<String>,
    /// True if a part of the configuration file could not be read, so that a missing key may be there.
    is_partial: bool,
}

impl Reading {
    /// Reads all layers and the files of secrets.
    pub fn new(sources: &Sources) -> Self {
        Self::with(Layers::merge(sources), false)
    }

    /// Does the same, but `signature.secrets_file` may be missing: the command may have to create it.
    pub fn with_optional_secrets_file(sources: &Sources) -> Self {
        Self::with(Layers::merge(sources), true)
    }

    fn with(layers: Layers, may_secrets_file_be_missing: bool) -> Self {
        let Layers { mut config, problems, broken, is_partial } = layers;
        config.unwrap_secrets();
        let is_missing = |path: &mut std::path::PathBuf| may_secrets_file_be_missing && !path.exists();
        let missing = config.signature.secrets_file.take_if(is_missing);
        let unreadable = config.read_secret_files();
        config.signature.secrets_file = missing.or(config.signature.secrets_file);
        let mut reading = Self { config, problems, unknown: broken, is_partial };
        reading.add(&unreadable);
        reading.unknown.extend(unreadable.iter().map(|problem| problem.key().to_owned()));
        reading
    }

    /// Adds everything that keeps a process with these roles from working.
    #[must_use]
    pub fn check(mut self, roles: Roles) -> Self {
        self.add(&self.config.problems(roles));
        self
    }

    /// Adds errors that were found elsewhere, except those that may be the consequence of another one.
    pub fn add(&mut self, problems: &[Problem]) {
        for problem in problems {
            let located = self.config.locate(problem);
            if self.is_certain(problem) && !self.problems.contains(&located) {
                self.problems.push(located);
            }
        }
    }

    /// Returns whether no error was found so far.
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// Returns the configuration. The keys with errors may have their defaults.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the configuration, or all errors in the order of the layers and lines.
    pub fn finish(mut self) -> Result<Config, ConfigError> {
        if self.problems.is_empty() {
            return Ok(self.config);
        }
        // What is missing comes last: the other errors are easier to understand.
        self.problems.sort_by(|a, b| {
            let rank = |problem: &LocatedProblem| *problem.origin() == Origin::Default;
            rank(a).cmp(&rank(b)).then_with(|| a.cmp(b))
        });
        Err(ConfigError(self.problems))
    }

    /// Returns whether the problem would exist without the others.
    fn is_certain(&self, problem: &Problem) -> bool {
        problem.keys().all(|key| {
            let is_known = !self
                .unknown
                .iter()
                .any(|unknown| concerns(unknown, key) && !(file_only_adds(key) && unknown != key));
            let is_set = self.config.origins.find(key).is_some();
            let suggestions = || self.problems.iter().filter_map(LocatedProblem::suggestion);
            let is_misspelled = || suggestions().any(|meant| concerns(meant, key));
            is_known && (is_set || !self.is_partial && !is_misspelled())
        })
    }
}

/// Returns whether one key is the other one, its file, or a part of it.
fn concerns(one: &str, other: &str) -> bool {
    let plain = |key: &str| key.strip_suffix("_file").unwrap_or(key).to_owned();
    let (one, other) = (plain(one), plain(other));
    let is_below = |key: &str, section: &str| {
        key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    is_below(&one, &other) || is_below(&other, &one)
}
