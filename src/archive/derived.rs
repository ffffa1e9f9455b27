//! Objects that are derived from the archive and replaced as a whole, such as the tables of the index.
//!
//! Several processes may replace an object at the same time. Each states the version that it has read, and only the first
//! one succeeds; the others read again. So no update is lost, and a reader finds the old object or the new one.
//!
//! * A bucket compares versions itself (`If-Match`, `If-None-Match`). The version of S3 is a hash of the content, so
//!   **every content must be different from all earlier ones**, even if it has the same rows: a writer that read the same
//!   bytes before must not succeed. A file that contains a random id does this.
//! * In a folder the file is written and synced beside its place. Then a lock, which other processes respect, is held
//!   while the version is compared and the file is moved. The version is that of the file: its inode, size and time.

use std::{collections::BTreeSet, ops::Range};

use bytes::Bytes;
use jiff::civil::Date;
use object_store::{GetOptions, GetRange, ObjectStoreExt, PutPayload, UpdateVersion, path::Path};

use super::{
    Archive, ArchiveError,
    folder::PrivateFolder,
    is_conflict,
    key::{ACCOUNT_PREFIX, PROJECT_PREFIX, date_of_segment, ids_of_segments, project_folder},
    staging::StagedFile,
};
use crate::disk::SpaceUse;

/// The content type that a bucket stores with a derived object.
const PARQUET: &str = "application/vnd.apache.parquet";
/// A larger object was not written by polyhook, and is not read. A day of 100,000 calls takes about 20 MB in each table, so ten times as
/// many calls fit.
const MAX_DERIVED_BYTES: u64 = 256 << 20;

/// A derived object as it was read.
#[derive(Clone, Debug)]
pub struct DerivedObject {
    /// Its content. Empty, which is damaged, if it is too large for an object of polyhook.
    pub bytes: Bytes,
    /// Its version.
    pub version: DerivedVersion,
}

/// A derived object that is read in parts.
#[derive(Clone, Debug)]
pub struct DerivedObjectInfo {
    /// Its size in bytes.
    pub size: u64,
    /// Its version.
    pub version: DerivedVersion,
}

/// The version of a derived object that [`Archive::replace_derived`] compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DerivedVersion(UpdateVersion);

impl DerivedVersion {
    /// Returns a text that differs between versions. It is empty if the store has none.
    pub fn tag(&self) -> &str {
        self.0.e_tag.as_deref().or(self.0.version.as_deref()).unwrap_or_default()
    }
}

impl Archive {
    /// Reads a derived object. The key is relative to the archive's root. Returns `None` if there is no object.
    pub async fn read_derived(&self, key: &str) -> Result<Option<DerivedObject>, ArchiveError> {
        let found = match self.backend.store.get_opts(&self.root_key(key)?, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let bytes = if found.meta.size > MAX_DERIVED_BYTES {
            tracing::warn!(
                object.key = key,
                object.bytes = found.meta.size,
                "a file of the index is too large and counts as damaged"
            );
            Bytes::new()
        } else {
            found.bytes().await?
        };
        Ok(Some(DerivedObject { bytes, version: DerivedVersion(version) }))
    }

    /// Returns the size and the version of a derived object, or `None` if there is none.
    pub async fn derived_info(&self, key: &str) -> Result<Option<DerivedObjectInfo>, ArchiveError> {
        let found = self.head(&self.root_key(key)?).await?;
        Ok(found.map(|meta| {
            let version = UpdateVersion { e_tag: meta.e_tag, version: meta.version };
            DerivedObjectInfo { size: meta.size, version: DerivedVersion(version) }
        }))
    }

    /// Reads a part of a version of a derived object. Returns `None` if the object has been replaced or removed since.
    pub async fn read_derived_part(
        &self,
        key: &str,
        version: &DerivedVersion,
        range: Range<u64>,
    ) -> Result<Option<Bytes>, ArchiveError> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: version.0.e_tag.clone(),
            ..GetOptions::default()
        };
        match self.backend.store.get_opts(&self.root_key(key)?, options).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) if is_conflict(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the version `expected` of a derived object (`None`: there must be no object). The new content must be
    /// different from all earlier ones; see the module. Returns false, and changes nothing, if there is another version now.
    /// It is durable when this returns true.
    pub async fn replace_derived(
        &self,
        key: &str,
        expected: Option<&DerivedVersion>,
        content: Bytes,
    ) -> Result<bool, ArchiveError> {
        let key = self.root_key(key)?;
        if let Some(folder) = &self.backend.folder {
            return self.replace_derived_file(folder, &key, expected, content).await;
        }
        let mode = self.backend.replace(expected.map(|version| version.0.clone()));
        let (body, attributes) = (PutPayload::from(content.clone()), self.backend.attributes(PARQUET));
        if self.backend.put(&key, body, mode, attributes, SpaceUse::Document).await?.is_some() {
            return Ok(true);
        }
        // The answer to this write may have been lost, and its repetition has met its result.
        let Some(meta) = self.head(&key).await? else { return Ok(false) };
        if meta.size != content.len() as u64 {
            return Ok(false);
        }
        match self.backend.store.get(&key).await {
            Ok(found) => Ok(found.bytes().await? == content),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn replace_derived_file(
        &self,
        folder: &std::sync::Arc<PrivateFolder>,
        key: &Path,
        expected: Option<&DerivedVersion>,
        content: Bytes,
    ) -> Result<bool, ArchiveError> {
        let mut staged = StagedFile::create(folder, content.len() as u64, SpaceUse::Document).await?;
        staged.append(std::iter::once(content)).await?;
        let file = staged.finish().await?;
        let _lock = self.lock_key(key.as_ref()).await?;
        let current = self.head(key).await?;
        if current.and_then(|meta| meta.e_tag) != expected.and_then(|version| version.0.e_tag.clone()) {
            return Ok(false);
        }
        file.replace(folder.path(key.as_ref())).await?;
        Ok(true)
    }

    /// Lists the days of a project that have derived objects in `table_folder` (`index/calls`).
    pub async fn list_derived_dates(
        &self,
        table_folder: &str,
        account_id: &str,
        project_id: &str,
    ) -> Result<BTreeSet<Date>, ArchiveError> {
        self.list_dates_below(&format!("{table_folder}/{}", project_folder(account_id, project_id))).await
    }

    /// Lists the account and the id of each project that has a folder in `table_folder`, or in the archive's root if that is empty.
    /// It leaves out ids that are so long that their folders do not contain them.
    pub async fn list_project_ids(&self, table_folder: &str) -> Result<Vec<(String, String)>, ArchiveError> {
        let mut found = Vec::new();
        let slash = if table_folder.is_empty() { "" } else { "/" };
        for account in self.list_segments(table_folder, ACCOUNT_PREFIX).await? {
            let folder = format!("{table_folder}{slash}{account}");
            let projects = self.list_segments(&folder, PROJECT_PREFIX).await?;
            found.extend(projects.iter().filter_map(|project| ids_of_segments(&account, project)));
        }
        Ok(found)
    }

    /// Lists the days of a project that have conversations.
    pub async fn list_dates(
        &self,
        account_id: &str,
        project_id: &str,
    ) -> Result<BTreeSet<Date>, ArchiveError> {
        self.list_dates_below(&project_folder(account_id, project_id)).await
    }

    async fn list_dates_below(&self, folder: &str) -> Result<BTreeSet<Date>, ArchiveError> {
        let listed = self.backend.store.list_with_delimiter(Some(&self.root_key(folder)?)).await?;
        Ok(listed.common_prefixes.iter().filter_map(|date| date_of_segment(date.filename()?)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{archive::ArchiveConfig, clock::Clock};

    #[tokio::test]
    async fn a_file_that_is_larger_than_polyhook_writes_counts_as_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file:{}", folder.path().display());
        let archive =
            Archive::open(&ArchiveConfig { url, ..ArchiveConfig::default() }, Clock::System).unwrap();
        // The file has a hole, so it takes no space.
        std::fs::File::create(folder.path().join("large")).unwrap().set_len(MAX_DERIVED_BYTES + 1).unwrap();
        let found = archive.read_derived("large").await.unwrap().unwrap();
        assert_eq!(found.bytes.len(), 0);
        assert!(archive.replace_derived("large", Some(&found.version), "new".into()).await.unwrap());
        assert_eq!(&*archive.read_derived("large").await.unwrap().unwrap().bytes, b"new");
    }
}
