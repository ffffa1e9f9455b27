//! Answers that come from a gateway, a proxy or a login page instead of PolyAI. They are never final.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::Body,
    http::{Response as HttpResponse, header::LOCATION, header::RETRY_AFTER},
    response::Response,
};
use polyhook::{
    archive::{AudioStatus, ServedBy},
    event::Event,
    lifecycle::Lifecycle,
    polyai::ApiChoice,
    queue::Queue,
    queue::QueueKind,
    worker::AudioChoice,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{World, assert_consistent, eventually, second_project, stub::Stub};

pub(super) const ACCOUNT: &str = "ws-5a11d0c5";
pub(super) const PROJECT: &str = "PROJECT-C0NC1ERG";
const HTML: &str = "<!doctype html><title>403 Forbidden</title>";
const ENVELOPE: &str = r#"{"success":false,"error":"No.","error_id":"1","error_code":"PROJECT_NOT_FOUND","error_message":"No.","data":null}"#;

/// The first answers to requests about a conversation. The last one is its JSON.
#[derive(Clone, Debug)]
struct Answer {
    status: u16,
    retry_after: Option<&'static str>,
    body: &'static str,
}

fn answer(status: u16, body: &'static str) -> Answer {
    Answer { status, retry_after: None, body }
}

/// Returns the JSON of a conversation without recordings.
pub(super) fn conversation(id: &str) -> Value {
    json!({ "id": id, "account_id": ACCOUNT, "project_id": PROJECT, "channel": "CHAT", "environment": "live",
            "in_progress": false, "started_at": super::BEGAN, "num_turns": 1, "turns": [{}] })
}

/// A server that answers with faults, and then with the conversation.
struct FaultyServer {
    stub: Stub,
    times: Arc<Mutex<HashMap<String, Vec<Instant>>>>,
}

impl FaultyServer {
    async fn start(lifecycle: &Lifecycle, faults: Vec<(String, Vec<Answer>)>) -> Self {
        let times = Arc::<Mutex<HashMap<String, Vec<Instant>>>>::default();
        let noted = Arc::clone(&times);
        let faults: Arc<HashMap<_, _>> = Arc::new(faults.into_iter().collect());
        let respond = move |path: &str| {
            let id = path.rsplit('/').next().unwrap_or_default();
            let mut times = noted.lock().unwrap();
            let times = times.entry(id.to_owned()).or_default();
            times.push(Instant::now());
            match faults.get(id).and_then(|faults| faults.get(times.len() - 1)) {
                Some(fault) => response(fault),
                None => Response::new(Body::from(conversation(id).to_string())),
            }
        };
        Self { stub: Stub::start(lifecycle, respond).await, times }
    }

    /// Returns the time between the first two requests for a conversation.
    fn first_wait(&self, id: &str) -> Duration {
        let times = self.times.lock().unwrap();
        times[id][1].duration_since(times[id][0])
    }

    fn requests(&self, id: &str) -> usize {
        self.times.lock().unwrap().get(id).map_or(0, Vec::len)
    }
}

fn response(answer: &Answer) -> Response {
    let mut response = HttpResponse::builder().status(answer.status);
    // Gateways repeat headers of PolyAI, so this one proves nothing.
    response = response.header("x-polyai-correlation-id", "corr-0001");
    if let Some(retry_after) = answer.retry_after {
        response = response.header(RETRY_AFTER, retry_after);
    }
    if (300..400).contains(&answer.status) {
        response = response.header(LOCATION, "https://login.example.invalid/");
    }
    response.body(Body::from(answer.body)).unwrap()
}

/// A world whose v3 API is `server`, without recordings.
async fn world(server: &FaultyServer, api: ApiChoice, delays: Vec<Duration>) -> World {
    World::with(|_, config| {
        config.polyai.base_url = Some(server.stub.url.clone());
        config.polyai.api = api;
        config.worker.audio = AudioChoice::Off;
        config.retry.delays = delays;
    })
    .await
}

pub(super) async fn deliver(world: &World, id: &str) {
    let data = json!({ "conversation_id": id, "environment": "live", "project_id": PROJECT });
    world.deliver_body(&json!({ "type": "conversation.completed", "data": data })).await;
}

#[tokio::test]
async fn waits_for_the_later_of_header_and_schedule() {
    const PAST: &str = "Tue, 06 Nov 1990 08:49:37 GMT";
    let delay = Duration::from_secs(2);
    let headers = [(503, "0"), (503, "1"), (503, PAST), (500, "soon"), (429, "1")];
    let faults = headers.map(|(status, header)| {
        let fault = Answer { status, retry_after: Some(header), body: "" };
        (format!("{status}-{}", header.len()), vec![fault])
    });
    let ids = faults.clone().map(|(id, _)| id);
    let lifecycle = Lifecycle::new();
    let server = FaultyServer::start(&lifecycle, faults.to_vec()).await;
    let world = world(&server, ApiChoice::V3, vec![delay]).await;
    for id in &ids {
        // The 429, which pauses the project, comes last.
        deliver(&world, id).await;
        eventually("requested", async || server.requests(id) > 0).await;
    }
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    for id in &ids {
        assert!(server.first_wait(id) >= delay, "{id}: {:?}", server.first_wait(id));
    }
}

#[tokio::test]
async fn a_longer_retry_after_delays_the_next_attempt() {
    let fault = Answer { status: 503, retry_after: Some("1"), body: "" };
    let lifecycle = Lifecycle::new();
    let server = FaultyServer::start(&lifecycle, vec![("later".to_owned(), vec![fault])]).await;
    let world = world(&server, ApiChoice::V3, vec![Duration::from_millis(20)]).await;
    deliver(&world, "later").await;
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    assert!(server.first_wait("later") >= Duration::from_secs(1), "{:?}", server.first_wait("later"));
}

#[tokio::test]
async fn only_polyais_own_final_codes_end_a_job_at_once() {
    let mut faults = Vec::new();
    for (status, body) in [
        (401, HTML),
        (403, HTML),
        (404, "default backend - 404"),
        (421, ""),
        (407, HTML),
        (400, ""),
        (402, HTML),
        (405, ""),
        (406, r#"{"message":"Not Acceptable"}"#),
        (409, ""),
        (410, ""),
        (413, HTML),
        (418, "short and stout"),
        (422, r#"{"detail":[{"loc":["path"],"msg":"no","type":"value_error"}]}"#),
        (431, ""),
        (451, HTML),
        (499, ""),
        (404, r#"{"error_code":"PROJECT_NOT_FOUND"}"#),
        (404, r#"{"success":true,"error_code":"PROJECT_NOT_FOUND"}"#),
        (404, &ENVELOPE[..ENVELOPE.len() - 1]),
        (403, r#"{"success":false,"errors":[{"code":10000,"message":"Authentication error"}]}"#),
        (403, r#"{"success":false,"error_code":"ACCESS_DENIED","error_id":"1"}"#),
        (502, ENVELOPE),
        (511, HTML),
        (302, ""),
        (304, ""),
        (200, HTML),
        (200, ""),
        (200, r#"{"status":"processing"}"#),
        (200, r#"{"id":"fault-27","channel":"CHAT","turns":[{"user_in"#),
        (200, ENVELOPE),
        (202, ""),
        (204, ""),
        (206, r#"{"id":"#),
    ] {
        faults.push((format!("fault-{}", faults.len()), vec![answer(status, body)]));
    }
    faults.push(("final".to_owned(), vec![answer(404, ENVELOPE)]));
    let names: Vec<_> = faults.iter().map(|(id, faults)| (id.clone(), faults[0].clone())).collect();
    let lifecycle = Lifecycle::new();
    let server = FaultyServer::start(&lifecycle, faults).await;
    let world = world(&server, ApiChoice::V3, vec![Duration::from_millis(20)]).await;
    for (id, _) in &names {
        deliver(&world, id).await;
    }
    world.wait_until_idle().await;

    let dead = world.only_dead_letter().await;
    assert_eq!(Event::read(&dead.message.body).conversation_id.as_deref(), Some("final"));
    assert_eq!((dead.reason(), dead.history.failures), ("unknown_project", 1));
    for (id, fault) in names.iter().filter(|(id, _)| id != "final") {
        assert_eq!(server.requests(id), 2, "{fault:?}");
        let manifest = assert_consistent(&world.place_in(ACCOUNT, PROJECT, id));
        assert_eq!(manifest.warnings, [""; 0], "{fault:?}");
    }
}

#[tokio::test]
async fn a_gateways_answer_keeps_its_reason_and_names_the_gateway() {
    let faults = [(403, "key_lacks_scope"), (404, "not_served"), (421, "request_refused")];
    let answers = faults.map(|(status, reason)| (reason.to_owned(), vec![answer(status, HTML); 2]));
    let lifecycle = Lifecycle::new();
    let server = FaultyServer::start(&lifecycle, answers.to_vec()).await;
    let world = world(&server, ApiChoice::V3, vec![Duration::from_millis(20)]).await;
    for (_, reason) in faults {
        deliver(&world, reason).await;
    }
    world.wait_until_idle().await;
    let dead = world.dead_letters().await;
    assert_eq!(dead.len(), faults.len());
    for letter in dead {
        let expected = Event::read(&letter.message.body).conversation_id.unwrap();
        assert_eq!((letter.reason(), letter.history.failures), (expected.as_str(), 2));
        let last = letter.history.attempts.last().unwrap();
        assert!(last.detail.contains("a gateway or a proxy may have sent it"), "{}", last.detail);
    }
}

#[tokio::test]
async fn a_gateways_404_moves_no_project_to_the_data_api() {
    let lifecycle = Lifecycle::new();
    // v3 fails once, and the Data API serves the conversation meanwhile.
    let server = FaultyServer::start(
        &lifecycle,
        vec![("first".to_owned(), vec![answer(404, "default backend - 404")])],
    )
    .await;
    let data = FaultyServer::start(&lifecycle, Vec::new()).await;
    let world = World::with(|_, config| {
        config.polyai.base_url = Some(server.stub.url.clone());
        config.polyai.platform_url = Some(data.stub.url.clone());
        config.worker.audio = AudioChoice::Off;
    })
    .await;
    for (id, api) in [("first", ServedBy::Data), ("second", ServedBy::V3)] {
        deliver(&world, id).await;
        world.wait_until_idle().await;
        let manifest = assert_consistent(&world.place_in(ACCOUNT, PROJECT, id));
        assert_eq!(manifest.provenance.served_by, api, "{id}");
    }
    assert_eq!((server.requests("second"), data.requests("second")), (1, 0));
}

/// Returns a tenth of a second of sound.
pub(super) fn recording() -> Vec<u8> {
    let sound = [0x10; 1600];
    let length = u32::try_from(sound.len()).unwrap();
    let mut wav = b"RIFF".to_vec();
    wav.extend((36 + length).to_le_bytes());
    wav.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    wav.extend(8000_u32.to_le_bytes());
    wav.extend(16000_u32.to_le_bytes());
    wav.extend(b"\x02\0\x10\0data");
    wav.extend(length.to_le_bytes());
    wav.extend(sound);
    wav
}

#[tokio::test]
async fn a_gateways_404_is_no_word_about_a_recording() {
    let lifecycle = Lifecycle::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let stub = Stub::start(&lifecycle, move |path: &str| {
        if !path.ends_with("/audio") {
            let mut call = conversation(path.rsplit('/').next().unwrap_or_default());
            call["channel"] = json!("VOICE-SIP");
            return Response::new(Body::from(call.to_string()));
        }
        if counter.fetch_add(1, Ordering::SeqCst) < 2 {
            return response(&answer(404, r#"{"error_code":"CONVERSATIONS_RECORDING_NOT_FOUND"}"#));
        }
        let mut wav = Response::new(Body::from(recording()));
        wav.headers_mut().insert("content-type", "audio/wav".parse().unwrap());
        wav
    })
    .await;
    let world = World::with(|_, config| {
        config.polyai.base_url = Some(stub.url.clone());
        config.polyai.api = ApiChoice::V3;
        // PolyAI's own word would be accepted at once.
        config.worker.audio_wait = Duration::ZERO;
    })
    .await;
    deliver(&world, "call").await;
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    let manifest = assert_consistent(&world.place_in(ACCOUNT, PROJECT, "call"));
    assert_eq!(manifest.audio.status, AudioStatus::Ready, "{:?}", manifest.warnings);
    assert_eq!(asked.load(Ordering::SeqCst), 3);
    // Each of the six requests carried an id of its own.
    let seen = stub.seen();
    let ids = seen.iter().map(|(_, headers)| headers["x-polyai-correlation-id"].to_str().unwrap());
    let ids: std::collections::BTreeSet<_> = ids.filter(|id| id.starts_with("polyhook-")).collect();
    assert_eq!((ids.len(), seen.len()), (6, 6));
}

#[tokio::test]
async fn the_data_apis_word_about_the_key_is_not_final_behind_a_gateways_404() {
    const REJECTED: &str = r#"{"success":false,"error":"No.","error_id":"1","error_code":"AUTH_USER_UNAUTHORIZED","error_message":"No.","data":null}"#;
    let lifecycle = Lifecycle::new();
    let once = |answer| vec![("first".to_owned(), vec![answer])];
    let server = FaultyServer::start(&lifecycle, once(answer(404, "default backend - 404"))).await;
    let data = FaultyServer::start(&lifecycle, once(answer(401, REJECTED))).await;
    let world = World::with(|_, config| {
        config.polyai.base_url = Some(server.stub.url.clone());
        config.polyai.platform_url = Some(data.stub.url.clone());
        config.worker.audio = AudioChoice::Off;
    })
    .await;
    deliver(&world, "first").await;
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    let manifest = assert_consistent(&world.place_in(ACCOUNT, PROJECT, "first"));
    assert_eq!(manifest.provenance.served_by, ServedBy::V3);
}

/// A server that ignores the project in the path.
#[tokio::test]
async fn of_several_answers_the_one_of_the_project_that_it_names_counts() {
    let lifecycle = Lifecycle::new();
    let stub = Stub::start(&lifecycle, |path: &str| {
        let mut body = conversation(path.rsplit('/').next().unwrap_or_default());
        body["project_id"] = json!("PROJECT-SECOND");
        Response::new(Body::from(body.to_string()))
    })
    .await;
    let world = World::with(|scenario, config| {
        scenario.projects.push(second_project());
        config.polyai.base_url = Some(stub.url.clone());
        config.worker.audio = AudioChoice::Off;
    })
    .await;
    let ids: Vec<_> = (0..8).map(|number| format!("call-{number}")).collect();
    for id in &ids {
        let data = json!({ "conversation_id": id, "environment": "live" });
        world.deliver_body(&json!({ "type": "conversation.completed", "data": data })).await;
    }
    world.wait_until_idle().await;
    for id in &ids {
        let manifest = assert_consistent(&world.place_in(ACCOUNT, "PROJECT-SECOND", id));
        assert_eq!(manifest.warnings, [""; 0]);
    }
    assert_eq!(world.announcements().await.len(), ids.len());
}

#[tokio::test]
async fn an_answer_that_names_another_project_is_archived_with_a_warning() {
    let lifecycle = Lifecycle::new();
    let stub = Stub::start(&lifecycle, |path: &str| {
        let id = path.rsplit('/').next().unwrap_or_default();
        let mut body = conversation(id);
        let object = body.as_object_mut().unwrap();
        match id {
            "project" => drop(object.insert("project_id".to_owned(), json!("PROJECT-OTHER"))),
            "account" => drop(object.insert("account_id".to_owned(), json!("ws-other"))),
            "slug" => drop(object.insert("project_id".to_owned(), json!("concierge"))),
            "unnamed" => {
                object.remove("account_id");
                object.insert("project_id".to_owned(), Value::Null);
            }
            "another" => drop(object.insert("id".to_owned(), json!("same"))),
            _ => {}
        }
        Response::new(Body::from(body.to_string()))
    })
    .await;
    let world = World::with(|_, config| {
        config.polyai.base_url = Some(stub.url.clone());
        config.polyai.api = ApiChoice::V3;
        config.worker.audio = AudioChoice::Off;
        config.retry.delays = vec![Duration::from_millis(20)];
    })
    .await;
    let cases = [
        ("same", None),
        ("unnamed", None),
        ("project", Some("PROJECT-OTHER")),
        ("account", Some("ws-other")),
        ("slug", Some("concierge")),
    ];
    for (id, _) in cases {
        deliver(&world, id).await;
    }
    deliver(&world, "another").await;
    world.wait_until_idle().await;
    for (id, named) in cases {
        let warnings = assert_consistent(&world.place_in(ACCOUNT, PROJECT, id)).warnings;
        match named {
            None => assert_eq!(warnings, [""; 0], "{id}"),
            Some(named) => {
                let [warning] = &warnings[..] else { panic!("{id}: {warnings:?}") };
                assert!(warning.starts_with("other_project: ") && warning.contains(named), "{warning}");
            }
        }
    }
    let dead = world.only_dead_letter().await;
    assert_eq!(Event::read(&dead.message.body).conversation_id.as_deref(), Some("another"));
    assert_eq!((dead.reason(), dead.history.failures), ("bad_answer", 2), "asked for again, never archived");
    let depths = world.queue().depths().await.unwrap();
    assert!(
        depths
            .iter()
            .all(|(queue, depth)| matches!(queue, QueueKind::Dead | QueueKind::Refresh) || *depth == 0),
        "{depths:?}"
    );
}
