//! Recordings that are late, absent or incomplete.

use std::{collections::BTreeMap, fs, time::Duration};

use bytesize::ByteSize;
use polyhook::{archive::AudioStatus, worker::AudioChoice};
use polyhook_simulator::{CallScript, EventOptions, Fault, FaultAction, Operation, RecordingAvailability};
use tokio::time::Instant;

use super::{Watch, World, assert_consistent, eventually, scripted, sha256};

#[tokio::test]
async fn waits_for_a_late_recording() {
    // One rung: waiting must not end in a dead letter.
    let world = World::with(|_, config| config.retry.delays = vec![Duration::from_millis(60)]).await;
    let script = CallScript { recording: RecordingAvailability::AfterRequests(3), ..CallScript::default() };
    let watch = Watch::over(world.root());
    let call = world.archive(&scripted(script)).await;
    assert_eq!(world.dead_letters().await, []);
    assert_eq!(assert_consistent(&world.place(&call)).audio.status, AudioStatus::Ready);
    assert_eq!(world.requests(Operation::V3Audio), 4);
    for (path, hashes) in watch.end() {
        assert_eq!(hashes.len(), 1, "{} changed: it was there without its recording", path.display());
    }
    assert_eq!(world.announcements().await.len(), 1, "announced once it was whole");
}

#[tokio::test]
async fn archives_without_a_recording_after_audio_wait() {
    let wait = Duration::from_millis(500);
    let world = World::with(|_, config| config.worker.audio_wait = wait).await;
    let started = Instant::now();
    let call = world
        .archive(&scripted(CallScript { recording: RecordingAvailability::Never, ..CallScript::default() }))
        .await;
    assert!(started.elapsed() >= wait, "{:?}", started.elapsed());
    assert_eq!(world.dead_letters().await, []);
    assert_eq!(world.names(&call), ["conversation.json", "manifest.json"]);
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!(manifest.audio.status, AudioStatus::Absent);
    assert!(manifest.warnings[0].starts_with("recording_absent:"), "{:?}", manifest.warnings);
    assert!(world.requests(Operation::V3Audio) >= 3);
    assert_eq!(world.announcements().await.len(), 1);
}

#[tokio::test]
async fn the_next_delivery_adds_a_late_recording() {
    let world = World::with(|_, config| config.worker.audio_wait = Duration::ZERO).await;
    let call = world
        .archive(&scripted(CallScript { recording: RecordingAvailability::Never, ..CallScript::default() }))
        .await;
    assert_eq!(world.manifest(&call).audio.status, AudioStatus::Absent);
    world.sim.state().set_script(&call.id, CallScript::default());
    world.deliver_as(&call, polyhook_simulator::EventOptions { seed: 2, ..Default::default() }).await;
    world.wait_until_idle().await;
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!((manifest.audio.status, manifest.revision), (AudioStatus::Ready, 2));
}

#[tokio::test]
async fn an_incomplete_recording_is_never_visible_and_is_requested_again() {
    let world = World::start().await;
    let watch = Watch::over(world.root());
    let mut calls = Vec::new();
    for size in [None, Some(ByteSize::kib(2600))] {
        for action in [
            FaultAction::Truncate(1_000),
            FaultAction::Truncate(2_000_000),
            FaultAction::Cut(1_000),
            FaultAction::Reset(3_000),
            FaultAction::Reset(2_000_000),
            FaultAction::Empty,
            FaultAction::HeaderOnly,
            FaultAction::Html,
            FaultAction::Json,
        ] {
            let beyond = matches!(action, FaultAction::Truncate(b) | FaultAction::Reset(b) if b > 1_000_000);
            // The header of a cut recording is believed only if it fits the call.
            let unbelievable = matches!(action, FaultAction::Cut(_)) && size.is_some();
            if (beyond && size.is_none()) || unbelievable {
                continue;
            }
            let fault = Fault::new(&[Operation::V3Audio], action.clone()).times(2);
            let script = CallScript { faults: vec![fault], audio_size: size, ..CallScript::default() };
            let call = world.call(&scripted(script));
            world.deliver(&call).await;
            calls.push((action, call));
        }
    }
    world.wait_until_idle().await;
    let seen = watch.end();
    assert_eq!(world.dead_letters().await, []);
    assert_eq!(world.requests(Operation::V3Audio), 3 * calls.len() as u64);
    for (action, call) in &calls {
        let good = sha256(&world.get_v3(call, "/audio?direction=combined&redacted=false").await);
        let hashes: Vec<_> =
            seen.get(&world.place(call).join("audio.wav")).into_iter().flatten().cloned().collect();
        assert!(hashes.iter().all(|hash| *hash == good), "{action:?}: half a recording was to be seen");
        assert_eq!(assert_consistent(&world.place(call)).objects[1].sha256, good, "{action:?}");
    }
    for (path, hashes) in &seen {
        assert_eq!(hashes.len(), 1, "{} was there before it was right", path.display());
    }
    assert_eq!(staged(&world), Vec::<String>::new(), "what was refused is taken back");
}

/// Returns the recordings that are stored but not committed.
fn staged(world: &World) -> Vec<String> {
    let staging = world.root().join(".polyhook/staging");
    let folders = fs::read_dir(staging).unwrap().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).unwrap().flatten());
    let names = files.map(|file| file.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "lock").collect()
}

#[tokio::test]
async fn a_recording_that_is_never_usable_is_left_out() {
    let world = World::with(|_, config| config.retry.delays = vec![Duration::from_millis(30); 2]).await;
    let mut reasons = BTreeMap::new();
    for (action, expected) in [
        (FaultAction::Truncate(5_000), "network"),
        (FaultAction::Empty, "empty"),
        (FaultAction::HeaderOnly, "without sound"),
        (FaultAction::Html, "not a WAV file but HTML"),
        (FaultAction::Json, "not a WAV file but JSON"),
        (FaultAction::Status(503), "answered 503"),
        (FaultAction::HangUp, "no answer"),
        (FaultAction::Status(403), "answered 403"),
    ] {
        let fault = Fault::new(&[Operation::V3Audio], action);
        let call = world.call(&scripted(CallScript { faults: vec![fault], ..CallScript::default() }));
        let before = world.requests(Operation::V3Audio);
        world.deliver(&call).await;
        world.wait_until_idle().await;
        assert!(world.requests(Operation::V3Audio) - before <= 3, "{expected}");
        reasons.insert(call.id.clone(), (call, expected));
    }
    assert_eq!(world.dead_letters().await, []);
    for (call, expected) in reasons.values() {
        let manifest = assert_consistent(&world.place(call));
        assert_eq!((manifest.audio.status.as_str(), manifest.revision), ("failed", 1), "{expected}");
        assert_eq!(world.names(call), ["conversation.json", "manifest.json"]);
        let [warning] = &manifest.warnings[..] else { panic!("{:?}", manifest.warnings) };
        assert!(warning.starts_with("recording_failed: ") && warning.contains(expected), "{warning}");
        assert!(!warning.contains("http") && !warning.contains('?'), "{warning}");
    }
    assert_eq!(world.announcements().await.len(), reasons.len());
    assert_eq!(staged(&world), Vec::<String>::new());

    // Later all is well, and the next delivery adds the recording.
    for (seed, (call, _)) in reasons.values().enumerate() {
        world.sim.state().set_script(&call.id, CallScript::default());
        let again = EventOptions { seed: 2 + seed as u64, ..EventOptions::default() };
        world.deliver_as(call, again).await;
    }
    world.wait_until_idle().await;
    for (call, _) in reasons.values() {
        let manifest = assert_consistent(&world.place(call));
        assert_eq!((manifest.audio.status, manifest.revision), (AudioStatus::Ready, 2));
        assert_eq!(manifest.warnings, [""; 0]);
    }
}

#[tokio::test]
async fn two_recordings_become_visible_together() {
    let world = World::with(|_, config| {
        config.worker.audio = AudioChoice::Both;
        config.retry.delays = vec![Duration::from_millis(50); 2];
    })
    .await;
    // The second request of every try; the first is the user's side.
    let broken = Fault::new(&[Operation::V3Audio], FaultAction::Reset(1_000)).times(1);
    let call = world.call(&scripted(CallScript { faults: vec![broken], ..CallScript::default() }));
    world.deliver(&call).await;
    eventually("the first try has failed", async || world.requests(Operation::V3Audio) >= 1).await;
    assert!(world.visible().is_empty());
    world.wait_until_idle().await;
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!((manifest.objects.len(), manifest.audio.status), (3, AudioStatus::Ready));
}
