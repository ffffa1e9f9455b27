//! The conversations a project has, by when they started: v3's list, or the Data API's where v3 does not serve one.
//!
//! * v3 is asked day by day, newest first, by cursor, once an environment (it knows one `client_env` a list). The
//!   Data API knows no filters: its list is newest first, by offset, and read until what is older than the range.
//! * A page is parsed while it arrives ([`page`]), so it may be of any size; what is kept of a conversation is a
//!   few hundred bytes.
//! * Trouble that passes (429, 5xx, a broken connection) is waited for, a few times; the page is then asked for again,
//!   so a conversation may come twice. What is written while a list is read may be missing from it: the next list
//!   has it.

mod page;

use std::{collections::VecDeque, ops::Range, sync::atomic::Ordering, time::Duration};

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use url::Url;

use self::page::{Page, Tail};
use super::{
    Api, PolyAiClient, Project,
    client::Access,
    error::{Advice, ApiError, ErrorKind, correlation_id},
};

/// Conversations a page. v3 allows 1,000, but sends their transcripts along.
const LIMIT: usize = 200;
/// How often a page is asked for before its trouble is the caller's.
const TRIES: u32 = 5;
/// The first wait between two tries; the others double.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// A page that takes longer is given up; one without a byte for half a minute sooner.
const PAGE_TIMEOUT: Duration = Duration::from_mins(15);
/// A `Retry-After` beyond this is not waited for here.
const LONGEST_WAIT: Duration = Duration::from_mins(2);

/// A conversation of a list, as far as it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedConversation {
    /// PolyAI's id.
    pub id: String,
    /// `live`, `sandbox`, `pre-release`
    pub environment: Option<String>,
    /// Whether it is still going on.
    pub in_progress: bool,
    /// When it started; by this and the ids it has its place in the archive.
    pub started_at: Option<Timestamp>,
    /// When it ended, as well as it is known.
    pub ended_at: Option<Timestamp>,
}

/// What is to be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// When they started.
    pub started: Range<Timestamp>,
    /// Of which environments.
    pub environments: Vec<String>,
}

/// One part of a v3 list: a day of an environment.
#[derive(Debug)]
struct Window {
    started: Range<Timestamp>,
    environment: String,
}

/// Where the next page begins.
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
    /// Which API serves it, once one does.
    api: Option<Api>,
    windows: VecDeque<Window>,
    position: Position,
    /// The first conversation of the last page: another page has another.
    head: Option<String>,
    items: std::vec::IntoIter<ListedConversation>,
    over: bool,
    unreadable: u64,
    reached: Timestamp,
}

impl PolyAiClient {
    /// Lists what `project` has; asks nothing yet.
    pub fn list<'a>(&'a self, project: &'a Project, query: ListQuery) -> ConversationLister<'a> {
        ConversationLister {
            polyai: self,
            project,
            windows: windows(&query),
            api: None,
            position: Position::Start,
            head: None,
            items: Vec::new().into_iter(),
            over: query.started.is_empty() || query.environments.is_empty(),
            unreadable: 0,
            reached: query.started.end,
            query,
        }
    }
}

impl ConversationLister<'_> {
    /// The next conversation, about newest first; none at the end.
    pub async fn next(&mut self) -> Result<Option<ListedConversation>, ApiError> {
        loop {
            while let Some(item) = self.items.next() {
                if let Some(started_at) = item.started_at {
                    self.reached = self.reached.min(started_at.max(self.query.started.start));
                }
                if self.is_wanted(&item) {
                    return Ok(Some(item));
                }
            }
            if self.over {
                self.reached = self.query.started.start;
                return Ok(None);
            }
            let page = self.page().await?;
            self.unreadable += page.unreadable;
            self.advance(&page)?;
            self.items = page.items.into_iter();
        }
    }

    /// Everything that started after this has been listed, about.
    pub fn reached(&self) -> Timestamp {
        self.reached
    }

    /// How many entries had no id, so that nothing can be done about them.
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }

    fn is_wanted(&self, item: &ListedConversation) -> bool {
        let in_range = item.started_at.is_none_or(|at| self.query.started.contains(&at));
        let environment = item.environment.as_deref();
        in_range && environment.is_none_or(|name| self.query.environments.iter().any(|wanted| wanted == name))
    }

    /// The page at the present position, if need be at the second or third try.
    async fn page(&self) -> Result<Page, ApiError> {
        let mut wait = FIRST_WAIT;
        let mut tries = 1;
        loop {
            let error = match self.try_page().await {
                Ok(page) => return Ok(page),
                Err(error) => error,
            };
            let after = match error.advice() {
                Advice::Retry(after) if tries < TRIES => after.unwrap_or(wait).max(wait),
                _ => return Err(error),
            };
            if after > LONGEST_WAIT {
                return Err(error);
            }
            tracing::debug!(project.id = self.project.project_id(), %error, tries, "a page of the list is asked for again");
            tokio::time::sleep(after).await;
            wait *= 2;
            tries += 1;
        }
    }

    async fn try_page(&self) -> Result<Page, ApiError> {
        let ask = |api, access| self.ask(api, access);
        match self.api {
            Some(api) => match self.project.access(api) {
                Some(access) => ask(api, access).await,
                None => Err(ApiError::new(ErrorKind::NotServed, "no host")),
            },
            None => self.polyai.either(self.project, &self.project.lists_from_data, ask).await,
        }
    }

    async fn ask(&self, api: Api, access: &Access) -> Result<Page, ApiError> {
        let url = self.url(api, access);
        let page = async {
            let response = self.polyai.get(self.project, access, url, "application/json", "list").await?;
            let correlation_id = correlation_id(response.headers());
            let host = access.host().to_owned();
            page::read(response, host).await.map(|page| Page { api, ..page }).map_err(|error| ApiError {
                correlation_id,
                status: Some(http::StatusCode::OK.as_u16()),
                ..error
            })
        };
        tokio::time::timeout(PAGE_TIMEOUT, page)
            .await
            .unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Timeout, access.host())))
    }

    fn url(&self, api: Api, access: &Access) -> Url {
        let mut url = access.list_url(api, self.project);
        let mut query = url.query_pairs_mut();
        query.append_pair("limit", &LIMIT.to_string());
        match &self.position {
            Position::Start => {}
            Position::Cursor(cursor) => drop(query.append_pair("cursor", cursor)),
            Position::Offset(offset) => drop(query.append_pair("offset", &offset.to_string())),
        }
        // Everything but the position has to stay the same from page to page.
        if let (Api::V3, Some(window)) = (api, self.windows.front()) {
            query
                .append_pair("start_time", &window.started.start.to_string())
                .append_pair("end_time", &window.started.end.to_string())
                .append_pair("client_env", &window.environment);
        }
        drop(query);
        url
    }

    /// Where to go on after `page`.
    fn advance(&mut self, page: &Page) -> Result<(), ApiError> {
        if self.api.is_none() {
            self.project.lists_from_data.store(page.api == Api::Data, Ordering::Relaxed);
            self.api = Some(page.api);
        }
        let Tail { cursor, next_offset } = &page.tail;
        // A server may give fewer than were asked for.
        let read = page.items.len() as u64 + page.unreadable;
        let next = match page.api {
            Api::V3 => match (cursor, next_offset, &self.position) {
                (Some(cursor), _, _) => Some(Position::Cursor(cursor.clone())),
                // Where there were cursors, none is the end, whatever else is said.
                (None, Some(offset), Position::Start | Position::Offset(_)) if read > 0 => {
                    Some(Position::Offset(*offset))
                }
                _ => None,
            },
            Api::Data => {
                let oldest = page.items.iter().filter_map(|item| item.started_at).min();
                let known_ground = oldest.is_some_and(|oldest| oldest < self.query.started.start);
                let offset = match self.position {
                    Position::Offset(offset) => offset,
                    _ => 0,
                };
                (read > 0 && !known_ground).then_some(Position::Offset(offset + read))
            }
        };
        let head = page.items.first().map(|item| item.id.clone());
        match next {
            // The same page for ever.
            Some(next) if next == self.position || (head.is_some() && head == self.head) => {
                Err(ApiError::new(ErrorKind::BadAnswer, "the list of conversations"))
            }
            Some(next) => {
                self.head = head;
                self.position = next;
                Ok(())
            }
            None => {
                self.head = None;
                self.position = Position::Start;
                self.windows.pop_front();
                self.over = page.api == Api::Data || self.windows.is_empty();
                Ok(())
            }
        }
    }
}

/// The days (of UTC) that a range touches, the newest first, each once an environment.
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
    fn a_range_is_listed_by_the_day_and_newest_first() {
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
