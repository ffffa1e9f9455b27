//! Hostile ids, and answers that are not the requested conversation.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use axum::response::{IntoResponse, Response};
use polyhook::{event::Event, lifecycle::Lifecycle, polyai::ApiChoice, worker::AudioChoice};
use polyhook_simulator::NewCall;
use serde_json::{Value, json};

use super::{World, assert_consistent, files, stub::Stub, voice};

#[tokio::test]
async fn hostile_ids_cannot_leave_their_folder() {
    let long = "x".repeat(4096);
    let longer = format!("{long}y");
    let ids = [
        "CA1",
        "CA1\n",
        "C\tA1",
        "CA1/audio",
        "CA1%2Faudio",
        "CA1?x=1",
        "CA1#x",
        "CA1\\..",
        " CA1",
        "CA1 ",
        "../../../../outside",
        "..%2f..%2foutside",
        "%2e%2e",
        "%2E%2E",
        "....//",
        "./CA1",
        "../CA1",
        "CA1/.",
        "/etc/passwd",
        "a\0b",
        "a",
        "A",
        "ü",
        "u\u{308}",
        "漢字🎧",
        "\u{202e}1AC",
        "%",
        "%00",
        "%zz",
        "-rf",
        "~",
        "con",
        "a#1",
        "manifest.json",
        ".\t.",
        "\n",
        long.as_str(),
        longer.as_str(),
    ];
    let unaskable = [".", ".."];
    let world = World::with(|_, config| config.worker.audio = AudioChoice::Off).await;
    for id in ids.iter().chain(&unaskable) {
        let call = world.call(&NewCall { id: Some((*id).to_owned()), ..voice() });
        world.deliver(&call).await;
    }
    world.wait_until_idle().await;

    let dead: BTreeMap<_, _> = world
        .dead_letters()
        .await
        .into_iter()
        .map(|letter| (Event::read(&letter.message.body).conversation_id.unwrap(), letter.history))
        .collect();
    assert_eq!(dead.keys().map(String::as_str).collect::<Vec<_>>(), unaskable, "{dead:?}");
    for history in dead.values() {
        assert_eq!((history.failures, history.attempts[0].reason.as_ref()), (1, "unknown_conversation"));
    }

    let mut archived = BTreeSet::new();
    for path in files(&world.root()).into_iter().filter(|path| path.ends_with("manifest.json")) {
        let folder = path.parent().unwrap();
        let inside = folder.strip_prefix(world.root()).unwrap();
        assert_eq!(inside.components().count(), 4, "{}", inside.display());
        let manifest = assert_consistent(folder);
        let json: Value =
            serde_json::from_slice(&fs::read(folder.join("conversation.json")).unwrap()).unwrap();
        assert_eq!(json["id"], manifest.conversation_id.as_str(), "the conversation of that very id");
        assert!(archived.insert(manifest.conversation_id.clone()), "twice: {}", manifest.conversation_id);
    }
    assert_eq!(
        archived,
        ids.iter().map(|id| (*id).to_owned()).collect(),
        "none lost, none in another's place"
    );

    let outside: BTreeSet<_> = fs::read_dir(world.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("queue.db"))
        .collect();
    assert_eq!(outside, BTreeSet::from(["archive".to_owned()]));
    assert_eq!(world.announcements().await.len(), ids.len());
}

fn answer(path: &str) -> Response {
    let id = path.rsplit('/').next().unwrap_or_default().to_owned();
    let json = |value: Value| value.to_string().into_bytes();
    let call = |id: &str, turns: Value| {
        json(json!({ "id": id, "channel": "CHAT", "environment": "live", "in_progress": false,
                     "started_at": super::BEGAN, "num_turns": 1, "turns": turns }))
    };
    let body = match id.as_str() {
        "good" | "another" => call("good", json!([{}])),
        "nameless" => json(json!({ "channel": "CHAT", "environment": "live", "turns": [{}] })),
        "status" => json(json!({ "status": "processing", "url": null })),
        "list" => json(json!([{ "id": "list" }])),
        "text" => b"OK".to_vec(),
        "html" => b"<!doctype html><title>Sign in</title>".to_vec(),
        "half" => br#"{"id":"half","channel":"CHAT","turns":[{"user_in"#.to_vec(),
        "latin" => b"{\"id\":\"latin\",\"channel\":\"CHAT\",\"note\":\"\xe9\"}".to_vec(),
        "empty" => Vec::new(),
        // 40 MiB
        "huge" => call("huge", json!("x".repeat(40 << 20))),
        _ => return axum::http::StatusCode::NOT_FOUND.into_response(),
    };
    ([("x-polyai-correlation-id", "corr-0001"), ("content-type", "application/json")], body).into_response()
}

#[tokio::test]
async fn answers_that_are_not_the_conversation_are_not_archived() {
    let lifecycle = Lifecycle::new();
    let stub = Stub::start(&lifecycle, answer).await;
    let world = World::with(|_, config| {
        config.polyai.base_url = Some(stub.url.clone());
        config.polyai.api = ApiChoice::V3;
        config.retry.delays = vec![Duration::from_millis(30)];
    })
    .await;
    let bad = ["another", "nameless", "status", "list", "text", "html", "half", "empty"];
    for id in bad.iter().chain(&["good", "latin", "huge"]) {
        let data = json!({ "conversation_id": id, "environment": "live" });
        world.deliver_body(&json!({ "type": "conversation.completed", "data": data })).await;
    }
    world.wait_until_idle().await;

    let reasons: BTreeMap<_, _> = world
        .dead_letters()
        .await
        .into_iter()
        .map(|letter| (Event::read(&letter.message.body).conversation_id.unwrap(), letter.history))
        .collect();
    assert_eq!(reasons.len(), bad.len() + 1, "{reasons:?}");
    for (id, history) in &reasons {
        let reason = if id == "huge" { "too_large" } else { "bad_answer" };
        let last = history.attempts.last().unwrap();
        assert_eq!((last.reason.as_ref(), history.failures), (reason, 2), "{id}");
        assert_eq!((last.status, last.correlation_id.as_deref()), (Some(200), Some("corr-0001")), "{id}");
    }
    let folders: BTreeSet<_> =
        files(&world.root()).iter().map(|path| path.parent().unwrap().to_owned()).collect();
    // One byte that is not UTF-8 does not make a conversation unreadable.
    assert_eq!(folders.len(), 2, "{folders:?}");
    assert!(folders.first().unwrap().ends_with("good") && folders.last().unwrap().ends_with("latin"));
}
