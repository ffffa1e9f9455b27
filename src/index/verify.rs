//! The comparison of a day's files with the archive, without a change.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use futures_util::TryStreamExt;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::sleep;

use super::{
    Index, IndexError,
    day::Target,
    files::Files,
    reading::Reading,
    snapshot::{IndexedRow, Snapshot, read_rows},
};
use crate::archive::ProjectDay;

/// The number of conversations of a day that are looked up one by one.
const MAX_LOOKUPS: usize = 200;
/// A conversation that was archived less than this time ago may have no note yet, or was added while the day was compared.
const RECENT: SignedDuration = SignedDuration::from_secs(30);
/// The pause before such a day is compared again.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// A difference between the index and the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum IndexFindingKind {
    /// The archive has the conversation, the index lacks it.
    Missing,
    /// The index has an earlier copy of the conversation.
    Outdated,
    /// The index has a call that the archive lacks, or that is erased.
    Extra,
    /// The index has a call several times.
    Duplicate,
    /// The index has turns of a call that it lacks.
    TurnsWithoutCall,
    /// The index has another number of turns of a call than the call says.
    OtherTurns,
    /// The archive has the conversation, but it cannot be read.
    Unreadable,
    /// A file of the index cannot be read, or one of the two is missing.
    Damaged,
    /// The files have another schema version, or phone numbers in another form.
    OtherVersion,
}

impl IndexFindingKind {
    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Outdated => "outdated",
            Self::Extra => "extra",
            Self::Duplicate => "duplicate",
            Self::TurnsWithoutCall => "turns_without_call",
            Self::OtherTurns => "other_turns",
            Self::Unreadable => "unreadable",
            Self::Damaged => "damaged",
            Self::OtherVersion => "other_version",
        }
    }
}

/// A finding, about one conversation or about the day's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IndexFinding {
    /// The kind.
    pub finding: IndexFindingKind,
    /// PolyAI's id. Of a conversation that only the archive has, it is the name of its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// More for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The result of the comparison of a day. The index is current without findings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DayFindings {
    /// The conversations in the archive.
    pub archived: usize,
    /// The calls in the index.
    pub calls: usize,
    /// The turns in the index.
    pub turns: u64,
    /// The conversations that the service is about to add or replace.
    pub waiting: usize,
    /// The number of findings of each kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// The findings.
    pub findings: Vec<IndexFinding>,
    /// True if a finding is about a conversation that was archived just now.
    #[serde(skip)]
    has_recent: bool,
}

/// The state of a day at one moment.
struct State {
    /// The conversations of the archive, by folder, with the time at which they were archived.
    archived: HashMap<String, Timestamp>,
    /// The folders with a note of a change.
    noted: HashSet<String>,
    /// The files and their rows.
    rows: HashMap<String, IndexedRow>,
    /// The ids of turns without a call.
    orphans: Vec<String>,
    findings: DayFindings,
}

impl Index {
    /// Compares a day with the archive. A conversation that waits for the service is not a finding.
    pub async fn verify_day(&self, day: &ProjectDay) -> Result<DayFindings, IndexError> {
        let findings = self.compare_day(day).await?;
        if !findings.has_recent {
            return Ok(findings);
        }
        sleep(SECOND_LOOK).await;
        self.compare_day(day).await
    }

    pub(super) async fn compare_day(&self, day: &ProjectDay) -> Result<DayFindings, IndexError> {
        let state = self.read_state(day).await?;
        let State { archived, noted, rows, orphans, mut findings } = state;
        findings.archived = archived.len();
        if findings.counts.contains_key(IndexFindingKind::Damaged.as_str()) {
            return Ok(findings);
        }
        let erased = self.archive.erased_conversations().await;
        let erased = erased.map_err(|error| IndexError::archive(day, error))?;
        let snapshot = Snapshot { rows, erased, ..Snapshot::default() };
        let is_recent = |at: Timestamp| self.clock.now().duration_since(at) < RECENT;
        for (name, stored_at) in &archived {
            let kind = match snapshot.rows.get(name) {
                Some(row) if row.stored_at == Some(*stored_at) => continue,
                _ if noted.contains(name) => {
                    findings.waiting += 1;
                    continue;
                }
                Some(row) => row.fault.unwrap_or(IndexFindingKind::Outdated),
                None => IndexFindingKind::Missing,
            };
            let target = Target { name: name.clone(), stored_at: Some(*stored_at) };
            self.find(day, kind, &target, &snapshot, &mut findings).await?;
            findings.has_recent |= is_recent(*stored_at);
        }
        let extra = snapshot.rows.keys().filter(|name| !archived.contains_key(*name));
        for name in extra {
            let target = Target { name: name.clone(), stored_at: None };
            self.find(day, IndexFindingKind::Extra, &target, &snapshot, &mut findings).await?;
        }
        for id in &orphans {
            findings.add(IndexFindingKind::TurnsWithoutCall, Some(id), None);
        }
        findings
            .findings
            .sort_by(|a, b| (a.finding, &a.conversation_id).cmp(&(b.finding, &b.conversation_id)));
        Ok(findings)
    }

    /// Adds a finding, if it is still one: the conversation may have been archived, changed or erased since the lists were read.
    async fn find(
        &self,
        day: &ProjectDay,
        kind: IndexFindingKind,
        target: &Target,
        snapshot: &Snapshot,
        findings: &mut DayFindings,
    ) -> Result<(), IndexError> {
        let id = snapshot.id_of(&target.name).unwrap_or(&target.name);
        if findings.findings.len() >= MAX_LOOKUPS || kind == IndexFindingKind::Duplicate {
            findings.add(kind, Some(id), None);
            return Ok(());
        }
        match (snapshot.read(self, day, target).await?, kind) {
            (Reading::Unreadable(found), _) => {
                findings.add(IndexFindingKind::Unreadable, Some(id), Some(found.reason));
            }
            // An erased conversation, or one that was removed since, and has no row.
            (Reading::Gone, IndexFindingKind::Missing) | (Reading::Current, _) => {}
            (Reading::Gone, _) => findings.add(IndexFindingKind::Extra, Some(id), None),
            (Reading::Copy(_), IndexFindingKind::Extra) => {
                findings.add(IndexFindingKind::Outdated, Some(id), None);
            }
            (Reading::Copy(_), kind) => findings.add(kind, Some(id), None),
        }
        Ok(())
    }

    /// Reads the lists of the archive, and then the files.
    async fn read_state(&self, day: &ProjectDay) -> Result<State, IndexError> {
        let failed = |error| IndexError::archive(day, error);
        let folders = self
            .archive
            .list_folders(day)
            .try_filter_map(|folder| std::future::ready(Ok(folder.archived_at.map(|at| (folder.name, at)))));
        let archived: HashMap<_, _> = folders.try_collect().await.map_err(failed)?;
        let changes = self.archive.list_changes(usize::MAX).await.map_err(failed)?;
        let noted =
            changes.into_iter().filter(|change| change.day == *day).map(|change| change.name).collect();
        let files = Files::read(self, day).await?;
        let (mut findings, mut rows, mut orphans) = (DayFindings::default(), HashMap::new(), Vec::new());
        match (&files.calls, &files.turns) {
            (Some(calls), Some(turns)) => match read_rows(calls, turns).await {
                Ok(read) => {
                    (findings.calls, findings.turns) = (read.calls, read.turns);
                    if read.stamps.iter().any(|stamp| *stamp != self.stamp) {
                        findings.add(IndexFindingKind::OtherVersion, None, None);
                    }
                    (rows, orphans) = (read.rows, read.orphans);
                }
                Err(error) => findings.add(IndexFindingKind::Damaged, None, Some(error.to_string())),
            },
            (None, None) => {}
            _ => {
                let detail = "one of the two files is missing".to_owned();
                findings.add(IndexFindingKind::Damaged, None, Some(detail));
            }
        }
        Ok(State { archived, noted, rows, orphans, findings })
    }
}

impl DayFindings {
    /// Returns true if the index is current, apart from what waits for the service.
    pub fn is_complete(&self) -> bool {
        self.findings.is_empty()
    }

    /// Returns true if `polyhook index build` changes something.
    pub fn can_be_built(&self) -> bool {
        self.findings.iter().any(|finding| finding.finding != IndexFindingKind::Unreadable)
    }

    fn add(&mut self, finding: IndexFindingKind, conversation_id: Option<&str>, detail: Option<String>) {
        *self.counts.entry(finding.as_str()).or_default() += 1;
        self.findings.push(IndexFinding {
            finding,
            conversation_id: conversation_id.map(str::to_owned),
            detail,
        });
    }
}
