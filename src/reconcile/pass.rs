//! One pass over a project's conversations: listed, looked up, queued where they are missing.

use std::{collections::VecDeque, ops::Range, time::Duration};

use futures_util::{StreamExt, stream};
use governor::DefaultDirectRateLimiter;
use jiff::{Timestamp, civil::Date, tz::Offset};
use thiserror::Error;

use crate::{
    archive::{Archive, ArchiveError, ArchivedDay, ErasedConversations, Location},
    clock::Clock,
    event::{self, By, CONVERSATION_DISCOVERED, DedupKey, Discovery},
    polyai::{ApiError, ListQuery, Listed, PolyAi, Project},
    queue::{Message, Published, Queue, QueueError, QueueKind},
};

/// Days of the archive that are known at a time. A list is about in order, so two would do.
const DAYS: usize = 3;
/// Found conversations are queued by so many at a time.
const BATCH: usize = 32;
/// What the queue does not do at once is asked for again so often, after waits that double.
const TRIES: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How often a full queue is looked at again, and how many looks without room are worth a word.
const LOOK: Duration = Duration::from_secs(1);
const PATIENT_LOOKS: u32 = 30;

/// How fast conversations are queued.
#[derive(Debug, Default)]
pub struct QueueingLimits {
    /// So many a second; no bound where absent.
    pub rate: Option<DefaultDirectRateLimiter>,
    /// Only while no more than so many jobs wait, so that what comes by webhook does not wait behind a month of old calls.
    pub max_backlog: Option<u64>,
}

/// What compares, and what it compares with.
#[derive(Debug)]
pub struct ReconcilePass<'a> {
    /// Whose list.
    pub polyai: &'a PolyAi,
    /// The ledger.
    pub archive: &'a Archive,
    /// Where missing conversations are queued; nowhere in a dry run.
    pub queue: Option<&'a dyn Queue>,
    /// Says what is over.
    pub clock: &'a Clock,
    /// Calls that ended less than this ago are left alone.
    pub settle: Duration,
    /// Which environments are wanted.
    pub environments: &'a [String],
    /// Who asks.
    pub by: By,
    /// When a person asked: what was queued before is queued again for them.
    pub asked_at: Option<Timestamp>,
    /// How fast.
    pub limits: &'a QueueingLimits,
}

/// What a pass has found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PassSummary {
    /// Conversations that PolyAI has.
    pub listed: u64,
    /// Of these, in the archive.
    pub archived: u64,
    /// Not in the archive, though over for long enough.
    pub missing: u64,
    /// In the archive, but fetched before they were over.
    pub outdated: u64,
    /// Still going on, or over only just now.
    pub unsettled: u64,
    /// Erased here, and so not missing.
    pub erased: u64,
    /// Missing ones that were queued now.
    pub queued: u64,
    /// Missing ones that the queue has, or has had not long ago.
    pub queued_before: u64,
    /// Entries of the list that name no conversation.
    pub unreadable: u64,
}

impl PassSummary {
    /// Adds another project's.
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

/// Why a pass did not come to its end. What it has queued stays queued.
#[derive(Debug, Error)]
pub enum PassError {
    /// PolyAI does not list.
    #[error("the conversations cannot be listed: {0}")]
    Api(#[from] ApiError),
    /// The archive does not say what it holds.
    #[error("the archive cannot be listed: {0}")]
    Archive(#[from] ArchiveError),
    /// Nothing can be queued.
    #[error("nothing can be queued: {0}")]
    Queue(#[from] QueueError),
}

impl ReconcilePass<'_> {
    /// Compares what started within `started`, newest first. `seen` is told of the progress: what was found, and the
    /// moment down to which everything is compared, about.
    pub async fn project(
        &self,
        project: &Project,
        started: Range<Timestamp>,
        mut seen: impl FnMut(&PassSummary, Timestamp),
    ) -> Result<PassSummary, PassError> {
        let query = ListQuery { started, environments: self.environments.to_vec() };
        let mut list = self.polyai.list(project, query);
        let erasures = self.archive.erased_conversations().await?;
        let mut ledger = Ledger { archive: self.archive, project, erasures, days: VecDeque::new() };
        let mut tally = PassSummary::default();
        let mut found = Vec::with_capacity(BATCH);
        // How many may be queued before it is looked again how many wait.
        let mut room = 0;
        loop {
            let next = list.next().await?;
            tally.unreadable = list.unreadable();
            let over = next.is_none();
            if let Some(listed) = next {
                tally.listed += 1;
                if let Some(discovery) = self.compare(&listed, project, &mut ledger, &mut tally).await? {
                    found.push(discovery);
                }
            }
            if found.len() == BATCH || over {
                self.queue_all(&mut found, &mut room, &mut tally).await?;
            }
            seen(&tally, list.reached());
            if over {
                return Ok(tally);
            }
        }
    }

    /// What is to be queued, if anything.
    async fn compare(
        &self,
        listed: &Listed,
        project: &Project,
        ledger: &mut Ledger<'_>,
        tally: &mut PassSummary,
    ) -> Result<Option<Discovery>, PassError> {
        let over = listed.ended_at.or(listed.started_at).unwrap_or(Timestamp::MIN);
        let settled = self.clock.now().checked_sub(self.settle).unwrap_or(Timestamp::MIN);
        if listed.in_progress || over > settled {
            tally.unsettled += 1;
            return Ok(None);
        }
        let location = listed
            .started_at
            .map(|at| Location::new(project.account_id(), project.project_id(), &listed.id, at));
        let archived_at = match ledger.state(location.as_ref(), listed).await? {
            State::Archived => {
                tally.archived += 1;
                return Ok(None);
            }
            State::Outdated(archived_at) => {
                tally.outdated += 1;
                Some(archived_at)
            }
            State::Erased => {
                tally.erased += 1;
                return Ok(None);
            }
            State::Missing => {
                tally.missing += 1;
                None
            }
        };
        Ok(Some(Discovery {
            conversation_id: listed.id.clone(),
            account_id: project.account_id().to_owned(),
            project_id: project.project_id().to_owned(),
            environment: listed.environment.clone(),
            started_at: listed.started_at,
            ended_at: listed.ended_at,
            by: self.by,
            mark: self.asked_at.or(archived_at),
            again: false,
        }))
    }

    async fn queue_all(
        &self,
        found: &mut Vec<Discovery>,
        room: &mut u64,
        tally: &mut PassSummary,
    ) -> Result<(), PassError> {
        let Some(queue) = self.queue else {
            found.clear();
            return Ok(());
        };
        if found.is_empty() {
            return Ok(());
        }
        if let Some(max_backlog) = self.limits.max_backlog {
            // Counting may cost as much as the queue is long.
            let mut looks = 0;
            while *room == 0 {
                let jobs = patiently(|| waiting(queue)).await?;
                if let Some(left) = max_backlog.checked_sub(jobs) {
                    *room = left.max(1);
                    break;
                }
                looks += 1;
                if looks == PATIENT_LOOKS {
                    tracing::warn!(
                        jobs,
                        ahead = max_backlog,
                        "nothing more is queued while so many jobs wait: if that lasts, is a worker running?"
                    );
                }
                tokio::time::sleep(LOOK).await;
            }
            *room = room.saturating_sub(found.len() as u64);
        }
        let mut queued = stream::iter(found.drain(..))
            .map(async |discovery| {
                if let Some(rate) = &self.limits.rate {
                    rate.until_ready().await;
                }
                publish(queue, &discovery, self.clock).await
            })
            .buffer_unordered(BATCH);
        while let Some(published) = queued.next().await {
            match published? {
                Published::New => tally.queued += 1,
                Published::Duplicate => tally.queued_before += 1,
            }
        }
        Ok(())
    }
}

/// Makes a discovery a job.
pub(super) async fn publish(
    queue: &dyn Queue,
    discovery: &Discovery,
    clock: &Clock,
) -> Result<Published, QueueError> {
    let body = discovery.body().map_err(|error| QueueError::Refused(error.to_string()))?;
    let id = discovery.id();
    let message = Message {
        // Not the body: who found it makes no difference.
        dedup: DedupKey::new(&id, b""),
        id,
        kind: CONVERSATION_DISCOVERED.to_owned(),
        environment: discovery
            .environment
            .as_deref()
            .map_or_else(|| event::UNKNOWN.to_owned(), event::environment_word),
        conversation_id: Some(discovery.conversation_id.clone()),
        received_at: clock.now(),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body: body.into(),
    };
    // Asked for again it is a duplicate at worst.
    patiently(|| queue.publish(message.clone())).await
}

/// Trouble of the queue's that passes is no reason to begin a month again.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, QueueError>
where
    F: Future<Output = Result<T, QueueError>>,
{
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match ask().await {
            Err(QueueError::Unavailable(_) | QueueError::Timeout(_) | QueueError::Refused(_)) => {}
            other => return other,
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
    }
    ask().await
}

/// How many jobs could be taken now.
async fn waiting(queue: &dyn Queue) -> Result<u64, QueueError> {
    let depths = queue.depths().await?;
    Ok(depths.into_iter().filter(|(lane, _)| *lane == QueueKind::Fetch).map(|(_, depth)| depth).sum())
}

enum State {
    Archived,
    /// Since when it lies there.
    Outdated(Timestamp),
    Erased,
    Missing,
}

/// The days of the archive that a pass is in.
struct Ledger<'a> {
    archive: &'a Archive,
    project: &'a Project,
    erasures: ErasedConversations,
    days: VecDeque<(Date, ArchivedDay)>,
}

impl Ledger<'_> {
    async fn state(&mut self, location: Option<&Location>, listed: &Listed) -> Result<State, ArchiveError> {
        if self.erasures.contain(self.project.account_id(), self.project.project_id(), &listed.id) {
            return Ok(State::Erased);
        }
        // Without a start there is no telling where it lies; the worker finds out.
        let (Some(location), Some(started_at)) = (location, listed.started_at) else {
            return Ok(State::Missing);
        };
        let Some(archived_at) = self.day(started_at).await?.archived_at(location) else {
            return Ok(State::Missing);
        };
        // The store's clock may be slow, so this only raises the question.
        if listed.ended_at.is_none_or(|ended_at| archived_at > ended_at) {
            return Ok(State::Archived);
        }
        Ok(match self.archive.read(location).await? {
            Some(stored) if stored.is_final() => State::Archived,
            Some(_) => State::Outdated(archived_at),
            None => State::Missing,
        })
    }

    async fn day(&mut self, started_at: Timestamp) -> Result<&ArchivedDay, ArchiveError> {
        let date = Offset::UTC.to_datetime(started_at).date();
        if let Some(at) = self.days.iter().position(|(known, _)| *known == date) {
            return Ok(&self.days[at].1);
        }
        if self.days.len() == DAYS {
            self.days.pop_front();
        }
        let day = self.archive.list_day(self.project.account_id(), self.project.project_id(), date).await?;
        self.days.push_back((date, day));
        Ok(&self.days[self.days.len() - 1].1)
    }
}
