//! Reading an object of a conversation in parts, so that its size makes no difference to memory.
//!
//! The caller may stop reading for as long as it wants. So a bucket is asked for one part after the other: a long answer
//! that waits for its reader would exceed the time of a request.

use std::{fmt, ops::Range};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{Error, GetOptions, GetRange, GetResult, GetResultPayload, path::Path};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{Archive, ArchiveError, Location};

/// The size of one part of a file.
const FILE_PART_BYTES: usize = 128 << 10;
/// The size of the first part of an object in a bucket. It is small, so that the first bytes come early. Each further one
/// is twice as large.
const FIRST_PART_BYTES: u64 = 256 << 10;
/// The maximum size of one part of an object in a bucket.
const MAX_PART_BYTES: u64 = 4 << 20;

/// An object, or a range of it, that is being read.
pub struct ObjectReader {
    /// The size of the whole object in bytes.
    pub size: u64,
    /// The bytes that are read.
    pub range: Range<u64>,
    /// The parts of the range. At most one is in memory.
    pub parts: BoxStream<'static, Result<Bytes, ArchiveError>>,
}

impl fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, range, .. } = self;
        f.debug_struct("ObjectReader").field("size", size).field("range", range).finish_non_exhaustive()
    }
}

impl Archive {
    /// Opens an object of a conversation, or a range of it. Returns `None` if there is no object. A range that begins after
    /// the end is empty.
    pub async fn open_object(
        &self,
        location: &Location,
        name: &str,
        range: Option<Range<u64>>,
    ) -> Result<Option<ObjectReader>, ArchiveError> {
        let key = self.key(location, name)?;
        let wanted = range.unwrap_or(0..u64::MAX);
        let first_part = wanted.start..wanted.end.min(wanted.start.saturating_add(FIRST_PART_BYTES));
        match self.get_range(&key, first_part, None).await {
            Ok(found) => Ok(Some(self.read_on(key, found, wanted.end))),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => {
                // Every store has its own error for a range after the end.
                match self.head(&key).await? {
                    None => Ok(None),
                    Some(meta) if wanted.start >= meta.size => Ok(Some(ObjectReader {
                        size: meta.size,
                        range: meta.size..meta.size,
                        parts: futures_util::stream::empty().boxed(),
                    })),
                    Some(_) => Err(error.into()),
                }
            }
        }
    }

    /// Returns the size of an object of a conversation in bytes, or `None` if there is none.
    pub async fn object_size(&self, location: &Location, name: &str) -> Result<Option<u64>, ArchiveError> {
        Ok(self.head(&self.key(location, name)?).await?.map(|meta| meta.size))
    }

    async fn get_range(
        &self,
        key: &Path,
        range: Range<u64>,
        version: Option<String>,
    ) -> Result<GetResult, Error> {
        let options =
            GetOptions { range: Some(GetRange::Bounded(range)), if_match: version, ..GetOptions::default() };
        self.backend.store.get_opts(key, options).await
    }

    /// Returns a reader whose first part is `found`.
    fn read_on(&self, key: Path, found: GetResult, end: u64) -> ObjectReader {
        let (size, start) = (found.meta.size, found.range.start);
        let range = start..end.min(size);
        let parts = match found.payload {
            GetResultPayload::File(file, _) => read_file(file, range.clone()),
            GetResultPayload::Stream(_) => self.read_bucket(key, found, range.end),
        };
        ObjectReader { size, range, parts }
    }

    /// Reads a bucket's object part by part. All parts are of the same version.
    fn read_bucket(
        &self,
        key: Path,
        first: GetResult,
        end: u64,
    ) -> BoxStream<'static, Result<Bytes, ArchiveError>> {
        let (archive, version) = (self.clone(), first.meta.e_tag.clone());
        let start = first.range.start;
        let state = (Some(first), start, FIRST_PART_BYTES);
        futures_util::stream::try_unfold(state, move |(opened, position, part_bytes)| {
            let (archive, key, version) = (archive.clone(), key.clone(), version.clone());
            async move {
                if position >= end {
                    return Ok(None);
                }
                let opened = match opened {
                    Some(first) => first,
                    None => {
                        archive.get_range(&key, position..end.min(position + part_bytes), version).await?
                    }
                };
                let part = opened.bytes().await?;
                if part.is_empty() {
                    return Ok(None);
                }
                let next = position + part.len() as u64;
                Ok(Some((part, (None, next, MAX_PART_BYTES.min(part_bytes * 2)))))
            }
        })
        .boxed()
    }
}

fn read_file(file: std::fs::File, range: Range<u64>) -> BoxStream<'static, Result<Bytes, ArchiveError>> {
    let opened = async move {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(FILE_PART_BYTES);
        file.seek(std::io::SeekFrom::Start(range.start)).await?;
        let bytes = file.take(range.end - range.start);
        Ok::<_, std::io::Error>(ReaderStream::with_capacity(bytes, FILE_PART_BYTES))
    };
    let failed = |source: std::io::Error| {
        ArchiveError::from(Error::Generic { store: "LocalFileSystem", source: Box::new(source) })
    };
    futures_util::stream::once(opened).try_flatten().map_err(failed).boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::{PutMode, memory::InMemory};

    use super::{super::backend::StoreBackend, *};
    use crate::{archive::ArchiveConfig, clock::Clock, disk::SpaceUse};

    const NAME: &str = "audio.wav";

    fn location() -> Location {
        Location::on_date("acme", "desk", "CA1", "2026-11-30".parse().unwrap())
    }

    fn folder_archive(folder: &tempfile::TempDir) -> Archive {
        let url = format!("file:{}", folder.path().display());
        Archive::open(&ArchiveConfig { url, ..ArchiveConfig::default() }, Clock::System).unwrap()
    }

    /// Returns the same archive over a store that answers like a bucket.
    fn bucket_archive(archive: &Archive) -> Archive {
        let backend = StoreBackend {
            store: Arc::new(InMemory::new()),
            prefix: Path::parse("calls").unwrap(),
            folder: None,
            base: "s3://bucket/".parse().unwrap(),
        };
        Archive { backend: Arc::new(backend), ..archive.clone() }
    }

    async fn put(archive: &Archive, content: Vec<u8>) {
        let key = archive.key(&location(), NAME).unwrap();
        let attributes = archive.backend.attributes("audio/wav");
        let (content, mode) = (content.into(), PutMode::Overwrite);
        archive.backend.put(&key, content, mode, attributes, SpaceUse::Recording).await.unwrap();
    }

    async fn open(archive: &Archive, range: Option<Range<u64>>) -> ObjectReader {
        archive.open_object(&location(), NAME, range).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn reads_a_range_in_parts_of_limited_size() {
        let folder = tempfile::tempdir().unwrap();
        let files = folder_archive(&folder);
        let content: Vec<u8> = (0..3_000_001_u32).map(|number| (number / 7 % 251) as u8).collect();
        let size = content.len() as u64;
        for archive in [bucket_archive(&files), files] {
            assert!(archive.open_object(&location(), NAME, None).await.unwrap().is_none());
            put(&archive, content.clone()).await;
            let (first, second) = (FIRST_PART_BYTES, 3 * FIRST_PART_BYTES);
            for range in [0..size, 0..1, first - 1..first + 1, 5..second + 6, size - 1..size, 7..size + 9] {
                let mut reader = open(&archive, Some(range.clone())).await;
                let expected = range.start..range.end.min(size);
                assert_eq!((reader.size, &reader.range), (size, &expected));
                let mut position = usize::try_from(range.start).unwrap();
                while let Some(part) = reader.parts.try_next().await.unwrap() {
                    assert!(part.len() as u64 <= MAX_PART_BYTES);
                    assert!(content[position..].starts_with(&part));
                    position += part.len();
                }
                assert_eq!(position as u64, expected.end, "{range:?}");
            }
            let mut after = open(&archive, Some(size..size + 1)).await;
            assert_eq!((after.size, &after.range), (size, &(size..size)));
            assert!(after.parts.try_next().await.unwrap().is_none());
            assert_eq!(open(&archive, None).await.range, 0..size);
        }
    }

    #[tokio::test]
    async fn never_mixes_two_versions_of_an_object() {
        let folder = tempfile::tempdir().unwrap();
        let bucket = bucket_archive(&folder_archive(&folder));
        put(&bucket, vec![1; 1_000_000]).await;
        let mut reader = open(&bucket, None).await;
        assert!(reader.parts.try_next().await.unwrap().is_some());
        put(&bucket, vec![2; 1_000_000]).await;
        assert!(reader.parts.try_next().await.is_err());
    }

    #[tokio::test]
    async fn opens_the_end_of_a_huge_file_at_once() {
        const SIZE: u64 = 5 << 30;
        let folder = tempfile::tempdir().unwrap();
        let archive = folder_archive(&folder);
        put(&archive, vec![1; 10]).await;
        let path = folder.path().join(location().folder()).join(NAME);
        // The file is sparse.
        std::fs::File::options().write(true).open(path).unwrap().set_len(SIZE).unwrap();
        let mut reader = open(&archive, Some(SIZE - 3..SIZE)).await;
        assert_eq!(reader.parts.try_next().await.unwrap().unwrap(), [0; 3][..]);
        let mut reader = open(&archive, None).await;
        assert_eq!(reader.range, 0..SIZE);
        assert!(reader.parts.try_next().await.unwrap().unwrap().starts_with(&[1; 10]));
    }
}
