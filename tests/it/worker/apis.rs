//! The choice between v3 and the Data API, and its effect on the archive.

use polyhook::{
    archive::{AudioStatus, ConversationFacts, ServedBy},
    polyai::ApiChoice,
};
use polyhook_simulator::{CallScript, NewCall, Operation, ServedApis};

use super::{World, assert_consistent, scripted, second_project, voice};

#[tokio::test]
async fn falls_back_to_the_data_api_and_remembers_it() {
    let world = World::with(|scenario, _| {
        scenario.projects.push(second_project());
        scenario.served = ServedApis { v3_by_id: false, ..ServedApis::default() };
    })
    .await;
    for project in ["PROJECT-C0NC1ERG", "PROJECT-SECOND"] {
        for _ in 0..3 {
            let call = NewCall { project_id: Some(project.to_owned()), ..voice() };
            let call = world.archive(&call).await;
            let manifest = assert_consistent(&world.place(&call));
            assert_eq!(manifest.provenance.served_by, ServedBy::Data);
            assert_eq!(manifest.audio.status, AudioStatus::Ready);
        }
    }
    assert_eq!(world.requests(Operation::V3Conversation), 2, "once for each project");
    assert_eq!(world.requests(Operation::DataConversation), 6);
    assert_eq!((world.requests(Operation::V3Audio), world.requests(Operation::DataAudio)), (6, 0));
}

#[tokio::test]
async fn remembers_the_api_of_recordings_separately() {
    let world = World::with(|scenario, _| {
        scenario.served = ServedApis { v3_audio: false, ..ServedApis::default() };
    })
    .await;
    for _ in 0..3 {
        let call = world.archive(&voice()).await;
        let manifest = assert_consistent(&world.place(&call));
        assert_eq!(
            (manifest.provenance.served_by, manifest.audio.status),
            (ServedBy::V3, AudioStatus::Ready)
        );
    }
    assert_eq!(world.requests(Operation::V3Audio), 1);
    assert_eq!(world.requests(Operation::DataAudio), 3);
    assert_eq!(
        (world.requests(Operation::V3Conversation), world.requests(Operation::DataConversation)),
        (3, 0)
    );
}

#[tokio::test]
async fn changes_the_api_when_the_remembered_one_stops_serving() {
    let world = World::with(|scenario, _| {
        scenario.served = ServedApis { v3_by_id: false, v3_audio: false, ..ServedApis::default() };
    })
    .await;
    world.archive(&voice()).await;
    world.sim.state().set_served(ServedApis { data_api: false, ..ServedApis::default() });
    let call = world.archive(&voice()).await;
    assert_eq!(world.manifest(&call).provenance.served_by, ServedBy::V3);
    assert_eq!(world.manifest(&call).audio.status, AudioStatus::Ready);
}

/// A customer has a key for v3 only, and v3 serves nothing but its list.
#[tokio::test]
async fn takes_conversations_from_the_v3_list_if_no_api_serves_them_by_id() {
    let world = World::with(|scenario, config| {
        scenario.projects[0].data_api_key = Some("another-key".to_owned());
        scenario.served = ServedApis { v3_by_id: false, v3_audio: false, ..ServedApis::default() };
        config.retry.delays = vec![std::time::Duration::from_mins(5)];
    })
    .await;
    let neighbours: Vec<_> = (0..60).map(|_| world.call(&voice())).collect();
    for call in [&neighbours[0], &neighbours[59]] {
        world.deliver(call).await;
        world.wait_until_idle().await;
    }
    let started_later = NewCall { started_at: Some("2026-11-03T23:59:59.999Z".parse().unwrap()), ..voice() };
    let later = world.add(&started_later).await;
    world.wait_until_idle().await;
    let list = format!(
        "v3/{}/{}/conversations?limit=1000&include_latency=true&include_context_state=true",
        later.account_id, later.project_id
    );
    let list = String::from_utf8(world.get(&list).await.to_vec()).unwrap();
    for call in [&neighbours[0], &neighbours[59], &later] {
        let manifest = assert_consistent(&world.place(call));
        assert_eq!(manifest.provenance.served_by, ServedBy::V3List);
        assert_eq!(manifest.audio.status, AudioStatus::Absent);
        let [warning] = &manifest.warnings[..] else { panic!("{:?}", manifest.warnings) };
        assert!(warning.starts_with("recording_absent: ") && warning.contains("data_api_key"), "{warning}");
        let archived = std::fs::read_to_string(world.place(call).join("conversation.json")).unwrap();
        assert!(archived.contains("\"turns\":[{") && archived.contains("\"latency\""), "{archived}");
        assert!(list.contains(&archived), "not PolyAI's bytes: {archived}");
    }
    // What is not served is not asked for again.
    assert_eq!(
        (world.requests(Operation::V3Conversation), world.requests(Operation::DataConversation)),
        (1, 1)
    );
    assert_eq!((world.requests(Operation::V3Audio), world.requests(Operation::DataAudio)), (3, 0));
}

#[tokio::test]
async fn without_a_data_api_key_unserved_recordings_are_absent() {
    let world = World::with(|scenario, config| {
        scenario.projects[0].data_api_key = Some("another-key".to_owned());
        scenario.served = ServedApis { v3_audio: false, ..ServedApis::default() };
        config.retry.delays = vec![std::time::Duration::from_mins(5)];
    })
    .await;
    let call = world.archive(&voice()).await;
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!((manifest.provenance.served_by, manifest.audio.status), (ServedBy::V3, AudioStatus::Absent));
    assert!(manifest.warnings[0].starts_with("recording_absent: "), "{:?}", manifest.warnings);
}

/// A recording that the customer's own Data API key should give can be added later.
#[tokio::test]
async fn with_a_rejected_data_api_key_the_recording_has_failed() {
    let world = World::with(|scenario, config| {
        scenario.projects[0].data_api_key = Some("the-key-of-today".to_owned());
        scenario.served = ServedApis { v3_by_id: false, v3_audio: false, ..ServedApis::default() };
        config.projects = scenario.projects.iter().map(super::project).collect();
        config.projects[0].data_api_key = Some(polyhook::secret::Secret::new("the-key-of-yesterday"));
    })
    .await;
    let call = world.archive(&voice()).await;
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!(
        (manifest.provenance.served_by, manifest.audio.status),
        (ServedBy::V3List, AudioStatus::Failed)
    );
    assert!(manifest.warnings[0].contains("(key_rejected)"), "{:?}", manifest.warnings);
}

#[tokio::test]
async fn pinned_to_v3_an_unserved_path_becomes_a_dead_letter_after_the_last_delay() {
    let world = World::with(|scenario, config| {
        scenario.served = ServedApis { v3_by_id: false, v3_list: false, ..ServedApis::default() };
        config.polyai.api = ApiChoice::V3;
    })
    .await;
    world.archive(&voice()).await;
    let dead = world.only_dead_letter().await;
    let last = dead.history.attempts.last().unwrap();
    assert_eq!((last.reason.as_ref(), last.status, dead.history.failures), ("not_served", Some(404), 5));
    assert!(last.detail.contains("polyai.base_url"), "{}", last.detail);
    assert_eq!(world.requests(Operation::DataConversation), 0);
    assert!(world.visible().is_empty());
}

#[tokio::test]
async fn pinned_to_the_data_api_never_asks_v3() {
    let world = World::with(|_, config| config.polyai.api = ApiChoice::Data).await;
    let call = world.archive(&voice()).await;
    assert_eq!(world.manifest(&call).provenance.served_by, ServedBy::Data);
    assert_eq!(world.manifest(&call).audio.status, AudioStatus::Ready);
    assert_eq!(world.requests(Operation::V3Conversation) + world.requests(Operation::V3Audio), 0);
}

#[tokio::test]
async fn both_apis_give_the_same_manifest() {
    let mut facts = Vec::new();
    for api in [ApiChoice::V3, ApiChoice::Data] {
        let world = World::with(|scenario, config| {
            scenario.mix.handoffs = 1.0;
            config.polyai.api = api;
        })
        .await;
        let mut own = Vec::new();
        for _ in 0..4 {
            let call = world.archive(&voice()).await;
            let manifest = assert_consistent(&world.place(&call));
            assert!(manifest.facts.handoff.as_ref().is_some_and(|handoff| handoff.reason.is_some()));
            own.push((call.id.clone(), manifest.objects[1].sha256.clone(), manifest.facts));
        }
        facts.push(own);
    }
    assert!(facts[1].iter().all(|(.., facts)| facts.finished_at.is_some() && facts.direction.is_some()));
    for (.., facts) in &mut facts[1] {
        // v3 has nothing of the kind.
        *facts = ConversationFacts { finished_at: None, direction: None, summarised: false, ..facts.clone() };
    }
    assert_eq!(facts[0], facts[1]);
}

#[tokio::test]
async fn a_hidden_transcript_is_archived_with_a_warning() {
    let world = World::start().await;
    let call =
        world.archive(&scripted(CallScript { hidden_transcript: true, ..CallScript::default() })).await;
    let manifest = assert_consistent(&world.place(&call));
    assert_eq!(manifest.facts.turn_count, call.turns as u64);
    assert!(
        matches!(&manifest.warnings[..], [warning] if warning.starts_with("transcript_hidden:")),
        "{:?}",
        manifest.warnings
    );
    assert_eq!(manifest.audio.status, AudioStatus::Ready);
}
