//! Fetches a recording and finds out whether it is the redacted one.

use super::super::report::{Finding, Subject};
use crate::{
    config::Config,
    polyai::{
        ApiError, ApiRequest, AudioDirection, ConversationInfo, ErrorKind, Target,
        probe::{Body, ProbeResponse, Prober},
    },
};

/// Maximum calls whose recording is compared with the redacted one, until two differ. A call may contain no private data.
pub(super) const MAX_COMPARED_RECORDINGS: usize = 3;

/// Checks the recording of `id`; `other_ids` are further calls to compare.
pub(super) async fn check(
    subject: &Subject,
    config: &Config,
    prober: &Prober,
    targets: &[&Target],
    (id, other_ids): (&str, &[String]),
    conversation: &ConversationInfo,
) -> Finding {
    let Some(direction) = config.worker.audio.directions().first().copied() else {
        return subject.skipped("worker.audio is off", "nothing to do");
    };
    if !conversation.is_voice() {
        let next = "give --conversation ID of a call";
        return subject.skipped("the conversation is not a call, so it has no recording", next);
    }
    let recordings = Recordings { prober, targets, direction };
    let Some(response) = recordings.fetch(id, config.worker.redacted).await else {
        return subject.skipped("there is no API to fetch it from", "see polyai.host");
    };
    let body = match &response.outcome {
        Ok(body) if is_wav(&body.start) => body,
        Ok(_) => {
            let content = response.content_type.as_deref().unwrap_or("no content type");
            return subject.fail(
                format!("the response is not a recording ({content})"),
                "a proxy or login page may answer instead of PolyAI; otherwise report the conversation to PolyAI's support",
            );
        }
        Err(error) => return fetch_failed(subject, error),
    };
    if config.worker.redacted {
        return subject.ok("exists and is redacted, as worker.redacted requires");
    }
    if recordings.any_differs_from_redacted(id, body, other_ids).await {
        return subject.ok("exists and is not redacted");
    }
    let calls =
        if other_ids.is_empty() { String::new() } else { format!(" (of {} calls)", other_ids.len() + 1) };
    subject.warn(
        format!(
            "exists, but is the same as the redacted one{calls}: the key has no access to personal data, or the call contains none"
        ),
        "try --conversation with a call that contains personal data; ask PolyAI for PII access, or set worker.redacted = true if you want redacted recordings",
    )
}

/// The recordings of one project.
struct Recordings<'a> {
    prober: &'a Prober,
    targets: &'a [&'a Target],
    direction: AudioDirection,
}

impl Recordings<'_> {
    /// Fetches a recording from the first API that serves recordings.
    async fn fetch(&self, id: &str, redacted: bool) -> Option<ProbeResponse> {
        let direction = self.direction;
        let mut last = None;
        for target in self.targets {
            let response = self.prober.send(target, ApiRequest::Audio { id, direction, redacted }).await;
            let served = response.error() != Some(ErrorKind::NotServed);
            last = Some(response);
            if served {
                break;
            }
        }
        last
    }

    async fn any_differs_from_redacted(&self, id: &str, recording: &Body, other_ids: &[String]) -> bool {
        if self.differs_from_redacted(id, recording).await {
            return true;
        }
        for id in other_ids {
            let recording = self.fetch(id, false).await.and_then(|response| response.outcome.ok());
            if let Some(recording) = recording
                && self.differs_from_redacted(id, &recording).await
            {
                return true;
            }
        }
        false
    }

    /// Compares a recording with its redacted version, which has the same length with private parts muted.
    async fn differs_from_redacted(&self, id: &str, recording: &Body) -> bool {
        let redacted = self.fetch(id, true).await.and_then(|response| response.outcome.ok());
        redacted.is_some_and(|redacted| redacted.sha256 != recording.sha256)
    }
}

fn fetch_failed(subject: &Subject, error: &ApiError) -> Finding {
    match error.kind {
        ErrorKind::RecordingNotFound => subject.warn(
            "there is no recording of this call (yet)",
            "give --conversation ID of an older call; polyhook waits up to worker.audio_wait",
        ),
        ErrorKind::KeyRejected | ErrorKind::KeyLacksScope if error.in_envelope => subject.fail(
            format!("the key may read the conversation, but not its recording: {error}"),
            "ask PolyAI to give the key access to recordings, or set worker.audio = \"off\"",
        ),
        ErrorKind::NotServed => subject.fail(
            format!("no API of the project serves recordings: {error}"),
            "leave polyai.api at \"auto\"; the Data API serves recordings where v3 does not",
        ),
        _ => subject.fail(
            error.to_string(),
            "try again; if it persists, report the conversation to PolyAI's support",
        ),
    }
}

fn is_wav(start: &[u8]) -> bool {
    [&b"RIFF"[..], b"RF64", b"BW64"].iter().any(|magic| start.starts_with(magic))
}
