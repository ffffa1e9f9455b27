//! Writing the file of signing secrets so that whoever reads it finds the old content or the new, never half of
//! one, and nobody else finds any.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io::{self, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

use crate::{secret::Secret, web::SecretsFile};

/// Read and write for the owner, nothing for others.
const PRIVATE: u32 = 0o600;
/// The same, for a file that was kept from strangers but shown to a group: that is how its receiver reads it.
const GROUP_READS: u32 = 0o640;

/// The file, found behind its links, ours alone while this lives.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    folder: PathBuf,
    /// A lock on the folder, since the file itself is replaced. Where the file system has none it is no matter.
    _lock: Option<File>,
}

/// How the file was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// By another one in its place.
    Replaced,
    /// Over its own content, because it cannot be replaced.
    InPlace,
}

impl Written {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Replaced => "replaced",
            Self::InPlace => "in_place",
        }
    }
}

impl Store {
    /// Finds the file, or the place for a new one.
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
                "another polyhook is at work on the secrets in this folder",
            )),
            locked => Ok(Self { path, folder, _lock: locked.ok().map(|()| lock) }),
        }
    }

    /// The file itself, behind its links.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Who may do what with it, in the manner of `chmod`; none where it is not there.
    pub(super) fn mode(&self) -> Option<u32> {
        fs::metadata(&self.path).ok().map(|about| about.mode() & 0o777)
    }

    /// What it says; none where it is not there yet.
    pub(super) fn read(&self) -> io::Result<Option<SecretsFile>> {
        match SecretsFile::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// Writes it, for its owner, to the disk.
    pub(super) fn write(&self, file: &SecretsFile) -> io::Result<Written> {
        let text = file.render();
        let error = match self.replace(&text) {
            Ok(()) => return Ok(Written::Replaced),
            Err(error) => error,
        };
        if is_unreplaceable(&error) { self.overwrite(&text).map(|()| Written::InPlace) } else { Err(error) }
    }

    /// Whether it could be written, found out by writing all of it but putting it in nobody's place.
    pub(super) fn check(&self, file: &SecretsFile) -> io::Result<()> {
        let tried = self.next().and_then(|next| {
            let written = self.write_next(&next, &file.render());
            let _ = fs::remove_file(&next);
            written
        });
        match tried {
            Err(error) if is_unreplaceable(&error) => {
                OpenOptions::new().write(true).open(&self.path).map(drop).map_err(|_| error)
            }
            tried => tried,
        }
    }

    /// Where the next content is written: one name, so that what a kill leaves behind is there once and goes the
    /// next time.
    fn next(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let next = self.folder.join(format!(".{name}.polyhook-new"));
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(next),
        }
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let next = self.next()?;
        let written = self.write_next(&next, text).and_then(|()| fs::rename(&next, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&next);
        }
        written?;
        File::open(&self.folder)?.sync_all()
    }

    fn write_next(&self, next: &Path, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(next)?;
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

    /// In one write that is at least as long as what is there, so that no kill leaves half of it.
    fn overwrite(&self, text: &str) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(&self.path)?;
        let before = file.metadata()?;
        // Its owner decides; if that is not us he has decided.
        let _ = file.set_permissions(Permissions::from_mode(mode_after(before.mode())));
        let mut padded = Zeroizing::new(text.to_owned());
        let missing = usize::try_from(before.len()).unwrap_or_default().saturating_sub(text.len());
        *padded += &"\n".repeat(missing);
        file.write_all_at(padded.as_bytes(), 0)?;
        file.set_len(text.len() as u64)?;
        file.sync_all()
    }
}

/// A file that is mounted by itself, or lies in a folder that is read-only or not ours, may still be written.
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
    if before & 0o047 == 0o040 { GROUP_READS } else { PRIVATE }
}

/// Puts a secret that has no other place any more into the first of `folders` that takes it.
pub(super) fn rescue(folders: &[PathBuf], endpoint: &str, secret: &Secret) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let path = folder.join(format!("polyhook-secret-{endpoint}-{}", fastrand::u32(..)));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE).open(&path)?;
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
    fn replaces_what_a_link_leads_to_and_keeps_it_private() {
        let folder = tempfile::tempdir().unwrap();
        let (link, real) = (folder.path().join("link"), folder.path().join("real"));
        fs::write(&real, "old-old-old-old-old").unwrap();
        symlink("real", &link).unwrap();
        for (before, after) in
            [(0o644, 0o600), (0o600, 0o600), (0o640, 0o640), (0o660, 0o640), (0o664, 0o600)]
        {
            fs::set_permissions(&real, Permissions::from_mode(before)).unwrap();
            let store = Store::open(&link).unwrap();
            assert_eq!(store.write(&file("new")).unwrap(), Written::Replaced);
            assert_eq!(fs::metadata(&real).unwrap().mode() & 0o777, after, "{before:o}");
        }
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read_to_string(&link).unwrap(), "new\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left over");
    }

    #[test]
    fn a_new_file_is_private_and_one_at_a_time_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        let store = Store::open(&path).unwrap();
        assert_eq!((store.read().unwrap(), store.mode()), (None, None));
        assert_eq!(Store::open(&path).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        store.write(&file("secret")).unwrap();
        assert_eq!((store.mode(), store.read().unwrap()), (Some(0o600), Some(file("secret"))));
        drop(store);
        Store::open(&path).unwrap();
    }

    #[test]
    fn what_a_kill_left_behind_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".secrets.polyhook-new"), "half of a fi").unwrap();
        let store = Store::open(&folder.path().join("secrets")).unwrap();
        store.write(&file("secret")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn written_over_it_is_whole_whatever_it_was_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        for before in ["", "short", &"long ".repeat(100)] {
            fs::write(&path, before).unwrap();
            let store = Store::open(&path).unwrap();
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
        Store::open(&path).unwrap().check(&file("new")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        fs::write(&path, "old").unwrap();
        Store::open(&path).unwrap().check(&file("new")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(Store::open(Path::new("/proc/version")).unwrap().check(&file("new")).is_err());
    }

    #[test]
    fn a_rescued_secret_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().join("gone"), folder.path().to_owned()];
        let path = rescue(&folders, "whe_1", &Secret::new("secret")).unwrap();
        assert_eq!(
            (fs::read_to_string(&path).unwrap().trim(), fs::metadata(&path).unwrap().mode() & 0o777),
            ("secret", 0o600)
        );
        assert_eq!(rescue(&folders[..1], "whe_1", &Secret::new("secret")), None);
    }
}
