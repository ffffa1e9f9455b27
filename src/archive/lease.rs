//! Leases of tasks that only one process may perform at a time, on any machine.
//!
//! In a folder a lease is a file lock, which ends with the process. In a bucket it is an object that its holder
//! writes again and again, each time on the condition that no other process has written it. Other processes watch the
//! object. If it has not changed for the whole takeover timeout (40 s) by their own clock, its holder is dead, and
//! the next process takes the lease, on the same condition. No two clocks are compared.
//!
//! A lease carries a note from one holder to the next. It is not a fence: a process that was suspended for too long
//! notices the loss only afterwards ([`ArchiveLease::lost`]). Therefore a task must be harmless if it runs twice.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use object_store::{GetOptions, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{Archive, ArchiveError, folder, is_conflict};

/// The number of renewals within the takeover timeout.
pub(super) const RENEWALS_PER_TIMEOUT: u32 = 4;
/// The number of polls of a waiting process within the takeover timeout.
const POLLS_PER_TIMEOUT: u32 = 8;

/// The maximum time in which [`ArchiveLease::end`] releases a lease.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// The content of the lease's object or file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct LeaseContent {
    /// Changes with every write, so that each write has a new `ETag`.
    pub(super) renewals: u64,
    /// Identifies the holder, so that it recognises its own write if the answer to that was lost.
    pub(super) holder: String,
    /// True if no process holds the lease.
    pub(super) free: bool,
    pub(super) note: Option<String>,
}

/// A lease that this process holds. If it is dropped, it becomes free at once in a folder, and after the takeover
/// timeout in a bucket. Call [`ArchiveLease::release`] to avoid the delay.
#[derive(Debug)]
pub struct ArchiveLease {
    archive: Archive,
    content: LeaseContent,
    handle: LeaseHandle,
}

#[derive(Debug)]
enum LeaseHandle {
    File(File),
    Object { key: Path, version: UpdateVersion },
}

/// The current object of a lease.
#[derive(Debug)]
pub(super) struct LeaseObject {
    pub(super) content: LeaseContent,
    pub(super) version: UpdateVersion,
}

impl Archive {
    /// Waits for the named lease and takes it. `check_note` gets the note of the last holder (`None` if there is
    /// none). It returns an error with a delay to try again later.
    pub async fn lease(
        &self,
        name: &str,
        check_note: impl Fn(Option<&str>) -> Result<(), Duration>,
    ) -> Result<ArchiveLease, ArchiveError> {
        match &self.backend.folder {
            Some(folder) => self.lease_file(folder, name, check_note).await,
            None => self.lease_object(name, check_note).await,
        }
    }

    async fn lease_file(
        &self,
        folder: &folder::PrivateFolder,
        name: &str,
        check_note: impl Fn(Option<&str>) -> Result<(), Duration>,
    ) -> Result<ArchiveLease, ArchiveError> {
        loop {
            let pause = match folder.try_lease(name)? {
                Some(mut file) => {
                    let mut text = String::new();
                    let read = file.read_to_string(&mut text);
                    read.map_err(|source| folder.lease_error(name, source))?;
                    // A file that a crash has cut short has no note, which is harmless.
                    let content: LeaseContent = serde_json::from_str(&text).unwrap_or_default();
                    match check_note(content.note.as_deref()) {
                        Ok(()) => {
                            return Ok(ArchiveLease {
                                archive: self.clone(),
                                content,
                                handle: LeaseHandle::File(file),
                            });
                        }
                        Err(pause) => pause,
                    }
                }
                None => self.takeover_timeout / POLLS_PER_TIMEOUT,
            };
            sleep(pause).await;
        }
    }

    async fn lease_object(
        &self,
        name: &str,
        check_note: impl Fn(Option<&str>) -> Result<(), Duration>,
    ) -> Result<ArchiveLease, ArchiveError> {
        let key = Path::parse(format!("{}/{}/{name}.json", self.backend.prefix, folder::PRIVATE_FOLDER))
            .map_err(object_store::Error::from)?;
        let mut watched: Option<(UpdateVersion, Instant)> = None;
        loop {
            let found = self.read_lease(&key).await?;
            let note = found.as_ref().and_then(|found| found.content.note.as_deref());
            let pause = if let Err(pause) = check_note(note) {
                pause
            } else {
                let is_abandoned = |found: &LeaseObject| {
                    let since = watched.as_ref().filter(|(version, _)| version.e_tag == found.version.e_tag);
                    since.is_some_and(|(_, since)| since.elapsed() >= self.takeover_timeout)
                };
                if found.as_ref().is_none_or(|found| found.content.free || is_abandoned(found)) {
                    let (content, mode) = match found {
                        Some(LeaseObject { content, version }) => (content, PutMode::Update(version)),
                        None => (LeaseContent::default(), PutMode::Create),
                    };
                    if let Some(lease) = self.take_lease(&key, content, mode).await? {
                        return Ok(lease);
                    }
                    watched = None;
                    continue;
                }
                self.takeover_timeout / POLLS_PER_TIMEOUT
            };
            let version = found.map(|found| found.version);
            watched = match (version, watched) {
                (Some(now), Some((before, since))) if now.e_tag == before.e_tag => Some((before, since)),
                (Some(now), _) => Some((now, Instant::now())),
                (None, _) => None,
            };
            sleep(pause).await;
        }
    }

    pub(super) async fn read_lease(&self, key: &Path) -> Result<Option<LeaseObject>, ArchiveError> {
        let found = match self.backend.store.get_opts(key, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let content = serde_json::from_slice(&found.bytes().await?).unwrap_or_default();
        Ok(Some(LeaseObject { content, version }))
    }

    /// Takes a lease. Returns `None` if another process was faster.
    async fn take_lease(
        &self,
        key: &Path,
        content: LeaseContent,
        mode: PutMode,
    ) -> Result<Option<ArchiveLease>, ArchiveError> {
        let renewals = content.renewals.wrapping_add(1);
        let holder = Uuid::new_v4().to_string();
        let content = LeaseContent { renewals, holder, free: false, ..content };
        let written = self.write_lease(key, &content, mode).await?;
        Ok(written.map(|version| {
            let handle = LeaseHandle::Object { key: key.clone(), version };
            ArchiveLease { archive: self.clone(), content, handle }
        }))
    }

    /// Writes the lease. Returns `None` if another process has written it.
    pub(super) async fn write_lease(
        &self,
        key: &Path,
        content: &LeaseContent,
        mut mode: PutMode,
    ) -> Result<Option<UpdateVersion>, ArchiveError> {
        loop {
            let options = PutOptions { mode, ..PutOptions::default() };
            match self.backend.store.put_opts(key, PutPayload::from(to_json(content)), options).await {
                Ok(put) => return Ok(Some(UpdateVersion { e_tag: put.e_tag, version: put.version })),
                Err(error) if is_conflict(&error) => {}
                Err(error) => return Err(error.into()),
            }
            // The store may have done this write, or an earlier one of this holder, although the answer was lost.
            match self.read_lease(key).await?.filter(|found| found.content.holder == content.holder) {
                Some(found) if found.content == *content => return Ok(Some(found.version)),
                Some(found) => mode = PutMode::Update(found.version),
                None => return Ok(None),
            }
        }
    }
}

impl ArchiveLease {
    /// Renews the lease while this future is polled. Returns when the lease is lost, or cannot be renewed.
    pub async fn lost(&mut self) {
        let LeaseHandle::Object { key, version } = &mut self.handle else {
            // The operating system keeps it until it is released.
            return std::future::pending().await;
        };
        let mut renewed_at = Instant::now();
        loop {
            sleep(self.archive.takeover_timeout / RENEWALS_PER_TIMEOUT).await;
            self.content.renewals = self.content.renewals.wrapping_add(1);
            match self.archive.write_lease(key, &self.content, PutMode::Update(version.clone())).await {
                Ok(Some(now)) => {
                    *version = now;
                    renewed_at = Instant::now();
                }
                // Other processes take over only after the whole timeout without a change.
                Err(_) if renewed_at.elapsed() < self.archive.takeover_timeout / 2 => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Releases the lease like [`ArchiveLease::release`], for a limited time. If that fails, another process takes it over
    /// after the takeover timeout.
    pub async fn end(self, name: &str, note: Option<String>) {
        match timeout(RELEASE_TIMEOUT, self.release(note)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease {name} could not be released"),
            Err(_) => tracing::warn!("the lease {name} could not be released in time"),
        }
    }

    /// Releases the lease and leaves a note for the next holder. Without a note the old one stays.
    pub async fn release(mut self, note: Option<String>) -> Result<(), ArchiveError> {
        self.content.note = note.or(self.content.note);
        self.content.free = true;
        match self.handle {
            LeaseHandle::File(mut file) => {
                let written = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(&to_json(&self.content)));
                written.map_err(|source| ArchiveError::Folder { path: folder::PRIVATE_FOLDER.into(), source })
            }
            LeaseHandle::Object { key, version } => {
                // If another process has taken over the lease, that process keeps it.
                self.archive.write_lease(&key, &self.content, PutMode::Update(version)).await.map(drop)
            }
        }
    }
}

/// Returns `Ok` if a task is due `every` after the time in the `note` of its lease. Otherwise returns the delay until then.
/// If the time is further in the future than `every`, a process with a wrong clock noted it, and the task is due now.
pub fn check_due(note: Option<&str>, now: Timestamp, every: Duration) -> Result<(), Duration> {
    let Some(last) = note.and_then(|note| note.parse::<Timestamp>().ok()) else { return Ok(()) };
    let age = now.duration_since(last);
    match (Duration::try_from(age), Duration::try_from(-age)) {
        (Ok(age), _) => every.checked_sub(age).filter(|left| !left.is_zero()).map_or(Ok(()), Err),
        (_, Ok(ahead)) if ahead < every => Err(every),
        _ => Ok(()),
    }
}

fn to_json(content: &LeaseContent) -> Bytes {
    serde_json::to_vec(content).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_due_after_its_interval_even_if_the_last_one_had_a_wrong_clock() {
        let (now, every) = ("2026-11-02T10:00:00Z".parse().unwrap(), Duration::from_mins(15));
        let due = |last: &str| check_due(Some(last), now, every);
        assert_eq!(check_due(None, now, every), Ok(()));
        assert_eq!(due("not a time"), Ok(()));
        assert_eq!(due("2026-11-02T09:50:00Z"), Err(Duration::from_mins(5)));
        assert_eq!(due("2026-11-02T09:45:00Z"), Ok(()));
        assert_eq!(due("2020-01-01T00:00:00Z"), Ok(()));
        assert_eq!(due("2026-11-02T10:00:05Z"), Err(every), "the clock of another process is slightly ahead");
        assert_eq!(due("2027-11-02T10:00:00Z"), Ok(()));
    }
}
