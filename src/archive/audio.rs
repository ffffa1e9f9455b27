//! A recording on its way into the archive.
//!
//! It is hashed, counted and checked as it passes, and held in memory for one part at most: 5 MiB for a
//! bucket, 1 MiB for a folder; the next part is not taken before this one is stored. Nothing of it can be
//! seen until [`Archive::commit`](super::Archive::commit) publishes it, so a recording that turns out to be
//! bad, a worker that dies or a copy that loses a race never touches the recording in the archive.
//!
//! What is dropped unpublished is taken back. In a bucket that needs a request, which
//! [`Archive::abort_dropped_uploads`](super::Archive::tidy) makes; a crash leaves the parts of an unfinished upload there,
//! which a lifecycle rule (`AbortIncompleteMultipartUpload`) removes.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use object_store::{
    MultipartUpload, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, path::Path,
};
use sha2::{Digest, Sha256};

use super::{
    ArchiveError, AudioError,
    backend::Backend,
    manifest::{Direction, ManifestObject, ObjectKind},
};
use crate::wav::WavCheck;

const CONTENT_TYPE: &str = "audio/wav";
/// A part is gathered in blocks, so that a short recording does not take the memory of a long one.
const BLOCK: usize = 256 << 10;

/// Takes a recording, bit by bit; made by [`Archive::recording_writer`](super::Archive::audio).
#[derive(Debug)]
pub struct AudioWriter {
    backend: Arc<Backend>,
    direction: Direction,
    key: Path,
    upload: Upload,
    blocks: Vec<Bytes>,
    block: BytesMut,
    hash: Sha256,
    size: u64,
    check: WavCheck,
    /// A part was on its way when its future was dropped: nobody knows whether it arrived.
    torn: bool,
    peak: usize,
}

impl AudioWriter {
    pub(super) fn new(
        backend: Arc<Backend>,
        abandoned: Arc<Abandoned>,
        key: Path,
        direction: Direction,
    ) -> Self {
        Self {
            backend,
            direction,
            key,
            upload: Upload { running: None, abandoned },
            blocks: Vec::new(),
            block: BytesMut::new(),
            hash: Sha256::new(),
            size: 0,
            check: WavCheck::new(),
            torn: false,
            peak: 0,
        }
    }

    /// Takes the next bytes and returns when there is room for more. An error is final; drop the writer.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), AudioError> {
        self.check.push(&bytes)?;
        self.hash.update(&bytes);
        self.size += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.block.is_empty() {
                self.block.reserve(BLOCK);
            }
            let room = BLOCK - self.block.len();
            let piece = bytes.split_to(room.min(bytes.len()));
            self.block.extend_from_slice(&piece);
            if self.block.len() == BLOCK {
                self.blocks.push(std::mem::take(&mut self.block).freeze());
            }
            self.peak = self.peak.max(self.buffered());
            if self.buffered() >= self.backend.part_size() {
                self.store_part().await?;
            }
        }
        Ok(())
    }

    /// The verdict on the whole recording; `announced` is its length by `Content-Length`. What is not whole
    /// is taken back.
    pub async fn finish(mut self, announced: Option<u64>) -> Result<StagedAudio, AudioError> {
        let wav = match std::mem::take(&mut self.check).finish(announced) {
            Ok(wav) => wav,
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
            wav: Some(wav),
            etag: None,
        };
        let content = if self.upload.running.is_none() && !self.torn {
            Content::Memory(self.gathered())
        } else {
            if self.buffered() > 0 {
                self.store_part().await?;
            }
            if self.torn {
                return Err(ArchiveError::Torn.into());
            }
            let abandoned = Arc::clone(&self.upload.abandoned);
            let upload = std::mem::replace(&mut self.upload, Upload { running: None, abandoned });
            stage(&self.backend, upload, self.key.clone()).await?
        };
        Ok(StagedAudio { object, content })
    }

    /// The most bytes of the recording that were held at a time.
    pub fn peak_buffered(&self) -> usize {
        self.peak
    }

    fn buffered(&self) -> usize {
        self.blocks.len() * BLOCK + self.block.len()
    }

    fn gathered(&mut self) -> PutPayload {
        if !self.block.is_empty() {
            self.blocks.push(std::mem::take(&mut self.block).freeze());
        }
        self.blocks.drain(..).collect()
    }

    async fn store_part(&mut self) -> Result<(), ArchiveError> {
        if self.torn {
            return Err(ArchiveError::Torn);
        }
        self.torn = true;
        let part = self.gathered();
        if self.upload.running.is_none() {
            let options = PutMultipartOptions {
                attributes: self.backend.attributes(CONTENT_TYPE),
                ..PutMultipartOptions::default()
            };
            self.upload.running = Some(self.backend.store.put_multipart_opts(&self.key, options).await?);
        }
        if let Some(upload) = &mut self.upload.running {
            upload.put_part(part).await?;
        }
        self.torn = false;
        Ok(())
    }
}

/// Makes the most of an upload that can be made without its being seen.
async fn stage(backend: &Arc<Backend>, mut upload: Upload, key: Path) -> Result<Content, ArchiveError> {
    if backend.folder.is_none() {
        return Ok(Content::Upload(upload));
    }
    if let Some(running) = &mut upload.running {
        running.complete().await?;
    }
    upload.running = None;
    Ok(Content::File(StagedFile { backend: Arc::clone(backend), key: Some(key) }))
}

/// A whole recording that nobody can see yet. Dropped, it is taken back.
#[derive(Debug)]
pub struct StagedAudio {
    object: ManifestObject,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// Shorter than a part.
    Memory(PutPayload),
    /// All parts are in the bucket.
    Upload(Upload),
    /// Complete and synced, in the staging folder.
    File(StagedFile),
}

#[derive(Debug)]
struct StagedFile {
    backend: Arc<Backend>,
    key: Option<Path>,
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let (Some(key), Some(folder)) = (&self.key, &self.backend.folder) {
            // What cannot be removed now is swept when the process has ended.
            let _ = std::fs::remove_file(folder.path(key.as_ref()));
        }
    }
}

impl StagedAudio {
    /// The manifest's entry of it.
    pub fn object(&self) -> &ManifestObject {
        &self.object
    }

    /// Puts it in its place, whatever lies there.
    pub(super) async fn publish(self, backend: &Backend, key: &Path) -> Result<ManifestObject, ArchiveError> {
        let Self { mut object, content } = self;
        let result = match content {
            Content::Memory(payload) => {
                let options =
                    PutOptions { attributes: backend.attributes(CONTENT_TYPE), ..PutOptions::default() };
                backend.store.put_opts(key, payload, options).await?
            }
            Content::Upload(mut upload) => {
                let Some(running) = &mut upload.running else { return Err(ArchiveError::Torn) };
                let result = running.complete().await?;
                upload.running = None;
                result
            }
            Content::File(mut file) => {
                let Some(staged) = &file.key else { return Err(ArchiveError::Torn) };
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

/// An upload that is given to [`Abandoned`] if it is dropped unfinished.
#[derive(Debug)]
struct Upload {
    running: Option<Box<dyn MultipartUpload>>,
    abandoned: Arc<Abandoned>,
}

impl Upload {
    async fn abort(&mut self) {
        if let Some(running) = self.running.take() {
            abort(running).await;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            self.abandoned.0.lock().unwrap_or_else(PoisonError::into_inner).push(running);
        }
    }
}

/// Uploads nobody will finish, until there is a moment to tell the store.
#[derive(Debug, Default)]
pub(super) struct Abandoned(Mutex<Vec<Box<dyn MultipartUpload>>>);

impl Abandoned {
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
        tracing::warn!(%error, "an unfinished upload could not be taken back; the bucket's lifecycle rule has to");
    }
}
