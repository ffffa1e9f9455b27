//! Conversations that are in progress, of other environments, or changed since they were archived.

use std::{fs, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use polyhook::{
    polyai::ApiChoice,
    queue::{Queue, QueueKind},
    worker::AudioChoice,
};
use polyhook_simulator::{
    CallScript, Environment, EventOptions, Fault, FaultAction, LaterChange, NewCall, Operation,
};
use serde_json::json;

use super::{World, assert_consistent, eventually, scripted, voice};

#[tokio::test]
async fn fetches_a_call_again_after_its_end() {
    // One delay, which the failure after the call needs.
    let world = World::with(|_, config| config.retry.delays = vec![Duration::from_millis(40)]).await;
    let script = CallScript {
        in_progress_requests: 6,
        faults: vec![Fault::new(&[Operation::V3Audio], FaultAction::Status(503)).times(1)],
        ..CallScript::default()
    };
    let call = world.call(&NewCall { turns: Some(6), ..scripted(script) });
    world.deliver(&call).await;
    eventually("it was looked at", async || world.requests(Operation::V3Conversation) >= 3).await;
    assert!(world.visible().is_empty());
    assert_eq!((world.dead_letters().await.len(), world.requests(Operation::V3Audio)), (0, 0));
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!((manifest.facts.turn_count, manifest.facts.in_progress), (6, false));
    assert_eq!(manifest.objects.len(), 2);
    assert_eq!(world.requests(Operation::V3Conversation), 8);
}

#[tokio::test]
async fn archives_only_configured_environments() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let world =
        World::with(|_, config| config.worker.environments = vec!["live".into(), "pre-release".into()]).await;
    let sandbox = NewCall { environment: Some(Environment::Sandbox), ..voice() };

    world.archive(&sandbox).await;
    assert!(world.sim.state().request_counts().is_empty(), "the event says it all");

    let call = world.call(&sandbox);
    let body = json!({ "type": "conversation.completed", "data": { "conversation_id": call.id } });
    world.deliver_body(&body).await;
    world.wait_until_idle().await;
    assert_eq!(world.requests(Operation::V3Conversation), 1, "only the conversation knows");
    assert_eq!(world.requests(Operation::V3Audio), 0);
    assert!(world.visible().is_empty() && world.announcements().await.is_empty());

    let wanted = world.archive(&NewCall { environment: Some(Environment::PreRelease), ..voice() }).await;
    assert_eq!(world.manifest(&wanted).facts.environment, "pre-release");
    assert_eq!(world.announcements().await[0].routing_key(), "conversation.ready.pre-release");
    for (lane, depth) in world.queue().depths().await.unwrap() {
        assert_eq!(depth, 0, "{lane:?}: acknowledged");
    }
    let metrics = handle.render();
    assert!(metrics.contains(r#"polyhook_jobs_total{outcome="skipped"} 2"#), "{metrics}");
    assert!(metrics.contains(r#"polyhook_jobs_total{outcome="archived"} 1"#), "{metrics}");
}

fn again(seed: u64) -> EventOptions {
    EventOptions { seed, ..EventOptions::default() }
}

#[tokio::test]
async fn a_longer_conversation_becomes_a_new_revision_and_a_shorter_one_does_not() {
    let world = World::start().await;
    let call = world.archive(&voice()).await;
    let first = world.manifest(&call);

    let change = LaterChange { after: None, after_requests: None, more_turns: 3, summarised: false };
    world.sim.state().set_script(&call.id, CallScript { change: Some(change), ..CallScript::default() });
    world.deliver_as(&call, again(2)).await;
    world.wait_until_idle().await;
    let second = assert_consistent(&world.place(&call));
    assert_eq!((first.revision, second.revision), (1, 2));
    assert_eq!(second.facts.turn_count, first.facts.turn_count + 3);
    assert!(second.objects[1].size_bytes > first.objects[1].size_bytes, "and more to hear");
    assert_eq!(
        fs::read(world.place(&call).join("conversation.json")).unwrap(),
        world.get_v3(&call, "").await
    );

    // An old copy, from a cache perhaps.
    let before = world.visible();
    world.sim.state().set_script(&call.id, CallScript::default());
    world.deliver_as(&call, again(3)).await;
    world.wait_until_idle().await;
    assert_eq!(world.visible(), before);
    let ids: Vec<_> = world.announcements().await.into_iter().map(|a| a.id).collect();
    assert_ne!(ids[0], ids[1], "other content, other id");
    assert!(ids[2..].iter().all(|id| *id == ids[1]), "what lies there is announced, not what was fetched");
    assert_eq!(world.dead_letters().await, []);
}

/// The worker that archived it may have died before its announcement.
#[tokio::test]
async fn announces_what_a_job_has_written_before_another_attempt_replaces_it() {
    let first = World::start().await;
    let call = first.archive(&voice()).await;
    let change = LaterChange { after: None, after_requests: None, more_turns: 1, summarised: false };
    first.sim.state().set_script(&call.id, CallScript { change: Some(change), ..CallScript::default() });
    // This worker wants more recordings, so it fetches what the same event has archived.
    let mut config = first.config.clone();
    config.worker.audio = AudioChoice::Both;
    let second = World { config, ..first }.second_instance("second").await;
    second.deliver(&call).await;
    second.wait_until_idle().await;
    let announced: Vec<_> = second.announcements().await.into_iter().map(|one| one.kind).collect();
    assert_eq!(announced, ["conversation.ready", "conversation.updated"]);
}

#[tokio::test]
async fn a_later_summary_becomes_a_new_revision() {
    let world = World::with(|_, config| config.polyai.api = ApiChoice::Data).await;
    let change = LaterChange { after: None, after_requests: Some(1), more_turns: 0, summarised: true };
    let call = world.archive(&scripted(CallScript { change: Some(change), ..CallScript::default() })).await;
    assert!(!world.manifest(&call).facts.summarised);
    world.deliver_as(&call, again(2)).await;
    world.wait_until_idle().await;
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!((manifest.revision, manifest.facts.summarised), (2, true));
    let before = world.visible();
    world.sim.state().set_script(
        &call.id,
        CallScript {
            change: Some(LaterChange { after_requests: Some(9), ..change }),
            ..CallScript::default()
        },
    );
    world.deliver_as(&call, again(3)).await;
    world.wait_until_idle().await;
    assert_eq!(world.visible(), before, "a copy without the summary is the older one");
    let depths = world.queue().depths().await.unwrap();
    assert!(depths.iter().all(|(lane, depth)| *lane != QueueKind::Dead || *depth == 0));
}
