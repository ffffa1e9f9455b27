//! Conversations, recordings and endpoints as the APIs serve them.

use std::{collections::BTreeSet, io::Cursor, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Fixture, answer, at};
use crate::{
    Activity, CallMix, CallScript, Channel, Environment, ErrorEnvelope, LaterChange, NewCall, Operation,
    Project, RecordingAvailability, Scenario, ServedApis,
};

fn scenario(calls: u64) -> Scenario {
    Scenario { calls, mix: CallMix { max_turns: 12, ..CallMix::default() }, ..Scenario::default() }
}

#[tokio::test]
async fn cursor_pages_are_stable_while_calls_are_added() {
    let fixture = Fixture::start(scenario(40)).await;
    let live: Vec<_> = fixture
        .simulator
        .calls()
        .into_iter()
        .filter(|call| call.environment == Environment::Live)
        .map(|call| call.id)
        .collect();
    let (mut seen, mut query) = (Vec::new(), "?limit=7".to_owned());
    loop {
        let (status, page) = fixture.json(&fixture.v3(&query)).await;
        assert_eq!(status, StatusCode::OK);
        seen.extend(
            page["conversations"].as_array().unwrap().iter().map(|c| c["id"].as_str().unwrap().to_owned()),
        );
        fixture
            .simulator
            .state()
            .add_call(&NewCall { environment: Some(Environment::Live), ..NewCall::default() });
        let Some(cursor) = page["cursor"].as_str() else { break };
        query = format!("?cursor={cursor}&limit=7");
    }
    seen.reverse();
    assert_eq!(seen, live, "newest first, no duplicates, no later calls");
    for wrong in ["?cursor=nonsense", "?limit=0", "?limit=1001", "?client_env=production", "?start_time=soon"]
    {
        let (status, body) = fixture.json(&fixture.v3(wrong)).await;
        assert_eq!(
            (status, &body["error_code"]),
            (StatusCode::BAD_REQUEST, &json!("CONVERSATIONS_VALIDATION_FAILED"))
        );
    }
    fixture.stop().await;
}

#[tokio::test]
async fn pages_by_offset_and_filters() {
    let fixture = Fixture::start(scenario(60)).await;
    let calls = fixture.simulator.calls();
    let (_, first) = fixture.json(&fixture.v3("?limit=3")).await;
    assert_eq!(first["next_offset"], 3);
    let (_, second) = fixture.json(&fixture.v3("?limit=3&offset=3")).await;
    assert_ne!(first["conversations"][0]["id"], second["conversations"][0]["id"]);
    assert_eq!(
        fixture.json(&fixture.v3("")).await.1["conversations"].as_array().unwrap().len(),
        5,
        "the default"
    );

    let count = async |query: &str| {
        let (status, page) = fixture.json(&fixture.v3(&format!("?limit=1000&{query}"))).await;
        assert_eq!(status, StatusCode::OK, "{query}");
        assert!(page["cursor"].is_null() && page.get("next_offset").is_none());
        page["conversations"].as_array().unwrap().len()
    };
    let of = |environment| calls.iter().filter(|call| call.environment == environment).count();
    assert_eq!(count("client_env=sandbox").await, of(Environment::Sandbox));
    assert_eq!(count("client_env=pre-release").await, of(Environment::PreRelease));
    let chats =
        calls.iter().filter(|c| c.environment == Environment::Live && c.channel != Channel::Voice).count();
    assert_eq!(count("channel=CHAT&channel=WEBCHAT").await, chats);
    assert_eq!(count("in_progress=true").await, 0);
    let from = calls[20].started_at;
    let later = calls.iter().filter(|c| c.environment == Environment::Live && c.started_at >= from).count();
    assert_eq!(count(&format!("start_time={from}")).await, later);
    assert_eq!(count(&format!("end_time={from}")).await, of(Environment::Live) - later);
    assert!(count("variant_name=Old%20mill%20%26%20caf%C3%A9").await > 0);
    fixture.stop().await;
}

#[tokio::test]
async fn serves_one_conversation_in_both_shapes() {
    let fixture = Fixture::start(scenario(10)).await;
    let call = fixture.voice();
    let (status, v3) = fixture.json(&fixture.v3(&format!("/{}", call.id))).await;
    assert_eq!((status, &v3["id"]), (StatusCode::OK, &json!(call.id)));
    assert_eq!(v3["turns"].as_array().unwrap().len(), call.turns);
    let (status, data) = fixture.json(&fixture.data(&format!("/{}", call.id))).await;
    assert_eq!((status, &data["conversationId"]), (StatusCode::OK, &json!(call.id)));
    assert_eq!(data["turns"][0]["agent_response"], v3["turns"][0]["agent_response"]);
    let (_, page) = fixture.json(&fixture.data("?limit=4&offset=2")).await;
    assert_eq!((&page["count"], &page["limit"], &page["offset"]), (&json!(10), &json!(4), &json!(2)));
    let started: Vec<_> =
        page["conversations"].as_array().unwrap().iter().map(|c| c["startedAt"].as_str().unwrap()).collect();
    assert!(started.is_sorted_by(|a, b| a > b), "newest first: {started:?}");
    // Slugs are valid identifiers, too.
    assert_eq!(fixture.json("/v3/harbour-hotels/concierge/conversations").await.0, StatusCode::OK);
    for path in [
        fixture.v3("/CAnone"),
        fixture.data("/CAnone"),
        fixture.v3("/CAnone/audio"),
        fixture.v3("/..%2f%00%ff"),
    ] {
        let (status, body) = fixture.json(&path).await;
        assert!(status.is_client_error(), "{path}");
        assert!(
            status != StatusCode::NOT_FOUND || body["error_code"] == "CONVERSATIONS_NOT_FOUND",
            "{path} {body}"
        );
    }
    fixture.stop().await;
}

#[tokio::test]
async fn recordings_are_valid_wav_files_of_the_announced_length() {
    let fixture = Fixture::start(scenario(10)).await;
    let call = fixture.voice();
    let mut activity = fixture.simulator.state().subscribe();
    for path in [
        fixture.v3(&format!("/{}/audio", call.id)),
        fixture.data(&format!("/{}/audio?direction=user&redacted=true", call.id)),
    ] {
        let response = fixture.get(&path).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "audio/wav");
        let length = response.content_length().unwrap();
        let bytes = response.bytes().await.unwrap();
        assert_eq!(bytes.len() as u64, length);
        let reader = hound::WavReader::new(Cursor::new(&bytes)).unwrap();
        assert_eq!(u64::from(reader.duration()), call.duration_ms * 8);
        match activity.recv().await.unwrap() {
            Activity::AudioServed { id, bytes } => assert_eq!((id, bytes), (call.id.clone(), length)),
            other => panic!("{other:?}"),
        }
    }
    let (status, _) = fixture.json(&fixture.v3(&format!("/{}/audio?direction=both", call.id))).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let chat = fixture
        .simulator
        .state()
        .add_call(&NewCall { channel: Some(Channel::Webchat), ..NewCall::default() })
        .unwrap();
    let (status, body) = fixture.json(&fixture.v3(&format!("/{}/audio", chat.id))).await;
    assert_eq!(
        (status, &body["error_code"]),
        (StatusCode::NOT_FOUND, &json!("CONVERSATIONS_RECORDING_NOT_FOUND"))
    );
    fixture.stop().await;
}

#[tokio::test]
async fn a_scripted_call_changes_over_time() {
    let fixture = Fixture::start(scenario(1)).await;
    let state = fixture.simulator.state();
    let script = CallScript {
        in_progress_for: Some(Duration::from_secs(10)),
        recording: RecordingAvailability::After(Duration::from_secs(30)),
        change: Some(LaterChange {
            after: Some(Duration::from_mins(1)),
            after_requests: None,
            more_turns: 2,
            summarised: true,
        }),
        ..CallScript::default()
    };
    let new = NewCall {
        id: Some("wörk/../in progress".to_owned()),
        channel: Some(Channel::Voice),
        environment: Some(Environment::Live),
        turns: Some(9),
        started_at: Some(at("2026-11-03T11:00:00Z")),
        script: Some(script),
        ..NewCall::default()
    };
    state.add_call(&new).unwrap();
    let path = "/w%C3%B6rk%2F..%2Fin%20progress";
    let observe = async || {
        let (_, v3) = fixture.json(&fixture.v3(path)).await;
        let (_, data) = fixture.json(&fixture.data(path)).await;
        let audio = fixture.json(&fixture.v3(&format!("{path}/audio"))).await.0;
        assert_eq!(v3["in_progress"], data["inProgress"]);
        (
            v3["in_progress"].as_bool().unwrap(),
            v3["num_turns"].as_u64().unwrap(),
            !data["shortSummary"].is_null(),
            audio.as_u16(),
        )
    };
    assert_eq!(observe().await, (true, 5, false, 404));
    assert_eq!(
        fixture.json(&fixture.v3("?in_progress=true")).await.1["conversations"].as_array().unwrap().len(),
        1
    );
    fixture.clock.advance(Duration::from_secs(11));
    assert_eq!(observe().await, (false, 9, false, 404));
    fixture.clock.advance(Duration::from_secs(20));
    assert_eq!(observe().await, (false, 9, false, 200));
    fixture.clock.advance(Duration::from_secs(30));
    assert_eq!(observe().await, (false, 11, true, 200));
    fixture.stop().await;
}

#[tokio::test]
async fn a_scripted_call_changes_by_request_count_and_hides_its_transcript() {
    let fixture = Fixture::start(scenario(10)).await;
    let (state, call) = (fixture.simulator.state(), fixture.voice());
    let audio = fixture.v3(&format!("/{}/audio", call.id));
    state.set_script(
        &call.id,
        CallScript {
            recording: RecordingAvailability::AfterRequests(2),
            in_progress_requests: 1,
            ..CallScript::default()
        },
    );
    assert_eq!(fixture.json(&fixture.v3(&format!("/{}", call.id))).await.1["in_progress"], true);
    assert_eq!(fixture.json(&fixture.v3(&format!("/{}", call.id))).await.1["in_progress"], false);
    let mut tries = Vec::new();
    for _ in 0..3 {
        tries.push(fixture.json(&audio).await.0.as_u16());
    }
    assert_eq!(tries, [404, 404, 200]);

    state.set_script(
        &call.id,
        CallScript {
            hidden_transcript: true,
            recording: RecordingAvailability::Never,
            ..CallScript::default()
        },
    );
    let (_, v3) = fixture.json(&fixture.v3(&format!("/{}", call.id))).await;
    assert_eq!((&v3["turns"], v3["num_turns"].as_u64()), (&json!([]), Some(call.turns as u64)));
    let (_, data) = fixture.json(&fixture.data(&format!("/{}", call.id))).await;
    assert_eq!((&data["turns"], &data["audioUrl"]), (&json!([]), &Value::Null));
    assert_eq!(fixture.json(&audio).await.1["error_code"], "CONVERSATIONS_RECORDING_NOT_FOUND");

    state.set_script(&call.id, CallScript { missing: true, ..CallScript::default() });
    assert_eq!(
        fixture.json(&fixture.v3(&format!("/{}", call.id))).await.1["error_code"],
        "CONVERSATIONS_NOT_FOUND"
    );
    assert!(!state.set_script("unknown", CallScript::default()));
    fixture.stop().await;
}

#[tokio::test]
async fn keys_give_access_only_to_their_own_project() {
    let other = Project {
        project_id: "PROJECT-OTHER001".to_owned(),
        project_slug: "other".to_owned(),
        api_key: "other-key".to_owned(),
        data_api_key: Some("other-data-key".to_owned()),
        transcripts: false,
        pii_access: false,
        ..Project::default()
    };
    let far = Project {
        project_id: "PROJECT-FAR00001".to_owned(),
        api_key: "far-key".to_owned(),
        region: Some("uk".to_owned()),
        ..Project::default()
    };
    let fixture =
        Fixture::start(Scenario { projects: vec![Project::default(), other, far], ..scenario(9) }).await;
    let own = fixture.simulator.api_key();
    let ask = async |path: &str, key: &str| {
        let (status, body) = answer(fixture.client.get(fixture.url(path)).header("X-API-KEY", key)).await;
        (status.as_u16(), body["error_code"].as_str().unwrap_or_default().to_owned())
    };
    let v3 = |account: &str, project: &str| format!("/v3/{account}/{project}/conversations");
    let account = fixture.simulator.account_id();
    assert_eq!(ask(&v3(account, "PROJECT-OTHER001"), "other-key").await.0, 200);
    assert_eq!(ask(&v3(account, "PROJECT-OTHER001"), own).await.0, 403);
    assert_eq!(ask(&v3(account, "PROJECT-OTHER001"), "unknown-key").await.0, 401);
    assert_eq!(ask(&v3(account, "PROJECT-FAR00001"), "far-key").await.0, 401);
    assert_eq!(ask(&v3(account, "PROJECT-NONE"), own).await, (404, "PROJECT_NOT_FOUND".to_owned()));
    assert_eq!(ask(&v3("ws-none", "PROJECT-OTHER001"), own).await, (404, "ACCOUNT_NOT_FOUND".to_owned()));
    assert_eq!(ask("/v1/agents/other/conversations", "other-key").await.0, 401);
    assert_eq!(ask("/v1/agents/other/conversations", "other-data-key").await.0, 200);
    let keyless = answer(fixture.client.get(fixture.url(&fixture.v3("")))).await;
    assert_eq!(keyless.0, StatusCode::UNAUTHORIZED);

    let call = fixture.simulator.calls().into_iter().find(|c| c.project_id == "PROJECT-OTHER001").unwrap();
    assert_eq!(
        fixture.json(&fixture.v3(&format!("/{}", call.id))).await.1["error_code"],
        "CONVERSATIONS_NOT_FOUND"
    );
    let path = format!("{}/{}", v3(account, "other"), call.id);
    let (_, shape) = answer(fixture.client.get(fixture.url(&path)).header("x-api-key", "other-key")).await;
    assert_eq!(shape["turns"], json!([]), "transcripts are off");
    let codes = fixture.simulator.state().request_counts();
    assert!(codes[&Operation::V3List][&401] >= 3);
    fixture.stop().await;
}

#[tokio::test]
async fn apis_that_are_not_served_answer_a_plain_404() {
    let served =
        ServedApis { v3_by_id: false, v3_audio: false, webhook_endpoints: false, ..ServedApis::default() };
    let fixture = Fixture::start(Scenario { served, ..scenario(10) }).await;
    let call = fixture.voice();
    for path in [
        fixture.v3(&format!("/{}", call.id)),
        fixture.v3(&format!("/{}/audio", call.id)),
        "/v1/webhook-endpoints".to_owned(),
        "/nothing".to_owned(),
    ] {
        let (status, body) = fixture.json(&path).await;
        assert_eq!(
            (status, body),
            (StatusCode::NOT_FOUND, json!({ "message": "Not Found", "errors": [] })),
            "{path}"
        );
    }
    assert_eq!(fixture.json(&fixture.data(&format!("/{}", call.id))).await.0, StatusCode::OK);
    fixture.simulator.state().set_served(ServedApis { data_api: false, ..ServedApis::default() });
    assert_eq!(fixture.json(&fixture.v3(&format!("/{}", call.id))).await.0, StatusCode::OK);
    assert_eq!(fixture.json(&fixture.data("")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        answer(fixture.request(Method::POST, &fixture.v3(""), &json!({}))).await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    fixture.stop().await;
}

#[tokio::test]
async fn endpoints_can_be_created_updated_rotated_and_deleted() {
    let fixture = Fixture::start(scenario(1)).await;
    let path = "/v1/webhook-endpoints";
    let body = json!({ "name": "n", "url": "https://example.com/hook", "event_types": ["alerts.triggered"] });
    let (status, made) = answer(fixture.request(Method::POST, path, &body)).await;
    assert_eq!(status, StatusCode::CREATED);
    let (id, secret) = (made["id"].as_str().unwrap(), made["signing_secret"].as_str().unwrap());
    assert!(id.starts_with("whe_") && secret.len() >= 32);
    assert_eq!(
        (&made["timeout_ms"], &made["enabled"], &made["headers"]),
        (&json!(5000), &json!(true), &json!({}))
    );

    let one = format!("{path}/{id}");
    let (_, shown) = fixture.json(&one).await;
    assert!(shown.get("signing_secret").is_none(), "shown once");
    let (_, changed) =
        answer(fixture.request(Method::PATCH, &one, &json!({ "enabled": false, "timeout_ms": 9000 }))).await;
    assert_eq!(
        (&changed["enabled"], &changed["timeout_ms"], &changed["name"]),
        (&json!(false), &json!(9000), &json!("n"))
    );
    let (_, rotated) =
        answer(fixture.request(Method::POST, &format!("{one}/rotate-secret"), &json!(null))).await;
    assert_ne!(rotated["signing_secret"], secret);
    assert_eq!(fixture.json(&format!("{path}?enabled=true")).await.1["data"], json!([]));
    assert_eq!(fixture.json(&format!("{path}?event_type=alerts.triggered")).await.1["data"][0]["id"], id);
    assert_eq!(answer(fixture.request(Method::DELETE, &one, &json!(null))).await.0, StatusCode::NO_CONTENT);
    assert_eq!(fixture.json(&one).await.0, StatusCode::NOT_FOUND);
    assert_eq!(fixture.json(&format!("{path}/17")).await.0, StatusCode::UNPROCESSABLE_ENTITY);

    fixture.stop().await;
}

#[tokio::test]
async fn rejects_invalid_endpoints_and_limits_their_number() {
    let fixture = Fixture::start(scenario(1)).await;
    let path = "/v1/webhook-endpoints";
    for wrong in [
        json!({ "name": "n", "url": "http://example.com/", "event_types": ["alerts.triggered"] }),
        json!({ "name": "n", "url": "https://example.com/", "event_types": [] }),
        json!({ "name": "n", "url": "https://example.com/", "event_types": ["no.such"] }),
        json!({ "name": "n", "url": "https://example.com/", "event_types": ["alerts.triggered"], "description": "d" }),
        json!({ "name": "n", "url": "https://example.com/", "event_types": ["alerts.triggered"], "timeout_ms": 1 }),
        json!({ "name": "", "url": "https://example.com/", "event_types": ["alerts.triggered"] }),
        json!({ "url": "https://example.com/" }),
        json!([]),
    ] {
        let (status, body) = answer(fixture.request(Method::POST, path, &wrong)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{wrong} {body}");
    }
    let quick =
        json!({ "url": "http://127.0.0.1:9/hook", "description": "d", "events": ["conversation.completed"] });
    let named =
        json!({ "url": "http://127.0.0.1:9/hook", "name": "n", "events": ["conversation.completed"] });
    let (status, _) = answer(fixture.request(Method::POST, "/v1/webhooks/endpoints", &named)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "a field of the reference");
    assert_eq!(
        fixture.json("/v1/webhooks/endpoints").await.0,
        StatusCode::NOT_FOUND,
        "no document names this request"
    );
    for made in 0..11 {
        let (status, body) = answer(fixture.request(Method::POST, "/v1/webhooks/endpoints", &quick)).await;
        assert_eq!(status, if made < 10 { StatusCode::CREATED } else { StatusCode::CONFLICT });
        assert_eq!(body["signing_secret"].is_string(), made < 10);
    }
    let ids: BTreeSet<_> =
        fixture.json(path).await.1["data"].as_array().unwrap().iter().map(|e| e["id"].to_string()).collect();
    assert_eq!(ids.len(), 10);
    fixture.stop().await;
}

#[tokio::test]
async fn the_message_envelope_names_the_field() {
    let fixture = Fixture::start(Scenario { envelope: ErrorEnvelope::Message, ..scenario(1) }).await;
    let (status, body) = fixture.json(&fixture.v3("?limit=0")).await;
    assert_eq!((status, &body["errors"][0]["field"]), (StatusCode::BAD_REQUEST, &json!("limit")));
    assert!(body.get("error_code").is_none());
    fixture.stop().await;
}
