use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use url::form_urlencoded;

use super::harness::{Answer, TestConsole};
use crate::{
    console::ConsoleConfig,
    event::{CONVERSATION_COMPLETED, DedupKey},
    queue::{Attempt, DeadLetter, History, JobOutcome, Message, Queue},
};

const SCRIPT: &str = "<script>alert(1)</script>\"'&\u{202e}";

fn open(allow_replay: bool) -> TestConsole {
    TestConsole::open(ConsoleConfig { allow_replay, ..ConsoleConfig::default() })
}

fn message(id: &str, body: &str) -> Message {
    Message {
        id: id.to_owned(),
        dedup: DedupKey::new(id, body.as_bytes()),
        kind: CONVERSATION_COMPLETED.to_owned(),
        environment: "live".to_owned(),
        conversation_id: None,
        received_at: "2026-11-22T10:20:30.123Z".parse().unwrap(),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

fn attempt(reason: &str, at: &str) -> Attempt {
    Attempt {
        at: at.parse().unwrap(),
        reason: reason.to_owned().into(),
        detail: format!("{reason} happened"),
        status: Some(401),
        correlation_id: Some(format!("corr-{reason}")),
    }
}

/// Makes a dead letter of an event.
async fn add_with(console: &TestConsole, message: Message, attempts: &[Attempt]) {
    let queue = &console.console.queue;
    queue.publish(message).await.unwrap();
    fail_next(queue, attempts).await;
}

/// Makes a dead letter of the next job.
async fn fail_next(queue: &Arc<dyn Queue>, attempts: &[Attempt]) {
    let job = queue.next().await.unwrap();
    let mut history = job.history;
    attempts.iter().cloned().for_each(|attempt| history.push(attempt));
    queue.settle(job.lease, JobOutcome::Dead { history }).await.unwrap();
}

async fn add(console: &TestConsole, id: &str, reason: &str) {
    let body = format!(
        r#"{{"type":"conversation.completed","data":{{"conversation_id":"CA-{id}","project_id":"front-desk"}}}}"#
    );
    add_with(console, message(id, &body), &[attempt(reason, "2026-11-22T11:00:00Z")]).await;
}

/// Returns the dead letters.
async fn dead(console: &TestConsole) -> Vec<DeadLetter> {
    let mut cursor = console.console.queue.dead_letters().await.unwrap();
    let mut found = Vec::new();
    while let Some(letter) = cursor.next().await.unwrap() {
        found.push(letter);
    }
    found
}

async fn dead_ids(console: &TestConsole) -> Vec<String> {
    let mut ids: Vec<_> = dead(console).await.into_iter().map(|letter| letter.message.id).collect();
    ids.sort();
    ids
}

fn form(fields: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

/// Sends the form of a page, with its token.
async fn submit(console: &TestConsole, path: &str, csrf: &str, fields: &[(&str, &str)]) -> Answer {
    let fields = [&[("csrf", csrf)], fields].concat();
    console.post(path, &[], &form(&fields)).await
}

/// Follows the redirect of an answer.
async fn follow(console: &TestConsole, answer: &Answer) -> Answer {
    assert_eq!(answer.status, 303, "{answer:?}");
    console.get(answer.header("location")).await
}

/// Makes a preview as the list does, and returns its page.
async fn preview(console: &TestConsole, fields: &[(&str, &str)]) -> Answer {
    let csrf = console.get("/dead").await.csrf();
    let answer = submit(console, "/dead/actions/preview", &csrf, fields).await;
    follow(console, &answer).await
}

/// Confirms a preview and returns the page of its result. While the action runs, the page is loaded again, as a browser does.
async fn confirm(console: &TestConsole, preview: &Answer) -> Answer {
    let answer =
        submit(console, "/dead/actions/confirm", &preview.csrf(), &[("selection", &selection(preview))])
            .await;
    loop {
        let page = follow(console, &answer).await;
        if page.header("refresh").is_empty() {
            return page;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

fn selection(preview: &Answer) -> String {
    let (_, rest) = preview.body.split_once("name=\"selection\" value=\"").expect(&preview.body);
    rest.split('"').next().unwrap().to_owned()
}

/// Returns the text of a page without tags.
fn text(answer: &Answer) -> String {
    let mut text = String::new();
    for part in answer.body.split('<') {
        text.push_str(part.split_once('>').map_or(part, |(_, text)| text));
    }
    text
}

#[tokio::test]
async fn a_page_without_dead_letters_counts_the_jobs_that_failed() {
    let console = open(true);
    let page = console.get("/dead").await;
    assert!(text(&page).contains("No dead letters. No job waits after a failure."), "{}", page.body);
    let console = open(true);
    let queue = &console.console.queue;
    queue.publish(message("evt_1", "{}")).await.unwrap();
    let job = queue.next().await.unwrap();
    let (after, mut history) = (std::time::Duration::from_mins(1), job.history);
    history.push(attempt("timeout", "2026-11-22T11:00:00Z"));
    queue.settle(job.lease, JobOutcome::Retry { after, history }).await.unwrap();
    let page = console.get("/dead").await;
    assert!(text(&page).contains("But 1 job has failed and waits for the next try"), "{}", page.body);
}

#[tokio::test]
async fn lists_dead_letters_by_reason() {
    let console = open(false);
    for n in 0..12 {
        add(&console, &format!("evt_{n:02}"), "key_rejected").await;
    }
    add(&console, "evt_x", "timeout").await;
    let page = console.get("/dead").await;
    let shown = text(&page);
    assert!(shown.contains("13 dead letters in the queue"), "{shown}");
    assert!(
        shown.find("key_rejected 12 dead letters, the oldest").unwrap()
            < shown.find("timeout 1 dead letter").unwrap()
    );
    assert!(shown.contains("All 12 of this reason (2 more)") && !shown.contains("evt_10"), "{shown}");
    assert!(shown.contains("valid API key"), "the hint of the reason: {shown}");
    assert!(
        page.body.contains("href=\"/dead/evt_00\"")
            && page.body.contains("href=\"/conversations/CA-evt_00\"")
    );
    assert!(shown.contains("polyhook dead replay --reason key_rejected"), "{shown}");
    assert!(
        page.body.contains("<td class=\"detail\" colspan=\"6\"><bdi>key_rejected happened"),
        "{}",
        page.body
    );
    // Read-only: no form that changes something, and the reason why.
    assert!(!page.body.contains("method=\"post\"") && shown.contains("console.allow_replay"), "{shown}");

    let narrowed = text(
        &console.get("/dead?reason=key_rejected&project=front-desk&environment=live&older_than=1d").await,
    );
    assert!(
        narrowed.contains("evt_11") && !narrowed.contains("evt_x") && narrowed.contains("Page 1 of 1"),
        "{narrowed}"
    );
    for nothing in ["reason=other", "project=other", "environment=draft", "newer_than=1d"] {
        let page = text(&console.get(&format!("/dead?{nothing}")).await);
        assert!(page.contains("No dead letter matches"), "{nothing}: {page}");
    }
    let wrong = console.get("/dead?older_than=soon").await;
    assert!(wrong.status == 400 && text(&wrong).contains("10m, 12h or 30d"), "{wrong:?}");
    let unknown = console.get("/dead?older=abc").await;
    assert!(unknown.status == 400 && text(&unknown).contains("unknown filter, older."), "{unknown:?}");
}

#[tokio::test]
async fn shows_a_dead_letter_with_its_tries() {
    let console = open(true);
    let body = r#"{"type":"conversation.completed","data":{"conversation_id":"CA 1/2","project_id":"front-desk","from":"+15550100123"}}"#;
    let first = attempt("timeout", "2026-11-22T11:00:00Z");
    add_with(&console, message("evt/1 ?", body), &[first, attempt("key_rejected", "2026-11-22T12:00:00Z")])
        .await;
    let page = console.get("/dead/evt%2F1%20%3F").await;
    let shown = text(&page);
    for part in [
        "Dead letter evt/1 ?",
        "valid API key",
        "timeout HTTP 401",
        "timeout happened",
        "PolyAI's correlation id corr-key_rejected",
        "front-desk",
        "polyhook dead replay 'evt/1 ?'",
        "2026-11-22 12:00:00 UTC",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(page.body.contains("href=\"/conversations/CA%201%2F2\""), "{}", page.body);
    assert!(
        !page.body.contains("5550100123") && shown.contains("+•••••••••23"),
        "the number is masked: {shown}"
    );
    let with_numbers = TestConsole::open(ConsoleConfig { show_numbers: true, ..ConsoleConfig::default() });
    add_with(&with_numbers, message("evt_1", body), &[attempt("timeout", "2026-11-22T11:00:00Z")]).await;
    assert!(with_numbers.get("/dead/evt_1").await.body.contains("+15550100123"));

    assert_eq!(console.get("/dead/%ff").await.status, 400);
    let gone = console.get("/dead/evt_gone").await;
    assert!(gone.status == 404 && text(&gone).contains("polyhook dead show evt_gone"), "{gone:?}");
}

#[tokio::test]
async fn groups_tries_that_are_alike_and_shows_the_trace_of_the_log() {
    let console = open(true);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let traceparent = Some(format!("00-{trace}-00f067aa0ba902b7-01"));
    let hours = ["11", "12", "13", "14", "15"].map(|hour| format!("2026-11-22T{hour}:00:00Z"));
    let reasons = ["timeout", "key_rejected", "key_rejected", "key_rejected", "timeout"];
    let attempts: Vec<_> = reasons.iter().zip(&hours).map(|(reason, at)| attempt(reason, at)).collect();
    add_with(&console, Message { traceparent, ..message("evt_1", "{}") }, &attempts).await;
    let page = console.get("/dead/evt_1").await;
    let shown = text(&page);
    assert!(
        shown.contains(
            "3 tries, all key_rejected HTTP 401, from 2026-11-22 12:00:00 UTC to 2026-11-22 14:00:00 UTC"
        ),
        "{shown}"
    );
    assert_eq!(shown.matches("key_rejected happened").count(), 1, "{shown}");
    assert_eq!(shown.matches("timeout happened").count(), 2, "{shown}");
    assert!(page.body.contains(&format!("<code>{trace}</code>")) && !shown.contains("00f067aa"), "{shown}");
}

#[tokio::test]
async fn a_confirmation_takes_exactly_the_letters_of_its_preview() {
    let console = open(true);
    for id in ["a", "b", "c"] {
        add(&console, id, "key_rejected").await;
    }
    add(&console, "other", "timeout").await;
    let page =
        preview(&console, &[("scope", "filter"), ("reason", "key_rejected"), ("action", "replay")]).await;
    let shown = text(&page);
    assert!(shown.contains("Replay 3 dead letters?") && !shown.contains("other"), "{shown}");
    assert!(["a", "b", "c"].iter().all(|id| page.body.contains(&format!("href=\"/dead/{id}\""))), "{shown}");
    assert_eq!(dead_ids(&console).await, ["a", "b", "c", "other"], "a preview changes nothing");

    // What happens while a person looks: another letter arrives, one fails again, one is dropped by a command.
    add(&console, "late", "key_rejected").await;
    let mut cursor = console.console.queue.dead_letters().await.unwrap();
    let (first, second) = (cursor.next().await.unwrap().unwrap(), cursor.next().await.unwrap().unwrap());
    cursor.replay(first).await.unwrap();
    cursor.discard(second).await.unwrap();
    cursor.close().await;
    fail_next(&console.console.queue, &[attempt("key_rejected", "2026-11-22T13:00:00Z")]).await;

    let result = confirm(&console, &page).await;
    let shown = text(&result);
    assert!(
        shown.contains("Replayed 1 dead letter") && shown.contains("2 dead letters not found"),
        "{shown}"
    );
    assert_eq!(dead_ids(&console).await, ["a", "late", "other"]);
    let job = console.console.queue.next().await.unwrap();
    assert_eq!((job.message.id.as_str(), job.history.replays.len()), ("c", 1));

    // Neither a reload nor a second confirmation repeats anything.
    console.console.queue.settle(job.lease, JobOutcome::Dead { history: job.history }).await.unwrap();
    assert_eq!(confirm(&console, &page).await.body, result.body);
    assert_eq!(dead_ids(&console).await, ["a", "c", "late", "other"]);
    assert!(
        text(&console.get("/dead").await).contains("4 dead letters in the queue"),
        "results are not from before the action"
    );
}

#[tokio::test]
async fn drops_a_selection_after_a_warning() {
    let console = open(true);
    for id in ["a", "b", "c"] {
        add(&console, id, "no_conversation_id").await;
    }
    let fields = [("scope", "ids"), ("action", "drop"), ("id", "a"), ("id", "gone"), ("id", "c")];
    let page = preview(&console, &fields).await;
    let shown = text(&page);
    assert!(
        shown.contains("Drop 2 dead letters permanently?") && shown.contains("cannot be replayed"),
        "{shown}"
    );
    assert!(shown.contains("no_conversation_id (2)"), "{shown}");
    assert!(
        shown.contains("No longer dead letters, or read by another command at the moment: gone"),
        "{shown}"
    );
    let result = text(&confirm(&console, &page).await);
    assert!(result.contains("Dropped 2 dead letters"), "{result}");
    assert_eq!(dead_ids(&console).await, ["b"]);
}

#[tokio::test]
async fn nothing_changes_without_permission_token_or_selection() {
    let console = open(true);
    add(&console, "a", "timeout").await;
    let page = preview(&console, &[("scope", "ids"), ("id", "a"), ("action", "drop")]).await;
    let (csrf, selection) = (page.csrf(), selection(&page));
    let (preview_path, confirm_path) = ("/dead/actions/preview", "/dead/actions/confirm");
    let fields = [("scope", "ids"), ("id", "a"), ("action", "drop"), ("selection", &selection)];
    for path in [preview_path, confirm_path] {
        for token in ["", "x", &csrf.to_uppercase()] {
            assert_eq!(submit(&console, path, token, &fields).await.status, 403, "{path} {token:?}");
        }
        let encoded = form(&[&[("csrf", csrf.as_str())], &fields[..]].concat());
        for site in ["cross-site", "same-site"] {
            let answer = console.post(path, &[("sec-fetch-site", site)], &encoded).await;
            assert_eq!(answer.status, 403, "{path} {site}");
        }
        assert_eq!(console.get(path).await.status, 405, "{path}");
    }
    for (fields, status) in [
        (&[("scope", "ids"), ("action", "drop")][..], 400),
        (&[("scope", "filter"), ("action", "drop")], 400),
        (&[("scope", "filter"), ("reason", " "), ("action", "drop")], 400),
        (&[("scope", "filter"), ("reason", "timeout")], 400),
        (&[("scope", "filter"), ("reason", "timeout"), ("action", "erase")], 400),
        (&[("scope", "filter"), ("older_than", "soon"), ("action", "drop")], 400),
        (&[("action", "drop")], 400),
        (&[("scope", "ids"), ("id", "gone"), ("action", "drop")], 404),
        (&[("scope", "filter"), ("reason", "gone"), ("action", "drop")], 404),
    ] {
        assert_eq!(submit(&console, preview_path, &csrf, fields).await.status, status, "{fields:?}");
    }
    for unknown in ["", "x", "../x"] {
        assert_eq!(submit(&console, confirm_path, &csrf, &[("selection", unknown)]).await.status, 404);
    }
    assert_eq!(dead_ids(&console).await, ["a"]);

    let read_only = open(false);
    add(&read_only, "a", "timeout").await;
    // Tokens are known from another page, such as that of a search.
    for path in [preview_path, confirm_path] {
        let answer = submit(&read_only, path, &read_only.local_csrf(), &fields).await;
        assert!(answer.status == 403 && text(&answer).contains("console.allow_replay"), "{answer:?}");
    }
    assert_eq!(dead_ids(&read_only).await, ["a"]);
}

#[tokio::test]
async fn text_from_outside_is_harmless() {
    let console = open(true);
    let body = format!(
        r#"{{"type":"conversation.completed","data":{{"conversation_id":{0},"project_id":{0},"text":{0}}}}}"#,
        serde_json::to_string(SCRIPT).unwrap()
    );
    let mut hostile = message(SCRIPT, &body);
    (hostile.environment, hostile.kind) = (SCRIPT.to_owned(), CONVERSATION_COMPLETED.to_owned());
    (hostile.content_type, hostile.traceparent) = (SCRIPT.to_owned(), Some(SCRIPT.to_owned()));
    let mut failed = attempt(SCRIPT, "2026-11-22T11:00:00Z");
    failed.correlation_id = Some(SCRIPT.to_owned());
    add_with(&console, hostile, &[failed]).await;
    let list = console.get("/dead").await;
    let encoded: String = form_urlencoded::byte_serialize(SCRIPT.as_bytes()).collect();
    let letter = console.get(&format!("/dead/{}", encoded.replace('+', "%20"))).await;
    assert_eq!((list.status, letter.status), (200, 200), "{letter:?}");
    let page = preview(&console, &[("scope", "ids"), ("id", SCRIPT), ("action", "drop")]).await;
    let narrowed =
        console.get(&format!("/dead?reason={encoded}&project={encoded}&environment={encoded}")).await;
    assert!(text(&narrowed).contains("Page 1 of 1"), "{narrowed:?}");
    let gone = console.get(&format!("/dead/{encoded}x")).await;
    for answer in [&list, &letter, &page, &narrowed, &gone] {
        assert!(!answer.body.contains("<script>alert") && !answer.body.contains("\"'&"), "{}", answer.body);
        assert!(!text(answer).contains('\u{202e}'), "{}", text(answer));
    }
    // An id that browsers take for a folder has no link, and a long one is cut.
    add(&console, "..", "timeout").await;
    add(&console, &"x".repeat(5_000), "timeout").await;
    let list = console.get("/dead").await;
    assert!(!list.body.contains("href=\"/dead/..\"") && text(&list).contains("xxx…xxx"), "{}", list.body);
    let dots = preview(&console, &[("scope", "ids"), ("id", ".."), ("action", "drop")]).await;
    confirm(&console, &dots).await;
    assert!(!dead_ids(&console).await.contains(&"..".to_owned()));
}

#[tokio::test]
async fn a_hundred_thousand_dead_letters_make_a_short_page() {
    const LETTERS: usize = 100_000;
    let console = open(true);
    add(&console, "evt_1", "timeout").await;
    console.multiply_dead_letters(LETTERS);
    let page = console.get("/dead").await;
    let shown = text(&page);
    assert!(shown.contains("timeout 100,000 dead letters") && shown.contains("(99,990 more)"), "{shown}");
    assert!(page.body.len() < 64 << 10, "{}", page.body.len());
}

#[tokio::test]
async fn a_reason_has_pages() {
    let console = open(true);
    add(&console, "evt_1", "timeout").await;
    console.multiply_dead_letters(120);
    let first = console.get("/dead?reason=timeout").await;
    assert!(
        first.body.contains("href=\"/dead?reason=timeout&amp;page=2\"")
            && !first.body.contains("rel=\"prev\"")
    );
    let last = console.get("/dead?reason=timeout&page=3").await;
    assert!(
        text(&last).contains("Page 3 of 3") && last.body.contains("href=\"/dead/evt_120\""),
        "{}",
        last.body
    );
    assert!(!last.body.contains("rel=\"next\"") && !last.body.contains("href=\"/dead/evt_100\""));
    let page = preview(&console, &[("scope", "filter"), ("reason", "timeout"), ("action", "drop")]).await;
    assert!(
        text(&page).contains("Drop 120 dead letters permanently?") && text(&page).contains("and 20 more")
    );
    for odd in ["page=0", "page=-1", "page=x", "page=99999999999999999999999", "page=4"] {
        assert_eq!(console.get(&format!("/dead?reason=timeout&{odd}")).await.status, 200, "{odd}");
    }
}

#[tokio::test]
async fn reasons_beyond_a_limit_are_counted_together() {
    let console = open(true);
    for n in 0..55 {
        add(&console, &format!("evt_{n}"), &format!("reason_{n}")).await;
    }
    add(&console, "evt_long", &"r".repeat(1_000)).await;
    let page = console.get("/dead").await;
    assert_eq!(page.body.matches("class=\"reason\"").count(), 50);
    assert!(text(&page).contains("6 dead letters of further reasons"), "{}", text(&page));
}

#[tokio::test]
async fn a_queue_that_is_away_leaves_the_navigation() {
    let console = open(true);
    add(&console, "a", "timeout").await;
    let preview_page = preview(&console, &[("scope", "ids"), ("id", "a"), ("action", "replay")]).await;
    console.console.queue.close().await;
    console.remove_queue_file();
    for path in ["/dead?reason=timeout", "/dead/b"] {
        let page = console.get(path).await;
        assert_eq!(page.status, 503, "{path}");
        assert!(
            text(&page).contains("polyhook doctor") && page.body.contains("href=\"/conversations\""),
            "{page:?}"
        );
    }
    let result = text(&confirm(&console, &preview_page).await);
    assert!(result.contains("1 dead letter not reached and still there"), "{result}");
}

#[tokio::test]
async fn the_log_names_viewer_action_and_events_but_no_body() {
    let console = open(true);
    for id in ["evt_a", "evt_b"] {
        add(&console, id, "timeout").await;
    }
    let page = preview(&console, &[("scope", "filter"), ("reason", "timeout"), ("action", "replay")]).await;
    let (lines, _guard) = super::harness::record_log();
    console.get("/dead/evt_a").await;
    confirm(&console, &page).await;
    let lines = lines.text();
    for part in [
        "a person opened a dead letter viewer=\"local\" event=\"evt_a\"",
        "viewer=\"local\"",
        "action=\"replay\"",
        "letters=2",
        "evt_a evt_b",
        "done=2",
    ] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    assert!(!lines.contains("front-desk"), "{lines}");
}

#[test]
fn a_fingerprint_changes_with_each_attempt_and_replay() {
    let letter = |history: History| DeadLetter {
        message: message("a", "{}"),
        history,
        lease: crate::queue::LeaseId(1),
    };
    let mut selected = super::selection::SelectedLetters::default();
    let mut history = History::default();
    history.push(attempt("timeout", "2026-11-22T11:00:00Z"));
    let mask = crate::console::mask::TextMask { show_numbers: false };
    selected.add(&letter(history.clone()), mask);
    let mut corrected = history.clone();
    corrected.correct_times(Timestamp::UNIX_EPOCH);
    assert!(selected.contains(&letter(corrected)), "the queue may correct times");
    history.replay(Timestamp::UNIX_EPOCH);
    assert!(!selected.contains(&letter(history.clone())));
    history.push(attempt("timeout", "2026-11-22T12:00:00Z"));
    assert!(!selected.contains(&letter(history)));
}
