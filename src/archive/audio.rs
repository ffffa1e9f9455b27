//! Writing of a recording into the archive.
//!
//! A recording is hashed, counted and checked as it passes. At most one part of it is in memory: 5 MiB for a bucket,
//! 1 MiB for a folder. The next part is not accepted before this one is stored. Nothing is visible before
//! [`Archive::commit`](super::Archive::commit) publishes it. So a bad recording, a worker that dies, and a copy that
//! loses a race never change the recording in the archive.
//!
//! A recording that fails or is dropped before it is published is removed: at once in a folder (`staging.rs`). In a
//! bucket, [`Archive::abort_dropped_uploads`](super::Archive::abort_dropped_uploads) makes the necessary request. A
//! crash leaves the parts of an unfinished upload in the bucket, and a lifecycle rule
//! (`AbortIncompleteMultipartUpload`) removes them.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use object_store::{MultipartUpload, PutMode, PutMultipartOptions, PutPayload, path::Path};
use sha2::{Digest, Sha256};

use super::{
    ArchiveError, AudioError,
    backend::StoreBackend,
    manifest::{Direction, ManifestObject, ObjectKind},
    staging::{StagedFile, WholeFile},
};
use crate::{
    disk::SpaceUse,
    wav::{StreamEnd, ValidWav, WavDefect, WavValidator},
};

const CONTENT_TYPE: &str = "audio/wav";
/// The size of the blocks in which a part is collected, so that a short recording needs less memory than a long one.
const BLOCK_BYTES: usize = 256 << 10;

/// A writer for one recording, created by [`Archive::recording_writer`](super::Archive::recording_writer).
#[derive(Debug)]
pub struct AudioWriter {
    backend: Arc<StoreBackend>,
    direction: Direction,
    destination: Destination,
    blocks: Vec<Bytes>,
    block: BytesMut,
    /// Blocks of stored parts, for the next ones.
    free_blocks: Vec<BytesMut>,
    hash: Sha256,
    size: u64,
    check: WavValidator,
    peak_buffered: usize,
}

/// The place of the stored parts.
#[derive(Debug)]
pub(super) enum Destination {
    Folder(StagedFile),
    Bucket {
        key: Path,
        upload: Upload,
        /// The future of a part was dropped, so it is unknown if the part was stored.
        interrupted: bool,
    },
}

impl AudioWriter {
    pub(super) fn new(backend: Arc<StoreBackend>, direction: Direction, destination: Destination) -> Self {
        Self {
            backend,
            direction,
            destination,
            blocks: Vec::new(),
            block: BytesMut::new(),
            free_blocks: Vec::new(),
            hash: Sha256::new(),
            size: 0,
            check: WavValidator::new(),
            peak_buffered: 0,
        }
    }

    /// Takes the next bytes and returns when there is room for more. After an error the writer cannot be used any
    /// more, and holds no space in a folder.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), AudioError> {
        let written = self.accept(bytes).await;
        if written.is_err()
            && let Destination::Folder(staged) = &mut self.destination
        {
            staged.discard();
        }
        written
    }

    async fn accept(&mut self, mut bytes: Bytes) -> Result<(), AudioError> {
        self.check.push(&bytes)?;
        self.hash.update(&bytes);
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.block.is_empty() {
                self.block = self.free_blocks.pop().unwrap_or_else(|| BytesMut::with_capacity(BLOCK_BYTES));
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
                if let Destination::Bucket { upload, .. } = &mut self.destination {
                    upload.abort().await;
                }
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
        let is_short = matches!(
            &self.destination,
            Destination::Bucket { upload: Upload { running: None, .. }, interrupted: false, .. }
        );
        if !is_short && self.buffered() > 0 {
            self.store_part().await?;
        }
        let rest = self.take_buffered();
        let content = match self.destination {
            Destination::Folder(staged) => Content::File(staged.finish().await?),
            Destination::Bucket { interrupted: true, .. } => return Err(ArchiveError::Interrupted.into()),
            Destination::Bucket { key, upload, .. } if is_short => {
                Content::Memory(ShortRecording { backend: self.backend, key, upload, payload: rest })
            }
            Destination::Bucket { upload, .. } => Content::Upload(upload),
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

    /// Stores what is buffered, and takes its blocks back.
    async fn store_part(&mut self) -> Result<(), ArchiveError> {
        let part = self.take_buffered();
        let blocks: Vec<_> = part.iter().cloned().collect();
        self.store(part).await?;
        let unused = blocks.into_iter().filter_map(|block| block.try_into_mut().ok());
        self.free_blocks.extend(unused.map(|mut block| {
            block.clear();
            block
        }));
        Ok(())
    }

    async fn store(&mut self, part: PutPayload) -> Result<(), ArchiveError> {
        let (key, upload, interrupted) = match &mut self.destination {
            Destination::Folder(staged) => return staged.append(part.into_iter()).await,
            Destination::Bucket { interrupted: true, .. } => return Err(ArchiveError::Interrupted),
            Destination::Bucket { key, upload, interrupted } => (key, upload, interrupted),
        };
        *interrupted = true;
        upload.put_part(&self.backend, key, part).await?;
        *interrupted = false;
        Ok(())
    }
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
    /// For a bucket, and shorter than one part.
    Memory(ShortRecording),
    /// All parts are in the bucket.
    Upload(Upload),
    /// Complete and synced, in the staging folder.
    File(WholeFile),
}

#[derive(Debug)]
struct ShortRecording {
    backend: Arc<StoreBackend>,
    key: Path,
    upload: Upload,
    payload: PutPayload,
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
            Content::Memory(ShortRecording { backend, key, mut upload, payload }) => {
                upload.put_part(&backend, &key, payload).await?;
                Content::Upload(upload)
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
                let (mode, attributes) = (PutMode::Overwrite, backend.attributes(CONTENT_TYPE));
                backend.put(key, payload, mode, attributes, SpaceUse::Recording).await?
            }
            Content::Upload(mut upload) => {
                let Some(running) = &mut upload.running else { return Err(ArchiveError::Interrupted) };
                let result = running.complete().await?;
                upload.running = None;
                Some(result)
            }
            Content::File(file) => {
                let Some(folder) = &backend.folder else { return Err(ArchiveError::Interrupted) };
                file.move_to(folder.path(key.as_ref()), true).await?;
                None
            }
        };
        object.etag = result.and_then(|result| result.e_tag);
        Ok(object)
    }
}

/// An upload that is added to [`DroppedUploads`] if it is dropped unfinished.
#[derive(Debug)]
pub(super) struct Upload {
    running: Option<Box<dyn MultipartUpload>>,
    dropped_uploads: Arc<DroppedUploads>,
}

impl Upload {
    pub(super) fn new(dropped_uploads: Arc<DroppedUploads>) -> Self {
        Self { running: None, dropped_uploads }
    }

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
