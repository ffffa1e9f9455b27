//! The notes of archived conversations from which the index is kept current.

use std::{fs, sync::Arc, time::Duration};

use polyhook::{app::Resources, archive::ProjectDay, worker::ErasureRequest};
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

#[tokio::test]
async fn an_erasure_counts_and_removes_rows_and_leaves_notes_if_it_cannot() {
    let (_first, world) = World::start().await.with_index().await;
    let call = world.archive(&voice()).await;
    let resources = Resources::open(&world.config, &world.clock).unwrap();
    let (account, project) = (call.account_id.as_str(), call.project_id.as_str());
    let days = resources.archive.list_dates(account, project).await.unwrap();
    let day = ProjectDay::new(account, project, *days.first().unwrap());
    resources.index.check_day(&day, None, |_| ()).await.unwrap();
    let rows = world.manifest(&call).facts.turn_count + 1;
    let queue = Arc::clone(&world.app.queue().queue);
    let worker = resources.worker(&world.config, queue, world.clock.clone());
    let erase = async |dry_run| {
        let (conversation_id, reason) = (call.id.clone(), None);
        let request = ErasureRequest { conversation_id, account_id: None, project_id: None, reason, dry_run };
        let report = worker.erase(&request).await.unwrap();
        (report.archive[0].index_rows, report.archive[0].objects.objects, report.problems)
    };
    assert_eq!(erase(true).await, (rows, 3, Vec::new()));

    // A table that cannot be written: the objects are removed all the same, and the service of the index continues.
    let table = world.root().join(format!("index/calls/{}/calls.parquet", day.folder()));
    let aside = table.with_extension("aside");
    fs::rename(&table, &aside).unwrap();
    fs::create_dir_all(table.join("folder")).unwrap();
    let (removed, objects, problems) = erase(false).await;
    assert_eq!((removed, objects, problems.len()), (0, 3, 1), "{problems:?}");
    assert!(problems[0].starts_with("index of project "), "{problems:?}");
    assert_eq!(world.notes(&call).await, 2, "that of the worker and that of the erasure");

    // The next run finds the day by the notes, although the archive has nothing of the conversation any more.
    fs::remove_dir_all(&table).unwrap();
    fs::rename(&aside, &table).unwrap();
    let (removed, objects, problems) = erase(false).await;
    assert!((1..=rows).contains(&removed) && objects == 0, "{removed} of {rows}, {objects}");
    assert_eq!((problems, world.notes(&call).await), (Vec::new(), 0));
    assert_eq!(resources.index.count_rows(account, project, &call.id, &days).await.unwrap(), 0);
}
