//! The archive's side of the comparison: whether a listed conversation is archived.

use std::{collections::VecDeque, ops::Range, time::Duration};

use jiff::{Timestamp, civil::Date, tz::Offset};

use crate::{
    archive::{Archive, ArchiveError, ArchivedDay, ErasedConversations, Location},
    polyai::{ListedConversation, Project},
};

/// The number of days of the archive in memory. A list is almost in order, so two would be enough.
const MAX_CACHED_DAYS: usize = 3;
/// In a shorter period few calls start, and the archive is asked for each of them. For a longer one a listing of the whole
/// day is cheaper.
const MIN_LISTED_PERIOD: Duration = Duration::from_mins(45);

/// The state of a listed conversation in the archive.
pub(super) enum ArchiveState {
    Archived,
    /// It was archived before it was over; the time of that.
    Outdated(Timestamp),
    Erased,
    Missing,
    /// Its day cannot be listed, which was reported before.
    Unknown,
}

/// The archived conversations of a project, as far as they were looked up.
pub(super) struct ArchivedConversations<'a> {
    archive: &'a Archive,
    project: &'a Project,
    erased: ErasedConversations,
    lists_days: bool,
    /// A day that cannot be listed is `None`.
    days: VecDeque<(Date, Option<ArchivedDay>)>,
}

impl<'a> ArchivedConversations<'a> {
    /// Prepares the comparison with conversations that started within `started`.
    pub(super) async fn open(
        archive: &'a Archive,
        project: &'a Project,
        started: &Range<Timestamp>,
    ) -> Result<Self, ArchiveError> {
        let erased = archive.erased_conversations().await?;
        let period = Duration::try_from(started.end.duration_since(started.start)).unwrap_or_default();
        let lists_days = period >= MIN_LISTED_PERIOD;
        Ok(Self { archive, project, erased, lists_days, days: VecDeque::new() })
    }

    pub(super) async fn find(&mut self, listed: &ListedConversation) -> Result<ArchiveState, ArchiveError> {
        let (account_id, project_id) = (self.project.account_id(), self.project.project_id());
        if self.erased.contains(account_id, project_id, &listed.id) {
            return Ok(ArchiveState::Erased);
        }
        // The place in the archive depends on the start, so only the worker can check this.
        let Some(started_at) = listed.started_at else { return Ok(ArchiveState::Missing) };
        let location = Location::new(account_id, project_id, &listed.id, started_at);
        let archived_at = if self.lists_days {
            let Some(day) = self.day(started_at).await? else { return Ok(ArchiveState::Unknown) };
            day.archived_at(&location)
        } else {
            self.archive.archived_at(&location).await?
        };
        state_at(self.archive, &location, archived_at, listed.ended_at).await
    }

    /// Returns whether the whole conversation is archived or erased, so that PolyAI need not be asked.
    pub(super) async fn is_final(&self, listed: &ListedConversation) -> Result<bool, ArchiveError> {
        let (account_id, project_id) = (self.project.account_id(), self.project.project_id());
        if self.erased.contains(account_id, project_id, &listed.id) {
            return Ok(true);
        }
        let Some(started_at) = listed.started_at else { return Ok(false) };
        let location = Location::new(account_id, project_id, &listed.id, started_at);
        Ok(self.archive.read(&location).await?.is_some_and(|stored| stored.is_final()))
    }

    /// Returns the day of a conversation. The error of a day is returned once.
    async fn day(&mut self, started_at: Timestamp) -> Result<Option<&ArchivedDay>, ArchiveError> {
        let date = Offset::UTC.to_datetime(started_at).date();
        if let Some(at) = self.days.iter().position(|(known, _)| *known == date) {
            return Ok(self.days[at].1.as_ref());
        }
        if self.days.len() == MAX_CACHED_DAYS {
            self.days.pop_front();
        }
        let day = self.archive.list_day(self.project.account_id(), self.project.project_id(), date).await;
        let (day, error) = day.map_or_else(|error| (None, Some(error)), |day| (Some(day), None));
        self.days.push_back((date, day));
        match error {
            Some(error) => Err(error),
            None => Ok(self.days[self.days.len() - 1].1.as_ref()),
        }
    }
}

/// Returns the state of a conversation whose manifest was written at `archived_at` and which ended at `ended_at`.
pub(super) async fn state_at(
    archive: &Archive,
    location: &Location,
    archived_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
) -> Result<ArchiveState, ArchiveError> {
    let Some(archived_at) = archived_at else { return Ok(ArchiveState::Missing) };
    // The clock of the store may be slow, so the manifest decides.
    if ended_at.is_none_or(|ended_at| archived_at > ended_at) {
        return Ok(ArchiveState::Archived);
    }
    Ok(match archive.read(location).await? {
        Some(stored) if stored.is_final() => ArchiveState::Archived,
        Some(_) => ArchiveState::Outdated(archived_at),
        None => ArchiveState::Missing,
    })
}
