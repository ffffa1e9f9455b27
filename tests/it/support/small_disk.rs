//! A file system of a few megabytes that a test can fill.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::cleanup::CleanupShell;

/// Unmounts the file system `$1`.
const UNMOUNT: &str = r#"cat >/dev/null; umount -l "$1""#;

/// A mounted file system. It is unmounted when this process ends.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    path: PathBuf,
    _unmount: CleanupShell,
}

impl SmallDisk {
    /// Creates the folder `path` and mounts a file system there.
    pub(crate) fn mount(path: PathBuf, megabytes: usize) -> Self {
        Self::mount_with(path, &format!("size={megabytes}m"))
    }

    /// Mounts a file system with its own limits.
    pub(crate) fn mount_with(path: PathBuf, limits: &str) -> Self {
        assert!(nix::unistd::Uid::effective().is_root(), "these tests mount file systems: run them as root");
        fs::create_dir(&path).unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("{limits},mode=700"), "tmpfs"], &path);
        let unmount = CleanupShell::start(UNMOUNT, |command| {
            command.arg(&path).stdout(Stdio::null());
        });
        Self { path, _unmount: unmount }
    }

    /// Returns the path of a file on the disk.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Fills the disk to the last byte.
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.file("ballast")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Removes what [`SmallDisk::fill`] wrote.
    pub(crate) fn free(&self) {
        fs::remove_file(self.file("ballast")).unwrap();
    }

    /// Gives the disk another size.
    pub(crate) fn resize(&self, megabytes: usize) {
        mount(&["-o", &format!("remount,size={megabytes}m")], &self.path);
    }

    /// Makes the disk read-only, or writable again. Fails while a file on it is open for writing.
    pub(crate) fn make_read_only(&self, read_only: bool) {
        mount(&["-o", if read_only { "remount,ro" } else { "remount,rw" }], &self.path);
    }
}

fn mount(arguments: &[&str], path: &Path) {
    let output = Command::new("mount").args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
