//! The index of an archive: the service, the commands, and what survives failures.

mod commands;
mod service;

use std::{collections::BTreeMap, path::Path, time::Duration};

use bytes::Bytes;
use jiff::Timestamp;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use polyhook::{
    archive::{
        Archive, ArchiveConfig, AudioStatus, AudioSummary, ConversationFacts, Location, ManifestDraft,
        Provenance, ServedBy, Trigger,
    },
    clock::Clock,
    health::Health,
    index::{Index, IndexConfig, IndexPassReport, IndexService},
};

const ACCOUNT: &str = "acme-uk";
const PROJECT: &str = "PROJECT-1";
const DAY: &str = "2026-11-22";
const STARTED_AT: &str = "2026-11-22T10:00:00Z";
/// The columns of a row by name, as texts.
type Row = BTreeMap<String, String>;
const EVERY: Duration = Duration::from_secs(1);

/// An archive and its index, as one process sees them.
#[derive(Clone)]
struct Site {
    archive: Archive,
    index: Index,
    clock: Clock,
    health: Health,
}

impl Site {
    fn open(config: &ArchiveConfig) -> Self {
        let clock = Clock::manual("2026-11-22T12:00:00Z".parse().unwrap());
        let archive = Archive::open(config, clock.clone()).unwrap();
        let index = Index::open(&IndexConfig::default(), archive.clone(), clock.clone()).unwrap();
        Self { archive, index, clock, health: Health::default() }
    }

    fn file(folder: &Path) -> Self {
        Self::open(&ArchiveConfig { url: format!("file:{}", folder.display()), ..ArchiveConfig::default() })
    }

    /// Archives a conversation, and notes that as a worker does.
    async fn archive(&self, id: &str, turns: u64) {
        let location = location(id);
        let fetched_at = self.clock.now();
        let body = conversation(id, turns);
        self.archive
            .commit(&location, &draft(turns, fetched_at), Bytes::from(body), Vec::new())
            .await
            .unwrap();
        self.archive.note_change(&location).await.unwrap();
        self.clock.advance(Duration::from_secs(1));
    }

    fn service(&self) -> IndexService {
        let projects = vec![(ACCOUNT.to_owned(), PROJECT.to_owned())];
        IndexService::new(self.index.clone(), projects, EVERY, self.health.clone())
    }

    async fn pass(&self) -> IndexPassReport {
        self.service().run_once().await.unwrap()
    }

    /// Returns the rows of each conversation: its revision, and the number of its turns. Panics if there are two rows of a
    /// call or of a turn.
    async fn rows(&self) -> BTreeMap<String, (i64, usize)> {
        let mut rows = BTreeMap::new();
        let mut turns = Vec::new();
        for row in self.read("turns").await {
            turns.push((row["conversation_id"].clone(), row["number"].clone()));
        }
        for row in self.read("calls").await {
            let id = row["conversation_id"].clone();
            let turns =
                turns.iter().filter(|(of, _)| *of == id).collect::<std::collections::BTreeSet<_>>().len();
            let revision = row["revision"].parse().unwrap();
            assert_eq!(rows.insert(id, (revision, turns)), None, "two rows of a call");
        }
        let distinct = turns.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(distinct, turns.len(), "two rows of a turn");
        rows
    }

    /// Returns the rows of a table, sorted.
    async fn read(&self, table: &str) -> Vec<Row> {
        let key =
            format!("index/{table}/account_id={ACCOUNT}/project_id={PROJECT}/date={DAY}/{table}.parquet");
        let Some(file) = self.archive.read_derived(&key).await.unwrap() else { return Vec::new() };
        let reader = SerializedFileReader::new(file.bytes).unwrap();
        let mut rows: Vec<Row> = Vec::new();
        for row in reader.get_row_iter(None).unwrap() {
            let row = row.unwrap();
            let columns = row.get_column_iter().map(|(name, field)| {
                let text = match field {
                    Field::Str(text) => text.clone(),
                    other => other.to_string(),
                };
                (name.clone(), text)
            });
            rows.push(columns.collect());
        }
        rows.sort();
        rows
    }

    async fn erase(&self, id: &str) {
        let erasure = self.archive.begin_erasure(ACCOUNT, PROJECT, id, None).await.unwrap();
        self.index.remove_conversation(ACCOUNT, PROJECT, id, erasure.dates()).await.unwrap();
        self.archive.finish_erasure(erasure).await.unwrap();
    }
}

fn location(id: &str) -> Location {
    Location::new(ACCOUNT, PROJECT, id, STARTED_AT.parse().unwrap())
}

/// Returns an answer of v3 with this number of turns.
fn conversation(id: &str, turns: u64) -> String {
    let turns: Vec<_> = (0..turns)
        .map(|number| serde_json::json!({ "user_input": format!("input {number}"), "agent_response": "yes" }))
        .collect();
    serde_json::json!({ "id": id, "turns": turns }).to_string()
}

fn draft(turns: u64, fetched_at: Timestamp) -> ManifestDraft {
    ManifestDraft {
        facts: ConversationFacts {
            channel: "WEBCHAT".to_owned(),
            environment: "live".to_owned(),
            direction: None,
            started_at: STARTED_AT.parse().unwrap(),
            finished_at: None,
            total_duration_s: Some(12.5),
            polyai_duration_s: None,
            handoff: None,
            turn_count: turns,
            in_progress: false,
            summarised: false,
        },
        provenance: Provenance { served_by: ServedBy::V3, trigger: Trigger::Webhook, event_id: None },
        received_at: None,
        fetched_at,
        audio: AudioSummary { status: AudioStatus::NotApplicable, redacted: false },
        warnings: Vec::new(),
        force_rewrite: false,
        json_only: false,
    }
}
