//! Lists the conversations of a project by the start of the call: from v3, or from the Data API where v3 has no list.
//!
//! * v3 is asked for one day and one environment at a time (it filters by one `client_env`), newest day first, by
//!   cursor. The Data API has no filters: its list is newest first, by offset, and is read until its entries are older
//!   than the range.
//! * A page is parsed while it arrives ([`page`]), so its size does not matter; a few hundred bytes are kept of each
//!   conversation.
//! * After a transient error (429, 5xx, a broken connection) the page is requested again, a few times. So a conversation
//!   may be returned twice. A conversation that is written while a list is read may be missing; the next list has it.

mod page;

use std::{collections::VecDeque, ops::Range, time::Duration};

use backon::{ExponentialBuilder, Retryable};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use url::Url;

use self::page::{NextPage, Page};
use super::{
    Api, ApiRequest, PolyAiClient, Project, Target,
    conversation::ListedConversation,
    error::{Advice, ApiError, ErrorKind, correlation_id},
    http::SizeLimit,
};

/// One page. v3 allows 1,000 conversations, but sends their transcripts along.
const PAGE_REQUEST: ApiRequest<'static> = ApiRequest::List { limit: 200 };
/// Requests for one page before its error is returned.
const MAX_ATTEMPTS: usize = 5;
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
}

/// One part of a v3 list: one day of one environment.
#[derive(Debug)]
struct Window {
    started: Range<Timestamp>,
    environment: String,
}

/// The position of a page in its list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Position {
    #[default]
    Start,
    Cursor(String),
    Offset(u64),
}

/// A list that is being read; see [`PolyAiClient::list`].
#[derive(Debug)]
pub struct ConversationLister<'a> {
    polyai: &'a PolyAiClient,
    project: &'a Project,
    query: ListQuery,
    /// The API that serves the list, once one has answered.
    api: Option<Api>,
    windows: VecDeque<Window>,
    position: Position,
    /// The first conversation of the last page. The next page must begin with another one.
    first_id: Option<String>,
    items: std::vec::IntoIter<ListedConversation>,
    finished: bool,
    unreadable: u64,
    reached: Timestamp,
}

impl PolyAiClient {
    /// Prepares a list of the conversations of `project`. Sends nothing yet.
    pub fn list<'a>(&'a self, project: &'a Project, query: ListQuery) -> ConversationLister<'a> {
        ConversationLister {
            polyai: self,
            project,
            windows: windows(&query),
            api: None,
            position: Position::Start,
            first_id: None,
            items: Vec::new().into_iter(),
            finished: query.started.is_empty() || query.environments.is_empty(),
            unreadable: 0,
            reached: query.started.end,
            query,
        }
    }
}

impl ConversationLister<'_> {
    /// Returns the next conversation, roughly newest first, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<ListedConversation>, ApiError> {
        loop {
            while let Some(item) = self.items.next() {
                if let Some(started_at) = item.started_at {
                    self.reached = self.reached.min(started_at.max(self.query.started.start));
                }
                if self.matches(&item) {
                    return Ok(Some(item));
                }
            }
            if self.finished {
                self.reached = self.query.started.start;
                return Ok(None);
            }
            let page = self.fetch_page().await?;
            self.unreadable += page.unreadable;
            self.advance(&page)?;
            self.items = page.items.into_iter();
        }
    }

    /// Returns the time down to which the range has been listed, roughly.
    pub fn reached(&self) -> Timestamp {
        self.reached
    }

    /// Returns the number of entries without an id, which polyhook cannot process.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    fn matches(&self, item: &ListedConversation) -> bool {
        let in_range = item.started_at.is_none_or(|at| self.query.started.contains(&at));
        let environment = item.environment.as_deref();
        in_range && environment.is_none_or(|name| self.query.environments.iter().any(|wanted| wanted == name))
    }

    /// Fetches the page at the current position. Waits at least as long as `Retry-After` between attempts.
    async fn fetch_page(&self) -> Result<Page, ApiError> {
        let delays = ExponentialBuilder::new()
            .with_min_delay(FIRST_RETRY_DELAY)
            .with_max_times(MAX_ATTEMPTS - 1)
            .without_max_delay();
        (|| self.try_page())
            .retry(delays)
            .when(|error| matches!(error.advice(), Advice::Retry(after) if after.unwrap_or_default() <= MAX_RETRY_DELAY))
            .adjust(|error, delay| Some(delay?.max(error.retry_after.unwrap_or_default())))
            .notify(|error, delay| {
                let project = self.project.project_id();
                tracing::debug!(project.id = project, %error, ?delay, "a page of the list is requested again");
            })
            .await
    }

    async fn try_page(&self) -> Result<Page, ApiError> {
        let request = |target| self.request_page(target);
        let targets = self.project.targets();
        match self.api {
            Some(api) => match targets.iter().find(|target| target.api() == api) {
                Some(target) => request(target).await,
                None => Err(ApiError::new(ErrorKind::NotServed, "no host")),
            },
            None => self.project.lists_api.request(targets, request).await,
        }
    }

    async fn request_page(&self, target: &Target) -> Result<Page, ApiError> {
        let Some(url) = self.page_url(target) else {
            return Err(ApiError::new(ErrorKind::NotServed, target.host()));
        };
        let page = async {
            let answer = self.polyai.get_url(self.project, target, PAGE_REQUEST, url).await?;
            let correlation_id = correlation_id(answer.headers());
            let page = async {
                let body = answer.decode(PAGE_LIMIT).await?;
                page::read(body.parts, target.host().to_owned()).await
            };
            page.await.map(|page| Page { api: target.api(), ..page }).map_err(|error| ApiError {
                correlation_id,
                status: Some(http::StatusCode::OK.as_u16()),
                ..error
            })
        };
        tokio::time::timeout(PAGE_TIMEOUT, page)
            .await
            .unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Timeout, target.host())))
    }

    fn page_url(&self, target: &Target) -> Option<Url> {
        let mut url = target.url(PAGE_REQUEST)?;
        let mut query = url.query_pairs_mut();
        match &self.position {
            Position::Start => {}
            Position::Cursor(cursor) => drop(query.append_pair("cursor", cursor)),
            Position::Offset(offset) => drop(query.append_pair("offset", &offset.to_string())),
        }
        // All other parameters have to stay the same from page to page.
        if let (Api::V3, Some(window)) = (target.api(), self.windows.front()) {
            query
                .append_pair("start_time", &window.started.start.to_string())
                .append_pair("end_time", &window.started.end.to_string())
                .append_pair("client_env", &window.environment);
        }
        drop(query);
        Some(url)
    }

    /// Moves to the page after `page`, or to the next window.
    fn advance(&mut self, page: &Page) -> Result<(), ApiError> {
        self.api = Some(page.api);
        let first_id = page.items.first().map(|item| item.id.clone());
        match self.position_after(page) {
            // Otherwise a server that sends the same page again would be asked for ever.
            Some(next) if next == self.position || (first_id.is_some() && first_id == self.first_id) => {
                Err(ApiError::new(ErrorKind::BadAnswer, "the list of conversations"))
            }
            Some(next) => {
                self.first_id = first_id;
                self.position = next;
                Ok(())
            }
            None => {
                self.first_id = None;
                self.position = Position::Start;
                self.windows.pop_front();
                self.finished = page.api == Api::Data || self.windows.is_empty();
                Ok(())
            }
        }
    }

    /// Returns the position of the page after `page`, or `None` if it was the last one.
    fn position_after(&self, page: &Page) -> Option<Position> {
        let NextPage { cursor, offset } = &page.next;
        // A server may send fewer entries than requested.
        let entries = page.items.len() as u64 + page.unreadable;
        match page.api {
            Api::V3 => match (cursor, offset, &self.position) {
                (Some(cursor), _, _) => Some(Position::Cursor(cursor.clone())),
                // After pages with cursors, a page without one is the last, whatever else it says.
                (None, Some(offset), Position::Start | Position::Offset(_)) if entries > 0 => {
                    Some(Position::Offset(*offset))
                }
                _ => None,
            },
            Api::Data => {
                let oldest = page.items.iter().filter_map(|item| item.started_at).min();
                let past_range = oldest.is_some_and(|oldest| oldest < self.query.started.start);
                let offset = match self.position {
                    Position::Offset(offset) => offset,
                    _ => 0,
                };
                (entries > 0 && !past_range).then_some(Position::Offset(offset + entries))
            }
        }
    }
}

/// Returns the days (UTC) of a range, newest first, each once for every environment.
fn windows(query: &ListQuery) -> VecDeque<Window> {
    let Range { start, end } = query.started;
    let mut windows = VecDeque::new();
    let mut until = end;
    while until > start {
        // The day of the last moment before `until`.
        let last = until.checked_sub(1.nanosecond()).unwrap_or(until).to_zoned(TimeZone::UTC);
        let from = last.start_of_day().map_or(start, |day| day.timestamp()).max(start);
        for environment in &query.environments {
            windows.push_back(Window { started: from..until, environment: environment.clone() });
        }
        until = from;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn splits_a_range_into_days_newest_first() {
        let query = ListQuery {
            started: at("2026-11-01T22:00:00Z")..at("2026-11-03T06:00:00Z"),
            environments: vec!["live".to_owned(), "sandbox".to_owned()],
        };
        let shown: Vec<_> = windows(&query)
            .into_iter()
            .map(|w| format!("{}..{} {}", w.started.start, w.started.end, w.environment))
            .collect();
        assert_eq!(
            shown,
            [
                "2026-11-03T00:00:00Z..2026-11-03T06:00:00Z live",
                "2026-11-03T00:00:00Z..2026-11-03T06:00:00Z sandbox",
                "2026-11-02T00:00:00Z..2026-11-03T00:00:00Z live",
                "2026-11-02T00:00:00Z..2026-11-03T00:00:00Z sandbox",
                "2026-11-01T22:00:00Z..2026-11-02T00:00:00Z live",
                "2026-11-01T22:00:00Z..2026-11-02T00:00:00Z sandbox",
            ]
        );
        let none = ListQuery { started: query.started.end..query.started.start, ..query };
        assert!(windows(&none).is_empty());
    }
}
