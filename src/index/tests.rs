//! Updates of a day in a folder, step by step.

use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::time::Instant;

use super::{
    day::Update, files::next_rows, reading::ConversationCopy, snapshot::Snapshot, table::read_calls, *,
};
use crate::archive::{
    ArchiveConfig, AudioStatus, AudioSummary, CONVERSATION, ConversationFacts, Location, ManifestDraft,
    Provenance, ServedBy, Trigger,
};

const STARTED_AT: &str = "2026-11-22T10:00:00Z";

struct Fixture {
    index: Index,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config =
            ArchiveConfig { url: format!("file:{}", folder.path().display()), ..ArchiveConfig::default() };
        let archive = Archive::open(&config, Clock::System).unwrap();
        Self { index: Index::open(&IndexConfig::default(), archive, Clock::System).unwrap(), folder }
    }

    /// Archives `count` conversations with two turns each.
    async fn with_conversations(count: usize) -> Self {
        let fixture = Self::new();
        for number in 0..count {
            fixture.commit(&format!("CA{number}"), r#"{"turns": [{}, {}]}"#).await;
        }
        fixture
    }

    async fn commit(&self, id: &str, body: &str) {
        let draft = ManifestDraft {
            facts: ConversationFacts {
                channel: "WEBCHAT".to_owned(),
                environment: "live".to_owned(),
                direction: None,
                started_at: STARTED_AT.parse().unwrap(),
                finished_at: None,
                total_duration_s: Some(12.5),
                polyai_duration_s: None,
                handoff: None,
                turn_count: 2,
                in_progress: false,
                summarised: false,
            },
            provenance: Provenance { served_by: ServedBy::V3, trigger: Trigger::Webhook, event_id: None },
            received_at: None,
            fetched_at: Clock::System.now(),
            audio: AudioSummary { status: AudioStatus::NotApplicable, redacted: false },
            warnings: Vec::new(),
            force_rewrite: false,
            json_only: false,
        };
        let body = Bytes::from(body.to_owned());
        self.index.archive.commit(&location(id), &draft, body, Vec::new()).await.unwrap();
    }

    async fn check(&self) -> DayUpdate {
        self.index.check_day(&day(), None, |_| ()).await.unwrap()
    }

    /// Returns the ids in the file of calls.
    async fn ids(&self) -> Vec<String> {
        let calls = Files::read(&self.index, &day()).await.unwrap().calls.unwrap();
        let mut ids: Vec<_> =
            read_calls(&calls).unwrap().calls.into_iter().map(|call| call.conversation_id).collect();
        ids.sort();
        ids
    }

    /// Returns the words of all findings.
    async fn findings(&self) -> Vec<&'static str> {
        let findings = self.index.compare_day(&day()).await.unwrap();
        findings.findings.iter().map(|finding| finding.finding.as_str()).collect()
    }

    fn path(&self, key: &str) -> std::path::PathBuf {
        self.folder.path().join(key)
    }

    async fn erase(&self, id: &str) {
        let archive = &self.index.archive;
        let erasure = archive.begin_erasure("acme", "desk", id, None).await.unwrap();
        self.index.remove_conversation("acme", "desk", id, erasure.dates()).await.unwrap();
        archive.finish_erasure(erasure).await.unwrap();
    }
}

fn location(id: &str) -> Location {
    Location::new("acme", "desk", id, STARTED_AT.parse().unwrap())
}

fn day() -> ProjectDay {
    location("").day()
}

/// Reads the files of the day for an update that has not written yet.
async fn begin(index: &Index) -> (Files, Snapshot) {
    Snapshot::load(index, &day(), false).await.unwrap()
}

/// Adds what `begun` lacks and replaces the files. Returns false on a conflict.
async fn finish(index: &Index, (mut files, snapshot): (Files, Snapshot)) -> bool {
    let day = day();
    let mut update = Update {
        index,
        day: &day,
        deadline: None,
        on_progress: &mut |_| (),
        progress: UpdateProgress::default(),
    };
    update.run_round(None, &Scope::All, &mut files, &snapshot, &Limits::DEFAULT).await.unwrap();
    files.replace(index, &day).await.unwrap()
}

#[tokio::test]
async fn rounds_and_batches_of_any_size_give_the_same_rows() {
    let mut fixture = Fixture::with_conversations(10).await;
    for (batch_conversations, batch_bytes, batch_turns, round_conversations) in [
        (3, usize::MAX, 4, 4),
        (1, usize::MAX, usize::MAX, 1),
        (100, 1, 1, 5),
        (100, usize::MAX, 1, 100),
        (100, usize::MAX, 5, 100),
    ] {
        let _ = std::fs::remove_dir_all(fixture.path("index"));
        fixture.index.limits =
            Limits { batch_conversations, batch_bytes, batch_turns, round_conversations, ..Limits::DEFAULT };
        let mut shown = Vec::new();
        let update = fixture
            .index
            .check_day(&day(), None, |progress| shown.push((progress.done, progress.total)))
            .await;
        let update = update.unwrap();
        assert_eq!((update.read, update.calls, update.is_unfinished), (10, 10, false));
        assert_eq!(shown.first(), Some(&(0, 10)), "{shown:?}");
        assert_eq!(shown.last(), Some(&(10, 10)), "{shown:?}");
        assert!(shown.is_sorted() && shown.iter().all(|(_, total)| *total == 10), "{shown:?}");
        assert_eq!(fixture.ids().await.len(), 10);
        assert_eq!(fixture.findings().await, [""; 0]);
        assert!(!fixture.check().await.is_written, "nothing differs");
        let ids: Vec<_> = (0..10).map(|number| format!("CA{number}")).collect();
        for id in &ids {
            let body =
                format!(r#"{{"turns": [{{}}, {{}}], "limits": {:?}}}"#, [batch_turns, round_conversations]);
            fixture.commit(id, &body).await;
        }
        let update = fixture.index.update_folders(&day(), ids).await.unwrap();
        assert_eq!((update.read, update.calls), (10, 10), "every row is replaced");
        assert_eq!((fixture.ids().await.len(), fixture.findings().await), (10, vec![]));
    }
}

#[tokio::test]
async fn conversations_of_many_small_turns_are_not_in_memory_together() {
    let fixture = Fixture::new();
    fixture.commit("CA0", &format!(r#"{{"turns": [{}{{}}]}}"#, "{},".repeat(999))).await;
    let stored = fixture.index.archive.read_stored_manifest(&day(), "CA0").await.unwrap().unwrap();
    let conversation = fixture.index.archive.read_object(&stored.location(), CONVERSATION).await.unwrap();
    let (stored, conversation) = (Box::new(stored), conversation.unwrap());
    let mut copies =
        (0..5).map(|_| ConversationCopy { stored: stored.clone(), conversation: conversation.clone() });
    let mut next = || {
        let (calls, turns) = next_rows(&mut copies, &fixture.index.numbers, 2_000);
        (calls.len(), turns.len())
    };
    assert_eq!([next(), next(), next(), next()], [(2, 2_000), (2, 2_000), (1, 1_000), (0, 0)]);
}

#[tokio::test]
async fn an_update_that_runs_out_of_time_is_continued() {
    let mut fixture = Fixture::with_conversations(5).await;
    fixture.index.limits = Limits { batch_conversations: 2, ..Limits::DEFAULT };
    let mut updates = Vec::new();
    loop {
        let update = fixture.index.check_day(&day(), Some(Instant::now()), |_| ()).await.unwrap();
        updates.push((update.read, update.calls, update.is_unfinished));
        if !update.is_unfinished {
            break;
        }
    }
    assert_eq!(updates, [(2, 2, true), (2, 4, true), (1, 5, false)]);
}

#[tokio::test]
async fn a_writer_that_read_before_another_one_wrote_starts_again() {
    let fixture = Fixture::with_conversations(1).await;
    let slow = begin(&fixture.index).await;
    fixture.commit("CA-late", "{}").await;
    fixture.check().await;
    assert!(!finish(&fixture.index, slow).await, "it would remove a row");
    assert_eq!(fixture.ids().await, ["CA-late", "CA0"]);
    let slow = begin(&fixture.index).await;
    assert!(finish(&fixture.index, slow).await);
}

#[tokio::test]
async fn an_erased_conversation_is_not_brought_back_by_a_writer_that_does_not_know_the_erasure() {
    for is_indexed in [true, false] {
        let fixture = Fixture::with_conversations(2).await;
        if is_indexed {
            fixture.check().await;
            fixture.commit("CA0", r#"{"turns": [{}]}"#).await;
        }
        let slow = begin(&fixture.index).await;
        fixture.erase("CA0").await;
        let before = fixture.ids().await;
        assert!(!before.contains(&"CA0".to_owned()), "{before:?}");
        assert!(!finish(&fixture.index, slow).await, "indexed: {is_indexed}");
        fixture.check().await;
        assert_eq!(fixture.ids().await, ["CA1"]);
        assert_eq!(fixture.findings().await, [""; 0]);
    }
}

#[tokio::test]
async fn a_writer_that_begins_during_an_erasure_leaves_the_conversation_out() {
    let fixture = Fixture::with_conversations(2).await;
    fixture.index.archive.begin_erasure("acme", "desk", "CA0", None).await.unwrap();
    let update = fixture.check().await;
    assert_eq!((fixture.ids().await, update.read), (vec!["CA1".to_owned()], 1));
    assert_eq!(fixture.findings().await, [""; 0], "erased conversations are not missing");
}

#[tokio::test]
async fn an_index_that_is_disabled_loses_erased_conversations_and_is_not_created() {
    let mut fixture = Fixture::with_conversations(2).await;
    fixture.index.is_enabled = false;
    fixture.erase("CA0").await;
    assert!(!fixture.path("index").exists());
    fixture.check().await;
    fixture.commit("CA2", "{}").await;
    fixture.check().await;
    fixture.erase("CA2").await;
    assert_eq!(fixture.ids().await, ["CA1"]);
}

#[tokio::test]
async fn verify_names_each_difference_and_a_check_repairs_it() {
    let fixture = Fixture::with_conversations(3).await;
    assert_eq!(fixture.findings().await, ["missing"; 3]);
    fixture.check().await;
    assert_eq!(fixture.findings().await, [""; 0]);

    // The store's times have whole seconds.
    let manifest = fixture.path(&format!("{}/manifest.json", location("CA0").folder()));
    let earlier = std::fs::File::options().append(true).open(&manifest).unwrap();
    earlier.set_modified(std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    std::fs::remove_dir_all(fixture.path(location("CA1").folder())).unwrap();
    assert_eq!(fixture.findings().await, ["outdated", "extra"]);
    let update = fixture.check().await;
    assert_eq!((update.read, update.removed, update.calls), (1, 1, 2));
    assert_eq!(fixture.findings().await, [""; 0]);

    let folder = day().folder();
    for damage in ["turns", "calls"] {
        std::fs::remove_file(fixture.path(&format!("index/{damage}/{folder}/{damage}.parquet"))).unwrap();
        let findings = fixture.findings().await;
        assert_eq!(findings.last(), Some(&"damaged"), "{damage}: {findings:?}");
        assert_eq!(fixture.check().await.read, 2);
        std::fs::write(fixture.path(&format!("index/{damage}/{folder}/{damage}.parquet")), "PAR1").unwrap();
        assert_eq!(fixture.findings().await.last(), Some(&"damaged"), "{damage}");
        // The next change is enough.
        fixture.commit("CA0", &format!(r#"{{"turns": "{damage}"}}"#)).await;
        let update = fixture.index.update_folders(&day(), vec!["CA0".to_owned()]).await.unwrap();
        assert_eq!((update.calls, update.is_written), (2, true), "{damage}");
        assert_eq!(fixture.findings().await, [""; 0], "{damage}");
    }
}

#[tokio::test]
async fn other_phone_numbers_replace_the_files_at_the_next_change() {
    let mut fixture = Fixture::with_conversations(2).await;
    fixture.check().await;
    let config = IndexConfig { numbers: NumberMode::Plain, ..IndexConfig::default() };
    fixture.index = Index::open(&config, fixture.index.archive.clone(), Clock::System).unwrap();
    assert_eq!(fixture.findings().await, ["other_version"]);
    fixture.erase("CA1").await;
    assert_eq!(fixture.findings().await, ["other_version"], "an erasure keeps the file's kind");
    fixture.index.update_folders(&day(), vec!["CA0".to_owned()]).await.unwrap();
    assert_eq!((fixture.findings().await, fixture.ids().await), (vec![], vec!["CA0".to_owned()]));
}

#[tokio::test]
async fn an_unreadable_conversation_hides_no_other() {
    let fixture = Fixture::with_conversations(3).await;
    let folder = |id: &str| fixture.path(location(id).folder());
    std::fs::write(folder("CA0").join("manifest.json"), "{").unwrap();
    std::fs::remove_file(folder("CA1").join("conversation.json")).unwrap();
    let update = fixture.check().await;
    let mut unreadable: Vec<_> =
        update.unreadable.iter().map(|found| (&*found.name, found.is_temporary)).collect();
    unreadable.sort_unstable();
    assert_eq!((unreadable, update.calls), (vec![("CA0", false), ("CA1", false)], 1));
    assert!(update.unreadable.iter().all(|found| found.reason.contains(&found.name)), "{update:?}");
    assert_eq!(fixture.findings().await, ["unreadable"; 2]);
}

#[cfg(unix)]
#[tokio::test]
async fn a_pipe_a_loop_of_links_and_huge_files_hide_no_conversation() {
    let fixture = Fixture::with_conversations(3).await;
    let document = |id: &str| fixture.path(location(id).folder()).join("conversation.json");
    let make_huge = |path: std::path::PathBuf| {
        // The file is sparse.
        std::fs::File::options().write(true).open(path).unwrap().set_len(5 << 30).unwrap();
    };
    std::fs::remove_file(document("CA0")).unwrap();
    nix::unistd::mkfifo(&document("CA0"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    make_huge(document("CA1"));
    std::os::unix::fs::symlink("loop", fixture.path(&day().folder()).join("loop")).unwrap();
    let update = fixture.check().await;
    let mut unreadable: Vec<_> = update.unreadable.iter().map(|found| &*found.name).collect();
    unreadable.sort_unstable();
    assert_eq!((unreadable, update.calls), (vec!["CA0", "CA1"], 1));
    for key in [files::calls_key(&day()), files::turns_key(&day())] {
        make_huge(fixture.path(&key));
        assert_eq!(fixture.findings().await, ["damaged"]);
        fixture.check().await;
        assert_eq!(fixture.ids().await, ["CA2"]);
    }
}
