//! The configuration: composed of the modules' own types, read in layers, checked, and shown without secrets.
//!
//! Layers, of which later ones win: built-in defaults, the quickstarts' `POLYAI_*` variables, the TOML file
//! (`--config` or `POLYHOOK_CONFIG`), `POLYHOOK__SECTION__KEY` variables, `--set section.key=value`. An
//! invalid configuration ends the process with exit code 78 before any socket is bound.
//!
//! All errors are reported at once, each with the place of the value: [`Reading`] collects unknown keys and wrong values of
//! each layer, unreadable files, and what the modules say about the merged configuration. An error that may be the
//! consequence of another one is left out. No message shows a value that may be a secret.

mod check;
mod environment;
mod error;
mod file;
mod keys;
mod layers;
mod origin;
mod quickstart;
mod reading;
mod secret_files;
mod shown;
mod value_check;

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    archive::ArchiveConfig,
    console::ConsoleConfig,
    index::IndexConfig,
    polyai::{PolyAiConfig, ProjectConfig},
    queue::{QueueConfig, SpoolConfig},
    reconcile::ReconcileConfig,
    retry::RetryConfig,
    telemetry::{LogConfig, trace::TracingConfig},
    web::{AdminConfig, ServerConfig, SignatureConfig, TriggerConfig},
    worker::{RefreshConfig, WorkerConfig},
};

pub use self::{
    error::{ConfigError, LocatedProblem},
    layers::Sources,
    origin::{Origin, Origins},
    reading::Reading,
    shown::ShownConfig,
};

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
    /// The Parquet tables of calls and turns.
    pub index: IndexConfig,
    /// The pages on which people see and hear calls.
    pub console: ConsoleConfig,
    /// Logs.
    pub log: LogConfig,
    /// Spans.
    pub tracing: TracingConfig,
    /// True if the variables of PolyAI's current quickstart are set, which registers no webhook.
    #[serde(skip)]
    pub names_no_webhook: bool,
    /// The configuration file, if one is named.
    #[serde(skip)]
    pub file: Option<PathBuf>,
    /// The layers that the values come from.
    #[serde(skip)]
    pub origins: Origins,
}

/// The tasks of a process. They determine which settings it requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a process may have any of them")]
pub struct Roles {
    /// Accepts deliveries. Requires a signing secret.
    pub receive: bool,
    /// Fetches and archives. Requires a project and an archive.
    pub work: bool,
    /// Finds conversations that no webhook announced. Requires a project and an archive.
    pub reconcile: bool,
    /// Serves the console, if it is enabled or the only role. Requires an archive.
    pub console: bool,
}

impl Roles {
    /// A command that requires none of them.
    pub const NONE: Self = Self { receive: false, work: false, reconcile: false, console: false };
    /// `polyhook run`
    pub const ALL: Self = Self { receive: true, work: true, reconcile: true, console: true };
    /// `polyhook receive`
    pub const RECEIVE: Self = Self { receive: true, ..Self::NONE };
    /// `polyhook work`
    pub const WORK: Self = Self { work: true, reconcile: true, ..Self::NONE };
    /// `polyhook reconcile`
    pub const RECONCILE: Self = Self { reconcile: true, ..Self::NONE };
    /// `polyhook console`
    pub const CONSOLE: Self = Self { console: true, ..Self::NONE };

    /// Returns true if the process accepts deliveries and does nothing else, so that it only publishes to the queue.
    pub fn only_receives(self) -> bool {
        self.receive && !self.work && !self.reconcile
    }
}

impl Config {
    /// Reads and merges all layers, and the files that hold secrets. Returns all errors at once, except those that depend
    /// on the role of the process.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Reading::new(sources).finish()
    }

    /// Returns the ages at which a process with these roles refreshes conversations. A receiver refreshes none.
    pub fn refresh_ages(&self, roles: Roles) -> Vec<Duration> {
        if roles.only_receives() { Vec::new() } else { self.refresh.ages() }
    }

    /// Returns whether a process of these roles needs no signing secret: the trigger has a token, or reconciliation finds the
    /// conversations, because PolyAI's current quickstart registers no webhook. Deliveries are answered 503 then.
    pub fn works_without_webhook(&self, roles: Roles) -> bool {
        let reconciles = roles.reconcile && !self.reconcile.every.is_zero();
        self.signature.is_unset() && (self.trigger.is_on() || self.names_no_webhook && reconciles)
    }

    /// Returns whether a process of these roles serves the console.
    pub fn serves_console(&self, roles: Roles) -> bool {
        roles.console && (self.console.enabled || roles == Roles::CONSOLE)
    }

    /// Returns the JSON Schema of the TOML file.
    pub fn schema() -> schemars::Schema {
        schemars::schema_for!(Self)
    }
}
