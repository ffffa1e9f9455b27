//! Finding a conversation by its address.

use http::StatusCode;
use jiff::civil::Date;
use serde::Deserialize;

use super::{
    super::{Console, address, error::PageError, format},
    messages,
};
use crate::archive::{ArchiveError, Location, Manifest, SearchScope, StoredManifest};

/// The part of an address that says where a conversation is. Without it the archive is searched.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Place {
    account: Option<String>,
    project: Option<String>,
    date: Option<String>,
}

/// A conversation in the archive.
#[derive(Debug)]
pub(super) struct Conversation {
    pub(super) stored: StoredManifest,
    pub(super) location: Location,
}

impl Place {
    fn scope(&self) -> SearchScope {
        let name = |id: &Option<String>| id.clone().filter(|id| !id.is_empty());
        let date = self.date.as_deref().and_then(|date| date.parse::<Date>().ok());
        SearchScope { account_id: name(&self.account), project_id: name(&self.project), date }
    }

    /// Returns the address of the page of a conversation at this place.
    pub(super) fn url(&self, id: &str) -> String {
        let SearchScope { account_id, project_id, date } = self.scope();
        let page = address::conversation(id);
        match (account_id, project_id, date) {
            (Some(account), Some(project), Some(date)) => {
                format!("{page}?{}", address::folder(&account, &project, date))
            }
            _ => page,
        }
    }
}

impl Conversation {
    /// Finds the conversation. The error of one that is not in the archive, or erased, says what to do.
    pub(super) async fn find(console: &Console, place: &Place, id: &str) -> Result<Self, PageError> {
        let archive = &console.archive;
        let find = async |scope: SearchScope| {
            archive.find_manifest(&scope, id).await.map_err(|error| archive_away(&error))
        };
        let scope = place.scope();
        let mut found = find(scope.clone()).await?;
        if found.is_none() && scope != SearchScope::default() {
            // PolyAI may have corrected the start since the address was made.
            found = find(SearchScope::default()).await?;
        }
        let Some(stored) = found else { return Err(not_archived(console, id)) };
        let Manifest { account_id, project_id, .. } = &stored.manifest;
        // The record is older than the removal of the objects.
        if archive.is_erased(account_id, project_id, id).await.map_err(|error| archive_away(&error))? {
            return Err(not_archived(console, id));
        }
        let location = stored.location();
        Ok(Self { stored, location })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.stored.manifest
    }

    pub(super) fn id(&self) -> &str {
        &self.stored.manifest.conversation_id
    }

    /// Returns the address of something below the page of the conversation: `/audio/user`, or an empty text.
    pub(super) fn url(&self, below: &str) -> String {
        let location = &self.location;
        let folder = address::folder(location.account_id(), location.project_id(), location.day().date());
        format!("{}{below}?{folder}", address::conversation(self.id()))
    }
}

/// The same words for an erased conversation, which leaves no trace here. The messages say why a fetch failed.
fn not_archived(console: &Console, id: &str) -> PageError {
    let argument = format::argument(id);
    PageError::not_found(
        "The archive does not have this conversation. It was not archived yet, or it was erased.",
        format!("Fetch it with `polyhook fetch {argument}`. Find its jobs with `polyhook show {argument}`."),
    )
    .with(messages::placeholder(console, &format!("{}/messages", address::conversation(id))))
}

/// The archive cannot be read.
pub(super) fn archive_away(error: &ArchiveError) -> PageError {
    let status = match error {
        ArchiveError::Manifest { .. } | ArchiveError::Newer { .. } | ArchiveError::Collision { .. } => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    PageError::new(
        status,
        format!("The archive cannot be read: {error}."),
        "Try again. The overview shows the state of the other parts.",
    )
}
