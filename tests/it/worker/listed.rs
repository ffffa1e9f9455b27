//! Conversations that only the list of v3 has, on a host whose other answers are not PolyAI's.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use jiff::{Timestamp, ToSpan};
use polyhook::{
    archive::{AudioStatus, ServedBy},
    clock::Clock,
    config::Config,
    event::Discovery,
    lifecycle::Lifecycle,
};
use polyhook_simulator::Delivery;
use serde_json::json;
use url::form_urlencoded;

use super::{
    World, assert_consistent,
    gateways::{ACCOUNT, PROJECT, conversation, deliver, recording},
    stub::Stub,
};

const LIST: &str = "/v3/ws-5a11d0c5/PROJECT-C0NC1ERG/conversations";

fn not_found() -> Response {
    Response::builder().status(404).body(Body::from("404 page not found")).unwrap()
}

fn voice(id: &str, started_at: Timestamp) -> serde_json::Value {
    let mut call = conversation(id);
    call["channel"] = json!("VOICE-SIP");
    call["started_at"] = json!(started_at.to_string());
    call
}

/// Returns a page of the calls that started in the window that is asked for.
fn page(query: &str, calls: &[serde_json::Value]) -> Response {
    let query: std::collections::HashMap<_, _> = form_urlencoded::parse(query.as_bytes()).collect();
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let window = time(&query["start_time"])..time(&query["end_time"]);
    let is_wanted = |call: &&serde_json::Value| {
        query["client_env"] == "live" && window.contains(&time(call["started_at"].as_str().unwrap()))
    };
    let entries: Vec<_> = calls.iter().filter(is_wanted).collect();
    Response::new(Body::from(json!({ "conversations": entries, "cursor": null }).to_string()))
}

fn at_stub(stub: &Stub) -> impl FnOnce(&mut polyhook_simulator::Scenario, &mut Config) {
    let url = stub.url.clone();
    move |_, config| {
        config.polyai.base_url = Some(url);
        // Out of reach.
        config.polyai.platform_url = Some("http://127.0.0.1:1/".parse().unwrap());
        config.retry.delays.truncate(1);
    }
}

#[tokio::test]
async fn searches_the_list_backwards_from_an_event_that_names_no_start() {
    let (lifecycle, now) = (Lifecycle::new(), Clock::System.now());
    let calls = [voice("recent", now - 3.minutes()), voice("long", now - 3.hours())];
    let stub =
        Stub::start_with_query(
            &lifecycle,
            move |path, query| {
                if path == LIST { page(query, &calls) } else { not_found() }
            },
        )
        .await;
    let world = World::with(at_stub(&stub)).await;
    let lists = || stub.seen().iter().filter(|(path, _)| path == LIST).count();
    for (id, windows) in [("recent", 1), ("long", 3)] {
        let before = lists();
        deliver(&world, id).await;
        world.wait_until_idle().await;
        assert_eq!(world.dead_letters().await, []);
        assert_eq!(lists() - before, windows, "{id}");
    }
    let manifests: Vec<_> = super::files(&world.root())
        .into_iter()
        .filter(|path| path.ends_with("manifest.json"))
        .map(|path| super::manifest(path.parent().unwrap()))
        .collect();
    assert_eq!(manifests.len(), 2);
    for manifest in manifests {
        assert_eq!(
            (manifest.provenance.served_by, manifest.audio.status),
            (ServedBy::V3List, AudioStatus::Absent)
        );
    }
    deliver(&world, "never").await;
    let dead = world.only_dead_letter().await;
    let last = dead.history.attempts.last().unwrap();
    assert_eq!((&*last.reason, last.status, dead.history.failures), ("unknown_conversation", Some(200), 2));
    assert!(last.detail.contains("v3's list has none with this id that started from"), "{}", last.detail);
}

/// A gateway that is away for a moment answers 404 for everything but the list.
#[tokio::test]
async fn a_gateways_404s_cost_no_recording_where_recordings_are_served() {
    let lifecycle = Lifecycle::new();
    let is_away = Arc::new(AtomicBool::new(false));
    let away = Arc::clone(&is_away);
    let stub = Stub::start_with_query(&lifecycle, move |path, query| {
        let id = path.trim_end_matches("/audio").rsplit('/').next().unwrap();
        let started_at = super::BEGAN.parse().unwrap();
        match path {
            LIST => page(query, &["first", "second"].map(|id| voice(id, started_at))),
            _ if path.ends_with("/audio") => {
                // After this answer the gateway is back.
                if away.swap(false, Ordering::SeqCst) {
                    return not_found();
                }
                let mut wav = Response::new(Body::from(recording()));
                wav.headers_mut().insert("content-type", "audio/wav".parse().unwrap());
                wav
            }
            _ if away.load(Ordering::SeqCst) => not_found(),
            _ => Response::new(Body::from(voice(id, started_at).to_string())),
        }
    })
    .await;
    let world = World::with(at_stub(&stub)).await;
    for id in ["first", "second"] {
        is_away.store(id == "second", Ordering::SeqCst);
        world
            .deliver_body(&json!({ "type": "conversation.completed", "environment": "live",
                "data": { "conversation_id": id, "started_at": super::BEGAN } }))
            .await;
        world.wait_until_idle().await;
        let manifest = assert_consistent(&world.place_in(ACCOUNT, PROJECT, id));
        assert_eq!(
            (manifest.provenance.served_by, manifest.audio.status),
            (ServedBy::V3, AudioStatus::Ready),
            "{id}"
        );
    }
    assert!(stub.seen().iter().any(|(path, _)| path == LIST), "the list was asked meanwhile");
}

/// Otherwise a call that reconciliation has found is never archived.
#[tokio::test]
async fn the_list_counts_if_the_path_by_id_does_not_know_a_listed_call() {
    const UNKNOWN: &str = r#"{"success":false,"error":"No.","error_id":"1","error_code":"CONVERSATIONS_NOT_FOUND","error_message":"No.","data":null}"#;
    let lifecycle = Lifecycle::new();
    let stub = Stub::start_with_query(&lifecycle, |path, query| match path {
        LIST => page(query, &[voice("listed", super::BEGAN.parse().unwrap())]),
        _ => Response::builder().status(404).body(Body::from(UNKNOWN)).unwrap(),
    })
    .await;
    let at_stub = at_stub(&stub);
    let world = World::with(|scenario, config| {
        at_stub(scenario, config);
        config.worker.audio_wait = Duration::ZERO;
    })
    .await;
    let found = Discovery {
        conversation_id: "listed".to_owned(),
        account_id: ACCOUNT.to_owned(),
        project_id: PROJECT.to_owned(),
        environment: Some("live".to_owned()),
        started_at: super::BEGAN.parse().ok(),
        ..Discovery::default()
    };
    let body = found.body().unwrap();
    world.send(Delivery::new("found-1".to_owned(), "conversation.discovered", body)).await;
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    let manifest = assert_consistent(&world.place_in(ACCOUNT, PROJECT, "listed"));
    assert_eq!(
        (manifest.provenance.served_by, manifest.audio.status),
        (ServedBy::V3List, AudioStatus::Absent)
    );
    // A webhook may be faster than the database behind the path by id, so it waits.
    deliver(&world, "unlisted").await;
    let dead = world.only_dead_letter().await;
    let last = dead.history.attempts.last().unwrap();
    assert_eq!((&*last.reason, last.status), ("unknown_conversation", Some(404)));
}

#[tokio::test]
async fn an_event_without_an_environment_is_looked_for_in_all_of_them() {
    let lifecycle = Lifecycle::new();
    let seen_environments = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&seen_environments);
    let call = Arc::new(voice("test-call", super::BEGAN.parse().unwrap()));
    let stub = Stub::start_with_query(&lifecycle, move |path, query| {
        if path != LIST {
            return not_found();
        }
        let environment = query.split("client_env=").nth(1).unwrap().split('&').next().unwrap().to_owned();
        let mut call = (*call).clone();
        call["environment"] = json!(environment);
        let entries = if environment == "sandbox" { vec![call] } else { Vec::new() };
        noted.lock().unwrap().push(environment);
        Response::new(Body::from(json!({ "conversations": entries }).to_string()))
    })
    .await;
    let world = World::with(at_stub(&stub)).await;
    world
        .deliver_body(&json!({ "type": "conversation.completed",
            "data": { "conversation_id": "test-call", "started_at": super::BEGAN } }))
        .await;
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, [], "its environment is not archived");
    assert!(world.visible().is_empty());
    assert_eq!(*seen_environments.lock().unwrap(), ["live", "sandbox"]);
}
