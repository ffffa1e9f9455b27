//! Finds one conversation in the v3 list, for projects whose conversations no API serves by id.
//!
//! v3 filters by the start of the call and by environment, not by id. If the start is known, a window of a few minutes around
//! it is listed. Otherwise the windows before the time of the event are listed, the newest first, until the conversation is
//! found or [`MAX_AGE`] is reached. A page is parsed while it arrives, and the bytes of the one entry are kept, unchanged.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;

use super::{
    ListWindow, PAGE_LIMIT, PAGE_TIMEOUT,
    page::{self, ReadPage},
    page_url,
    paging::Paging,
};
use crate::polyai::{
    Api, ApiRequest, PolyAiClient, Project, Target,
    error::{ApiError, ErrorKind},
};

/// Entries of a page. Each has its transcript, and the rest of a page is read for nothing.
const PAGE_ENTRIES: usize = 50;
/// The pages of one lookup: 20,000 conversations. A project with more in a day needs an event that names the start.
const MAX_PAGES: u32 = 400;
/// The time before and after the start that is listed first. A list or a manifest names it exactly, and others start then, too.
const AT_START: Duration = Duration::from_secs(1);
/// The time before and after the start that is listed otherwise. Clocks and documents differ by less.
const AROUND_START: Duration = Duration::from_mins(2);
/// The ages of the windows before an event that does not name the start.
const AGES: [Duration; 4] =
    [Duration::from_mins(15), Duration::from_hours(1), Duration::from_hours(6), MAX_AGE];
/// The age of the oldest call that is looked for.
const MAX_AGE: Duration = Duration::from_hours(24);
/// The environments that v3 documents.
const ALL_ENVIRONMENTS: [&str; 3] = ["live", "sandbox", "pre-release"];

/// The facts about a conversation that are known before it is fetched. They say where in a list it is.
#[derive(Clone, Copy, Debug)]
pub struct ConversationHint<'a> {
    /// The start of the call, if it is known.
    pub started_at: Option<Timestamp>,
    /// A time at which the call had begun: that of its event.
    pub known_at: Timestamp,
    /// The environments that the call can be of. Empty means all.
    pub environments: &'a [String],
    /// True if the call was in a list before. Then the list counts, even if the path by id does not know the call.
    pub was_listed: bool,
}

/// An entry of a list.
pub(in crate::polyai) struct FoundEntry {
    /// PolyAI's bytes.
    pub(in crate::polyai) json: Bytes,
    /// The time at which its page was requested.
    pub(in crate::polyai) fetched_at: Timestamp,
    /// The id of that request.
    pub(in crate::polyai) correlation_id: String,
}

/// One lookup.
struct Lookup<'a> {
    polyai: &'a PolyAiClient,
    project: &'a Project,
    target: &'a Target,
    id: &'a str,
    /// The largest entry that is kept.
    max_bytes: usize,
    pages_left: u32,
}

impl ConversationHint<'_> {
    /// Returns the ranges of starts to list, in order.
    fn ranges(&self) -> Vec<Range<Timestamp>> {
        let before = |at: Timestamp, age: Duration| at.checked_sub(age).unwrap_or(Timestamp::MIN);
        let after = |at: Timestamp, by: Duration| at.checked_add(by).unwrap_or(Timestamp::MAX);
        if let Some(start) = self.started_at {
            let exact = before(start, AT_START)..after(start, AT_START);
            let earlier = before(start, AROUND_START)..exact.start;
            let later = exact.end..after(start, AROUND_START);
            return vec![exact, earlier, later];
        }
        let mut until = after(self.known_at, AROUND_START);
        AGES.iter()
            .map(|age| {
                let from = before(self.known_at, *age);
                from..std::mem::replace(&mut until, from)
            })
            .collect()
    }

    fn environments(&self) -> Vec<&str> {
        if self.environments.is_empty() {
            ALL_ENVIRONMENTS.to_vec()
        } else {
            self.environments.iter().map(String::as_str).collect()
        }
    }
}

impl PolyAiClient {
    /// Finds a conversation in the list of `target`, which is one of v3.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownConversation`] if the list does not have it (yet).
    pub(in crate::polyai) async fn find_in_list(
        &self,
        project: &Project,
        target: &Target,
        id: &str,
        hint: &ConversationHint<'_>,
        max_bytes: usize,
    ) -> Result<FoundEntry, ApiError> {
        let mut lookup = Lookup { polyai: self, project, target, id, max_bytes, pages_left: MAX_PAGES };
        let ranges = hint.ranges();
        for started in &ranges {
            for environment in hint.environments() {
                let window = ListWindow { started: started.clone(), environment: environment.to_owned() };
                if let Some(entry) = lookup.search(&window).await? {
                    return Ok(entry);
                }
            }
        }
        Err(not_found(target, &ranges))
    }
}

impl Lookup<'_> {
    /// Reads the pages of a window until one has the conversation.
    async fn search(&mut self, window: &ListWindow) -> Result<Option<FoundEntry>, ApiError> {
        let mut paging = Paging::new(PAGE_ENTRIES);
        loop {
            let host = self.target.host();
            self.pages_left = self.pages_left.checked_sub(1).ok_or_else(|| {
                let detail = format!("its list is longer than {MAX_PAGES} pages of {PAGE_ENTRIES}");
                ApiError { detail: Some(detail.into()), ..unknown(host) }
            })?;
            let page = tokio::time::timeout(PAGE_TIMEOUT, self.request_page(window, &paging)).await;
            let (entry, ReadPage { page, found, error }) =
                page.unwrap_or_else(|_| Err(ApiError::new(ErrorKind::Timeout, host)))?;
            if let Some(json) = found {
                return Ok(Some(FoundEntry { json, ..entry }));
            }
            if let Some(error) = error {
                return Err(error);
            }
            match paging.advance(Api::V3, &page, window.started.start) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(endless) => {
                    let detail = Some(endless.to_string().into());
                    return Err(ApiError { detail, ..ApiError::new(ErrorKind::BadAnswer, host) });
                }
            }
        }
    }

    /// Requests one page. The returned entry has no bytes yet.
    async fn request_page(
        &self,
        window: &ListWindow,
        paging: &Paging,
    ) -> Result<(FoundEntry, ReadPage), ApiError> {
        const REQUEST: ApiRequest<'static> = ApiRequest::List { limit: PAGE_ENTRIES };
        let host = self.target.host();
        let url = page_url(self.target, REQUEST, &paging.position, Some(window));
        let mut url = url.ok_or_else(|| ApiError::new(ErrorKind::NotServed, host))?;
        // What the path by id sends without being asked.
        url.query_pairs_mut()
            .append_pair("include_latency", "true")
            .append_pair("include_context_state", "true");
        let fetched_at = self.polyai.now();
        let answer = self.polyai.get_url(self.project, self.target, REQUEST, url).await?;
        let correlation_id = answer.correlation_id().to_owned();
        let after_ok = |error| ApiError {
            correlation_id: Some(correlation_id.clone()),
            status: Some(StatusCode::OK.as_u16()),
            ..error
        };
        let body = answer.decode(PAGE_LIMIT).await.map_err(after_ok)?;
        let read = page::find(body.parts, host.to_owned(), self.id.to_owned(), self.max_bytes).await;
        let read = ReadPage { error: read.error.map(after_ok), ..read };
        Ok((FoundEntry { json: Bytes::new(), fetched_at, correlation_id }, read))
    }
}

/// Creates the error for a conversation that a list does not have. The list answered, so another attempt may find it.
fn unknown(host: &str) -> ApiError {
    ApiError { status: Some(StatusCode::OK.as_u16()), ..ApiError::new(ErrorKind::UnknownConversation, host) }
}

fn not_found(target: &Target, ranges: &[Range<Timestamp>]) -> ApiError {
    let start = ranges.iter().map(|range| range.start).min().unwrap_or_default();
    let end = ranges.iter().map(|range| range.end).max().unwrap_or_default();
    let detail = format!(
        "no API serves the conversation by id, and v3's list has none with this id that started from {start:.0} to {end:.0} \
         (`polyhook backfill` finds older ones)"
    );
    ApiError { detail: Some(detail.into()), ..unknown(target.host()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn lists_around_a_known_start_and_else_backwards_from_the_event() {
        let environments = ["sandbox".to_owned()];
        let hint = ConversationHint {
            started_at: Some(at("2026-11-03T12:00:00Z")),
            known_at: at("2026-11-04T12:00:00Z"),
            environments: &environments,
            was_listed: false,
        };
        let times =
            ["11:58:00", "11:59:59", "12:00:01", "12:02:00"].map(|time| at(&format!("2026-11-03T{time}Z")));
        assert_eq!(hint.ranges(), [times[1]..times[2], times[0]..times[1], times[2]..times[3]]);
        assert_eq!(hint.environments(), ["sandbox"]);
        let hint = ConversationHint { started_at: None, environments: &[], ..hint };
        let ends = [
            "2026-11-04T12:02:00Z",
            "2026-11-04T11:45:00Z",
            "2026-11-04T11:00:00Z",
            "2026-11-04T06:00:00Z",
            "2026-11-03T12:00:00Z",
        ];
        let expected: Vec<_> = ends.windows(2).map(|pair| at(pair[1])..at(pair[0])).collect();
        assert_eq!(hint.ranges(), expected, "without a gap");
        assert_eq!(hint.environments(), ALL_ENVIRONMENTS);
        for far in [Timestamp::MIN, Timestamp::MAX] {
            let hint = ConversationHint { known_at: far, ..hint };
            assert_eq!(hint.ranges().len(), AGES.len(), "{far}");
        }
    }
}
