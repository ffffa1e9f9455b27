//! Reads for the audit, and storage of its report.

use jiff::civil::Date;
use object_store::{PutMode, PutPayload, path::Path};

use super::{Archive, ArchiveError, Location, MANIFEST, StoredConversation, key};
use crate::disk::SpaceUse;

/// The folder of the reports.
pub(super) const AUDITS_FOLDER: &str = "audits";

impl Archive {
    /// Reads the conversation in the folder `name` of a project's day and checks its objects. Returns `None` if there
    /// is no manifest. With `deep`, the hash of every object is compared with the manifest.
    pub async fn inspect(
        &self,
        account: &str,
        project: &str,
        date: Date,
        name: &str,
        deep: bool,
    ) -> Result<Option<StoredConversation>, ArchiveError> {
        let day = key::day_prefix(&self.backend.prefix, account, project, date)
            .map_err(object_store::Error::from)?;
        let key = Path::parse(format!("{day}/{name}/{MANIFEST}")).map_err(object_store::Error::from)?;
        let Some((manifest, _)) = self.read_any_manifest(&key).await? else { return Ok(None) };
        let location = Location::new(
            &manifest.account_id,
            &manifest.project_id,
            &manifest.conversation_id,
            manifest.facts.started_at,
        );
        if self.key(&location, MANIFEST)? != key {
            return Err(ArchiveError::Collision { key: key.to_string() });
        }
        let damaged = self.find_damage(&location, &manifest, deep).await?;
        Ok(Some(StoredConversation { manifest, damaged }))
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
