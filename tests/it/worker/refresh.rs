//! Archived conversations are fetched again at the ages of `[refresh]`.

use std::{fs, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use polyhook::{
    app::Resources,
    archive::{ObjectKind, ServedBy, Trigger},
    clock::Clock,
    polyai::ApiChoice,
    queue::{Queue, QueueKind},
    worker::ErasureRequest,
};
use polyhook_simulator::{
    CallInfo, CallScript, EventOptions, Fault, FaultAction, LaterChange, NewCall, Operation, ServedApis,
};

use crate::support::erasure::erase_objects;

use super::{World, assert_consistent, eventually, scripted, voice};

const HOUR: Duration = Duration::from_hours(1);
/// The simulator rounds durations up, so a call may end a second later than it does.
const ROUNDING: Duration = Duration::from_secs(2);

/// A polyhook whose time is stopped, which refreshes after these hours.
async fn world(hours: &[u64]) -> World {
    World::with_clock(Clock::manual(Clock::System.now()), |_, config| {
        config.refresh.after = hours.iter().copied().map(Duration::from_hours).collect();
        config.polyai.api = ApiChoice::Data;
    })
    .await
}

/// A call that ends now and has this later change.
fn ends_now(change: Option<LaterChange>) -> NewCall {
    NewCall { started_at: None, ..scripted(CallScript { change, ..CallScript::default() }) }
}

/// The summary appears after this many requests.
fn summary_after(requests: u32) -> LaterChange {
    LaterChange { after: None, after_requests: Some(requests), more_turns: 0, summarised: true }
}

impl World {
    async fn waiting(&self) -> u64 {
        let depths = self.queue().depths().await.unwrap();
        depths.into_iter().find_map(|(kind, depth)| (kind == QueueKind::Refresh).then_some(depth)).unwrap()
    }

    /// Waits until no job is left, also none that waits for a refresh, while the time goes on slowly.
    async fn wait_until_refreshed(&self, waiting: u64) {
        eventually("refreshed", async || {
            self.clock.advance(Duration::from_millis(20));
            let depths = self.queue().depths().await.unwrap();
            depths.iter().all(|(kind, depth)| match kind {
                QueueKind::Fetch | QueueKind::Retry => *depth == 0,
                QueueKind::Refresh => *depth == waiting,
                _ => true,
            })
        })
        .await;
    }

    /// Lets this time pass, and waits for the refreshes that are due then.
    async fn pass(&self, time: Duration, then_waiting: u64) {
        self.clock.advance(time);
        self.wait_until_refreshed(then_waiting).await;
    }

    /// Returns the folder of a call, whatever its date.
    fn folder_of(&self, call: &CallInfo) -> std::path::PathBuf {
        let date = call.started_at.to_string();
        let date = date.split('T').next().unwrap();
        let (account, project) = (&call.account_id, &call.project_id);
        self.root().join(format!("account_id={account}/project_id={project}/date={date}/{}", call.id))
    }

    fn names_of(&self, call: &CallInfo) -> Vec<String> {
        let name = |path: std::path::PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        super::files(&self.folder_of(call)).into_iter().map(name).collect()
    }

    async fn announced_kinds(&self) -> Vec<String> {
        self.announcements().await.into_iter().map(|announcement| announcement.kind).collect()
    }
}

#[tokio::test]
async fn archives_what_differs_as_a_new_revision_and_keeps_the_earlier_bytes() {
    let world = world(&[1, 6]).await;
    let call = world.archive(&ends_now(Some(summary_after(1)))).await;
    assert_eq!(
        (world.waiting().await, world.announced_kinds().await),
        (1, vec!["conversation.ready".into()])
    );
    let folder = world.folder_of(&call);
    let (first, before) = (fs::read(folder.join("conversation.json")).unwrap(), world.visible());
    let recording = &before[&folder.join("audio.wav")];
    world.pass(HOUR / 2, 1).await;
    assert_eq!(world.visible(), before, "it is not time yet");
    world.sim.state().reset_request_counts();

    world.pass(HOUR / 2 + ROUNDING, 1).await;
    let manifest = assert_consistent(&folder);
    assert_eq!((manifest.revision, manifest.facts.summarised), (2, true));
    assert_eq!(manifest.provenance.trigger, Trigger::Refresh);
    assert_eq!(
        world.names_of(&call),
        ["audio.wav", "conversation.1.json", "conversation.json", "manifest.json"]
    );
    assert_eq!(fs::read(folder.join("conversation.1.json")).unwrap(), first);
    let listed: Vec<_> = manifest.objects.iter().map(|object| (object.name.as_str(), object.kind)).collect();
    assert_eq!(listed[2], ("conversation.1.json", ObjectKind::Revision));
    assert_eq!(&world.visible()[&folder.join("audio.wav")], recording, "no byte and no time of change");
    assert_eq!((world.requests(Operation::DataConversation), world.requests(Operation::DataAudio)), (1, 0));
    let updated = world.announcements().await.remove(1);
    assert_eq!(updated.routing_key(), "conversation.updated.live");
    let event: serde_json::Value = serde_json::from_slice(&updated.body).unwrap();
    assert_eq!(event["type"], "conversation.updated");
    assert!(event["data"]["urls"]["conversation.1.json"].is_string(), "{event}");

    // An erasure removes the revision and the next refresh, which waits.
    let queue = Arc::clone(&world.app.queue().queue);
    let resources = Resources::open(&world.config, &world.clock).unwrap();
    let erasure = ErasureRequest {
        conversation_id: call.id.clone(),
        account_id: None,
        project_id: None,
        reason: None,
        dry_run: false,
    };
    let worker = resources.worker(&world.config, queue, world.clock.clone());
    let report = worker.erase(&erasure).await.unwrap();
    assert_eq!((report.archive[0].objects.objects, report.queue.jobs), (4, 1), "{report:?}");
    assert_eq!((world.waiting().await, world.names_of(&call).len()), (0, 0));
}

#[tokio::test]
async fn an_unchanged_conversation_costs_one_request_for_each_age_and_is_announced_once() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let world = world(&[6, 1]).await;
    world.archive(&ends_now(None)).await;
    let before = world.visible();
    world.pass(HOUR + ROUNDING, 1).await;
    world.pass(HOUR * 5, 0).await;
    assert_eq!((world.visible(), world.announcements().await.len()), (before, 1));
    assert_eq!((world.requests(Operation::DataConversation), world.requests(Operation::DataAudio)), (3, 1));
    let metrics = handle.render();
    assert!(metrics.contains(r#"polyhook_refreshes_total{outcome="unchanged"} 2"#), "{metrics}");
}

#[tokio::test]
async fn keeps_a_conversation_that_polyai_no_longer_has() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let world = world(&[1, 2]).await;
    let call = world.archive(&ends_now(None)).await;
    let before = world.visible();
    world.sim.state().set_script(&call.id, CallScript { missing: true, ..CallScript::default() });
    world.pass(HOUR + ROUNDING, 0).await;
    assert_eq!((world.visible(), world.announcements().await.len()), (before, 1));
    assert_eq!(world.dead_letters().await, []);
    let metrics = handle.render();
    assert!(metrics.contains(r#"polyhook_refreshes_total{outcome="gone"} 1"#), "{metrics}");
}

/// Only the Data API has summary, score and notes.
#[tokio::test]
async fn an_answer_of_v3_does_not_replace_one_of_the_data_api_and_the_reverse_does() {
    let served = |v3| ServedApis { v3_by_id: v3, data_api: !v3, ..ServedApis::default() };
    for (first, then, revision) in [(ServedBy::Data, ServedBy::Data, 1), (ServedBy::V3, ServedBy::Data, 2)] {
        let world = World::with_clock(Clock::manual(Clock::System.now()), |scenario, _| {
            scenario.served = served(first == ServedBy::V3);
        })
        .await;
        let call = world.archive(&ends_now(None)).await;
        assert_eq!(assert_consistent(&world.folder_of(&call)).provenance.served_by, first);
        world.sim.state().set_served(served(first == ServedBy::Data));
        world.pass(HOUR + ROUNDING, 0).await;
        let manifest = assert_consistent(&world.folder_of(&call));
        assert_eq!((manifest.provenance.served_by, manifest.revision), (then, revision));
        assert_eq!(world.dead_letters().await, []);
    }
}

/// RabbitMQ cannot be searched for a job that waits.
#[tokio::test]
async fn a_refresh_that_outlives_an_erasure_restores_nothing() {
    let world = world(&[1]).await;
    let call = world.archive(&ends_now(Some(summary_after(1)))).await;
    let archive = Resources::open(&world.config, &world.clock).unwrap().archive;
    erase_objects(&archive, &call.account_id, &call.project_id, &call.id, None).await.unwrap();
    world.sim.state().reset_request_counts();
    world.pass(HOUR + ROUNDING, 0).await;
    assert_eq!((world.names_of(&call).len(), world.requests(Operation::DataConversation)), (0, 0));
    assert_eq!((world.announcements().await.len(), world.dead_letters().await), (1, Vec::new()));
}

#[tokio::test]
async fn schedules_nothing_for_old_calls_and_for_an_empty_list() {
    let by_default = World::start().await;
    assert_eq!(by_default.config.refresh.after, [HOUR]);
    by_default.archive(&voice()).await;
    assert_eq!(by_default.waiting().await, 0, "what was fetched is older than an hour");
    let off = world(&[]).await;
    off.archive(&ends_now(None)).await;
    assert_eq!(off.waiting().await, 0);
}

/// As if the first worker had died after it had archived the call, and the second one got the job then.
#[tokio::test]
async fn a_job_that_was_archived_by_a_dead_worker_is_refreshed() {
    let first = world(&[]).await;
    let call = first.archive(&ends_now(Some(summary_after(2)))).await;
    let mut restarted = first.config.clone();
    restarted.refresh.after = vec![HOUR];
    let first = World { config: restarted, ..first };
    let (second, third) = (first.second_instance("second").await, first.second_instance("third").await);
    for world in [&second, &third] {
        world.deliver(&call).await;
        world.wait_until_idle().await;
        assert_eq!(world.waiting().await, 1);
    }
    assert_eq!(second.requests(Operation::DataConversation), 1, "it was archived already");
    // Another event about the call finds it archived, and its refresh is scheduled.
    third.deliver_as(&call, EventOptions { seed: 2, ..EventOptions::default() }).await;
    third.wait_until_refreshed(1).await;

    // Both have the same refresh, as after a crash. One writes the revision, and both announce it under one id.
    second.clock.advance(HOUR + ROUNDING);
    second.wait_until_refreshed(0).await;
    third.wait_until_refreshed(0).await;
    assert_eq!(assert_consistent(&second.folder_of(&call)).revision, 2);
    let (mut one, mut other) = (second.announcements().await, third.announcements().await);
    let (one, other) = (one.pop().unwrap(), other.pop().unwrap());
    assert_eq!((one.kind.as_str(), one.id), ("conversation.updated", other.id));
}

#[tokio::test]
async fn a_refresh_that_fails_until_the_end_is_a_dead_letter_that_names_the_kept_revision() {
    let world = world(&[1]).await;
    let call = world.archive(&ends_now(None)).await;
    let faults = vec![Fault::new(&[Operation::DataConversation], FaultAction::Status(503))];
    world.sim.state().set_script(&call.id, CallScript { faults, ..CallScript::default() });
    world.pass(HOUR + ROUNDING, 0).await;
    let dead = world.dead_letters().await.remove(0);
    let last = dead.history.attempts.last().unwrap();
    assert_eq!((dead.history.failures, last.status), (5, Some(503)));
    assert!(last.detail.contains("the archive keeps revision 1"), "{}", last.detail);
    assert_eq!(assert_consistent(&world.folder_of(&call)).revision, 1);
}
