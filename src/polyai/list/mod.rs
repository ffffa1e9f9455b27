//! Lists the conversations of a project by the start of the call: from v3, or from the Data API where v3 has no list.
//!
//! * v3 is asked for one [window](ListWindow) at a time: one day and one environment (it filters by one `client_env`),
//!   newest day first, by cursor. The Data API has no filters: its list is newest first, by offset, and is read until a
//!   whole page is older than the range. [`paging`] leads from page to page, and to an end.
//! * A page is parsed while it arrives ([`page`]), so its size does not matter; a few hundred bytes are kept of each
//!   conversation.
//! * After a transient error (429, 5xx, a broken connection) the page is requested again, a few times. So a conversation
//!   may be returned twice. A conversation that is written while a list is read may be missing; the next list has it.
//! * A page or window that cannot be read does not hide the others. It is reported in
//!   [`ConversationLister::failures`].

mod lookup;
pub(super) mod page;
mod paging;
mod window;

use std::{collections::VecDeque, fmt, ops::Range, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use jiff::Timestamp;
use thiserror::Error;
use url::Url;

pub(super) use self::lookup::FoundEntry;
pub use self::{lookup::ConversationHint, paging::EndlessList, window::ListWindow};
use self::{
    page::{Page, ReadPage},
    paging::{Paging, Position},
};
use super::{
    Api, ApiRequest, PolyAiClient, Project, Target,
    conversation::ListedConversation,
    error::{Advice, ApiError, ErrorKind},
    fallback::Source,
    http::SizeLimit,
};

/// One page. v3 allows 1,000 conversations, but sends their transcripts along.
const PAGE_ENTRIES: usize = 200;
const PAGE_REQUEST: ApiRequest<'static> = ApiRequest::List { limit: PAGE_ENTRIES };
/// Requests for one page before it counts as failed.
const MAX_ATTEMPTS: usize = 5;
/// Requests for one page after another failure, and in a range that failed in an earlier list.
const MAX_ATTEMPTS_AFTER_FAILURE: usize = 2;
/// The number of failed pages or windows in a row after which the rest is not read.
const MAX_FAILURES_IN_A_ROW: usize = 16;
/// The number of lists without an end in a row after which the rest is not read.
const MAX_ENDLESS_IN_A_ROW: usize = 2;
/// The number of windows that a message names.
const MAX_NAMED_WINDOWS: usize = 3;
/// The wait before the second attempt. Each further wait is twice as long.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(1);
/// The longest `Retry-After` that is waited for here.
const MAX_RETRY_DELAY: Duration = Duration::from_mins(2);
/// The largest page: 200 conversations of 20 MiB each.
const PAGE_LIMIT: SizeLimit = SizeLimit { bytes: 4 << 30, error: ErrorKind::BadAnswer };
/// The longest time for one page. The read timeout ends a silent one after half a minute.
const PAGE_TIMEOUT: Duration = Duration::from_mins(15);

/// The conversations to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// The range in which they started.
    pub started: Range<Timestamp>,
    /// Their environments.
    pub environments: Vec<String>,
    /// True if an earlier list could not read this range. Then each page is requested less often.
    pub failed_before: bool,
}

/// A part of a list that could not be read, wholly or from some page on.
#[derive(Debug)]
pub struct ListFailure {
    /// The parts. They follow each other and have the same error.
    pub windows: Vec<ListWindow>,
    /// The reason.
    pub error: ListError,
}

/// The reason why a part of a list could not be read.
#[derive(Clone, Debug, Error)]
pub enum ListError {
    /// The request failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The pages lead nowhere.
    #[error("the answer is not what was asked for: {0}; quote this to PolyAI's support")]
    Endless(#[from] EndlessList),
    /// The page was used, but entries of it may be missing.
    #[error(
        "a page of the list is damaged, so conversations may be missing in it; quote this to PolyAI's support"
    )]
    DamagedPage,
}

impl ListError {
    /// Returns whether all requests of the project would fail in the same way. A gateway's answer does not say so.
    pub fn affects_project(&self) -> bool {
        let Self::Api(error) = self else { return false };
        match error.kind {
            ErrorKind::KeyRejected
            | ErrorKind::KeyLacksScope
            | ErrorKind::UnknownProject
            | ErrorKind::NotServed => error.in_envelope,
            ErrorKind::RateLimited | ErrorKind::Paused => true,
            _ => false,
        }
    }
}

impl fmt::Display for ListFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the conversations of ")?;
        for (number, window) in self.windows.iter().take(MAX_NAMED_WINDOWS).enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{window}")?;
        }
        if let Some(more @ 1..) = self.windows.len().checked_sub(MAX_NAMED_WINDOWS) {
            write!(f, " and {more} more")?;
        }
        write!(f, " cannot be listed: {}", self.error)?;
        match &self.error {
            ListError::Api(ApiError { correlation_id: Some(id), .. }) => write!(f, " (correlation id {id})"),
            _ => Ok(()),
        }
    }
}

/// A list that is being read; see [`PolyAiClient::list`].
#[derive(Debug)]
pub struct ConversationLister<'a> {
    polyai: &'a PolyAiClient,
    project: &'a Project,
    query: ListQuery,
    /// The API that serves the list, once one has answered, or if there is only one.
    api: Option<Api>,
    windows: VecDeque<ListWindow>,
    paging: Paging,
    items: std::vec::IntoIter<ListedConversation>,
    finished: bool,
    failures: Vec<ListFailure>,
    failures_in_a_row: usize,
    unreadable: u64,
    first_unreadable: Option<String>,
    reached: Timestamp,
}

/// A page that cannot be read, with the part of it that arrived.
#[derive(Debug)]
struct FailedPage {
    error: ApiError,
    page: Page<ListedConversation>,
}

impl PolyAiClient {
    /// Prepares a list of the conversations of `project`. Sends nothing yet.
    pub fn list<'a>(&'a self, project: &'a Project, query: ListQuery) -> ConversationLister<'a> {
        let windows = window::windows(&query);
        ConversationLister {
            polyai: self,
            project,
            api: match project.targets() {
                [only] => Some(only.api()),
                _ => None,
            },
            paging: Paging::new(PAGE_ENTRIES),
            items: Vec::new().into_iter(),
            finished: windows.is_empty(),
            windows,
            failures: Vec::new(),
            failures_in_a_row: 0,
            unreadable: 0,
            first_unreadable: None,
            reached: query.started.end,
            query,
        }
    }
}

impl ConversationLister<'_> {
    /// Returns the next conversation, roughly newest first, or `None` at the end. Then [`failures`](Self::failures)
    /// says what is missing.
    pub async fn next(&mut self) -> Option<ListedConversation> {
        loop {
            while let Some(item) = self.items.next() {
                if let Some(started_at) = item.started_at {
                    self.reached = self.reached.min(started_at.max(self.query.started.start));
                }
                if self.matches(&item) {
                    return Some(item);
                }
            }
            if self.finished {
                self.reached = self.query.started.start;
                return None;
            }
            self.read_page().await;
        }
    }

    /// Returns whether the next conversation may have to be requested first.
    pub fn is_page_over(&self) -> bool {
        self.items.as_slice().is_empty()
    }

    /// Returns the parts of the list that could not be read so far.
    pub fn failures(&self) -> &[ListFailure] {
        &self.failures
    }

    /// Returns the parts of the list that could not be read.
    pub fn into_failures(self) -> Vec<ListFailure> {
        self.failures
    }

    /// Returns the API that serves the list, once one has answered.
    pub fn api(&self) -> Option<Api> {
        self.api
    }

    /// Returns the time down to which the range has been listed, roughly.
    pub fn reached(&self) -> Timestamp {
        self.reached
    }

    /// Returns the number of entries that have no id or are damaged.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    /// Returns the place of the first of these, for a person.
    pub fn first_unreadable(&self) -> Option<&str> {
        self.first_unreadable.as_deref()
    }

    fn matches(&self, item: &ListedConversation) -> bool {
        let in_range = item.started_at.is_none_or(|at| self.query.started.contains(&at));
        let environment = item.environment.as_deref();
        in_range && environment.is_none_or(|name| self.query.environments.iter().any(|wanted| wanted == name))
    }

    /// Reads the page at the current position, and moves to the next page or window.
    async fn read_page(&mut self) {
        match self.fetch_page().await {
            Ok((api, page)) => self.accept(api, page),
            Err(FailedPage { error, page }) => {
                let skipped = self.paging.skip(self.api, &page);
                self.note_unreadable(&page);
                self.items = page.items.into_iter();
                self.fail(&error.into(), skipped);
            }
        }
    }

    fn accept(&mut self, api: Api, page: Page<ListedConversation>) {
        if self.api.is_none() {
            self.api = Some(api);
            if api == Api::Data {
                // Its list has all windows, also those that v3 could not list before.
                self.failures.clear();
            }
        }
        self.note_unreadable(&page);
        let step = self.paging.advance(api, &page, self.query.started.start);
        let is_damaged = page.is_damaged;
        self.items = page.items.into_iter();
        match step {
            Err(endless) => return self.fail(&endless.into(), false),
            Ok(more) if is_damaged => return self.fail(&ListError::DamagedPage, more),
            // Pages of a window that does not end are no success.
            Ok(true) if api == Api::V3 => return,
            Ok(true) => {}
            Ok(false) => self.end_window(),
        }
        self.failures_in_a_row = 0;
    }

    /// Notes that the current page failed. `skipped`: the window goes on after it.
    fn fail(&mut self, error: &ListError, skipped: bool) {
        if !matches!(error, ListError::DamagedPage) {
            self.failures_in_a_row += 1;
        }
        let max =
            if matches!(error, ListError::Endless(_)) { MAX_ENDLESS_IN_A_ROW } else { MAX_FAILURES_IN_A_ROW };
        let is_last = error.affects_project() || self.failures_in_a_row >= max;
        // The list of the Data API has all windows, so none of them is complete.
        let failed = if is_last || self.api == Some(Api::Data) { self.windows.len() } else { 1 };
        for window in self.windows.iter().take(failed) {
            match self.failures.last_mut() {
                Some(last) if last.windows.contains(window) => {}
                Some(last) if last.error.to_string() == error.to_string() => {
                    last.windows.push(window.clone());
                }
                _ => self.failures.push(ListFailure { windows: vec![window.clone()], error: error.clone() }),
            }
        }
        if is_last {
            self.finished = true;
        } else if !skipped {
            self.end_window();
        }
    }

    fn end_window(&mut self) {
        self.paging = Paging::new(PAGE_ENTRIES);
        self.windows.pop_front();
        self.finished = self.api == Some(Api::Data) || self.windows.is_empty();
    }

    /// Counts and names the entries of a page that cannot be read.
    fn note_unreadable(&mut self, page: &Page<ListedConversation>) {
        if page.unreadable == 0 {
            return;
        }
        self.unreadable += page.unreadable;
        let place = match (self.windows.front(), self.api) {
            (Some(window), Some(Api::V3)) => window.to_string(),
            _ => format!("offset {}", self.paging.offset()),
        };
        let project = self.project.project_id();
        tracing::warn!(
            project.id = project,
            count = page.unreadable,
            place,
            "entries {:?} of a page of PolyAI's list cannot be read, so they cannot be compared with the archive",
            page.unreadable_positions
        );
        self.first_unreadable.get_or_insert_with(|| {
            let entry = page.unreadable_positions.first().copied().unwrap_or_default();
            format!("project {project}, {place}, entry {entry} of a page")
        });
    }

    /// Fetches the page at the current position. Waits at least as long as `Retry-After` between attempts.
    async fn fetch_page(&self) -> Result<(Api, Page<ListedConversation>), FailedPage> {
        let attempts = if self.query.failed_before || self.failures_in_a_row > 0 {
            MAX_ATTEMPTS_AFTER_FAILURE
        } else {
            MAX_ATTEMPTS
        };
        let delays = ExponentialBuilder::new()
            .with_min_delay(FIRST_RETRY_DELAY)
            .with_max_times(attempts - 1)
            .without_max_delay();
        (|| self.try_page())
            .retry(delays)
            .when(|FailedPage { error, .. }| matches!(error.advice(), Advice::Retry(after) if after.unwrap_or_default() <= MAX_RETRY_DELAY))
            .adjust(|FailedPage { error, .. }, delay| Some(delay?.max(error.retry_after.unwrap_or_default())))
            .notify(|FailedPage { error, .. }, delay| {
                let project = self.project.project_id();
                let wait_ms = delay.as_millis();
                tracing::debug!(project.id = project, %error, wait_ms, "a page of PolyAI's list is requested again");
            })
            .await
    }

    async fn try_page(&self) -> Result<(Api, Page<ListedConversation>), FailedPage> {
        let is_right = |source: &Source<'_>| self.api.is_none_or(|api| source.target.api() == api);
        let sources: Vec<_> = Source::each(self.project.targets()).into_iter().filter(is_right).collect();
        let request = async |source: Source<'_>| self.request_page(source.target).await;
        let answer = self.project.list_route.request(&sources, request).await;
        match answer {
            Ok((api, ReadPage { page, error: None, .. })) => Ok((api, page)),
            Ok((_, ReadPage { page, error: Some(error), .. })) => Err(FailedPage { error, page }),
            Err(error) => Err(FailedPage { error, page: Page::default() }),
        }
    }

    async fn request_page(&self, target: &Target) -> Result<(Api, ReadPage), ApiError> {
        let url = page_url(target, PAGE_REQUEST, &self.paging.position, self.windows.front());
        let Some(url) = url else {
            return Err(ApiError::new(ErrorKind::NotServed, target.host()));
        };
        let page = async {
            let answer = self.polyai.get_url(self.project, target, PAGE_REQUEST, url).await?;
            let correlation_id = answer.correlation_id().to_owned();
            let after_ok = |error| ApiError {
                correlation_id: Some(correlation_id.clone()),
                status: Some(http::StatusCode::OK.as_u16()),
                ..error
            };
            let body = answer.decode(PAGE_LIMIT).await.map_err(after_ok)?;
            let read = page::read(body.parts, target.host().to_owned()).await;
            Ok((target.api(), ReadPage { error: read.error.map(after_ok), ..read }))
        };
        tokio::time::timeout(PAGE_TIMEOUT, page)
            .await
            .unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Timeout, target.host())))
    }
}

/// Returns the URL of a page. `window` is a part of the list of v3; the Data API has no filters.
fn page_url(
    target: &Target,
    request: ApiRequest<'_>,
    position: &Position,
    window: Option<&ListWindow>,
) -> Option<Url> {
    let mut url = target.url(request)?;
    let mut query = url.query_pairs_mut();
    match position {
        Position::Start => {}
        Position::Cursor(cursor) => drop(query.append_pair("cursor", cursor)),
        Position::Offset(offset) => drop(query.append_pair("offset", &offset.to_string())),
    }
    // All other parameters have to stay the same from page to page.
    if let (Api::V3, Some(window)) = (target.api(), window) {
        let [start, end] = window.time_parameters();
        query
            .append_pair("start_time", &start.to_string())
            .append_pair("end_time", &end.to_string())
            .append_pair("client_env", &window.environment);
    }
    drop(query);
    Some(url)
}
