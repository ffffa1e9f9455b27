//! Atomic and private writes of the secrets file.
//!
//! A reader of the file finds the old content or the new content, never a part. Only the owner can read it, and its group if
//! the group could read it before.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{secret::Secret, web::SecretsFile};

/// Read and write for the owner.
const OWNER_MODE: u32 = 0o600;
/// Also read for the group, if only the group could read the file before: receivers may read it that way.
const GROUP_MODE: u32 = 0o640;

/// The secrets file behind its links, locked against other polyhook commands until this is dropped.
#[derive(Debug)]
pub(super) struct LockedSecretsFile {
    path: PathBuf,
    folder: PathBuf,
    /// A lock on the folder, because the file itself is replaced. None if the file system has no locks.
    _lock: Option<File>,
}

/// The way in which the file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WriteMethod {
    /// A new file replaced it.
    Replaced,
    /// Its content was overwritten, because the file cannot be replaced.
    Overwritten,
}

impl WriteMethod {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::Overwritten => "in_place",
        }
    }
}

impl LockedSecretsFile {
    /// Finds and locks the file. It does not have to exist. Fails if another command has locked it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = match path.canonicalize() {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
                let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
                folder.unwrap_or(Path::new(".")).canonicalize()?.join(name)
            }
            found => found?,
        };
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let lock = File::open(&folder)?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another polyhook command is changing the secrets in this folder; wait for it and try again",
            )),
            locked => Ok(Self { path, folder, _lock: locked.ok().map(|()| lock) }),
        }
    }

    /// The path of the file behind its links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The permission bits. None if the file does not exist.
    pub(super) fn mode(&self) -> Option<u32> {
        fs::metadata(&self.path).ok().map(|metadata| metadata.mode() & 0o777)
    }

    /// Reads the file. None if it does not exist.
    pub(super) fn read(&self) -> io::Result<Option<SecretsFile>> {
        match SecretsFile::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// Writes the file to the disk, with private permissions.
    pub(super) fn write(&self, file: &SecretsFile) -> io::Result<WriteMethod> {
        let text = file.render();
        let error = match self.replace(&text) {
            Ok(()) => return Ok(WriteMethod::Replaced),
            Err(error) => error,
        };
        if is_unreplaceable(&error) {
            self.overwrite(&text).map(|()| WriteMethod::Overwritten)
        } else {
            Err(error)
        }
    }

    /// Checks that the file can be written: writes the whole content to a temporary file and removes it.
    pub(super) fn check(&self, file: &SecretsFile) -> io::Result<()> {
        let tried = self.temporary_path().and_then(|temporary| {
            let written = self.write_temporary(&temporary, &file.render());
            let _ = fs::remove_file(&temporary);
            written
        });
        match tried {
            Err(error) if is_unreplaceable(&error) => {
                OpenOptions::new().write(true).open(&self.path).map(drop).map_err(|_| error)
            }
            tried => tried,
        }
    }

    /// Returns the path of the temporary file and removes what an earlier kill left there.
    fn temporary_path(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = self.folder.join(format!(".{name}.polyhook-new"));
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(temporary),
        }
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let temporary = self.temporary_path()?;
        let written =
            self.write_temporary(&temporary, text).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        File::open(&self.folder)?.sync_all()
    }

    fn write_temporary(&self, temporary: &Path, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_MODE).open(temporary)?;
        if let Ok(before) = fs::metadata(&self.path) {
            let ours = file.metadata()?;
            if (before.uid(), before.gid()) != (ours.uid(), ours.gid()) {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(mode_after(before.mode())))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()
    }

    /// Overwrites the content in one write that is at least as long as the old content, so that a kill leaves no mixture.
    fn overwrite(&self, text: &str) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let before = file.metadata()?;
        // This fails if the process does not own the file. Its owner has then chosen the permissions.
        let _ = file.set_permissions(Permissions::from_mode(mode_after(before.mode())));
        let mut padded = Zeroizing::new(text.to_owned());
        let missing = usize::try_from(before.len()).unwrap_or_default().saturating_sub(text.len());
        *padded += &"\n".repeat(missing);
        file.write_all_at(padded.as_bytes(), 0)?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    }
}

/// Returns true if the file cannot be replaced but may be writable: it is a mount, or its folder is read-only or belongs to
/// another user.
fn is_unreplaceable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy
            | io::ErrorKind::CrossesDevices
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
    )
}

fn mode_after(before: u32) -> u32 {
    if before & 0o047 == 0o040 { GROUP_MODE } else { OWNER_MODE }
}

/// Writes a secret to a new private file in the first writable one of `folders`.
pub(super) fn write_rescue_file(folders: &[PathBuf], endpoint: &str, secret: &Secret) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let path = folder.join(format!("polyhook-secret-{endpoint}-{}", fastrand::u32(..)));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(OWNER_MODE).open(&path)?;
            writeln!(file, "{}", secret.expose())?;
            file.sync_all()
        };
        write().ok().map(|()| path.clone())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn file(secret: &str) -> SecretsFile {
        SecretsFile::parse(secret).unwrap()
    }

    #[test]
    fn replaces_the_target_of_a_link_with_private_permissions() {
        let folder = tempfile::tempdir().unwrap();
        let (link, real) = (folder.path().join("link"), folder.path().join("real"));
        fs::write(&real, "old-old-old-old-old").unwrap();
        symlink("real", &link).unwrap();
        for (before, after) in
            [(0o644, 0o600), (0o600, 0o600), (0o640, 0o640), (0o660, 0o640), (0o664, 0o600)]
        {
            fs::set_permissions(&real, Permissions::from_mode(before)).unwrap();
            let store = LockedSecretsFile::open(&link).unwrap();
            assert_eq!(store.write(&file("new")).unwrap(), WriteMethod::Replaced);
            assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, after, "{before:o}");
        }
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&link).unwrap(), "new\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn creates_a_private_file_and_locks_out_other_commands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let store = LockedSecretsFile::open(&path).unwrap();
        assert_eq!((store.read().unwrap(), store.mode()), (None, None));
        assert_eq!(LockedSecretsFile::open(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        store.write(&file("secret")).unwrap();
        assert_eq!((store.mode(), store.read().unwrap()), (Some(0o600), Some(file("secret"))));
        drop(store);
        LockedSecretsFile::open(&path).unwrap();
    }

    #[test]
    fn removes_the_temporary_file_of_a_killed_command() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".secrets.polyhook-new"), "half of a fi").unwrap();
        let store = LockedSecretsFile::open(&folder.path().join("secrets")).unwrap();
        store.write(&file("secret")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn overwrites_shorter_and_longer_content_completely() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        for before in ["", "short", &"long ".repeat(100)] {
            fs::write(&path, before).unwrap();
            let store = LockedSecretsFile::open(&path).unwrap();
            let inode = fs::metadata(&path).unwrap().ino();
            store.overwrite("the-new-content\n").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "the-new-content\n");
            assert_eq!((fs::metadata(&path).unwrap().ino(), store.mode()), (inode, Some(0o600)));
        }
    }

    #[test]
    fn a_check_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        LockedSecretsFile::open(&path).unwrap().check(&file("new")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(&path, "old").unwrap();
        LockedSecretsFile::open(&path).unwrap().check(&file("new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(LockedSecretsFile::open(Path::new("/proc/version")).unwrap().check(&file("new")).is_err());
    }

    #[test]
    fn a_rescued_secret_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().join("gone"), folder.path().to_owned()];
        let path = write_rescue_file(&folders, "whe_1", &Secret::new("secret")).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().trim(), fs::metadata(&path).unwrap().mode() & 0o777),
            ("secret", 0o600)
        );
        assert_eq!(write_rescue_file(&folders[..1], "whe_1", &Secret::new("secret")), None);
    }
}
