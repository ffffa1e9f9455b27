//! One page of a list, parsed while it arrives.
//!
//! A page can have hundreds of megabytes, because conversations come with their transcripts. Only the few fields of
//! [`ListedConversation`] are kept; everything else is skipped while it is read, however deeply it is nested. An entry
//! that cannot be read is counted and does not affect the others. The bytes of one entry can be kept ([`find`]).

use std::{
    io::{self, BufRead},
    pin::Pin,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use thiserror::Error;
use tokio::io::AsyncRead;
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{
    json::{JsonReader, Recorder, Scalar, conversation_key},
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
    /// The bytes of the entry that was asked for.
    pub(super) found: Option<Bytes>,
    /// The reason why the rest is missing.
    pub(super) error: Option<ApiError>,
}

/// Reads a page to its end.
pub(super) async fn read(body: Body, host: String) -> ReadPage {
    parse_while_it_arrives(body, host, |reader| {
        let (page, result) = parse(reader);
        (page, None, result)
    })
    .await
}

/// Reads a page to its end, and keeps the entry with this id. It may have at most `max_bytes`.
pub(super) async fn find(body: Body, host: String, id: String, max_bytes: usize) -> ReadPage {
    let too_large = ApiError::new(ErrorKind::TooLarge, &host);
    parse_while_it_arrives(body, host, move |reader| {
        let (mut page, mut found) = (Page::default(), None);
        let result = page.read(Recorder::new(reader, max_bytes), |reader| {
            reader.input_mut().start();
            let entry = read_entry(reader)?;
            reader.input_mut().stop();
            if entry.as_ref().is_some_and(|entry| entry.id == id) {
                let whole = reader.input_mut().recorded();
                found = Some(whole.ok_or_else(|| io::Error::other(too_large.clone()))?);
            }
            Ok(entry)
        });
        (page, found, result)
    })
    .await
}

async fn parse_while_it_arrives<P>(body: Body, host: String, parse: P) -> ReadPage
where
    P: FnOnce(PageInput) -> (Page<ListedConversation>, Option<Bytes>, Result<(), PageError>) + Send + 'static,
{
    let bytes: PageBytes = Box::pin(StreamReader::new(body.map_err(io::Error::other)));
    let reader = io::BufReader::with_capacity(BUFFER_BYTES, SyncIoBridge::new(bytes));
    let parsed = tokio::task::spawn_blocking(move || parse(reader)).await;
    let (page, found, result) = parsed.unwrap_or_else(|_| (Page::default(), None, Err(PageError::NotAPage)));
    let bad_answer = || ApiError::new(ErrorKind::BadAnswer, &host);
    let error = result.err().map(|error| match error {
        PageError::Transfer(error) => error.downcast().unwrap_or_else(|_| bad_answer()),
        PageError::NotAPage => bad_answer(),
    });
    ReadPage { page, found, error }
}

/// The body of a page, as a blocking reader.
type PageInput = io::BufReader<SyncIoBridge<PageBytes>>;
type PageBytes = Pin<Box<dyn AsyncRead + Send>>;

fn parse(input: impl BufRead) -> (Page<ListedConversation>, Result<(), PageError>) {
    let mut page = Page::default();
    let result = page.read_conversations(input);
    (page, result)
}

impl Page<ListedConversation> {
    /// Reads an answer. What was read before an error stays in the page.
    pub(super) fn read_conversations(&mut self, input: impl BufRead) -> Result<(), PageError> {
        self.read(input, read_entry)
    }
}

/// Reads the entry that is next.
fn read_entry<R: BufRead>(reader: &mut JsonReader<R>) -> io::Result<Option<ListedConversation>> {
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
mod tests;
