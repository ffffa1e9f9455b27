//! Recordings that are whole but not what their header, their label or their call says.

use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use polyhook::{
    app::Resources,
    archive::{Manifest, Trigger},
    clock::Clock,
    lifecycle::Lifecycle,
    polyai::ApiChoice,
    worker::{AudioChoice, FetchRequest},
};
use serde_json::{Value, json};

use super::{World, assert_consistent, eventually, sha256, stub::Stub};

/// Bytes of one second of telephone audio.
const SECOND: usize = 16_000;

/// One recording and what PolyAI says about its call.
#[derive(Clone)]
struct Case {
    audio: Vec<u8>,
    content_type: Option<&'static str>,
    is_chunked: bool,
    conversation: Value,
}

impl Case {
    /// A call that is as long as its recording of two seconds.
    fn new(audio: Vec<u8>) -> Self {
        Self {
            audio,
            content_type: Some("audio/wav"),
            is_chunked: false,
            conversation: json!({ "channel": "VOICE-SIP", "total_duration": 2 }),
        }
    }

    fn labelled(content_type: Option<&'static str>) -> Self {
        Self { content_type, ..Self::new(wav(2)) }
    }

    fn chunked(self) -> Self {
        Self { is_chunked: true, ..self }
    }

    fn with(mut self, changes: Value) -> Self {
        let Value::Object(changes) = changes else { panic!("{changes}") };
        self.conversation.as_object_mut().unwrap().extend(changes);
        self
    }

    fn conversation(&self, id: &str) -> Response {
        let mut body = json!({ "id": id, "environment": "live", "in_progress": false,
                               "started_at": super::BEGAN, "num_turns": 1, "turns": [{}] });
        body.as_object_mut().unwrap().extend(self.conversation.as_object().unwrap().clone());
        axum::Json(body).into_response()
    }

    fn audio(&self) -> Response {
        let body = if self.is_chunked {
            let pieces: Vec<_> = self.audio.chunks(5000).map(Bytes::copy_from_slice).collect();
            Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>)))
        } else {
            Body::from(self.audio.clone())
        };
        let mut response = Response::new(body);
        if let Some(content_type) = self.content_type {
            response.headers_mut().insert("content-type", content_type.parse().unwrap());
        }
        response
    }
}

/// Returns this many seconds of telephone audio in a perfect file.
fn wav(seconds: usize) -> Vec<u8> {
    let size = seconds * SECOND;
    let mut file =
        b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data".to_vec();
    file.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    file.extend((0..size).map(|at| u8::try_from(at % 251).unwrap()));
    fix_riff_size(&mut file);
    file
}

fn fix_riff_size(file: &mut [u8]) {
    let size = u32::try_from(file.len() - 8).unwrap();
    file[4..8].copy_from_slice(&size.to_le_bytes());
}

/// Returns two seconds whose header states this size.
fn declaring(data_size: u32) -> Vec<u8> {
    let mut file = wav(2);
    file[40..44].copy_from_slice(&data_size.to_le_bytes());
    file
}

/// Returns two seconds with a chunk of odd size before the sound and no padding byte after it.
fn unpadded() -> Vec<u8> {
    let mut file = wav(2);
    file.splice(36..36, *b"LIST\x05\0\0\0INFO!");
    fix_riff_size(&mut file);
    file
}

fn id_of(path: &str) -> &str {
    path.trim_end_matches("/audio").rsplit('/').next().unwrap()
}

/// Archives a conversation for each case and returns the manifests. Nothing may become a dead letter.
async fn archive_all(cases: &[(&str, Case)], audio: AudioChoice) -> BTreeMap<String, (Manifest, Vec<u8>)> {
    let lifecycle = Lifecycle::new();
    let by_id: BTreeMap<_, _> = cases.iter().map(|(id, case)| ((*id).to_owned(), case.clone())).collect();
    let stub = Stub::start(&lifecycle, move |path| {
        let Some(case) = by_id.get(id_of(path)) else { return StatusCode::NOT_FOUND.into_response() };
        if path.ends_with("/audio") { case.audio() } else { case.conversation(id_of(path)) }
    })
    .await;
    let world = stub_world(&stub, audio).await;
    for (id, _) in cases {
        deliver(&world, id, 1).await;
    }
    world.wait_until_idle().await;
    assert_eq!(world.dead_letters().await, []);
    let mut archived = BTreeMap::new();
    for (id, _) in cases {
        let folder = folder(&world, id);
        let audio = fs::read(folder.join("audio.wav")).unwrap_or_default();
        archived.insert((*id).to_owned(), (assert_consistent(&folder), audio));
    }
    archived
}

/// A world whose only PolyAI is the stub. There are three attempts.
async fn stub_world(stub: &Stub, audio: AudioChoice) -> World {
    World::with(|_, config| {
        config.polyai.base_url = Some(stub.url.clone());
        config.polyai.api = ApiChoice::V3;
        config.retry.delays = vec![Duration::from_millis(30); 2];
        config.worker.audio = audio;
    })
    .await
}

async fn deliver(world: &World, id: &str, number: u32) {
    let data = json!({ "conversation_id": id, "environment": "live", "number": number });
    world.deliver_body(&json!({ "type": "conversation.completed", "data": data })).await;
}

fn folder(world: &World, id: &str) -> std::path::PathBuf {
    let project = &world.config.projects[0];
    world.root().join(format!(
        "account_id={}/project_id={}/date=2026-11-03/{id}",
        project.account_id, project.project_id
    ))
}

fn words(manifest: &Manifest) -> Vec<&str> {
    manifest.warnings.iter().map(|warning| warning.split(':').next().unwrap()).collect()
}

#[tokio::test]
async fn keeps_whole_recordings_whose_header_is_wrong() {
    let mut wrong_riff_size = wav(2);
    wrong_riff_size[4..8].copy_from_slice(&10u32.to_le_bytes());
    let size = 2 * u32::try_from(SECOND).unwrap();
    let mut cases: Vec<(&str, Case)> = [
        ("huge", declaring(0x7FFF_FF00)),
        ("round", declaring(2_000_000_000)),
        ("negative", declaring(0xFFFF_1000)),
        ("a-bit", declaring(size + 16)),
        ("a-header", declaring(size + 44)),
        ("zero", declaring(0)),
        ("unpadded", unpadded()),
        ("riff-size", wrong_riff_size),
        ("junk", [wav(2), vec![0xA5; 700]].concat()),
    ]
    .map(|(id, audio)| (id, Case::new(audio)))
    .to_vec();
    cases.push(("chunked", Case::new(declaring(2_000_000_000)).chunked()));
    let archived = archive_all(&cases, AudioChoice::Combined).await;
    for (id, case) in &cases {
        let (manifest, audio) = &archived[*id];
        assert_eq!(sha256(audio), sha256(&case.audio), "{id}");
        assert_eq!(
            (manifest.audio.status.as_str(), words(manifest)),
            ("ready", vec!["recording_header"]),
            "{id}"
        );
        let wav = manifest.objects[1].wav.as_ref().unwrap();
        assert_eq!(wav.data_bytes, u64::from(size), "{id}");
        assert!((wav.seconds - 2.0).abs() < 1e-9, "{id}: {}", wav.seconds);
    }
}

#[tokio::test]
async fn accepts_a_recording_under_any_label() {
    let labels = [
        ("wav", Some("audio/wav")),
        ("app-x-wav", Some("application/x-wav")),
        ("x-wav", Some("audio/x-wav")),
        ("octets", Some("application/octet-stream")),
        ("html", Some("text/html; charset=utf-8")),
        ("json", Some("application/json")),
        ("none", None),
    ];
    let mut cases = labels.map(|(id, label)| (id, Case::labelled(label))).to_vec();
    cases.push(("chunked", Case::labelled(None).chunked()));
    for (id, (manifest, audio)) in archive_all(&cases, AudioChoice::Combined).await {
        assert_eq!((manifest.audio.status.as_str(), words(&manifest)), ("ready", vec![]), "{id}");
        assert!(audio == wav(2), "{id}");
        assert_eq!(manifest.objects[1].content_type, "audio/wav");
    }
}

#[tokio::test]
async fn a_page_labelled_as_audio_is_not_a_recording() {
    let page = b"<!doctype html><html>Sign in</html>".to_vec();
    let cases = [
        ("page", Case::new(page)),
        ("mp3", Case::new(b"ID3\x04\0\0\0\0\0\0\0\0\0\0\0\0".to_vec())),
        ("empty", Case::new(Vec::new()).chunked()),
        ("header", Case::new(wav(0))),
        ("half-header", Case::new(wav(2)[..30].to_vec())),
    ];
    for (id, (manifest, _)) in archive_all(&cases, AudioChoice::Combined).await {
        assert_eq!(
            (manifest.audio.status.as_str(), words(&manifest)),
            ("failed", vec!["recording_failed"]),
            "{id}"
        );
        assert_eq!((manifest.objects.len(), manifest.facts.turn_count), (1, 1), "{id}");
    }
}

#[tokio::test]
async fn warns_if_sound_or_turns_are_missing() {
    let turns =
        |counted: u64, present: usize| json!({ "num_turns": counted, "turns": vec![json!({}); present] });
    let cases = [
        ("short", Case::new(wav(2)).with(json!({ "total_duration": 600 })), vec!["recording_length"], 2.0),
        ("long", Case::new(wav(60)).with(json!({ "total_duration": 6 })), vec!["recording_length"], 60.0),
        (
            "ten",
            Case::new(wav(2).repeat(10)).with(json!({ "total_duration": 20 })),
            vec!["recording_header"],
            20.0,
        ),
        (
            "ten-times",
            Case::new(wav(2).repeat(10)).with(json!({ "total_duration": 2 })),
            vec!["recording_header", "recording_length"],
            20.0,
        ),
        ("turns", Case::new(wav(2)).with(turns(8, 2)), vec!["turns_missing"], 2.0),
        ("all", Case::new(wav(2)).with(turns(8, 8)), vec![], 2.0),
        ("none", Case::new(wav(2)).with(turns(8, 0)), vec!["transcript_hidden"], 2.0),
        ("ordinary", Case::new(wav(2)).with(json!({ "total_duration": 6.5 })), vec![], 2.0),
    ];
    let all: Vec<_> = cases.iter().map(|(id, case, ..)| (*id, case.clone())).collect();
    let archived = archive_all(&all, AudioChoice::Combined).await;
    for (id, case, expected, seconds) in &cases {
        let (manifest, audio) = &archived[*id];
        assert!(*audio == case.audio, "{id}");
        assert_eq!((manifest.audio.status.as_str(), words(manifest)), ("ready", expected.clone()), "{id}");
        let wav = manifest.objects[1].wav.as_ref().unwrap();
        assert!((wav.seconds - seconds).abs() < 1e-9, "{id}: {}", wav.seconds);
    }
}

#[tokio::test]
async fn only_voice_channels_wait_for_a_recording() {
    let channels = ["SMS", "RCS", "WHATSAPP", "whatsapp.polyai", "email", "WEBCHAT", "CHAT", "Sms"];
    let mut cases: Vec<_> = channels
        .map(|channel| (channel, Case::new(wav(2)).with(json!({ "channel": channel, "audioUrl": "x" }))))
        .to_vec();
    cases.push(("no-channel", Case::new(wav(2)).with(json!({ "channel": null, "audioUrl": null }))));
    for (id, (manifest, _)) in archive_all(&cases, AudioChoice::Combined).await {
        assert_eq!((manifest.audio.status.as_str(), manifest.objects.len()), ("not_applicable", 1), "{id}");
    }
    let voice = [
        ("voice", Case::new(wav(2)).with(json!({ "channel": "voice" }))),
        ("url", Case::new(wav(2)).with(json!({ "channel": null, "audioUrl": "conversations/url/audio" }))),
    ];
    for (id, (manifest, _)) in archive_all(&voice, AudioChoice::Combined).await {
        assert_eq!(manifest.audio.status.as_str(), "ready", "{id}");
    }
}

/// PolyAI has the user's side at once, and the agent's after some requests, or never.
#[tokio::test]
async fn keeps_the_side_that_polyai_has() {
    let lifecycle = Lifecycle::new();
    let (user, agent) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let is_served = Arc::new(AtomicBool::new(false));
    let (users, agents, served) = (Arc::clone(&user), Arc::clone(&agent), Arc::clone(&is_served));
    let stub = Stub::start_with_query(&lifecycle, move |path, query| {
        let case = Case::new(wav(2));
        if !path.ends_with("/audio") {
            return case.conversation(id_of(path));
        }
        if query.contains("direction=user") {
            users.fetch_add(1, Ordering::SeqCst);
            return case.audio();
        }
        let asked = agents.fetch_add(1, Ordering::SeqCst);
        match id_of(path) {
            "late" if asked < 2 => {
                let error = json!({ "success": false, "error_code": "CONVERSATIONS_RECORDING_NOT_FOUND" });
                (StatusCode::NOT_FOUND, axum::Json(error)).into_response()
            }
            "failing" if !served.load(Ordering::SeqCst) => StatusCode::BAD_GATEWAY.into_response(),
            _ => case.audio(),
        }
    })
    .await;
    let world = stub_world(&stub, AudioChoice::Both).await;
    let requests = || (user.swap(0, Ordering::SeqCst), agent.swap(0, Ordering::SeqCst));

    deliver(&world, "late", 1).await;
    world.wait_until_idle().await;
    let manifest = assert_consistent(&folder(&world, "late"));
    assert_eq!((manifest.audio.status.as_str(), manifest.objects.len()), ("ready", 3));
    assert_eq!(requests(), (1, 3), "the user's side was downloaded once");

    deliver(&world, "failing", 1).await;
    world.wait_until_idle().await;
    let manifest = assert_consistent(&folder(&world, "failing"));
    assert_eq!((manifest.audio.status.as_str(), words(&manifest)), ("failed", vec!["recording_failed"]));
    let names: Vec<_> = manifest.objects.iter().map(|object| object.name.as_str()).collect();
    assert_eq!(names, ["conversation.json", "audio.user.wav"]);
    assert_eq!(requests(), (1, 3));

    // A later job adds what is missing, and only that.
    is_served.store(true, Ordering::SeqCst);
    deliver(&world, "failing", 2).await;
    world.wait_until_idle().await;
    let manifest = assert_consistent(&folder(&world, "failing"));
    assert_eq!((manifest.audio.status.as_str(), manifest.objects.len(), manifest.revision), ("ready", 3, 2));
    assert_eq!(words(&manifest), [""; 0]);
    assert_eq!(requests(), (0, 1));
    assert_eq!(world.dead_letters().await, []);
}

#[tokio::test]
async fn a_persons_fetch_does_not_end_the_attempts_of_a_job() {
    let lifecycle = Lifecycle::new();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let stub = Stub::start(&lifecycle, move |path| {
        let case = Case::new(wav(2));
        if !path.ends_with("/audio") {
            return case.conversation(id_of(path));
        }
        let is_served = counted.fetch_add(1, Ordering::SeqCst) >= 2;
        if is_served { case.audio() } else { StatusCode::BAD_GATEWAY.into_response() }
    })
    .await;
    let world = World::with(|_, config| {
        config.polyai.base_url = Some(stub.url.clone());
        config.polyai.api = ApiChoice::V3;
        config.retry.delays = vec![Duration::from_millis(1500); 2];
    })
    .await;
    deliver(&world, "call", 1).await;
    eventually("the first attempt has failed", async || requests.load(Ordering::SeqCst) == 1).await;
    let queue = Arc::clone(&world.app.queue().queue);
    let worker =
        Resources::open(&world.config, &Clock::System).unwrap().worker(&world.config, queue, Clock::System);
    let request = FetchRequest {
        conversation_id: "call".to_owned(),
        account_id: None,
        project_id: None,
        trigger: Trigger::Command,
        event_id: None,
        received_at: Clock::System.now(),
        started_at: None,
        environment: None,
        traceparent: None,
        any_environment: true,
        discovery: None,
    };
    worker.archive_now(&request).await.unwrap();
    let first = assert_consistent(&folder(&world, "call"));
    assert_eq!((first.audio.status.as_str(), words(&first)), ("failed", vec!["recording_failed"]));
    world.wait_until_idle().await;
    let manifest = assert_consistent(&folder(&world, "call"));
    assert_eq!((manifest.audio.status.as_str(), manifest.revision), ("ready", 2));
}
