//! What PolyAI has of a day against what the archive holds, in both directions.

use std::collections::{BTreeMap, HashSet};

use futures_util::{StreamExt, TryStreamExt};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::Serialize;
use thiserror::Error;

use super::pass::publish;
use crate::{
    archive::{Archive, ArchiveError, AudioStatus, ConversationFolder, Location, StoredConversation},
    clock::Clock,
    event::{By, Discovery},
    polyai::{ApiError, ListQuery, PolyAi, Project},
    queue::{Queue, QueueError},
};

/// The version of the report's form.
const SCHEMA_VERSION: u32 = 1;
/// Conversations whose objects are looked at at the same time.
const AT_ONCE: usize = 16;
/// Findings that a report names; beyond that they are counted.
const NAMED: usize = 10_000;

/// What audits, and what it compares.
#[derive(Debug)]
pub struct Auditor<'a> {
    /// Whose list.
    pub polyai: &'a PolyAi,
    /// What is audited.
    pub archive: &'a Archive,
    /// Says what is over.
    pub clock: &'a Clock,
    /// Calls that ended less than this ago are left alone.
    pub settle: std::time::Duration,
    /// Which environments are wanted.
    pub environments: &'a [String],
    /// Whether every byte is read and hashed.
    pub deep: bool,
    /// Where what is missing or damaged is queued, if it is to be repaired.
    pub repair: Option<&'a dyn Queue>,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum AuditError {
    /// PolyAI does not list.
    #[error("project {0}: the conversations cannot be listed: {1}")]
    Api(String, #[source] ApiError),
    /// The archive does not say what it holds.
    #[error("the archive cannot be read: {0}")]
    Archive(#[from] ArchiveError),
    /// What is missing cannot be queued.
    #[error("nothing can be queued for repair: {0}")]
    Queue(#[from] QueueError),
}

/// What is found wrong, or worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// PolyAI has it, the archive has not.
    Missing,
    /// It was archived while it was going on.
    Outdated,
    /// Objects without a manifest: a commit that did not come to its end.
    Incomplete,
    /// Objects are gone, or are not what the manifest names.
    Damaged,
    /// The manifest cannot be read, or lies in the wrong place.
    Unreadable,
    /// The archive has it, PolyAI's list has not (any more, or under another environment).
    Extra,
    /// Turns happened and none is shown: transcript visibility is off.
    HiddenTranscript,
    /// A voice call without a recording.
    AbsentRecording,
}

impl FindingKind {
    /// Whether the archive is not what it should be because of it.
    pub fn is_wrong(self) -> bool {
        matches!(self, Self::Missing | Self::Outdated | Self::Incomplete | Self::Damaged | Self::Unreadable)
    }

    /// As the report has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Outdated => "outdated",
            Self::Incomplete => "incomplete",
            Self::Damaged => "damaged",
            Self::Unreadable => "unreadable",
            Self::Extra => "extra",
            Self::HiddenTranscript => "hidden_transcript",
            Self::AbsentRecording => "absent_recording",
        }
    }
}

/// One finding about one conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuditFinding {
    /// The project, as configured.
    pub project_id: String,
    /// PolyAI's id, or its folder's name where nothing else is known.
    pub conversation_id: String,
    /// What.
    pub finding: FindingKind,
    /// Objects, or a reason; nothing private.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// A day, judged.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// Of this form.
    pub schema_version: u32,
    /// The day (of UTC) on which the conversations started.
    pub date: Date,
    /// When it was looked at.
    pub audited_at: Timestamp,
    /// Whether hashes were compared.
    pub deep: bool,
    /// Whether all is as it should be.
    pub complete: bool,
    /// Conversations that PolyAI has.
    pub listed: u64,
    /// Of these, still going on or over only just now.
    pub unsettled: u64,
    /// Of these, erased here: they are not missing.
    pub erased: u64,
    /// Conversations in the archive.
    pub archived: u64,
    /// Their objects.
    pub objects: u64,
    /// And bytes.
    pub bytes: u64,
    /// How often each thing was found.
    pub counts: BTreeMap<&'static str, u64>,
    /// What was queued to be fetched (again).
    pub queued: u64,
    /// What was found, at most ten thousand of it.
    pub findings: Vec<AuditFinding>,
}

impl AuditReport {
    fn new(date: Date, audited_at: Timestamp, deep: bool) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            date,
            audited_at,
            deep,
            complete: true,
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

    fn note(
        &mut self,
        project: &Project,
        conversation_id: &str,
        finding: FindingKind,
        detail: Option<String>,
    ) {
        *self.counts.entry(finding.as_str()).or_default() += 1;
        self.complete &= !finding.is_wrong();
        if self.findings.len() < NAMED {
            let (project_id, conversation_id) = (project.project_id().to_owned(), conversation_id.to_owned());
            self.findings.push(AuditFinding { project_id, conversation_id, finding, detail });
        }
    }
}

impl Auditor<'_> {
    /// Audits the conversations of `projects` that started on `date`. `seen` is told of the report as it grows.
    pub async fn run(
        &self,
        projects: &[&Project],
        date: Date,
        seen: impl Fn(&AuditReport),
    ) -> Result<AuditReport, AuditError> {
        let mut report = AuditReport::new(date, self.clock.now(), self.deep);
        for project in projects {
            let known = self.compare_list(project, date, &mut report, &seen).await?;
            self.inspect_all(project, date, &known, &mut report, &seen).await?;
        }
        report.findings.sort_by(|a, b| {
            (a.finding, &a.project_id, &a.conversation_id).cmp(&(
                b.finding,
                &b.project_id,
                &b.conversation_id,
            ))
        });
        Ok(report)
    }

    /// What PolyAI has: is it there? The names of their folders.
    async fn compare_list(
        &self,
        project: &Project,
        date: Date,
        report: &mut AuditReport,
        seen: &impl Fn(&AuditReport),
    ) -> Result<HashSet<String>, AuditError> {
        let day = self.archive.list_day(project.account_id(), project.project_id(), date).await?;
        let erasures = self.archive.erased_conversations().await?;
        let start = date.to_zoned(TimeZone::UTC).map_or(Timestamp::MIN, |day| day.timestamp());
        let next = date.tomorrow().and_then(|next| next.to_zoned(TimeZone::UTC));
        let end = next.map_or(Timestamp::MAX, |day| day.timestamp()).min(self.clock.now());
        let settled = self.clock.now().checked_sub(self.settle).unwrap_or(Timestamp::MIN);
        let query = ListQuery { started: start..end, environments: self.environments.to_vec() };
        let mut list = self.polyai.list(project, query);
        let mut known = HashSet::new();
        let failed = |error| AuditError::Api(project.project_id().to_owned(), error);
        while let Some(listed) = list.next().await.map_err(failed)? {
            // Without a start it is of no day.
            let Some(started_at) = listed.started_at else { continue };
            let place = Location::new(project.account_id(), project.project_id(), &listed.id, started_at);
            if !known.insert(place.name().to_owned()) {
                continue;
            }
            report.listed += 1;
            if erasures.contain(project.account_id(), project.project_id(), &listed.id) {
                report.erased += 1;
            } else if listed.in_progress || listed.ended_at.unwrap_or(started_at) > settled {
                report.unsettled += 1;
            } else if day.archived_at(&place).is_none() {
                report.note(project, &listed.id, FindingKind::Missing, None);
                let discovery = Discovery {
                    conversation_id: listed.id,
                    account_id: project.account_id().to_owned(),
                    project_id: project.project_id().to_owned(),
                    environment: listed.environment,
                    started_at: Some(started_at),
                    ended_at: listed.ended_at,
                    by: By::Command,
                    mark: Some(report.audited_at),
                    again: false,
                };
                self.repair(&discovery, report).await?;
            }
            seen(report);
        }
        Ok(known)
    }

    /// What the archive has: is it good, and has PolyAI it too?
    async fn inspect_all(
        &self,
        project: &Project,
        date: Date,
        known: &HashSet<String>,
        report: &mut AuditReport,
        seen: &impl Fn(&AuditReport),
    ) -> Result<(), AuditError> {
        let (account, id) = (project.account_id(), project.project_id());
        let folders = self.archive.list_folders(account, id, date);
        let mut inspected = std::pin::pin!(
            folders
                .map(|folder| async {
                    let folder = folder?;
                    let stored = match folder.archived_at {
                        Some(_) => self.archive.inspect(account, id, date, &folder.name, self.deep).await,
                        None => Ok(None),
                    };
                    Ok::<_, ArchiveError>((folder, stored))
                })
                .buffer_unordered(AT_ONCE)
        );
        while let Some((folder, stored)) = inspected.try_next().await? {
            let is_known = known.contains(&folder.name);
            match stored {
                Ok(None) => {
                    let detail = format!("{} objects and no manifest", folder.objects);
                    report.note(project, &folder.name, FindingKind::Incomplete, Some(detail));
                }
                Ok(Some(stored)) => self.judge(project, &folder, &stored, is_known, report).await?,
                Err(
                    error @ (ArchiveError::Manifest { .. }
                    | ArchiveError::Collision { .. }
                    | ArchiveError::Newer { .. }),
                ) => {
                    report.note(project, &folder.name, FindingKind::Unreadable, Some(error.to_string()));
                }
                Err(error) => return Err(error.into()),
            }
            seen(report);
        }
        Ok(())
    }

    async fn judge(
        &self,
        project: &Project,
        folder: &ConversationFolder,
        stored: &StoredConversation,
        is_known: bool,
        report: &mut AuditReport,
    ) -> Result<(), AuditError> {
        let manifest = &stored.manifest;
        let id = &manifest.conversation_id;
        report.archived += 1;
        report.objects += folder.objects;
        report.bytes += folder.bytes;
        if !stored.is_intact() {
            report.note(project, id, FindingKind::Damaged, Some(stored.damaged().join(", ")));
        }
        if !stored.is_final() {
            report.note(project, id, FindingKind::Outdated, None);
        }
        if !stored.is_intact() || !stored.is_final() {
            let discovery = Discovery {
                conversation_id: id.clone(),
                account_id: project.account_id().to_owned(),
                project_id: project.project_id().to_owned(),
                environment: Some(manifest.facts.environment.clone()),
                started_at: Some(manifest.facts.started_at),
                ended_at: manifest.facts.finished_at,
                by: By::Command,
                mark: Some(report.audited_at),
                again: true,
            };
            self.repair(&discovery, report).await?;
        }
        // What was archived of another environment is not in the lists that were read.
        if !is_known && self.environments.contains(&manifest.facts.environment) {
            report.note(project, id, FindingKind::Extra, None);
        }
        if manifest.warnings.iter().any(|warning| warning.starts_with("transcript_hidden")) {
            report.note(project, id, FindingKind::HiddenTranscript, None);
        }
        if manifest.audio.status == AudioStatus::Absent {
            report.note(project, id, FindingKind::AbsentRecording, None);
        }
        Ok(())
    }

    async fn repair(&self, discovery: &Discovery, report: &mut AuditReport) -> Result<(), AuditError> {
        if let Some(queue) = self.repair {
            publish(queue, discovery, self.clock).await?;
            report.queued += 1;
        }
        Ok(())
    }
}
