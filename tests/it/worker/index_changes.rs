//! The notes of archived conversations from which the index is kept current.

use std::time::Duration;

use polyhook::app::Resources;
use polyhook_simulator::{CallInfo, CallScript, EventOptions, LaterChange};

use super::{World, voice};
use crate::support::erasure::erase_objects;

impl World {
    /// Returns the number of notes of a call.
    async fn notes(&self, call: &CallInfo) -> usize {
        let archive = Resources::open(&self.config, &self.clock).unwrap().archive;
        let notes = archive.list_changes_of(&call.account_id, &call.project_id, &call.id).await.unwrap();
        notes.len()
    }

    /// Another worker with an index, whose service leaves the notes.
    async fn with_index(self) -> (Self, Self) {
        let mut config = self.config.clone();
        config.index.enabled = true;
        config.index.every = Duration::from_hours(1);
        let first = Self { config, ..self };
        let second = first.second_instance("second").await;
        (first, second)
    }
}

#[tokio::test]
async fn what_a_job_has_archived_is_noted_even_if_the_first_worker_dies_before_that() {
    let first = World::start().await;
    let call = first.archive(&voice()).await;
    assert_eq!(first.notes(&call).await, 0, "there is no index");

    // As if the first worker had died after its commit, and the second one got the job then.
    let (_first, second) = first.with_index().await;
    second.deliver(&call).await;
    second.wait_until_idle().await;
    assert_eq!(second.notes(&call).await, 1);
    let other = second.archive(&voice()).await;
    assert_eq!(second.notes(&other).await, 1);
    let events = |seed| EventOptions { seed, ..EventOptions::default() };
    let change = LaterChange { after: None, after_requests: None, more_turns: 1, summarised: false };
    second.sim.state().set_script(&other.id, CallScript { change: Some(change), ..CallScript::default() });
    second.deliver_as(&other, events(2)).await;
    second.wait_until_idle().await;
    assert_eq!((second.manifest(&other).revision, second.notes(&other).await), (2, 2));

    // An erased conversation is not archived, and its id is in no note.
    let archive = Resources::open(&second.config, &second.clock).unwrap().archive;
    erase_objects(&archive, &call.account_id, &call.project_id, &call.id, None).await.unwrap();
    archive.remove_changes(&archive.list_changes(10).await.unwrap()).await.unwrap();
    second.deliver_as(&call, events(3)).await;
    second.wait_until_idle().await;
    assert_eq!((second.notes(&call).await, second.dead_letters().await), (0, Vec::new()));
}
