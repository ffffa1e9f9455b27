//! The earlier revisions of a conversation: the bytes of each `conversation.json` that was replaced.
//!
//! Before a commit replaces `conversation.json`, it copies the earlier bytes to `conversation.<revision>.json`. The copy is
//! durable, and its hash is that of the manifest, before the original changes. So a crash at any instruction leaves the
//! bytes that the manifest names in at least one of the two places, and the next attempt finds them. The manifest lists
//! the copies; what cannot be kept or was lost later is named in a warning.

use object_store::PutMode;

use super::{
    Archive, ArchiveError,
    commit::{JSON, count_bytes, sha256},
    key::{CONVERSATION, Location, revision_name},
    manifest::{Manifest, ManifestObject, ObjectKind, REVISION_LOST},
};
use crate::disk::SpaceUse;

/// The maximum number of revisions that a manifest lists. Of more, the first one and the latest ones are listed, so that
/// the manifest stays readable; the other objects stay where they are.
const MAX_REVISIONS: usize = 100;

impl Archive {
    /// Copies the bytes of `existing`, which a commit is about to replace. Returns the entry of the copy for the manifest,
    /// or `None` if these bytes are in neither place any more.
    pub(super) async fn keep_revision(
        &self,
        location: &Location,
        existing: &Manifest,
    ) -> Result<Option<ManifestObject>, ArchiveError> {
        let Some(earlier) = existing.conversation() else { return Ok(None) };
        let name = revision_name(existing.revision);
        let key = self.key(location, &name)?;
        let mut entry = ManifestObject { name, kind: ObjectKind::Revision, etag: None, ..earlier.clone() };
        let bytes = match self.read_object(location, CONVERSATION).await {
            // These are not the bytes that polyhook wrote.
            Err(ArchiveError::TooLarge { .. }) => None,
            read => read?,
        };
        let Some(bytes) = bytes.filter(|bytes| sha256(bytes) == earlier.sha256) else {
            // A writer that died after it had copied them has replaced them.
            let is_kept = self.hash_object(&key).await?.is_some_and(|hash| hash == earlier.sha256);
            if is_kept && self.backend.folder.is_none() {
                entry.etag = self.head(&key).await?.and_then(|meta| meta.e_tag);
            }
            return Ok(is_kept.then_some(entry));
        };
        let attributes = self.backend.attributes(JSON);
        let written =
            self.backend.put(&key, bytes.into(), PutMode::Overwrite, attributes, SpaceUse::Document).await?;
        count_bytes(ObjectKind::Revision.as_str(), entry.size_bytes);
        entry.etag = written.and_then(|written| written.e_tag);
        Ok(Some(entry))
    }

    /// Returns the names of the revisions that are missing or whose bytes have changed.
    pub(super) async fn find_damaged_revisions(
        &self,
        location: &Location,
        manifest: &Manifest,
    ) -> Result<Vec<String>, ArchiveError> {
        let mut damaged = Vec::new();
        for object in manifest.objects.iter().filter(|object| object.kind == ObjectKind::Revision) {
            if !self.is_intact(&self.key(location, &object.name)?, object, true).await? {
                damaged.push(object.name.clone());
            }
        }
        Ok(damaged)
    }
}

/// Lists the revisions of `existing` in the manifest that replaces it. Those in `damaged` are lost: no fetch restores them.
pub(super) fn carry_over(existing: &Manifest, damaged: &[String], new: &mut Manifest) {
    let is_known_loss = |warning: &&String| warning.starts_with(REVISION_LOST);
    new.warnings.extend(existing.warnings.iter().filter(is_known_loss).cloned());
    for object in existing.objects.iter().filter(|object| object.kind == ObjectKind::Revision) {
        if damaged.contains(&object.name) {
            new.warnings
                .push(format!("{REVISION_LOST}: {} was removed or changed in the archive", object.name));
        } else {
            new.objects.push(object.clone());
        }
    }
}

/// Adds the copy of the bytes that were current until now. `None`: they could not be kept.
pub(super) fn add(manifest: &mut Manifest, earlier_revision: u64, copy: Option<ManifestObject>) {
    let Some(copy) = copy else {
        manifest.warnings.push(format!(
            "{REVISION_LOST}: the bytes of revision {earlier_revision} were removed or changed in the archive"
        ));
        return;
    };
    manifest.objects.push(copy);
    let is_revision = |object: &ManifestObject| object.kind == ObjectKind::Revision;
    if manifest.objects.iter().filter(|object| is_revision(object)).count() > MAX_REVISIONS
        && let Some(first) = manifest.objects.iter().position(is_revision)
    {
        manifest.objects.remove(first + 1);
    }
}
