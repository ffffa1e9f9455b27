//! Fetches conversations and recordings.

use std::{fmt, pin::Pin};

use bytes::Bytes;
use futures_util::{Stream, TryStreamExt};
use http::StatusCode;
use jiff::Timestamp;

use super::{
    ApiRequest, AudioDirection, ConversationHint, PolyAiClient, Project, Route,
    conversation::ConversationInfo,
    error::{ApiError, ErrorKind},
    fallback::Source,
    http::{DecodedBody, SizeLimit},
    list::FoundEntry,
};
use crate::wav::StreamEnd;

/// The largest conversation read into memory. Ten thousand turns fit.
const MAX_CONVERSATION_BYTES: usize = 32 << 20;
/// The largest recording: the format of WAV files allows no larger one.
const RECORDING_LIMIT: SizeLimit = SizeLimit { bytes: 4 << 30, error: ErrorKind::BadAnswer };

/// A conversation as PolyAI sent it.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// The bytes of the answer, unchanged.
    pub json: Bytes,
    /// The fields that were read from them.
    pub info: ConversationInfo,
    /// The way it came.
    pub route: Route,
    /// The time at which the request was made. The answer contains everything that PolyAI had then.
    pub fetched_at: Timestamp,
    /// The id of the request, for PolyAI's support.
    pub correlation_id: String,
}

/// A recording that is being downloaded.
pub struct Recording {
    /// The bytes as they arrive. An error ends them.
    pub body: Pin<Box<dyn Stream<Item = Result<Bytes, ApiError>> + Send>>,
    /// The evidence that the bytes are complete when they end without an error.
    pub end: StreamEnd,
    /// The id of the request, for PolyAI's support.
    pub correlation_id: String,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("end", &self.end).finish_non_exhaustive()
    }
}

impl PolyAiClient {
    /// Fetches a conversation: by id from v3 or the Data API, or else from the list of v3, which `hint` narrows.
    pub async fn conversation<'a>(
        &'a self,
        project: &'a Project,
        id: &'a str,
        hint: &'a ConversationHint<'a>,
    ) -> Result<Conversation, ApiError> {
        let fetch = |source: Source<'a>| {
            Box::pin(async move {
                match source.route {
                    Route::V3 | Route::Data => {
                        let fetched = self.fetch_conversation(project, source, id);
                        project.data_access.request(source.target, fetched).await
                    }
                    Route::V3List => self.find_conversation(project, source, id, hint).await,
                }
            })
        };
        let sources = Source::of_conversation(project.targets());
        let error = match project.conversation_route.request(&sources, fetch).await {
            Err(error) if hint.was_listed && is_unknown_by_id(&error) => error,
            result => return result,
        };
        // A path by id may lag behind the list.
        let Some(list) = sources.into_iter().find(|source| source.route == Route::V3List) else {
            return Err(error);
        };
        Box::pin(self.find_conversation(project, list, id, hint)).await.map_err(|_| error)
    }

    async fn find_conversation(
        &self,
        project: &Project,
        source: Source<'_>,
        id: &str,
        hint: &ConversationHint<'_>,
    ) -> Result<Conversation, ApiError> {
        let entry = self.find_in_list(project, source.target, id, hint, MAX_CONVERSATION_BYTES).await?;
        let FoundEntry { json, fetched_at, correlation_id } = entry;
        checked_conversation(json, source, id, fetched_at, correlation_id)
    }

    async fn fetch_conversation(
        &self,
        project: &Project,
        source: Source<'_>,
        id: &str,
    ) -> Result<Conversation, ApiError> {
        let fetched_at = self.now();
        let answer = self.get(project, source.target, ApiRequest::Conversation { id }).await?;
        let correlation_id = answer.correlation_id().to_owned();
        let json = answer.whole(MAX_CONVERSATION_BYTES).await.map_err(after_ok(correlation_id.clone()))?;
        checked_conversation(json, source, id, fetched_at, correlation_id)
    }

    /// Starts the download of a recording.
    pub async fn audio<'a>(
        &'a self,
        project: &'a Project,
        id: &'a str,
        direction: AudioDirection,
        redacted: bool,
    ) -> Result<Recording, ApiError> {
        let request = ApiRequest::Audio { id, direction, redacted };
        let open = |source: Source<'a>| async move {
            let answer = self.get(project, source.target, request);
            let answer = project.data_access.request(source.target, answer).await?;
            let correlation_id = answer.correlation_id().to_owned();
            let after_ok = after_ok(correlation_id.clone());
            let DecodedBody { parts, end } = answer.decode(RECORDING_LIMIT).await.map_err(&after_ok)?;
            Ok(Recording { body: Box::pin(parts.map_err(after_ok)), end, correlation_id })
        };
        project.audio_route.request(&Source::each(project.targets()), open).await
    }
}

/// Returns whether the error is PolyAI's word that its path by id does not know a conversation.
fn is_unknown_by_id(error: &ApiError) -> bool {
    error.kind == ErrorKind::UnknownConversation && error.in_envelope
}

/// Checks that an answer is the conversation `id`. Archiving another one under this id would be worse than archiving none, so
/// the answer is asked for again. The same check rejects JSON that is not a conversation.
fn checked_conversation(
    json: Bytes,
    source: Source<'_>,
    id: &str,
    fetched_at: Timestamp,
    correlation_id: String,
) -> Result<Conversation, ApiError> {
    match ConversationInfo::read(&json) {
        Ok(info) if info.id.as_deref() == Some(id) => {
            Ok(Conversation { json, info, route: source.route, fetched_at, correlation_id })
        }
        _ => Err(after_ok(correlation_id)(ApiError::new(ErrorKind::BadAnswer, source.target.host()))),
    }
}

/// Adds what an error after the headers of a 200 has in common with them.
fn after_ok(correlation_id: String) -> impl Fn(ApiError) -> ApiError {
    move |error| ApiError {
        correlation_id: Some(correlation_id.clone()),
        status: Some(StatusCode::OK.as_u16()),
        ..error
    }
}
