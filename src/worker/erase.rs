//! Erases a conversation from the archive and the queue, and announces that.
//!
//! The order matters, because a worker may be archiving the conversation at the same time: first the erasure record in the
//! archive, which makes every worker leave the conversation alone; then its rows in the index; then its objects; then its
//! messages in the queue; last `conversation.erased`, for consumers that have copies. If an erasure is interrupted,
//! repeating it completes it, and announces it under the same id.

use std::collections::BTreeSet;

use jiff::civil::Date;
use serde::Serialize;
use thiserror::Error;

use super::{JobFailure, Worker, announce};
use crate::{
    archive::{ArchiveError, ErasureRecord, Location, StoredObjects},
    index::IndexError,
    polyai::UnknownProject,
    queue::{Announced, ErasedMessages},
};

/// A conversation to erase.
#[derive(Clone, Debug)]
pub struct ErasureRequest {
    /// PolyAI's id.
    pub conversation_id: String,
    /// The account, if known.
    pub account_id: Option<String>,
    /// The project, if known.
    pub project_id: Option<String>,
    /// A word or a ticket number for the erasure record.
    pub reason: Option<String>,
    /// If true, nothing is removed, and the report shows what would be.
    pub dry_run: bool,
}

/// The erasure in the part of the archive that belongs to one project.
#[derive(Clone, Debug, Serialize)]
pub struct ErasedProject {
    /// The account.
    pub account_id: String,
    /// The project.
    pub project_id: String,
    /// The objects that were removed, or would be.
    #[serde(flatten)]
    pub objects: StoredObjects,
    /// The rows of the index that were removed, or would be.
    pub index_rows: u64,
    /// True if a queue took the announcement. False also if no queue is bound for it.
    pub announced: bool,
}

/// The result of an erasure.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ErasureReport {
    /// The projects that were searched.
    pub archive: Vec<ErasedProject>,
    /// The messages that were removed from the queue, or would be.
    pub queue: ErasedMessages,
    /// The steps that failed, for a person; empty if the erasure is complete.
    pub problems: Vec<String>,
}

/// The rows of the index could not be removed.
#[derive(Debug, Error)]
enum ErasureError {
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl Worker {
    /// Erases a conversation. An error in one step does not prevent the others; [`ErasureReport::problems`] names the steps
    /// that have to be repeated.
    pub async fn erase(&self, request: &ErasureRequest) -> Result<ErasureReport, JobFailure> {
        let id = request.conversation_id.as_str();
        let mut report = ErasureReport::default();
        let mut records = Vec::new();
        for (account_id, project_id) in self.possible_owners(request)? {
            match self.erase_project(request, &account_id, &project_id, &mut report.problems).await {
                Ok((record, objects, index_rows)) => {
                    records.push(record);
                    report.archive.push(ErasedProject {
                        account_id,
                        project_id,
                        objects,
                        index_rows,
                        announced: false,
                    });
                }
                Err(error) => report.problems.push(format!("archive of project {project_id}: {error}")),
            }
        }
        match self.pipeline.queue.erase(id, request.dry_run).await {
            Ok(erased) => report.queue = erased,
            Err(error) => report.problems.push(format!("queue: {error}")),
        }
        for (project, record) in report.archive.iter_mut().zip(records) {
            let Some(record) = record else { continue };
            match self.announce_erasure(project, id, &record).await {
                Ok(announced) => project.announced = announced == Announced::Delivered,
                Err(error) => report.problems.push(format!("conversation.erased was not announced: {error}")),
            }
        }
        Ok(report)
    }

    /// Lets an erased conversation be archived again. Returns the number of projects in which it was erased.
    pub async fn lift_erasure(&self, request: &ErasureRequest) -> Result<usize, JobFailure> {
        let mut lifted = 0;
        for (account_id, project_id) in self.possible_owners(request)? {
            let archive = &self.pipeline.archive;
            let was_erased = archive.lift_erasure(&account_id, &project_id, &request.conversation_id).await?;
            lifted += usize::from(was_erased);
        }
        Ok(lifted)
    }

    /// Removes the rows and the objects of one project, or only counts them. Returns the record of an erasure that happened.
    /// An error of the index is a problem of the report, and does not prevent the removal of the objects.
    async fn erase_project(
        &self,
        request: &ErasureRequest,
        account_id: &str,
        project_id: &str,
        problems: &mut Vec<String>,
    ) -> Result<(Option<ErasureRecord>, StoredObjects, u64), ArchiveError> {
        let (archive, id) = (&self.pipeline.archive, request.conversation_id.as_str());
        let mut index_rows = |rows: Result<u64, ErasureError>| {
            rows.unwrap_or_else(|error| {
                problems.push(format!("index of project {project_id}: {error}"));
                0
            })
        };
        if request.dry_run {
            let (objects, dates) = archive.stored_objects(account_id, project_id, id).await?;
            let rows = async {
                let dates = self.dates_of_rows(account_id, project_id, id, dates).await?;
                self.index.count_rows(account_id, project_id, id, &dates).await
            };
            let rows = rows.await;
            return Ok((None, objects, index_rows(rows.map_err(ErasureError::Index))));
        }
        let erasure = archive.begin_erasure(account_id, project_id, id, request.reason.as_deref()).await?;
        let rows = self.erase_rows(account_id, project_id, id, erasure.dates()).await;
        let (record, objects) = archive.finish_erasure(erasure).await?;
        Ok((Some(record), objects, index_rows(rows)))
    }

    /// Removes the rows of a conversation from the index. Before that, notes of a change are written, so that the service of
    /// the index removes the rows if this fails or the process ends.
    async fn erase_rows(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
        dates: &BTreeSet<Date>,
    ) -> Result<u64, ErasureError> {
        let archive = &self.pipeline.archive;
        let dates = &self.dates_of_rows(account_id, project_id, conversation_id, dates.clone()).await?;
        if self.pipeline.announcer.notes_changes {
            for date in dates {
                let location = Location::on_date(account_id, project_id, conversation_id, *date);
                archive.note_change(&location).await?;
            }
        }
        let rows = self.index.remove_conversation(account_id, project_id, conversation_id, dates).await?;
        // They contain the id.
        let notes = archive.list_changes_of(account_id, project_id, conversation_id).await?;
        archive.remove_changes(&notes).await?;
        Ok(rows)
    }

    /// Returns the days that may have rows of a conversation: those under which the archive has it, or those of its rows if
    /// the archive does not have it any more.
    async fn dates_of_rows(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
        archived: BTreeSet<Date>,
    ) -> Result<BTreeSet<Date>, IndexError> {
        if archived.is_empty() {
            return self.index.find_dates(account_id, project_id, conversation_id).await;
        }
        Ok(archived)
    }

    async fn announce_erasure(
        &self,
        project: &ErasedProject,
        conversation_id: &str,
        record: &ErasureRecord,
    ) -> Result<Announced, String> {
        let announcement =
            announce::erased(&project.account_id, &project.project_id, conversation_id, record)
                .map_err(|error| error.to_string())?;
        self.pipeline.queue.announce(announcement).await.map_err(|error| error.to_string())
    }

    /// Returns the accounts and projects that the conversation may belong to: the configured projects with the given ids,
    /// and the ids themselves if both are given, for a project that is no longer configured.
    fn possible_owners(
        &self,
        request: &ErasureRequest,
    ) -> Result<BTreeSet<(String, String)>, UnknownProject> {
        let (account, project) = (request.account_id.as_deref(), request.project_id.as_deref());
        let mut owners = BTreeSet::new();
        if let (Some(account), Some(project)) = (account, project) {
            owners.insert((account.to_owned(), project.to_owned()));
        }
        match self.pipeline.polyai.with_ids(account, project) {
            Ok(candidates) => owners.extend(
                candidates
                    .iter()
                    .map(|project| (project.account_id().to_owned(), project.project_id().to_owned())),
            ),
            Err(error) if owners.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(owners)
    }
}
