//! The last pass and the last audit, as the archive records them.

use jiff::{Timestamp, civil::Date};
use serde::{Deserialize, Serialize};

use super::{progress::Progress, service::PROGRESS_OBJECT};
use crate::archive::{ArchiveError, ArchiveReader};

/// The last pass over all projects, from the progress object that it wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LastPass {
    /// Time at which it began.
    pub started_at: Timestamp,
    /// The projects that it compared.
    pub projects: usize,
    /// The parts of PolyAI's list that could not be read so far.
    pub failed_windows: usize,
    /// The calls that were in progress, or had just ended.
    pub unsettled_calls: usize,
    /// End of the last pass without a failure, which may be an earlier one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// The reason why the pass failed. Absent if it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl LastPass {
    /// Reads it from the archive. Returns `None` if there was no pass yet, or this version cannot read its progress.
    pub async fn read(archive: &ArchiveReader) -> Result<Option<Self>, ArchiveError> {
        let object = archive.read_private(PROGRESS_OBJECT).await?;
        Ok(object.and_then(|object| Self::of(&Progress::parse(&object))))
    }

    fn of(progress: &Progress) -> Option<Self> {
        let failed: Vec<_> =
            progress.projects.iter().flat_map(super::progress::ProjectProgress::failed_windows).collect();
        let results = &progress.results;
        Some(Self {
            started_at: progress.projects.iter().map(|project| project.listed_until).max()?,
            projects: progress.projects.len(),
            failed_windows: failed.len() + results.blocked_windows,
            unsettled_calls: progress.projects.iter().map(|project| project.calls.len()).sum(),
            completed_at: results.completed_at,
            failure: results
                .failure
                .clone()
                .or_else(|| failed.into_iter().find_map(|window| Some(window.failure?.reason))),
        })
    }
}

/// The main facts of an [`AuditReport`](super::AuditReport) that was saved in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastAudit {
    /// The audited day.
    pub date: Date,
    /// Time of the audit.
    pub audited_at: Timestamp,
    /// True if no fault was found and everything could be compared.
    pub complete: bool,
    /// True if every byte was read and hashed.
    pub deep: bool,
    /// Conversations in PolyAI's list.
    pub listed: u64,
    /// Conversations in the archive.
    pub archived: u64,
    /// The number of findings of each kind.
    #[serde(default)]
    pub counts: std::collections::BTreeMap<String, u64>,
}

impl LastAudit {
    /// Reads it from the archive. Returns `None` if no audit was saved.
    pub async fn read(archive: &ArchiveReader) -> Result<Option<Self>, ArchiveError> {
        let report = archive.read_last_audit_report().await?;
        Ok(report.and_then(|report| serde_json::from_slice(&report).ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_progress_and_the_report_that_polyhook_writes() {
        let progress = br#"{"version": 1, "projects": [{"account_id": "a", "project_id": "p", "environments": ["live"],
            "lookback_s": 86400, "listed_until": "2026-11-30T10:00:00Z", "last_pass": "2026-11-30T09:59:00Z",
            "verified_until": {}, "calls": [{"id": "CA1", "environment": "live", "started_at": null, "ended_at": null,
            "listed_at": "2026-11-30T10:00:00Z"}], "filters_by_time": true, "window_s": 86400, "reach_s": 0,
            "calls_in_time": 0, "unreadable": null, "windows": [{"from": "2026-11-30T09:00:00Z",
            "to": "2026-11-30T10:00:00Z", "environment": "live", "failure": {"reason": "timeout",
            "retry_at": "2026-11-30T10:00:00Z", "attempts": 1}}]}]}"#;
        let pass = LastPass::of(&Progress::parse(progress)).unwrap();
        assert_eq!(pass.started_at, "2026-11-30T10:00:00Z".parse().unwrap());
        assert_eq!((pass.projects, pass.failed_windows, pass.unsettled_calls), (1, 1, 1));
        assert_eq!(pass.failure.as_deref(), Some("timeout"));
        assert_eq!(LastPass::of(&Progress::parse(b"{}")), None);

        // All of the list is blocked, so no window has a failure of its own.
        let mut blocked = Progress::parse(progress);
        blocked.projects[0].windows.clear();
        blocked.results.blocked_windows = 2;
        blocked.results.note(&[], pass.started_at, pass.started_at);
        blocked.results.note(&["key rejected".to_owned()], pass.started_at, pass.started_at);
        let failed = LastPass::of(&Progress::parse(&blocked.to_json())).unwrap();
        assert_eq!((failed.failed_windows, failed.failure.as_deref()), (2, Some("key rejected")));
        assert_eq!(failed.completed_at, Some(pass.started_at));

        let mut report = super::super::AuditReport::new("2026-11-29".parse().unwrap(), pass.started_at, true);
        report.counts.insert("missing", 2);
        let audit: LastAudit = serde_json::from_slice(&serde_json::to_vec(&report).unwrap()).unwrap();
        assert_eq!(
            (audit.date.to_string().as_str(), audit.deep, audit.counts["missing"]),
            ("2026-11-29", true, 2)
        );
    }
}
