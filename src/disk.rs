//! Free space on a local disk.

use std::path::{Path, PathBuf};

/// Returns `path` if it is an existing folder, otherwise its nearest parent that exists.
pub fn nearest_existing_folder(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|ancestor| ancestor.is_dir()).map_or(absolute.clone(), Path::to_owned)
}

/// Returns the bytes that this user may still write in `folder`, if the system reports them. Blocks as long as the disk
/// does not answer.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let stats = rustix::fs::statvfs(folder).ok()?;
    stats.f_bavail.checked_mul(stats.f_frsize)
}

/// Returns nothing: free space is known on Unix only.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}
