//! Free space and writability of what lies on a disk.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use super::report::{Finding, Subject};

/// The folder of `path` that there is: itself, or the nearest above it.
pub(super) fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.ancestors().find(|ancestor| ancestor.is_dir()).map_or(absolute.clone(), Path::to_owned)
}

/// Whether a file can be made in `folder`; the error is the system's word.
pub(super) fn writable(folder: &Path) -> std::io::Result<()> {
    let file = folder.join(format!(".polyhook-doctor-{}", uuid::Uuid::new_v4().simple()));
    std::fs::File::create_new(&file)?;
    std::fs::remove_file(&file)
}

/// Bytes that this user may still write there.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let told = rustix::fs::statvfs(folder).ok()?;
    told.f_bavail.checked_mul(told.f_frsize)
}

/// Nobody to ask.
#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}

/// Red below `least`, amber below `enough`.
pub(super) fn check(of: &str, path: &Path, least: ByteSize, enough: ByteSize) -> Finding {
    let folder = existing(path);
    let subject = Subject::new("disk", format!("{of} ({})", folder.display()));
    let Some(free) = free(&folder) else {
        return subject.skipped("the free space cannot be read", "look at it yourself, with `df`");
    };
    let said = format!("{} free", ByteSize(free));
    let next = format!("free or add space: what is wanted here is {enough} at least");
    if free < least.as_u64() {
        subject.fail(said, next)
    } else if free < enough.as_u64() {
        subject.warn(said, next)
    } else {
        subject.ok(said)
    }
}
