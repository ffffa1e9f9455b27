//! Free space on a local disk.

use std::path::{Path, PathBuf};

/// The folder of `path` that there is: itself, or the nearest above it.
pub fn nearest_existing_folder(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|ancestor| ancestor.is_dir()).map_or(absolute.clone(), Path::to_owned)
}

/// Bytes that this user may still write in `folder`, if the system tells. Blocks, for as long as the disk does.
#[cfg(unix)]
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(folder).ok()?;
    told.f_bavail.checked_mul(told.f_frsize)
}

/// Nobody to ask.
#[cfg(not(unix))]
pub fn free_bytes(_: &Path) -> Option<u64> {
    None
}
