//! Recordings and documents as they are in the archive, whole or in ranges.
//!
//! An object is passed on part by part, as fast as the client reads. Its tag is the SHA-256 of the manifest, unless the object has
//! another size: then it is not what the manifest names.

use std::{ops::Range, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;

use super::{
    super::{
        Console,
        error::PageError,
        extract::{Path, Query},
    },
    place::{Conversation, Place, archive_away},
    range::Selection,
};
use crate::archive::{Archive, Direction, MANIFEST, ManifestObject, ObjectKind, ObjectReader};

const JSON: &str = "application/json";
const WAV: &str = "audio/wav";

/// The parameter that makes a browser save an object.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Disposition {
    download: Option<String>,
}

/// An object of a conversation.
struct Served<'a> {
    /// Its name in the archive.
    name: &'a str,
    /// The size in the manifest. `None`: the manifest does not have it.
    size: Option<u64>,
    sha256: &'a str,
    content_type: &'static str,
    /// The name under which a browser saves it, if it does.
    download: Option<String>,
}

/// Returns the word of a recording in an address.
pub(super) fn direction_of(word: &str) -> Option<Direction> {
    [Direction::Combined, Direction::User, Direction::Agent]
        .into_iter()
        .find(|direction| direction.as_str() == word)
}

/// Answers with a recording.
pub(super) async fn audio(
    State(console): State<Arc<Console>>,
    Path((id, direction)): Path<(String, String)>,
    Query(place): Query<Place>,
    Query(disposition): Query<Disposition>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let conversation = Conversation::find(&console, &place, &id).await?;
    let recording = find_recording(&conversation, &direction)?;
    let suffix = recording.name.trim_start_matches("audio");
    let served = Served {
        name: &recording.name,
        size: Some(recording.size_bytes),
        sha256: &recording.sha256,
        content_type: WAV,
        download: disposition.download.map(|_| format!("{}{suffix}", conversation.id())),
    };
    serve(&console.archive, &conversation, served, &method, &headers).await
}

/// Returns the recording of a direction, or says what to do if the archive does not have it.
pub(super) fn find_recording<'a>(
    conversation: &'a Conversation,
    direction: &str,
) -> Result<&'a ManifestObject, PageError> {
    let recording =
        direction_of(direction).and_then(|direction| conversation.manifest().recording(direction));
    recording.ok_or_else(|| {
        PageError::not_found(
            "The archive does not have this recording.",
            "The page of the conversation says which recordings there are, and why others are missing.",
        )
    })
}

/// Answers with `conversation.json`, one of its revisions, or the manifest.
pub(super) async fn document(
    State(console): State<Arc<Console>>,
    Path((id, name)): Path<(String, String)>,
    Query(place): Query<Place>,
    Query(disposition): Query<Disposition>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, PageError> {
    let conversation = Conversation::find(&console, &place, &id).await?;
    let is_document = |object: &&ManifestObject| object.name == name && object.kind != ObjectKind::Audio;
    let object = conversation.manifest().objects.iter().find(is_document);
    let (size, sha256) = match object {
        Some(object) => (Some(object.size_bytes), &object.sha256),
        None if name == MANIFEST => (None, &conversation.stored.sha256),
        None => {
            return Err(PageError::not_found(
                "The conversation has no such document.",
                "The page of the conversation lists its documents.",
            ));
        }
    };
    let download = disposition.download.map(|_| format!("{}.{name}", conversation.id()));
    let served = Served { name: &name, size, sha256, content_type: JSON, download };
    serve(&console.archive, &conversation, served, &method, &headers).await
}

async fn serve(
    archive: &Archive,
    conversation: &Conversation,
    served: Served<'_>,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, PageError> {
    let etag = format!("\"{}\"", served.sha256);
    let is_get = method == Method::GET;
    let open = async |range: Option<Range<u64>>| {
        let opened = archive.open_object(&conversation.location, served.name, range).await;
        opened.map_err(|error| archive_away(&error))?.ok_or_else(|| missing(served.name))
    };
    // Usually one request to the store answers, because the manifest has the size.
    let expected = served.size.map(|size| Selection::of(headers, size, Some(&etag), is_get));
    let reader = open(match &expected {
        Some(Selection::Part(range)) => Some(range.clone()),
        _ => None,
    })
    .await?;
    let (selection, reader, etag) = match expected {
        Some(selection) if served.size == Some(reader.size) => (selection, reader, Some(etag)),
        _ => {
            let etag = Some(etag).filter(|_| served.size.is_none());
            let selection = Selection::of(headers, reader.size, etag.as_deref(), is_get);
            let reader = match &selection {
                Selection::Part(range) => open(Some(range.clone())).await?,
                _ if reader.range == (0..reader.size) => reader,
                _ => open(None).await?,
            };
            (selection, reader, etag)
        }
    };
    Ok(answer(&served, &selection, reader, etag.as_deref(), is_get))
}

fn answer(
    served: &Served<'_>,
    selection: &Selection,
    reader: ObjectReader,
    etag: Option<&str>,
    is_get: bool,
) -> Response {
    let ObjectReader { size, range, parts } = reader;
    let (status, length, content_range) = match selection {
        Selection::Whole => (StatusCode::OK, size, None),
        Selection::Part(_) => {
            let last = range.end.saturating_sub(1);
            let content_range = format!("bytes {}-{last}/{size}", range.start);
            (StatusCode::PARTIAL_CONTENT, range.end - range.start, Some(content_range))
        }
        Selection::Unsatisfiable => (StatusCode::RANGE_NOT_SATISFIABLE, 0, Some(format!("bytes */{size}"))),
        Selection::NotModified => (StatusCode::NOT_MODIFIED, 0, None),
        Selection::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, 0, None),
    };
    let has_content = matches!(selection, Selection::Whole | Selection::Part(_));
    let body = if has_content && is_get { Body::from_stream(parts) } else { Body::empty() };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    if has_content {
        set(header::CONTENT_TYPE, served.content_type.to_owned());
        set(header::CONTENT_LENGTH, length.to_string());
        if let Some(name) = &served.download {
            set(header::CONTENT_DISPOSITION, attachment(name));
        }
    }
    if let Some(content_range) = content_range {
        set(header::CONTENT_RANGE, content_range);
    }
    if let Some(etag) = etag {
        set(header::ETAG, etag.to_owned());
    }
    response
}

/// Returns the header that makes a browser save a file (RFC 6266).
fn attachment(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let plain: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    format!("attachment; filename=\"{plain}\"")
}

fn missing(name: &str) -> PageError {
    PageError::not_found(
        format!("The manifest names {name}, and the archive does not have it."),
        "Fetch the conversation again, or find all damage with `polyhook audit`.",
    )
}
