//! The private folder of a `file:` archive: locks between processes, leases, and staging folders whose content a
//! later process can remove after a crash.
//!
//! ```text
//! .polyhook/lock              held while staging folders are created or removed
//! .polyhook/locks/00 … ff     held while a conversation whose hash begins with this byte is committed
//! .polyhook/staging/<id>/     one per running process; its `lock` is held while the process lives
//! .polyhook/<name>.lease      held by the one process that performs the named task; contains its note
//! .polyhook/fetching/<hash>   held while a worker fetches the conversation with this hash
//! ```
//! Only the owner may enter it.
//!
//! Locks belong to the operating system (`flock`), so a killed process holds none. A staging folder with a free lock
//! belongs to a dead process, and the next process that opens the archive removes it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use uuid::Uuid;

use super::{ArchiveError, config::FileMode};
use crate::{
    disk::{GrowingFile, NoSpace, SharedDisk, SpaceUse},
    private_file::{self, FOLDER_MODE, sync_folder},
};

pub(super) const PRIVATE_FOLDER: &str = ".polyhook";
/// The folder of the locks of fetches within the private folder.
pub(super) const FETCH_LOCKS_FOLDER: &str = "fetching";
/// The bytes that [`PrivateFolder::check_disk`] writes.
const CHECK_BYTES: usize = 4096;

/// The private folder of a file archive.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    root: PathBuf,
    /// The permissions of the files of the archive.
    pub(super) mode: FileMode,
    /// The disk of the archive.
    pub(super) disk: Arc<SharedDisk>,
    /// `None` until it is needed, if it could not be created at the start.
    staging: Mutex<Option<Staging>>,
    /// Staged files that could not be removed yet.
    leftovers: Mutex<Vec<PathBuf>>,
    /// The largest file that did not fit since the last successful check, in bytes.
    refused: Mutex<u64>,
    failed: Notify,
}

#[derive(Debug)]
struct Staging {
    path: PathBuf,
    /// Open, and therefore locked, while this process lives.
    _lock: File,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a crash the next process removes the folder.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Staging {
    /// Removes the staging folders of dead processes, which makes space, and creates one for this process.
    fn create(root: &Path) -> Result<Self, ArchiveError> {
        let private = root.join(PRIVATE_FOLDER);
        let staging = private.join("staging");
        private_file::create_folders(&staging, FOLDER_MODE)
            .map_err(|source| folder_error(&staging, source))?;
        // An earlier version may have left it open. If it belongs to another user, that user decides.
        private_file::set_mode(&private, FOLDER_MODE).map_err(|source| folder_error(&private, source))?;
        let _lock = lock(&private.join("lock"))?;
        remove_dead_staging(&staging).map_err(|source| folder_error(&staging, source))?;
        let path = staging.join(Uuid::new_v4().to_string());
        private_file::create_folders(&path, FOLDER_MODE).map_err(|source| folder_error(&path, source))?;
        let lock = lock(&path.join("lock"))?;
        Ok(Self { path, _lock: lock })
    }
}

impl PrivateFolder {
    /// Creates the private folders and removes the staging folders of dead processes. If the disk is full or read-only,
    /// the first write does that. Blocks.
    pub(super) fn open(root: &Path, mode: FileMode, growing: Vec<GrowingFile>) -> Result<Self, ArchiveError> {
        let staging = match Staging::create(root) {
            Ok(staging) => Some(staging),
            Err(error) if error.is_full_or_read_only() => {
                tracing::error!(%error, "nothing can be archived yet; polyhook keeps trying");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            root: root.to_owned(),
            mode,
            disk: Arc::new(SharedDisk::new(root.to_owned(), growing)),
            staging: Mutex::new(staging),
            leftovers: Mutex::default(),
            refused: Mutex::default(),
            failed: Notify::new(),
        })
    }

    /// Returns a path for an unfinished file that no other process uses. Creates the staging folder if there is none.
    pub(super) fn new_staging_path(&self) -> Result<PathBuf, ArchiveError> {
        let mut staging = locked(&self.staging);
        let existing = staging.take().filter(|staging| staging.path.is_dir());
        let existing = existing.map_or_else(|| Staging::create(&self.root), Ok)?;
        Ok(staging.insert(existing).path.join(Uuid::new_v4().to_string()))
    }

    /// Removes a staged file, now or when its disk permits it.
    pub(super) fn remove(&self, path: PathBuf) {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => locked(&self.leftovers).push(path),
            _ => {}
        }
    }

    /// Removes the files that [`PrivateFolder::remove`] could not remove.
    pub(super) fn remove_leftovers(&self) {
        let leftovers = std::mem::take(&mut *locked(&self.leftovers));
        for path in leftovers {
            self.remove(path);
        }
    }

    /// Records a failed write and wakes [`PrivateFolder::write_failed`].
    pub(super) fn report_failure(&self, error: &ArchiveError) {
        if let ArchiveError::NoSpace(NoSpace::Bytes { needed, .. }) = error {
            let mut refused = locked(&self.refused);
            *refused = refused.max(*needed);
        }
        self.failed.notify_one();
    }

    /// Waits until a write has failed.
    pub(super) async fn write_failed(&self) {
        self.failed.notified().await;
    }

    /// Checks that a file can be written and that the largest file that did not fit before fits now. Blocks.
    pub(super) fn check_disk(&self) -> Result<(), ArchiveError> {
        self.remove_leftovers();
        let refused = *locked(&self.refused);
        self.disk.claim(refused, SpaceUse::Recording)?;
        let path = self.new_staging_path()?;
        let written = private_file::options().create_new(true).open(&path).and_then(|mut file| {
            io::Write::write_all(&mut file, &[0; CHECK_BYTES])?;
            file.sync_all()
        });
        let result = written.map_err(|source| folder_error(&path, source));
        self.remove(path);
        result?;
        *locked(&self.refused) = 0;
        Ok(())
    }

    /// Returns the permission bits of a file. Those of polyhook's own state are private, whatever the mode of the archive.
    pub(super) fn mode_of(&self, path: &Path) -> u32 {
        if path.starts_with(self.root.join(PRIVATE_FOLDER)) {
            FileMode::default().file_bits()
        } else {
            self.mode.file_bits()
        }
    }

    /// Returns the file of a key.
    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Waits for the lock of commits with this index and takes it. The lock ends when the file is dropped.
    pub(super) async fn lock_commits(&self, lock_index: u8) -> Result<File, ArchiveError> {
        let path = self.root.join(PRIVATE_FOLDER).join("locks").join(format!("{lock_index:02x}"));
        tokio::task::spawn_blocking(move || lock(&path))
            .await
            .map_err(|error| folder_error(&self.root, io::Error::other(error)))?
    }

    /// Takes the named lease if it is free. The lease ends when the file is closed.
    pub(super) fn try_lease(&self, name: &str) -> Result<Option<File>, ArchiveError> {
        let path = self.lease_path(name);
        let file = open_lock_file(&path).map_err(|source| folder_error(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(folder_error(&path, source)),
        }
    }

    /// Takes the lock of a fetch if it is free.
    pub(super) fn try_fetch_lock(&self, name: &str) -> Result<Option<LockFile>, ArchiveError> {
        let path = self.root.join(PRIVATE_FOLDER).join(FETCH_LOCKS_FOLDER).join(name);
        LockFile::try_take(&path).map_err(|source| folder_error(&path, source))
    }

    /// Builds an error about the named lease.
    pub(super) fn lease_error(&self, name: &str, source: io::Error) -> ArchiveError {
        folder_error(&self.lease_path(name), source)
    }

    fn lease_path(&self, name: &str) -> PathBuf {
        self.root.join(PRIVATE_FOLDER).join(format!("{name}.lease"))
    }
}

/// A lock that exists as a file only while it is held. After a crash the file stays, and its lock is free.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    _file: File,
}

impl LockFile {
    /// Creates the file and locks it. Returns `None` if it is locked already.
    fn try_take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file = open_lock_file(path)?;
            match file.try_lock() {
                // The holder may have removed the file after it was opened here: then another one has its name.
                Ok(()) if is_at(&file, path)? => {
                    return Ok(Some(Self { path: path.to_owned(), _file: file }));
                }
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        // Still locked, so no other process has taken it.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let opened = file.metadata()?;
    let found = if_exists(fs::metadata(path))?;
    Ok(found.is_some_and(|found| (found.dev(), found.ino()) == (opened.dev(), opened.ino())))
}

/// On other systems an open file cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Lists the files below a conversation's folder with their sizes, including unfinished ones. A missing folder counts
/// as empty, and another process may remove files meanwhile. Blocks.
pub(super) fn list_files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in if_exists(fs::read_dir(&folder))?.into_iter().flatten() {
            let entry = entry?;
            match if_exists(entry.metadata())? {
                Some(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Some(metadata) => found.push((entry.path(), metadata.len())),
                None => {}
            }
        }
    }
    Ok(found)
}

/// Removes a conversation's folder and its content, `first` before everything else. After it returns, no power cut
/// restores anything. Blocks.
pub(super) fn remove_folder(folder: &Path, first: &str) -> io::Result<()> {
    if if_exists(fs::remove_file(folder.join(first)))?.is_some() {
        sync_folder(folder)?;
    }
    if if_exists(fs::remove_dir_all(folder))?.is_some()
        && let Some(parent) = folder.parent()
    {
        sync_folder(parent)?;
    }
    Ok(())
}

/// Returns `None` if the file or folder does not exist.
pub(super) fn if_exists<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

fn lock(path: &Path) -> Result<File, ArchiveError> {
    let file = open_lock_file(path).map_err(|source| folder_error(path, source))?;
    file.lock().map_err(|source| folder_error(path, source))?;
    Ok(file)
}

/// Opens a lock file and creates it if it is missing, with its folders: a person may have removed them, and on a disk that was
/// full they could not be created at the start.
fn open_lock_file(path: &Path) -> io::Result<File> {
    let open = || private_file::options().create(true).truncate(false).read(true).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            private_file::create_folders(folder, FOLDER_MODE)?;
            open()
        }
        (opened, _) => opened,
    }
}

fn remove_dead_staging(staging: &Path) -> io::Result<()> {
    for entry in fs::read_dir(staging)? {
        let path = entry?.path();
        let free = match private_file::options().open(path.join("lock")) {
            Ok(file) => match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(error)) => return Err(error),
            },
            // The process was killed after it created the folder and before it created the lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if free {
            tracing::info!(staging.path = %path.display(), "removing the staging folder of a dead process");
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn folder_error(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Folder { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicBool, Ordering},
        thread,
    };

    use super::*;

    #[test]
    fn lists_files_while_another_process_removes_them() {
        let root = tempfile::tempdir().unwrap();
        let (folder, done) = (root.path().join("CA1"), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs::create_dir_all(folder.join("recording")).unwrap();
                    for name in ["manifest.json", "recording/1", "recording/2"] {
                        fs::write(folder.join(name), "12").unwrap();
                    }
                    remove_folder(&folder, "manifest.json").unwrap();
                }
            });
            let lists: Vec<_> = (0..3000).map(|_| list_files(&folder)).collect();
            done.store(true, Ordering::Relaxed);
            for (_, size) in lists.into_iter().flat_map(Result::unwrap) {
                assert!(size <= 2);
            }
        });
        assert_eq!(list_files(&folder).unwrap(), []);
    }

    #[test]
    fn removes_staging_folders_of_dead_processes_only() {
        let root = tempfile::tempdir().unwrap();
        let running = PrivateFolder::open(root.path(), FileMode::default(), Vec::new()).unwrap();
        let staged = running.new_staging_path().unwrap();
        fs::write(&staged, "sound").unwrap();
        let dead = root.path().join(".polyhook/staging/dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::write(dead.join("recording#1"), "sound").unwrap();

        let other = PrivateFolder::open(root.path(), FileMode::default(), Vec::new()).unwrap();
        assert!(staged.exists() && !dead.exists());
        drop(running);
        assert!(!staged.exists(), "a clean exit removes its staging folder");
        drop(other);
        assert_eq!(fs::read_dir(root.path().join(".polyhook/staging")).unwrap().count(), 0);
    }

    #[test]
    fn removes_later_what_cannot_be_removed_now() {
        let root = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::open(root.path(), FileMode::default(), Vec::new()).unwrap();
        let path = folder.new_staging_path().unwrap();
        // A folder cannot be removed as a file.
        fs::create_dir(&path).unwrap();
        folder.remove(path.clone());
        folder.remove_leftovers();
        assert!(path.exists());
        fs::remove_dir(&path).unwrap();
        fs::write(&path, "sound").unwrap();
        folder.check_disk().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn restores_a_staging_folder_that_was_removed() {
        let root = tempfile::tempdir().unwrap();
        let folder = PrivateFolder::open(root.path(), FileMode::default(), Vec::new()).unwrap();
        fs::remove_dir_all(root.path().join(PRIVATE_FOLDER)).unwrap();
        folder.check_disk().unwrap();
    }

    #[tokio::test]
    async fn commit_locks_exclude_other_processes() {
        let root = tempfile::tempdir().unwrap();
        let [a, b] =
            [(); 2].map(|()| PrivateFolder::open(root.path(), FileMode::default(), Vec::new()).unwrap());
        let held = a.lock_commits(7).await.unwrap();
        drop(b.lock_commits(8).await.unwrap());
        let mut waiting = std::pin::pin!(b.lock_commits(7));
        let wait = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, &mut waiting).await.is_err());
        drop(held);
        waiting.await.unwrap();
    }
}
