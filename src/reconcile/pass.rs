//! One pass over the conversations of a project: lists them, compares them with the archive, and queues the missing
//! ones.

use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use futures_util::{StreamExt, stream};
use governor::DefaultDirectRateLimiter;
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::mpsc;

use super::archived::{ArchiveState, ArchivedConversations};
use crate::{
    archive::{Archive, ArchiveError},
    clock::Clock,
    event::{self, CONVERSATION_DISCOVERED, DedupKey, Discovery, DiscoverySource},
    polyai::{Api, ConversationLister, ListFailure, ListQuery, ListedConversation, PolyAiClient, Project},
    queue::{Message, Published, Queue, QueueError, QueueKind},
};

/// The number of conversations that are queued at the same time.
const BATCH_SIZE: usize = 32;
/// The maximum number of attempts for an operation of the queue. The delay between them doubles.
const MAX_ATTEMPTS: usize = 8;
/// The delay after the first attempt.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The interval at which a full queue is checked.
const BACKLOG_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The number of checks without room after which a warning is logged.
const CHECKS_BEFORE_WARNING: u32 = 30;
/// The number of queued conversations that a pass names.
const MAX_FIRST_QUEUED: usize = 100;
/// The number of failures of a pass that are kept.
const MAX_FAILURES: usize = 20;

/// The limits for queueing conversations.
#[derive(Debug, Default)]
pub struct QueueingLimits {
    /// The maximum rate. `None`: no limit.
    pub rate: Option<DefaultDirectRateLimiter>,
    /// The maximum number of waiting jobs, above which the pass pauses. So webhooks do not wait behind a month of old
    /// calls. `None`: no limit.
    pub max_backlog: Option<u64>,
}

/// The parameters of a pass.
#[derive(Clone, Copy, Debug)]
pub struct ReconcilePass<'a> {
    /// The client for PolyAI's list.
    pub polyai: &'a PolyAiClient,
    /// The archive to compare with.
    pub archive: &'a Archive,
    /// The queue for missing conversations. `None`: a dry run.
    pub queue: Option<&'a dyn Queue>,
    /// The clock that decides which calls are over.
    pub clock: &'a Clock,
    /// Calls that ended less than this time ago are ignored.
    pub settle: Duration,
    /// The initiator of the pass.
    pub source: DiscoverySource,
    /// The time of a person's request. Conversations that were queued before this time are queued again.
    pub requested_at: Option<Timestamp>,
    /// The limits for queueing.
    pub limits: &'a QueueingLimits,
    /// Gets each conversation that the queue has now. The pass pauses while the channel is full.
    pub queued: Option<&'a mpsc::Sender<Discovery>>,
}

/// The counts of a pass so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PassSummary {
    /// Conversations that PolyAI has.
    pub listed: u64,
    /// Of these, conversations in the archive.
    pub archived: u64,
    /// Conversations that are over for long enough, but not in the archive.
    pub missing: u64,
    /// Conversations that were archived before they were over.
    pub outdated: u64,
    /// Conversations that are in progress or ended just now, and are not among the archived ones.
    pub unsettled: u64,
    /// Conversations that were erased here, and so are not missing.
    pub erased: u64,
    /// Missing conversations that this pass queued.
    pub queued: u64,
    /// Missing conversations that the queue already has, or had recently.
    pub queued_before: u64,
    /// Entries of the list that cannot be read.
    pub unreadable: u64,
}

/// The result of a pass. It is complete without failures.
#[derive(Debug, Default)]
pub struct PassOutcome {
    /// The counts.
    pub summary: PassSummary,
    /// The reasons why something was not compared or not queued, at most twenty.
    pub failures: Vec<PassError>,
    /// The conversations that are in progress, or ended just now.
    pub unsettled: Vec<ListedConversation>,
    /// The first of the conversations that were queued.
    pub first_queued: Vec<Discovery>,
    /// The API that served the list, if one did.
    pub api: Option<Api>,
    /// The place of an unreadable entry of PolyAI's list, for a person.
    pub first_unreadable: Option<String>,
}

impl PassOutcome {
    fn add_failure(&mut self, failure: impl Into<PassError>) {
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(failure.into());
        }
    }
}

impl PassSummary {
    /// Adds the counts of another project.
    pub fn add(&mut self, other: &Self) {
        let Self {
            listed,
            archived,
            missing,
            outdated,
            unsettled,
            erased,
            queued,
            queued_before,
            unreadable,
        } = other;
        self.listed += listed;
        self.archived += archived;
        self.missing += missing;
        self.outdated += outdated;
        self.unsettled += unsettled;
        self.erased += erased;
        self.queued += queued;
        self.queued_before += queued_before;
        self.unreadable += unreadable;
    }
}

/// A part of a pass failed. What it has queued stays queued.
#[derive(Debug, Error)]
pub enum PassError {
    /// A part of PolyAI's list cannot be read.
    #[error("{0}")]
    List(ListFailure),
    /// The archive cannot be listed or read.
    #[error("the archive cannot be read: {0}")]
    Archive(#[from] ArchiveError),
    /// A missing conversation cannot be queued.
    #[error("a missing conversation cannot be queued: {0}")]
    Queue(#[from] QueueError),
}

impl PassError {
    /// Returns true if a part of PolyAI's list cannot be read, although its other parts may be served.
    pub(super) fn is_of_window(&self) -> bool {
        matches!(self, Self::List(failure) if !failure.error.affects_project())
    }
}

impl ReconcilePass<'_> {
    /// Compares the conversations of `query`, newest first. A failure of one part does not affect the others.
    /// `on_progress` gets the counts so far, and the approximate time down to which everything is compared.
    pub async fn run(
        &self,
        project: &Project,
        query: ListQuery,
        on_progress: impl FnMut(&PassSummary, Timestamp),
    ) -> PassOutcome {
        let mut outcome = PassOutcome::default();
        let archived = ArchivedConversations::open(self.archive, project, &query.started).await;
        let mut list = self.polyai.list(project, query);
        let compared = match archived {
            Ok(archived) => self.compare_all(project, &mut list, archived, &mut outcome, on_progress).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = compared {
            outcome.add_failure(error);
        }
        outcome.api = list.api();
        outcome.first_unreadable = list.first_unreadable().map(str::to_owned);
        for failure in list.into_failures() {
            outcome.add_failure(PassError::List(failure));
        }
        outcome
    }

    /// # Errors
    ///
    /// The pass cannot continue.
    async fn compare_all(
        &self,
        project: &Project,
        list: &mut ConversationLister<'_>,
        mut archived: ArchivedConversations<'_>,
        outcome: &mut PassOutcome,
        mut on_progress: impl FnMut(&PassSummary, Timestamp),
    ) -> Result<(), PassError> {
        let mut found = Vec::with_capacity(BATCH_SIZE);
        // The number of conversations that may be queued before the backlog is checked again.
        let mut room = 0;
        loop {
            let next = list.next().await;
            let over = next.is_none();
            outcome.summary.unreadable = list.unreadable();
            if let Some(listed) = next {
                outcome.summary.listed += 1;
                if self.is_unsettled(&listed) {
                    if self.is_archived(&listed, &mut archived).await {
                        outcome.summary.archived += 1;
                    } else {
                        outcome.summary.unsettled += 1;
                    }
                    outcome.unsettled.push(listed);
                } else {
                    match self.compare(&listed, project, &mut archived, &mut outcome.summary).await {
                        Ok(discovery) => found.extend(discovery),
                        Err(error) => outcome.add_failure(error),
                    }
                }
            }
            // The next page may take long or fail, so what was found is not kept waiting for it.
            if found.len() == BATCH_SIZE || list.is_page_over() {
                self.queue_missing(&mut found, &mut room, outcome).await?;
            }
            on_progress(&outcome.summary, list.reached());
            if over {
                return Ok(());
            }
        }
    }

    /// Returns true if the call is in progress or ended just now.
    pub(super) fn is_unsettled(&self, listed: &ListedConversation) -> bool {
        let over = listed.ended_at.or(listed.started_at).unwrap_or(Timestamp::MIN);
        let settled = self.clock.now().checked_sub(self.settle).unwrap_or(Timestamp::MIN);
        listed.in_progress || over > settled
    }

    /// Returns true if a call that ended just now is archived already. Only a person wants to know: the service sees the
    /// call again soon.
    async fn is_archived(
        &self,
        listed: &ListedConversation,
        archived: &mut ArchivedConversations<'_>,
    ) -> bool {
        let is_asked = matches!(self.source, DiscoverySource::Command) && !listed.in_progress;
        is_asked && matches!(archived.find(listed).await, Ok(ArchiveState::Archived))
    }

    /// Compares a settled conversation with the archive. Returns it if it must be queued.
    pub(super) async fn compare(
        &self,
        listed: &ListedConversation,
        project: &Project,
        archived: &mut ArchivedConversations<'_>,
        summary: &mut PassSummary,
    ) -> Result<Option<Discovery>, ArchiveError> {
        let archived_at = match archived.find(listed).await? {
            ArchiveState::Archived => {
                summary.archived += 1;
                return Ok(None);
            }
            ArchiveState::Outdated(archived_at) => {
                summary.outdated += 1;
                Some(archived_at)
            }
            ArchiveState::Erased => {
                summary.erased += 1;
                return Ok(None);
            }
            ArchiveState::Missing => {
                summary.missing += 1;
                None
            }
            ArchiveState::Unknown => return Ok(None),
        };
        Ok(Some(Discovery {
            conversation_id: listed.id.clone(),
            account_id: project.account_id().to_owned(),
            project_id: project.project_id().to_owned(),
            environment: listed.environment.clone(),
            started_at: listed.started_at,
            ended_at: listed.ended_at,
            source: self.source,
            dedup_time: self.requested_at.or(archived_at),
            force: false,
            is_refetch: false,
            age: None,
        }))
    }

    async fn queue_missing(
        &self,
        found: &mut Vec<Discovery>,
        room: &mut u64,
        outcome: &mut PassOutcome,
    ) -> Result<(), QueueError> {
        let Some(queue) = self.queue else {
            found.clear();
            return Ok(());
        };
        if found.is_empty() {
            return Ok(());
        }
        if let Some(max_backlog) = self.limits.max_backlog {
            // Counting may cost as much as the queue is long, so it is not repeated for every batch.
            if *room == 0 {
                *room = wait_for_room(queue, max_backlog).await?;
            }
            *room = room.saturating_sub(found.len() as u64);
        }
        let (batch, mut failures) = (found.len(), Vec::new());
        let mut queued = stream::iter(found.drain(..))
            .map(async |discovery| {
                if let Some(rate) = &self.limits.rate {
                    rate.until_ready().await;
                }
                (publish_discovery(queue, &discovery, self.clock).await, discovery)
            })
            .buffer_unordered(BATCH_SIZE);
        while let Some((published, discovery)) = queued.next().await {
            if let (Ok(_), Some(queued)) = (&published, self.queued) {
                // Fails if the receiver no longer waits for them.
                let _ = queued.send(discovery.clone()).await;
            }
            match published {
                Ok(Published::New) => {
                    outcome.summary.queued += 1;
                    if outcome.first_queued.len() < MAX_FIRST_QUEUED {
                        outcome.first_queued.push(discovery);
                    }
                }
                Ok(Published::Duplicate) => outcome.summary.queued_before += 1,
                Err(error) => failures.push(error),
            }
        }
        // One message may be refused for a reason of its own. Otherwise the queue does not work.
        let is_down =
            failures.len() == batch || failures.iter().any(|e| !matches!(e, QueueError::Refused(_)));
        match failures.pop() {
            Some(error) if is_down => Err(error),
            Some(error) => {
                outcome.add_failure(error);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Waits until at most `max_backlog` jobs wait. Returns the number of conversations that may be queued now.
pub(super) async fn wait_for_room(queue: &dyn Queue, max_backlog: u64) -> Result<u64, QueueError> {
    let mut checks = 0;
    loop {
        let jobs = with_retries(|| waiting_jobs(queue)).await?;
        if let Some(room) = max_backlog.checked_sub(jobs) {
            return Ok(room.max(1));
        }
        checks += 1;
        if checks == CHECKS_BEFORE_WARNING {
            tracing::warn!(
                jobs,
                max_backlog,
                "nothing more is queued while so many jobs wait; if this continues, check that a worker is running"
            );
        }
        tokio::time::sleep(BACKLOG_POLL_INTERVAL).await;
    }
}

/// Publishes a discovery as a job.
pub async fn publish_discovery(
    queue: &dyn Queue,
    discovery: &Discovery,
    clock: &Clock,
) -> Result<Published, QueueError> {
    let body = discovery.body().map_err(|error| QueueError::Refused(error.to_string()))?;
    let id = discovery.id();
    let message = Message {
        // The key does not contain the body, because the initiator makes no difference.
        dedup: DedupKey::new(&id, b""),
        id,
        kind: CONVERSATION_DISCOVERED.to_owned(),
        environment: discovery
            .environment
            .as_deref()
            .map_or_else(|| event::UNKNOWN.to_owned(), event::routing_environment),
        conversation_id: Some(discovery.conversation_id.clone()),
        received_at: clock.now(),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body: body.into(),
    };
    // If an attempt is repeated, the worst result is a duplicate.
    with_retries(|| queue.publish(message.clone())).await
}

/// Retries an operation of the queue, so that a transient error does not end a pass over a month.
async fn with_retries<T, F>(operation: impl FnMut() -> F) -> Result<T, QueueError>
where
    F: Future<Output = Result<T, QueueError>>,
{
    let delays = ExponentialBuilder::new()
        .with_min_delay(FIRST_DELAY)
        .with_max_times(MAX_ATTEMPTS - 1)
        .without_max_delay();
    operation.retry(delays).when(QueueError::is_transient).await
}

/// Returns the number of jobs that can be taken now.
pub(super) async fn waiting_jobs(queue: &dyn Queue) -> Result<u64, QueueError> {
    let depths = queue.depths().await?;
    Ok(depths.into_iter().filter(|(queue, _)| *queue == QueueKind::Fetch).map(|(_, depth)| depth).sum())
}
