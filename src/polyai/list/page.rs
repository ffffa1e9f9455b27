//! One page of a list, parsed while it arrives.
//!
//! A page can have hundreds of megabytes, because conversations come with their transcripts. Only the few fields of
//! [`ListedConversation`] are kept; everything else is skipped while it is read, however deeply it is nested.

use std::{fmt, io};

use futures_util::TryStreamExt;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use tokio_util::io::{StreamReader, SyncIoBridge};

use crate::{
    json::{KeySeed, Scalar, conversation_key},
    polyai::{
        Api,
        conversation::{CommonFields, ListedConversation},
        error::{ApiError, ErrorKind},
        http::Body,
    },
};

/// Many more entries than polyhook asks for. A server that sends more does not send a page.
const MAX_ENTRIES: usize = 100_000;
/// A longer id, environment or cursor is not used.
const MAX_TEXT_BYTES: usize = 1024;
/// Size of one read.
const BUFFER_BYTES: usize = 64 << 10;

/// The part of a page that is kept.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    /// The API that sent it. The caller sets it.
    pub(super) api: Api,
    pub(super) items: Vec<ListedConversation>,
    /// Number of entries without an id.
    pub(super) unreadable: u64,
    pub(super) next: NextPage,
}

/// The position of the next page, if the page names it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NextPage {
    pub(super) cursor: Option<String>,
    pub(super) offset: Option<u64>,
}

/// Reads a page to its end.
pub(super) async fn read(body: Body, host: String) -> Result<Page, ApiError> {
    let bytes = StreamReader::new(body.map_err(io::Error::other));
    let reader = SyncIoBridge::new(bytes);
    let parsed =
        tokio::task::spawn_blocking(move || parse(io::BufReader::with_capacity(BUFFER_BYTES, reader))).await;
    let bad_answer = || ApiError::new(ErrorKind::BadAnswer, &host);
    match parsed {
        Ok(Ok(page)) => Ok(page),
        // The error of the transfer itself.
        Ok(Err(error)) if error.is_io() => {
            Err(io::Error::from(error).downcast().unwrap_or_else(|_| bad_answer()))
        }
        Ok(Err(_)) | Err(_) => Err(bad_answer()),
    }
}

fn parse(reader: impl io::Read) -> serde_json::Result<Page> {
    let mut deserializer = serde_json::Deserializer::from_reader(reader);
    let page = deserializer.deserialize_map(PageVisitor)?;
    deserializer.end()?;
    Ok(page)
}

struct PageVisitor;

impl<'de> Visitor<'de> for PageVisitor {
    type Value = Page;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a page of conversations")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Page, A::Error> {
        let mut entries = None;
        let mut next = NextPage::default();
        while let Some(key) = map.next_key::<PageKey>()? {
            match key {
                PageKey::Conversations => entries = Some(map.next_value::<Entries>()?),
                PageKey::Cursor => {
                    let cursor = map.next_value::<Scalar>()?.any_text();
                    next.cursor = cursor.filter(|cursor| cursor.len() <= MAX_TEXT_BYTES);
                }
                PageKey::NextOffset => next.offset = map.next_value::<Scalar>()?.count(),
                PageKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        // A JSON object without the field is not an empty list.
        let Entries { items, unreadable } =
            entries.ok_or_else(|| A::Error::missing_field("conversations"))?;
        Ok(Page { api: Api::V3, items, unreadable, next })
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum PageKey {
    Conversations,
    Cursor,
    NextOffset,
    #[serde(other)]
    Other,
}

struct Entries {
    items: Vec<ListedConversation>,
    unreadable: u64,
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(EntriesVisitor)
    }
}

struct EntriesVisitor;

impl<'de> Visitor<'de> for EntriesVisitor {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of conversations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entries, A::Error> {
        let mut entries = Entries { items: Vec::new(), unreadable: 0 };
        while let Some(Entry(entry)) = seq.next_element()? {
            match entry {
                Some(entry) => entries.items.push(entry),
                None => entries.unreadable += 1,
            }
            if entries.items.len() > MAX_ENTRIES {
                return Err(A::Error::custom("too many conversations for a page"));
            }
        }
        Ok(entries)
    }
}

/// An entry of the list; `None` if it has no id.
struct Entry(Option<ListedConversation>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(EntryVisitor)
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a conversation")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
        let mut fields = CommonFields::default();
        while let Some(key) = map.next_key_seed(KeySeed(conversation_key))? {
            match key.filter(|key| CommonFields::include(key.field)) {
                Some(key) => fields.offer(key, map.next_value()?),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Entry(fields.into_listed(MAX_TEXT_BYTES)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polyai::ConversationInfo;

    #[test]
    fn reads_the_shapes_of_both_apis() {
        let page = parse(
            &br#"{"conversations":[
                {"id":"CA1","environment":"live","turns":[{"a":[1,{"id":"no"}]}],"in_progress":false,
                 "started_at":"2026-06-03T13:18:06.37Z","total_duration":73,"state":null},
                {"conversationId":"CA2","clientEnv":"sandbox","inProgress":true,"createdAt":"2026-06-03T13:18:06.370000+00:00",
                 "finishedAt":null,"totalDuration":null,"shortSummary":{"id":"no"}},
                {"note":"no id"}],
                "cursor":"c2","next_offset":3,"count":9}"#[..],
        )
        .unwrap();
        assert_eq!(page.unreadable, 1);
        assert_eq!(page.next, NextPage { cursor: Some("c2".to_owned()), offset: Some(3) });
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
            let page = parse(format!("{{\"conversations\":[{body}]}}").as_bytes()).unwrap();
            let info = ConversationInfo::read(body.as_bytes()).unwrap();
            let listed = &page.items[0];
            assert_eq!(
                (Some(&listed.id), &listed.environment, listed.in_progress, listed.started_at),
                (info.id.as_ref(), &info.environment, info.in_progress, info.started_at),
                "{body}"
            );
            assert_eq!(listed.ended_at.or(listed.started_at), info.ended_at(), "{body}");
        }
        let body = br#"{"conversations":[{"id":"C","startedAt":"2026-06-04T00:00:01Z","duration":3.5}]}"#;
        let ended_at = parse(&body[..]).unwrap().items[0].ended_at.unwrap();
        assert_eq!(ended_at.to_string(), "2026-06-04T00:00:04.5Z");
    }

    #[test]
    fn rejects_an_answer_that_is_not_a_list() {
        for body in ["", "{}", "[]", "<html>", r#"{"conversations":null}"#, r#"{"conversations":[{"id":"C"}"#]
        {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        assert_eq!(parse(&br#"{"conversations":[],"cursor":null}"#[..]).unwrap().next, NextPage::default());
    }

    #[test]
    fn skips_deep_and_long_values() {
        let deep = format!("{}{}", "[".repeat(300_000), "]".repeat(300_000));
        let long = "x".repeat(3 << 20);
        let body = format!(r#"{{"conversations":[{{"id":"C","turns":{deep},"note":"{long}"}}]}}"#);
        assert_eq!(parse(body.as_bytes()).unwrap().items.len(), 1);
    }
}
