//! Reading the small objects in which polyhook reports on an archive.

use futures_util::TryStreamExt;
use object_store::path::Path;

use super::{
    ArchiveConfig, ArchiveError,
    audit::AUDITS_FOLDER,
    backend::ReadableStore,
    private_object::{private_key, read},
};

/// A larger report is not read.
const MAX_REPORT_BYTES: u64 = 16 << 20;

/// Reads polyhook's own objects in an archive. Unlike [`Archive`](super::Archive) it creates no file and no folder, and it
/// hardly retries.
#[derive(Clone, Debug)]
pub struct ArchiveReader {
    /// `None`: the folder does not exist.
    opened: Option<ReadableStore>,
}

impl ArchiveReader {
    /// Opens the archive. A bucket is not contacted yet.
    pub fn open(config: &ArchiveConfig) -> Result<Self, ArchiveError> {
        Ok(Self { opened: ReadableStore::open(config)? })
    }

    /// Returns false if it is a folder that does not exist, so that nothing is known of it.
    pub fn exists(&self) -> bool {
        self.opened.is_some()
    }

    /// Reads an object of polyhook's own. Returns `None` if there is none.
    pub async fn read_private(&self, name: &str) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(ReadableStore { store, prefix }) = &self.opened else { return Ok(None) };
        read(store, &private_key(prefix, name)?).await
    }

    /// Reads the audit report that was saved last. Returns `None` if there is none.
    pub async fn read_last_audit_report(&self) -> Result<Option<Vec<u8>>, ArchiveError> {
        let Some(ReadableStore { store, prefix }) = &self.opened else { return Ok(None) };
        let folder = Path::parse(format!("{prefix}/{AUDITS_FOLDER}")).map_err(object_store::Error::from)?;
        let is_report = |size: u64| (1..=MAX_REPORT_BYTES).contains(&size);
        let last = store
            .list(Some(&folder))
            .try_filter(|found| std::future::ready(is_report(found.size)))
            .try_fold(None, async |last: Option<object_store::ObjectMeta>, found| {
                let is_later = last.as_ref().is_none_or(|last| found.last_modified >= last.last_modified);
                Ok(if is_later { Some(found) } else { last })
            })
            .await?;
        match last {
            Some(last) => read(store, &last.location).await,
            None => Ok(None),
        }
    }
}
