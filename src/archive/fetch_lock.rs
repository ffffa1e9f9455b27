//! The lock of a conversation that a worker is fetching, so that no other worker fetches it at the same time.
//!
//! In a folder it is a file lock, which ends with the process. In a bucket it is an object that its holder creates on the
//! condition that it does not exist, renews, and removes. As with a [lease](super::lease), no two clocks are compared: if
//! the object has not changed for the whole takeover timeout (40 s) by the clock of the process that finds it, its holder
//! is dead, and the next worker takes the lock.
//!
//! The lock saves requests to PolyAI. The archive does not depend on it: [`Archive::commit`] is safe without it.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use object_store::{ObjectStoreExt, PutMode, UpdateVersion, path::Path};
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    Archive, ArchiveError,
    folder::{FETCH_LOCKS_FOLDER, LockFile, PRIVATE_FOLDER},
    lease::{LeaseContent, RENEWALS_PER_TIMEOUT},
};

/// The attempts to take a lock that another worker releases at the same moment.
const MAX_ATTEMPTS: usize = 3;
/// The number of watched locks above which those that no job has met for a while are forgotten.
const MAX_WATCHED: usize = 1024;

/// The lock of one conversation. If it is dropped, it becomes free at once in a folder, and after the takeover timeout in a
/// bucket. Call [`FetchLock::release`] to avoid the delay.
#[derive(Debug)]
pub struct FetchLock {
    archive: Archive,
    handle: LockHandle,
}

#[derive(Debug)]
enum LockHandle {
    File { _lock: LockFile },
    Object { key: Path, content: LeaseContent, version: UpdateVersion, lost: bool },
}

/// The locks of other workers, with their versions and the times at which this process saw these versions first.
#[derive(Clone, Debug, Default)]
pub(super) struct WatchedLocks(Arc<Mutex<HashMap<Path, WatchedLock>>>);

#[derive(Debug)]
struct WatchedLock {
    e_tag: Option<String>,
    since: Instant,
    seen_at: Instant,
}

impl WatchedLocks {
    /// Records the version of a lock. Returns the time for which this process has seen no other version.
    fn unchanged_for(&self, key: &Path, e_tag: Option<&String>, takeover_timeout: Duration) -> Duration {
        let now = Instant::now();
        let mut watched = self.watched();
        if watched.len() >= MAX_WATCHED {
            watched.retain(|_, lock| now.duration_since(lock.seen_at) < takeover_timeout * 4);
        }
        let first_seen = || WatchedLock { e_tag: e_tag.cloned(), since: now, seen_at: now };
        let lock = watched.entry(key.clone()).or_insert_with(first_seen);
        if lock.e_tag.as_ref() != e_tag {
            *lock = first_seen();
        }
        lock.seen_at = now;
        now.duration_since(lock.since)
    }

    fn forget(&self, key: &Path) {
        self.watched().remove(key);
    }

    fn watched(&self) -> MutexGuard<'_, HashMap<Path, WatchedLock>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Archive {
    /// Takes the lock of a conversation, whatever its project. Does not wait: returns `None` if another worker, or another
    /// task of this process, has it.
    pub async fn try_fetch_lock(&self, conversation_id: &str) -> Result<Option<FetchLock>, ArchiveError> {
        let name = hex::encode(&Sha256::digest(conversation_id)[..16]);
        if let Some(folder) = &self.backend.folder {
            let file = folder.try_fetch_lock(&name)?;
            let handle = |file| LockHandle::File { _lock: file };
            return Ok(file.map(|file| FetchLock { archive: self.clone(), handle: handle(file) }));
        }
        let folder = format!("{}/{PRIVATE_FOLDER}/{FETCH_LOCKS_FOLDER}", self.backend.prefix);
        let key = Path::parse(format!("{folder}/{name}.json")).map_err(object_store::Error::from)?;
        let content = LeaseContent { holder: Uuid::new_v4().to_string(), ..LeaseContent::default() };
        let lock = |version| {
            let handle =
                LockHandle::Object { key: key.clone(), content: content.clone(), version, lost: false };
            Some(FetchLock { archive: self.clone(), handle })
        };
        let mut mode = PutMode::Create;
        for _ in 0..MAX_ATTEMPTS {
            if let Some(version) = self.write_lease(&key, &content, mode).await? {
                self.watched_locks.forget(&key);
                return Ok(lock(version));
            }
            let Some(found) = self.read_lease(&key).await? else {
                mode = PutMode::Create;
                continue;
            };
            let unchanged =
                self.watched_locks.unchanged_for(&key, found.version.e_tag.as_ref(), self.takeover_timeout);
            if !found.content.free && unchanged < self.takeover_timeout {
                return Ok(None);
            }
            mode = PutMode::Update(found.version);
        }
        Ok(None)
    }
}

impl FetchLock {
    /// Renews the lock while this future is polled. Never returns: if the lock is lost, its holder continues, because the
    /// archive does not depend on the lock.
    pub async fn keep(&mut self) -> Infallible {
        let LockHandle::Object { key, content, version, lost } = &mut self.handle else {
            // The operating system keeps it until it is released.
            return std::future::pending().await;
        };
        while !*lost {
            sleep(self.archive.takeover_timeout / RENEWALS_PER_TIMEOUT).await;
            let renewed = LeaseContent { renewals: content.renewals.wrapping_add(1), ..content.clone() };
            match self.archive.write_lease(key, &renewed, PutMode::Update(version.clone())).await {
                Ok(Some(now)) => (*version, *content) = (now, renewed),
                Ok(None) => *lost = true,
                Err(error) => tracing::debug!(%error, "the lock of a fetch could not be renewed"),
            }
        }
        std::future::pending().await
    }

    /// Releases the lock. If that fails, other workers take it over after the takeover timeout.
    pub async fn release(self) {
        let Self { archive, handle } = self;
        let LockHandle::Object { key, content, lost: false, .. } = handle else { return };
        match archive.backend.store.delete(&key).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            // The worker may not be allowed to delete objects.
            Err(error) => {
                let free = LeaseContent { free: true, ..content };
                let written = archive.write_lease(&key, &free, PutMode::Overwrite).await;
                tracing::debug!(%error, freed = written.is_ok(), "the lock of a fetch could not be removed");
            }
        }
    }
}
