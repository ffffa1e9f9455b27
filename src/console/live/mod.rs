//! The live view: the events of `polyhook tail` as they happen, as Server-Sent Events.
//!
//! The script of the page puts the newest event on top: a person sees it without scrolling, on a phone too.

mod feed;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, header};
use maud::html;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use self::feed::{LiveFeed, LiveLine, LivePlace, LiveViewer};
use super::{
    Console,
    access::Viewer,
    extract::Query,
    layout::{Page, Section, keys},
};
use crate::queue::{TailEvent, TailEventKind};

/// Without a line for this long, a comment shows that the connection is open, and finds out that a browser is gone. Proxies
/// often close a connection after a minute without a byte.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Lines of one part of the stream.
const MAX_LINES: usize = 100;
/// A stream ends after this time. The browser connects again without missing a line, if the person may still look.
const MAX_DURATION: Duration = Duration::from_mins(5);
/// The browser connects again after this time.
const RECONNECT_DELAY: Duration = Duration::from_secs(2);
/// The browser connects again after this time if too many people watch.
const FULL_DELAY: Duration = Duration::from_secs(30);

/// The filter in the address of the page, which its script keeps current.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Filter {
    text: String,
    kind: String,
    outcome: String,
}

pub(super) fn routes() -> Router<Arc<Console>> {
    Router::new().route("/live", get(page)).route("/live/events", get(events))
}

async fn page(State(console): State<Arc<Console>>, _viewer: Viewer, Query(filter): Query<Filter>) -> Page {
    let select = |name: &str, label: &str, chosen: &str, options: &[(&str, &str)]| {
        html! {
            label {
                (label)
                select name=(name) {
                    @for (value, text) in options {
                        option value=(value) selected[*value == chosen] { (text) }
                    }
                }
            }
        }
    };
    let kinds = [("", "all"), ("delivery", "deliveries"), ("job", "jobs"), ("announcement", "announcements")];
    let outcomes = [("", "all"), ("done", "done"), ("retry", "retry"), ("dead", "dead")];
    let body = html! {
        h1 { "Live" }
        noscript {
            p class="notice warn" { "This page needs JavaScript. Without it, use " code { "polyhook tail" } " on the command line." }
        }
        form class="filters" id="live-filter" action="/live" {
            label { "Text" input type="search" name="text" value=(filter.text) autocomplete="off" placeholder="id, type, reason"; }
            (select("kind", "Kind", &filter.kind, &kinds))
            (select("outcome", "Outcome of a job", &filter.outcome, &outcomes))
            button type="button" id="live-pause" aria-keyshortcuts="p" { "Pause" }
        }
        p class="quiet" { span id="live-state" { "Not connected." } " " span id="live-counts" {} }
        p class="visually-hidden" id="live-news" role="status" {}
        table class="stack live" id="live" data-source="/live/events" {
            caption class="visually-hidden" { "Events, the newest first" }
            thead { tr { th { "Time" } th { "Conversation" } th { "Event" } th { "Details" } } }
            tbody id="live-rows" {}
        }
        p class="quiet" {
            @if console.live.knows_past() {
                "The newest event is on top. The page begins with the last minutes."
            } @else {
                "The newest event is on top. On RabbitMQ the page begins now: past events are not kept."
            }
        }
        (keys(&[("p", "pause or continue"), ("/", "search")]))
    };
    Page::new(Section::Live, "Live", body).with_asset("live.css").with_asset("live.js")
}

/// An event as the script of the page gets it.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    event: &'a TailEvent,
    /// `delivery`, `job` or `announcement`.
    kind: &'static str,
    /// The words of `polyhook tail`.
    text: String,
}

async fn events(State(console): State<Arc<Console>>, _viewer: Viewer, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").and_then(|id| LivePlace::parse(id.to_str().ok()?));
    let stream = match console.live.watch(last) {
        Some(viewer) => lines_of(viewer, console.live.draining()).left_stream(),
        None => stream::iter([full()]).right_stream(),
    };
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        // For proxies: nothing may be kept back.
        (header::CACHE_CONTROL, "no-store, no-transform"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(stream.map(Ok::<_, std::convert::Infallible>))).into_response()
}

/// Returns the stream of a viewer. It ends after [`MAX_DURATION`], and when the drain starts, which must not wait for people
/// who watch.
fn lines_of(viewer: LiveViewer, draining: CancellationToken) -> impl Stream<Item = Bytes> {
    let hello = format!("retry: {}\n\n", RECONNECT_DELAY.as_millis());
    let lines = stream::unfold(viewer, |mut viewer| async {
        let part = match timeout(HEARTBEAT, viewer.next(MAX_LINES)).await {
            Ok((lines, place)) => render(&lines, place),
            Err(_) => ": open\n\n".to_owned(),
        };
        Some((Bytes::from(part), viewer))
    });
    let end = timeout(MAX_DURATION, draining.cancelled_owned());
    stream::iter([Bytes::from(hello)]).chain(lines).take_until(end)
}

/// Writes lines as Server-Sent Events. The last one names the place after it.
fn render(lines: &[Arc<LiveLine>], place: LivePlace) -> String {
    let event = |line: &LiveLine| match line {
        // JSON has no line breaks.
        LiveLine::Event(event) => {
            format!("data: {}\n\n", serde_json::to_string(&row(event)).unwrap_or_default())
        }
        LiveLine::Note(note) => note_event(note),
    };
    let mut events: Vec<_> = lines.iter().map(|line| event(line)).collect();
    if let Some(last) = events.last_mut() {
        last.insert_str(0, &format!("id: {place}\n"));
    }
    events.concat()
}

fn note_event(note: &str) -> String {
    format!("event: note\ndata: {}\n\n", serde_json::to_string(note).unwrap_or_default())
}

fn full() -> Bytes {
    let note = note_event("Too many people watch at the moment. This page tries again.");
    Bytes::from(format!("retry: {}\n{note}", FULL_DELAY.as_millis()))
}

fn row(event: &TailEvent) -> Row<'_> {
    let kind = match event.what {
        TailEventKind::Delivery => "delivery",
        TailEventKind::Done | TailEventKind::Retry | TailEventKind::Dead => "job",
        TailEventKind::Ready => "announcement",
    };
    let text = std::iter::once(event.main_text("again in ")).chain(event.details(true));
    Row { event, kind, text: text.collect::<Vec<_>>().join(", ") }
}
