//! The way from page to page. It ends, whatever the server answers.
//!
//! v3 names the next page by cursor (or, the old way, by offset) and names none on the last page. The Data API has
//! offsets, and its list is newest first: it is read until a whole page is older than the range. A single old entry
//! proves nothing, because records are sometimes out of order or have no date.

use jiff::Timestamp;
use thiserror::Error;

use super::page::{Next, Page};
use crate::polyai::{Api, ListedConversation};

/// The number of empty pages in a row after which a list is not read on.
const MAX_EMPTY_PAGES: u32 = 100;
/// The number of pages of one day and environment: 400,000 conversations, if the server sends as many as it is asked for.
const MAX_V3_PAGES: u64 = 2_000;
/// The number of pages of a whole list of the Data API.
const MAX_DATA_PAGES: u64 = 50_000;
/// The number of entries in a row that must be older than the range. A server may send tiny pages.
const MIN_OLDER_ENTRIES: u64 = 10;

/// The position of a page in its list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Position {
    #[default]
    Start,
    Cursor(String),
    Offset(u64),
}

/// The pages of a list lead nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EndlessList {
    /// The server sends a page again.
    #[error("a page or its cursor came twice")]
    Repeated,
    /// Too many empty pages.
    #[error("{MAX_EMPTY_PAGES} empty pages followed each other")]
    Empty,
    /// Too many pages.
    #[error("the pages do not end")]
    TooLong,
    /// The cursor is an object, or longer than a URL.
    #[error("the cursor of the next page cannot be used")]
    UnusableCursor,
}

/// The progress in one list: a window of v3, or the whole list of the Data API.
#[derive(Debug)]
pub(super) struct Paging {
    pub(super) position: Position,
    /// The number of entries that are asked for.
    limit: u64,
    pages: u64,
    empty_pages: u32,
    older_entries: u64,
    /// The number of entries of the last page.
    page_length: u64,
    /// A cursor and a first conversation of an earlier page. If they come again, so do the pages between (Brent's
    /// method: the earlier page is replaced after 1, 2, 4, 8 … pages).
    remembered: (Option<String>, Option<String>),
}

impl Paging {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            position: Position::Start,
            limit: limit as u64,
            pages: 0,
            empty_pages: 0,
            older_entries: 0,
            page_length: limit as u64,
            remembered: (None, None),
        }
    }

    /// Returns the offset of the current page, as far as it is known.
    pub(super) fn offset(&self) -> u64 {
        match self.position {
            Position::Offset(offset) => offset,
            Position::Start | Position::Cursor(_) => 0,
        }
    }

    /// Moves to the page after `page`. Returns false if it was the last one. `oldest` is the beginning of the range.
    pub(super) fn advance(
        &mut self,
        api: Api,
        page: &Page<ListedConversation>,
        oldest: Timestamp,
    ) -> Result<bool, EndlessList> {
        if page.entries > 0 {
            self.page_length = page.entries;
        }
        let Some(next) = self.next_position(api, page, oldest)? else { return Ok(false) };
        self.check_progress(api, page, &next)?;
        self.position = next;
        Ok(true)
    }

    /// Moves behind a page that cannot be read, of which `page` arrived. Returns false if the position of the next page
    /// is unknown.
    pub(super) fn skip(&mut self, api: Option<Api>, page: &Page<ListedConversation>) -> bool {
        let next = match (&page.next.cursor, &self.position, api) {
            (Next::At(cursor), _, Some(Api::V3)) => Position::Cursor(cursor.clone()),
            (_, Position::Offset(offset), _) => Position::Offset(offset + self.page_length),
            (_, Position::Start, Some(Api::Data)) => Position::Offset(self.page_length),
            _ => return false,
        };
        let moves = next != self.position;
        self.position = next;
        moves
    }

    fn next_position(
        &mut self,
        api: Api,
        page: &Page<ListedConversation>,
        oldest: Timestamp,
    ) -> Result<Option<Position>, EndlessList> {
        let offset = self.offset();
        // In a list by offset an empty page is the end, unless the list says that it is longer.
        let has_more = page.next.count.is_some_and(|count| count > offset + self.limit);
        match api {
            Api::V3 => match (&page.next.cursor, &page.next.offset) {
                (Next::At(cursor), _) => Ok(Some(Position::Cursor(cursor.clone()))),
                (Next::Unreadable, _) => Err(EndlessList::UnusableCursor),
                // After pages with cursors, a page without one is the last, whatever else it says.
                (Next::None, _) if matches!(self.position, Position::Cursor(_)) => Ok(None),
                (Next::None, Next::None) => Ok(None),
                (Next::None, Next::At(next)) if *next > offset => {
                    Ok((page.entries > 0 || has_more).then_some(Position::Offset(*next)))
                }
                // The offset is negative, or not further. Only a page that is not full is surely the last one.
                (Next::None, _) => {
                    Ok((page.entries >= self.limit).then(|| Position::Offset(offset + page.entries)))
                }
            },
            Api::Data => {
                let is_old = |at: Option<Timestamp>| at.is_some_and(|at| at < oldest);
                let all_old = page.unreadable == 0 && page.items.iter().all(|item| is_old(item.started_at));
                self.older_entries = if all_old { self.older_entries + page.entries } else { 0 };
                if self.older_entries >= MIN_OLDER_ENTRIES {
                    return Ok(None);
                }
                // A server may send fewer entries than it is asked for, and an empty page before the end.
                let step = if page.entries == 0 && has_more { self.limit } else { page.entries };
                Ok((step > 0).then(|| Position::Offset(offset + step)))
            }
        }
    }

    fn check_progress(
        &mut self,
        api: Api,
        page: &Page<ListedConversation>,
        next: &Position,
    ) -> Result<(), EndlessList> {
        let cursor = match next {
            Position::Cursor(cursor) => Some(cursor.as_str()),
            Position::Start | Position::Offset(_) => None,
        };
        let first_id = page.items.first().map(|item| item.id.as_str());
        let came_before =
            |now: Option<&str>, before: &Option<String>| now.is_some() && now == before.as_deref();
        if came_before(cursor, &self.remembered.0) || came_before(first_id, &self.remembered.1) {
            return Err(EndlessList::Repeated);
        }
        self.pages += 1;
        if self.pages.is_power_of_two() {
            self.remembered = (cursor.map(str::to_owned), first_id.map(str::to_owned));
        }
        self.empty_pages = if page.entries == 0 { self.empty_pages + 1 } else { 0 };
        let max_pages = if api == Api::V3 { MAX_V3_PAGES } else { MAX_DATA_PAGES };
        if self.empty_pages >= MAX_EMPTY_PAGES {
            Err(EndlessList::Empty)
        } else if self.pages >= max_pages {
            Err(EndlessList::TooLong)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "2026-11-02T00:00:00Z";

    /// Builds a page of conversations with these ids, which started on the given days.
    fn page(entries: &[(&str, Option<&str>)], next: &str) -> Page<ListedConversation> {
        let entry = |(id, day): &(&str, Option<&str>)| match day {
            Some(day) => format!(r#"{{"id":"{id}","started_at":"{day}T12:00:00Z"}}"#),
            None => format!(r#"{{"id":"{id}","started_at":"soon"}}"#),
        };
        let entries: Vec<_> = entries.iter().map(entry).collect();
        let mut page = Page::default();
        let json = format!(r#"{{"conversations":[{}]{next}}}"#, entries.join(","));
        page.read_conversations(json.as_bytes()).unwrap();
        page
    }

    /// Reads pages until the list ends or fails, at most `max`. Returns the number of pages, and how it ended.
    fn read(
        api: Api,
        limit: usize,
        max: u64,
        page_at: impl Fn(u64, &Position) -> Page<ListedConversation>,
    ) -> (u64, Result<bool, EndlessList>) {
        let mut paging = Paging::new(limit);
        for number in 0..max {
            let page = page_at(number, &paging.position);
            match paging.advance(api, &page, START.parse().unwrap()) {
                Ok(true) => {}
                end => return (number + 1, end),
            }
        }
        (max, Ok(true))
    }

    #[test]
    fn an_endless_list_of_v3_is_an_error() {
        let end = |page_at: &dyn Fn(u64) -> Page<ListedConversation>| {
            let (pages, end) = read(Api::V3, 200, 10_000, |number, _| page_at(number));
            assert!(pages < 2_500);
            end.unwrap_err()
        };
        let cursor = |n: u64| format!(r#","cursor":"c{n}""#);
        assert_eq!(end(&|n| page(&[], &cursor(n))), EndlessList::Empty);
        assert_eq!(end(&|n| page(&[("C", None)], &cursor(n))), EndlessList::Repeated);
        assert_eq!(end(&|n| page(&[(&format!("C{n}"), None)], &cursor(n % 7))), EndlessList::Repeated);
        assert_eq!(end(&|n| page(&[(&format!("C{}", n % 5), None)], &cursor(n))), EndlessList::Repeated);
        assert_eq!(end(&|n| page(&[(&format!("C{n}"), None)], &cursor(n))), EndlessList::TooLong);
        assert_eq!(end(&|_| page(&[("C", None)], r#","cursor":{"x":1}"#)), EndlessList::UnusableCursor);
        assert_eq!(
            end(&|n| page(&[("C", None)], &format!(r#","next_offset":{}"#, n + 1))),
            EndlessList::Repeated
        );
    }

    #[test]
    fn some_empty_pages_are_no_error() {
        let (pages, end) = read(Api::V3, 200, 1_000, |n, _| match n {
            90 | 180 => page(&[(&format!("C{n}"), None)], &format!(r#","cursor":"c{n}""#)),
            200 => page(&[], ""),
            _ => page(&[], &format!(r#","cursor":"c{n}""#)),
        });
        assert_eq!((pages, end), (201, Ok(false)));
    }

    #[test]
    fn reads_v3_by_offset_although_the_offset_is_odd() {
        let all = ["C0", "C1", "C2", "C3", "C4"];
        for (next, pages) in [
            (r#","next_offset":-1"#, 3),
            (r#","next_offset":0"#, 3),
            (r#","next_offset":"x""#, 3),
            // The next offset even of the last page.
            (r#","next_offset":"6""#, 2),
            ("", 1),
            (r#","next_offset":null"#, 1),
        ] {
            let (read, end) = read(Api::V3, 2, 10, |_, position| {
                let from = if let Position::Offset(offset) = position { *offset } else { 0 };
                let from = usize::try_from(from).unwrap();
                let entries: Vec<_> = all.iter().skip(from).take(2).map(|id| (*id, None)).collect();
                page(&entries, next)
            });
            assert_eq!((read, end), (pages, Ok(false)), "{next}");
        }
    }

    #[test]
    fn reads_the_data_api_until_a_whole_page_is_older() {
        // The entries of a list of 60, by number. Three are out of order, undated, or unreadable.
        let day = |n: u64| match n {
            21 => Some("1970-01-01"),
            33 => None,
            0..45 => Some("2026-11-02"),
            _ => Some("2026-11-01"),
        };
        for (limit, pages) in [(10, 6), (7, 9), (200, 2), (1, 55)] {
            let (read, end) = read(Api::Data, limit, 100, |_, position| {
                let from = if let Position::Offset(offset) = position { *offset } else { 0 };
                let ids: Vec<_> = (from..60).take(limit).map(|n| (format!("C{n}"), day(n))).collect();
                page(&ids.iter().map(|(id, day)| (id.as_str(), *day)).collect::<Vec<_>>(), r#","count":7"#)
            });
            assert_eq!((read, end), (pages, Ok(false)), "limit {limit}");
        }
    }

    #[test]
    fn an_empty_page_of_the_data_api_is_the_end_only_without_more() {
        let end = |count: u64| {
            read(Api::Data, 10, 20, |_, position| match position {
                Position::Offset(10 | 20) => page(&[], &format!(r#","count":{count}"#)),
                Position::Offset(offset) if *offset >= 40 => page(&[], ""),
                _ => {
                    let ids: Vec<_> =
                        (0..10).map(|n| format!("C{n}{position:?}")).map(|id| id.replace('"', "")).collect();
                    page(&ids.iter().map(|id| (id.as_str(), Some("2026-11-02"))).collect::<Vec<_>>(), "")
                }
            })
        };
        assert_eq!(end(0), (2, Ok(false)));
        assert_eq!(end(40), (5, Ok(false)));
    }

    #[test]
    fn skips_a_page_that_cannot_be_read() {
        let nothing = Page::default();
        let mut data = Paging::new(200);
        assert!(data.skip(Some(Api::Data), &nothing));
        assert_eq!(data.position, Position::Offset(200));
        let short = page(&[("C1", None), ("C2", None)], "");
        data.advance(Api::Data, &short, START.parse().unwrap()).unwrap();
        assert!(data.skip(Some(Api::Data), &nothing));
        assert_eq!(data.position, Position::Offset(204));
        let mut v3 = Paging::new(200);
        assert!(!v3.skip(Some(Api::V3), &nothing));
        assert!(v3.skip(Some(Api::V3), &page(&[], r#","cursor":"c""#)));
        assert!(!v3.skip(Some(Api::V3), &page(&[], r#","cursor":"c""#)), "the same page again");
    }
}
