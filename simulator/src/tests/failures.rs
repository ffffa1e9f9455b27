//! Every fault, as a client sees it.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use futures_util::StreamExt;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Fixture, answer};
use crate::{Activity, CallScript, ErrorEnvelope, Fault, FaultAction, Operation, RetryAfter, Scenario};

async fn fixture() -> (Fixture, String) {
    let fixture = Fixture::start(Scenario::default()).await;
    let path = fixture.v3(&format!("/{}/audio", fixture.voice().id));
    (fixture, path)
}

fn once(fixture: &Fixture, action: FaultAction) {
    fixture.simulator.state().add_fault(None, Fault::new(&[], action).times(1));
}

#[tokio::test]
async fn a_status_fault_applies_the_given_number_of_times() {
    let (fixture, path) = fixture().await;
    let mut activity = fixture.simulator.state().subscribe();
    fixture
        .simulator
        .state()
        .add_fault(None, Fault::new(&[Operation::V3Audio], FaultAction::Status(503)).times(2));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(answer(fixture.get(&path)).await.0.as_u16());
    }
    assert_eq!(statuses, [503, 503, 200]);
    assert!(matches!(
        activity.recv().await.unwrap(),
        Activity::ErrorServed { operation: Operation::V3Audio, status: 503, id: Some(_) }
    ));
    once(&fixture, FaultAction::StatusIn { status: 500, envelope: ErrorEnvelope::Message });
    let (status, body) = answer(fixture.get(&path)).await;
    assert_eq!((status.as_u16(), body), (500, json!({ "message": "Internal Server Error", "errors": [] })));
    assert_eq!(fixture.simulator.state().request_count(Operation::V3Audio), 4);
    fixture.stop().await;
}

#[tokio::test]
async fn rate_limits_send_retry_after() {
    let (fixture, path) = fixture().await;
    once(&fixture, FaultAction::RateLimited(RetryAfter::Seconds(7)));
    let response = fixture.get(&path).send().await.unwrap();
    assert_eq!(
        (response.status(), response.headers()["retry-after"].to_str().unwrap()),
        (StatusCode::TOO_MANY_REQUESTS, "7")
    );
    once(&fixture, FaultAction::RateLimited(RetryAfter::Date(90)));
    let response = fixture.get(&path).send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "Tue, 03 Nov 2026 12:01:30 GMT");
    once(&fixture, FaultAction::RateLimited(RetryAfter::Absent));
    assert!(!fixture.get(&path).send().await.unwrap().headers().contains_key("retry-after"));
    fixture.stop().await;

    let fixture = Fixture::start(Scenario { rate_limit: Some(3.0), ..Scenario::default() }).await;
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(fixture.json(&fixture.v3("")).await.0.as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 429, 429]);
    fixture.stop().await;
}

#[tokio::test]
async fn delays_and_drips_slow_an_answer_down() {
    let (fixture, path) = fixture().await;
    once(&fixture, FaultAction::Delay(Duration::from_millis(200)));
    let started = Instant::now();
    fixture.get(&path).send().await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200));

    once(&fixture, FaultAction::Drip { bytes: 10_000, pause: Duration::from_millis(30) });
    once(&fixture, FaultAction::Cut(50_000));
    let started = Instant::now();
    let response = fixture.get(&path).send().await.unwrap();
    assert!(started.elapsed() < Duration::from_millis(150), "the headers are not delayed");
    assert_eq!(response.bytes().await.unwrap().len(), 50_000);
    assert!(started.elapsed() >= Duration::from_millis(150));
    fixture.stop().await;
}

#[tokio::test]
async fn bodies_end_early() {
    let (fixture, path) = fixture().await;
    let whole = fixture.get(&path).send().await.unwrap().content_length().unwrap();
    for action in [FaultAction::Truncate(30_000), FaultAction::Reset(30_000)] {
        once(&fixture, action.clone());
        let response = fixture.get(&path).send().await.unwrap();
        assert_eq!(response.content_length(), Some(whole), "the header announces the whole body");
        let mut body = response.bytes_stream();
        let mut got = 0;
        let end = loop {
            match body.next().await {
                Some(Ok(piece)) => got += piece.len(),
                other => break other,
            }
        };
        assert!(matches!(end, Some(Err(_))), "{action:?}");
        assert!(got <= 30_000);
        let reset = format!("{:?}", end.unwrap().unwrap_err()).contains("ConnectionReset");
        assert_eq!(reset, matches!(action, FaultAction::Reset(_)), "{action:?}");
    }
    once(&fixture, FaultAction::Cut(30_000));
    let response = fixture.get(&path).send().await.unwrap();
    assert_eq!(response.content_length(), Some(30_000));
    let bytes = response.bytes().await.unwrap();
    let riff = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    assert_eq!(
        (bytes.len(), u64::from(riff) + 8),
        (30_000, whole),
        "only the RIFF header has the full length"
    );
    once(&fixture, FaultAction::HangUp);
    assert!(fixture.get(&path).send().await.is_err());
    assert_eq!(fixture.get(&path).send().await.unwrap().status(), StatusCode::OK);
    fixture.stop().await;
}

#[tokio::test]
async fn invalid_recordings_are_served_with_200() {
    let (fixture, path) = fixture().await;
    for (action, length, kind) in [
        (FaultAction::Empty, 0, "audio/wav"),
        (FaultAction::HeaderOnly, 44, "audio/wav"),
        (FaultAction::Html, 92, "audio/wav"),
        (FaultAction::Json, 34, "application/json"),
    ] {
        once(&fixture, action.clone());
        let response = fixture.get(&path).send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (StatusCode::OK, &kind.parse().unwrap())
        );
        assert_eq!(response.bytes().await.unwrap().len(), length, "{action:?}");
    }
    once(&fixture, FaultAction::Redirect("http://other.example/x".to_owned()));
    let response = fixture.get(&path).send().await.unwrap();
    assert_eq!(
        (response.status(), response.headers()["location"].to_str().unwrap()),
        (StatusCode::FOUND, "http://other.example/x")
    );
    fixture.stop().await;
}

#[tokio::test]
async fn a_script_affects_only_its_call_and_sets_the_exact_size() {
    let (fixture, path) = fixture().await;
    let id = fixture.voice().id;
    let script = CallScript {
        audio_size: Some(ByteSize::mib(64)),
        faults: vec![Fault::new(&[Operation::V3Conversation], FaultAction::Status(500))],
        ..CallScript::default()
    };
    assert!(fixture.simulator.state().set_script(&id, script));
    let other = fixture.simulator.calls().into_iter().find(|call| call.id != id).unwrap().id;
    assert_eq!(fixture.json(&fixture.v3(&format!("/{id}"))).await.0.as_u16(), 500);
    assert_eq!(fixture.json(&fixture.v3(&format!("/{other}"))).await.0.as_u16(), 200);
    let response = fixture.get(&path).send().await.unwrap();
    assert_eq!(response.content_length(), Some(64 << 20));
    let mut body = response.bytes_stream();
    let mut got = 0;
    while let Some(piece) = body.next().await {
        got += piece.unwrap().len();
    }
    assert_eq!(got, 64 << 20);
    fixture.stop().await;
}

#[tokio::test]
async fn the_control_interface_changes_calls_faults_and_apis() {
    let (fixture, _) = fixture().await;
    let control = async |method: Method, path: &str, body| {
        answer(fixture.request(method, &format!("/_simulator/{path}"), &body)).await
    };
    let (status, added) = control(
        Method::POST,
        "calls",
        json!({ "count": 3, "environment": "pre-release", "channel": "VOICE-SIP", "turns": 4, "script": { "recording": "never" } }),
    )
    .await;
    assert_eq!((status, added["calls"].as_array().unwrap().len()), (StatusCode::CREATED, 3));
    let id = added["calls"][0]["id"].as_str().unwrap();
    assert_eq!(
        control(Method::PUT, &format!("calls/{id}/script"), json!({ "hidden_transcript": true })).await.0,
        StatusCode::NO_CONTENT
    );
    assert_eq!(fixture.json(&fixture.v3(&format!("/{id}"))).await.1["turns"], json!([]));
    // A call with a given id is added once.
    let own = || control(Method::PUT, "calls/CAown", json!({ "environment": "sandbox" }));
    let ((first, call), (second, same)) = (own().await, own().await);
    assert_eq!((first, second, &call), (StatusCode::CREATED, StatusCode::OK, &same));
    assert_eq!((&call["call"]["id"], &call["call"]["environment"]), (&json!("CAown"), &json!("sandbox")));
    let fault = json!({ "fault": { "operations": ["v3_list"], "times": 1, "action": { "rate_limited": { "seconds": 3 } } } });
    assert_eq!(control(Method::POST, "faults", fault).await.0, StatusCode::NO_CONTENT);
    assert_eq!(fixture.json(&fixture.v3("")).await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(control(Method::GET, "requests", json!(null)).await.1["v3_list"]["429"], 1);
    assert_eq!(control(Method::PUT, "served", json!({ "v3_list": false })).await.0, StatusCode::NO_CONTENT);
    assert_eq!(fixture.json(&fixture.v3("")).await.0, StatusCode::NOT_FOUND);
    for (path, body) in [
        ("faults", json!({ "fault": 1 })),
        ("calls", json!({ "turns": -1 })),
        ("calls", json!({ "turn": 1 })),
        ("deliver", json!({ "urll": 1 })),
    ] {
        assert_eq!(control(Method::POST, path, body).await.0, StatusCode::BAD_REQUEST, "{path}");
    }
    let (_, about) = control(Method::GET, "", json!(null)).await;
    assert_eq!(about["signing_secret"], fixture.simulator.signing_secret());
    assert_eq!(control(Method::GET, "calls", json!(null)).await.1["calls"].as_array().unwrap().len(), 24);
    fixture.stop().await;
}

#[tokio::test]
async fn garbage_does_not_stop_the_server() {
    let (fixture, path) = fixture().await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET /v3/a/b/conversations/%ff%00%2e%2e HTTP/1.1\r\nhost: x\r\nx-api-key: simulated-key-0001\r\nconnection: close\r\n\r\n",
        b"GET /v3/ws-5a11d0c5/PROJECT-C0NC1ERG/conversations?cursor=%ff&limit=-1&=&&%zz HTTP/1.1\r\nhost: x\r\nx-api-key: \xff\xfe\r\nconnection: close\r\n\r\n",
        b"POST /v1/webhook-endpoints HTTP/1.1\r\nhost: x\r\nx-api-key: simulated-key-0001\r\ncontent-length: 3\r\nconnection: close\r\n\r\n\xff{[",
        b"DELETE / HTTP/9.9\r\n\r\n",
    ] {
        let mut connection = TcpStream::connect(fixture.simulator.address()).await.unwrap();
        connection.write_all(garbage).await.unwrap();
        connection.shutdown().await.unwrap();
        let mut answer_bytes = Vec::new();
        let _ = connection.read_to_end(&mut answer_bytes).await;
        assert!(!answer_bytes.starts_with(b"HTTP/1.1 5"), "{}", String::from_utf8_lossy(&answer_bytes));
    }
    assert_eq!(fixture.get(&path).send().await.unwrap().status(), StatusCode::OK);
    fixture.stop().await;
}

#[tokio::test]
async fn a_slow_body_does_not_delay_the_shutdown() {
    let (fixture, path) = fixture().await;
    once(&fixture, FaultAction::Drip { bytes: 1, pause: Duration::from_hours(1) });
    let response = fixture.get(&path).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let started = Instant::now();
    fixture.stop().await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(response.bytes().await.is_err());
}
