//! Two workers at once, a shutdown during jobs, and the privacy of logs.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytesize::ByteSize;
use polyhook::{
    clock::Clock,
    lifecycle::{Lifecycle, ShutdownOutcome},
    polyai::ProjectConfig,
    queue::{
        Queue, QueueKind,
        sqlite::{SqliteOptions, SqliteQueue},
    },
    secret::Secret,
};
use polyhook_simulator::{CallScript, EventOptions, Fault, FaultAction, NewCall, Operation};
use serde_json::Value;
use tokio::time::Instant;

use super::{Watch, World, assert_consistent, eventually, files, project, scripted, second_project, voice};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_with_the_same_jobs_archive_one_conversation() {
    let one = World::start().await;
    let two = one.second_instance("twin").await;
    let watch = Watch::over(one.root());
    let calls: Vec<_> = (0..8).map(|_| one.call(&voice())).collect();
    for call in &calls {
        // The same event twice and another one of the same call, at both.
        let other = EventOptions { seed: 2, ..EventOptions::default() };
        let (a, b) = (one.deliver(call), two.deliver(call));
        let (c, d) = (one.deliver_as(call, other), two.deliver_as(call, other));
        tokio::join!(a, b, c, d);
    }
    one.wait_until_idle().await;
    two.wait_until_idle().await;
    let seen = watch.end();
    assert_eq!((one.dead_letters().await, two.dead_letters().await), (vec![], vec![]));
    assert_eq!(files(&one.root()).len(), 3 * calls.len());
    let mut ids = Vec::new();
    for call in &calls {
        assert_eq!(assert_consistent(&one.place(call)).revision, 1);
        let of = |all: Vec<polyhook::queue::Announcement>| {
            all.into_iter().filter(|a| a.subject == call.id).map(|a| a.id).collect::<Vec<_>>()
        };
        let (mut both, more) = (of(one.announcements().await), of(two.announcements().await));
        assert!(!both.is_empty() && !more.is_empty(), "each has announced it");
        both.extend(more);
        both.dedup();
        assert_eq!(both.len(), 1, "by one id");
        ids.extend(both);
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), calls.len());
    for (path, hashes) in seen {
        assert_eq!(hashes.len(), 1, "{} was written twice", path.display());
    }
}

#[tokio::test]
async fn shutdown_finishes_short_jobs_and_returns_long_ones() {
    let world = World::start().await;
    let drip = FaultAction::Drip { bytes: 16 << 10, pause: Duration::from_millis(50) };
    let slow = CallScript {
        audio_size: Some(ByteSize::mib(64)),
        faults: vec![Fault::new(&[Operation::V3Audio], drip)],
        ..CallScript::default()
    };
    let slow = world.call(&scripted(slow));
    let soon = FaultAction::Delay(Duration::from_millis(700));
    let short = CallScript { faults: vec![Fault::new(&[Operation::V3Audio], soon)], ..CallScript::default() };
    let short = world.call(&scripted(short));
    world.deliver(&slow).await;
    world.deliver(&short).await;
    eventually("both are on their way", async || {
        world.requests(Operation::V3Conversation) == 2 && world.requests(Operation::V3Audio) >= 1
    })
    .await;
    let watch = Watch::over(world.root());
    let (root, place) = (world.root(), world.place(&short));

    let started = Instant::now();
    let (ending, _folder, config) = world.shut_down().await;
    assert_eq!(ending, ShutdownOutcome::Drained);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());

    assert_consistent(&place);
    assert!(files(&root).iter().all(|path| path.starts_with(&place)), "nothing of the other is to be seen");
    assert!(watch.end().keys().all(|path| path.starts_with(&place)), "nor ever was");
    let staging = root.join(".polyhook/staging");
    assert_eq!(std::fs::read_dir(staging).unwrap().count(), 0, "nor kept anywhere");

    let polyhook::queue::QueueBackend::Sqlite(path) = config.queue.backend().unwrap() else { unreachable!() };
    let lifecycle = Lifecycle::new();
    let reopened =
        SqliteQueue::open(&path, SqliteOptions::new(&config.queue, Clock::System), &lifecycle).unwrap();
    let job = tokio::time::timeout(Duration::from_secs(2), reopened.next()).await.unwrap().unwrap();
    let event = polyhook::event::Event::read(&job.message.body);
    assert_eq!(event.conversation_id.as_deref(), Some(slow.id.as_str()));
    assert_eq!(job.history.failures, 0, "a shutdown is not a failure");
    let depths = reopened.depths().await.unwrap();
    assert!(depths.contains(&(QueueKind::Fetch, 1)) && depths.contains(&(QueueKind::Retry, 0)), "{depths:?}");
    reopened.close().await;
}

/// Collects the log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns every private string of a conversation that is long enough to be recognised.
fn private_strings(conversation: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for name in ["from_number", "to_number"] {
        let number = conversation[name].as_str().unwrap_or_default();
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        found.extend([number.to_owned(), digits]);
    }
    for turn in conversation["turns"].as_array().unwrap() {
        for name in ["user_input", "agent_response", "translated_user_input", "english_agent_response"] {
            found.push(turn[name].as_str().unwrap_or_default().to_owned());
        }
    }
    found.retain(|text| text.chars().count() >= 6);
    found
}

#[tokio::test]
async fn private_data_is_not_logged_announced_or_dead_lettered() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    // With a single subscriber alive, tracing lets whichever test comes by first decide for all whether a line
    // is of interest; with two it asks.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);

    let wrong = "the-wrong-key-0003";
    let world = World::with(|scenario, config| {
        scenario.mix.handoffs = 1.0;
        scenario.projects.push(second_project());
        let second = ProjectConfig { api_key: Secret::new(wrong), ..project(&second_project()) };
        config.projects = vec![project(&scenario.projects[0]), second];
        config.retry.delays = vec![Duration::from_millis(20)];
        config.worker.audio_wait = Duration::from_millis(50);
    })
    .await;
    let mut calls = Vec::new();
    let fault = |operation, action| vec![Fault::new(&[operation], action)];
    for script in [
        CallScript::default(),
        CallScript { recording: polyhook_simulator::RecordingAvailability::Never, ..CallScript::default() },
        CallScript {
            faults: fault(Operation::V3Conversation, FaultAction::Cut(900)),
            ..CallScript::default()
        },
        CallScript {
            faults: fault(Operation::V3Conversation, FaultAction::Truncate(900)),
            ..CallScript::default()
        },
        CallScript { faults: fault(Operation::V3Audio, FaultAction::Cut(900)), ..CallScript::default() },
        CallScript { faults: fault(Operation::V3Audio, FaultAction::Status(503)), ..CallScript::default() },
    ] {
        let call = NewCall { turns: Some(12), ..scripted(script) };
        calls.push(world.call(&call));
    }
    for call in &calls {
        world.deliver(call).await;
    }
    world.deliver(&world.call(&NewCall { project_id: Some("PROJECT-SECOND".into()), ..voice() })).await;
    world.wait_until_idle().await;
    let dead = world.dead_letters().await;
    assert_eq!(dead.len(), 3, "the two broken recordings make none");

    let mut secrets: Vec<_> = world.config.projects.iter().map(|p| p.api_key.expose().to_owned()).collect();
    secrets.push(world.sim.signing_secret().to_owned());
    for call in &calls {
        world.sim.state().set_script(&call.id, CallScript::default());
        secrets.extend(private_strings(&serde_json::from_slice(&world.get_v3(call, "").await).unwrap()));
    }
    assert!(secrets.len() > 60, "there is something to find");
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("job is a dead letter") && log.contains(&calls[0].id), "the log is of this run");
    let announced =
        world.announcements().await.into_iter().map(|a| String::from_utf8(a.body.into()).unwrap());
    let announced: String = announced.collect();
    let histories = format!("{:?}", dead.iter().map(|letter| &letter.history).collect::<Vec<_>>());
    let manifests: String = files(&world.root())
        .iter()
        .filter(|path| path.ends_with("manifest.json"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    for secret in &secrets {
        for (place, text) in [
            ("log", &log),
            ("announcement", &announced),
            ("dead letter", &histories),
            ("manifest", &manifests),
        ] {
            assert!(!text.contains(secret.as_str()), "in a {place}: {secret}");
        }
    }
}
