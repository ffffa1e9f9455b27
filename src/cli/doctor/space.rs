//! Free space and writability of what lies on a disk.

use std::path::Path;

use bytesize::ByteSize;

use super::report::{Finding, Subject};
use crate::disk;

/// Whether a file can be made in `folder`; the error is the system's word.
pub(super) fn writable(folder: &Path) -> std::io::Result<()> {
    let file = folder.join(format!(".polyhook-doctor-{}", uuid::Uuid::new_v4().simple()));
    std::fs::File::create_new(&file)?;
    std::fs::remove_file(&file)
}

/// Red below `least`, amber below `enough`.
pub(super) fn check(of: &str, path: &Path, least: ByteSize, enough: ByteSize) -> Finding {
    let folder = disk::nearest_existing_folder(path);
    let subject = Subject::new("disk", format!("{of} ({})", folder.display()));
    let Some(free) = disk::free_bytes(&folder) else {
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
