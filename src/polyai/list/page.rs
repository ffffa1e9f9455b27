//! One page of a list, parsed while it arrives.
//!
//! A page can be hundreds of megabytes: conversations come with their transcripts. Nothing of it is kept but the few
//! fields of [`ListedConversation`]; everything else is skipped byte by byte, however it is nested.

use std::{fmt, io};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use reqwest::Response;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::ListedConversation;
use crate::polyai::{
    Api,
    conversation::parse_time,
    error::{ApiError, ErrorKind},
};

/// Many more than are asked for; a server that sends more means something else.
const MOST: usize = 100_000;
/// Longer words are none of those that are read.
const LONGEST_WORD: usize = 1024;
/// Read at a time.
const BUFFER: usize = 64 << 10;

/// What is kept of a page.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    /// Which API sent it; whoever asked knows.
    pub(super) api: Api,
    pub(super) items: Vec<ListedConversation>,
    /// Entries without an id.
    pub(super) unreadable: u64,
    pub(super) tail: Tail,
}

/// Where the next page is, if there is one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) cursor: Option<String>,
    pub(super) next_offset: Option<u64>,
}

/// Reads a page to its end.
pub(super) async fn read(response: Response, host: String) -> Result<Page, ApiError> {
    let bytes = StreamReader::new(Box::pin(response.bytes_stream().map_err(io::Error::other)));
    let reader = SyncIoBridge::new(bytes);
    let parsed =
        tokio::task::spawn_blocking(move || parse(io::BufReader::with_capacity(BUFFER, reader))).await;
    let kind = match parsed {
        Ok(Ok(page)) => return Ok(page),
        Ok(Err(error)) if error.is_io() => ErrorKind::Network,
        Ok(Err(_)) | Err(_) => ErrorKind::BadAnswer,
    };
    Err(ApiError::new(kind, &host))
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
        let mut items = None;
        let mut tail = Tail::default();
        while let Some(Word(key)) = map.next_key()? {
            match key.as_deref() {
                Some("conversations") => items = Some(map.next_value::<Items>()?),
                Some("cursor") => tail.cursor = map.next_value::<Word>()?.0,
                Some("next_offset") => {
                    tail.next_offset = map.next_value::<Word>()?.0.and_then(|word| word.parse().ok());
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        // Something else that is JSON is no empty list.
        let Items { items, unreadable } = items.ok_or_else(|| A::Error::missing_field("conversations"))?;
        Ok(Page { api: Api::V3, items, unreadable, tail })
    }
}

struct Items {
    items: Vec<ListedConversation>,
    unreadable: u64,
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor;
        impl<'de> Visitor<'de> for ItemsVisitor {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of conversations")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Items, A::Error> {
                let mut read = Items { items: Vec::new(), unreadable: 0 };
                while let Some(Item(item)) = seq.next_element()? {
                    match item {
                        Some(item) => read.items.push(item),
                        None => read.unreadable += 1,
                    }
                    if read.items.len() > MOST {
                        return Err(A::Error::custom("too many conversations for a page"));
                    }
                }
                Ok(read)
            }
        }
        deserializer.deserialize_seq(ItemsVisitor)
    }
}

/// A conversation; nothing where there is no id.
struct Item(Option<ListedConversation>);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemVisitor;
        impl<'de> Visitor<'de> for ItemVisitor {
            type Value = Item;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a conversation")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
                let mut fields = Fields::default();
                while let Some(Word(key)) = map.next_key()? {
                    match key.as_deref().and_then(|key| fields.slot(key)) {
                        Some(slot) => {
                            let Word(value) = map.next_value()?;
                            if slot.is_none() {
                                *slot = value;
                            }
                        }
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(Item(fields.listed()))
            }
        }
        deserializer.deserialize_map(ItemVisitor)
    }
}

/// What is read of a conversation, by the names of both APIs; the same as `ConversationInfo` reads, because both say where it
/// lies in the archive.
#[derive(Default)]
struct Fields {
    id: Option<String>,
    environment: Option<String>,
    in_progress: Option<String>,
    started_at: Option<String>,
    created_at: Option<String>,
    finished_at: Option<String>,
    total_duration: Option<String>,
}

impl Fields {
    fn slot(&mut self, key: &str) -> Option<&mut Option<String>> {
        Some(match key {
            "id" | "conversationId" | "conversation_id" => &mut self.id,
            "environment" | "clientEnv" | "client_env" => &mut self.environment,
            "in_progress" | "inProgress" => &mut self.in_progress,
            "started_at" | "startedAt" => &mut self.started_at,
            "createdAt" | "created_at" => &mut self.created_at,
            "finished_at" | "finishedAt" => &mut self.finished_at,
            "total_duration" | "totalDuration" => &mut self.total_duration,
            _ => return None,
        })
    }

    fn listed(self) -> Option<ListedConversation> {
        let time = |text: Option<String>| parse_time(&text?);
        let started_at: Option<Timestamp> = time(self.started_at).or_else(|| time(self.created_at));
        let ended_at = time(self.finished_at).or_else(|| {
            let seconds = self.total_duration?.parse::<f64>().ok()?.clamp(0.0, 1e6);
            started_at?.checked_add(std::time::Duration::from_secs_f64(seconds)).ok()
        });
        Some(ListedConversation {
            id: self.id?,
            environment: self.environment,
            in_progress: self.in_progress.is_some_and(|word| word == "true"),
            started_at,
            ended_at,
        })
    }
}

/// A string, a number or a boolean as a word; nothing where there is any other value, or none.
struct Word(Option<String>);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor)
    }
}

struct WordVisitor;

impl<'de> Visitor<'de> for WordVisitor {
    type Value = Word;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_str<E>(self, word: &str) -> Result<Word, E> {
        Ok(Word((1..=LONGEST_WORD).contains(&word.len()).then(|| word.to_owned())))
    }

    fn visit_bool<E>(self, word: bool) -> Result<Word, E> {
        Ok(Word(Some(word.to_string())))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Word, E> {
        Ok(Word(Some(number.to_string())))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Word, E> {
        Ok(Word(Some(number.to_string())))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Word, E> {
        Ok(Word(Some(number.to_string())))
    }

    fn visit_unit<E>(self) -> Result<Word, E> {
        Ok(Word(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Word, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Word(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Word, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Word(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::polyai::ConversationInfo;

    #[test]
    fn reads_both_shapes() {
        let page = parse(
            &br#"{"conversations":[
                {"id":"CA1","environment":"live","turns":[{"a":[1,{"id":"no"}]}],"in_progress":false,
                 "started_at":"2026-06-03T13:18:06.37Z","total_duration":73,"state":null},
                {"conversationId":"CA2","clientEnv":"sandbox","inProgress":true,"createdAt":"2026-06-03T13:18:06.370000+00:00",
                 "finishedAt":null,"totalDuration":null,"shortSummary":{"id":"no"}},
                {"note":"nobody"}],
                "cursor":"c2","next_offset":3,"count":9}"#[..],
        )
        .unwrap();
        assert_eq!(page.unreadable, 1);
        assert_eq!(page.tail, Tail { cursor: Some("c2".to_owned()), next_offset: Some(3) });
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

    /// Or a listed conversation would be looked for in another place than it was archived in.
    #[test]
    fn reads_times_as_the_archive_does() {
        for body in [
            r#"{"id":"C","started_at":"2026-06-03T23:59:59","createdAt":"2026-06-04T00:00:01Z"}"#,
            r#"{"conversationId":"C","createdAt":"2026-06-04T00:00:01Z","startedAt":"2026-06-03T23:59:59.123456+00:00"}"#,
            r#"{"id":"C","startedAt":"soon","created_at":"2026-06-04T00:00:01Z","totalDuration":3.5}"#,
            r#"{"id":"C","started_at":7,"total_duration":-1}"#,
        ] {
            let page = parse(format!("{{\"conversations\":[{body}]}}").as_bytes()).unwrap();
            let summary = ConversationInfo::read(body.as_bytes()).unwrap();
            assert_eq!(page.items[0].started_at, summary.started_at, "{body}");
        }
    }

    #[test]
    fn what_is_no_list_is_an_error_and_not_an_empty_one() {
        for body in ["", "{}", "[]", "<html>", r#"{"conversations":null}"#, r#"{"conversations":[{"id":"C"}"#]
        {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        assert_eq!(parse(&br#"{"conversations":[],"cursor":null}"#[..]).unwrap().tail, Tail::default());
    }

    #[test]
    fn depth_and_length_cost_nothing() {
        let deep = format!("{}{}", "[".repeat(300_000), "]".repeat(300_000));
        let long = "x".repeat(3 << 20);
        let body = format!(r#"{{"conversations":[{{"id":"C","turns":{deep},"note":"{long}"}}]}}"#);
        assert_eq!(parse(body.as_bytes()).unwrap().items.len(), 1);
    }
}
