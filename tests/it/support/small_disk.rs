//! A file system of a few MB, to be filled up.
//!
//! It goes when this process ends, however it ends: a shell waits for that.

use std::{
    fs::File,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    path: PathBuf,
    leash: Child,
}

impl SmallDisk {
    /// Mounts it at `path`, which is made.
    pub(crate) fn mount(path: PathBuf, megabytes: usize) -> Self {
        const LEASH: &str = r#"cat >/dev/null; umount -l "$1""#;
        assert!(nix::unistd::Uid::effective().is_root(), "these tests mount file systems: run them as root");
        std::fs::create_dir(&path).unwrap();
        mount(&["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=700"), "tmpfs"], &path);
        let leash = Command::new("sh")
            .args(["-c", LEASH, "leash"])
            .arg(&path)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("a shell");
        Self { path, leash }
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.file("ballast")).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.file("ballast")).unwrap();
    }

    /// Nobody may have a file open for writing.
    pub(crate) fn make_read_only(&self, read_only: bool) {
        mount(&["-o", if read_only { "remount,ro" } else { "remount,rw" }], &self.path);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(self.leash.stdin.take());
        let _ = self.leash.wait();
    }
}

fn mount(arguments: &[&str], path: &Path) {
    let output = Command::new("mount").args(arguments).arg(path).output().unwrap();
    assert!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
