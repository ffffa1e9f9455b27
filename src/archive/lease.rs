//! Something that only one process at a time does, whichever machines they run on.
//!
//! In a folder a lease is a file lock, which ends with the process. In a bucket it is an object that its holder writes
//! again and again, each time on the condition that nobody else did. Others watch: one that has not changed for all of the
//! archive's patience (40 s) by their own clock has lost its holder, and the next takes it, on the same condition. Nobody's
//! clock is compared with anybody else's.
//!
//! A lease carries a note from holder to holder. It is no fence: a process that slept through its lease finds out a
//! moment later ([`ArchiveLease::lost`]). What is done under it has to be harmless when done twice.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    time::Duration,
};

use bytes::Bytes;
use object_store::{GetOptions, PutMode, PutOptions, PutPayload, UpdateVersion, path::Path};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::{Archive, ArchiveError, conflicted, folder};

/// Of the archive's patience: how often a holder says that it is there, and how often others look.
const RENEWED: u32 = 4;
const LOOK: u32 = 8;

/// The object of a bucket, or the file of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Content {
    /// Makes every writing another one.
    renewals: u64,
    /// Nobody has it.
    free: bool,
    note: Option<String>,
}

/// See the module. Dropped, it is free at once in a folder, after a while in a bucket; so [`ArchiveLease::release`] it.
#[derive(Debug)]
pub struct ArchiveLease {
    archive: Archive,
    content: Content,
    held: Held,
}

#[derive(Debug)]
enum Held {
    File(File),
    Object { key: Path, version: UpdateVersion },
}

/// What a look at a lease finds.
#[derive(Debug)]
struct Found {
    content: Content,
    version: UpdateVersion,
}

impl Archive {
    /// Waits for the lease of that name and takes it. Not before `wanted` says so of the note that its last holder left
    /// (none if there was none): it says how long to wait until it is asked again.
    pub async fn lease(
        &self,
        name: &str,
        wanted: impl Fn(Option<&str>) -> Result<(), Duration>,
    ) -> Result<ArchiveLease, ArchiveError> {
        match &self.backend.folder {
            Some(folder) => self.lease_file(folder, name, wanted).await,
            None => self.lease_object(name, wanted).await,
        }
    }

    async fn lease_file(
        &self,
        folder: &folder::Folder,
        name: &str,
        wanted: impl Fn(Option<&str>) -> Result<(), Duration>,
    ) -> Result<ArchiveLease, ArchiveError> {
        loop {
            let pause = match folder.try_lease(name)? {
                Some(mut file) => {
                    let mut text = String::new();
                    let read = file.read_to_string(&mut text);
                    read.map_err(|source| folder.failed(name, source))?;
                    // A file that was cut short by a crash says nothing, which is harmless.
                    let content: Content = serde_json::from_str(&text).unwrap_or_default();
                    match wanted(content.note.as_deref()) {
                        Ok(()) => {
                            return Ok(ArchiveLease {
                                archive: self.clone(),
                                content,
                                held: Held::File(file),
                            });
                        }
                        Err(pause) => pause,
                    }
                }
                None => self.patience / LOOK,
            };
            sleep(pause).await;
        }
    }

    async fn lease_object(
        &self,
        name: &str,
        wanted: impl Fn(Option<&str>) -> Result<(), Duration>,
    ) -> Result<ArchiveLease, ArchiveError> {
        let key = Path::parse(format!("{}/{}/{name}.json", self.backend.prefix, folder::PRIVATE))
            .map_err(object_store::Error::from)?;
        let mut watched: Option<(UpdateVersion, Instant)> = None;
        loop {
            let found = self.look(&key).await?;
            let note = found.as_ref().and_then(|found| found.content.note.as_deref());
            let pause = if let Err(pause) = wanted(note) {
                pause
            } else {
                let abandoned = |found: &Found| {
                    let since = watched.as_ref().filter(|(version, _)| version.e_tag == found.version.e_tag);
                    since.is_some_and(|(_, since)| since.elapsed() >= self.patience)
                };
                if found.as_ref().is_none_or(|found| found.content.free || abandoned(found)) {
                    let (content, mode) = match found {
                        Some(Found { content, version }) => (content, PutMode::Update(version)),
                        None => (Content::default(), PutMode::Create),
                    };
                    if let Some(lease) = self.take(&key, content, mode).await? {
                        return Ok(lease);
                    }
                    watched = None;
                    continue;
                }
                self.patience / LOOK
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

    async fn look(&self, key: &Path) -> Result<Option<Found>, ArchiveError> {
        let found = match self.backend.store.get_opts(key, GetOptions::default()).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let content = serde_json::from_slice(&found.bytes().await?).unwrap_or_default();
        Ok(Some(Found { content, version }))
    }

    /// Takes a lease; nothing if somebody was faster.
    async fn take(
        &self,
        key: &Path,
        content: Content,
        mode: PutMode,
    ) -> Result<Option<ArchiveLease>, ArchiveError> {
        let content = Content { renewals: content.renewals.wrapping_add(1), free: false, ..content };
        let written = self.write(key, &content, mode).await?;
        Ok(written.map(|version| {
            let held = Held::Object { key: key.clone(), version };
            ArchiveLease { archive: self.clone(), content, held }
        }))
    }

    async fn write(
        &self,
        key: &Path,
        content: &Content,
        mode: PutMode,
    ) -> Result<Option<UpdateVersion>, ArchiveError> {
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.backend.store.put_opts(key, PutPayload::from(json(content)), options).await {
            Ok(put) => Ok(Some(UpdateVersion { e_tag: put.e_tag, version: put.version })),
            Err(error) if conflicted(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl ArchiveLease {
    /// Keeps the lease for as long as this is polled; returns when it is lost, or cannot be kept.
    pub async fn lost(&mut self) {
        let Held::Object { key, version } = &mut self.held else {
            // The system's until we give it back.
            return std::future::pending().await;
        };
        let mut renewed = Instant::now();
        loop {
            sleep(self.archive.patience / RENEWED).await;
            self.content.renewals = self.content.renewals.wrapping_add(1);
            match self.archive.write(key, &self.content, PutMode::Update(version.clone())).await {
                Ok(Some(now)) => {
                    *version = now;
                    renewed = Instant::now();
                }
                // Others take it when they have seen nothing for the whole of it.
                Err(_) if renewed.elapsed() < self.archive.patience / 2 => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Gives it back, with a note for whoever has it next; without one the old note stays.
    pub async fn release(mut self, note: Option<String>) -> Result<(), ArchiveError> {
        self.content.note = note.or(self.content.note);
        self.content.free = true;
        match self.held {
            Held::File(mut file) => {
                let written = file
                    .set_len(0)
                    .and_then(|()| file.rewind())
                    .and_then(|()| file.write_all(&json(&self.content)));
                written.map_err(|source| ArchiveError::Folder { path: folder::PRIVATE.into(), source })
            }
            Held::Object { key, version } => {
                // Somebody who has taken it by now has it.
                self.archive.write(&key, &self.content, PutMode::Update(version)).await.map(drop)
            }
        }
    }
}

fn json(content: &Content) -> Bytes {
    serde_json::to_vec(content).unwrap_or_default().into()
}
