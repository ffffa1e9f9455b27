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

#[tokio::test]
async fn pinned_to_v3_an_unserved_path_becomes_a_dead_letter_after_the_last_delay() {
    let world = World::with(|scenario, config| {
        scenario.served = ServedApis { v3_by_id: false, ..ServedApis::default() };
        config.polyai.api = ApiChoice::V3;
    })
    .await;
    world.archive(&voice()).await;
    let dead = world.only_dead_letter().await;
    let last = dead.history.attempts.last().unwrap();
    assert_eq!((last.reason.as_ref(), last.status, dead.history.failures), ("not_served", Some(404), 5));
    assert!(last.detail.contains("polyai.base_url") && last.detail.contains("replay"), "{}", last.detail);
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
