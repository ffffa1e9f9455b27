//! Checks whether conversations can be archived now, and safely.

use bytesize::ByteSize;

use super::{
    disk as disk_check,
    report::{Finding, Subject},
};
use crate::{
    app::Place,
    archive::{Archive, ArchiveError, ArchiveReader},
    clock::Clock,
    config::Config,
};

/// The recording of a long call has about ten MiB.
const MIN_FREE: ByteSize = ByteSize::mib(128);
const RECOMMENDED_FREE: ByteSize = ByteSize::gib(5);

/// Checks the archive for a role that writes conversations, or that only looks for them.
pub(super) async fn check(config: &Config, subject: Subject, clock: Clock, writes: bool) -> Vec<Finding> {
    let folder = config.archive.folder();
    let mut findings = Vec::new();
    match &folder {
        Some(path) if !path.is_dir() => {
            let failure = disk_check::unwritable(&subject, &Place::Folder(path.clone()), "archive.url");
            let ok = || subject.ok("does not exist yet; polyhook can create it");
            findings.push(failure.unwrap_or_else(ok));
        }
        _ => findings.push(check_store(config, &subject, clock, writes).await),
    }
    let folder = folder.filter(|_| writes);
    findings.extend(folder.map(|path| disk_check::check("archive", &path, MIN_FREE, RECOMMENDED_FREE)));
    findings
}

async fn check_store(config: &Config, subject: &Subject, clock: Clock, writes: bool) -> Finding {
    let checked = async {
        let archive = Archive::open(&config.archive, clock)?;
        if writes {
            archive.check().await?;
        }
        for project in config.projects.iter().filter(|project| !project.needs_account()) {
            archive.has_conversations(&project.account_id, &project.project_id).await?;
        }
        if config.projects.is_empty() {
            // A console needs no project.
            ArchiveReader::open(&config.archive)?.read_last_audit_report().await?;
        }
        Ok(())
    };
    match checked.await {
        Ok(()) if writes => {
            subject.ok("lists objects, writes them, and rejects a second write of the same one")
        }
        Ok(()) => subject.ok("lists objects"),
        Err(error) => {
            let next = match &error {
                ArchiveError::Config(_) => "correct [archive]",
                ArchiveError::Folder { .. } => {
                    "make the user that runs polyhook the owner of the folder and its content"
                }
                ArchiveError::Denied(_) if writes => {
                    "check the access keys; they need permission to list, get and put objects and to abort multipart uploads below the prefix"
                }
                ArchiveError::Denied(_) => {
                    "check the access keys; they need permission to list and get objects below the prefix"
                }
                ArchiveError::Unconditional => {
                    "use a store with conditional writes, such as S3, GCS, Azure, MinIO or SeaweedFS"
                }
                _ => {
                    "check archive.url, archive.endpoint and archive.region, that the bucket exists, and the network"
                }
            };
            subject.fail(error.to_string(), next)
        }
    }
}
