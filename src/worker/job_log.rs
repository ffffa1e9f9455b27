//! The log line of a job, one for each attempt.

use std::time::Duration;

use super::{
    failure::JobFailure,
    request::{ArchivedConversation, FetchOutcome, RefreshOutcome},
};
use crate::{
    queue::{JobOutcome, Message},
    shell,
    telemetry::trace::Traceparent,
};

/// The fields that every line has.
pub(super) struct JobLog<'a> {
    pub(super) message: &'a Message,
    pub(super) outcome: &'static str,
    pub(super) attempt: usize,
    pub(super) elapsed: Duration,
    /// The trace of the delivery, or of this attempt alone.
    pub(super) traceparent: Option<String>,
}

impl JobLog<'_> {
    /// Writes the line. `settlement` is what the queue does with the job.
    pub(super) fn write(&self, result: &Result<FetchOutcome, JobFailure>, settlement: &JobOutcome) {
        let Self { message, outcome, attempt, .. } = self;
        let (elapsed_ms, trace_id) = (self.elapsed_ms(), self.trace_id());
        let refresh = match result {
            Ok(FetchOutcome::Refreshed(refreshed)) => Some(refreshed.label()),
            _ => None,
        };
        match result {
            Ok(
                FetchOutcome::Archived(archived) | FetchOutcome::Refreshed(RefreshOutcome::Updated(archived)),
            ) => {
                let ArchivedConversation { conversation_id, manifest, correlation_id, .. } =
                    archived.as_ref();
                tracing::info!(
                    outcome,
                    refresh,
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
                    polyai.correlation_id = correlation_id,
                    "job done: {}",
                    done(result)
                );
            }
            Ok(_) => tracing::info!(
                outcome,
                refresh,
                attempt,
                elapsed_ms,
                trace_id,
                event.id = message.id,
                conversation.id = refresh.and(message.conversation_id.as_deref()),
                "job done: {}",
                done(result)
            ),
            Err(failure) => self.write_failure(failure, settlement),
        }
    }

    fn write_failure(&self, failure: &JobFailure, settlement: &JobOutcome) {
        let Self { message, outcome, attempt, .. } = self;
        let (elapsed_ms, trace_id) = (self.elapsed_ms(), self.trace_id());
        let JobFailure { reason, detail, status, correlation_id, .. } = failure;
        if let JobOutcome::Retry { after, .. } = settlement {
            tracing::info!(
                outcome,
                attempt,
                elapsed_ms,
                trace_id,
                event.id = message.id,
                reason,
                status,
                polyai.correlation_id = correlation_id,
                retry_in_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX),
                "job waits for its next attempt: {detail}"
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
                polyai.correlation_id = correlation_id,
                "job is a dead letter: {detail}; when the cause is fixed: polyhook dead replay {}",
                shell::last_argument(&message.id)
            );
        }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    fn trace_id(&self) -> Option<&str> {
        Some(Traceparent::parse(self.traceparent.as_deref()?)?.trace_id)
    }
}

/// Returns what a finished job has done.
fn done(result: &Result<FetchOutcome, JobFailure>) -> &'static str {
    match result {
        Ok(FetchOutcome::Archived(archived)) => match archived.outcome {
            "unchanged" => "fetched the conversation; the archive had the same bytes",
            "stale" => "fetched the conversation; the archive had a newer copy and keeps it",
            "known" => "the archive had the conversation already, so it was not fetched",
            _ => "archived the conversation",
        },
        Ok(FetchOutcome::Refreshed(refresh)) => match refresh {
            RefreshOutcome::Updated(_) => {
                "fetched the conversation again; it had changed and is a new revision"
            }
            RefreshOutcome::Unchanged => "fetched the conversation again; it had not changed",
            RefreshOutcome::Stale => {
                "fetched the conversation again; the archive had a newer copy and keeps it"
            }
            RefreshOutcome::Gone => "PolyAI no longer has the conversation; the archive keeps it",
            RefreshOutcome::Skipped => "the conversation needed no second fetch",
        },
        Ok(FetchOutcome::Skipped) => "the environment of the event is not in worker.environments",
        Ok(FetchOutcome::Coalesced) => "another job has fetched the conversation since the event arrived",
        Ok(FetchOutcome::Erased) => "the conversation was erased on request and stays out of the archive",
        Err(_) => "",
    }
}
