//! The recordings of a call, from PolyAI into the archive's hands, never held in memory.

use futures_util::StreamExt;

use super::{
    Inner,
    failure::{JobFailure, RetryDecision},
    job::{FetchRequest, answered, covers},
    slots::Slot,
};
use crate::{
    archive::{
        self, AudioError, AudioStatus, AudioSummary, Location, Manifest, StagedAudio, StoredConversation,
    },
    polyai::{AudioDirection, Conversation, ErrorKind, Project, Recording},
    telemetry::trace::Span,
};

/// What became of the recordings.
pub(super) enum Recordings {
    /// The archive has this very conversation with all its recordings: nothing is downloaded again.
    AlreadyThere(Box<Manifest>),
    /// What is to be committed.
    Fetched {
        /// Whether they are there, and if not, why.
        audio: AudioSummary,
        /// Stored, but not visible yet.
        staged: Vec<StagedAudio>,
        /// For the manifest.
        warnings: Vec<String>,
    },
}

impl Inner {
    pub(super) async fn recordings(
        &self,
        request: &FetchRequest,
        slot: Option<&Slot>,
        project: &Project,
        conversation: &Conversation,
        location: &Location,
        stored: Option<&StoredConversation>,
    ) -> Result<Recordings, JobFailure> {
        let directions = self.config.audio.directions();
        let redacted = self.config.redacted;
        let none = |status| Recordings::Fetched {
            audio: AudioSummary { status, redacted },
            staged: Vec::new(),
            warnings: Vec::new(),
        };
        if directions.is_empty() {
            return Ok(none(AudioStatus::Disabled));
        }
        if !conversation.summary.is_voice() {
            return Ok(none(AudioStatus::NotApplicable));
        }
        let names: Vec<_> = directions.iter().copied().map(archived_as).collect();
        if let Some(stored) = stored.filter(|stored| {
            covers(stored, conversation, &names) && stored.manifest.audio.redacted == redacted
        }) {
            return Ok(Recordings::AlreadyThere(Box::new(stored.manifest.clone())));
        }

        let mut staged = Vec::new();
        let mut warnings = Vec::new();
        for direction in directions {
            let asked = self.polyai.audio(project, &request.conversation_id, *direction, redacted);
            match answered(slot, project.project_id(), asked).await {
                Ok(recording) => {
                    let span = Span::internal("archive recording");
                    let stored = self.stage(location, *direction, recording).await;
                    staged.push(stored.inspect_err(|failure| span.set_error(failure.reason))?);
                }
                Err(error) if matches!(error.kind, ErrorKind::RecordingNotFound | ErrorKind::NotServed) => {
                    let since = self.clock.now().duration_since(request.recording_due(&conversation.summary));
                    let since = std::time::Duration::try_from(since).unwrap_or_default();
                    if let Some(left) =
                        self.config.audio_wait.checked_sub(since).filter(|left| !left.is_zero())
                    {
                        return Err(JobFailure {
                            reason: "recording_not_ready",
                            next: RetryDecision::Wait(left),
                            ..JobFailure::from(error)
                        });
                    }
                    if error.kind == ErrorKind::NotServed {
                        tracing::warn!(
                            conversation.id = request.conversation_id,
                            "archived without a recording, because no host serves the path of recordings: check polyai.api and the hosts"
                        );
                    }
                    warnings.push(format!(
                        "recording_absent: PolyAI had no {} recording ({})",
                        direction.label(),
                        error.kind.label()
                    ));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let status = if warnings.is_empty() { AudioStatus::Ready } else { AudioStatus::Absent };
        Ok(Recordings::Fetched { audio: AudioSummary { status, redacted }, staged, warnings })
    }

    /// Streams one recording; what is not a whole WAV is never kept.
    async fn stage(
        &self,
        location: &Location,
        direction: AudioDirection,
        recording: Recording,
    ) -> Result<StagedAudio, JobFailure> {
        let Recording { mut body, content_length, content_type, correlation_id } = recording;
        let bad = |what: String| JobFailure {
            correlation_id: correlation_id.clone(),
            status: Some(200),
            ..JobFailure::new(
                "bad_recording",
                format!("{what}; it is not archived but asked for again"),
                RetryDecision::Retry(None),
            )
        };
        if content_type.as_deref().is_some_and(|kind| !is_audio(kind)) {
            return Err(bad("the answer to a request for audio is of another content type".to_owned()));
        }
        let mut writer = self.archive.recording_writer(location, archived_as(direction)).await?;
        let failed = |error: AudioError| match error {
            AudioError::Bad(error) => bad(format!("the recording is not whole: {error}")),
            AudioError::Archive(error) => error.into(),
        };
        while let Some(part) = body.next().await {
            writer.write(part?).await.map_err(failed)?;
        }
        writer.finish(content_length).await.map_err(failed)
    }
}

/// `audio/*`, or the types of servers that do not know better.
fn is_audio(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind.starts_with("audio/") || matches!(kind.as_str(), "application/octet-stream" | "binary/octet-stream")
}

fn archived_as(direction: AudioDirection) -> archive::Direction {
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
    fn pages_are_no_audio() {
        assert!(
            is_audio("audio/wav")
                && is_audio("Audio/X-WAV; rate=8000")
                && is_audio("application/octet-stream")
        );
        assert!(!is_audio("text/html; charset=utf-8") && !is_audio("application/json"));
    }
}
