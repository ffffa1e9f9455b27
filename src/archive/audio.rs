//! Writing of a recording into the archive.
//!
//! A recording is hashed, counted and checked as it passes. At most one part of it is in memory: 5 MiB for a bucket,
//! 1 MiB for a folder. The next part is not accepted before this one is stored. Nothing is visible before
//! [`Archive::commit`](super::Archive::commit) publishes it. So a bad recording, a worker that dies, and a copy that
//! loses a race never change the recording in the archive.
//!
//! A recording that is dropped before it is published is removed. In a bucket,
//! [`Archive::abort_dropped_uploads`](super::Archive::abort_dropped_uploads) makes the necessary request. A crash
//! leaves the parts of an unfinished upload in the bucket, and a lifecycle rule (`AbortIncompleteMultipartUpload`)
//! removes them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use object_store::{
    MultipartUpload, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, path::Path,
};
use sha2::{Digest, Sha256};

use super::{
    ArchiveError, AudioError,
    backend::StoreBackend,
    manifest::{Direction, ManifestObject, ObjectKind},
};
use crate::wav::{StreamEnd, ValidWav, WavDefect, WavValidator};

const CONTENT_TYPE: &str = "audio/wav";
/// The size of the blocks in which a part is collected, so that a short recording needs less memory than a long one.
const BLOCK_BYTES: usize = 256 << 10;

/// A writer for one recording, created by [`Archive::recording_writer`](super::Archive::recording_writer).
#[derive(Debug)]
pub struct AudioWriter {
    backend: Arc<StoreBackend>,
    direction: Direction,
    key: Path,
    upload: Upload,
    blocks: Vec<Bytes>,
    block: BytesMut,
    hash: Sha256,
    size: u64,
    check: WavValidator,
    /// The future of a part was dropped, so it is unknown if the part was stored.
    interrupted: bool,
    peak_buffered: usize,
}

impl AudioWriter {
    pub(super) fn new(
        backend: Arc<StoreBackend>,
        dropped_uploads: Arc<DroppedUploads>,
        key: Path,
        direction: Direction,
    ) -> Self {
        Self {
            backend,
            direction,
            key,
            upload: Upload { running: None, dropped_uploads },
            blocks: Vec::new(),
            block: BytesMut::new(),
            hash: Sha256::new(),
            size: 0,
            check: WavValidator::new(),
            interrupted: false,
            peak_buffered: 0,
        }
    }

    /// Takes the next bytes and returns when there is room for more. After an error the writer cannot be used any
    /// more.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), AudioError> {
        self.check.push(&bytes)?;
        self.hash.update(&bytes);
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.block.is_empty() {
                self.block.reserve(BLOCK_BYTES);
            }
            let room = BLOCK_BYTES - self.block.len();
            let piece = bytes.split_to(room.min(bytes.len()));
            self.block.extend_from_slice(&piece);
            if self.block.len() == BLOCK_BYTES {
                self.blocks.push(std::mem::take(&mut self.block).freeze());
            }
            self.peak_buffered = self.peak_buffered.max(self.buffered());
            if self.buffered() >= self.backend.part_size() {
                self.store_part().await?;
            }
        }
        Ok(())
    }

    /// Checks the complete recording. One that fails is removed.
    pub async fn finish(mut self, end: StreamEnd) -> Result<StagedAudio, AudioError> {
        let ValidWav { info, defects } = match std::mem::take(&mut self.check).finish(end) {
            Ok(valid) => valid,
            Err(bad) => {
                self.upload.abort().await;
                return Err(bad.into());
            }
        };
        let object = ManifestObject {
            name: self.direction.file_name().to_owned(),
            kind: ObjectKind::Audio,
            direction: Some(self.direction),
            size_bytes: self.size,
            sha256: hex::encode(self.hash.finalize_reset()),
            content_type: CONTENT_TYPE.to_owned(),
            wav: Some(info),
            etag: None,
        };
        let content = if self.upload.running.is_none() && !self.interrupted {
            Content::Memory(ShortRecording {
                backend: Arc::clone(&self.backend),
                dropped_uploads: Arc::clone(&self.upload.dropped_uploads),
                key: self.key.clone(),
                payload: self.take_buffered(),
            })
        } else {
            if self.buffered() > 0 {
                self.store_part().await?;
            }
            if self.interrupted {
                return Err(ArchiveError::Interrupted.into());
            }
            let dropped_uploads = Arc::clone(&self.upload.dropped_uploads);
            let upload = std::mem::replace(&mut self.upload, Upload { running: None, dropped_uploads });
            stage(&self.backend, upload, self.key.clone()).await?
        };
        Ok(StagedAudio { object, defects, content })
    }

    /// Returns the maximum number of the recording's bytes that were in memory at a time.
    pub fn peak_buffered(&self) -> usize {
        self.peak_buffered
    }

    fn buffered(&self) -> usize {
        self.blocks.len() * BLOCK_BYTES + self.block.len()
    }

    fn take_buffered(&mut self) -> PutPayload {
        if !self.block.is_empty() {
            self.blocks.push(std::mem::take(&mut self.block).freeze());
        }
        self.blocks.drain(..).collect()
    }

    async fn store_part(&mut self) -> Result<(), ArchiveError> {
        if self.interrupted {
            return Err(ArchiveError::Interrupted);
        }
        self.interrupted = true;
        let part = self.take_buffered();
        self.upload.put_part(&self.backend, &self.key, part).await?;
        self.interrupted = false;
        Ok(())
    }
}

/// Completes as much of an upload as possible without making it visible.
async fn stage(backend: &Arc<StoreBackend>, mut upload: Upload, key: Path) -> Result<Content, ArchiveError> {
    if backend.folder.is_none() {
        return Ok(Content::Upload(upload));
    }
    if let Some(running) = &mut upload.running {
        running.complete().await?;
    }
    upload.running = None;
    Ok(Content::File(StagedFile { backend: Arc::clone(backend), key: Some(key) }))
}

/// A complete recording that is not visible yet. It is removed when it is dropped.
#[derive(Debug)]
pub struct StagedAudio {
    object: ManifestObject,
    defects: Vec<WavDefect>,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Shorter than one part.
    Memory(ShortRecording),
    /// All parts are in the bucket.
    Upload(Upload),
    /// Complete and synced, in the staging folder.
    File(StagedFile),
}

#[derive(Debug)]
struct ShortRecording {
    backend: Arc<StoreBackend>,
    dropped_uploads: Arc<DroppedUploads>,
    key: Path,
    payload: PutPayload,
}

#[derive(Debug)]
struct StagedFile {
    backend: Arc<StoreBackend>,
    key: Option<Path>,
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let (Some(key), Some(folder)) = (&self.key, &self.backend.folder) {
            // If it cannot be removed now, a later process removes it after this one has ended.
            let _ = std::fs::remove_file(folder.path(key.as_ref()));
        }
    }
}

impl StagedAudio {
    /// Returns the manifest's entry for the recording.
    pub fn object(&self) -> &ManifestObject {
        &self.object
    }

    /// Returns the faults of the recording's header.
    pub fn defects(&self) -> &[WavDefect] {
        &self.defects
    }

    /// Moves a short recording from memory to the store, where it is as invisible as a long one. So many recordings can
    /// be kept for a while.
    pub async fn store_invisibly(self) -> Result<Self, ArchiveError> {
        let content = match self.content {
            Content::Memory(ShortRecording { backend, dropped_uploads, key, payload }) => {
                let mut upload = Upload { running: None, dropped_uploads };
                upload.put_part(&backend, &key, payload).await?;
                stage(&backend, upload, key).await?
            }
            stored => stored,
        };
        Ok(Self { content, ..self })
    }

    /// Moves the recording to its final key and replaces an earlier one.
    pub(super) async fn publish(
        self,
        backend: &StoreBackend,
        key: &Path,
    ) -> Result<ManifestObject, ArchiveError> {
        let Self { mut object, content, .. } = self;
        let result = match content {
            Content::Memory(ShortRecording { payload, .. }) => {
                let options =
                    PutOptions { attributes: backend.attributes(CONTENT_TYPE), ..PutOptions::default() };
                backend.store.put_opts(key, payload, options).await?
            }
            Content::Upload(mut upload) => {
                let Some(running) = &mut upload.running else { return Err(ArchiveError::Interrupted) };
                let result = running.complete().await?;
                upload.running = None;
                result
            }
            Content::File(mut file) => {
                let Some(staged) = &file.key else { return Err(ArchiveError::Interrupted) };
                backend.store.rename(staged, key).await?;
                file.key = None;
                return Ok(object);
            }
        };
        if backend.folder.is_none() {
            object.etag = result.e_tag;
        }
        Ok(object)
    }
}

/// An upload that is added to [`DroppedUploads`] if it is dropped unfinished.
#[derive(Debug)]
struct Upload {
    running: Option<Box<dyn MultipartUpload>>,
    dropped_uploads: Arc<DroppedUploads>,
}

impl Upload {
    /// Stores the next part. The first one starts the upload.
    async fn put_part(
        &mut self,
        backend: &StoreBackend,
        key: &Path,
        part: PutPayload,
    ) -> Result<(), ArchiveError> {
        if self.running.is_none() {
            let options = PutMultipartOptions {
                attributes: backend.attributes(CONTENT_TYPE),
                ..PutMultipartOptions::default()
            };
            self.running = Some(backend.store.put_multipart_opts(key, options).await?);
        }
        if let Some(running) = &mut self.running {
            running.put_part(part).await?;
        }
        Ok(())
    }

    async fn abort(&mut self) {
        if let Some(running) = self.running.take() {
            abort(running).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.dropped_uploads.0.lock().unwrap_or_else(PoisonError::into_inner).push(running);
        }
    }
}

/// Uploads that will not be finished, until the store can be asked to abort them.
#[derive(Debug, Default)]
pub(super) struct DroppedUploads(Mutex<Vec<Box<dyn MultipartUpload>>>);

impl DroppedUploads {
    pub(super) async fn abort_all(&self) {
        let uploads = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for upload in uploads {
            abort(upload).await;
        }
    }
}

async fn abort(mut upload: Box<dyn MultipartUpload>) {
    if let Err(error) = upload.abort().await {
        let error = ArchiveError::from(error);
        tracing::warn!(%error, "an unfinished upload could not be aborted; the lifecycle rule of the bucket must remove it");
    }
}
