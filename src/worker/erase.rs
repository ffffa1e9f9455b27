//! Erasing a conversation everywhere polyhook keeps it: archive, queue, and what consumers were told.
//!
//! In this order, because of who may be at work meanwhile: the archive's record, from which on every worker leaves
//! the conversation alone; what lies in the archive; what stands in the queue; and last `conversation.erased`, for
//! those who have copies of their own. Done again it completes what was broken off, and announces under the same id.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use serde::Serialize;

use super::{Inner, JobFailure, Worker, announce};
use crate::{
    archive::{ArchiveError, StoredObjects},
    polyai::{Project, UnknownProject},
    queue::{Announced, ErasedMessages},
};

/// What is to be erased.
#[derive(Clone, Debug)]
pub struct ErasureRequest {
    /// PolyAI's id.
    pub conversation_id: String,
    /// The account it belongs to, where that is known.
    pub account_id: Option<String>,
    /// The project it belongs to, where that is known.
    pub project_id: Option<String>,
    /// A word, or a ticket's number, for the record.
    pub reason: Option<String>,
    /// Look, and change nothing.
    pub dry_run: bool,
}

/// A project in whose part of the archive it was looked.
#[derive(Clone, Debug, Serialize)]
pub struct ErasedProject {
    /// The account.
    pub account_id: String,
    /// The project.
    pub project_id: String,
    /// What was removed, or would be.
    #[serde(flatten)]
    pub lying: StoredObjects,
    /// Whether consumers were told; false also where nobody has bound a queue for it.
    pub announced: bool,
}

/// What became of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ErasureReport {
    /// Each project that was asked.
    pub archive: Vec<ErasedProject>,
    /// What was removed from the queue, or would be.
    pub queue: ErasedMessages,
    /// What could not be done, in words; empty if all is done.
    pub problems: Vec<String>,
}

impl Worker {
    /// Erases a conversation. Nothing is left undone for the trouble of something else; [`ErasureReport::problems`] says what
    /// has to be done again.
    pub async fn erase(&self, order: &ErasureRequest) -> Result<ErasureReport, JobFailure> {
        let inner = &self.inner;
        let id = order.conversation_id.as_str();
        let mut report = ErasureReport::default();
        let mut announcements = Vec::new();
        for (account_id, project_id) in self.owners(order)? {
            let erased = if order.dry_run {
                inner.archive.stored_objects(&account_id, &project_id, id).await.map(|lying| (None, lying))
            } else {
                let reason = order.reason.as_deref();
                let erased = inner.archive.erase(&account_id, &project_id, id, reason).await;
                erased.map(|(erasure, lying)| (Some(erasure), lying))
            };
            match erased {
                Ok((erasure, lying)) => {
                    if let Some(erasure) = erasure {
                        let announcement = announce::erased(&account_id, &project_id, id, &erasure);
                        announcements.push((report.archive.len(), announcement));
                    }
                    report.archive.push(ErasedProject { account_id, project_id, lying, announced: false });
                }
                Err(error) => report.problems.push(format!("archive of project {project_id}: {error}")),
            }
        }
        match inner.queue.erase(id, order.dry_run).await {
            Ok(erased) => report.queue = erased,
            Err(error) => report.problems.push(format!("queue: {error}")),
        }
        for (place, announcement) in announcements {
            let announced = match announcement {
                Ok(announcement) => inner.queue.announce(announcement).await.map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match announced {
                Ok(announced) => report.archive[place].announced = announced == Announced::Delivered,
                Err(error) => report.problems.push(format!("conversation.erased was not announced: {error}")),
            }
        }
        Ok(report)
    }

    /// Lets an erased conversation be archived again; in how many projects it was erased.
    pub async fn lift_erasure(&self, order: &ErasureRequest) -> Result<usize, JobFailure> {
        let archive = &self.inner.archive;
        let mut lifted = 0;
        for (account_id, project_id) in self.owners(order)? {
            let there = archive.lift_erasure(&account_id, &project_id, &order.conversation_id).await?;
            lifted += usize::from(there);
        }
        Ok(lifted)
    }

    /// Whom it may belong to: the configured projects that the ids fit, and the ids themselves where both are
    /// given, for a project that is configured no more.
    fn owners(&self, order: &ErasureRequest) -> Result<BTreeSet<(String, String)>, UnknownProject> {
        let (account, project) = (order.account_id.as_deref(), order.project_id.as_deref());
        let mut owners = BTreeSet::new();
        if let (Some(account), Some(project)) = (account, project) {
            owners.insert((account.to_owned(), project.to_owned()));
        }
        match self.inner.polyai.candidates(account, project) {
            Ok(candidates) => owners
                .extend(candidates.iter().map(|it| (it.account_id().to_owned(), it.project_id().to_owned()))),
            Err(error) if owners.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(owners)
    }
}

impl Inner {
    /// Those projects of which the conversation was not erased. Of the others, what was written at the moment of
    /// the erasure by a worker that has died since is removed.
    pub(super) async fn not_erased<'a>(
        &self,
        projects: Vec<&'a Project>,
        conversation_id: &str,
    ) -> Result<Vec<&'a Project>, ArchiveError> {
        let asked = projects.iter().map(|project| {
            self.archive.remove_if_erased(project.account_id(), project.project_id(), conversation_id)
        });
        let erased = try_join_all(asked).await?;
        let left = projects.into_iter().zip(erased).filter(|(_, erased)| !erased);
        Ok(left.map(|(project, _)| project).collect())
    }
}
