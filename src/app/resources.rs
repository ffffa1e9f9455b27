//! The source and the destination of conversations.

use std::sync::Arc;

use super::{StartError, account};
use crate::{
    archive::Archive,
    clock::Clock,
    config::Config,
    disk::GrowingFile,
    health::Health,
    index::{Index, IndexService},
    polyai::{PolyAiClient, Project},
    queue::{Queue, QueueBackend, SpoolConfig},
    reconcile::ReconcileService,
    retry::RetrySchedule,
    worker::{Worker, WorkerSettings},
};

/// The PolyAI client, the archive and its index. All services of a process share them.
#[derive(Clone, Debug)]
pub struct Resources {
    /// Shared, so that a 429 pauses all requests of its project.
    pub polyai: Arc<PolyAiClient>,
    /// Shared, so that commits are ordered.
    pub archive: Archive,
    /// The index of the archive, which may be disabled.
    pub index: Index,
}

impl Resources {
    /// Opens the resources of a configuration. Sends no request yet.
    pub fn open(config: &Config, clock: &Clock) -> Result<Self, StartError> {
        let polyai = PolyAiClient::new(&config.polyai, &config.projects, clock.clone())?;
        let archive = Archive::open_beside(&config.archive, clock.clone(), growing_files(config))?;
        let index = Index::open(&config.index, archive.clone(), clock.clone()).map_err(StartError::Index)?;
        Ok(Self { polyai: Arc::new(polyai), archive, index })
    }

    /// Opens the resources for a command. Asks PolyAI for the account of a project that names none.
    pub async fn open_for_command(config: &Config, clock: &Clock) -> Result<Self, StartError> {
        Self::open(&account::find(config, clock).await?, clock)
    }

    /// Creates a worker that archives conversations.
    pub fn worker(&self, config: &Config, queue: Arc<dyn Queue>, clock: Clock) -> Worker {
        let Self { polyai, archive, index } = self.clone();
        let settings = WorkerSettings {
            worker: config.worker.clone(),
            refresh: config.refresh.clone(),
            schedule: RetrySchedule::new(&config.retry),
            notes_changes: config.index.enabled,
        };
        Worker::new(settings, queue, polyai, archive, index, clock)
    }

    /// Creates the service that compares PolyAI's lists with the archive.
    pub fn reconciliation(
        &self,
        config: &Config,
        queue: Arc<dyn Queue>,
        clock: Clock,
        health: Health,
    ) -> ReconcileService {
        let Self { polyai, archive, .. } = self.clone();
        let environments = config.worker.environments.clone();
        ReconcileService::new(config.reconcile.clone(), environments, polyai, archive, queue, clock, health)
    }

    /// Creates the service that keeps the index current.
    pub fn index_service(&self, config: &Config, health: Health) -> IndexService {
        let ids = |project: &Project| (project.account_id().to_owned(), project.project_id().to_owned());
        let projects = self.polyai.projects().iter().map(ids).collect();
        IndexService::new(self.index.clone(), projects, config.index.every, health)
    }
}

/// Returns the files that may grow to a configured size, for which the archive leaves space on its disk.
fn growing_files(config: &Config) -> Vec<GrowingFile> {
    let SpoolConfig { path, max_bytes, .. } = &config.spool;
    if path.as_os_str().is_empty() || config.queue.backend() != Ok(QueueBackend::RabbitMq) {
        return Vec::new();
    }
    vec![GrowingFile { path: path.clone(), max_bytes: max_bytes.as_u64() }]
}
