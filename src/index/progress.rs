//! The days that have been compared with the archive, and the last pass, in a small object of the archive.

use std::collections::BTreeSet;

use jiff::{Timestamp, civil::Date, tz::Offset};
use serde::{Deserialize, Serialize};

use crate::archive::{ArchiveError, ArchiveReader};

/// The name of the object.
pub(super) const PROGRESS_OBJECT: &str = "index-progress";
/// The version of the object's format.
const VERSION: u32 = 1;
/// The hours after midnight (UTC) in which calls of the day before may still be archived.
const GRACE_HOURS: i64 = 1;

/// The progress of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    version: u32,
    /// The properties of the files. Days with others are compared again.
    stamp: String,
    pub(super) projects: Vec<ProjectProgress>,
    pub(super) last_pass: Option<LastIndexPass>,
}

/// The compared days of a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct ProjectProgress {
    account_id: String,
    project_id: String,
    /// Days that were compared after they were over.
    complete: BTreeSet<Date>,
    /// Days that were compared before they were over.
    begun: BTreeSet<Date>,
    /// Days that were compared after the archive had lost them.
    emptied: BTreeSet<Date>,
}

/// A day to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DueDate {
    pub(super) date: Date,
    /// False if only the index has it.
    pub(super) is_archived: bool,
}

/// The last pass of the service over the changes and the days.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastIndexPass {
    /// Time at which it began.
    pub started_at: Timestamp,
    /// End of the last pass without a failure, which may be an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// The latest time at which a conversation in the index was archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_archived_at: Option<Timestamp>,
    /// The changes that wait for the next pass.
    pub changes: u64,
    /// The days that were not compared with the archive yet.
    pub days: u64,
    /// The reason why the pass failed. Absent if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl LastIndexPass {
    /// Reads it from the archive. Returns `None` if there was no pass yet, or this version cannot read its progress.
    pub async fn read(archive: &ArchiveReader) -> Result<Option<Self>, ArchiveError> {
        let object = archive.read_private(PROGRESS_OBJECT).await?;
        Ok(object.and_then(|object| serde_json::from_slice::<Progress>(&object).ok()?.last_pass))
    }
}

impl Progress {
    /// Reads the object. Of another version or another kind of files, only the last pass is kept.
    pub(super) fn parse(object: &[u8], stamp: &str) -> Self {
        let found: Self = serde_json::from_slice(object).unwrap_or_default();
        let is_current = found.version == VERSION && found.stamp == stamp;
        let projects = if is_current { found.projects } else { Vec::new() };
        Self { version: VERSION, stamp: stamp.to_owned(), projects, last_pass: found.last_pass }
    }

    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the progress of a project.
    pub(super) fn project(&mut self, account_id: &str, project_id: &str) -> &mut ProjectProgress {
        let is_same =
            |project: &ProjectProgress| project.account_id == account_id && project.project_id == project_id;
        let place = self.projects.iter().position(is_same).unwrap_or_else(|| {
            let (account_id, project_id) = (account_id.to_owned(), project_id.to_owned());
            self.projects.push(ProjectProgress { account_id, project_id, ..ProjectProgress::default() });
            self.projects.len() - 1
        });
        &mut self.projects[place]
    }
}

impl ProjectProgress {
    /// Returns the days to compare, newest first: each day once when it is over, each day that has no files, and each day that
    /// the archive does not have any more, as after a lifecycle rule. A day that is not over is compared once, because earlier
    /// versions noted no changes.
    pub(super) fn due(
        &mut self,
        archived: &BTreeSet<Date>,
        indexed: &BTreeSet<Date>,
        now: Timestamp,
    ) -> Vec<DueDate> {
        self.complete.retain(|date| archived.contains(date));
        self.begun.retain(|date| archived.contains(date) && !is_over(*date, now));
        self.emptied.retain(|date| indexed.contains(date) && !archived.contains(date));
        let is_due = |date: Date| {
            if !archived.contains(&date) {
                return !self.emptied.contains(&date);
            }
            let compared = if is_over(date, now) { &self.complete } else { &self.begun };
            !compared.contains(&date) || !indexed.contains(&date)
        };
        let days = archived.union(indexed).copied().filter(|date| is_due(*date)).collect::<Vec<_>>();
        days.into_iter().rev().map(|date| DueDate { date, is_archived: archived.contains(&date) }).collect()
    }

    /// Notes that a day was compared.
    pub(super) fn note(&mut self, DueDate { date, is_archived }: DueDate, now: Timestamp) {
        let days = match (is_archived, is_over(date, now)) {
            (true, true) => &mut self.complete,
            (true, false) => &mut self.begun,
            (false, _) => &mut self.emptied,
        };
        days.insert(date);
    }
}

/// Returns true if hardly any call of this day can still be archived for the first time.
fn is_over(date: Date, now: Timestamp) -> bool {
    let in_time = now.checked_sub(jiff::SignedDuration::from_hours(GRACE_HOURS)).unwrap_or(now);
    date < Offset::UTC.to_datetime(in_time).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dates(days: &[i8]) -> BTreeSet<Date> {
        days.iter().map(|day| jiff::civil::date(2026, 11, *day)).collect()
    }

    /// Returns the days that are due, and notes them.
    fn compare(project: &mut ProjectProgress, archived: &[i8], indexed: &[i8], now: &str) -> Vec<i8> {
        let now = now.parse().unwrap();
        let due = project.due(&dates(archived), &dates(indexed), now);
        for day in &due {
            project.note(*day, now);
        }
        due.iter().map(|due| due.date.day()).collect()
    }

    #[test]
    fn a_day_is_compared_once_while_it_lasts_and_once_when_it_is_over() {
        let mut project = ProjectProgress::default();
        let days = [1, 2, 3];
        assert_eq!(compare(&mut project, &days, &[], "2026-11-03T10:00:00Z"), [3, 2, 1], "newest first");
        assert_eq!(compare(&mut project, &days, &days, "2026-11-03T11:00:00Z"), [0; 0]);
        assert_eq!(compare(&mut project, &days, &days, "2026-11-04T00:59:00Z"), [0; 0], "late calls");
        assert_eq!(compare(&mut project, &days, &days, "2026-11-04T01:00:00Z"), [3]);
        assert_eq!(compare(&mut project, &days, &days, "2026-11-09T00:00:00Z"), [0; 0]);
    }

    #[test]
    fn a_day_is_compared_again_if_its_files_or_its_conversations_are_gone() {
        let (mut project, now) = (ProjectProgress::default(), "2026-11-09T10:00:00Z");
        compare(&mut project, &[1, 2], &[1, 2], now);
        assert_eq!(compare(&mut project, &[1, 2], &[2], now), [1], "a person has removed the files");
        assert_eq!(compare(&mut project, &[2], &[1, 2], now), [1], "a lifecycle rule has removed the day");
        assert_eq!(compare(&mut project, &[2], &[1, 2], now), [0; 0]);
        assert_eq!(compare(&mut project, &[1, 2], &[1, 2], now), [1], "the day is back");
    }

    #[test]
    fn another_kind_of_files_is_compared_from_the_start() {
        let mut progress = Progress::parse(b"", "omit");
        compare(progress.project("a", "p"), &[1], &[1], "2026-11-09T10:00:00Z");
        assert_eq!(Progress::parse(&progress.to_json(), "omit"), progress);
        assert_eq!(Progress::parse(&progress.to_json(), "plain").projects, []);
    }
}
