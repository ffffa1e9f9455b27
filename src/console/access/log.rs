//! The log of who looked at which conversation, and who changed what.
//!
//! One line for each page of a conversation, each download, each search for a phrase and each change, with the target [`TARGET`].
//! A browser asks for a recording in many parts, so it is logged when a person first hears it, and again after [`REPEAT_AFTER`].
//! No line has a query, a number or content.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, Method, StatusCode, header};
use percent_encoding::percent_decode_str;

use super::Viewer;
use crate::clock::Clock;

/// The target of all lines, for directives such as `info,polyhook::console::access=off`.
pub(super) const TARGET: &str = "polyhook::console::access";
/// Time after which a recording that a person still listens to is logged again.
const REPEAT_AFTER: Duration = Duration::from_hours(1);
/// Recordings that are remembered. When there are more, all are forgotten and logged again.
const MAX_REMEMBERED: usize = 4096;
/// The longest path in the log, in bytes.
const MAX_PATH_BYTES: usize = 512;

/// The ids of conversations in one line. The list shows no more on a page.
const MAX_IDS: usize = 50;
/// The longest id in a line of several, in characters.
const MAX_ID_CHARS: usize = 80;

impl Viewer {
    /// Logs the conversations of which a search has shown excerpts.
    pub(in crate::console) fn log_excerpts<'a>(&self, ids: impl ExactSizeIterator<Item = &'a str>) {
        let count = ids.len();
        let ids: Vec<String> = ids.take(MAX_IDS).map(|id| id.chars().take(MAX_ID_CHARS).collect()).collect();
        let conversations = (count > 0).then(|| ids.join(" "));
        tracing::info!(target: TARGET, viewer = self.name, count, conversations, "a person searched for a phrase");
    }
}

/// What a request asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    method: Method,
    path: String,
    /// True for a part of a recording, or what a page loads itself.
    is_part: bool,
}

impl Asked {
    /// Describes a request.
    pub(super) fn new(method: &Method, path: &str, headers: &HeaderMap) -> Self {
        let end = path.char_indices().map(|(at, _)| at).find(|at| *at > MAX_PATH_BYTES);
        let dest = headers.get(HeaderName::from_static("sec-fetch-dest"));
        let is_loaded = dest.is_some_and(|dest| dest == "empty" || dest == "audio" || dest == "video");
        Self {
            method: method.clone(),
            path: path.get(..end.unwrap_or(path.len())).unwrap_or_default().to_owned(),
            is_part: is_loaded || headers.contains_key(header::RANGE),
        }
    }

    /// Returns the id of the conversation. `None` also for what a page loads itself and no one reads or
    /// hears: the waveform, and the messages in the queue.
    fn conversation(&self) -> Option<Cow<'_, str>> {
        let mut parts = self.path.strip_prefix("/conversations/")?.split('/');
        let id = parts.next().filter(|id| !id.is_empty())?;
        let is_supplement = parts.next().is_some_and(|part| part == "waveform" || part == "messages");
        (!is_supplement || !self.method.is_safe()).then(|| percent_decode_str(id).decode_utf8_lossy())
    }
}

/// The recordings that people have heard lately.
#[derive(Debug)]
pub(super) struct AccessLog {
    clock: Clock,
    /// Name and path, and the time when they were logged.
    heard: Mutex<HashMap<(String, String), Duration>>,
}

impl AccessLog {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, heard: Mutex::default() }
    }

    /// Logs a request that was answered, if it is one that counts.
    pub(super) fn record(&self, viewer: &Viewer, asked: &Asked, status: StatusCode) {
        let (name, path, conversation) = (&*viewer.name, &*asked.path, asked.conversation());
        let (conversation, status) = (conversation.as_deref(), status.as_u16());
        if !asked.method.is_safe() {
            tracing::info!(target: TARGET, viewer = name, path, conversation, status, "a person asked for a change");
        } else if conversation.is_some() && self.is_new(name, asked) {
            tracing::info!(target: TARGET, viewer = name, path, conversation, status, "a person opened a conversation");
        } else {
            tracing::debug!(target: TARGET, viewer = name, path, status, "a page of the console");
        }
    }

    /// Returns whether this is not a further part of what the person hears or sees already.
    fn is_new(&self, name: &str, asked: &Asked) -> bool {
        if !asked.is_part {
            return true;
        }
        let now = self.clock.elapsed();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), asked.path.clone());
        if heard.get(&key).is_some_and(|logged| now.saturating_sub(*logged) < REPEAT_AFTER) {
            return false;
        }
        if heard.len() >= MAX_REMEMBERED {
            heard.clear();
        }
        heard.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use jiff::Timestamp;

    use super::*;

    fn asked(path: &str, header: Option<(HeaderName, &'static str)>) -> Asked {
        let headers = header.map(|(name, value)| (name, HeaderValue::from_static(value)));
        Asked::new(&Method::GET, path, &headers.into_iter().collect())
    }

    #[test]
    fn a_recording_is_new_once_an_hour_whatever_part_comes_first() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let log = AccessLog::new(clock.clone());
        let path = "/conversations/CA1/audio/audio.wav";
        let part = |range| asked(path, Some((header::RANGE, range)));
        assert!(log.is_new("ada", &part("bytes=1-")), "also if it is not the first part");
        assert!(!log.is_new("ada", &part("bytes=0-")));
        assert!(log.is_new("eve", &part("bytes=0-")), "another person");
        assert!(log.is_new("ada", &asked(path, None)), "a download");
        clock.advance(REPEAT_AFTER);
        assert!(log.is_new("ada", &part("bytes=0-")));
        for number in 0..3 * MAX_REMEMBERED {
            let path = format!("/conversations/{number}/audio");
            log.is_new("ada", &asked(&path, Some((header::RANGE, "bytes=0-"))));
        }
        assert!(log.heard.lock().unwrap().len() <= MAX_REMEMBERED);
    }

    #[test]
    fn names_the_conversation_of_a_path() {
        for (path, id) in [
            ("/conversations/CA1", Some("CA1")),
            ("/conversations/%43A%2F1/audio", Some("CA/1")),
            ("/conversations/CA1/waveform/user", None),
            ("/conversations/CA1/messages", None),
            ("/conversations/", None),
            ("/conversations", None),
            ("/dead/CA1", None),
        ] {
            assert_eq!(asked(path, None).conversation().as_deref(), id, "{path}");
        }
        assert!(asked(&"/conversations/ä".repeat(500), None).path.len() <= MAX_PATH_BYTES + 4);
    }
}
