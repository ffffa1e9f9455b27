//! One try: which conversation, from which project, into the archive, onto the bus.

use std::collections::BTreeMap;

use futures_util::{StreamExt, stream::FuturesUnordered};
use jiff::Timestamp;
use metrics::counter;

use super::{
    Inner, announce,
    failure::{JobFailure, RetryDecision},
    recordings::Recordings,
    slots::Slot,
};
use crate::{
    archive::{
        AudioSummary, CommitOutcome, ConversationFacts, Handoff, Location, MANIFEST, Manifest, ManifestDraft,
        Provenance, ServedBy, StoredConversation, Trigger,
    },
    event::{self, CONVERSATION_DISCOVERED, Discovery, DiscoverySource, Event},
    polyai::{Advice, Api, ApiError, Conversation, ConversationInfo, ErrorKind, Project},
    queue::{Announced, Message},
    telemetry::trace::Span,
};

/// How long a call may be in progress before a person should look: no phone call lasts a day.
const IN_PROGRESS_LIMIT: std::time::Duration = std::time::Duration::from_hours(24);

/// Stands for the project of events that name none.
const NAMELESS: &str = "";

/// A conversation to be archived, and who asked for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// PolyAI's id.
    pub conversation_id: String,
    /// As the event or the person names it.
    pub account_id: Option<String>,
    /// As the event or the person names it.
    pub project_id: Option<String>,
    /// What asked.
    pub trigger: Trigger,
    /// The event's id.
    pub event_id: Option<String>,
    /// When it was asked for.
    pub received_at: Timestamp,
    /// The trace to continue.
    pub traceparent: Option<String>,
    /// Archive conversations of any environment, not only of the configured ones.
    pub any_environment: bool,
    /// What reconciliation or a command knows of it.
    pub discovery: Option<Discovery>,
}

/// How a try ended well.
#[derive(Clone, Debug)]
pub enum FetchOutcome {
    /// Archived (now, or before) and announced.
    Archived(Box<ArchivedConversation>),
    /// Of an environment nobody wants.
    Skipped,
    /// It was erased, so it is left alone; if it was erased while it was being archived, it is gone again.
    Erased,
}

/// What lies in the archive.
#[derive(Clone, Debug)]
pub struct ArchivedConversation {
    /// PolyAI's id.
    pub conversation_id: String,
    /// `archived`, `unchanged`, `stale`, or `known` where it was not even fetched.
    pub outcome: &'static str,
    /// What lies there now.
    pub manifest: Manifest,
    /// Where, by the object's name.
    pub urls: BTreeMap<String, String>,
}

impl FetchOutcome {
    /// The metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Archived(archived) => archived.outcome,
            Self::Skipped => "skipped",
            Self::Erased => "erased",
        }
    }
}

impl FetchRequest {
    /// What an event asks for; nothing where its environment is not wanted.
    pub(super) fn of_message(message: &Message, environments: &[String]) -> Result<Option<Self>, JobFailure> {
        if message.environment != event::UNKNOWN && !wanted(environments, &message.environment) {
            return Ok(None);
        }
        let event = Event::read(&message.body);
        let Some(conversation_id) = event.conversation_id else {
            return Err(JobFailure::new(
                "no_conversation_id",
                "the event names no conversation, so there is nothing to fetch: look at its body, then drop it",
                RetryDecision::Dead,
            ));
        };
        let discovered = message.kind.starts_with(CONVERSATION_DISCOVERED);
        let discovery = if discovered { Discovery::read(&message.body) } else { None };
        Ok(Some(Self {
            conversation_id,
            account_id: event.account_id,
            project_id: event.project_id,
            trigger: match &discovery {
                Some(Discovery { source: DiscoverySource::Command, .. }) => Trigger::Command,
                _ if discovered => Trigger::Reconcile,
                _ => Trigger::Webhook,
            },
            event_id: Some(message.id.clone()),
            received_at: message.received_at,
            traceparent: message.traceparent.clone(),
            any_environment: false,
            discovery,
        }))
    }

    /// Whether everything is to be written again, whatever lies there.
    pub(super) fn again(&self) -> bool {
        self.discovery.as_ref().is_some_and(|discovery| discovery.force)
    }

    /// From when on a recording's time counts. A webhook comes right after the call; who asks for an old call
    /// need not wait for a recording that is not there after all this time.
    pub(super) fn recording_due(&self, summary: &ConversationInfo) -> Timestamp {
        match self.trigger {
            Trigger::Webhook => self.received_at,
            _ => summary.ended_at().unwrap_or(self.received_at).min(self.received_at),
        }
    }
}

impl Inner {
    /// Without a slot, outside of the queue.
    pub(super) async fn archive_and_announce(
        &self,
        request: &FetchRequest,
        slot: Option<&Slot>,
    ) -> Result<FetchOutcome, JobFailure> {
        if let Some((location, manifest)) = self.known(request).await? {
            return self.done(request, "known", &location, manifest).await;
        }
        let Some((project, conversation)) = self.fetch(request, slot).await? else {
            return Ok(FetchOutcome::Erased);
        };
        let Conversation { summary, .. } = &conversation;
        let environment = summary.environment.as_deref().unwrap_or(event::UNKNOWN);
        if !request.any_environment
            && environment != event::UNKNOWN
            && !wanted(&self.config.environments, environment)
        {
            return Ok(FetchOutcome::Skipped);
        }
        if summary.in_progress {
            return Err(self.in_progress(request));
        }

        let started_at = summary.started_at.unwrap_or(request.received_at);
        let location =
            Location::new(project.account_id(), project.project_id(), &request.conversation_id, started_at);
        let stored = self.archive.read(&location).await?.filter(|_| !request.again());
        let recordings =
            self.recordings(request, slot, project, &conversation, &location, stored.as_ref()).await?;
        let committed = match recordings {
            Recordings::AlreadyThere(stored) => CommitOutcome::Unchanged(*stored),
            Recordings::Fetched { audio, staged, warnings } => {
                let draft = draft(request, &conversation, started_at, audio, warnings);
                let span = Span::internal("archive commit");
                self.archive
                    .commit(&location, &draft, conversation.json.clone(), staged)
                    .await
                    .inspect_err(|_| span.set_error("archive"))?
            }
        };
        let (account_id, project_id) = (project.account_id(), project.project_id());
        if self.archive.remove_if_erased(account_id, project_id, &request.conversation_id).await? {
            return Ok(FetchOutcome::Erased);
        }
        let outcome = match &committed {
            CommitOutcome::Written(_) => "archived",
            CommitOutcome::Unchanged(_) => "unchanged",
            CommitOutcome::Stale(_) => "stale",
        };
        self.done(request, outcome, &location, committed.into_manifest()).await
    }

    /// Announces what lies in the archive. Each time: whoever archived it may have died before it was announced.
    async fn done(
        &self,
        request: &FetchRequest,
        outcome: &'static str,
        location: &Location,
        manifest: Manifest,
    ) -> Result<FetchOutcome, JobFailure> {
        let urls = self.urls(location, &manifest)?;
        self.announce(&manifest, urls.clone(), request.traceparent.clone()).await?;
        Ok(FetchOutcome::Archived(Box::new(ArchivedConversation {
            conversation_id: request.conversation_id.clone(),
            outcome,
            manifest,
            urls,
        })))
    }

    /// What lies in the archive of a conversation that was found missing: its webhook was late, or it was found twice.
    async fn known(&self, request: &FetchRequest) -> Result<Option<(Location, Manifest)>, JobFailure> {
        let Some(Discovery { started_at: Some(started_at), force: false, .. }) = request.discovery else {
            return Ok(None);
        };
        let candidates =
            self.polyai.candidates(request.account_id.as_deref(), request.project_id.as_deref())?;
        let [project] = candidates[..] else { return Ok(None) };
        let location =
            Location::new(project.account_id(), project.project_id(), &request.conversation_id, started_at);
        let stored =
            self.archive.read(&location).await?.filter(|stored| stored.is_intact() && stored.is_final());
        Ok(stored.map(|stored| (location, stored.manifest)))
    }

    /// Nothing if it was erased. Asks the project the event names; where it names none of several, all of them (the quickstart's events
    /// carry no project): the trouble of one must not hide, nor delay, what another has.
    async fn fetch(
        &self,
        request: &FetchRequest,
        slot: Option<&Slot>,
    ) -> Result<Option<(&Project, Conversation)>, JobFailure> {
        let id = &request.conversation_id;
        let candidates =
            self.polyai.candidates(request.account_id.as_deref(), request.project_id.as_deref())?;
        let candidates = self.not_erased(candidates, id).await?;
        if candidates.is_empty() {
            return Ok(None);
        }
        if let [project] = candidates[..] {
            if slot.is_some_and(|slot| slot.is_held_up(project.project_id())) {
                return Err(JobFailure::held_up(project.project_id()));
            }
            let conversation =
                answered(slot, project.project_id(), self.polyai.conversation(project, id)).await?;
            return Ok(Some((project, conversation)));
        }
        let mut asked: FuturesUnordered<_> = candidates
            .iter()
            .map(|project| async move { (*project, self.polyai.conversation(project, id).await) })
            .collect();
        let first = async {
            let mut failures = Vec::new();
            while let Some((project, answer)) = asked.next().await {
                match answer {
                    Ok(conversation) => return Ok((project, conversation)),
                    Err(error) => failures.push((project.project_id(), error)),
                }
            }
            Err(nobody_knows(failures))
        };
        answered(slot, NAMELESS, first).await.map(Some)
    }

    fn in_progress(&self, request: &FetchRequest) -> JobFailure {
        let age = std::time::Duration::try_from(self.clock.now().duration_since(request.received_at))
            .unwrap_or_default();
        let detail = "the call is still in progress; it is fetched again when it may be over";
        match IN_PROGRESS_LIMIT.checked_sub(age).filter(|left| !left.is_zero()) {
            Some(left) => JobFailure::new("in_progress", detail, RetryDecision::Wait(left)),
            None => JobFailure::new(
                "in_progress",
                "PolyAI has called this conversation in progress for over a day: ask their support, then replay",
                RetryDecision::Dead,
            ),
        }
    }

    fn urls(&self, location: &Location, manifest: &Manifest) -> Result<BTreeMap<String, String>, JobFailure> {
        let names = manifest.objects.iter().map(|object| object.name.as_str()).chain([MANIFEST]);
        names.map(|name| Ok((name.to_owned(), self.archive.object_url(location, name)?))).collect()
    }

    async fn announce(
        &self,
        manifest: &Manifest,
        urls: BTreeMap<String, String>,
        traceparent: Option<String>,
    ) -> Result<(), JobFailure> {
        let mut announcement = announce::ready(manifest, urls, traceparent)
            .map_err(|error| JobFailure::new("announce", error.to_string(), RetryDecision::Retry(None)))?;
        let span = Span::announce(&announcement.id, || announcement.routing_key(), announcement.body.len());
        announcement.traceparent = span.traceparent().or(announcement.traceparent);
        let announced = self.queue.announce(announcement).await;
        if let Err(error) = &announced {
            span.set_error(error.label());
        }
        let outcome = match announced? {
            Announced::Delivered => "delivered",
            Announced::Unrouted => {
                tracing::debug!(
                    conversation.id = manifest.conversation_id,
                    "announced, but no queue is bound for it"
                );
                "unrouted"
            }
        };
        counter!("polyhook_announcements_total", "outcome" => outcome).increment(1);
        Ok(())
    }
}

/// Waits for an answer of a project's API, if need be without the slot.
pub(super) async fn answered<T>(slot: Option<&Slot>, project: &str, answer: impl Future<Output = T>) -> T {
    match slot {
        Some(slot) => slot.wait_for(project, answer).await,
        None => answer.await,
    }
}

fn draft(
    request: &FetchRequest,
    conversation: &Conversation,
    started_at: Timestamp,
    audio: AudioSummary,
    mut warnings: Vec<String>,
) -> ManifestDraft {
    let ConversationInfo { channel, environment, handoff, .. } = &conversation.summary;
    let summary = &conversation.summary;
    let unknown = || event::UNKNOWN.to_owned();
    if summary.transcript_hidden() {
        counter!("polyhook_hidden_transcripts_total").increment(1);
        tracing::warn!(
            conversation.id = request.conversation_id,
            turns = summary.num_turns,
            "the transcript is hidden: enable Conversation transcript under API Keys > Configuration in Agent Studio"
        );
        warnings.push(format!(
            "transcript_hidden: {} turns happened and none is shown; transcript visibility is off for the project",
            summary.num_turns
        ));
    }
    if summary.started_at.is_none() {
        warnings.push("started_at_unknown: the date in the key is the day the event arrived".to_owned());
    }
    ManifestDraft {
        facts: ConversationFacts {
            channel: channel.clone().unwrap_or_else(unknown),
            environment: environment.clone().unwrap_or_else(unknown),
            direction: summary.direction.clone(),
            started_at,
            finished_at: summary.finished_at,
            total_duration_s: summary.total_duration_s,
            polyai_duration_s: summary.polyai_duration_s,
            handoff: handoff.happened.then(|| Handoff {
                reason: handoff.reason.clone(),
                destination: handoff.destination.clone(),
            }),
            turn_count: summary.num_turns,
            in_progress: summary.in_progress,
            summarised: summary.has_summary,
        },
        provenance: Provenance {
            served_by: match conversation.api {
                Api::V3 => ServedBy::V3,
                Api::Data => ServedBy::Data,
            },
            trigger: request.trigger,
            event_id: request.event_id.clone(),
        },
        received_at: Some(request.received_at),
        fetched_at: conversation.fetched_at,
        audio,
        warnings,
        force_rewrite: request.again(),
    }
}

/// Several projects were asked and none had the conversation. Who could not be asked now may have it; failing
/// that, who could not be asked for good; only what all have denied is unknown.
fn nobody_knows(failures: Vec<(&str, ApiError)>) -> JobFailure {
    let asked: Vec<_> = failures.iter().map(|(project, _)| *project).collect();
    let asked = asked.join(", ");
    let rank = |(_, error): &(&str, ApiError)| match (error.advice(), error.kind) {
        (Advice::Retry(_), _) => 2,
        (Advice::GiveUp, ErrorKind::UnknownConversation | ErrorKind::UnknownProject) => 0,
        (Advice::GiveUp, _) => 1,
    };
    let Some((project, error)) = failures.into_iter().max_by_key(rank) else {
        return JobFailure::new("unknown_project", "no project is configured", RetryDecision::Dead);
    };
    let failure = JobFailure::from(error);
    JobFailure {
        detail: format!(
            "the event names no project; of {asked} none gave the conversation, {project}: {}",
            failure.detail
        ),
        ..failure
    }
}

/// Whether the stored copy is of these very bytes, with all that is wanted of the recordings.
pub(super) fn covers(
    stored: &StoredConversation,
    conversation: &Conversation,
    wanted: &[crate::archive::Direction],
) -> bool {
    stored.covers(&conversation.json, wanted)
}

fn wanted(environments: &[String], environment: &str) -> bool {
    environments.iter().any(|wanted| wanted == environment)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::DedupKey;

    fn message(body: &str) -> Message {
        let event = Event::read(body.as_bytes());
        Message {
            id: "evt".to_owned(),
            dedup: DedupKey::new("evt", body.as_bytes()),
            kind: event.kind,
            environment: event.environment,
            conversation_id: event.conversation_id,
            received_at: Timestamp::UNIX_EPOCH,
            traceparent: None,
            content_type: "application/json".to_owned(),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    fn live() -> Vec<String> {
        vec!["live".to_owned()]
    }

    #[test]
    fn only_wanted_environments_are_fetched() {
        let of = |environment: &str| {
            let body = format!(
                r#"{{"type":"conversation.completed","data":{{"conversation_id":"C"{environment}}}}}"#
            );
            FetchRequest::of_message(&message(&body), &live()).unwrap().is_some()
        };
        assert!(of(r#","environment":"live""#));
        assert!(!of(r#","environment":"sandbox""#));
        assert!(of(""), "what the event does not say, the conversation will");
    }

    #[test]
    fn an_event_without_a_conversation_is_a_dead_letter() {
        let failure =
            FetchRequest::of_message(&message(r#"{"type":"conversation.completed"}"#), &live()).unwrap_err();
        assert_eq!((failure.reason, failure.next), ("no_conversation_id", RetryDecision::Dead));
    }
}
