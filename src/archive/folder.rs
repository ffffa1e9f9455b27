//! What a `file:` archive needs beside its objects: locks between processes, and a place for unfinished
//! recordings that a crash cannot litter for good.
//!
//! ```text
//! .polyhook/lock              held while staging folders are made or swept
//! .polyhook/locks/00 … ff     held while a conversation of that bucket is committed
//! .polyhook/staging/<id>/     one per running process; its `lock` is held for the process's life
//! .polyhook/<name>.lease      held by the one process that does what the name says; keeps a note
//! ```
//! Locks are the system's (`flock`), so a killed process holds none. A staging folder whose lock is free
//! belongs to nobody any more and is removed by the next process that opens the archive.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

use super::ArchiveError;

pub(super) const PRIVATE: &str = ".polyhook";

/// The private part of a file archive.
#[derive(Debug)]
pub(super) struct Folder {
    root: PathBuf,
    staging: Staging,
}

#[derive(Debug)]
struct Staging {
    id: String,
    path: PathBuf,
    /// Open, and so locked, as long as this process lives.
    _lock: File,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // A clean end leaves nothing; after any other the next process sweeps.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Folder {
    /// Makes the private folders and sweeps what crashed processes left. Blocking.
    pub(super) fn open(root: &Path) -> Result<Self, ArchiveError> {
        let private = root.join(PRIVATE);
        let staging = private.join("staging");
        for folder in [&private.join("locks"), &staging] {
            fs::create_dir_all(folder).map_err(|source| failed(folder, source))?;
        }
        let _sweeping = lock(&private.join("lock"))?;
        sweep(&staging).map_err(|source| failed(&staging, source))?;
        let id = Uuid::new_v4().to_string();
        let path = staging.join(&id);
        fs::create_dir(&path).map_err(|source| failed(&path, source))?;
        let lock = lock(&path.join("lock"))?;
        Ok(Self { root: root.to_owned(), staging: Staging { id, path, _lock: lock } })
    }

    /// A key for an unfinished recording, unique to this process.
    pub(super) fn staging_key(&self) -> String {
        format!("{PRIVATE}/staging/{}/{}", self.staging.id, Uuid::new_v4())
    }

    /// The file of a staging key.
    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Waits until no other process commits a conversation of `bucket`; unlocked when dropped.
    pub(super) async fn lock_bucket(&self, bucket: u8) -> Result<File, ArchiveError> {
        let path = self.root.join(PRIVATE).join("locks").join(format!("{bucket:02x}"));
        tokio::task::spawn_blocking(move || lock(&path))
            .await
            .map_err(|error| failed(&self.root, io::Error::other(error)))?
    }
}

impl Folder {
    /// Takes the lease of that name, if nobody has it; it is free when the file is closed.
    pub(super) fn try_lease(&self, name: &str) -> Result<Option<File>, ArchiveError> {
        let path = self.lease_path(name);
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let file = file.map_err(|source| failed(&path, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(&path, source)),
        }
    }

    /// What went wrong with the lease of that name.
    pub(super) fn failed(&self, name: &str, source: io::Error) -> ArchiveError {
        failed(&self.lease_path(name), source)
    }

    fn lease_path(&self, name: &str) -> PathBuf {
        self.root.join(PRIVATE).join(format!("{name}.lease"))
    }
}

/// The files below a conversation's folder, unfinished ones too, with their sizes; none where it is not there.
/// Blocking.
pub(super) fn files(folder: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
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

/// Removes a conversation's folder with all that is in it, `first` before anything else. When it returns a
/// power cut brings nothing back. Blocking.
pub(super) fn remove(folder: &Path, first: &str) -> io::Result<()> {
    let gone = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    };
    if gone(fs::remove_file(folder.join(first)))? {
        sync(folder)?;
    }
    if gone(fs::remove_dir_all(folder))?
        && let Some(parent) = folder.parent()
    {
        sync(parent)?;
    }
    Ok(())
}

/// Makes what was removed from a folder stay removed. One that cannot be opened for it (Windows) needs no such
/// care.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder).map_or(Ok(()), |folder| folder.sync_all())
}

fn lock(path: &Path) -> Result<File, ArchiveError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|source| failed(path, source))?;
    file.lock().map_err(|source| failed(path, source))?;
    Ok(file)
}

fn sweep(staging: &Path) -> io::Result<()> {
    for entry in fs::read_dir(staging)? {
        let path = entry?.path();
        let free = match OpenOptions::new().write(true).open(path.join("lock")) {
            Ok(file) => match file.try_lock() {
                Ok(()) => true,
                Err(TryLockError::WouldBlock) => false,
                Err(TryLockError::Error(error)) => return Err(error),
            },
            // Killed between making the folder and its lock.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        };
        if free {
            tracing::info!(staging.path = %path.display(), "removing what a process that did not end well left behind");
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

pub(super) fn failed(path: &Path, source: io::Error) -> ArchiveError {
    ArchiveError::Folder { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_the_dead_and_spares_the_living() {
        let root = tempfile::tempdir().unwrap();
        let living = Folder::open(root.path()).unwrap();
        let staged = living.path(&living.staging_key());
        fs::write(&staged, "sound").unwrap();
        let dead = root.path().join(".polyhook/staging/dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("lock"), "").unwrap();
        fs::write(dead.join("recording#1"), "sound").unwrap();

        let other = Folder::open(root.path()).unwrap();
        assert!(staged.exists() && !dead.exists());
        drop(living);
        assert!(!staged.exists(), "a clean end leaves nothing");
        drop(other);
        assert_eq!(fs::read_dir(root.path().join(".polyhook/staging")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_bucket_is_locked_against_others() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (Folder::open(root.path()).unwrap(), Folder::open(root.path()).unwrap());
        let held = a.lock_bucket(7).await.unwrap();
        drop(b.lock_bucket(8).await.unwrap());
        let mut waiting = std::pin::pin!(b.lock_bucket(7));
        let wait = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(wait, &mut waiting).await.is_err());
        drop(held);
        waiting.await.unwrap();
    }
}
