//! The log line of a job, one for each attempt.

use std::time::Duration;

use super::{
    failure::JobFailure,
    request::{ArchivedConversation, FetchOutcome, RefreshOutcome},
};
use crate::{
    queue::{JobOutcome, Message},
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
                    "job"
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
                "job"
            ),
            Err(failure) => self.write_failure(failure, settlement),
        }
    }

    fn write_failure(&self, failure: &JobFailure, settlement: &JobOutcome) {
        let Self { message, outcome, attempt, .. } = self;
        let (elapsed_ms, trace_id) = (self.elapsed_ms(), self.trace_id());
        let JobFailure { reason, detail, status, correlation_id, .. } = failure;
        let correlation = correlation_id.as_deref().unwrap_or_default();
        if let JobOutcome::Retry { after, .. } = settlement {
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

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX)
    }

    fn trace_id(&self) -> &str {
        self.traceparent.as_deref().and_then(Traceparent::parse).map_or("", |trace| trace.trace_id)
    }
}
