//! The recordings of a call, streamed from PolyAI to the archive. They are never held in memory.

use std::time::Duration;

use futures_util::StreamExt;

use super::{
    WorkerConfig,
    concurrency::{self, ConcurrencyPermit},
    failure::{JobFailure, RetryDecision},
    request::FetchRequest,
};
use crate::{
    archive::{
        self, Archive, AudioError, AudioStatus, AudioSummary, Location, StagedAudio, StoredConversation,
    },
    clock::Clock,
    polyai::{ApiError, AudioDirection, Conversation, ErrorKind, PolyAiClient, Project, Recording},
    telemetry::trace::Span,
};

/// The recordings of one conversation, before the commit.
pub(super) struct FetchedRecordings {
    /// The state of the recordings.
    pub(super) audio: AudioSummary,
    /// The recordings that are stored but not visible yet.
    pub(super) staged: Vec<StagedAudio>,
    /// Warnings for the manifest.
    pub(super) warnings: Vec<String>,
}

/// The step of a job that downloads the recordings of its conversation.
pub(super) struct RecordingsStep<'a> {
    pub(super) config: &'a WorkerConfig,
    pub(super) polyai: &'a PolyAiClient,
    pub(super) archive: &'a Archive,
    pub(super) clock: &'a Clock,
    pub(super) request: &'a FetchRequest,
    pub(super) permit: Option<&'a ConcurrencyPermit>,
    pub(super) project: &'a Project,
    pub(super) conversation: &'a Conversation,
    pub(super) location: &'a Location,
}

impl RecordingsStep<'_> {
    /// Returns whether the archive already has this conversation with all recordings, so that nothing has to be
    /// downloaded.
    pub(super) fn is_covered_by(&self, stored: &StoredConversation) -> bool {
        let directions: Vec<_> = self.directions().iter().copied().map(archive_direction).collect();
        !directions.is_empty()
            && stored.covers(&self.conversation.json, &directions)
            && stored.manifest.audio.redacted == self.config.redacted
    }

    fn directions(&self) -> &'static [AudioDirection] {
        if self.conversation.info.is_voice() { self.config.audio.directions() } else { &[] }
    }

    /// Downloads the recordings. If one does not exist yet, the job waits for it, at most for `worker.audio_wait`; after
    /// that the conversation is archived without it.
    pub(super) async fn download(&self) -> Result<FetchedRecordings, JobFailure> {
        let redacted = self.config.redacted;
        let (mut staged, mut warnings) = (Vec::new(), Vec::new());
        for direction in self.directions() {
            let id = &self.request.conversation_id;
            let opened = self.polyai.audio(self.project, id, *direction, redacted);
            match concurrency::wait_for_answer(self.permit, self.project.project_id(), opened).await {
                Ok(recording) => {
                    let span = Span::internal("archive recording");
                    let stored = self.store(*direction, recording).await;
                    staged.push(stored.inspect_err(|failure| span.set_error(failure.reason))?);
                }
                Err(error) if error.is_absent_recording() => {
                    warnings.push(self.accept_absence(*direction, error)?);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let status = if self.config.audio.directions().is_empty() {
            AudioStatus::Disabled
        } else if !self.conversation.info.is_voice() {
            AudioStatus::NotApplicable
        } else if warnings.is_empty() {
            AudioStatus::Ready
        } else {
            AudioStatus::Absent
        };
        Ok(FetchedRecordings { audio: AudioSummary { status, redacted }, staged, warnings })
    }

    /// Returns the warning about an absent recording, or a failure while it may still appear.
    fn accept_absence(&self, direction: AudioDirection, error: ApiError) -> Result<String, JobFailure> {
        let due = self.request.recording_due(&self.conversation.info);
        let waited = Duration::try_from(self.clock.now().duration_since(due)).unwrap_or_default();
        let left = self.config.audio_wait.checked_sub(waited).filter(|left| !left.is_zero());
        if let Some(left) = left {
            return Err(JobFailure {
                reason: "recording_not_ready",
                next: RetryDecision::Wait(left),
                ..JobFailure::from(error)
            });
        }
        if error.kind == ErrorKind::NotServed {
            tracing::warn!(
                conversation.id = self.request.conversation_id,
                "archived without a recording, because no host serves the path of recordings: check polyai.api and the hosts"
            );
        }
        Ok(format!(
            "recording_absent: PolyAI had no {} recording ({})",
            direction.label(),
            error.kind.label()
        ))
    }

    /// Streams one recording to the archive. A recording that is not a whole WAV file is not kept.
    async fn store(
        &self,
        direction: AudioDirection,
        recording: Recording,
    ) -> Result<StagedAudio, JobFailure> {
        let Recording { mut body, content_length, content_type, correlation_id } = recording;
        let unusable = |problem: String| JobFailure {
            correlation_id: correlation_id.clone(),
            status: Some(200),
            ..JobFailure::new(
                "bad_recording",
                format!("{problem}; it is not archived and is requested again"),
                RetryDecision::Retry(None),
            )
        };
        if content_type.as_deref().is_some_and(|content_type| !is_audio(content_type)) {
            return Err(unusable("the answer to a request for audio has another content type".to_owned()));
        }
        let mut writer = self.archive.recording_writer(self.location, archive_direction(direction)).await?;
        let failed = |error: AudioError| match error {
            AudioError::Bad(error) => unusable(format!("the recording is not whole: {error}")),
            AudioError::Archive(error) => error.into(),
        };
        while let Some(part) = body.next().await {
            writer.write(part?).await.map_err(failed)?;
        }
        writer.finish(content_length).await.map_err(failed)
    }
}

/// Returns whether a content type is `audio/*`, or one that servers use for files they do not know.
fn is_audio(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("audio/")
        || matches!(essence.as_str(), "application/octet-stream" | "binary/octet-stream")
}

fn archive_direction(direction: AudioDirection) -> archive::Direction {
    match direction {
        AudioDirection::Combined => archive::Direction::Combined,
        AudioDirection::User => archive::Direction::User,
        AudioDirection::Agent => archive::Direction::Agent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinguishes_audio_from_pages() {
        for content_type in ["audio/wav", "Audio/X-WAV; rate=8000", "application/octet-stream"] {
            assert!(is_audio(content_type), "{content_type}");
        }
        for content_type in ["text/html; charset=utf-8", "application/json"] {
            assert!(!is_audio(content_type), "{content_type}");
        }
    }
}
