use bytes::Bytes;
use futures_util::StreamExt;

use super::*;
use crate::{
    console::live::lines_of,
    event::DedupKey,
    queue::{
        Message, Queue, QueueUrls,
        sqlite::{SqliteOptions, SqliteQueue},
    },
    secret::Secret,
};

/// A busy machine may take long for a step.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(path: &std::path::Path) -> QueueConfig {
    let url = QueueUrls::One(Secret::new(format!("sqlite:{}", path.display())));
    QueueConfig { url, ..QueueConfig::default() }
}

/// A feed of a file that does not exist: it shows only what a test adds.
fn feed(lifecycle: &Lifecycle) -> Arc<LiveFeed> {
    feed_at(Clock::System, lifecycle)
}

fn feed_at(clock: Clock, lifecycle: &Lifecycle) -> Arc<LiveFeed> {
    let missing = std::path::Path::new("/nonexistent/queue.db");
    LiveFeed::new(&config(missing), clock, lifecycle.clone()).unwrap()
}

fn note(number: usize) -> LiveLine {
    LiveLine::Note(format!("note {number}"))
}

async fn next(viewer: &mut LiveViewer) -> (Vec<LiveLine>, LivePlace) {
    let (lines, place) = timeout(PATIENCE, viewer.next(usize::MAX)).await.expect("a line in time");
    (lines.iter().map(|line| (**line).clone()).collect(), place)
}

/// Returns the first line that is not about the missing file.
async fn first_line(viewer: &mut LiveViewer) -> LiveLine {
    loop {
        let (lines, _) = next(viewer).await;
        let is_own = |line: &LiveLine| !matches!(line, LiveLine::Note(note) if note.contains("nonexistent"));
        if let Some(line) = lines.into_iter().find(is_own) {
            return line;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_the_queue_reaches_every_viewer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("queue.db");
    let lifecycle = Lifecycle::new();
    let options = SqliteOptions::new(&config(&path), Clock::System);
    let queue = SqliteQueue::open(&path, options, &Lifecycle::new()).unwrap();
    queue.ready().await.unwrap();
    let feed = LiveFeed::new(&config(&path), Clock::System, lifecycle.clone()).unwrap();
    let mut viewers = [feed.watch(None).unwrap(), feed.watch(None).unwrap()];
    let body = Bytes::from_static(br#"{"data":{"conversation_id":"CA1","from":"+15550100"}}"#);
    let message = Message {
        id: "evt_1".to_owned(),
        dedup: DedupKey::new("evt_1", &body),
        kind: "conversation.completed".to_owned(),
        environment: "live".to_owned(),
        conversation_id: Some("CA1".to_owned()),
        received_at: Clock::System.now(),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body,
    };
    queue.publish(message).await.unwrap();
    for viewer in &mut viewers {
        let (lines, _) = next(viewer).await;
        let [LiveLine::Event(event)] = &lines[..] else { panic!("{lines:?}") };
        assert_eq!((event.id.as_str(), event.conversation_id.as_deref()), ("evt_1", Some("CA1")));
        assert!(!format!("{event:?}").contains("5550100"), "no phone number: {event:?}");
    }
    lifecycle.drain();
    lifecycle.wait().await;
    queue.close().await;
}

#[tokio::test]
async fn a_viewer_that_does_not_read_blocks_nobody_and_learns_what_it_missed() {
    let lifecycle = Lifecycle::new();
    let feed = feed(&lifecycle);
    let (mut reader, mut stalled) = (feed.watch(None).unwrap(), feed.watch(None).unwrap());
    first_error(&mut reader).await;
    let mut read = 0;
    for number in 0..3 * MAX_LINES {
        feed.push(note(number));
        let (lines, _) = next(&mut reader).await;
        assert_eq!(lines, [note(number)]);
        read += lines.len();
    }
    assert_eq!(read, 3 * MAX_LINES);
    let (lines, _) = next(&mut stalled).await;
    // It also missed the error of the file, the first line of all.
    assert_eq!(lines[0], LiveLine::Note(format!("{} events are missing here", 2 * MAX_LINES + 1)));
    assert_eq!((&lines[1], lines.len()), (&note(2 * MAX_LINES), MAX_LINES + 1));
    lifecycle.drain();
}

#[tokio::test]
async fn a_line_is_forgotten_after_a_while() {
    let (lifecycle, clock) = (Lifecycle::new(), Clock::manual(Timestamp::UNIX_EPOCH));
    let feed = feed_at(clock.clone(), &lifecycle);
    let mut viewer = feed.watch(None).unwrap();
    first_error(&mut viewer).await;
    feed.push(note(1));
    clock.advance(MAX_AGE);
    assert_eq!(first_line(&mut feed.watch(None).unwrap()).await, note(1));
    clock.advance(Duration::from_secs(1));
    let mut late = feed.watch(None).unwrap();
    feed.push(note(2));
    assert_eq!(next(&mut late).await.0, [note(2)]);
    let missing = LiveLine::Note("1 event is missing here".to_owned());
    assert_eq!(next(&mut viewer).await.0, [missing, note(2)], "a viewer who was too slow");
    lifecycle.drain();
}

/// Reads the line about the missing file.
async fn first_error(viewer: &mut LiveViewer) {
    let (lines, _) = next(viewer).await;
    assert!(matches!(&lines[..], [LiveLine::Note(note)] if note.contains("nonexistent")), "{lines:?}");
}

#[tokio::test]
async fn a_viewer_who_comes_back_continues_or_sees_that_there_is_a_gap() {
    let lifecycle = Lifecycle::new();
    let feed = feed(&lifecycle);
    let mut viewer = feed.watch(None).unwrap();
    feed.push(note(1));
    let (_, place) = next(&mut viewer).await;
    drop(viewer);
    feed.push(note(2));
    let place = LivePlace::parse(&place.to_string());
    let mut again = feed.watch(place).unwrap();
    assert_eq!(first_line(&mut again).await, note(2), "the same period: nothing is repeated");
    let mut other = feed.watch(Some(LivePlace { period: 1, number: 1 })).unwrap();
    let line = first_line(&mut other).await;
    assert!(matches!(&line, LiveLine::Note(note) if note.contains("interrupted")), "{line:?}");
    for wrong in ["", "1", "1-", "-1", "a-b", "1-2-3", "99999999999999999999-1"] {
        assert_eq!(LivePlace::parse(wrong), None, "{wrong}");
    }
    let mut far = feed.watch(place.map(|place| LivePlace { number: u64::MAX, ..place })).unwrap();
    feed.push(note(3));
    assert_eq!(first_line(&mut far).await, note(3), "a place of the future is not waited for");
    lifecycle.drain();
}

#[tokio::test]
async fn the_number_of_viewers_is_limited() {
    let lifecycle = Lifecycle::new();
    let feed = feed(&lifecycle);
    let mut viewers: Vec<_> = (0..MAX_VIEWERS).map(|_| feed.watch(None).unwrap()).collect();
    assert!(feed.watch(None).is_none());
    viewers.pop();
    assert!(feed.watch(None).is_some());
    lifecycle.drain();
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_followed_only_while_somebody_watches() {
    let lifecycle = Lifecycle::new();
    let feed = feed(&lifecycle);
    assert!(!feed.log().is_followed);
    drop(feed.watch(None).unwrap());
    assert!(feed.log().is_followed);
    sleep(LINGER / 2).await;
    assert!(feed.log().is_followed, "a page that is loaded again misses nothing");
    let period = feed.log().period;
    let viewer = feed.watch(None).unwrap();
    assert_eq!(feed.log().period, period);
    sleep(3 * LINGER).await;
    assert!(feed.log().is_followed);
    drop(viewer);
    sleep(2 * LINGER).await;
    assert!(!feed.log().is_followed);
    let _viewer = feed.watch(None).unwrap();
    assert_ne!(feed.log().period, period);
    lifecycle.drain();
    lifecycle.wait().await;
}

#[tokio::test]
async fn the_stream_of_a_viewer_has_the_words_of_tail_and_ends_with_the_drain() {
    let lifecycle = Lifecycle::new();
    let feed = feed(&lifecycle);
    let viewer = feed.watch(None).unwrap();
    let event = r#"{"at":"2026-11-30T10:41:02.125Z","what":"retry","event_type":"conversation.completed","environment":"live",
        "id":"evt_1","conversation_id":"CA1","attempt":1,"status":404,"reason":"recording_not_found","retry_at":"2026-11-30T10:41:12Z"}"#;
    feed.push(LiveLine::Event(Box::new(serde_json::from_str(event).unwrap())));
    feed.push(LiveLine::Note("two\nlines".to_owned()));
    let mut stream = std::pin::pin!(lines_of(viewer, feed.draining()));
    assert_eq!(stream.next().await.unwrap(), "retry: 2000\n\n");
    let lines = String::from_utf8(stream.next().await.unwrap().to_vec()).unwrap();
    let events: Vec<_> = lines.split_terminator("\n\n").collect();
    let row: serde_json::Value = serde_json::from_str(events[0].strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((row["what"].as_str(), row["kind"].as_str()), (Some("retry"), Some("job")));
    let words = "no recording yet, again in 10 s, HTTP 404, try 1, conversation.completed, live";
    assert_eq!(row["text"].as_str(), Some(words));
    let place = LivePlace { period: feed.log().period, number: 2 };
    assert_eq!(events[1], format!("id: {place}\nevent: note\ndata: \"two\\nlines\""));
    lifecycle.drain();
    let ended = async { while stream.next().await.is_some() {} };
    timeout(PATIENCE, ended).await.expect("it ends");
    lifecycle.wait().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_now_and_then_so_that_a_login_that_has_ended_counts() {
    let lifecycle = Lifecycle::new();
    let feed = feed(&lifecycle);
    let stream = lines_of(feed.watch(None).unwrap(), feed.draining());
    let parts = stream.map(|part| part == ": open\n\n").collect::<Vec<_>>().await;
    let heartbeats = parts.iter().filter(|is_heartbeat| **is_heartbeat).count();
    assert!((50..70).contains(&heartbeats), "every five seconds for five minutes: {heartbeats}");
    lifecycle.drain();
}
