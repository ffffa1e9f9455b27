//! Several jobs of one conversation: who fetches, and who waits.

use std::time::Duration;

use bytes::Bytes;
use polyhook::{
    archive::Archive,
    clock::Clock,
    event::{DedupKey, Discovery, Event},
    queue::{Message, Queue},
};
use polyhook_simulator::{
    CallInfo, CallScript, Delivery, EventOptions, Fault, FaultAction, LaterChange, Operation,
    RecordingAvailability,
};

use crate::support::erasure::erase_objects;

use super::{World, assert_consistent, eventually, scripted, voice};

const EVENTS: u64 = 20;

fn other_event(seed: u64) -> EventOptions {
    EventOptions { seed, ..EventOptions::default() }
}

fn slow(operation: Operation) -> CallScript {
    let delay = FaultAction::Delay(Duration::from_millis(300));
    CallScript { faults: vec![Fault::new(&[operation], delay)], ..CallScript::default() }
}

#[tokio::test]
async fn an_event_that_arrives_during_a_fetch_leads_to_another_one() {
    let world = World::start().await;
    let change = LaterChange { after: None, after_requests: Some(1), more_turns: 3, summarised: false };
    let script = CallScript { change: Some(change), ..slow(Operation::V3Audio) };
    let call = world.call(&scripted(script));
    world.deliver(&call).await;
    eventually("it is being fetched", async || world.requests(Operation::V3Conversation) == 1).await;
    for seed in 2..EVENTS {
        world.deliver_as(&call, other_event(seed)).await;
    }
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!((manifest.revision, manifest.facts.turn_count), (2, 5));
    let requests = world.requests(Operation::V3Conversation);
    assert!((2..=4).contains(&requests), "one more for all later events: {requests}");
}

/// Returns the event of a call that arrived clearly before everything that a worker does.
fn received_long_ago(call: &CallInfo) -> Message {
    let Delivery { event_id: id, body, .. } = Delivery::completed(call, &EventOptions::default());
    let event = Event::read(&body);
    Message {
        dedup: DedupKey::new(&id, &body),
        id,
        kind: event.kind,
        environment: event.environment,
        conversation_id: event.conversation_id,
        received_at: Clock::System.now() - Duration::from_secs(10),
        traceparent: None,
        content_type: "application/json".to_owned(),
        body,
    }
}

#[tokio::test]
async fn two_workers_fetch_a_conversation_one_after_the_other() {
    let one = World::start().await;
    let two = one.second_instance("twin").await;
    let call = one.call(&scripted(slow(Operation::V3Conversation)));
    let event = || received_long_ago(&call);
    let (first, second) = tokio::join!(one.queue().publish(event()), two.queue().publish(event()));
    assert!(first.is_ok() && second.is_ok());
    one.wait_until_idle().await;
    two.wait_until_idle().await;
    assert_eq!((one.requests(Operation::V3Conversation), one.requests(Operation::V3Audio)), (1, 1));
    assert_eq!(
        (one.announcements().await.len(), two.announcements().await.len()),
        (1, 1),
        "each announces it"
    );
}

#[tokio::test]
async fn jobs_of_one_conversation_share_failures_and_recordings_that_are_late() {
    let unavailable = Fault::new(&[Operation::V3Conversation], FaultAction::Status(503)).times(2);
    let failing = CallScript { faults: vec![unavailable], ..CallScript::default() };
    let without_recording = CallScript { recording: RecordingAvailability::Never, ..CallScript::default() };
    for (script, most) in [(failing, 12), (without_recording, 40)] {
        let world = World::with(|_, config| {
            config.retry.delays = vec![Duration::from_secs(1); 4];
            config.worker.audio_wait = Duration::from_secs(3);
        })
        .await;
        let call = world.call(&scripted(script));
        for seed in 0..EVENTS {
            world.deliver_as(&call, other_event(seed)).await;
        }
        world.wait_until_idle().await;
        assert_eq!(world.dead_letters().await, []);
        assert_consistent(&world.place(&call));
        let requests = world.requests(Operation::V3Conversation);
        assert!(requests <= most, "{requests}");
    }
}

#[tokio::test]
async fn dead_letters_of_one_conversation_need_no_fetch_each() {
    let world = World::with(|_, config| config.retry.delays = vec![Duration::from_secs(1)]).await;
    let refused = Fault::new(&[Operation::V3Conversation], FaultAction::Status(503));
    let call = world.call(&scripted(CallScript { faults: vec![refused], ..CallScript::default() }));
    for seed in 0..EVENTS {
        world.deliver_as(&call, other_event(seed)).await;
    }
    world.wait_until_idle().await;
    let dead = world.dead_letters().await;
    assert_eq!(dead.len() as u64, EVENTS, "no job ends silently");
    assert!(dead.iter().all(|letter| letter.history.failures == 2), "each has its own schedule: {dead:?}");
    let requests = world.requests(Operation::V3Conversation);
    assert!((2..EVENTS).contains(&requests), "{requests}");
}

#[tokio::test]
async fn an_erased_conversation_does_not_come_back_by_a_waiting_job() {
    let world = World::start().await;
    let call = world.call(&scripted(slow(Operation::V3Audio)));
    world.deliver(&call).await;
    eventually("it is being fetched", async || world.requests(Operation::V3Audio) == 1).await;
    world.deliver_as(&call, other_event(2)).await;
    let archive = Archive::open(&world.config.archive, Clock::System).unwrap();
    erase_objects(&archive, &call.account_id, &call.project_id, &call.id, None).await.unwrap();
    world.wait_until_idle().await;
    world.deliver_as(&call, other_event(3)).await;
    world.wait_until_idle().await;
    assert!(!world.place(&call).join("manifest.json").exists());
    assert_eq!(world.requests(Operation::V3Conversation), 1);
    assert_eq!(world.queue().depths().await.unwrap().iter().map(|(_, depth)| depth).sum::<u64>(), 0);
}

#[tokio::test]
async fn a_repair_fetches_whatever_was_fetched_before() {
    let world = World::start().await;
    let call = world.archive(&voice()).await;
    let discovery = Discovery {
        conversation_id: call.id.clone(),
        account_id: call.account_id.clone(),
        project_id: call.project_id.clone(),
        environment: Some("live".to_owned()),
        started_at: Some(call.started_at),
        force: true,
        ..Discovery::default()
    };
    let body = Bytes::from(discovery.body().unwrap());
    world.send(Delivery::new("repair-1".to_owned(), "conversation.discovered", body)).await;
    world.wait_until_idle().await;
    assert_eq!(world.requests(Operation::V3Conversation), 2);
    assert_eq!(assert_consistent(&world.place(&call)).revision, 2, "written again");
}

#[tokio::test]
async fn another_fetch_that_a_person_asks_for_is_not_skipped_because_the_archive_has_the_conversation() {
    let world = World::start().await;
    let call = world.archive(&voice()).await;
    for (id, is_refetch, requests) in [("found-1", false, 1), ("again-1", true, 2)] {
        let discovery = Discovery {
            conversation_id: call.id.clone(),
            account_id: call.account_id.clone(),
            project_id: call.project_id.clone(),
            environment: Some("live".to_owned()),
            started_at: Some(call.started_at),
            is_refetch,
            ..Discovery::default()
        };
        let body = Bytes::from(discovery.body().unwrap());
        world.send(Delivery::new(id.to_owned(), "conversation.discovered", body)).await;
        world.wait_until_idle().await;
        assert_eq!(world.requests(Operation::V3Conversation), requests, "{id}");
    }
    assert_eq!(assert_consistent(&world.place(&call)).revision, 1, "the answer is the same");
}
