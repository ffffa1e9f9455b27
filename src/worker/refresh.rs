//! The refresh of archived conversations: PolyAI writes summary, score, notes and reviews after the call.
//!
//! A conversation that was archived has at most one job that waits for its next refresh, at one of the ages in
//! `refresh.after`. The job is durable before the job that archived the conversation is done, and a refresh schedules the
//! next one in the same way. So no crash ends the chain. An age that has passed when the conversation is fetched needs no
//! refresh: the copy is newer. So a backfill of old calls schedules none.
//!
//! A refresh asks for the conversation only. Recordings, and what the manifest says about them, stay as they are. The bytes
//! decide: PolyAI's documents name no field that changes by itself.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use metrics::counter;

use super::{
    announcer::Announcer,
    coalescer::AnswerNeed,
    concurrency::{self, ConcurrencyPermit},
    draft::{manifest_draft, other_project_warning},
    failure::{JobFailure, RetryDecision},
    request::{FetchOutcome, FetchRequest, RefreshOutcome},
};
use crate::{
    archive::{Archive, CommitOutcome, Location, Manifest, ServedBy, StoredConversation},
    clock::Clock,
    event::{self, CONVERSATION_DISCOVERED, DedupKey, Discovery, DiscoverySource},
    polyai::{Conversation, ConversationHint, ErrorKind, PolyAiClient, Project, Route},
    queue::{Message, Queue},
};

/// A copy that was fetched this soon after the end of the call has nothing that comes late. So an age that had passed by then
/// counts from the fetch.
const SOON: Duration = Duration::from_mins(5);

/// Refreshes conversations, and schedules that.
#[derive(Debug)]
pub(super) struct Refresher {
    /// In order.
    pub(super) ages: Vec<Duration>,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) polyai: Arc<PolyAiClient>,
    pub(super) archive: Archive,
    pub(super) clock: Clock,
    pub(super) announcer: Announcer,
}

impl Refresher {
    /// Fetches a conversation again and archives what differs, then schedules its next refresh. A request that is not a job
    /// has no permit and no need.
    pub(super) async fn run(
        &self,
        request: &FetchRequest,
        refresh: &Discovery,
        permit: Option<&ConcurrencyPermit>,
        need: Option<&AnswerNeed<'_>>,
    ) -> Result<FetchOutcome, JobFailure> {
        let Discovery { account_id, project_id, conversation_id, .. } = refresh;
        if self.archive.remove_if_erased(account_id, project_id, conversation_id).await? {
            return Ok(FetchOutcome::Erased);
        }
        let location = Location::new(account_id, project_id, conversation_id, request.expected_start());
        let stored = match self.archive.read(&location).await? {
            Some(stored) if !self.ages.is_empty() => stored,
            _ => return Ok(finish(RefreshOutcome::Skipped)),
        };
        let manifest = &stored.manifest;
        let (outcome, fetched_at) = if request.has_written(manifest) {
            // The attempt that wrote this revision may have ended before its announcement.
            let known = self.announcer.announce(request, "known", &location, manifest.clone()).await?;
            let Some(archived) = known else { return Ok(FetchOutcome::Erased) };
            (RefreshOutcome::Updated(archived), manifest.timings.fetched_at)
        } else if need.is_some_and(|need| need.is_met_by(manifest, self.clock.now())) {
            (RefreshOutcome::Skipped, manifest.timings.fetched_at)
        } else {
            let updated = self.update(request, refresh, &location, &stored, permit).await;
            match updated.map_err(|failure| with_kept_revision(failure, manifest.revision))? {
                Some(updated) => updated,
                None => return Ok(FetchOutcome::Erased),
            }
        };
        if !matches!(outcome, RefreshOutcome::Gone) {
            self.schedule(refresh, fetched_at).await?;
        }
        Ok(finish(outcome))
    }

    /// Fetches the conversation and commits it. Returns the outcome and the time of the fetch, or `None` if the conversation
    /// was erased meanwhile.
    async fn update(
        &self,
        request: &FetchRequest,
        refresh: &Discovery,
        location: &Location,
        stored: &StoredConversation,
        permit: Option<&ConcurrencyPermit>,
    ) -> Result<Option<(RefreshOutcome, Timestamp)>, JobFailure> {
        let (project, id) = (self.project(refresh)?, &request.conversation_id);
        let hint = ConversationHint {
            started_at: Some(stored.manifest.facts.started_at),
            known_at: request.received_at,
            environments: refresh.environment.as_slice(),
            was_listed: true,
        };
        let answer = self.polyai.conversation(project, id, &hint);
        let conversation = match concurrency::wait_for_answer(permit, project.project_id(), answer).await {
            Err(error) if error.kind == ErrorKind::UnknownConversation => {
                let revision = stored.manifest.revision;
                tracing::info!(
                    conversation.id = id,
                    revision,
                    polyai.correlation_id = error.correlation_id,
                    "PolyAI no longer has the conversation; the archive keeps it"
                );
                return Ok(Some((RefreshOutcome::Gone, self.clock.now())));
            }
            answer => answer?,
        };
        let fetched_at = conversation.fetched_at;
        let served_by = stored.manifest.provenance.served_by;
        if stored.names_bytes(&conversation.json) {
            return Ok(Some((RefreshOutcome::Unchanged, fetched_at)));
        }
        if conversation.info.in_progress || has_fewer_fields(conversation.route, served_by) {
            return Ok(Some((RefreshOutcome::Stale, fetched_at)));
        }
        let correlation_id = Some(conversation.correlation_id.clone());
        let committed = self.commit(request, location, stored, project, conversation).await?;
        let manifest = match committed {
            CommitOutcome::Written(manifest) => manifest,
            CommitOutcome::Unchanged(_) => return Ok(Some((RefreshOutcome::Unchanged, fetched_at))),
            CommitOutcome::Stale(_) => return Ok(Some((RefreshOutcome::Stale, fetched_at))),
        };
        let announced = self.announcer.announce(request, "refreshed", location, manifest).await?;
        let Some(mut archived) = announced else { return Ok(None) };
        archived.correlation_id = correlation_id;
        Ok(Some((RefreshOutcome::Updated(archived), fetched_at)))
    }

    async fn commit(
        &self,
        request: &FetchRequest,
        location: &Location,
        stored: &StoredConversation,
        project: &Project,
        conversation: Conversation,
    ) -> Result<CommitOutcome, JobFailure> {
        let Manifest { audio, facts, .. } = &stored.manifest;
        let warnings = other_project_warning(project, &conversation.info).into_iter().collect();
        // The start determines the place in the archive, so it stays.
        let draft = manifest_draft(request, &conversation, facts.started_at, *audio, warnings);
        Ok(self.archive.commit(location, &draft, conversation.json, Vec::new()).await?)
    }

    /// Returns the project that the conversation was archived for.
    fn project(&self, refresh: &Discovery) -> Result<&Project, JobFailure> {
        let (account, project) = (Some(refresh.account_id.as_str()), Some(refresh.project_id.as_str()));
        let found = self.polyai.with_ids(account, project)?;
        let no_project =
            || JobFailure::new("unknown_project", "no project is configured", RetryDecision::Dead);
        found.first().copied().ok_or_else(no_project)
    }

    /// Schedules the first refresh of a conversation that was archived just now.
    pub(super) async fn schedule_first(&self, manifest: &Manifest) -> Result<(), JobFailure> {
        let Manifest { facts, timings, .. } = manifest;
        let archived = Discovery {
            conversation_id: manifest.conversation_id.clone(),
            account_id: manifest.account_id.clone(),
            project_id: manifest.project_id.clone(),
            environment: Some(facts.environment.clone()).filter(|name| name != event::UNKNOWN),
            started_at: Some(facts.started_at),
            ended_at: Some(facts.ended_at().unwrap_or(timings.archived_at)),
            source: DiscoverySource::Refresh,
            ..Discovery::default()
        };
        self.schedule(&archived, timings.fetched_at).await
    }

    /// Makes the refresh durable that follows `last`. `fetched_at` is the time of the latest fetch. The same refresh always
    /// has the same id.
    pub(super) async fn schedule(&self, last: &Discovery, fetched_at: Timestamp) -> Result<(), JobFailure> {
        let Some((age, due)) = next_refresh(&self.ages, last, fetched_at) else { return Ok(()) };
        let refresh = Discovery { age: Some(age), ..last.clone() };
        let now = self.clock.now();
        // A clock may be wrong. No refresh waits longer than its age.
        let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default().min(age);
        let failed = |error: String| {
            let detail =
                format!("the conversation is archived, but its refresh could not be queued: {error}");
            JobFailure::new("refresh", detail, RetryDecision::Retry(None))
        };
        let body = refresh.body().map_err(|error| failed(error.to_string()))?;
        let id = refresh.id();
        let environment = refresh.environment.as_deref().unwrap_or(event::UNKNOWN);
        let message = Message {
            dedup: DedupKey::new(&id, b""),
            id,
            kind: CONVERSATION_DISCOVERED.to_owned(),
            environment: event::routing_environment(environment),
            conversation_id: Some(refresh.conversation_id),
            received_at: now,
            traceparent: None,
            content_type: "application/json".to_owned(),
            body: body.into(),
        };
        match self.queue.publish_delayed(message, wait).await {
            Ok(_) => Ok(()),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Returns the first age after that of `last` at which a copy that was fetched at `fetched_at` is too old, and its time.
fn next_refresh(ages: &[Duration], last: &Discovery, fetched_at: Timestamp) -> Option<(Duration, Timestamp)> {
    let ended_at = last.ended_at?;
    let mut later = ages.iter().copied().filter(|age| last.age.is_none_or(|done| *age > done));
    let is_soon = fetched_at.duration_since(ended_at).unsigned_abs() < SOON;
    later.find_map(|age| {
        let due = ended_at.checked_add(age).ok()?;
        if due > fetched_at {
            return Some((age, due));
        }
        is_soon.then_some((age, fetched_at.checked_add(age).ok()?))
    })
}

fn finish(outcome: RefreshOutcome) -> FetchOutcome {
    counter!("polyhook_refreshes_total", "outcome" => outcome.label()).increment(1);
    FetchOutcome::Refreshed(outcome)
}

/// Returns whether an answer lacks fields that the archived copy may have: only the Data API knows summary, score and notes.
fn has_fewer_fields(answer: Route, archived: ServedBy) -> bool {
    matches!((answer, archived), (Route::V3 | Route::V3List, ServedBy::Data) | (Route::V3List, ServedBy::V3))
}

fn with_kept_revision(failure: JobFailure, revision: u64) -> JobFailure {
    let detail = format!("the archive keeps revision {revision}, which is not refreshed: {}", failure.detail);
    JobFailure { detail, ..failure }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: u64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_mins(minutes)
    }

    /// Returns the minutes of the next age for a call that ended at minute 100.
    fn next(ages: &[u64], done: Option<u64>, fetched_at: u64) -> Option<u64> {
        let ages: Vec<_> = ages.iter().copied().map(Duration::from_mins).collect();
        let age = done.map(Duration::from_mins);
        let discovery = Discovery { ended_at: Some(at(100)), age, ..Discovery::default() };
        let (age, due) = next_refresh(&ages, &discovery, at(fetched_at))?;
        assert_eq!(due, at(100) + age);
        Some(age.as_secs() / 60)
    }

    #[test]
    fn an_age_that_passed_while_the_call_was_archived_counts_from_the_fetch() {
        let ages = [1, 60].map(Duration::from_mins);
        let next = |age: Option<Duration>, fetched_at| {
            let last = Discovery { ended_at: Some(at(100)), age, ..Discovery::default() };
            next_refresh(&ages, &last, fetched_at)
        };
        assert_eq!(next(None, at(103)), Some((ages[0], at(104))));
        assert_eq!(next(Some(ages[0]), at(104)), Some((ages[1], at(160))));
        assert_eq!(next(None, at(105)), Some((ages[1], at(160))), "not soon");
    }

    #[test]
    fn refreshes_at_each_age_that_is_later_than_the_fetch() {
        for (ages, done, fetched_at, expected) in [
            (&[60, 360][..], None, 101, Some(60)),
            (&[60, 360], None, 159, Some(60)),
            (&[60, 360], None, 160, Some(360)),
            (&[60, 360], None, 460, None),
            (&[60, 360], Some(60), 160, Some(360)),
            // A broker's clock may be ahead: the same age does not come twice.
            (&[60, 360], Some(60), 159, Some(360)),
            // The worker was away for six hours.
            (&[60, 360, 1440], Some(60), 470, Some(1440)),
            (&[60, 360], Some(360), 461, None),
            // The configuration has changed since.
            (&[120], Some(60), 161, Some(120)),
            (&[], Some(60), 161, None),
            (&[], None, 101, None),
        ] {
            assert_eq!(next(ages, done, fetched_at), expected, "{ages:?} {done:?} {fetched_at}");
        }
    }
}
