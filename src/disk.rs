//! Free space on a local disk, and the part of it that stays free for accepting deliveries.
//!
//! The queue file or the spool may be on the same disk as a `file:` archive. [`SharedDisk`] keeps the archive from
//! taking the space that they need: every writer claims space before it writes, and a claim that would leave less than
//! the reserve is refused. Claims of one process add up, so that several recordings do not start that fit only one by
//! one. Other programs, and other processes of polyhook, show up as less free space.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytesize::ByteSize;
use thiserror::Error;

/// The bytes that stay free on the disk of an archive. With less, the write-ahead log of the queue may not find space.
pub const RESERVE: ByteSize = ByteSize::mib(64);
/// The largest part of a small disk that is reserved.
const MAX_RESERVED_PART: u64 = 4;
/// The files that must stay free: a queue that is opened again creates its log.
const RESERVED_FILES: u64 = 16;

/// The free and the total space of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// The bytes that this user may still write.
    pub free_bytes: u64,
    /// The size of the disk in bytes.
    pub total_bytes: u64,
    /// The files that this user may still create. `None` if the file system has no limit.
    pub free_files: Option<u64>,
}

/// Returns `path` if it is an existing folder, otherwise its nearest parent that exists.
pub fn nearest_existing_folder(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|ancestor| ancestor.is_dir()).map_or(absolute.clone(), Path::to_owned)
}

/// Returns an error if this user can neither create files in the folder `path` nor create that folder. Creates nothing that
/// has a name. Blocks as long as the disk does not answer.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let absolute = std::path::absolute(path)?;
    let existing = absolute.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok());
    let existing = existing.unwrap_or(&absolute);
    if !existing.is_dir() {
        let message = format!("{} is not a folder", existing.display());
        return Err(io::Error::new(io::ErrorKind::NotADirectory, message));
    }
    try_to_write(existing).map_err(|error| {
        let place = if existing == absolute { String::new() } else { format!("{}: ", existing.display()) };
        io::Error::new(error.kind(), format!("{place}{error}"))
    })
}

/// Creates a file without a name, which is gone when it is closed. Where the file system has no such files, asks for the
/// permission instead.
#[cfg(target_os = "linux")]
fn try_to_write(folder: &Path) -> io::Result<()> {
    use rustix::{
        fs::{Access, Mode, OFlags, access, open},
        io::Errno,
    };
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match open(folder, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) if usage(folder).is_none() => {
            // Such as /proc and /sys, which have no size.
            Err(io::Error::new(io::ErrorKind::Unsupported, "this file system stores no files"))
        }
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
            Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
        }
        Err(error) => Err(error.into()),
    }
}

/// Asks for the permission to create files.
#[cfg(all(unix, not(target_os = "linux")))]
fn try_to_write(folder: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    Ok(access(folder, Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Does nothing: the first write shows it.
#[cfg(not(unix))]
fn try_to_write(_: &Path) -> io::Result<()> {
    Ok(())
}

/// Returns the usage of the disk of `folder`, if the system reports it. Blocks as long as the disk does not answer.
#[cfg(unix)]
pub fn usage(folder: &Path) -> Option<DiskUsage> {
    let stats = rustix::fs::statvfs(folder).ok()?;
    let usage = DiskUsage {
        free_bytes: stats.f_bavail.checked_mul(stats.f_frsize)?,
        total_bytes: stats.f_blocks.checked_mul(stats.f_frsize)?,
        free_files: (stats.f_files > 0).then_some(stats.f_favail),
    };
    // Some file systems in user space report only zeros.
    (usage.total_bytes > 0).then_some(usage)
}

/// Returns nothing: free space is known on Unix only.
#[cfg(not(unix))]
pub fn usage(_: &Path) -> Option<DiskUsage> {
    None
}

/// Returns the bytes that this user may still write in `folder`, if the system reports them. Blocks like [`usage`].
pub fn free_bytes(folder: &Path) -> Option<u64> {
    usage(folder).map(|usage| usage.free_bytes)
}

#[cfg(unix)]
fn are_on_one_disk(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| nearest_existing_folder(path).metadata().ok().map(|meta| meta.dev());
    device(a).is_some_and(|disk| device(b) == Some(disk))
}

#[cfg(not(unix))]
fn are_on_one_disk(_: &Path, _: &Path) -> bool {
    false
}

/// A file that was promised space up to a maximum size, such as the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowingFile {
    /// The file. It may not exist yet.
    pub path: PathBuf,
    /// Its maximum size.
    pub max_bytes: u64,
}

/// The purpose of written bytes. It decides how much of the reserve they may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceUse {
    /// A recording leaves the whole reserve.
    Recording,
    /// A transcript, a manifest or a report leaves half of it, so that recordings do not keep transcripts out.
    Document,
    /// A record of an erasure, which frees space, leaves nothing.
    Erasure,
}

/// A disk whose space several writers share. See the [module](self).
#[derive(Debug)]
pub struct SharedDisk {
    folder: PathBuf,
    growing: Vec<GrowingFile>,
    claimed: Mutex<u64>,
}

/// Space that a writer may use. What it has not used is given back when it is dropped.
#[derive(Debug)]
pub struct SpaceClaim {
    disk: Arc<SharedDisk>,
    purpose: SpaceUse,
    bytes: u64,
}

/// The disk has too little space beyond the reserve.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoSpace {
    /// Too few bytes are free.
    #[error(
        "the disk of {folder} is full: {free} are free, {needed} are needed, and {reserved} are reserved for accepting \
         deliveries; free space on it or enlarge it",
        folder = .folder.display(), free = ByteSize(*.free), needed = ByteSize(*.needed), reserved = ByteSize(*.reserved)
    )]
    Bytes {
        /// The folder to write into.
        folder: PathBuf,
        /// The free bytes of its disk, without those that other writers have claimed.
        free: u64,
        /// The bytes that this writer needs.
        needed: u64,
        /// The bytes that must stay free.
        reserved: u64,
    },
    /// Too few files can be created.
    #[error(
        "the disk of {folder} is full: only {free} more files can be created (inodes); remove files or enlarge it",
        folder = .folder.display()
    )]
    Files {
        /// The folder to write into.
        folder: PathBuf,
        /// The files that can still be created.
        free: u64,
    },
}

impl SharedDisk {
    /// Describes the disk of `folder`. Space for `growing` files on the same disk is reserved, too.
    pub fn new(folder: PathBuf, growing: Vec<GrowingFile>) -> Self {
        Self { folder, growing, claimed: Mutex::default() }
    }

    /// Claims space for one more file of `bytes` (0 if the size is unknown). Blocks like [`usage`].
    pub fn claim(self: &Arc<Self>, bytes: u64, purpose: SpaceUse) -> Result<SpaceClaim, NoSpace> {
        let mut claim = SpaceClaim { disk: Arc::clone(self), purpose, bytes: 0 };
        claim.cover(bytes)?;
        Ok(claim)
    }

    /// Returns an error if `additional` bytes, beyond all claims, do not fit.
    fn check(&self, claimed: u64, additional: u64, purpose: SpaceUse) -> Result<(), NoSpace> {
        let Some(usage) = usage(&self.folder) else { return Ok(()) };
        let whole = self.reserve(usage.total_bytes);
        let (reserved, reserved_files) = match purpose {
            SpaceUse::Recording => (whole, RESERVED_FILES),
            SpaceUse::Document => (whole / 2, RESERVED_FILES / 2),
            SpaceUse::Erasure => return Ok(()),
        };
        let folder = self.folder.clone();
        if let Some(free) = usage.free_files.filter(|free| *free <= reserved_files) {
            return Err(NoSpace::Files { folder, free });
        }
        let free = usage.free_bytes.saturating_sub(claimed);
        if free < reserved.saturating_add(additional) {
            return Err(NoSpace::Bytes { folder, free, needed: additional, reserved });
        }
        Ok(())
    }

    /// Returns the bytes that stay free on a disk of `total` bytes.
    fn reserve(&self, total: u64) -> u64 {
        let growth = self.growing.iter().filter(|file| are_on_one_disk(&file.path, &self.folder));
        let growth = growth.map(|file| {
            let size = file.path.metadata().map_or(0, |meta| meta.len());
            file.max_bytes.saturating_sub(size)
        });
        growth.fold(RESERVE.as_u64(), u64::saturating_add).min(total / MAX_RESERVED_PART)
    }

    fn claimed(&self) -> MutexGuard<'_, u64> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SpaceClaim {
    /// Makes the claim large enough for the next `bytes`. Blocks like [`usage`].
    pub fn cover(&mut self, bytes: u64) -> Result<(), NoSpace> {
        let additional = bytes.saturating_sub(self.bytes);
        let mut claimed = self.disk.claimed();
        self.disk.check(*claimed, additional, self.purpose)?;
        *claimed = claimed.saturating_add(additional);
        drop(claimed);
        self.bytes += additional;
        Ok(())
    }

    /// Gives back the claim on `bytes` that are on the disk now.
    pub fn spend(&mut self, bytes: u64) {
        let spent = bytes.min(self.bytes);
        self.bytes -= spent;
        let mut claimed = self.disk.claimed();
        *claimed = claimed.saturating_sub(spent);
    }
}

impl Drop for SpaceClaim {
    fn drop(&mut self) {
        self.spend(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserves_a_quarter_of_a_small_disk() {
        let disk = SharedDisk::new("/".into(), Vec::new());
        assert_eq!(disk.reserve(64 << 20), 16 << 20);
        assert_eq!(disk.reserve(1 << 40), RESERVE.as_u64());
    }

    #[test]
    fn reserves_the_rest_of_a_spool_on_the_same_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("not/there/spool.db");
        let spool = GrowingFile { path: path.clone(), max_bytes: 1 << 30 };
        let disk = SharedDisk::new(folder.path().to_owned(), vec![spool]);
        assert_eq!(disk.reserve(1 << 40), RESERVE.as_u64() + (1 << 30));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, [0; 4096]).unwrap();
        assert_eq!(disk.reserve(1 << 40), RESERVE.as_u64() + (1 << 30) - 4096);
        // A pseudo file system is a disk of its own.
        let elsewhere = GrowingFile { path: "/proc/spool.db".into(), max_bytes: 1 << 30 };
        let disk = SharedDisk::new(folder.path().to_owned(), vec![elsewhere]);
        assert_eq!(disk.reserve(1 << 40), RESERVE.as_u64());
    }

    #[test]
    fn claims_add_up_until_they_are_spent_or_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(SharedDisk::new(folder.path().to_owned(), Vec::new()));
        let mut large = disk.claim(1 << 20, SpaceUse::Recording).unwrap();
        let unknown = disk.claim(0, SpaceUse::Recording).unwrap();
        assert_eq!(*disk.claimed(), 1 << 20);
        large.cover(1 << 19).unwrap();
        assert_eq!(*disk.claimed(), 1 << 20, "the first claim covers it");
        large.spend(1 << 19);
        assert_eq!(*disk.claimed(), 1 << 19);
        large.cover(1 << 20).unwrap();
        assert_eq!(*disk.claimed(), 1 << 20);
        drop((large, unknown));
        assert_eq!(*disk.claimed(), 0);
        let error = disk.claim(u64::MAX, SpaceUse::Document).unwrap_err();
        assert!(matches!(error, NoSpace::Bytes { needed: u64::MAX, .. }), "{error:?}");
        assert!(error.to_string().contains("free space on it"), "{error}");
        assert_eq!(*disk.claimed(), 0);
    }
}
