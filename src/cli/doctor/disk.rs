//! Checks free space, and whether a file or folder can be written.

use std::path::Path;

use bytesize::ByteSize;

use super::report::{Finding, Subject};
use crate::{app::Place, disk};

/// Returns a failure if `place`, which `key` names, can neither be written nor created.
pub(super) fn unwritable(subject: &Subject, place: &Place, key: &str) -> Option<Finding> {
    let error = place.check().err()?;
    Some(
        subject
            .fail(format!("cannot be written: {error}"), format!("{}, or change {key}", Place::fix(&error))),
    )
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
