//! Reads for the audit, and storage of its report.

use jiff::civil::Date;
use object_store::{PutMode, PutPayload, path::Path};

use super::{Archive, ArchiveError, ProjectDay, StoredConversation, key};
use crate::disk::SpaceUse;

/// The folder of the reports.
pub(super) const AUDITS_FOLDER: &str = "audits";

impl Archive {
    /// Reads the conversation in the folder `name` of a project's day and checks its objects. Returns `None` if there
    /// is no manifest. With `deep`, the hash of every object is compared with the manifest.
    pub async fn inspect(
        &self,
        day: &ProjectDay,
        name: &str,
        deep: bool,
    ) -> Result<Option<StoredConversation>, ArchiveError> {
        let Some(stored) = self.read_stored_manifest(day, name).await? else { return Ok(None) };
        let damaged = self.find_damage(&stored.location(), &stored.manifest, deep).await?;
        Ok(Some(StoredConversation { manifest: stored.manifest, damaged }))
    }

    /// Stores the report of a day, replaces an earlier one, and returns its URL. `part` names the audited projects if
    /// they are not all.
    pub async fn save_audit_report(
        &self,
        date: Date,
        part: Option<&str>,
        report: Vec<u8>,
    ) -> Result<String, ArchiveError> {
        let part = part.map(|part| format!(".{}", key::encode_path_segment(part))).unwrap_or_default();
        let key = Path::parse(format!("{}/{AUDITS_FOLDER}/date={date}{part}.json", self.backend.prefix))
            .map_err(object_store::Error::from)?;
        let (report, mode) = (PutPayload::from(report), PutMode::Overwrite);
        let attributes = self.backend.attributes("application/json");
        self.backend.put(&key, report, mode, attributes, SpaceUse::Document).await?;
        Ok(self.backend.url(&key))
    }
}
