//! Finds conversations through the index, the newest first and a page at a time.
//!
//! * Days are searched from the newest one. Of each file only the footer and the needed columns of the needed row groups are read
//!   (`files.rs`); statistics show which row groups cannot have a match. A search ends when its page is full.
//! * A search has a time budget. When it is over, the search returns what it has found, how far it has come, and a cursor to continue
//!   (`cursor.rs`). Each request does at least one part, so a search that is continued comes to an end.
//! * Rows of a day are in no order, so a day is sorted after it was searched. If the budget ends within a day, what was found in the
//!   searched part is returned, sorted, and the next request searches the rest. All pages together have each call once, also then.
//! * Memory: the newest calls of a page, a few compressed row groups, one column, and for a phrase about 40 bytes for each call of a
//!   day. The number of searches at the same time is limited.
//! * A file that is missing or damaged is reported with its day, and hides nothing else. Erased conversations are left out, even if
//!   the index still has them.

mod cursor;
mod files;
mod filter;
mod phrase;
mod rows;
mod run;
mod scan;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::civil::Date;
use thiserror::Error;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use self::{cursor::Cursor, run::Run};
use super::{CALLS_FOLDER, Index, thread::WorkThread};
use crate::archive::{ArchiveError, ErasedConversations};

pub use self::{
    filter::CallFilter,
    phrase::{Excerpt, Phrase},
    rows::{FoundCall, SearchProject, Speaker, TextHit},
};

/// The projects whose days are listed at the same time, and the erasures that are looked up.
const CONCURRENT_REQUESTS: usize = 16;
/// The searches for a phrase, and the other ones, that run at the same time.
const CONCURRENT_TEXT_SEARCHES: usize = 2;
const CONCURRENT_LISTS: usize = 4;
/// The calls of a page.
const PAGE_CALLS: usize = 50;
/// The time of one request.
const BUDGET: Duration = Duration::from_millis(1500);
/// The time for which a search waits for others.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// The time in which the days must be listed.
const LISTING_TIMEOUT: Duration = Duration::from_secs(10);

/// The limits of the searches of an index. Clones share the number of searches.
#[derive(Clone, Debug)]
pub(super) struct SearchState {
    limits: SearchLimits,
    text_permits: Arc<Semaphore>,
    list_permits: Arc<Semaphore>,
    thread: WorkThread,
}

impl Default for SearchState {
    fn default() -> Self {
        Self {
            limits: SearchLimits { calls: PAGE_CALLS, budget: BUDGET },
            text_permits: Arc::new(Semaphore::new(CONCURRENT_TEXT_SEARCHES)),
            list_permits: Arc::new(Semaphore::new(CONCURRENT_LISTS)),
            thread: WorkThread::default(),
        }
    }
}

/// The limits of one request.
#[derive(Clone, Copy, Debug)]
struct SearchLimits {
    calls: usize,
    budget: Duration,
}

/// A page of a search.
#[derive(Clone, Debug)]
pub struct SearchPage {
    /// The calls, the newest first.
    pub calls: Vec<FoundCall>,
    /// The cursor of the next page. Absent: there is nothing more.
    pub next: Option<String>,
    /// How far the search has come.
    pub end: SearchEnd,
    /// The days that could not be read, or only in part. Their other calls may be missing.
    pub unreadable: Vec<UnreadableDay>,
    /// The days of the archive that the index does not have. Empty on all pages but the first one.
    pub unindexed: UnindexedDays,
    /// False if there is no index of any project.
    pub has_index: bool,
    /// The projects, sorted.
    pub projects: Vec<SearchProject>,
}

/// The reason why a search has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchEnd {
    /// All days were searched.
    Complete,
    /// The page is full.
    Full,
    /// The time was over.
    OutOfTime {
        /// The day that is searched next. Later days are done.
        date: Date,
        /// The share of this day that is done, in percent.
        percent: u8,
    },
}

/// A day of a project that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableDay {
    /// The project.
    pub project: Arc<SearchProject>,
    /// The day.
    pub date: Date,
    /// The reason, with the next step.
    pub reason: String,
}

/// The days of the archive that the index does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnindexedDays {
    /// Their number.
    pub count: usize,
    /// The first one.
    pub first: Option<Date>,
    /// The last one.
    pub last: Option<Date>,
}

/// A search failed.
#[derive(Debug, Error)]
pub enum SearchError {
    /// The cursor was not made by this program.
    #[error("the link to this page is damaged; start again from the first page")]
    Cursor,
    /// The archive cannot be read.
    #[error("the archive cannot be read: {0}")]
    Archive(#[from] ArchiveError),
    /// Other searches take all the time.
    #[error("other searches are running, and only a few at a time may; search again in a moment")]
    Busy,
    /// The archive does not answer.
    #[error(
        "the archive did not answer within {} s; check archive.url and the network, or find the cause with `polyhook doctor`",
        LISTING_TIMEOUT.as_secs()
    )]
    Timeout,
}

/// The days with an index, each with its projects.
#[derive(Debug, Default)]
struct IndexedDays {
    projects: Vec<Arc<SearchProject>>,
    dates: BTreeMap<Date, Vec<Arc<SearchProject>>>,
    unindexed: UnindexedDays,
}

impl Index {
    /// Returns the page at `cursor`, or the first one.
    pub async fn search(
        &self,
        filter: Arc<CallFilter>,
        cursor: Option<&str>,
    ) -> Result<SearchPage, SearchError> {
        let cursor = cursor.map(Cursor::decode).transpose()?;
        let permits =
            if filter.text.is_some() { &self.search.text_permits } else { &self.search.list_permits };
        let _permit = timeout(PERMIT_TIMEOUT, permits.acquire()).await.map_err(|_| SearchError::Busy)?;
        let deadline = Instant::now() + self.search.limits.budget;
        let listed = async {
            tokio::try_join!(self.list_days(&filter, cursor.is_none()), self.erased_conversations(deadline))
        };
        let listed = timeout_at(Instant::now() + LISTING_TIMEOUT, listed).await;
        let (days, erased) = listed.map_err(|_| SearchError::Timeout)??;
        let mut page = Run::new(self, filter, deadline).run(&days, cursor).await;
        self.remove_erased(&mut page.calls, erased.as_ref()).await?;
        page.has_index = !days.dates.is_empty();
        page.projects = days.projects.iter().map(|project| (**project).clone()).collect();
        page.unindexed = days.unindexed;
        Ok(page)
    }

    /// Lists the days with an index. With `compare`, also counts the days of the archive without one.
    async fn list_days(&self, filter: &CallFilter, compare: bool) -> Result<IndexedDays, ArchiveError> {
        let archive = &self.archive;
        let indexed = archive.list_project_ids(CALLS_FOLDER);
        let found = if compare {
            let (indexed, archived) = tokio::try_join!(indexed, archive.list_project_ids(""))?;
            [indexed, archived].concat()
        } else {
            indexed.await?
        };
        let projects =
            found.into_iter().map(|(account_id, project_id)| SearchProject { account_id, project_id });
        let projects: BTreeSet<_> = projects.collect();
        let projects: Vec<_> = projects.into_iter().map(Arc::new).collect();
        let list = |project: Arc<SearchProject>| async move {
            let SearchProject { account_id, project_id } = &*project;
            let indexed = self.list_indexed_dates(account_id, project_id);
            if !compare {
                return Ok::<_, ArchiveError>((Arc::clone(&project), indexed.await?, BTreeSet::new()));
            }
            let (indexed, archived) = tokio::try_join!(indexed, archive.list_dates(account_id, project_id))?;
            Ok((Arc::clone(&project), indexed, archived))
        };
        let listed: Vec<_> =
            stream::iter(projects.clone()).map(list).buffered(CONCURRENT_REQUESTS).try_collect().await?;
        let mut days = IndexedDays { projects, ..IndexedDays::default() };
        for (project, indexed, archived) in listed {
            if !filter.takes_project(&project) {
                // It still counts as a project with an index.
                for date in indexed {
                    days.dates.entry(date).or_default();
                }
                continue;
            }
            for date in archived.difference(&indexed).filter(|date| filter.takes_date(**date)) {
                days.unindexed.add(*date);
            }
            for date in indexed {
                days.dates.entry(date).or_default().push(Arc::clone(&project));
            }
        }
        Ok(days)
    }

    /// Lists the erased conversations. Returns `None` if there are too many to list in time.
    async fn erased_conversations(
        &self,
        deadline: Instant,
    ) -> Result<Option<ErasedConversations>, ArchiveError> {
        timeout_at(deadline, self.archive.erased_conversations()).await.ok().transpose()
    }

    /// Removes calls that are erased, but still in the index.
    async fn remove_erased(
        &self,
        calls: &mut Vec<FoundCall>,
        erased: Option<&ErasedConversations>,
    ) -> Result<(), ArchiveError> {
        if let Some(erased) = erased {
            calls.retain(|call| {
                let SearchProject { account_id, project_id } = &*call.project;
                !erased.contains(account_id, project_id, &call.conversation_id)
            });
            return Ok(());
        }
        let look_up = |call: FoundCall| async move {
            let SearchProject { account_id, project_id } = &*call.project;
            let is_erased = self.archive.is_erased(account_id, project_id, &call.conversation_id).await?;
            Ok::<_, ArchiveError>((!is_erased).then_some(call))
        };
        let looked_up = stream::iter(std::mem::take(calls)).map(look_up).buffered(CONCURRENT_REQUESTS);
        *calls = looked_up.try_filter_map(async |call| Ok(call)).try_collect().await?;
        Ok(())
    }
}

impl UnindexedDays {
    fn add(&mut self, date: Date) {
        self.count += 1;
        self.first = Some(self.first.map_or(date, |first| first.min(date)));
        self.last = self.last.max(Some(date));
    }
}
