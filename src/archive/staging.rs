//! Files of a `file:` archive while they are written.
//!
//! Every file of the archive is written in the staging folder of this process and moved to its place when it is whole
//! and synced. Until then it is removed as soon as it is dropped: after an error, a panic or a shutdown, or if its job
//! is cancelled. A file that cannot be removed then (a read-only disk) is removed later, and after a crash the next
//! process removes the whole staging folder. So a failed write never holds space for long.
//!
//! Space is claimed before it is written ([`SharedDisk`](crate::disk::SharedDisk)), so that the archive leaves enough
//! for the queue.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    ArchiveError,
    folder::{PrivateFolder, folder_error},
};
use crate::{
    disk::{SpaceClaim, SpaceUse},
    private_file::{self, FOLDER_MODE},
};

/// The attempts to move a file into a folder that another process removes at the same time.
const MOVE_ATTEMPTS: usize = 5;
/// The time by which a file is later than the one that it replaces, if versions are compared. File systems keep it.
const TIME_STEP: Duration = Duration::from_micros(100);

/// A file that grows in the staging folder.
#[derive(Debug)]
pub(super) struct StagedFile {
    /// `None` after an error, or if a write was cancelled: it is unknown then what the file contains.
    file: Option<OpenFile>,
}

/// A whole and synced file in the staging folder.
#[derive(Debug)]
pub(super) struct WholeFile {
    path: StagedPath,
}

/// The fields are dropped in this order: the file is closed before it is removed.
#[derive(Debug)]
struct OpenFile {
    file: File,
    path: StagedPath,
    claim: SpaceClaim,
}

/// Removes its file when it is dropped, unless it was moved.
#[derive(Debug)]
struct StagedPath {
    folder: Arc<PrivateFolder>,
    path: PathBuf,
    moved: bool,
}

impl StagedFile {
    /// Creates an empty file and claims space for its expected size (0 if it is unknown).
    pub(super) async fn create(
        folder: &Arc<PrivateFolder>,
        expected_bytes: u64,
        purpose: SpaceUse,
    ) -> Result<Self, ArchiveError> {
        let owned = Arc::clone(folder);
        let file = blocking(folder, move || OpenFile::create(owned, expected_bytes, purpose));
        Ok(Self { file: Some(file.await?) })
    }

    /// Appends `parts`. After an error, or if this future is dropped, the file is removed.
    pub(super) async fn append(&mut self, parts: impl Iterator<Item = Bytes>) -> Result<(), ArchiveError> {
        let Some(mut file) = self.file.take() else { return Err(ArchiveError::Interrupted) };
        let parts: Vec<_> = parts.collect();
        let folder = Arc::clone(&file.path.folder);
        self.file = Some(blocking(&folder, move || file.append(&parts).map(|()| file)).await?);
        Ok(())
    }

    /// Removes the file.
    pub(super) fn discard(&mut self) {
        self.file = None;
    }

    /// Makes the content durable.
    pub(super) async fn finish(self) -> Result<WholeFile, ArchiveError> {
        let Some(file) = self.file else { return Err(ArchiveError::Interrupted) };
        let folder = Arc::clone(&file.path.folder);
        let mode = folder.mode.file_bits();
        blocking(&folder, move || file.finish(mode)).await
    }
}

impl WholeFile {
    /// Moves the file to its place, durably. Returns false if another file is there and must not be replaced.
    pub(super) async fn move_to(self, target: PathBuf, replace: bool) -> Result<bool, ArchiveError> {
        let folder = Arc::clone(&self.path.folder);
        blocking(&folder, move || self.path.move_to(&target, replace)).await
    }

    /// Moves the file to its place, durably, and makes it later than the file that it replaces, so that the two are never
    /// taken for one: file systems count time in milliseconds and use inodes again.
    pub(super) async fn replace(self, target: PathBuf) -> Result<(), ArchiveError> {
        let folder = Arc::clone(&self.path.folder);
        blocking(&folder, move || {
            let failed = |source| folder_error(&target, source);
            if let Ok(replaced) = fs::metadata(&target).and_then(|existing| existing.modified()) {
                let staged = File::options().write(true).open(&self.path.path).map_err(failed)?;
                let written_at = staged.metadata().and_then(|meta| meta.modified()).map_err(failed)?;
                let later = replaced + TIME_STEP;
                if written_at < later {
                    staged.set_modified(later).map_err(failed)?;
                }
            }
            self.path.move_to(&target, true).map(drop)
        })
        .await
    }
}

/// Creates an empty file at `target`, durably, for its owner only. It is whole from the beginning, so it is not staged.
pub(super) async fn create_empty_file(
    folder: &Arc<PrivateFolder>,
    target: PathBuf,
) -> Result<(), ArchiveError> {
    blocking(folder, move || {
        let failed = |source| folder_error(&target, source);
        let parent = target.parent().unwrap_or(&target);
        let mut attempts = 0;
        loop {
            match private_file::options().create_new(true).open(&target) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < MOVE_ATTEMPTS => {
                    attempts += 1;
                    private_file::create_folders(parent, FOLDER_MODE).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        private_file::sync_folder(parent).map_err(failed)
    })
    .await
}

/// Writes a whole file at `target`, durably. Returns false if another file is there and must not be replaced.
pub(super) async fn write_file(
    folder: &Arc<PrivateFolder>,
    target: PathBuf,
    parts: Vec<Bytes>,
    replace: bool,
    purpose: SpaceUse,
) -> Result<bool, ArchiveError> {
    let bytes = parts.iter().map(|part| part.len() as u64).sum();
    let owned = Arc::clone(folder);
    let mode = folder.mode_of(&target);
    blocking(folder, move || {
        let mut file = OpenFile::create(owned, bytes, purpose)?;
        file.append(&parts)?;
        file.finish(mode)?.path.move_to(&target, replace)
    })
    .await
}

impl OpenFile {
    fn create(folder: Arc<PrivateFolder>, bytes: u64, purpose: SpaceUse) -> Result<Self, ArchiveError> {
        folder.remove_leftovers();
        let claim = folder.disk.claim(bytes, purpose)?;
        let path = folder.new_staging_path()?;
        let file = private_file::options().create_new(true).open(&path);
        let file = file.map_err(|source| folder_error(&path, source))?;
        Ok(Self { file, path: StagedPath { folder, path, moved: false }, claim })
    }

    fn append(&mut self, parts: &[Bytes]) -> Result<(), ArchiveError> {
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        self.claim.cover(bytes)?;
        let written = parts.iter().try_for_each(|part| self.file.write_all(part));
        written.map_err(|source| folder_error(&self.path.path, source))?;
        self.claim.spend(bytes);
        Ok(())
    }

    fn finish(self, mode: u32) -> Result<WholeFile, ArchiveError> {
        let path = &self.path.path;
        let finished = private_file::set_mode(path, mode).and_then(|()| self.file.sync_all());
        finished.map_err(|source| folder_error(path, source))?;
        Ok(WholeFile { path: self.path })
    }
}

impl StagedPath {
    fn move_to(mut self, target: &Path, replace: bool) -> Result<bool, ArchiveError> {
        let failed = |source| folder_error(target, source);
        let parent = target.parent().unwrap_or(target);
        let mut attempts = 0;
        loop {
            // A hard link never replaces a file.
            let moved =
                if replace { fs::rename(&self.path, target) } else { fs::hard_link(&self.path, target) };
            match moved {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !replace => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::NotFound && attempts < MOVE_ATTEMPTS => {
                    attempts += 1;
                    private_file::create_folders(parent, self.folder.mode.folder_bits()).map_err(failed)?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
        self.moved = replace;
        private_file::sync_folder(parent).map_err(failed)?;
        Ok(true)
    }
}

impl Drop for StagedPath {
    fn drop(&mut self) {
        if !self.moved {
            self.folder.remove(std::mem::take(&mut self.path));
        }
    }
}

/// Runs `work` outside of the runtime's threads. An error wakes [`PrivateFolder::write_failed`].
async fn blocking<T: Send + 'static>(
    folder: &PrivateFolder,
    work: impl FnOnce() -> Result<T, ArchiveError> + Send + 'static,
) -> Result<T, ArchiveError> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or(Err(ArchiveError::Interrupted));
    done.inspect_err(|error| folder.report_failure(error))
}
