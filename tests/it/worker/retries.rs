//! Transient errors: pauses, rates, retries and their end.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use polyhook::{
    polyai::ApiChoice,
    queue::{Queue, QueueKind},
    worker::AudioChoice,
};
use polyhook_simulator::{Activity, CallScript, Channel, Fault, FaultAction, NewCall, Operation, RetryAfter};
use tokio::time::Instant;

use super::{World, assert_consistent, call_on, eventually, scripted, second_project, stub::Stub, voice};

/// Records the activity of the simulated PolyAI and its times.
fn follow(world: &World) -> Arc<Mutex<Vec<(Instant, Activity)>>> {
    let kept = Arc::<Mutex<Vec<_>>>::default();
    let noted = Arc::clone(&kept);
    let mut watch = world.sim.state().subscribe();
    drop(world.lifecycle.spawn("times", async move {
        while let Ok(activity) = watch.recv().await {
            noted.lock().unwrap().push((Instant::now(), activity));
        }
    }));
    kept
}

#[tokio::test]
async fn a_429_pauses_only_its_project() {
    for (wait, at_least) in [(RetryAfter::Seconds(1), 1.0), (RetryAfter::Date(2), 1.0)] {
        // One rung: a pause that cost more than one would make dead letters.
        let world = World::with(|scenario, config| {
            scenario.projects.push(second_project());
            config.retry.delays = vec![Duration::from_millis(50)];
            config.worker.audio = AudioChoice::Off;
        })
        .await;
        let times = follow(&world);
        world.sim.state().add_fault(
            Some("PROJECT-C0NC1ERG"),
            Fault::new(&[Operation::V3Conversation], FaultAction::RateLimited(wait)).times(1),
        );
        let mut paused = vec![world.add(&voice()).await];
        eventually("the pause has begun", async || {
            world.queue().depths().await.unwrap().contains(&(QueueKind::Retry, 1))
        })
        .await;
        for _ in 0..2 {
            paused.push(world.add(&voice()).await);
        }
        let mut others = Vec::new();
        for _ in 0..3 {
            let call = NewCall { project_id: Some("PROJECT-SECOND".to_owned()), ..voice() };
            others.push(world.add(&call).await);
        }
        world.wait_until_idle().await;

        assert_eq!(world.dead_letters().await, []);
        let times = times.lock().unwrap().clone();
        let refused: Vec<_> = times
            .iter()
            .filter(|(_, activity)| matches!(activity, Activity::ErrorServed { status: 429, .. }))
            .collect();
        assert_eq!(refused.len(), 1, "no request is sent during a pause");
        let since = |id: &str| {
            let served = |activity: &Activity| matches!(activity, Activity::ConversationServed { id: other } if other == id);
            let (at, _) = times.iter().find(|(_, activity)| served(activity)).unwrap();
            at.duration_since(refused[0].0).as_secs_f64()
        };
        for call in &paused {
            let waited = since(&call.id);
            assert!((at_least - 0.05..at_least + 3.0).contains(&waited), "{wait:?}: {waited}");
        }
        for call in &others {
            assert!(since(&call.id) < at_least - 0.2, "{wait:?}: another project waited");
        }
        assert_eq!(world.requests(Operation::V3Conversation), 7);
    }
}

#[tokio::test]
async fn a_429_for_a_recording_pauses_its_project() {
    let world = World::with(|_, config| config.retry.delays = vec![Duration::from_millis(50)]).await;
    let limit = Fault::new(&[Operation::V3Audio], FaultAction::RateLimited(RetryAfter::Seconds(1))).times(1);
    let started = Instant::now();
    let call = world.archive(&scripted(CallScript { faults: vec![limit], ..CallScript::default() })).await;
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(world.dead_letters().await, []);
    assert_consistent(&world.place(&call));
    assert_eq!((world.requests(Operation::V3Conversation), world.requests(Operation::V3Audio)), (2, 2));
}

#[tokio::test]
async fn retries_transient_errors_until_success() {
    let world = World::start().await;
    let elsewhere = Stub::start(&world.lifecycle, |_| axum::response::Response::default()).await;
    let elsewhere_url = elsewhere.url.join("v3/x/y/conversations/z").unwrap().to_string();
    let mut calls = Vec::new();
    for operation in [Operation::V3Conversation, Operation::V3Audio] {
        for action in [
            FaultAction::Status(500),
            FaultAction::Status(502),
            FaultAction::Status(503),
            FaultAction::Status(408),
            FaultAction::HangUp,
            FaultAction::Reset(10),
            FaultAction::Truncate(10),
            FaultAction::Json,
            FaultAction::Html,
            FaultAction::Redirect(elsewhere_url.clone()),
        ] {
            let fault = Fault::new(&[operation], action.clone()).times(2);
            let script = CallScript { faults: vec![fault], ..CallScript::default() };
            calls.push((action, world.add(&scripted(script)).await));
        }
    }
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    for (action, call) in &calls {
        let manifest = assert_consistent(&world.place(call));
        assert_eq!(manifest.objects.len(), 2, "{action:?}");
        assert_eq!(manifest.revision, 1, "{action:?}");
    }
    assert_eq!(world.requests(Operation::DataConversation) + world.requests(Operation::DataAudio), 0);
    let seen = elsewhere.seen();
    assert!(seen.iter().all(|(_, headers)| !headers.contains_key("x-api-key")), "{seen:?}");
}

#[tokio::test]
async fn waits_for_slow_answers() {
    let world = World::start().await;
    let slow = [FaultAction::Delay(Duration::from_millis(400)), drip()];
    let faults = slow.map(|action| Fault::new(&[], action)).to_vec();
    let call = world.archive(&scripted(CallScript { faults, ..CallScript::default() })).await;
    assert_consistent(&world.place(&call));
    assert_eq!((world.requests(Operation::V3Conversation), world.requests(Operation::V3Audio)), (1, 1));
}

fn drip() -> FaultAction {
    FaultAction::Drip { bytes: 32 << 10, pause: Duration::from_millis(20) }
}

#[tokio::test]
async fn a_job_becomes_a_dead_letter_after_the_last_delay() {
    let delays = [80, 160].map(Duration::from_millis);
    let world = World::with(|_, config| config.retry.delays = delays.to_vec()).await;
    let faults = vec![
        Fault::new(&[Operation::V3Conversation], FaultAction::Status(503)).times(1),
        Fault::new(&[Operation::V3Conversation], FaultAction::HangUp).times(1),
        Fault::new(&[Operation::V3Conversation], FaultAction::Status(500)),
    ];
    world.archive(&scripted(CallScript { faults, ..CallScript::default() })).await;
    let dead = world.only_dead_letter().await;
    let history = &dead.history;
    assert_eq!((history.failures, history.attempts.len()), (3, 3));
    let reasons: Vec<_> = history.attempts.iter().map(|a| (a.reason.as_ref(), a.status)).collect();
    assert_eq!(reasons, [("api_unavailable", Some(503)), ("network", None), ("api_unavailable", Some(500))]);
    // PolyAI's own ids; the second attempt has no answer, so it has the id of the request.
    let ids: Vec<_> = history.attempts.iter().map(|a| a.correlation_id.as_deref().unwrap()).collect();
    assert_eq!(ids.iter().map(|id| id.starts_with("polyhook-")).collect::<Vec<_>>(), [false, true, false]);
    assert!(ids[0].len() >= 8 && ids[0] != ids[2], "{ids:?}");
    for (pair, delay) in history.attempts.windows(2).zip(delays) {
        let between = Duration::try_from(pair[1].at.duration_since(pair[0].at)).unwrap();
        assert!(between >= delay && between < delay + Duration::from_secs(3), "{between:?}");
    }
    assert!(world.visible().is_empty());
}

#[tokio::test]
async fn requests_stay_within_the_configured_rate() {
    let world = World::with(|_, config| {
        config.polyai.max_requests_per_second = 5;
        config.polyai.api = ApiChoice::V3;
    })
    .await;
    let times = follow(&world);
    for _ in 0..9 {
        world.add(&call_on(Channel::Chat)).await;
    }
    world.wait_until_idle().await;
    let times: Vec<_> = times.lock().unwrap().iter().map(|(at, _)| *at).collect();
    assert_eq!(times.len(), 9);
    for second in times.windows(6) {
        let took = second[5].duration_since(second[0]);
        assert!(took > Duration::from_millis(900), "six requests within {took:?}");
    }
    assert!(times[8].duration_since(times[0]) < Duration::from_secs(15), "much slower than configured");
}
