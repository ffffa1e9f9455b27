//! Looking at what lies there as an auditor does, and keeping what was found.

use futures_util::TryStreamExt;
use jiff::civil::Date;
use object_store::{ObjectStoreExt, PutPayload, path::Path};
use sha2::{Digest, Sha256};

use super::{Archive, ArchiveError, Location, MANIFEST, StoredConversation, key};

/// Where reports lie.
const AUDITS: &str = "audits";

impl Archive {
    /// What lies in the folder `name` of a project's day; nothing where there is no manifest. `deep`: every byte is read
    /// and compared with the manifest's hashes.
    pub async fn inspect(
        &self,
        account: &str,
        project: &str,
        date: Date,
        name: &str,
        deep: bool,
    ) -> Result<Option<StoredConversation>, ArchiveError> {
        let day =
            key::day(&self.backend.prefix, account, project, date).map_err(object_store::Error::from)?;
        let key = Path::parse(format!("{day}/{name}/{MANIFEST}")).map_err(object_store::Error::from)?;
        let Some((manifest, version)) = self.any_manifest(&key).await? else { return Ok(None) };
        let place = Location::new(
            &manifest.account_id,
            &manifest.project_id,
            &manifest.conversation_id,
            manifest.facts.started_at,
        );
        if self.key(&place, MANIFEST)? != key {
            return Err(ArchiveError::Collision { key: key.to_string() });
        }
        let mut stored = self.examine(&place, manifest, version).await?;
        if deep {
            for object in &stored.manifest.objects {
                if stored.damaged.contains(&object.name) {
                    continue;
                }
                if self.hash(&self.key(&place, &object.name)?).await? != object.sha256 {
                    stored.damaged.push(object.name.clone());
                }
            }
        }
        Ok(Some(stored))
    }

    /// Keeps a report about a day, in the place of an earlier one; its URL. `part`: of which projects, if not of all.
    pub async fn save_audit_report(
        &self,
        date: Date,
        part: Option<&str>,
        report: Vec<u8>,
    ) -> Result<String, ArchiveError> {
        let part = part.map(|part| format!(".{}", key::segment(part))).unwrap_or_default();
        let key = Path::parse(format!("{}/{AUDITS}/date={date}{part}.json", self.backend.prefix))
            .map_err(object_store::Error::from)?;
        self.backend.store.put(&key, PutPayload::from(report)).await?;
        Ok(self.backend.url(&key))
    }

    async fn hash(&self, key: &Path) -> Result<String, ArchiveError> {
        let mut hash = Sha256::new();
        let mut parts = self.backend.store.get(key).await?.into_stream();
        while let Some(part) = parts.try_next().await? {
            hash.update(&part);
        }
        Ok(hex::encode(hash.finalize()))
    }
}
