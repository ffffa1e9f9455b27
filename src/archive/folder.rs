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
//! Only the owner may enter it, because unfinished recordings have the permissions that the umask leaves.
//!
//! Locks belong to the operating system (`flock`), so a killed process holds none. A staging folder with a free lock
//! belongs to a dead process, and the next process that opens the archive removes it.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::ArchiveError;
use crate::private_file::{self, FOLDER_MODE, sync_folder};

pub(super) const PRIVATE_FOLDER: &str = ".polyhook";
/// The folder of the locks of fetches within the private folder.
pub(super) const FETCH_LOCKS_FOLDER: &str = "fetching";

/// The private folder of a file archive.
#[derive(Debug)]
pub(super) struct PrivateFolder {
    root: PathBuf,
    staging: Staging,
}

#[derive(Debug)]
struct Staging {
    id: String,
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

impl PrivateFolder {
    /// Creates the private folders and removes the staging folders of dead processes. Blocks.
    pub(super) fn open(root: &Path) -> Result<Self, ArchiveError> {
        let private = root.join(PRIVATE_FOLDER);
        let staging = private.join("staging");
        for folder in [&private.join("locks"), &private.join(FETCH_LOCKS_FOLDER), &staging] {
            private_file::create_folders(folder, FOLDER_MODE)
                .map_err(|source| folder_error(folder, source))?;
        }
        // An earlier version may have left it open. If it belongs to another user, that user decides.
        private_file::set_mode(&private, FOLDER_MODE).map_err(|source| folder_error(&private, source))?;
        let _lock = lock(&private.join("lock"))?;
        remove_dead_staging(&staging).map_err(|source| folder_error(&staging, source))?;
        let id = Uuid::new_v4().to_string();
        let path = staging.join(&id);
        private_file::create_folders(&path, FOLDER_MODE).map_err(|source| folder_error(&path, source))?;
        let lock = lock(&path.join("lock"))?;
        Ok(Self { root: root.to_owned(), staging: Staging { id, path, _lock: lock } })
    }

    /// Returns a key for an unfinished recording that no other process uses.
    pub(super) fn staging_key(&self) -> String {
        format!("{PRIVATE_FOLDER}/staging/{}/{}", self.staging.id, Uuid::new_v4())
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
        let file = private_file::options().create(true).truncate(false).read(true).open(&path);
        let file = file.map_err(|source| folder_error(&path, source))?;
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
            let file = private_file::options().create(true).truncate(false).open(path)?;
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
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// On other systems an open file cannot be removed.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> io::Result<bool> {
    Ok(true)
}

/// Lists the files below a conversation's folder with their sizes, including unfinished ones. A missing folder counts
/// as empty. Blocks.
pub(super) fn list_files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                let size = entry.metadata()?.len();
                found.push((entry.path(), size));
            }
        }
    }
    Ok(found)
}

/// Removes a conversation's folder and its content, `first` before everything else. After it returns, no power cut
/// restores anything. Blocks.
pub(super) fn remove_folder(folder: &Path, first: &str) -> io::Result<()> {
    let existed = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    };
    if existed(fs::remove_file(folder.join(first)))? {
        sync_folder(folder)?;
    }
    if existed(fs::remove_dir_all(folder))?
        && let Some(parent) = folder.parent()
    {
        sync_folder(parent)?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, ArchiveError> {
    let file = private_file::options()
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|source| folder_error(path, source))?;
    file.lock().map_err(|source| folder_error(path, source))?;
    Ok(file)
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

pub(super) fn folder_error(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Folder { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_staging_folders_of_dead_processes_only() {
        let root = tempfile::tempdir().unwrap();
        let running = PrivateFolder::open(root.path()).unwrap();
        let staged = running.path(&running.staging_key());
        fs::write(&staged, "sound").unwrap();
        let dead = root.path().join(".polyhook/staging/dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::write(dead.join("recording#1"), "sound").unwrap();

        let other = PrivateFolder::open(root.path()).unwrap();
        assert!(staged.exists() && !dead.exists());
        drop(running);
        assert!(!staged.exists(), "a clean exit removes its staging folder");
        drop(other);
        assert_eq!(fs::read_dir(root.path().join(".polyhook/staging")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn commit_locks_exclude_other_processes() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (PrivateFolder::open(root.path()).unwrap(), PrivateFolder::open(root.path()).unwrap());
        let held = a.lock_commits(7).await.unwrap();
        drop(b.lock_commits(8).await.unwrap());
        let mut waiting = std::pin::pin!(b.lock_commits(7));
        let wait = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, &mut waiting).await.is_err());
        drop(held);
        waiting.await.unwrap();
    }
}
