//! From a delivery to an archived, announced conversation.

use std::{collections::BTreeMap, fs, io::Cursor};

use polyhook::{
    archive::{AudioStatus, ObjectKind, ServedBy, Trigger},
    queue::Queue,
    worker::AudioChoice,
};
use polyhook_simulator::{BodyForm, CallInfo, Channel, Delivery, EventOptions, NewCall, Operation};
use serde_json::Value;

use super::{World, assert_consistent, call_on, sha256, voice};

#[tokio::test]
async fn archives_both_forms_of_an_event() {
    let world = World::start().await;
    for form in [BodyForm::Quickstart, BodyForm::Reference] {
        let call = world.call(&voice());
        let options = EventOptions { form, ..EventOptions::default() };
        world.deliver_as(&call, options).await;
        world.wait_until_idle().await;

        assert_eq!(world.names(&call), ["audio.wav", "conversation.json", "manifest.json"]);
        let served = world.get_v3(&call, "").await;
        assert_eq!(fs::read(world.place(&call).join("conversation.json")).unwrap(), served);
        assert_audio(&world, &call).await;
        assert_manifest(&world, &call, &Delivery::completed(&call, &options).event_id);
        assert_announced(&world, &call).await;
    }
    assert_eq!(world.visible().len(), 6, "nothing lies elsewhere");
    for (lane, depth) in world.queue().depths().await.unwrap() {
        assert_eq!(depth, 0, "{lane:?}");
    }
}

async fn assert_audio(world: &World, call: &CallInfo) {
    let bytes = fs::read(world.place(call).join("audio.wav")).unwrap();
    assert_eq!(bytes, world.get_v3(call, "/audio?direction=combined&redacted=false").await);
    let manifest = world.manifest(call);
    let object = manifest.objects.iter().find(|object| object.name == "audio.wav").unwrap();
    assert_eq!((object.size_bytes, &object.sha256), (bytes.len() as u64, &sha256(&bytes)));

    let mut reader = hound::WavReader::new(Cursor::new(&bytes)).unwrap();
    let (spec, frames, wav) = (reader.spec(), reader.duration(), object.wav.clone().unwrap());
    assert_eq!((spec.channels, spec.sample_rate), (wav.channels, wav.sample_rate_hz));
    assert!((f64::from(frames) / f64::from(spec.sample_rate) - wav.seconds).abs() < 1e-9);
    assert!((u128::from(call.duration_ms) * 8).abs_diff(u128::from(frames)) < 8, "as long as the call");
    let samples = reader.samples::<i16>().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(samples.len() * 2, usize::try_from(wav.data_bytes).unwrap());
    assert!(samples.iter().any(|sample| sample.unsigned_abs() > 1000), "the recording is not silent");
}

fn assert_manifest(world: &World, call: &CallInfo, event_id: &str) {
    let manifest = assert_consistent(&world.place(call));
    assert_eq!(
        (&manifest.conversation_id, &manifest.account_id, &manifest.project_id),
        (&call.id, &call.account_id, &call.project_id)
    );
    assert_eq!((manifest.schema_version, manifest.revision), (1, 1));
    let facts = &manifest.facts;
    assert_eq!((facts.channel.as_str(), facts.environment.as_str()), ("VOICE-SIP", "live"));
    assert_eq!((facts.started_at, facts.turn_count), (call.started_at, call.turns as u64));
    assert_eq!(facts.handoff.is_some(), call.handoff);
    let seconds = u32::try_from(call.duration_ms.div_ceil(1000)).unwrap();
    assert_eq!(facts.total_duration_s, Some(f64::from(seconds)));
    assert!(!facts.in_progress && facts.polyai_duration_s.is_some());
    assert_eq!((manifest.audio.status, manifest.audio.redacted), (AudioStatus::Ready, false));
    assert_eq!(manifest.warnings, [""; 0]);
    let provenance = &manifest.provenance;
    assert_eq!((provenance.served_by, provenance.trigger), (ServedBy::V3, Trigger::Webhook));
    assert_eq!(provenance.event_id.as_deref(), Some(event_id));
    let timings = &manifest.timings;
    assert!(timings.received_at.unwrap() <= timings.fetched_at && timings.fetched_at <= timings.archived_at);
    let objects: Vec<_> =
        manifest.objects.iter().map(|o| (o.name.as_str(), o.kind, o.content_type.as_str())).collect();
    assert_eq!(
        objects,
        [
            ("conversation.json", ObjectKind::Conversation, "application/json"),
            ("audio.wav", ObjectKind::Audio, "audio/wav")
        ]
    );
}

async fn assert_announced(world: &World, call: &CallInfo) {
    let all = world.announcements().await;
    let mut own = all.iter().filter(|announcement| announcement.subject == call.id);
    let (announcement, more) = (own.next().unwrap(), own.next());
    assert!(more.is_none());
    assert_eq!(announcement.routing_key(), "conversation.ready.live");
    assert_eq!(announcement.id.len(), 64);
    let event: Value = serde_json::from_slice(&announcement.body).unwrap();
    assert_eq!((&event["specversion"], &event["type"]), (&"1.0".into(), &"conversation.ready".into()));
    assert_eq!((&event["id"], &event["subject"]), (&announcement.id.clone().into(), &call.id.clone().into()));
    let place = world.place(call);
    let manifest: Value = serde_json::from_slice(&fs::read(place.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(event["data"]["manifest"], manifest);
    let urls: BTreeMap<String, url::Url> = serde_json::from_value(event["data"]["urls"].clone()).unwrap();
    assert_eq!(urls.keys().collect::<Vec<_>>(), ["audio.wav", "conversation.json", "manifest.json"]);
    for (name, url) in urls {
        assert_eq!(fs::read(url.to_file_path().unwrap()).unwrap(), fs::read(place.join(name)).unwrap());
    }
}

#[tokio::test]
async fn a_second_delivery_changes_nothing_and_repeats_the_announcement() {
    let world = World::start().await;
    let (call, chat) = (world.archive(&voice()).await, world.archive(&call_on(Channel::Webchat)).await);
    let before = world.visible();
    world.sim.state().reset_request_counts();

    for seed in 2..5 {
        world.deliver_as(&call, EventOptions { seed, ..EventOptions::default() }).await;
        world.deliver_as(&chat, EventOptions { seed, ..EventOptions::default() }).await;
    }
    world.wait_until_idle().await;
    let looked = world.requests(Operation::V3Conversation);
    assert!((2..=6).contains(&looked), "both were looked at, and no event twice: {looked}");
    assert_eq!(world.visible(), before, "no byte and no time of change");
    assert_eq!(world.requests(Operation::V3Audio), 0, "no recording is downloaded again");
    let announcements = world.announcements().await;
    for call in [&call, &chat] {
        let own: Vec<_> = announcements.iter().filter(|other| other.subject == call.id).collect();
        assert!(own.iter().all(|other| (&other.id, &other.body) == (&own[0].id, &own[0].body)));
        // The embedded queue may know a repeat by its id.
        assert!((1..=4).contains(&own.len()));
    }
    assert_eq!(world.dead_letters().await, []);
}

#[tokio::test]
async fn announcement_id_depends_on_the_content() {
    let mut ids = Vec::new();
    for seed in [1, 1, 2] {
        let world = World::with(|scenario, _| scenario.seed = seed).await;
        let call = NewCall { id: Some("CA1".to_owned()), ..voice() };
        world.archive(&call).await;
        ids.push(world.announcements().await.remove(0).id);
    }
    assert_eq!(ids[0], ids[1], "another archive at another time");
    assert_ne!(ids[0], ids[2], "other words");
}

/// Adds a call whose redacted recording differs from the other one.
async fn with_something_private(world: &World) -> CallInfo {
    loop {
        let call = world.call(&NewCall { turns: Some(8), ..voice() });
        let user = async |redacted: bool| {
            world.get_v3(&call, &format!("/audio?direction=user&redacted={redacted}")).await
        };
        if user(true).await != user(false).await {
            return call;
        }
    }
}

#[tokio::test]
async fn archives_every_choice_of_recordings() {
    for (choice, redacted, expected) in [
        (AudioChoice::Combined, true, vec![("audio.wav", "combined")]),
        (AudioChoice::User, false, vec![("audio.user.wav", "user")]),
        (AudioChoice::Agent, true, vec![("audio.agent.wav", "agent")]),
        (AudioChoice::Both, false, vec![("audio.user.wav", "user"), ("audio.agent.wav", "agent")]),
        (AudioChoice::Both, true, vec![("audio.user.wav", "user"), ("audio.agent.wav", "agent")]),
    ] {
        let world = World::with(|_, config| {
            config.worker.audio = choice;
            config.worker.redacted = redacted;
        })
        .await;
        let call = with_something_private(&world).await;
        world.sim.state().reset_request_counts();
        world.deliver(&call).await;
        world.wait_until_idle().await;
        assert_eq!(world.requests(Operation::V3Audio), expected.len() as u64);
        let manifest = assert_consistent(&world.place(&call));
        assert_eq!((manifest.audio.status, manifest.audio.redacted), (AudioStatus::Ready, redacted));
        assert_eq!(world.names(&call).len(), 2 + expected.len());
        for (name, direction) in expected {
            let served = async |redacted: bool| {
                world.get_v3(&call, &format!("/audio?direction={direction}&redacted={redacted}")).await
            };
            assert_eq!(fs::read(world.place(&call).join(name)).unwrap(), served(redacted).await, "{name}");
            let object = manifest.objects.iter().find(|object| object.name == name).unwrap();
            assert_eq!(object.direction.unwrap().as_str(), direction);
        }
    }
}

#[tokio::test]
async fn requests_no_recording_of_a_chat() {
    let world = World::start().await;
    for channel in [Channel::Webchat, Channel::Chat] {
        let call = world.archive(&call_on(channel)).await;
        assert_eq!(world.names(&call), ["conversation.json", "manifest.json"]);
        let manifest = assert_consistent(&world.place(&call));
        assert_eq!(manifest.audio.status, AudioStatus::NotApplicable);
        assert_eq!(manifest.facts.channel, channel.as_str());
    }
    assert_eq!(world.requests(Operation::V3Audio) + world.requests(Operation::DataAudio), 0);
}

#[tokio::test]
async fn requests_no_recording_if_audio_is_off() {
    let world = World::with(|_, config| config.worker.audio = AudioChoice::Off).await;
    let call = world.archive(&voice()).await;
    assert_eq!(world.manifest(&call).audio.status, AudioStatus::Disabled);
    assert_eq!(world.names(&call), ["conversation.json", "manifest.json"]);
    assert_eq!(world.requests(Operation::V3Audio) + world.requests(Operation::DataAudio), 0);
}
