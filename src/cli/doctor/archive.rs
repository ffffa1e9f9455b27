//! Whether conversations could be archived right now, and safely.

use bytesize::ByteSize;

use super::{
    report::{Finding, Subject},
    space,
};
use crate::{
    archive::{Archive, ArchiveError},
    clock::Clock,
    config::Config,
    disk,
};

/// A long call's recording is some ten MiB.
const LEAST: ByteSize = ByteSize::mib(128);
const ENOUGH: ByteSize = ByteSize::gib(5);

pub(super) async fn check(config: &Config, subject: Subject, clock: Clock) -> Vec<Finding> {
    let folder = config.archive.folder();
    let mut findings = Vec::new();
    match &folder {
        Some(path) if !path.is_dir() => findings.push(absent(&subject, path)),
        _ => findings.push(open(config, &subject, clock).await),
    }
    findings.extend(folder.map(|path| space::check("archive", &path, LEAST, ENOUGH)));
    findings
}

/// Looking makes no folders.
fn absent(subject: &Subject, path: &std::path::Path) -> Finding {
    let above = disk::nearest_existing_folder(path);
    match space::writable(&above) {
        Ok(()) if path.exists() => {
            subject.fail("it is a file, not a folder", "point archive.url at a folder")
        }
        Ok(()) => subject.ok("not there yet; it can be made"),
        Err(error) => subject.fail(
            format!("not there, and nothing can be made in {}: {error}", above.display()),
            "make it and give it to the user polyhook runs as",
        ),
    }
}

async fn open(config: &Config, subject: &Subject, clock: Clock) -> Finding {
    let checked = async { Archive::open(&config.archive, clock)?.check().await };
    match checked.await {
        Ok(()) => subject.ok("can be written, and refuses a second write of the same object"),
        Err(error) => {
            let next = match &error {
                ArchiveError::Config(_) => "correct [archive]",
                ArchiveError::Folder { .. } => {
                    "give the folder and everything in it to the user polyhook runs as"
                }
                ArchiveError::Denied(_) => {
                    "check the keys; they need permission to get and put objects and to abort multipart uploads below the prefix"
                }
                ArchiveError::Unconditional => {
                    "use a store with conditional writes: S3, GCS, Azure, MinIO, SeaweedFS have them"
                }
                _ => {
                    "check archive.url, archive.endpoint and archive.region, that the bucket exists, and the network"
                }
            };
            subject.fail(error.to_string(), next)
        }
    }
}
