//! Reading one conversation from the archive.

use bytes::Bytes;

use super::{Index, IndexError, day::Target, progress::PROGRESS_OBJECT, snapshot::Snapshot};
use crate::archive::{ArchiveError, CONVERSATION, ProjectDay, StoredManifest};

/// What the archive has in the folder of a conversation.
#[derive(Debug)]
pub(super) enum Reading {
    /// Another copy than that of the row.
    Copy(ConversationCopy),
    /// The copy of the row.
    Current,
    /// Nothing, or an erased conversation.
    Gone,
    /// Something that cannot be read.
    Unreadable(UnreadableConversation),
}

/// A copy of a conversation as it is in the archive.
#[derive(Debug)]
pub(super) struct ConversationCopy {
    pub(super) stored: Box<StoredManifest>,
    pub(super) conversation: Bytes,
}

/// A conversation that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableConversation {
    /// The name of its folder: the encoded id.
    pub name: String,
    /// The reason.
    pub reason: String,
    /// True if the store failed, so that it may be readable later.
    pub is_temporary: bool,
}

impl Snapshot {
    /// Reads a conversation unless its row is up to date. It is an error if the archive cannot be read at all.
    pub(super) async fn read(
        &self,
        index: &Index,
        day: &ProjectDay,
        target: &Target,
    ) -> Result<Reading, IndexError> {
        if self.has_copy(target) {
            return Ok(Reading::Current);
        }
        let error = match self.read_copy(index, day, target).await {
            Ok(reading) => return Ok(reading),
            Err(error) => error,
        };
        let is_temporary = !is_permanent(&error);
        if is_temporary {
            // One bad object must not stop the others, but an unreachable archive is one error, not a thousand.
            let probe = index.archive.read_private(PROGRESS_OBJECT).await;
            probe.map_err(|error| IndexError::archive(day, error))?;
        }
        let reason = error.to_string();
        Ok(Reading::Unreadable(UnreadableConversation { name: target.name.clone(), reason, is_temporary }))
    }

    async fn read_copy(
        &self,
        index: &Index,
        day: &ProjectDay,
        target: &Target,
    ) -> Result<Reading, ArchiveError> {
        let Some(stored) = index.archive.read_stored_manifest(day, &target.name).await? else {
            return Ok(Reading::Gone);
        };
        let manifest = &stored.manifest;
        if self.erased.contains(&manifest.account_id, &manifest.project_id, &manifest.conversation_id) {
            return Ok(Reading::Gone);
        }
        if self.is_current(&target.name, &stored) {
            return Ok(Reading::Current);
        }
        let location = stored.location();
        let Some(conversation) = index.archive.read_object(&location, CONVERSATION).await? else {
            let key = format!("{}/{CONVERSATION}", location.folder());
            return Ok(unreadable(
                target,
                format!("{key} is missing; repair it with `polyhook audit --repair`"),
            ));
        };
        Ok(Reading::Copy(ConversationCopy { stored: Box::new(stored), conversation }))
    }

    /// Returns true if the row is of the copy that was listed.
    fn has_copy(&self, target: &Target) -> bool {
        let row = self.rows.get(&target.name).and_then(|row| row.stored_at);
        row.is_some() && row == target.stored_at
    }

    fn is_current(&self, name: &str, stored: &StoredManifest) -> bool {
        self.rows.get(name).is_some_and(|row| {
            row.stored_at == Some(stored.stored_at) && hex::encode(row.manifest_sha256) == stored.sha256
        })
    }
}

fn unreadable(target: &Target, reason: String) -> Reading {
    Reading::Unreadable(UnreadableConversation { name: target.name.clone(), reason, is_temporary: false })
}

/// Returns true if only a person or another version of polyhook can change the error.
fn is_permanent(error: &ArchiveError) -> bool {
    matches!(
        error,
        ArchiveError::Manifest { .. }
            | ArchiveError::TooLarge { .. }
            | ArchiveError::Newer { .. }
            | ArchiveError::Collision { .. }
    )
}
