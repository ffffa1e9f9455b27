//! Work that reads whole recordings: waveforms and hashes.
//!
//! A recording is read part by part, and a thread for blocking work computes. Few recordings are read at the same time, and each
//! once: the waveforms of the latest ones are kept in memory. They are not stored in the archive, so an erasure has nothing more to
//! remove, and a waveform is served only while the manifest names its recording.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, Semaphore, mpsc};

use crate::{
    archive::{Archive, ArchiveError, Location, ManifestObject, ObjectReader},
    wav::{PeakReader, Peaks, PeaksError},
};

/// Recordings that are read at the same time.
const MAX_READERS: usize = 2;
/// Parts that wait to be computed. A part has at most a few MiB.
const WAITING_PARTS: usize = 1;
/// Waveforms in memory. One takes less than 50 KiB.
const MAX_WAVEFORMS: usize = 64;

/// A waveform as JSON, or the reason why the recording has none.
pub(super) type Waveform = Result<Bytes, PeaksError>;

/// Reads whole recordings. Shared by all requests.
#[derive(Debug)]
pub(super) struct RecordingReader {
    permits: Semaphore,
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
        Self { permits: Semaphore::new(MAX_READERS), waveforms: Mutex::default() }
    }

    /// Returns the waveform of a recording, or `None` if the recording is missing or has another size. Of several requests one computes it. If that one is
    /// abandoned, another one starts again.
    pub(super) async fn waveform(
        &self,
        archive: &Archive,
        location: &Location,
        recording: &ManifestObject,
    ) -> Result<Option<Waveform>, ArchiveError> {
        let cell = self.cell(&recording.sha256);
        let result = cell.get_or_try_init(|| self.compute(archive, location, recording)).await;
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
    ) -> Result<Waveform, Option<ArchiveError>> {
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let opened = archive.open_object(location, &recording.name, None).await?;
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
        Ok(peaks.await?.and_then(PeakReader::finish).map(|peaks| to_json(&peaks)))
    }

    /// Computes the hash of an object and compares it with the manifest.
    pub(super) async fn verify(
        &self,
        archive: &Archive,
        location: &Location,
        object: &ManifestObject,
    ) -> Result<Verdict, ArchiveError> {
        let _permit = self.permits.acquire().await;
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
