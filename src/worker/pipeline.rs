//! One job, from its event to its settlement.
//!
//! [`Pipeline::process`] wraps [`Pipeline::archive`], whose steps are: find the project, look at the archived copy, fetch
//! the conversation, download its recordings, commit all of it, announce it. A crash between two steps leaves the job in the
//! queue, and repeating a step changes nothing that is already right. [`JobCoalescer`] and a lock in the archive keep jobs of
//! one conversation from fetching it at the same time.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use futures_util::{FutureExt, StreamExt, future::try_join_all, stream::FuturesUnordered};
use jiff::Timestamp;
use metrics::{counter, gauge, histogram};
use tokio::time::{Instant, timeout};

use super::{
    WorkerConfig,
    announcer::Announcer,
    coalescer::{Admission, AnswerNeed, FetchSlot, JobCoalescer},
    concurrency::{self, ConcurrencyPermit},
    draft::{manifest_draft, other_project_warning},
    failure::{JobFailure, POSTPONED},
    job_log::JobLog,
    parked_recordings::ParkedRecordings,
    recordings::{self, RecordingsStep},
    refresh::Refresher,
    request::{FetchOutcome, FetchRequest},
};
use crate::{
    archive::{Archive, ArchiveError, CommitOutcome, Location, Manifest, StoredConversation},
    clock::Clock,
    event::{self, Discovery},
    polyai::{Conversation, ConversationInfo, PolyAiClient, Project, UnknownProject},
    queue::{History, Job, JobOutcome, LeaseId, Queue, QueueError},
    retry::RetrySchedule,
    telemetry::{ARCHIVE_AGE_METRIC, GaugeGuard, JOB_WAIT_METRIC, trace::Span},
};

/// Bounds one attempt of a job, whatever it waits for. RabbitMQ takes a job back after 30 minutes (`consumer_timeout`).
const ATTEMPT_TIMEOUT: Duration = Duration::from_mins(25);
/// The attempts to settle a job. After the last one the queue settles it when it can, or the lease expires.
const SETTLE_ATTEMPTS: usize = 5;
/// The wait before the second attempt to settle. Each further wait is twice as long.
const FIRST_SETTLE_DELAY: Duration = Duration::from_millis(200);
/// The project name under which a request to several projects is counted.
const SEVERAL_PROJECTS: &str = "";

/// The steps of a job, and the services they use.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) config: WorkerConfig,
    pub(super) schedule: RetrySchedule,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) polyai: Arc<PolyAiClient>,
    pub(super) archive: Archive,
    pub(super) clock: Clock,
    pub(super) coalescer: Arc<JobCoalescer>,
    pub(super) parked: ParkedRecordings,
    pub(super) announcer: Announcer,
    pub(super) refresher: Refresher,
}

/// The parts of a request that only a job has.
#[derive(Clone, Copy)]
pub(super) struct RunningJob<'a> {
    permit: &'a ConcurrencyPermit,
    slot: &'a FetchSlot,
    need: &'a AnswerNeed<'a>,
}

impl Pipeline {
    /// Attempts one job and settles it.
    pub(super) async fn process(&self, job: Job, permit: ConcurrencyPermit) {
        let _running = GaugeGuard::increment(gauge!("polyhook_jobs_running"));
        let Job { message, history, lease } = job;
        let (started, attempt, is_first) =
            (Instant::now(), history.failures + 1, history.attempt_count() == 0);
        let span = Span::job(message.traceparent.as_deref(), &message.id, attempt);
        let request = JobFailure::check_due(&history, self.clock.now())
            .and_then(|()| FetchRequest::from_message(&message, &self.config.environments));
        let requested_at = request.as_ref().ok().and_then(|request| Some(request.as_ref()?.received_at));
        let waited = self.clock.now().duration_since(requested_at.unwrap_or(message.received_at));
        let result = match request {
            Ok(Some(mut request)) => {
                request.correct_receipt(&history, self.clock.now());
                let attempt = self.attempt(&request, &history, &permit);
                Box::pin(span.in_scope(attempt)).await
            }
            Ok(None) => Ok(FetchOutcome::Skipped),
            Err(failure) => Err(failure),
        };
        let elapsed = started.elapsed();
        histogram!("polyhook_job_seconds").record(elapsed.as_secs_f64());

        let (label, settlement) = match &result {
            Ok(outcome) => (outcome.label(), JobOutcome::Done),
            Err(failure) => failure.settlement(&self.schedule, history, self.clock.now()),
        };
        counter!("polyhook_jobs_total", "outcome" => label).increment(1);
        if is_first && label != POSTPONED {
            histogram!(JOB_WAIT_METRIC).record(waited.as_secs_f64().max(0.0));
        }
        span.set_attribute("polyhook.outcome", label);
        if let Err(failure) = &result {
            span.set_error(failure.reason);
        }
        let traceparent = message.traceparent.clone().or_else(|| span.traceparent());
        JobLog { message: &message, outcome: label, attempt, elapsed, traceparent }
            .write(&result, &settlement);
        if !matches!(settlement, JobOutcome::Retry { .. })
            && let Some(id) = &message.conversation_id
        {
            self.parked.forget(id);
        }
        if let Err(error) = self.settle(lease, settlement).await {
            tracing::warn!(event.id = message.id, %error, "the job could not be settled, so it will be repeated");
        }
    }

    /// Archives the conversation of a job, unless another job of the same conversation does that, or has done it.
    async fn attempt(
        &self,
        request: &FetchRequest,
        history: &History,
        permit: &ConcurrencyPermit,
    ) -> Result<FetchOutcome, JobFailure> {
        // Many jobs of a project whose API hangs come back every few seconds. They must cost little.
        let (candidates, _) =
            self.polyai.candidates(request.account_id.as_deref(), request.project_id.as_deref());
        if let [project] = candidates[..] {
            check_not_held_up(permit, project)?;
        }
        let is_last_attempt = self.schedule.is_exhausted_by(history.counted_failures() + 1);
        let need = AnswerNeed::of(request, history, is_last_attempt, self.queue.clock_tolerance());
        let slot = match self.coalescer.admit(request, &need, self.clock.now()) {
            Admission::Fetch(slot) => slot,
            Admission::Answered(result) => {
                result?;
                if let Some(refresh) = request.refresh() {
                    self.refresher.schedule(refresh, self.clock.now()).await?;
                }
                return Ok(FetchOutcome::Coalesced);
            }
            Admission::Wait(after) => return Err(JobFailure::coalesced(after)),
        };
        let Some(mut lock) = self.archive.try_fetch_lock(&request.conversation_id).await? else {
            return Err(JobFailure::coalesced(slot.wait_for_other_worker()));
        };
        let job = RunningJob { permit, slot: &slot, need: &need };
        let result = tokio::select! {
            biased;
            result = run_attempt(self.archive(request, Some(job))) => result,
            never = lock.keep() => match never {},
        };
        lock.release().await;
        slot.finish(request, &need, &result);
        result
    }

    /// Archives and announces one conversation. A request that is not a job is always fetched, and there is one attempt: in
    /// the last attempt, a recording that cannot be had is left out.
    pub(super) async fn archive(
        &self,
        request: &FetchRequest,
        job: Option<RunningJob<'_>>,
    ) -> Result<FetchOutcome, JobFailure> {
        if let Some(refresh) = request.refresh() {
            let (permit, need) = job.map(|job| (job.permit, job.need)).unzip();
            return self.refresher.run(request, refresh, permit, need).await;
        }
        let (candidates, unknown_project) =
            self.polyai.candidates(request.account_id.as_deref(), request.project_id.as_deref());
        let candidates = self.without_erased(candidates, &request.conversation_id).await?;
        if candidates.is_empty() {
            return Ok(FetchOutcome::Erased);
        }
        let expected = self.read_expected(request, &candidates, job.is_some()).await?;
        if let (Some(job), Some((location, Some(stored)))) = (job, &expected)
            && self.needs_no_fetch(request, job.need, stored)
        {
            job.slot.set_began(stored.manifest.timings.fetched_at);
            return self.finish(request, "known", location, stored.manifest.clone(), None).await;
        }
        if let Some(job) = job {
            job.slot.set_began(self.clock.now());
        }
        let permit = job.map(|job| job.permit);
        let (project, conversation) =
            self.fetch(&candidates, unknown_project.as_ref(), request, permit).await?;
        let info = &conversation.info;
        if !self.is_wanted(request, info) {
            return Ok(FetchOutcome::Skipped);
        }
        if info.in_progress {
            return Err(self.still_in_progress(request));
        }
        let started_at = info.started_at.unwrap_or(request.received_at);
        let location = locate(project, request, started_at);
        let stored = match expected {
            Some((expected_location, stored)) if expected_location == location => stored,
            _ => self.archive.read(&location).await?,
        };
        if let Some(stored) = &stored
            && request.has_written(&stored.manifest)
            && !stored.names_bytes(&conversation.json)
        {
            // An earlier attempt wrote it, but may not have announced it, and it is about to be replaced.
            let known = self.announcer.announce(request, "known", &location, stored.manifest.clone()).await?;
            if known.is_none() {
                return Ok(FetchOutcome::Erased);
            }
        }
        let recordings = RecordingsStep {
            config: &self.config,
            polyai: &self.polyai,
            archive: &self.archive,
            clock: &self.clock,
            parked: &self.parked,
            request,
            permit,
            is_last_attempt: job.is_none_or(|job| job.need.is_last_attempt),
            project,
            conversation: &conversation,
            location: &location,
        };
        let committed = self.download_and_commit(recordings, started_at, stored).await?;
        let outcome = match &committed {
            CommitOutcome::Written(manifest) => {
                record_age(manifest);
                "archived"
            }
            CommitOutcome::Unchanged(_) => "unchanged",
            CommitOutcome::Stale(_) => "stale",
        };
        let correlation_id = Some(conversation.correlation_id);
        self.finish(request, outcome, &location, committed.into_manifest(), correlation_id).await
    }

    /// Announces an archived conversation, unless it is erased, and schedules its refresh if this request has written it.
    async fn finish(
        &self,
        request: &FetchRequest,
        outcome: &'static str,
        location: &Location,
        manifest: Manifest,
        correlation_id: Option<String>,
    ) -> Result<FetchOutcome, JobFailure> {
        let Some(mut archived) = self.announcer.announce(request, outcome, location, manifest).await? else {
            return Ok(FetchOutcome::Erased);
        };
        archived.correlation_id = correlation_id;
        if request.has_written(&archived.manifest) {
            self.refresher.schedule_first(&archived.manifest).await?;
        }
        Ok(FetchOutcome::Archived(archived))
    }

    /// Downloads the recordings and commits the conversation with them, unless the archive has all of it already.
    async fn download_and_commit(
        &self,
        recordings: RecordingsStep<'_>,
        started_at: Timestamp,
        stored: Option<StoredConversation>,
    ) -> Result<CommitOutcome, JobFailure> {
        let RecordingsStep { request, conversation, location, .. } = recordings;
        if let Some(stored) = &stored
            && !request.force()
            && recordings.is_covered_by(stored)
        {
            return Ok(CommitOutcome::Unchanged(stored.manifest.clone()));
        }
        let mut fetched = recordings.download(stored.as_ref()).await?;
        fetched.warnings.extend(other_project_warning(recordings.project, &conversation.info));
        let draft = manifest_draft(request, conversation, started_at, fetched.audio, fetched.warnings);
        let span = Span::internal("archive commit");
        let commit = self.archive.commit(location, &draft, conversation.json.clone(), fetched.staged);
        Ok(commit.await.inspect_err(|_| span.set_error("archive"))?)
    }

    /// Reads the archived copy of the conversation of a job from where it should be. Returns `None` if that is not known:
    /// the event names no project, and there are several.
    async fn read_expected(
        &self,
        request: &FetchRequest,
        candidates: &[&Project],
        is_job: bool,
    ) -> Result<Option<(Location, Option<StoredConversation>)>, ArchiveError> {
        let ([project], true) = (candidates, is_job) else { return Ok(None) };
        let location = locate(project, request, request.expected_start());
        let stored = self.archive.read(&location).await?;
        Ok(Some((location, stored)))
    }

    /// Returns whether the archived copy is what the job would fetch. That is so if it was fetched after the event had
    /// arrived, and for a conversation that was found missing and is not: its webhook was late, or it was found twice.
    fn needs_no_fetch(
        &self,
        request: &FetchRequest,
        need: &AnswerNeed<'_>,
        stored: &StoredConversation,
    ) -> bool {
        if request.force() || !stored.is_intact() || !stored.is_final() {
            return false;
        }
        let was_missing =
            matches!(&request.discovery, Some(Discovery { started_at: Some(_), is_refetch: false, .. }));
        (was_missing && !stored.lacks_recording())
            || (recordings::are_as_configured(&self.config, &stored.manifest)
                && need.is_met_by(&stored.manifest, self.clock.now()))
    }

    /// Returns the projects in which the conversation was not erased. In the others, removes what a worker wrote during
    /// the erasure before it died.
    async fn without_erased<'a>(
        &self,
        projects: Vec<&'a Project>,
        conversation_id: &str,
    ) -> Result<Vec<&'a Project>, ArchiveError> {
        let checks = projects.iter().map(|project| {
            self.archive.remove_if_erased(project.account_id(), project.project_id(), conversation_id)
        });
        let erased = try_join_all(checks).await?;
        let remaining = projects.into_iter().zip(erased).filter(|(_, erased)| !erased);
        Ok(remaining.map(|(project, _)| project).collect())
    }

    /// Fetches the conversation from its project. If there are several candidates (the quickstart's events name no
    /// project, others name one that is not configured under this name), asks all of them at once, so that the error of one
    /// neither hides nor delays what another has.
    async fn fetch<'a>(
        &self,
        candidates: &[&'a Project],
        unknown_project: Option<&UnknownProject>,
        request: &FetchRequest,
        permit: Option<&ConcurrencyPermit>,
    ) -> Result<(&'a Project, Conversation), JobFailure> {
        let (id, hint) = (&request.conversation_id, &request.hint());
        if let [project] = candidates {
            let name = project.project_id();
            permit.map_or(Ok(()), |permit| check_not_held_up(permit, project))?;
            let answer = self.polyai.conversation(project, id, hint);
            let conversation = concurrency::wait_for_answer(permit, name, answer).await?;
            return Ok((project, conversation));
        }
        let mut answers: FuturesUnordered<_> = candidates
            .iter()
            .map(|project| async move { (*project, self.polyai.conversation(project, id, hint).await) })
            .collect();
        let first_success = async {
            let (mut errors, mut other_owner) = (Vec::new(), None);
            while let Some((project, answer)) = answers.next().await {
                match answer {
                    Ok(conversation) if names_other(&conversation.info, project, candidates) => {
                        other_owner = Some((project, conversation));
                    }
                    Ok(conversation) => return Ok((project, conversation)),
                    Err(error) => errors.push((project.project_id(), error)),
                }
            }
            other_owner.ok_or_else(|| JobFailure::of_all_projects(errors, unknown_project))
        };
        concurrency::wait_for_answer(permit, SEVERAL_PROJECTS, first_success).await
    }

    /// Returns whether the environment of a conversation is to be archived. An unknown one is.
    fn is_wanted(&self, request: &FetchRequest, info: &ConversationInfo) -> bool {
        let environment = info.environment.as_deref().unwrap_or(event::UNKNOWN);
        request.any_environment
            || environment == event::UNKNOWN
            || self.config.environments.iter().any(|wanted| wanted == environment)
    }

    fn still_in_progress(&self, request: &FetchRequest) -> JobFailure {
        let age = self.clock.now().duration_since(request.received_at);
        JobFailure::still_in_progress(Duration::try_from(age).unwrap_or_default())
    }

    /// Settles a job. Transient errors of the queue are retried.
    async fn settle(&self, lease: LeaseId, outcome: JobOutcome) -> Result<(), QueueError> {
        let delays = ExponentialBuilder::new()
            .with_min_delay(FIRST_SETTLE_DELAY)
            .with_max_times(SETTLE_ATTEMPTS - 1)
            .without_max_delay();
        (|| self.queue.settle(lease, outcome.clone())).retry(delays).when(QueueError::is_transient).await
    }
}

/// Records how old a call is that is archived for the first time.
fn record_age(manifest: &Manifest) {
    if manifest.revision > 1 {
        return;
    }
    let archived_at = manifest.timings.archived_at;
    if let Some(ended_at) = manifest.facts.ended_at() {
        let age = archived_at.duration_since(ended_at).as_secs_f64().max(0.0);
        histogram!(ARCHIVE_AGE_METRIC, "trigger" => manifest.provenance.trigger.as_str()).record(age);
    }
}

/// Returns an error if the project has reached its share of waiting jobs.
fn check_not_held_up(permit: &ConcurrencyPermit, project: &Project) -> Result<(), JobFailure> {
    let name = project.project_id();
    if permit.is_held_up(name) { Err(JobFailure::held_up(name)) } else { Ok(()) }
}

/// Ends an attempt that panics or does not end.
async fn run_attempt(
    archive: impl Future<Output = Result<FetchOutcome, JobFailure>>,
) -> Result<FetchOutcome, JobFailure> {
    match timeout(ATTEMPT_TIMEOUT, AssertUnwindSafe(archive).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(JobFailure::panicked()),
        Err(_) => Err(JobFailure::attempt_timed_out(ATTEMPT_TIMEOUT)),
    }
}

/// Returns whether an answer from `project` names another one of `candidates`, whose own answer is better.
fn names_other(info: &ConversationInfo, project: &Project, candidates: &[&Project]) -> bool {
    let is_of = |project: &Project| project.has_ids(info.account_id.as_deref(), info.project_id.as_deref());
    !is_of(project) && candidates.iter().any(|candidate| is_of(candidate))
}

fn locate(project: &Project, request: &FetchRequest, started_at: Timestamp) -> Location {
    Location::new(project.account_id(), project.project_id(), &request.conversation_id, started_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::failure::RetryDecision;

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_does_not_end_is_a_failure_of_the_job() {
        let started = Instant::now();
        let failure = run_attempt(std::future::pending()).await.unwrap_err();
        assert_eq!((failure.reason, failure.next), ("timeout", RetryDecision::Retry(None)));
        assert_eq!(started.elapsed(), ATTEMPT_TIMEOUT);
        // RabbitMQ takes a job back after this time.
        assert!(ATTEMPT_TIMEOUT < Duration::from_mins(30));
    }
}
