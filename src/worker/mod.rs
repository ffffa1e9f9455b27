//! Turns a job into an archived and announced conversation.
//!
//! A worker leases a job from the queue, fetches the conversation and its recordings, writes them to the archive (manifest
//! last), announces the conversation to the index and to consumers, and only then settles the job. A crash before that leaves the job in the queue, and
//! repeating it changes nothing that is already right. Every failure has a decision ([`RetryDecision`]): another attempt
//! at a known time, or a dead letter that says what a person must do.
//!
//! During a shutdown the worker takes no new job. Running jobs get [`FINISH_TIMEOUT`]; those that have not ended by then
//! go back to the queue at once.

mod announce;
mod announcer;
mod coalescer;
mod concurrency;
mod config;
mod draft;
mod erase;
mod failure;
mod job_log;
mod parked_recordings;
mod pipeline;
mod recording_check;
mod recordings;
mod refresh;
mod request;

use std::{sync::Arc, time::Duration};

use metrics::{counter, gauge};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    archive::Archive, clock::Clock, index::Index, lifecycle::Lifecycle, polyai::PolyAiClient, queue::Queue,
    retry::RetrySchedule,
};

use announcer::Announcer;
use coalescer::JobCoalescer;
use concurrency::ConcurrencyLimiter;
use parked_recordings::ParkedRecordings;
use pipeline::Pipeline;
use refresh::Refresher;

pub use announce::{announcement_of, schemas};
pub use config::{AudioChoice, RefreshConfig, WorkerConfig};
pub use erase::{ErasedProject, ErasureReport, ErasureRequest};
pub use failure::{JobFailure, RetryDecision};
pub use request::{ArchivedConversation, FetchOutcome, FetchRequest, RefreshOutcome};

/// The time that running jobs get after the start of a shutdown.
pub const FINISH_TIMEOUT: Duration = Duration::from_secs(7);

/// Returns the largest number of jobs that wait for PolyAI's answers without a permit. With one project there is no other
/// job that could run meanwhile.
fn max_waiting_jobs(concurrency: usize, projects: usize) -> usize {
    if projects > 1 { concurrency } else { 0 }
}

/// Returns the largest number of jobs that a worker has leased at a time.
pub fn max_held_jobs(concurrency: usize, projects: usize) -> usize {
    concurrency.saturating_add(max_waiting_jobs(concurrency, projects))
}

/// The settings of a worker.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// `[worker]`
    pub worker: WorkerConfig,
    /// `[refresh]`
    pub refresh: RefreshConfig,
    /// The delays of `[retry]`.
    pub schedule: RetrySchedule,
    /// True if the worker notes what it archives for the index.
    pub notes_changes: bool,
}

/// Takes jobs from the queue; see the [module](self).
#[derive(Clone, Debug)]
pub struct Worker {
    pipeline: Arc<Pipeline>,
    index: Index,
}

impl Worker {
    /// Creates a worker for the jobs of `queue`. `index` is that of `archive`.
    pub fn new(
        settings: WorkerSettings,
        queue: Arc<dyn Queue>,
        polyai: Arc<PolyAiClient>,
        archive: Archive,
        index: Index,
        clock: Clock,
    ) -> Self {
        let WorkerSettings { worker: config, refresh, schedule, notes_changes } = settings;
        let (coalescer, parked) = (Arc::<JobCoalescer>::default(), ParkedRecordings::default());
        let announcer = Announcer { queue: Arc::clone(&queue), archive: archive.clone(), notes_changes };
        let refresher = Refresher {
            ages: refresh.ages(),
            queue: Arc::clone(&queue),
            polyai: Arc::clone(&polyai),
            archive: archive.clone(),
            clock: clock.clone(),
            announcer: announcer.clone(),
        };
        let pipeline = Pipeline {
            config,
            schedule,
            queue,
            polyai,
            archive,
            clock,
            coalescer,
            parked,
            announcer,
            refresher,
        };
        Self { pipeline: Arc::new(pipeline), index }
    }

    /// Processes jobs until the shutdown. `worker.concurrency` limits how many run at a time.
    pub async fn run(self, lifecycle: Lifecycle) {
        let pipeline = &self.pipeline;
        let draining = lifecycle.draining();
        // They are exported from the beginning, because an absent gauge is not zero, and the first step of a counter counts.
        gauge!("polyhook_jobs_running").increment(0.0);
        gauge!("polyhook_jobs_waiting").increment(0.0);
        counter!("polyhook_hidden_transcripts_total").increment(0);
        let limiter = ConcurrencyLimiter::new(pipeline.config.concurrency, pipeline.polyai.projects().len());
        let mut running = JoinSet::new();
        loop {
            let next = async {
                let permit = limiter.acquire().await?;
                Some((permit, pipeline.queue.next().await.ok()?))
            };
            let next = tokio::select! {
                biased;
                () = draining.cancelled() => None,
                next = next => next,
            };
            let Some((permit, job)) = next else { break };
            let pipeline = Arc::clone(pipeline);
            running.spawn(async move { pipeline.process(job, permit).await });
            while running.try_join_next().is_some() {}
        }
        let finish = async { while running.join_next().await.is_some() {} };
        if timeout(FINISH_TIMEOUT, finish).await.is_err() {
            tracing::warn!(jobs = running.len(), "unfinished jobs go back to the queue");
        }
    }

    /// Fetches, archives and announces one conversation now, outside the queue. There is one attempt: a recording that
    /// cannot be had is left out.
    pub async fn archive_now(&self, request: &FetchRequest) -> Result<FetchOutcome, JobFailure> {
        self.pipeline.archive(request, None).await
    }
}
