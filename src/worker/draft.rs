//! The draft of a manifest: the facts of a conversation as the archive stores them.

use jiff::Timestamp;
use metrics::counter;

use super::request::FetchRequest;
use crate::{
    archive::{AudioSummary, ConversationFacts, Handoff, ManifestDraft, Provenance, ServedBy},
    event,
    polyai::{Conversation, ConversationInfo, Project, Route},
};

/// The part of an id in PolyAI's answer that a warning repeats.
const MAX_NAMED_CHARS: usize = 100;

/// Creates the draft. `warnings` are those of the recordings; this function adds its own.
pub(super) fn manifest_draft(
    request: &FetchRequest,
    conversation: &Conversation,
    started_at: Timestamp,
    audio: AudioSummary,
    mut warnings: Vec<String>,
) -> ManifestDraft {
    let info = &conversation.info;
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| event::UNKNOWN.to_owned());
    if info.transcript_hidden() {
        counter!("polyhook_hidden_transcripts_total").increment(1);
        tracing::warn!(
            conversation.id = request.conversation_id,
            turns = info.num_turns,
            "the transcript is hidden: enable Conversation transcript under API Keys > Configuration in Agent Studio"
        );
        warnings.push(format!(
            "transcript_hidden: {} turns happened and none is shown; transcript visibility is off for the project",
            info.num_turns
        ));
    }
    if info.lacks_turns() {
        warnings.push(format!(
            "turns_missing: PolyAI counted {} turns and the transcript has {}",
            info.num_turns, info.turns_present
        ));
    }
    if info.started_at.is_none() {
        warnings.push("started_at_unknown: the date in the key is the day the event arrived".to_owned());
    }
    ManifestDraft {
        facts: ConversationFacts {
            channel: or_unknown(&info.channel),
            environment: or_unknown(&info.environment),
            direction: info.direction.clone(),
            started_at,
            finished_at: info.finished_at,
            total_duration_s: info.total_duration_s,
            polyai_duration_s: info.polyai_duration_s,
            handoff: info.handoff.happened.then(|| Handoff {
                reason: info.handoff.reason.clone(),
                destination: info.handoff.destination.clone(),
            }),
            turn_count: info.num_turns,
            in_progress: info.in_progress,
            summarised: info.has_summary,
        },
        provenance: Provenance {
            served_by: match conversation.route {
                Route::V3 => ServedBy::V3,
                Route::Data => ServedBy::Data,
                Route::V3List => ServedBy::V3List,
            },
            trigger: request.trigger,
            event_id: request.event_id.clone(),
        },
        received_at: Some(request.received_at),
        fetched_at: conversation.fetched_at,
        audio,
        warnings,
        force_rewrite: request.force(),
        json_only: request.refresh().is_some(),
    }
}

/// Returns the warning about an answer that names another account or project than the configured one. It may be the other
/// form of the same ids (slug or prefix), so it is no reason to refuse the answer.
pub(super) fn other_project_warning(project: &Project, info: &ConversationInfo) -> Option<String> {
    let (account_id, project_id) = (info.account_id.as_deref(), info.project_id.as_deref());
    if project.has_ids(account_id, project_id) {
        return None;
    }
    let named =
        |id: Option<&str>| id.unwrap_or(event::UNKNOWN).chars().take(MAX_NAMED_CHARS).collect::<String>();
    Some(format!(
        "other_project: PolyAI's answer names account {:?}, project {:?}; it is archived under the configured {:?}, {:?}",
        named(account_id),
        named(project_id),
        project.account_id(),
        project.project_id()
    ))
}
