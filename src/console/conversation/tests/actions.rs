//! Verification, another fetch, and the messages in the queue.

use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::fixture::{TestConsole, wav, with_replay};
use crate::{
    console::ConsoleConfig,
    event::{DedupKey, Discovery, DiscoverySource},
    queue::{Attempt, History, JobOutcome, Message, QueueKind},
};

#[tokio::test]
async fn a_verification_names_what_is_damaged() {
    let console = TestConsole::open(ConsoleConfig::default());
    console.archive("CA1", &json!({}), &[("user", wav(&[1, 2])), ("agent", wav(&[3, 4]))]);
    let csrf = console.get("/conversations/CA1").await.csrf();
    let url = "/conversations/CA1/verify";
    let intact = console.post(url, &csrf).await;
    assert_eq!(intact.status, 200);
    intact.assert_has(&["Intact: every object"]);
    assert_eq!(intact.text().matches(">intact</span>").count(), 3);

    let folder = console.folder_of("CA1");
    let mut recording = std::fs::read(folder.join("audio.user.wav")).unwrap();
    *recording.last_mut().unwrap() ^= 1;
    std::fs::write(folder.join("audio.user.wav"), recording).unwrap();
    std::fs::remove_file(folder.join("audio.agent.wav")).unwrap();
    let damaged = console.post(url, &csrf).await;
    damaged.assert_has(&[
        "Damaged: the table names the objects",
        ">damaged</span>",
        ">missing</span>",
        ">intact</span>",
    ]);
    assert_eq!(console.post(url, "x").await.status, 403);
    assert_eq!(console.get(url).await.status, 405);
}

#[tokio::test]
async fn another_fetch_is_queued_only_if_the_console_may_change_something() {
    let console = TestConsole::open(ConsoleConfig::default());
    console.archive("CA1", &json!({}), &[]);
    let page = console.get("/conversations/CA1").await;
    assert!(!page.text().contains("action=\"/conversations/CA1/fetch"));
    page.assert_has(&["console.allow_replay", "polyhook fetch CA1", "polyhook show CA1"]);
    let refused = console.post("/conversations/CA1/fetch", &page.csrf()).await;
    assert_eq!(refused.status, 403);
    refused.assert_has(&["console.allow_replay"]);

    let console = with_replay();
    console.archive("CA1", &json!({}), &[]);
    let csrf = console.get("/conversations/CA1").await.csrf();
    assert_eq!(console.post("/conversations/CA1/fetch", "x").await.status, 403);
    let depths = console.queue.depths().await.unwrap();
    assert!(depths.contains(&(QueueKind::Fetch, 0)), "{depths:?}");

    let queued = console.post("/conversations/CA1/fetch", &csrf).await;
    assert_eq!(queued.status, 303);
    console.get(queued.header("location")).await.assert_has(&["The fetch is queued."]);
    let job = timeout(Duration::from_secs(30), console.queue.next()).await.unwrap().unwrap();
    let discovery = Discovery::read(&job.message.body).unwrap();
    assert_eq!((discovery.source, discovery.is_refetch), (DiscoverySource::Command, true));
    assert_eq!((&*discovery.account_id, &*discovery.project_id), ("acme", "desk"));
    assert!(discovery.started_at.is_some() && discovery.dedup_time.is_some() && !discovery.force);
    assert_eq!(console.post("/conversations/CA2/fetch", &csrf).await.status, 404);
}

#[tokio::test]
async fn the_history_of_a_dead_letter_is_shown() {
    let console = TestConsole::open(ConsoleConfig::default());
    console.archive("CA1", &json!({}), &[]);
    let body = br#"{"type":"conversation.completed","data":{"conversation_id":"CA1"}}"#;
    let message = Message {
        id: "evt-1".to_owned(),
        dedup: DedupKey::new("evt-1", body),
        kind: "conversation.completed".to_owned(),
        environment: "live".to_owned(),
        conversation_id: Some("CA1".to_owned()),
        received_at: "2026-11-30T10:00:00Z".parse().unwrap(),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body: body.to_vec().into(),
    };
    console.queue.publish(message).await.unwrap();
    let lease = console.queue.next().await.unwrap().lease;
    let mut history = History::default();
    history.push(Attempt {
        at: "2026-11-30T10:00:01Z".parse().unwrap(),
        reason: "unauthorized".into(),
        detail: "the key is <wrong>".to_owned(),
        status: Some(401),
        correlation_id: Some("corr-7".to_owned()),
    });
    console.queue.settle(lease, JobOutcome::Dead { history }).await.unwrap();

    let page = console.get("/conversations/CA1").await;
    page.assert_has(&["data-part-src=\"/conversations/CA1/messages?"]);
    assert!(!page.text().contains("corr-7"), "the page does not wait for the queue");
    let whole = console.get("/conversations/CA1/messages").await;
    whole.assert_has(&["<html", "unauthorized", "the key is &lt;wrong&gt;", "(401)", "corr-7", "evt-1"]);
    let fragment = console.get("/conversations/CA1/messages?fragment").await;
    fragment.assert_has(&["1 dead letter needs a decision.", "href=\"/dead/evt-1\"", "corr-7"]);
    assert!(!fragment.text().contains("<html"));
    // Most conversations of dead letters are not in the archive.
    std::fs::remove_dir_all(console.folder_of("CA1")).unwrap();
    assert_eq!(console.get("/conversations/CA1").await.status, 404);
    assert_eq!(console.get("/conversations/CA1/messages?fragment").await.text(), fragment.text());
}
