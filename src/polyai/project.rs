//! A configured project: its ids, its targets, and what polyhook has learned about its APIs.

use std::{sync::Arc, time::Duration};

use thiserror::Error;

use super::{
    Api, Target,
    config::{ApiChoice, ConfigError, PolyAiConfig, ProjectConfig},
    data_access::DataAccess,
    fallback::PreferredRoute,
    key::Key,
    throttle::Throttle,
};
use crate::secret::Secret;

/// A configured project.
#[derive(Debug)]
pub struct Project {
    account_id: String,
    #[expect(clippy::struct_field_names, reason = "PolyAI's name for it, next to account_id")]
    project_id: String,
    /// v3 first, then the Data API; without those that the configuration or the region excludes.
    targets: Vec<Target>,
    pub(super) conversation_route: PreferredRoute,
    pub(super) audio_route: PreferredRoute,
    pub(super) list_route: PreferredRoute,
    pub(super) data_access: DataAccess,
    pub(super) throttle: Throttle,
}

/// An event belongs to no configured project.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "the event is of account {account:?}, project {project:?}, which is not configured: add it to [[projects]]"
)]
pub struct UnknownProject {
    /// The account that the event names.
    pub account: String,
    /// The project that the event names.
    pub project: String,
}

impl UnknownProject {
    pub(super) fn new(account: Option<&str>, project: Option<&str>) -> Self {
        let name = |id: Option<&str>| id.unwrap_or("(none)").chars().take(100).collect();
        Self { account: name(account), project: name(project) }
    }
}

impl Project {
    /// Checks the configuration of a project.
    pub(super) fn new(config: &PolyAiConfig, project: &ProjectConfig) -> Result<Self, ConfigError> {
        if let Some(error) = Self::errors(config, project).into_iter().next() {
            return Err(error);
        }
        let targets = Target::configured(config, project)?;
        Ok(Self {
            account_id: project.account_id.clone(),
            project_id: project.project_id.clone(),
            data_access: DataAccess::new(&targets),
            targets,
            conversation_route: PreferredRoute::default(),
            audio_route: PreferredRoute::default(),
            list_route: PreferredRoute::default(),
            throttle: Throttle::new(config.max_requests_per_second),
        })
    }

    /// Returns everything that is wrong with the configuration of a project.
    pub(super) fn errors(config: &PolyAiConfig, project: &ProjectConfig) -> Vec<ConfigError> {
        let name = || match project.project_id.as_str() {
            "" => "without an id".to_owned(),
            id => id.to_owned(),
        };
        let mut errors = Vec::new();
        for (name, id) in [("account_id", &project.account_id), ("project_id", &project.project_id)] {
            if id.is_empty() || matches!(id.as_str(), "." | "..") {
                errors.push(ConfigError::EmptyId(name));
            }
        }
        if project.api_key.is_empty() {
            errors.push(ConfigError::MissingKey(name()));
        }
        for (key, is_data) in [(Some(&project.api_key), false), (project.data_api_key.as_ref(), true)] {
            let problem = key.and_then(Secret::token_problem);
            errors.extend(problem.map(|problem| ConfigError::WrongKey { project: name(), problem, is_data }));
        }
        let choice = project.api.unwrap_or(config.api);
        match config.hosts(project.region, choice) {
            Ok(hosts) if choice == ApiChoice::V3 && hosts.runtime.is_none() => {
                errors.push(ConfigError::StudioHasNoV3(name()));
            }
            Ok(_) if errors.is_empty() => errors.extend(Target::configured(config, project).err()),
            Ok(_) => {}
            Err(error) => errors.push(error),
        }
        errors
    }

    /// Returns the account id as configured. It is part of every key in the archive.
    pub fn account_id(&self) -> &str {
        &self.account_id
    }

    /// Returns the project id as configured. It is part of every key in the archive.
    pub fn project_id(&self) -> &str {
        &self.project_id
    }

    /// Returns how much longer a 429 pauses the project.
    pub fn paused_for(&self) -> Option<Duration> {
        self.throttle.paused_for()
    }

    /// Returns whether v3 may be asked about it.
    pub fn uses_v3(&self) -> bool {
        self.targets().iter().any(|target| target.api() == Api::V3)
    }

    /// Returns the keys of the project that PolyAI rejects, in words.
    pub(super) fn key_rejections(&self) -> Vec<String> {
        let routes = [&self.conversation_route, &self.audio_route, &self.list_route];
        let mut errors: Vec<_> = routes.into_iter().filter_map(PreferredRoute::key_rejection).collect();
        errors.sort();
        errors.dedup();
        errors.into_iter().map(|error| format!("project {}: {error}", self.project_id)).collect()
    }

    /// Forgets rejections of the keys, because one of them has changed.
    pub(super) fn forget_rejections(&self) {
        self.data_access.forget_refusal();
        for route in [&self.conversation_route, &self.audio_route, &self.list_route] {
            route.forget_key_rejection();
        }
    }

    /// Returns whether PolyAI served a recording of this project in the last hour.
    pub fn has_served_recordings(&self) -> bool {
        self.audio_route.worked_lately()
    }

    /// Returns the targets: v3 first, then the Data API.
    pub(super) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Returns each key of the project once.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        let mut keys: Vec<_> = self.targets.iter().map(Target::key).collect();
        keys.dedup_by(|one, other| Arc::ptr_eq(one, other));
        keys.into_iter().map(AsRef::as_ref)
    }

    /// Returns whether the project has these ids. An absent id fits every project.
    pub fn has_ids(&self, account: Option<&str>, project: Option<&str>) -> bool {
        account.is_none_or(|id| id == self.account_id) && project.is_none_or(|id| id == self.project_id)
    }
}
