//! Finds a conversation whose date is not known, and reads its objects.

use std::{cmp::Reverse, future::ready, pin::pin};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use jiff::civil::Date;
use object_store::ObjectStoreExt;

use super::{
    Archive, ArchiveError, Location, ProjectDay, StoredConversation, StoredManifest, encode_path_segment,
    key::{ACCOUNT_PREFIX, DATE_PREFIX, PROJECT_PREFIX},
};

/// The number of manifests that are looked for at the same time.
const CONCURRENT_READS: usize = 16;
/// A larger document is not read into memory. A worker does not accept one from PolyAI.
const MAX_DOCUMENT_BYTES: u64 = 32 << 20;

/// The part of the archive in which a conversation is searched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchScope {
    /// The account. `None`: all.
    pub account_id: Option<String>,
    /// The project. `None`: all.
    pub project_id: Option<String>,
    /// The UTC date of the start. `None`: all, the latest first.
    pub date: Option<Date>,
}

impl Archive {
    /// Finds the copies of a conversation under every date of a project. There is more than one only if PolyAI has
    /// corrected the start of the call.
    pub async fn find(
        &self,
        account_id: &str,
        project_id: &str,
        conversation_id: &str,
    ) -> Result<Vec<(Location, StoredConversation)>, ArchiveError> {
        let mut found = Vec::new();
        for folder in self.find_folders(account_id, project_id, conversation_id).await? {
            if let Some(stored) = self.read(&folder.location).await? {
                found.push((folder.location, stored));
            }
        }
        Ok(found)
    }

    /// Finds the latest copy of a conversation that can be read. Returns an error only if there is none. A scope that names account,
    /// project and date costs one request; every other one lists the folders of the archive.
    pub async fn find_manifest(
        &self,
        scope: &SearchScope,
        conversation_id: &str,
    ) -> Result<Option<StoredManifest>, ArchiveError> {
        let mut days = Vec::new();
        for (account, project) in self.list_projects(scope).await? {
            let dates = match scope.date {
                Some(date) => vec![format!("{DATE_PREFIX}{date}")],
                None => self.list_segments(&format!("{account}/{project}"), DATE_PREFIX).await?,
            };
            days.extend(dates.iter().filter_map(|date| ProjectDay::from_segments(&account, &project, date)));
        }
        days.sort_by_key(|day| Reverse(day.date()));
        let name = encode_path_segment(conversation_id);
        let name = &*name;
        let found = stream::iter(days)
            .map(|day| async move { self.read_stored_manifest(&day, name).await })
            .buffered(CONCURRENT_READS)
            .filter_map(|found| ready(found.transpose()));
        let (mut found, mut first_error) = (pin!(found), None);
        while let Some(manifest) = found.next().await {
            match manifest {
                Ok(manifest) => return Ok(Some(manifest)),
                // A damaged copy must not hide a good one.
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(None), Err)
    }

    /// Lists the segments of account and project of each project in the scope.
    async fn list_projects(&self, scope: &SearchScope) -> Result<Vec<(String, String)>, ArchiveError> {
        let named = |prefix: &str, id: &Option<String>| {
            id.as_ref().map(|id| vec![format!("{prefix}{}", encode_path_segment(id))])
        };
        let accounts = match named(ACCOUNT_PREFIX, &scope.account_id) {
            Some(account) => account,
            None => self.list_segments("", ACCOUNT_PREFIX).await?,
        };
        let mut found = Vec::new();
        for account in accounts {
            let projects = match named(PROJECT_PREFIX, &scope.project_id) {
                Some(project) => project,
                None => self.list_segments(&account, PROJECT_PREFIX).await?,
            };
            found.extend(projects.into_iter().map(|project| (account.clone(), project)));
        }
        Ok(found)
    }

    /// Lists the segments below a folder that begin with `prefix`.
    pub(super) async fn list_segments(
        &self,
        folder: &str,
        prefix: &str,
    ) -> Result<Vec<String>, ArchiveError> {
        let folder = self.root_key(folder)?;
        let listed = self.backend.store.list_with_delimiter(Some(&folder)).await?;
        let segments = listed.common_prefixes.iter().filter_map(|found| found.filename());
        Ok(segments.filter(|segment| segment.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// Reads a document of a conversation into memory. Returns `None` if there is none.
    pub async fn read_object(&self, location: &Location, name: &str) -> Result<Option<Bytes>, ArchiveError> {
        let key = self.key(location, name)?;
        match self.backend.store.get(&key).await {
            Ok(found) if found.meta.size > MAX_DOCUMENT_BYTES => {
                Err(ArchiveError::TooLarge { key: key.to_string(), size: found.meta.size })
            }
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{archive::ArchiveConfig, clock::Clock};

    #[tokio::test]
    async fn finds_the_latest_copy_of_a_conversation_in_any_project() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file:{}", folder.path().display());
        let archive =
            Archive::open(&ArchiveConfig { url, ..ArchiveConfig::default() }, Clock::System).unwrap();
        let id = "CA/1";
        for (account, project, start) in [
            ("acme", "desk", "2026-11-01T10:00:00Z"),
            ("acme", "desk", "2026-11-03T10:00:00Z"),
            ("other team", "desk", "2026-11-02T10:00:00Z"),
        ] {
            let location = Location::new(account, project, id, start.parse().unwrap());
            let mut manifest: serde_json::Value =
                serde_json::from_str(include_str!("fixtures/manifest.json")).unwrap();
            for (name, value) in [("account_id", account), ("project_id", project), ("started_at", start)] {
                manifest[name] = value.into();
            }
            manifest["conversation_id"] = id.into();
            let path = folder.path().join(location.folder());
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("manifest.json"), manifest.to_string()).unwrap();
        }
        let find = async |account: Option<&str>, project: Option<&str>, date: Option<&str>, id: &str| {
            let scope = SearchScope {
                account_id: account.map(str::to_owned),
                project_id: project.map(str::to_owned),
                date: date.map(|date| date.parse().unwrap()),
            };
            let found = archive.find_manifest(&scope, id).await.unwrap()?;
            Some(found.manifest.facts.started_at.to_string())
        };
        let (first, second, third) = ("2026-11-01T10:00:00Z", "2026-11-02T10:00:00Z", "2026-11-03T10:00:00Z");
        assert_eq!(find(None, None, None, id).await.as_deref(), Some(third));
        assert_eq!(find(Some("other team"), None, None, id).await.as_deref(), Some(second));
        assert_eq!(find(Some("acme"), Some("desk"), Some("2026-11-01"), id).await.as_deref(), Some(first));
        assert_eq!(find(None, None, Some("2026-11-02"), id).await.as_deref(), Some(second));
        assert_eq!(find(None, None, None, "CA").await, None);
        assert_eq!(find(Some("acme"), Some("other"), None, id).await, None);
        let path = |start: &str| {
            let location = Location::new("acme", "desk", id, start.parse().unwrap());
            folder.path().join(location.folder()).join("manifest.json")
        };
        std::fs::write(path(third), "damaged").unwrap();
        assert_eq!(
            find(None, None, None, id).await.as_deref(),
            Some(second),
            "the latest one that can be read"
        );
        std::fs::write(path(first), "damaged").unwrap();
        let scope = SearchScope { account_id: Some("acme".to_owned()), ..SearchScope::default() };
        assert!(matches!(archive.find_manifest(&scope, id).await, Err(ArchiveError::Manifest { .. })));
    }
}
