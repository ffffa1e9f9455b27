//! From a job to an archived, announced conversation.
//!
//! A job is leased from the queue, its conversation and recordings are fetched, written to the archive
//! (manifest last), announced, and only then is the job acknowledged. A crash anywhere before that leaves the
//! job in the queue; doing it again changes nothing that is already right. Every failure says what follows:
//! another try at a known time, or a dead letter that names what a person must do.
//!
//! At a drain no new job is taken, running ones get [`FINISH_TIMEOUT`], and what is still unfinished goes back
//! to the queue at once.

mod announce;
mod config;
mod erase;
mod failure;
mod job;
mod recordings;
mod slots;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use metrics::{counter, gauge, histogram};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

use crate::{
    archive::Archive,
    clock::Clock,
    lifecycle::Lifecycle,
    polyai::PolyAiClient,
    queue::{History, Job, JobOutcome, LeaseId, Queue, QueueError},
    retry::RetrySchedule,
    telemetry::{
        GaugeGuard, JOB_WAIT_METRIC,
        trace::{Span, Traceparent},
    },
};

use slots::{Slot, Slots};

pub use announce::schemas;
pub use config::{AudioChoice, WorkerConfig};
pub use erase::{ErasedProject, ErasureReport, ErasureRequest};
pub use failure::{JobFailure, RetryDecision};
pub use job::{ArchivedConversation, FetchOutcome, FetchRequest};

/// How long running jobs may take after the drain has started.
pub const FINISH_TIMEOUT: Duration = Duration::from_secs(7);
/// A `Retry-After` of nothing at all would be a tight loop, and one of a century a job that is lost.
const SHORTEST_KNOWN: Duration = Duration::from_secs(1);
const LONGEST_KNOWN: Duration = Duration::from_hours(24);
/// A settlement that fails is tried again this often; after that the lease runs out by itself.
const SETTLE_TRIES: u32 = 5;

/// How many jobs may wait for answers of PolyAI's beside those that work: with one project there is nobody to
/// make room for.
fn waiting_jobs(concurrency: usize, projects: usize) -> usize {
    if projects > 1 { concurrency } else { 0 }
}

/// How many jobs a worker may hold at a time.
pub fn max_held_jobs(concurrency: usize, projects: usize) -> usize {
    concurrency.saturating_add(waiting_jobs(concurrency, projects))
}

/// Fetches, archives and announces.
#[derive(Clone, Debug)]
pub struct Worker {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: WorkerConfig,
    ladder: RetrySchedule,
    queue: Arc<dyn Queue>,
    polyai: Arc<PolyAiClient>,
    archive: Archive,
    clock: Clock,
}

impl Worker {
    /// A worker on `queue`.
    pub fn new(
        config: WorkerConfig,
        ladder: RetrySchedule,
        queue: Arc<dyn Queue>,
        polyai: Arc<PolyAiClient>,
        archive: Archive,
        clock: Clock,
    ) -> Self {
        Self { inner: Arc::new(Inner { config, ladder, queue, polyai, archive, clock }) }
    }

    /// Takes jobs until the drain, `concurrency` at a time.
    pub async fn run(self, lifecycle: Lifecycle) {
        let draining = lifecycle.draining();
        let slots = Slots::new(self.inner.config.concurrency, self.inner.polyai.projects().len());
        let mut running = JoinSet::new();
        loop {
            let next = async {
                let slot = slots.take().await?;
                Some((slot, self.inner.queue.next().await.ok()?))
            };
            let (slot, job) = tokio::select! {
                biased;
                () = draining.cancelled() => break,
                next = next => match next {
                    Some(next) => next,
                    None => break,
                },
            };
            let worker = self.clone();
            running.spawn(async move {
                worker.inner.handle(job, slot).await;
            });
            while running.try_join_next().is_some() {}
        }
        let finish = async { while running.join_next().await.is_some() {} };
        if timeout(FINISH_TIMEOUT, finish).await.is_err() {
            tracing::warn!(jobs = running.len(), "unfinished jobs go back to the queue");
        }
    }

    /// Fetches, archives and announces one conversation now, outside the queue.
    pub async fn archive_now(&self, request: &FetchRequest) -> Result<FetchOutcome, JobFailure> {
        self.inner.archive_and_announce(request, None).await
    }
}

impl Inner {
    /// One try of one job, to its settlement.
    async fn handle(&self, job: Job, slot: Slot) {
        let _counted = GaugeGuard::increment(gauge!("polyhook_jobs_running"));
        let Job { message, mut history, lease } = job;
        if history.attempt_count() == 0 {
            let waited = self.clock.now().duration_since(message.received_at);
            histogram!(JOB_WAIT_METRIC).record(waited.as_secs_f64().max(0.0));
        }
        let started = Instant::now();
        let span = Span::job(message.traceparent.as_deref(), &message.id, history.failures + 1);
        let result = match FetchRequest::of_message(&message, &self.config.environments) {
            Ok(Some(request)) => {
                AssertUnwindSafe(span.in_scope(self.archive_and_announce(&request, Some(&slot))))
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|_| Err(JobFailure::panicked()))
            }
            Ok(None) => Ok(FetchOutcome::Skipped),
            Err(failure) => Err(failure),
        };
        let elapsed = started.elapsed();
        histogram!("polyhook_job_seconds").record(elapsed.as_secs_f64());

        let attempt = history.failures + 1;
        let (label, outcome) = match &result {
            Ok(done) => (done.label(), JobOutcome::Done),
            Err(failure) => self.after(failure, &mut history),
        };
        counter!("polyhook_jobs_total", "outcome" => label).increment(1);
        span.set_attribute("polyhook.outcome", label);
        if let Err(failure) = &result {
            span.set_error(failure.reason);
        }
        let traceparent = message.traceparent.clone().or_else(|| span.traceparent());
        let line = JobLine { message: &message, outcome: label, attempt, elapsed, traceparent };
        line.log(&result, &outcome);
        if let Err(error) = self.settle(lease, outcome).await {
            tracing::warn!(event.id = message.id, %error, "the job could not be settled and will be done again");
        }
    }

    /// What follows a failure.
    fn after(&self, failure: &JobFailure, history: &mut History) -> (&'static str, JobOutcome) {
        if let RetryDecision::Postpone(after) = failure.next {
            return ("postponed", JobOutcome::Retry { after, history: history.clone() });
        }
        let attempt = failure.attempt(self.clock.now());
        match failure.next {
            // A call that lasts an hour must not have used up the tries for real trouble after it.
            RetryDecision::Wait(_) => history.push_wait(attempt),
            _ => history.push(attempt),
        }
        let after = match failure.next {
            RetryDecision::Dead => None,
            RetryDecision::Retry(known) => self
                .ladder
                .delay(history.failures.saturating_sub(history.waits))
                .map(|rung| known.map_or(rung, |known| known.clamp(SHORTEST_KNOWN, LONGEST_KNOWN))),
            RetryDecision::Wait(left) => {
                let rung = self.ladder.delay(history.waits).or_else(|| self.ladder.last());
                Some(rung.unwrap_or(left).min(left))
            }
            RetryDecision::Postpone(after) => Some(after),
        };
        if let Some(after) = after {
            ("retried", JobOutcome::Retry { after, history: history.clone() })
        } else {
            counter!("polyhook_dead_letters_total", "reason" => failure.reason).increment(1);
            ("dead", JobOutcome::Dead { history: history.clone() })
        }
    }

    /// A settlement is as good as the queue is; trouble that passes is waited for.
    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        let mut pause = Duration::from_millis(200);
        for _ in 1..SETTLE_TRIES {
            match self.queue.settle(lease, outcome.clone()).await {
                Err(QueueError::Unavailable(_) | QueueError::Timeout(_) | QueueError::Refused(_)) => {}
                other => return other,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.queue.settle(lease, outcome).await
    }
}

/// One line a try.
struct JobLine<'a> {
    message: &'a crate::queue::Message,
    outcome: &'static str,
    attempt: usize,
    elapsed: Duration,
    /// The delivery's trace, or that of this try alone.
    traceparent: Option<String>,
}

impl JobLine<'_> {
    fn log(&self, result: &Result<FetchOutcome, JobFailure>, settled: &JobOutcome) {
        let Self { message, outcome, attempt, elapsed, traceparent } = self;
        let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let trace_id = traceparent.as_deref().and_then(Traceparent::parse).map_or("", |trace| trace.trace_id);
        match result {
            Ok(FetchOutcome::Archived(archived)) => {
                let ArchivedConversation { conversation_id, manifest, .. } = archived.as_ref();
                tracing::info!(
                    outcome,
                    attempt,
                    elapsed_ms,
                    trace_id,
                    event.id = message.id,
                    conversation.id = conversation_id,
                    revision = manifest.revision,
                    objects = manifest.objects.len(),
                    archived_bytes = manifest.objects.iter().map(|object| object.size_bytes).sum::<u64>(),
                    audio = manifest.audio.status.as_str(),
                    api = manifest.provenance.served_by.as_str(),
                    "job"
                );
            }
            Ok(_) => tracing::info!(outcome, attempt, elapsed_ms, trace_id, event.id = message.id, "job"),
            Err(failure) => {
                let JobFailure { reason, detail, status, correlation_id, .. } = failure;
                let correlation = correlation_id.as_deref().unwrap_or_default();
                if let JobOutcome::Retry { after, .. } = settled {
                    tracing::info!(
                        outcome,
                        attempt,
                        elapsed_ms,
                        trace_id,
                        event.id = message.id,
                        reason,
                        status,
                        polyai.correlation_id = correlation,
                        retry_in_s = after.as_secs(),
                        "job: {detail}"
                    );
                } else {
                    tracing::error!(
                        outcome,
                        attempt,
                        elapsed_ms,
                        trace_id,
                        event.id = message.id,
                        reason,
                        status,
                        polyai.correlation_id = correlation,
                        "job is a dead letter: {detail}"
                    );
                }
            }
        }
    }
}
