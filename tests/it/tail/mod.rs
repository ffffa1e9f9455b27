//! Followers of a queue: each gets every tail event once and changes nothing in the queue.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use polyhook::queue::{JobOutcome, Queue, TailEvent, TailEventKind};

use crate::queue_contract::{announcement, event, history, message, take};

mod broker;
mod file;

const BODY: &[u8] = br#"{"data":{"conversation_id":"CA1","project_id":"P1","transcript":"private"}}"#;

/// Makes the queue send one tail event of each kind. Calls `after_step` after each step.
async fn cause_every_kind(queue: &Arc<dyn Queue>, mut after_step: impl AsyncFnMut()) {
    let publish = async |id: &str| {
        queue.publish(message(id, BODY)).await.unwrap();
    };
    // A job for later causes no event yet.
    queue.publish_delayed(message("evt_later", BODY), Duration::from_mins(10)).await.unwrap();
    publish("evt_done").await;
    after_step().await;
    queue.settle(take(queue).await.lease, JobOutcome::Done).await.unwrap();
    after_step().await;
    publish("evt_retry").await;
    let retry = JobOutcome::Retry { after: Duration::from_mins(10), history: history(1) };
    queue.settle(take(queue).await.lease, retry).await.unwrap();
    after_step().await;
    publish("evt_dead").await;
    queue.settle(take(queue).await.lease, JobOutcome::Dead { history: history(2) }).await.unwrap();
    after_step().await;
    queue.publish(event("evt_event")).await.unwrap();
    queue.announce(announcement("ready-1")).await.unwrap();
    after_step().await;
}

/// Checks the tail events of [`cause_every_kind`].
#[track_caller]
fn assert_every_kind(events: &[TailEvent]) {
    let found: Vec<_> = events.iter().map(|event| (event.what.label(), event.id.as_str())).collect();
    let expected = BTreeSet::from([
        ("delivery", "evt_done"),
        ("done", "evt_done"),
        ("delivery", "evt_retry"),
        ("retry", "evt_retry"),
        ("delivery", "evt_dead"),
        ("dead", "evt_dead"),
        ("delivery", "evt_event"),
        ("ready", "ready-1"),
    ]);
    assert_eq!((found.iter().copied().collect::<BTreeSet<_>>(), found.len()), (expected, 8), "{found:?}");
    for event in events {
        let conversation_id = event.conversation_id.as_deref();
        assert_eq!(conversation_id, (event.id != "evt_event").then_some("CA1"), "{event:?}");
        assert_eq!(event.environment, "live");
        assert!(!serde_json::to_string(event).unwrap().contains("private"), "{event:?}");
        if event.id.starts_with("evt_") && event.id != "evt_event" {
            assert_eq!(event.project_id.as_deref(), Some("P1"), "{event:?}");
        }
    }
    let first = |kind| events.iter().find(|event| event.what == kind).unwrap();
    let (done, retry, dead) =
        (first(TailEventKind::Done), first(TailEventKind::Retry), first(TailEventKind::Dead));
    assert_eq!((done.attempt, retry.attempt, dead.attempt), (Some(1), Some(1), Some(2)));
    assert_eq!((retry.reason.as_deref(), retry.status), (Some("rate_limited"), Some(429)));
    assert_eq!((dead.reason.as_deref(), dead.status, dead.retry_at), (Some("rate_limited"), None, None));
    assert!(retry.retry_at.is_some() && done.after_ms.is_some());
    assert_eq!(first(TailEventKind::Ready).kind, "conversation.ready");
}
