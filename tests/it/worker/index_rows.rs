//! The rows of the index for one call, from the archives of two workers that use different APIs of `PolyAI`.

use std::{collections::BTreeMap, fmt::Debug, fs, sync::Arc};

use polyhook::{
    archive::{CONVERSATION, ServedBy, StoredManifest},
    index::{ConversationRows, IndexConfig, Numbers, read_rows},
    polyai::ApiChoice,
    queue::QueueUrls,
    secret::Secret,
    worker::AudioChoice,
};
use polyhook_simulator::{CallInfo, Channel, NewCall};

use super::{World, call_on, connect, eventually};

/// Columns about the copy, and those that a shape has in its own form.
const OF_THE_COPY: [&str; 6] =
    ["archived_at", "ended_at", "manifest_sha256", "rest", "served_by", "stored_at"];

impl World {
    fn rows(&self, call: &CallInfo) -> ConversationRows {
        let (manifest, place) = (self.manifest(call), self.place(call));
        let stored_at = manifest.timings.archived_at;
        let stored = StoredManifest {
            manifest,
            size_bytes: 0,
            sha256: String::new(),
            stored_at,
            folder: "folder".to_owned(),
        };
        let conversation = fs::read(place.join(CONVERSATION)).unwrap();
        read_rows(&stored, &conversation, &Numbers::new(&IndexConfig::default()).unwrap())
    }

    /// Another worker, which uses the Data API and has an archive of its own.
    async fn with_data_api(&self) -> Self {
        let mut config = self.config.clone();
        config.polyai.api = ApiChoice::Data;
        config.archive.url = format!("file:{}", self.folder.path().join("data").display());
        let queue = self.folder.path().join("data.db").display().to_string();
        config.queue.url = QueueUrls::One(Secret::new(format!("sqlite:{queue}")));
        let (app, sender) = connect(&self.sim, &config, &self.clock).await;
        let (sim, folder) = (self.sim.clone(), Arc::clone(&self.folder));
        let (clock, lifecycle) = (self.clock.clone(), self.lifecycle.clone());
        Self { sim, app, config, sender, folder, clock, lifecycle }
    }
}

/// Returns the fields of a struct, from its debug output.
fn fields(of: &impl Debug) -> BTreeMap<String, String> {
    let text = format!("{of:#?}");
    let mut fields = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        match line.strip_prefix("    ").filter(|line| !line.starts_with([' ', ')', ']'])) {
            Some(field) if field.contains(": ") => {
                let (name, value) = field.split_once(": ").unwrap();
                name.clone_into(&mut last);
                fields.insert(last.clone(), value.trim_end_matches(',').to_owned());
            }
            _ if last.is_empty() || !line.starts_with(' ') => {}
            _ => fields.entry(last.clone()).or_default().push_str(line.trim().trim_end_matches(',')),
        }
    }
    fields
}

/// Checks that two rows are equal, except for columns that one of them lacks. Returns the columns that both have.
fn assert_same(one: &impl Debug, other: &impl Debug) -> usize {
    let (one, other) = (fields(one), fields(other));
    assert_eq!(one.keys().collect::<Vec<_>>(), other.keys().collect::<Vec<_>>());
    let is_present = |value: &&String| !matches!(value.as_str(), "None" | "[]");
    let mut compared = 0;
    for (name, value) in
        one.iter().filter(|(name, value)| !OF_THE_COPY.contains(&name.as_str()) && is_present(value))
    {
        if let Some(other) = other.get(name).filter(is_present) {
            assert_eq!(value, other, "{name}");
            compared += 1;
        }
    }
    compared
}

#[tokio::test]
async fn both_apis_give_the_same_rows_of_a_call() {
    let v3 = World::with(|_, config| config.worker.audio = AudioChoice::Off).await;
    let data = v3.with_data_api().await;
    let mut calls = Vec::new();
    for channel in [Channel::Voice, Channel::Voice, Channel::Webchat].into_iter().cycle().take(12) {
        let call = v3.call(&NewCall { turns: Some(6), ..call_on(channel) });
        v3.deliver(&call).await;
        data.deliver(&call).await;
        calls.push(call);
    }
    let is_archived =
        |world: &World| calls.iter().all(|call| world.place(call).join("manifest.json").exists());
    eventually("both archives have all calls", async || is_archived(&v3) && is_archived(&data)).await;
    let mut seen = [false; 5];
    for call in &calls {
        let (one, other) = (v3.rows(call), data.rows(call));
        let served_by = [&one, &other].map(|rows| rows.call.served_by.clone());
        assert_eq!(served_by, [ServedBy::V3, ServedBy::Data].map(|api| api.as_str().to_owned()));
        assert!(assert_same(&one.call, &other.call) > 10);
        assert_eq!((one.turns.len(), other.turns.len()), (6, 6));
        for (one, other) in one.turns.iter().zip(&other.turns) {
            assert!(assert_same(one, other) >= 7, "{one:?} {other:?}");
        }
        let end = one.call.ended_at.unwrap().duration_since(other.call.ended_at.unwrap());
        assert!(end.abs().as_secs() <= 1, "{end}");
        let facts = [
            one.call.handoff_reason.is_some(),
            one.call.variant.is_some(),
            other.call.summary.is_some(),
            other.call.score.is_some(),
            one.turns.iter().any(|turn| !turn.intents.is_empty() && turn.latency_s.is_some()),
        ];
        seen.iter_mut().zip(facts).for_each(|(seen, fact)| *seen |= fact);
    }
    assert_eq!(seen, [true; 5], "the calls are too much alike");
}
