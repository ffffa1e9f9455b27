//! The audit: compares PolyAI's list of a day with the archive, in both directions.

use std::collections::{BTreeMap, HashSet};

use futures_util::{StreamExt, TryStreamExt};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::Serialize;
use thiserror::Error;

use super::{pass::publish_discovery, service::describe};
use crate::{
    archive::{
        Archive, ArchiveError, AudioStatus, ConversationFolder, Location, ProjectDay, StoredConversation,
    },
    clock::Clock,
    event::{Discovery, DiscoverySource},
    polyai::{ListQuery, ListedConversation, PolyAiClient, Project},
    queue::{Queue, QueueError},
};

/// The version of the report's format.
const SCHEMA_VERSION: u32 = 1;
/// The number of conversations whose objects are checked at the same time.
const MAX_CONCURRENT_CHECKS: usize = 16;
/// The maximum number of findings in a report. Further ones are only counted.
const MAX_FINDINGS: usize = 10_000;

/// The parameters of an audit.
#[derive(Debug)]
pub struct Auditor<'a> {
    /// The client for PolyAI's list.
    pub polyai: &'a PolyAiClient,
    /// The audited archive.
    pub archive: &'a Archive,
    /// The clock that decides which calls are over.
    pub clock: &'a Clock,
    /// Calls that ended less than this time ago are ignored.
    pub settle: std::time::Duration,
    /// The wanted environments.
    pub environments: &'a [String],
    /// True if every byte is read and hashed.
    pub deep: bool,
    /// The queue for the repair of missing and damaged conversations. `None`: no repair.
    pub repair: Option<&'a dyn Queue>,
}

/// The audit of a project cannot continue.
#[derive(Debug, Error)]
enum AuditError {
    #[error("the archive cannot be read: {0}")]
    Archive(#[from] ArchiveError),
    #[error("nothing can be queued for repair: {0}")]
    Queue(#[from] QueueError),
}

/// A fault of the archive, or a fact that a person should know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// PolyAI has the conversation, and the archive does not.
    Missing,
    /// It was archived while it was still in progress.
    Outdated,
    /// There are objects, but no manifest: a commit was not completed.
    Incomplete,
    /// Objects are missing, or differ from the manifest.
    Damaged,
    /// The manifest cannot be read, or is in the wrong folder.
    Unreadable,
    /// PolyAI lists the conversation without a start, so its day, and its place in the archive, is unknown.
    Undated,
    /// The archive has it, and PolyAI's list does not (any more, or under another environment).
    Extra,
    /// The conversation has turns, but shows none: transcript visibility is off.
    HiddenTranscript,
    /// A voice call has no recording.
    AbsentRecording,
    /// A recording was refused, unusable or unreachable. The repair requests it again.
    FailedRecording,
}

impl FindingKind {
    /// Returns true if the finding is a fault of the archive.
    pub fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Missing
                | Self::Outdated
                | Self::Incomplete
                | Self::Damaged
                | Self::Unreadable
                | Self::Undated
        )
    }

    /// Returns the word in the report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Outdated => "outdated",
            Self::Incomplete => "incomplete",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
            Self::Undated => "undated",
            Self::Extra => "extra",
            Self::HiddenTranscript => "hidden_transcript",
            Self::AbsentRecording => "absent_recording",
            Self::FailedRecording => "failed_recording",
        }
    }
}

/// One finding about one conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// The project, as configured.
    pub project_id: String,
    /// PolyAI's id, or the name of the folder if the id is unknown.
    pub conversation_id: String,
    /// The kind of the finding.
    pub finding: FindingKind,
    /// Names of objects, or a reason. Contains nothing private.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The report about one day.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// The version of this format.
    pub schema_version: u32,
    /// The day (UTC) on which the conversations started.
    pub date: Date,
    /// The time of the audit.
    pub audited_at: Timestamp,
    /// True if hashes were compared.
    pub deep: bool,
    /// True if everything was compared, and no finding is a fault.
    pub complete: bool,
    /// The parts that were not compared, each with its project and the reason.
    pub failures: Vec<String>,
    /// The number of conversations that PolyAI has.
    pub listed: u64,
    /// Of these, the number that are in progress or ended just now.
    pub unsettled: u64,
    /// Of these, the number that were erased here. They are not missing.
    pub erased: u64,
    /// The number of conversations in the archive.
    pub archived: u64,
    /// The number of their objects.
    pub objects: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The number of findings of each kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// The number of conversations that were queued for a fetch.
    pub queued: u64,
    /// The findings, at most ten thousand.
    pub findings: Vec<AuditFinding>,
}

impl AuditReport {
    pub(super) fn new(date: Date, audited_at: Timestamp, deep: bool) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            date,
            audited_at,
            deep,
            complete: true,
            failures: Vec::new(),
            listed: 0,
            unsettled: 0,
            erased: 0,
            archived: 0,
            objects: 0,
            bytes: 0,
            counts: BTreeMap::new(),
            queued: 0,
            findings: Vec::new(),
        }
    }

    fn add_failure(&mut self, project: &Project, failure: impl std::fmt::Display) {
        self.complete = false;
        self.failures.push(describe(project, failure));
    }

    fn add_finding(
        &mut self,
        project: &Project,
        conversation_id: &str,
        finding: FindingKind,
        detail: Option<String>,
    ) {
        *self.counts.entry(finding.as_str()).or_default() += 1;
        self.complete &= !finding.is_fault();
        if self.findings.len() < MAX_FINDINGS {
            let (project_id, conversation_id) = (project.project_id().to_owned(), conversation_id.to_owned());
            self.findings.push(AuditFinding { project_id, conversation_id, finding, detail });
        }
    }
}

impl Auditor<'_> {
    /// Audits the conversations of `projects` that started on `date`. `on_progress` gets the report as it grows.
    pub async fn run(
        &self,
        projects: &[&Project],
        date: Date,
        on_progress: impl Fn(&AuditReport),
    ) -> AuditReport {
        let mut report = AuditReport::new(date, self.clock.now(), self.deep);
        for project in projects {
            if let Err(error) = self.audit_project(project, date, &mut report, &on_progress).await {
                report.add_failure(project, error);
            }
        }
        report.findings.sort_by(|a, b| {
            (a.finding, &a.project_id, &a.conversation_id).cmp(&(
                b.finding,
                &b.project_id,
                &b.conversation_id,
            ))
        });
        report
    }

    async fn audit_project(
        &self,
        project: &Project,
        date: Date,
        report: &mut AuditReport,
        on_progress: &impl Fn(&AuditReport),
    ) -> Result<(), AuditError> {
        let listed_folders = self.compare_list(project, date, report, on_progress).await?;
        self.inspect_all(project, date, listed_folders.as_ref(), report, on_progress).await
    }

    /// Checks that every conversation of PolyAI's list is archived. Returns the names of their folders, or `None` if the
    /// list could not be read completely.
    async fn compare_list(
        &self,
        project: &Project,
        date: Date,
        report: &mut AuditReport,
        on_progress: &impl Fn(&AuditReport),
    ) -> Result<Option<HashSet<String>>, AuditError> {
        let day = self.archive.list_day(project.account_id(), project.project_id(), date).await?;
        let erasures = self.archive.erased_conversations().await?;
        let start = date.to_zoned(TimeZone::UTC).map_or(Timestamp::MIN, |day| day.timestamp());
        let next = date.tomorrow().and_then(|next| next.to_zoned(TimeZone::UTC));
        let end = next.map_or(Timestamp::MAX, |day| day.timestamp()).min(self.clock.now());
        let settled = self.clock.now().checked_sub(self.settle).unwrap_or(Timestamp::MIN);
        let environments = self.environments.to_vec();
        let mut list =
            self.polyai.list(project, ListQuery { started: start..end, environments, failed_before: false });
        let mut listed_folders = HashSet::new();
        while let Some(listed) = list.next().await {
            let erased = erasures.contains(project.account_id(), project.project_id(), &listed.id);
            let Some(started_at) = listed.started_at else {
                if !erased {
                    report.add_finding(project, &listed.id, FindingKind::Undated, None);
                }
                continue;
            };
            let location = Location::new(project.account_id(), project.project_id(), &listed.id, started_at);
            if !listed_folders.insert(location.name().to_owned()) {
                continue;
            }
            report.listed += 1;
            if erased {
                report.erased += 1;
            } else if day.archived_at(&location).is_none() {
                if listed.in_progress || listed.ended_at.unwrap_or(started_at) > settled {
                    report.unsettled += 1;
                } else {
                    report.add_finding(project, &listed.id, FindingKind::Missing, None);
                    self.repair(&missing(project, listed, report.audited_at), report).await?;
                }
            }
            on_progress(report);
        }
        if let Some(place) = list.first_unreadable() {
            let count = list.unreadable();
            report.add_failure(
                project,
                format!("{count} entries of PolyAI's list cannot be read, such as {place}"),
            );
        }
        let is_whole = list.failures().is_empty();
        for failure in list.failures() {
            report.add_failure(project, failure);
        }
        Ok(is_whole.then_some(listed_folders))
    }

    /// Checks every archived conversation, and that PolyAI's list has it, too.
    async fn inspect_all(
        &self,
        project: &Project,
        date: Date,
        listed_folders: Option<&HashSet<String>>,
        report: &mut AuditReport,
        on_progress: &impl Fn(&AuditReport),
    ) -> Result<(), AuditError> {
        let day = &ProjectDay::new(project.account_id(), project.project_id(), date);
        let folders = self.archive.list_folders(day);
        let mut inspected = std::pin::pin!(
            folders
                .map(|folder| async {
                    let folder = folder?;
                    let stored = match folder.archived_at {
                        Some(_) => self.archive.inspect(day, &folder.name, self.deep).await,
                        None => Ok(None),
                    };
                    Ok::<_, ArchiveError>((folder, stored))
                })
                .buffer_unordered(MAX_CONCURRENT_CHECKS)
        );
        while let Some((folder, stored)) = inspected.try_next().await? {
            let is_listed = listed_folders.is_none_or(|listed| listed.contains(&folder.name));
            match stored {
                Ok(None) => {
                    let detail = format!("{} objects and no manifest", folder.objects);
                    report.add_finding(project, &folder.name, FindingKind::Incomplete, Some(detail));
                }
                Ok(Some(stored)) => self.inspect(project, &folder, &stored, is_listed, report).await?,
                Err(error) => {
                    let detail = Some(error.to_string());
                    report.add_finding(project, &folder.name, FindingKind::Unreadable, detail);
                }
            }
            on_progress(report);
        }
        Ok(())
    }

    async fn inspect(
        &self,
        project: &Project,
        folder: &ConversationFolder,
        stored: &StoredConversation,
        is_listed: bool,
        report: &mut AuditReport,
    ) -> Result<(), AuditError> {
        let manifest = &stored.manifest;
        let id = &manifest.conversation_id;
        report.archived += 1;
        report.objects += folder.objects;
        report.bytes += folder.bytes;
        if !stored.is_intact() {
            report.add_finding(project, id, FindingKind::Damaged, Some(stored.damaged().join(", ")));
        }
        if !stored.is_final() {
            report.add_finding(project, id, FindingKind::Outdated, None);
        }
        if !stored.is_intact() || !stored.is_final() || stored.lacks_recording() {
            let discovery = Discovery {
                conversation_id: id.clone(),
                account_id: project.account_id().to_owned(),
                project_id: project.project_id().to_owned(),
                environment: Some(manifest.facts.environment.clone()),
                started_at: Some(manifest.facts.started_at),
                ended_at: manifest.facts.finished_at,
                source: DiscoverySource::Command,
                dedup_time: Some(report.audited_at),
                force: !stored.is_intact() || !stored.is_final(),
                is_refetch: false,
                age: None,
            };
            self.repair(&discovery, report).await?;
        }
        // The lists that were read do not contain conversations of other environments.
        if !is_listed && self.environments.contains(&manifest.facts.environment) {
            report.add_finding(project, id, FindingKind::Extra, None);
        }
        if manifest.warnings.iter().any(|warning| warning.starts_with("transcript_hidden")) {
            report.add_finding(project, id, FindingKind::HiddenTranscript, None);
        }
        if manifest.audio.status == AudioStatus::Absent {
            report.add_finding(project, id, FindingKind::AbsentRecording, None);
        }
        if stored.lacks_recording() {
            let is_reason = |warning: &&String| warning.starts_with("recording_failed");
            let detail = manifest.warnings.iter().find(is_reason).cloned();
            report.add_finding(project, id, FindingKind::FailedRecording, detail);
        }
        Ok(())
    }

    async fn repair(&self, discovery: &Discovery, report: &mut AuditReport) -> Result<(), AuditError> {
        if let Some(queue) = self.repair {
            publish_discovery(queue, discovery, self.clock).await?;
            report.queued += 1;
        }
        Ok(())
    }
}

fn missing(project: &Project, listed: ListedConversation, audited_at: Timestamp) -> Discovery {
    Discovery {
        conversation_id: listed.id,
        account_id: project.account_id().to_owned(),
        project_id: project.project_id().to_owned(),
        environment: listed.environment,
        started_at: listed.started_at,
        ended_at: listed.ended_at,
        source: DiscoverySource::Command,
        dedup_time: Some(audited_at),
        force: false,
        is_refetch: false,
        age: None,
    }
}
