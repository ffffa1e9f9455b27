//! One page of a list, parsed while it arrives.
//!
//! A page can have hundreds of megabytes, because conversations come with their transcripts. Only the few fields of
//! [`ListedConversation`] are kept; everything else is skipped while it is read, however deeply it is nested. An entry
//! that cannot be read is counted and does not affect the others.

use std::io::{self, BufRead};

use futures_util::TryStreamExt;
use thiserror::Error;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{
    json::{JsonReader, Scalar, conversation_key},
    polyai::{
        conversation::{CommonFields, ListedConversation},
        error::{ApiError, ErrorKind},
        http::Body,
    },
};

/// Many more entries than polyhook asks for. A server that sends more does not send a page.
const MAX_ENTRIES: usize = 100_000;
/// A longer id or environment is not used.
const MAX_TEXT_BYTES: usize = 1024;
/// A longer cursor fits into no URL.
const MAX_CURSOR_BYTES: usize = 8 << 10;
/// Size of one read.
const BUFFER_BYTES: usize = 64 << 10;
/// The number of unreadable entries of a page whose positions are kept.
const MAX_POSITIONS: usize = 10;

/// The part of a page that is kept.
#[derive(Debug, PartialEq)]
pub(in crate::polyai) struct Page<T> {
    pub(in crate::polyai) items: Vec<T>,
    /// Number of entries, readable or not.
    pub(super) entries: u64,
    /// Number of entries that have no id or are damaged. A damaged one may be an item nevertheless.
    pub(super) unreadable: u64,
    /// The positions in the page of the first of these, from 1.
    pub(super) unreadable_positions: Vec<u64>,
    pub(super) next: NextPage,
    /// True if brackets between the entries are wrong, so that entries may be missing.
    pub(super) is_damaged: bool,
    shape: Shape,
}

/// The position of the next page, as the page names it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NextPage {
    pub(super) cursor: Next<String>,
    pub(super) offset: Next<u64>,
    /// The number of conversations in the whole list, or in the page.
    pub(super) count: Option<u64>,
}

/// One of the two names of a position.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// The page does not name a position.
    #[default]
    None,
    At(T),
    /// It does, but nobody can use it: it is an object, negative, or too long.
    Unreadable,
}

impl Next<String> {
    fn cursor(value: Scalar) -> Self {
        if matches!(&value, Scalar::Null | Scalar::Bool(false)) || value == Scalar::Text(String::new()) {
            return Self::None;
        }
        match value.any_text() {
            Some(cursor) if cursor.len() <= MAX_CURSOR_BYTES => Self::At(cursor),
            _ => Self::Unreadable,
        }
    }
}

impl Next<u64> {
    fn offset(value: &Scalar) -> Self {
        match (value.count(), value) {
            (Some(offset), _) => Self::At(offset),
            (None, Scalar::Null | Scalar::Bool(false)) => Self::None,
            (None, _) => Self::Unreadable,
        }
    }
}

/// The kinds of members that an answer has. They tell an empty page from an answer that is not a page.
#[derive(Debug, Default, PartialEq)]
struct Shape {
    /// `conversations`: true if it is a list, or nothing.
    list: Option<bool>,
    has_position: bool,
    has_others: bool,
}

impl<T> Default for Page<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            entries: 0,
            unreadable: 0,
            unreadable_positions: Vec::new(),
            next: NextPage::default(),
            is_damaged: false,
            shape: Shape::default(),
        }
    }
}

/// The reason why a page is not whole.
#[derive(Debug, Error)]
pub(in crate::polyai) enum PageError {
    #[error(transparent)]
    Transfer(#[from] io::Error),
    #[error("the answer is not a page of a list, or it is cut off")]
    NotAPage,
}

/// A page as far as it was read.
#[derive(Debug, Default)]
pub(super) struct ReadPage {
    pub(super) page: Page<ListedConversation>,
    /// The reason why the rest is missing.
    pub(super) error: Option<ApiError>,
}

/// Reads a page to its end.
pub(super) async fn read(body: Body, host: String) -> ReadPage {
    let bytes = StreamReader::new(body.map_err(io::Error::other));
    let reader = io::BufReader::with_capacity(BUFFER_BYTES, SyncIoBridge::new(bytes));
    let parsed = tokio::task::spawn_blocking(move || parse(reader)).await;
    let (page, result) = parsed.unwrap_or_else(|_| (Page::default(), Err(PageError::NotAPage)));
    let bad_answer = || ApiError::new(ErrorKind::BadAnswer, &host);
    let error = result.err().map(|error| match error {
        PageError::Transfer(error) => error.downcast().unwrap_or_else(|_| bad_answer()),
        PageError::NotAPage => bad_answer(),
    });
    ReadPage { page, error }
}

fn parse(input: impl BufRead) -> (Page<ListedConversation>, Result<(), PageError>) {
    let mut page = Page::default();
    let result = page.read_conversations(input);
    (page, result)
}

impl Page<ListedConversation> {
    /// Reads an answer. What was read before an error stays in the page.
    pub(super) fn read_conversations(&mut self, input: impl BufRead) -> Result<(), PageError> {
        self.read(input, |reader| {
            let mut fields = CommonFields::default();
            reader.object(conversation_key, |reader, key| {
                if CommonFields::include(key.field) {
                    fields.offer(key, reader.scalar()?);
                    Ok(())
                } else {
                    reader.skip_value()
                }
            })?;
            Ok(fields.into_listed(MAX_TEXT_BYTES))
        })
    }
}

/// A member of a page.
#[derive(Clone, Copy, Debug)]
enum Member {
    Conversations,
    Cursor,
    NextOffset,
    Count,
    /// Repeats what was asked for.
    Echo,
    Other,
}

#[expect(clippy::unnecessary_wraps, reason = "the reader expects names without a meaning")]
fn member(name: &str) -> Option<Member> {
    Some(match name {
        "conversations" => Member::Conversations,
        "cursor" => Member::Cursor,
        "next_offset" => Member::NextOffset,
        "count" => Member::Count,
        "limit" | "offset" => Member::Echo,
        _ => Member::Other,
    })
}

impl<T> Page<T> {
    /// Reads an answer. `read_entry` reads an object of the list. What was read before an error stays in the page.
    pub(in crate::polyai) fn read<R: BufRead>(
        &mut self,
        input: R,
        mut read_entry: impl FnMut(&mut JsonReader<R>) -> io::Result<Option<T>>,
    ) -> Result<(), PageError> {
        let mut reader = JsonReader::new(input);
        if reader.peek()? != Some(b'{') {
            return Err(PageError::NotAPage);
        }
        // Anything that follows an object is junk, except another page.
        while reader.is_closed() && reader.peek()? == Some(b'{') {
            self.read_members(&mut reader, &mut read_entry)?;
        }
        self.is_damaged = !reader.is_well_formed();
        if reader.is_closed() && self.shape.is_page() && self.items.len() < MAX_ENTRIES {
            Ok(())
        } else {
            Err(PageError::NotAPage)
        }
    }

    fn read_members<R: BufRead>(
        &mut self,
        reader: &mut JsonReader<R>,
        read_entry: &mut impl FnMut(&mut JsonReader<R>) -> io::Result<Option<T>>,
    ) -> io::Result<()> {
        reader.object(member, |reader, member| {
            match member {
                Member::Conversations if reader.peek()? == Some(b'[') => {
                    self.shape.list = Some(true);
                    return self.read_entries(reader, read_entry);
                }
                Member::Conversations => self.shape.list = Some(!reader.has_content()?),
                Member::Cursor => {
                    self.next.cursor = Next::cursor(reader.scalar()?);
                    self.shape.has_position = true;
                }
                Member::NextOffset => {
                    self.next.offset = Next::offset(&reader.scalar()?);
                    self.shape.has_position = true;
                }
                Member::Count => {
                    self.next.count = reader.scalar()?.count();
                    self.shape.has_position = true;
                }
                Member::Echo => {
                    reader.skip_value()?;
                    self.shape.has_position = true;
                }
                Member::Other => {
                    reader.skip_value()?;
                    self.shape.has_others = true;
                }
            }
            Ok(())
        })
    }

    fn read_entries<R: BufRead>(
        &mut self,
        reader: &mut JsonReader<R>,
        read_entry: &mut impl FnMut(&mut JsonReader<R>) -> io::Result<Option<T>>,
    ) -> io::Result<()> {
        let level = reader.depth() + 1;
        reader.array(|reader| {
            self.entries += 1;
            if reader.peek()? != Some(b'{') {
                self.add_unreadable();
                return reader.skip_value();
            }
            let was_well_formed = reader.set_well_formed(true);
            let entry = read_entry(reader)?;
            let is_damaged = !reader.is_well_formed();
            // Wrong brackets inside an entry do not affect the others, unless they ended the list.
            reader.set_well_formed(was_well_formed && (!is_damaged || reader.depth() == level));
            if is_damaged || entry.is_none() {
                self.add_unreadable();
            }
            self.items.extend(entry.filter(|_| self.items.len() < MAX_ENTRIES));
            Ok(())
        })
    }

    fn add_unreadable(&mut self) {
        self.unreadable += 1;
        if self.unreadable_positions.len() < MAX_POSITIONS {
            self.unreadable_positions.push(self.entries);
        }
    }
}

impl Shape {
    /// Returns whether an answer is a page. An empty one may have `null` instead of a list, or no list.
    fn is_page(&self) -> bool {
        self.list.unwrap_or(self.has_position || !self.has_others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polyai::ConversationInfo;

    fn page(json: &str) -> Page<ListedConversation> {
        let (page, result) = parse(json.as_bytes());
        assert!(result.is_ok(), "{json}: {result:?}");
        page
    }

    #[tokio::test]
    async fn a_transfer_that_fails_keeps_its_error_and_what_was_read() {
        let error = ApiError::new(ErrorKind::Timeout, "api.example");
        let parts = [Ok(r#"{"conversations":[{"id":"CA1"},"#.into()), Err(error)];
        let ReadPage { page, error } =
            read(Box::pin(futures_util::stream::iter(parts)), "api.example".to_owned()).await;
        assert_eq!((page.items.len(), error.unwrap().kind), (1, ErrorKind::Timeout));
    }

    #[test]
    fn reads_the_shapes_of_both_apis() {
        let page = page(
            r#"{"conversations":[
                {"id":"CA1","environment":"live","turns":[{"a":[1,{"id":"no"}]}],"in_progress":false,
                 "started_at":"2026-06-03T13:18:06.37Z","total_duration":73,"state":null},
                {"conversationId":"CA2","clientEnv":"sandbox","inProgress":true,"createdAt":"2026-06-03T13:18:06.370000+00:00",
                 "finishedAt":null,"totalDuration":null,"shortSummary":{"id":"no"}},
                {"note":"no id"}],
                "cursor":"c2","next_offset":3,"count":9}"#,
        );
        assert_eq!((page.entries, page.unreadable), (3, 1));
        assert_eq!(
            page.next,
            NextPage { cursor: Next::At("c2".to_owned()), offset: Next::At(3), count: Some(9) }
        );
        let start = "2026-06-03T13:18:06.37Z".parse().unwrap();
        assert_eq!(
            page.items,
            [
                ListedConversation {
                    id: "CA1".to_owned(),
                    environment: Some("live".to_owned()),
                    in_progress: false,
                    started_at: Some(start),
                    ended_at: Some("2026-06-03T13:19:19.37Z".parse().unwrap()),
                },
                ListedConversation {
                    id: "CA2".to_owned(),
                    environment: Some("sandbox".to_owned()),
                    in_progress: true,
                    started_at: Some(start),
                    ended_at: None,
                },
            ]
        );
    }

    /// Otherwise a listed conversation would be looked up under another key than it is archived under.
    #[test]
    fn agrees_with_the_conversation_itself() {
        for body in [
            r#"{"id":"C","started_at":"2026-06-03T23:59:59","createdAt":"2026-06-04T00:00:01Z"}"#,
            r#"{"conversationId":"C","createdAt":"2026-06-04T00:00:01Z","startedAt":"2026-06-03T23:59:59.123456+00:00"}"#,
            r#"{"id":"C","startedAt":"soon","created_at":"2026-06-04T00:00:01Z","totalDuration":3.5}"#,
            r#"{"id":"C","startedAt":"2026-06-04T00:00:01Z","duration":3.5,"clientEnv":"live"}"#,
            r#"{"id":"C","startedAt":"2026-06-04T00:00:01Z","duration":3,"totalDuration":4,"inProgress":"true"}"#,
            r#"{"id":"C","started_at":"2026-06-04T00:00:01Z","total_duration":"NaN","duration":2}"#,
            r#"{"conversationId":"D","id":7,"started_at":7,"total_duration":-1,"environment":1}"#,
        ] {
            let page = page(&format!("{{\"conversations\":[{body}]}}"));
            let info = ConversationInfo::read(body.as_bytes()).unwrap();
            let listed = &page.items[0];
            assert_eq!(
                (Some(&listed.id), &listed.environment, listed.in_progress, listed.started_at),
                (info.id.as_ref(), &info.environment, info.in_progress, info.started_at),
                "{body}"
            );
            assert_eq!(listed.ended_at.or(listed.started_at), info.ended_at(), "{body}");
        }
        let body = r#"{"conversations":[{"id":"C","startedAt":"2026-06-04T00:00:01Z","duration":3.5}]}"#;
        let ended_at = page(body).items[0].ended_at.unwrap();
        assert_eq!(ended_at.to_string(), "2026-06-04T00:00:04.5Z");
    }

    #[test]
    fn rejects_an_answer_that_is_not_a_list() {
        for body in [
            "",
            "[]",
            "null",
            "<html>{\"conversations\":[]}</html>",
            r#"{"conversations":7}"#,
            r#"{"conversations":"none"}"#,
            r#"{"conversations":{"id":"C"}}"#,
            r#"{"message":"try again"}"#,
            r#"{"success":false,"error_code":"X","data":null}"#,
        ] {
            assert!(matches!(parse(body.as_bytes()).1, Err(PageError::NotAPage)), "{body}");
        }
    }

    #[test]
    fn accepts_an_empty_page_in_every_form() {
        for body in [
            r#"{"conversations":[],"cursor":null}"#,
            r#"{"conversations":null,"cursor":null}"#,
            r#"{"conversations":{}}"#,
            r#"{"cursor":""}"#,
            r#"{"count":0,"limit":200,"offset":0}"#,
            "{}",
            "\u{feff}{ }",
        ] {
            let page = page(body);
            assert_eq!((page.items.len(), page.unreadable, page.is_damaged), (0, 0, false), "{body}");
            assert_eq!(page.next.cursor, Next::None, "{body}");
        }
        assert_eq!(page(r#"{"conversations":null,"cursor":"c"}"#).next.cursor, Next::At("c".to_owned()));
    }

    #[test]
    fn reads_positions_of_any_type() {
        let next = |json: &str| {
            let page = page(&format!("{{\"conversations\":[],{json}}}"));
            (page.next.cursor, page.next.offset)
        };
        assert_eq!(next(r#""next_offset":"200""#).1, Next::At(200));
        assert_eq!(next(r#""next_offset":200.0"#).1, Next::At(200));
        assert_eq!(next(r#""next_offset":null"#).1, Next::None);
        for unreadable in ["-1", "\"soon\"", "{}", "NaN", "1e99"] {
            assert_eq!(next(&format!("\"next_offset\":{unreadable}")).1, Next::Unreadable, "{unreadable}");
        }
        assert_eq!(
            next(r#""cursor":12345678901234567890123"#).0,
            Next::At("12345678901234567890123".to_owned())
        );
        assert_eq!(next(r#""cursor":{"a":1}"#).0, Next::Unreadable);
        assert_eq!(next(&format!("\"cursor\":\"{}\"", "x".repeat(9 << 10))).0, Next::Unreadable);
    }

    #[test]
    fn an_unreadable_entry_does_not_affect_the_others() {
        for (entry, unreadable) in [
            (r#"{"id":"X","metrics":{"m":[{"value":NaN}]},"total_duration":Infinity}"#, 0),
            (r#"{"id":"X",}"#, 0),
            (r#"{"id":12345678901234567890123456789,"note":"\ud800"}"#, 0),
            (r#"{"id":"X","note":"he said "no" twice"}"#, 0),
            ("{}", 1),
            ("null", 1),
            ("7", 1),
            ("\"text\"", 1),
            ("[1,[2]]", 1),
            ("<b>", 1),
            (r#"{"id":null}"#, 1),
            (r#"{"id":{"a":[]}}"#, 1),
            (r#"{"id":"half \ud800"}"#, 1),
            (r#"{"id":"X","turns":[}"#, 1),
            (r#"{"id":"X","turns":{"a":{"b":1}}"#, 1),
            (r#"{"id":"X"}}"#, 0),
            ("{broken}", 1),
        ] {
            let all =
                page(&format!(r#"{{"conversations":[{{"id":"C1"}},{entry},{{"id":"C3"}}],"cursor":"c"}}"#));
            let ids: Vec<_> = all.items.iter().map(|item| &*item.id).collect();
            assert!(ids.contains(&"C1") && ids.contains(&"C3"), "{entry}: {ids:?}");
            assert_eq!(all.unreadable, unreadable, "{entry}");
            assert!(unreadable == 0 || all.unreadable_positions == [2], "{entry}");
            assert_eq!(all.next.cursor, Next::At("c".to_owned()), "{entry}");
        }
    }

    #[test]
    fn keeps_what_was_read_before_the_page_broke() {
        let (page, result) = parse(&br#"{"cursor":"c","conversations":[{"id":"C1"},{"id":"C2"},{"id":"#[..]);
        assert!(matches!(result, Err(PageError::NotAPage)), "{result:?}");
        assert_eq!(page.items.len(), 2);
        assert_eq!(page.next.cursor, Next::At("c".to_owned()));
    }

    #[test]
    fn says_that_entries_may_be_missing() {
        assert!(page(r#"{"conversations":[{"id":"C1"}]],"cursor":null}"#).is_damaged);
        assert!(page(r#"{"conversations":[{"id":"C1"},"cursor":null}"#).is_damaged);
        assert!(!page(r#"{"conversations":[{"id":"C1",},],} and junk"#).is_damaged);
    }

    #[test]
    fn reads_pages_that_follow_each_other() {
        let both = page(
            r#"{"conversations":[{"id":"C1"}],"cursor":"a"} {"conversations":[{"id":"C2"}],"cursor":"b"}"#,
        );
        assert_eq!((both.items.len(), both.next.cursor), (2, Next::At("b".to_owned())));
    }

    #[test]
    fn skips_deep_and_long_values() {
        let deep = format!("{}{}", "[".repeat(300_000), "]".repeat(300_000));
        let long = "x".repeat(3 << 20);
        let body = format!(r#"{{"conversations":[{{"id":"C","turns":{deep},"note":"{long}"}}]}}"#);
        assert_eq!(page(&body).items.len(), 1);
    }
}
