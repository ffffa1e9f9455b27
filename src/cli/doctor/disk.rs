//! Checks free space and write access of folders.

use std::path::Path;

use bytesize::ByteSize;

use super::report::{Finding, Subject};
use crate::disk;

/// Creates and removes a file in `folder` and returns the error of the system.
pub(super) fn writable(folder: &Path) -> std::io::Result<()> {
    let file = folder.join(format!(".polyhook-doctor-{}", uuid::Uuid::new_v4().simple()));
    std::fs::File::create_new(&file)?;
    std::fs::remove_file(&file)
}

/// Checks the free space for `path`: fails below `min`, warns below `recommended`.
pub(super) fn check(purpose: &str, path: &Path, min: ByteSize, recommended: ByteSize) -> Finding {
    let folder = disk::nearest_existing_folder(path);
    let subject = Subject::new("disk", format!("{purpose} ({})", folder.display()));
    let Some(free) = disk::free_bytes(&folder) else {
        return subject.skipped("cannot determine the free space", "check it with `df`");
    };
    let message = format!("{} free", ByteSize(free));
    let next = format!("free or add space; {recommended} or more are recommended here");
    if free < min.as_u64() {
        subject.fail(message, next)
    } else if free < recommended.as_u64() {
        subject.warn(message, next)
    } else {
        subject.ok(message)
    }
}
