//! The configuration: composed of the modules' own types, read in layers, checked, and shown without secrets.
//!
//! Layers, of which later ones win: built-in defaults, the quickstarts' `POLYAI_*` variables, the TOML file
//! (`--config` or `POLYHOOK_CONFIG`), `POLYHOOK__SECTION__KEY` variables, `--set section.key=value`. An
//! invalid configuration ends the process with exit code 78 before any socket is bound. The error for an unknown key
//! names the nearest known key. No message shows a value that may be a secret.

mod keys;
mod layers;
mod quickstart;
mod setting;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    archive::{Archive, ArchiveConfig},
    clock::Clock,
    polyai::{self, PolyAiConfig, ProjectConfig},
    queue::{QueueBackend, QueueConfig, QueueUrls, SpoolConfig},
    reconcile::ReconcileConfig,
    retry::RetryConfig,
    secret::Secret,
    telemetry::{self, LogConfig, trace::TracingConfig},
    web::{AdminConfig, SecretsFile, ServerConfig, SignatureConfig, TriggerConfig},
    worker::{RefreshConfig, WorkerConfig},
};

pub use layers::Sources;

/// All configuration keys. `config/polyhook.example.toml` explains each.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The public listener.
    pub server: ServerConfig,
    /// The listener for liveness, readiness and metrics.
    pub admin: AdminConfig,
    /// The verification of deliveries.
    pub signature: SignatureConfig,
    /// The trigger: your own code names a conversation to fetch.
    pub trigger: TriggerConfig,
    /// The queue between receiver and worker.
    pub queue: QueueConfig,
    /// The local file that stores deliveries while RabbitMQ is not reachable.
    pub spool: SpoolConfig,
    /// PolyAI's APIs.
    pub polyai: PolyAiConfig,
    /// The projects whose conversations are fetched.
    pub projects: Vec<ProjectConfig>,
    /// The worker, which fetches and archives.
    pub worker: WorkerConfig,
    /// The delays before a failed job is tried again.
    pub retry: RetryConfig,
    /// The later fetches of archived conversations.
    pub refresh: RefreshConfig,
    /// The archive of conversations.
    pub archive: ArchiveConfig,
    /// The search for conversations that no webhook announced.
    pub reconcile: ReconcileConfig,
    /// Logs.
    pub log: LogConfig,
    /// Spans.
    pub tracing: TracingConfig,
    /// True if the variables of PolyAI's current quickstart are set, which registers no webhook.
    #[serde(skip)]
    pub names_no_webhook: bool,
}

/// The tasks of a process. They determine which settings it requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Accepts deliveries. Requires a signing secret.
    pub receive: bool,
    /// Fetches and archives. Requires a project and an archive.
    pub work: bool,
    /// Finds conversations that no webhook announced. Requires a project and an archive.
    pub reconcile: bool,
}

impl Roles {
    /// `polyhook run`
    pub const ALL: Self = Self { receive: true, work: true, reconcile: true };
    /// `polyhook receive`
    pub const RECEIVE: Self = Self { receive: true, work: false, reconcile: false };
    /// `polyhook work`
    pub const WORK: Self = Self { receive: false, work: true, reconcile: true };
    /// `polyhook reconcile`
    pub const RECONCILE: Self = Self { receive: false, work: false, reconcile: true };
    /// A command that requires none of them.
    pub const NONE: Self = Self { receive: false, work: false, reconcile: false };

    /// Returns true if the process accepts deliveries and does nothing else, so that it only publishes to the queue.
    pub fn only_receives(self) -> bool {
        self.receive && !self.work && !self.reconcile
    }
}

/// An error in a configuration, for the person who wrote it.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{}, line {line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's message, without the line itself: it may contain a secret.
        message: String,
    },
    /// A key that does not exist.
    #[error("{0}")]
    UnknownKey(keys::UnknownKey),
    /// A value of the wrong type or form.
    #[error("{0}")]
    Value(String),
    /// All values can be parsed, but they are not valid together.
    #[error("{}", .0.join("\n"))]
    Invalid(Vec<String>),
}

impl Config {
    /// Reads and merges all layers, and the files that hold secrets.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        let mut config: Self = layers::merge(sources)?;
        config.unwrap_secrets();
        config.read_secret_files()?;
        Ok(config)
    }

    /// Like [`Config::load`], but `signature.secrets_file` may be missing: the command may have to create it.
    pub fn load_with_optional_secrets_file(sources: &Sources) -> Result<Self, ConfigError> {
        let mut config: Self = layers::merge(sources)?;
        config.unwrap_secrets();
        let missing = config.signature.secrets_file.take_if(|path| !path.exists());
        config.read_secret_files()?;
        config.signature.secrets_file = missing.or(config.signature.secrets_file);
        Ok(config)
    }

    /// Returns the ages at which a process with these roles refreshes conversations. A receiver refreshes none.
    pub fn refresh_ages(&self, roles: Roles) -> Vec<Duration> {
        if roles.only_receives() { Vec::new() } else { self.refresh.ages() }
    }

    /// Checks everything that `roles` require. Returns all problems at once.
    pub fn check(&self, roles: Roles) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        if roles.receive {
            if !self.works_without_webhook(roles) {
                problems.extend(self.signature.problem());
            }
            self.check_receiver(&mut problems);
        }
        if roles.work || roles.reconcile {
            self.check_archiving(&mut problems);
        }
        if !(0.0..=0.9).contains(&self.retry.jitter) {
            problems.push("retry.jitter must be between 0 and 0.9".to_owned());
        }
        match self.queue.backend() {
            Ok(QueueBackend::Sqlite(path)) if path == self.spool.path => problems.push(
                "spool.path is the embedded queue's own file; the spool is for RabbitMQ: leave it empty"
                    .to_owned(),
            ),
            Ok(_) => {}
            Err(error) => problems.push(format!("queue.url: {error}")),
        }
        problems.extend(self.tracing.problem());
        problems.extend(telemetry::validate_level(&self.log.level).err().map(|error| error.to_string()));
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// Returns whether a process of these roles needs no signing secret: the trigger has a token, or reconciliation finds the
    /// conversations, because PolyAI's current quickstart registers no webhook. Deliveries are answered 503 then.
    pub fn works_without_webhook(&self, roles: Roles) -> bool {
        let reconciles = roles.reconcile && !self.reconcile.every.is_zero();
        self.signature.is_unset() && (self.trigger.is_on() || self.names_no_webhook && reconciles)
    }

    /// Checks what the receiver requires, except for secrets.
    fn check_receiver(&self, problems: &mut Vec<String>) {
        problems.extend(self.server.path_problem());
        problems.extend(self.trigger.problem(&self.server.path).or_else(|| self.reused_token_problem()));
        if self.server.ack_budget < Duration::from_millis(200) {
            problems.push(
                "server.ack_budget is below 200ms, which is too short to make a delivery durable".to_owned(),
            );
        }
        if self.server.max_in_flight == 0 {
            problems.push("server.max_in_flight is 0, so every delivery would be rejected".to_owned());
        }
        if self.server.max_connections == Some(0) {
            problems.push("server.max_connections is 0, so every delivery would be rejected".to_owned());
        }
        if self.server.idle_timeout < Duration::from_secs(1) {
            problems.push(
                "server.idle_timeout is below 1s, so almost no connection could be used twice; set it above the idle timeout of the load balancer"
                    .to_owned(),
            );
        }
    }

    /// Returns an error text if a token of the trigger is another secret as well: whoever may name a conversation could then
    /// sign deliveries, or read all conversations.
    fn reused_token_problem(&self) -> Option<String> {
        let signing = self.signature.valid(Clock::System.now());
        let keys =
            self.projects.iter().flat_map(|project| [Some(&project.api_key), project.data_api_key.as_ref()]);
        let others: Vec<_> = keys.flatten().chain(&signing).collect();
        let is_reused = self.trigger.is_on() && self.trigger.tokens().any(|token| others.contains(&token));
        is_reused.then(|| {
            "a trigger token is a signing secret or an API key, which the token's holder would then have; make a new token (`openssl rand -hex 32`)"
                .to_owned()
        })
    }

    /// Checks what the worker and reconciliation require.
    fn check_archiving(&self, problems: &mut Vec<String>) {
        if self.projects.is_empty() {
            problems.push(
                "no project is configured, so no conversation could be fetched: add [[projects]] with account_id, project_id and \
                 api_key_file, or set the variables of PolyAI's quickstart (POLYAI_AGENT_ID or POLYAI_PROJECT_ID, POLYAI_API_KEY, …)"
                    .to_owned(),
            );
        }
        let polyai = polyai::check_config(&self.polyai, &self.projects);
        problems.extend(polyai.err().map(|error| error.to_string()));
        problems.extend(Archive::check_config(&self.archive).err().map(|error| error.to_string()));
        if self.worker.concurrency == 0 {
            problems.push("worker.concurrency is 0, so nothing would be fetched".to_owned());
        }
        if self.worker.environments.is_empty() {
            problems.push("worker.environments is empty, so nothing would be archived".to_owned());
        }
        problems.extend(self.refresh.problem());
    }

    /// Returns the JSON Schema of the TOML file.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }

    /// Removes the white space and the quotes around every secret that the configuration itself contains.
    fn unwrap_secrets(&mut self) {
        let urls = match &mut self.queue.url {
            QueueUrls::One(url) => std::slice::from_mut(url),
            QueueUrls::Many(urls) => urls.as_mut_slice(),
        };
        let keys = self
            .projects
            .iter_mut()
            .flat_map(|project| [Some(&mut project.api_key), project.data_api_key.as_mut()])
            .chain([self.archive.secret_access_key.as_mut(), self.trigger.token.as_mut()]);
        for secret in self.signature.secrets.iter_mut().chain(urls).chain(keys.flatten()) {
            *secret = Secret::unwrapped(secret.expose());
        }
    }

    fn read_secret_files(&mut self) -> Result<(), ConfigError> {
        if let Some(path) = &self.signature.secrets_file {
            self.signature.file_secrets = read(path, SecretsFile::read)?;
        }
        if let Some(path) = self.trigger.token_file.as_ref().filter(|_| self.trigger.is_on()) {
            self.trigger.file_tokens = read(path, SecretsFile::read)?;
        }
        if let Some(path) = &self.queue.url_file {
            self.queue.url = QueueUrls::Many(read(path, Secret::read_lines)?);
        }
        for project in &mut self.projects {
            if let Some(path) = &project.api_key_file {
                project.api_key = read(path, Secret::read)?;
            }
            if let Some(path) = &project.data_api_key_file {
                project.data_api_key = Some(read(path, Secret::read)?);
            }
        }
        Ok(())
    }
}

fn read<T>(path: &Path, read: impl Fn(&Path) -> std::io::Result<T>) -> Result<T, ConfigError> {
    read(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}
