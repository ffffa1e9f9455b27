//! Errors that no retry can fix: a dead letter at once, with a hint for its reader. And errors that look like that.

use std::time::Duration;

use polyhook::{polyai::ProjectConfig, queue::Attempt, secret::Secret};
use polyhook_simulator::{CallScript, EventOptions, Fault, FaultAction, NewCall, Operation};
use serde_json::json;

use super::{World, assert_consistent, eventually, project, scripted, second_project, voice};

/// Asserts one dead letter after one attempt, with its reason, PolyAI's status and id, and hints.
async fn assert_refused(world: &World, reason: &str, status: u16, hints: &[&str]) {
    let dead = world.only_dead_letter().await;
    let [Attempt { reason: said, detail, status: got, correlation_id, .. }] = &dead.history.attempts[..]
    else {
        panic!("{:?}", dead.history)
    };
    assert_eq!((said.as_ref(), *got), (reason, Some(status)), "{detail}");
    assert!(correlation_id.as_ref().is_some_and(|id| id.len() >= 8), "{correlation_id:?}");
    for hint in hints {
        assert!(detail.contains(hint), "{hint}: {detail}");
    }
    assert!(world.visible().is_empty());
    assert!(world.announcements().await.is_empty());
}

#[tokio::test]
async fn a_wrong_key_becomes_a_dead_letter_at_once() {
    let world = World::with(|scenario, config| {
        let right = project(&scenario.projects[0]);
        config.projects = vec![ProjectConfig { api_key: Secret::new("of-another-region"), ..right }];
    })
    .await;
    world.archive(&voice()).await;
    assert_refused(&world, "key_rejected", 401, &["api_key_file"]).await;
    assert_eq!(world.requests(Operation::V3Conversation), 1);
}

#[tokio::test]
async fn a_key_of_another_project_becomes_a_dead_letter_at_once() {
    let world = World::with(|scenario, config| {
        scenario.projects.push(second_project());
        let key = Secret::new(scenario.projects[0].api_key.as_str());
        config.projects = vec![ProjectConfig { api_key: key, ..project(&second_project()) }];
    })
    .await;
    let call = NewCall { project_id: Some("PROJECT-SECOND".to_owned()), ..voice() };
    world.archive(&call).await;
    assert_refused(&world, "key_lacks_scope", 403, &["provision"]).await;
}

#[tokio::test]
async fn an_unknown_conversation_becomes_a_dead_letter_after_the_last_delay() {
    let world = World::with(|_, config| config.retry.delays = vec![Duration::from_millis(20); 3]).await;
    world.archive(&scripted(CallScript { missing: true, ..CallScript::default() })).await;
    let dead = world.only_dead_letter().await;
    assert_eq!((dead.history.failures, dead.history.attempts.len()), (4, 4));
    for attempt in &dead.history.attempts {
        assert_eq!((attempt.reason.as_ref(), attempt.status), ("unknown_conversation", Some(404)));
        for hint in ["CONVERSATIONS_NOT_FOUND", "project_id", "region"] {
            assert!(attempt.detail.contains(hint), "{hint}: {}", attempt.detail);
        }
        assert!(attempt.correlation_id.is_some());
    }
    assert!(world.visible().is_empty() && world.announcements().await.is_empty());
    assert_eq!(world.requests(Operation::DataConversation), 0, "that was an answer, not a closed door");
}

#[tokio::test]
async fn a_conversation_that_polyai_has_only_later_is_archived() {
    let world = World::start().await;
    let call = world.call(&scripted(CallScript { missing: true, ..CallScript::default() }));
    world.deliver(&call).await;
    eventually("it was denied", async || world.requests(Operation::V3Conversation) >= 2).await;
    world.sim.state().set_script(&call.id, CallScript::default());
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    assert_consistent(&world.place(&call));
}

#[tokio::test]
async fn a_project_unknown_to_polyai_becomes_a_dead_letter_at_once() {
    let world = World::with(|scenario, config| {
        let right = project(&scenario.projects[0]);
        config.projects = vec![ProjectConfig { project_id: "PROJECT-TYPO".to_owned(), ..right }];
    })
    .await;
    world.archive(&voice()).await;
    assert_refused(&world, "unknown_project", 404, &["projects.project_id"]).await;
}

#[tokio::test]
async fn an_unconfigured_project_becomes_a_dead_letter_that_names_it() {
    let world = World::with(|scenario, config| {
        scenario.projects.push(second_project());
        config.retry.delays = vec![Duration::from_millis(20)];
    })
    .await;
    let data = json!({ "conversation_id": "CA1", "environment": "live",
                       "account_id": "ws-elsewhere", "project_id": "PROJECT-THIRD" });
    world.deliver_body(&json!({ "type": "conversation.completed", "data": data })).await;
    let dead = world.only_dead_letter().await;
    let last = dead.history.attempts.last().unwrap();
    assert_eq!((last.reason.as_ref(), last.status), ("unknown_project", Some(404)));
    let projects = "PROJECT-C0NC1ERG, PROJECT-SECOND";
    for named in ["ws-elsewhere", "PROJECT-THIRD", "[[projects]]", projects] {
        assert!(last.detail.contains(named), "{}", last.detail);
    }
    assert_eq!(dead.history.failures, 2);
    assert_eq!(world.requests(Operation::V3Conversation), 4, "both projects were asked, twice");
}

#[tokio::test]
async fn asks_all_projects_if_the_event_names_them_in_another_form() {
    let world = World::with(|scenario, config| {
        scenario.projects.push(second_project());
        config.projects = scenario.projects.iter().map(project).collect();
        for (configured, simulated) in config.projects.iter_mut().zip(&scenario.projects) {
            configured.account_id.clone_from(&simulated.account_slug);
            configured.project_id.clone_from(&simulated.project_slug);
        }
    })
    .await;
    let call = world.call(&NewCall { project_id: Some("PROJECT-SECOND".to_owned()), ..voice() });
    world.deliver(&call).await;
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    let manifest = assert_consistent(&world.place_in("harbour-hotels", "second", &call.id));
    assert_eq!((manifest.account_id.as_str(), manifest.project_id.as_str()), ("harbour-hotels", "second"));
    // The answer names the project in the other form, too.
    let [warning] = &manifest.warnings[..] else { panic!("{:?}", manifest.warnings) };
    assert!(warning.starts_with("other_project: ") && warning.contains("PROJECT-SECOND"), "{warning}");
    assert_eq!(world.requests(Operation::V3Conversation), 2);
}

#[tokio::test]
async fn an_event_without_a_conversation_becomes_a_dead_letter_at_once() {
    let world = World::start().await;
    world.deliver_body(&json!({ "type": "conversation.completed", "data": { "environment": "live" } })).await;
    assert_eq!(world.only_dead_letter().await.history.attempts[0].reason, "no_conversation_id");
    assert!(world.sim.state().request_counts().is_empty());
}

/// Delivers a quickstart event, which names no project, about a call of the second of two projects.
async fn deliver_to_second_project(world: &World) {
    let call = NewCall { project_id: Some("PROJECT-SECOND".to_owned()), ..voice() };
    let call = world.call(&call);
    world.deliver_as(&call, EventOptions { identifiers: false, ..EventOptions::default() }).await;
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!(manifest.project_id, "PROJECT-SECOND");
}

#[tokio::test]
async fn asks_all_projects_if_the_event_names_none() {
    let world = World::with(|scenario, _| scenario.projects.push(second_project())).await;
    deliver_to_second_project(&world).await;
    assert_eq!(world.requests(Operation::V3Conversation), 2);
}

#[tokio::test]
async fn an_error_of_one_project_does_not_hide_the_conversation_of_another() {
    for fault in
        [FaultAction::Status(401), FaultAction::Status(403), FaultAction::Status(503), FaultAction::HangUp]
    {
        let world = World::with(|scenario, _| scenario.projects.push(second_project())).await;
        world.sim.state().add_fault(Some("PROJECT-C0NC1ERG"), Fault::new(&[], fault));
        deliver_to_second_project(&world).await;
        assert_eq!(world.requests(Operation::V3Audio), 1);
    }
}

#[tokio::test]
async fn an_unanswered_project_decides_over_those_that_deny_the_conversation() {
    for (fault, reason, failures) in [
        (None, "unknown_conversation", 5),
        (Some(FaultAction::Status(401)), "key_rejected", 5),
        (Some(FaultAction::Status(503)), "api_unavailable", 5),
    ] {
        let world = World::with(|scenario, config| {
            scenario.projects.push(second_project());
            config.retry.delays = vec![Duration::from_millis(10); 4];
        })
        .await;
        if let Some(fault) = fault {
            world.sim.state().add_fault(Some("PROJECT-C0NC1ERG"), Fault::new(&[], fault));
        }
        let data = json!({ "conversation_id": "CA-unknown", "environment": "live" });
        world.deliver_body(&json!({ "type": "conversation.completed", "data": data })).await;
        let dead = world.only_dead_letter().await;
        let last = dead.history.attempts.last().unwrap();
        assert_eq!((last.reason.as_ref(), dead.history.failures), (reason, failures));
        assert!(last.detail.contains("PROJECT-C0NC1ERG, PROJECT-SECOND"), "{}", last.detail);
    }
}
