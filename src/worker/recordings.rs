//! The recordings of a call, streamed from PolyAI to the archive. They are never held in memory.
//!
//! A recording never takes the transcript with it. While the job has further attempts, a recording that cannot be had is a
//! reason for another one. In the last attempt, or if PolyAI's answer is final, the conversation is archived without the
//! recording, and a warning in the manifest gives the reason.

use std::{fmt, time::Duration};

use futures_util::StreamExt;
use tokio::time::timeout;

use super::{
    WorkerConfig,
    concurrency::{self, ConcurrencyPermit},
    failure::{JobFailure, RetryDecision},
    parked_recordings::{ParkedRecordings, ParkingKey},
    recording_check::{self, CallLength},
    request::FetchRequest,
};
use crate::{
    archive::{
        self, Archive, ArchiveError, AudioError, AudioStatus, AudioSummary, Location, Manifest, StagedAudio,
        StoredConversation,
    },
    clock::Clock,
    polyai::{ApiError, AudioDirection, Conversation, ErrorKind, PolyAiClient, Project, Recording, Route},
    telemetry::trace::Span,
};

/// The longest time for one recording. Two of them fit into one attempt of a job, so that a slow download ends as the
/// failure of a recording and not of the attempt.
const RECORDING_TIMEOUT: Duration = Duration::from_mins(11);

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
    pub(super) parked: &'a ParkedRecordings,
    pub(super) request: &'a FetchRequest,
    pub(super) permit: Option<&'a ConcurrencyPermit>,
    /// After a failure of this attempt there is no other one.
    pub(super) is_last_attempt: bool,
    pub(super) project: &'a Project,
    pub(super) conversation: &'a Conversation,
    pub(super) location: &'a Location,
}

/// The result for one recording that does not prevent the commit.
enum Obtained {
    /// It was downloaded.
    Staged(Box<StagedAudio>),
    /// The archive has it. These are the warnings about it.
    Archived(Vec<String>),
    /// The conversation is archived without it.
    Missing(AudioStatus, String),
}

/// The reason why a recording was not downloaded.
enum DownloadError {
    /// PolyAI did not serve it.
    Api(ApiError),
    /// The bytes are not a recording, or not all of one.
    Unusable { problem: String, correlation_id: String },
    /// It could not be stored.
    Archive(ArchiveError),
    /// It took longer than [`RECORDING_TIMEOUT`].
    TimedOut,
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

    /// Downloads the recordings that the archive does not have. If one does not exist yet, the job waits for it, at most
    /// for `worker.audio_wait`; after that the conversation is archived without it. If the job must wait or try again, the
    /// other recordings are kept for its next attempt.
    pub(super) async fn download(
        &self,
        stored: Option<&StoredConversation>,
    ) -> Result<FetchedRecordings, JobFailure> {
        let call = CallLength::of(&self.conversation.info);
        let mut status = self.initial_status();
        let (mut staged, mut warnings) = (Vec::new(), Vec::new());
        let mut failure: Option<JobFailure> = None;
        for direction in self.directions() {
            match self.obtain(*direction, stored, call).await {
                Ok(Obtained::Staged(audio)) => {
                    if let Some(wav) = &audio.object().wav {
                        warnings.extend(recording_check::warnings(*direction, wav, audio.defects(), call));
                    }
                    staged.push((*direction, *audio));
                }
                Ok(Obtained::Archived(known)) => warnings.extend(known),
                Ok(Obtained::Missing(missing, warning)) => {
                    // One that failed may come later; of one that PolyAI does not have this is less likely.
                    status = if status == AudioStatus::Failed { status } else { missing };
                    warnings.push(warning);
                }
                // A wait does not advance the retry schedule, so another failure comes first.
                Err(other) => match &failure {
                    Some(JobFailure { next: RetryDecision::Retry(_), .. }) => {}
                    _ => failure = Some(other),
                },
            }
        }
        if let Some(failure) = failure {
            self.park(staged).await;
            return Err(failure);
        }
        let staged = staged.into_iter().map(|(_, audio)| audio).collect();
        Ok(FetchedRecordings {
            audio: AudioSummary { status, redacted: self.config.redacted },
            staged,
            warnings,
        })
    }

    /// Returns the state if no recording is missing.
    fn initial_status(&self) -> AudioStatus {
        if self.config.audio.directions().is_empty() {
            AudioStatus::Disabled
        } else if self.conversation.info.is_voice() {
            AudioStatus::Ready
        } else {
            AudioStatus::NotApplicable
        }
    }

    /// Keeps recordings for the next attempt. One that cannot be kept is downloaded again.
    async fn park(&self, staged: Vec<(AudioDirection, StagedAudio)>) {
        for (direction, audio) in staged {
            match audio.store_invisibly().await {
                Ok(audio) => self.parked.put(self.parking_key(direction), audio),
                Err(error) => tracing::debug!(%error, "a recording could not be kept for the next attempt"),
            }
        }
    }

    fn parking_key(&self, direction: AudioDirection) -> ParkingKey {
        ParkingKey::new(self.location, direction, self.config.redacted, &self.conversation.info)
    }

    /// Gets one recording from the archive, from the attempt before, or from PolyAI.
    async fn obtain(
        &self,
        direction: AudioDirection,
        stored: Option<&StoredConversation>,
        call: Option<CallLength>,
    ) -> Result<Obtained, JobFailure> {
        if let Some(stored) = stored.filter(|stored| self.is_archived(direction, stored)) {
            let about = |warning: &&String| recording_check::is_about(warning, direction);
            return Ok(Obtained::Archived(stored.manifest.warnings.iter().filter(about).cloned().collect()));
        }
        if let Some(audio) = self.parked.take(&self.parking_key(direction)) {
            return Ok(Obtained::Staged(Box::new(audio)));
        }
        let downloaded = timeout(RECORDING_TIMEOUT, self.request_recording(direction, call)).await;
        match downloaded.unwrap_or(Err(DownloadError::TimedOut)) {
            Ok(audio) => Ok(Obtained::Staged(Box::new(audio))),
            Err(DownloadError::Api(error)) if self.is_unserved(&error) => Ok(unserved(direction, &error)),
            Err(DownloadError::Api(error))
                if error.is_absent_recording() || self.is_unknown_by_id(&error) =>
            {
                self.accept_absence(direction, error)
            }
            Err(error) => {
                if matches!(error, DownloadError::Archive(_)) {
                    // The disk may be full, and the kept recordings are the least that it needs.
                    self.parked.clear();
                }
                self.give_up(direction, error)
            }
        }
    }

    /// Returns whether the archive has this recording of the same conversation.
    fn is_archived(&self, direction: AudioDirection, stored: &StoredConversation) -> bool {
        !self.request.force()
            && stored.covers(&self.conversation.json, &[archive_direction(direction)])
            && stored.manifest.audio.redacted == self.config.redacted
    }

    /// Requests one recording and streams it to the archive.
    async fn request_recording(
        &self,
        direction: AudioDirection,
        call: Option<CallLength>,
    ) -> Result<StagedAudio, DownloadError> {
        let id = &self.request.conversation_id;
        let opened = self.polyai.audio(self.project, id, direction, self.config.redacted);
        let recording = concurrency::wait_for_answer(self.permit, self.project.project_id(), opened).await?;
        let correlation_id = recording.correlation_id.clone();
        let span = Span::internal("archive recording");
        let audio =
            self.store(direction, recording).await.inspect_err(|error| span.set_error(error.reason()))?;
        let is_incomplete = audio
            .object()
            .wav
            .as_ref()
            .is_some_and(|wav| recording_check::is_incomplete(wav, audio.defects(), call));
        if is_incomplete && !self.is_last_attempt {
            let problem = "its header fits the call, but most of the sound is missing".to_owned();
            return Err(DownloadError::Unusable { problem, correlation_id });
        }
        Ok(audio)
    }

    /// Streams one recording to the archive. One that is not a whole WAV file is not kept.
    async fn store(
        &self,
        direction: AudioDirection,
        recording: Recording,
    ) -> Result<StagedAudio, DownloadError> {
        let Recording { mut body, end, correlation_id } = recording;
        let failed = |error: AudioError| match error {
            AudioError::Bad(error) => {
                DownloadError::Unusable { problem: error.to_string(), correlation_id: correlation_id.clone() }
            }
            AudioError::Archive(error) => DownloadError::Archive(error),
        };
        let (direction, expected) = (archive_direction(direction), end.announced_bytes());
        let writer = self.archive.recording_writer(self.location, direction, expected).await;
        let mut writer = writer.map_err(DownloadError::Archive)?;
        while let Some(part) = body.next().await {
            writer.write(part?).await.map_err(failed)?;
        }
        writer.finish(end).await.map_err(failed)
    }

    /// Returns whether no API that the project can use serves recordings, so that waiting for one is of no use. A gateway's
    /// word is believed only if it agrees with what happened to the conversation itself: its list is served and its path is
    /// not.
    fn is_unserved(&self, error: &ApiError) -> bool {
        error.kind == ErrorKind::NotServed
            && (error.in_envelope || self.conversation.route == Route::V3List)
            && !self.project.has_served_recordings()
    }

    /// Returns whether PolyAI's path by id does not know a conversation that its list has.
    fn is_unknown_by_id(&self, error: &ApiError) -> bool {
        error.kind == ErrorKind::UnknownConversation
            && error.in_envelope
            && self.conversation.route == Route::V3List
    }

    /// Accepts that a recording does not exist, or returns a failure while it may still appear.
    fn accept_absence(&self, direction: AudioDirection, error: ApiError) -> Result<Obtained, JobFailure> {
        let due = self.request.recording_due(&self.conversation.info);
        let waited = Duration::try_from(self.clock.now().duration_since(due)).unwrap_or_default();
        let left = self.config.audio_wait.checked_sub(waited).filter(|left| !left.is_zero());
        // PolyAI has not said that there is no recording, so the wait ends with the attempts.
        let is_unserved = error.kind == ErrorKind::NotServed;
        if let Some(left) = left
            && !(is_unserved && self.is_last_attempt)
        {
            let next = if is_unserved { RetryDecision::Retry(None) } else { RetryDecision::Wait(left) };
            return Err(JobFailure { reason: "recording_not_ready", next, ..JobFailure::from(error) });
        }
        if is_unserved {
            return Ok(self.missing(direction, &DownloadError::Api(error)));
        }
        let warning = format!(
            "recording_absent: PolyAI had no {} recording ({})",
            direction.label(),
            error.kind.label()
        );
        Ok(Obtained::Missing(AudioStatus::Absent, warning))
    }

    /// Returns the failure of a download, or accepts it if no further attempt follows or would help.
    fn give_up(&self, direction: AudioDirection, error: DownloadError) -> Result<Obtained, JobFailure> {
        let next = error.next();
        let is_over = match next {
            RetryDecision::Dead => true,
            RetryDecision::Retry(_) => self.is_last_attempt,
            RetryDecision::Wait(_) | RetryDecision::Postpone(_) => false,
        };
        if is_over { Ok(self.missing(direction, &error)) } else { Err(error.into()) }
    }

    /// Reports a recording without which the conversation is archived.
    fn missing(&self, direction: AudioDirection, error: &DownloadError) -> Obtained {
        let direction = direction.label();
        tracing::warn!(
            conversation.id = self.request.conversation_id,
            direction,
            reason = error.reason(),
            "archived without a recording: {error}. `polyhook fetch` or `polyhook audit --repair` adds it once PolyAI serves it"
        );
        let warning = format!("recording_failed: no {direction} recording ({}): {error}", error.reason());
        Obtained::Missing(AudioStatus::Failed, warning)
    }
}

/// Reports a recording that no API serves.
fn unserved(direction: AudioDirection, error: &ApiError) -> Obtained {
    let warning = format!(
        "recording_absent: no {} recording ({}): {} serves none to this key, and no Data API key is valid here; add \
         projects.data_api_key_file and run `polyhook fetch`",
        direction.label(),
        error.kind.label(),
        error.host
    );
    Obtained::Missing(AudioStatus::Absent, warning)
}

impl DownloadError {
    /// Returns the reason word.
    fn reason(&self) -> &'static str {
        match self {
            Self::Api(error) => error.kind.label(),
            Self::Unusable { .. } => "bad_recording",
            Self::Archive(_) => "archive",
            Self::TimedOut => "timeout",
        }
    }

    fn next(&self) -> RetryDecision {
        match self {
            Self::Api(error) => JobFailure::from(error.clone()).next,
            Self::Unusable { .. } | Self::Archive(_) | Self::TimedOut => RetryDecision::Retry(None),
        }
    }
}

/// Writes what a manifest may contain: no URL, and not the text of another program.
impl fmt::Display for DownloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let correlation_id = match self {
            Self::Api(error) => {
                match (error.status, &error.code) {
                    (Some(200), _) => f.write_str("the transfer broke off")?,
                    (Some(status), Some(code)) => write!(f, "the API answered {status} {code}")?,
                    (Some(status), None) => write!(f, "the API answered {status}")?,
                    (None, _) => f.write_str("the API gave no answer")?,
                }
                error.correlation_id.as_deref()
            }
            Self::Unusable { problem, correlation_id } => {
                f.write_str(problem)?;
                Some(correlation_id.as_str())
            }
            Self::Archive(error) => {
                write!(f, "the archive could not store it ({})", error.label())?;
                None
            }
            Self::TimedOut => {
                write!(f, "the download took longer than {RECORDING_TIMEOUT:?}")?;
                None
            }
        };
        correlation_id.map_or(Ok(()), |id| write!(f, ", correlation id {id}"))
    }
}

impl From<ApiError> for DownloadError {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

impl From<DownloadError> for JobFailure {
    fn from(error: DownloadError) -> Self {
        match error {
            DownloadError::Api(error) => error.into(),
            DownloadError::Archive(error) => error.into(),
            DownloadError::TimedOut => {
                Self::new(error.reason(), error.to_string(), RetryDecision::Retry(None))
            }
            DownloadError::Unusable { problem, correlation_id } => Self {
                correlation_id: Some(correlation_id),
                status: Some(200),
                ..Self::new(
                    "bad_recording",
                    format!("the recording is not whole and is not archived: {problem}"),
                    RetryDecision::Retry(None),
                )
            },
        }
    }
}

/// Returns whether the recordings of an archived copy are those that this configuration asks for. That they are missing is
/// as good if a job has waited for them. A person's fetch has a single attempt and no event id, so it does not count.
pub(super) fn are_as_configured(config: &WorkerConfig, manifest: &Manifest) -> bool {
    let wanted = config.audio.directions();
    match manifest.audio.status {
        AudioStatus::Ready => {
            manifest.audio.redacted == config.redacted
                && wanted.iter().all(|direction| manifest.recording(archive_direction(*direction)).is_some())
        }
        AudioStatus::Disabled => wanted.is_empty(),
        AudioStatus::Unknown => false,
        AudioStatus::Failed => manifest.provenance.event_id.is_some(),
        AudioStatus::Absent | AudioStatus::NotApplicable => true,
    }
}

fn archive_direction(direction: AudioDirection) -> archive::Direction {
    match direction {
        AudioDirection::Combined => archive::Direction::Combined,
        AudioDirection::User => archive::Direction::User,
        AudioDirection::Agent => archive::Direction::Agent,
    }
}
