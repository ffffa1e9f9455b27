//! Work that reads whole recordings: waveforms and hashes.
//!
//! A recording is read part by part, and a thread for blocking work computes. Few recordings are read at the same time, and each
//! once: the waveforms of the latest ones are kept in memory. They are not stored in the archive, so an erasure has nothing more to
//! remove, and a waveform is served only while the manifest names its recording.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout_at},
};

use super::{super::error::PageError, place::archive_away};
use crate::{
    archive::{Archive, ArchiveError, Location, ManifestObject, ObjectReader},
    wav::{PeakReader, Peaks, PeaksError},
};

/// Recordings that are read at the same time, and documents.
const MAX_READERS: usize = 2;
/// The time for which a request waits for others that read.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Parts that wait to be computed. A part has at most a few MiB.
const WAITING_PARTS: usize = 1;
/// Waveforms in memory. One takes less than 50 KiB.
const MAX_WAVEFORMS: usize = 64;

/// A waveform as JSON, or the reason why the recording has none.
pub(super) type Waveform = Result<Bytes, PeaksError>;

/// Limits the number of requests that read whole objects at the same time. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct ReadPermits(Arc<Semaphore>);

impl ReadPermits {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_READERS)))
    }

    /// Waits as long as a request may wait for others.
    pub(super) async fn acquire(&self) -> Result<OwnedSemaphorePermit, PageError> {
        self.acquire_until(Instant::now() + PERMIT_TIMEOUT).await
    }

    async fn acquire_until(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, PageError> {
        // The semaphore is never closed.
        let permit =
            timeout_at(deadline, Arc::clone(&self.0).acquire_owned()).await.ok().and_then(Result::ok);
        permit.ok_or_else(|| {
            PageError::unavailable(
                "Other requests read large objects of the archive, and only a few at a time may.",
                "Reload this page in a moment.",
            )
        })
    }
}

/// Reads whole recordings. Shared by all requests.
#[derive(Debug)]
pub(super) struct RecordingReader {
    pub(super) permits: ReadPermits,
    /// By the SHA-256 of the recordings. The one that was used last is the last.
    waveforms: Mutex<Vec<(String, Arc<OnceCell<Waveform>>)>>,
}

/// The result of the verification of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Intact,
    /// Its bytes are not those that the manifest names.
    Changed,
    Missing,
}

impl RecordingReader {
    pub(super) fn new() -> Self {
        Self { permits: ReadPermits::new(), waveforms: Mutex::default() }
    }

    /// Returns the waveform of a recording, or `None` if the recording is missing or has another size. Of several requests one computes
    /// it. If that one is abandoned, another one starts again.
    pub(super) async fn waveform(
        &self,
        archive: &Archive,
        location: &Location,
        recording: &ManifestObject,
    ) -> Result<Option<Waveform>, PageError> {
        let cell = self.cell(&recording.sha256);
        let deadline = Instant::now() + PERMIT_TIMEOUT;
        let result = cell.get_or_try_init(|| self.compute(archive, location, recording, deadline)).await;
        match result {
            Ok(waveform) => Ok(Some(waveform.clone())),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    fn cell(&self, sha256: &str) -> Arc<OnceCell<Waveform>> {
        let mut waveforms = self.waveforms.lock().unwrap_or_else(PoisonError::into_inner);
        let known = waveforms.iter().position(|(known, _)| known == sha256);
        let entry = match known {
            Some(position) => waveforms.remove(position),
            None => (sha256.to_owned(), Arc::default()),
        };
        let cell = Arc::clone(&entry.1);
        waveforms.push(entry);
        if waveforms.len() > MAX_WAVEFORMS {
            waveforms.remove(0);
        }
        cell
    }

    async fn compute(
        &self,
        archive: &Archive,
        location: &Location,
        recording: &ManifestObject,
        deadline: Instant,
    ) -> Result<Waveform, Option<PageError>> {
        let _permit = self.permits.acquire_until(deadline).await?;
        let failed = |error: ArchiveError| archive_away(&error);
        let opened = archive.open_object(location, &recording.name, None).await.map_err(failed)?;
        let Some(opened) = opened.filter(|opened| opened.size == recording.size_bytes) else {
            return Err(None);
        };
        let peaks = read_whole(opened, Ok(PeakReader::new()), |reader, part| {
            if let Ok(peaks) = reader
                && let Err(error) = peaks.push(part)
            {
                *reader = Err(error);
            }
            reader.is_ok()
        });
        Ok(peaks.await.map_err(failed)?.and_then(PeakReader::finish).map(|peaks| to_json(&peaks)))
    }
}

/// Computes the hash of an object and compares it with the manifest. The caller has a permit.
pub(super) async fn verify(
    archive: &Archive,
    location: &Location,
    object: &ManifestObject,
) -> Result<Verdict, ArchiveError> {
    let Some(opened) = archive.open_object(location, &object.name, None).await? else {
        return Ok(Verdict::Missing);
    };
    let hash = read_whole(opened, Sha256::new(), |hash, part| {
        hash.update(part);
        true
    });
    let is_intact = hex::encode(hash.await?.finalize()) == object.sha256;
    Ok(if is_intact { Verdict::Intact } else { Verdict::Changed })
}

fn to_json(peaks: &Peaks) -> Bytes {
    serde_json::to_vec(peaks).unwrap_or_default().into()
}

/// Passes the parts of an object to `add` on a thread for blocking work, until it returns false. Ends early if the caller is
/// dropped.
async fn read_whole<T: Send + 'static>(
    mut object: ObjectReader,
    mut state: T,
    add: impl Fn(&mut T, &[u8]) -> bool + Send + 'static,
) -> Result<T, ArchiveError> {
    let (sender, mut parts) = mpsc::channel::<Bytes>(WAITING_PARTS);
    let computed = tokio::task::spawn_blocking(move || {
        while let Some(part) = parts.blocking_recv()
            && add(&mut state, &part)
        {}
        state
    });
    while let Some(part) = object.parts.try_next().await? {
        if sender.send(part).await.is_err() {
            break;
        }
    }
    drop(sender);
    computed.await.map_err(|source| object_store::Error::JoinError { source }.into())
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_does_not_wait_for_ever_for_others_that_read() {
        let permits = ReadPermits::new();
        let mut held = Vec::new();
        for _ in 0..MAX_READERS {
            held.push(permits.acquire().await.unwrap());
        }
        assert_eq!(permits.acquire().await.unwrap_err().into_response().status(), 503);
        held.pop();
        drop(permits.acquire().await.unwrap());
    }
}
