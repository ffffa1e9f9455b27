//! A limit on the memory that a row group of a file takes.
//!
//! A few bytes of a file can stand for gigabytes, and its metadata may be wrong. So a page is counted by its own header before it is
//! decompressed, and texts are counted when they are read, because a page can repeat one text many times.

use std::{
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, buf::Reader};
use parquet::{
    errors::{ParquetError, Result},
    file::reader::{ChunkReader, Length},
};

/// The bytes of a row group's columns: of their pages and of their texts, together. A row group of polyhook has 4 MiB of texts, and one
/// conversation of up to 32 MiB more.
pub(super) const MAX_GROUP_BYTES: u64 = 128 << 20;

/// The bytes that may still be read of a row group.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl Default for Budget {
    fn default() -> Self {
        Self::new(MAX_GROUP_BYTES)
    }
}

impl Budget {
    pub(super) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Takes bytes, or returns an error if there are fewer.
    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        let take = |left: u64| left.checked_sub(bytes);
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(()),
            Err(_) => Err(ParquetError::General("a row group is larger than polyhook writes it".to_owned())),
        }
    }
}

/// A file of which each page that is read takes a part of a budget.
pub(super) struct LimitedFile<R> {
    pub(super) file: Arc<R>,
    pub(super) budget: Arc<Budget>,
}

impl<R: ChunkReader> Length for LimitedFile<R> {
    fn len(&self) -> u64 {
        self.file.len()
    }
}

impl<R: ChunkReader<T = Reader<Bytes>>> ChunkReader for LimitedFile<R> {
    type T = HeaderReader;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(HeaderReader { bytes: self.file.get_read(start)?, budget: Some(Arc::clone(&self.budget)) })
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        self.file.get_bytes(start, length)
    }
}

/// Reads the header of a page. The Parquet reader reads nothing else in this way, and each header once.
pub(super) struct HeaderReader {
    bytes: Reader<Bytes>,
    /// `None` after the page was counted.
    budget: Option<Arc<Budget>>,
}

impl Read for HeaderReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(budget) = self.budget.take() {
            let size = page_size(self.bytes.get_ref());
            let size = size.ok_or_else(|| io::Error::other("a page has no header of Parquet"))?;
            budget.take(size).map_err(io::Error::other)?;
        }
        self.bytes.read(buffer)
    }
}

/// The field header of an `i32` whose id is by one larger than that of the field before it, in Thrift's compact protocol.
const NEXT_I32: &[u8] = &[0x15];
/// Structures within structures. Those of a page header are three.
const MAX_DEPTH: usize = 4;

/// Returns the size of a page in memory by its header: the second field, after the type of the page. Returns `None` if the header could
/// have another value for it, too.
fn page_size(header: &[u8]) -> Option<u64> {
    let (_, rest) = varint(header.strip_prefix(NEXT_I32)?)?;
    let (size, rest) = varint(rest.strip_prefix(NEXT_I32)?)?;
    skip_fields(rest, MAX_DEPTH)?;
    // Signed numbers are written as 2n, negative ones as odd numbers, which the reader rejects.
    Some(size / 2)
}

/// Returns what follows the fields of a structure. Each field must have a larger id than the one before.
fn skip_fields(mut bytes: &[u8], depth: usize) -> Option<&[u8]> {
    loop {
        let (field, rest) = bytes.split_first()?;
        if *field == 0 {
            return Some(rest);
        }
        // The upper half is the difference to the id before. 0 means that a whole id follows.
        if field >> 4 == 0 {
            return None;
        }
        bytes = match field & 0xf {
            1 | 2 => rest,
            3 => rest.get(1..)?,
            4..=6 => varint(rest)?.1,
            7 => rest.get(8..)?,
            8 => {
                let (length, rest) = varint(rest)?;
                rest.get(usize::try_from(length).ok()?..)?
            }
            12 => skip_fields(rest, depth.checked_sub(1)?)?,
            _ => return None,
        };
    }
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[place + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use parquet::file::metadata::ParquetMetaDataReader;

    use super::{super::columns::Leaf, *};
    use crate::index::{
        CallRow, NumberMode,
        table::{Stamp, write_calls},
    };

    /// Reads the headings of calls, each of which has 1,000 bytes, with a budget.
    fn read_headings(texts: impl Iterator<Item = char>, budget: u64) -> Result<()> {
        let row = |text: char| CallRow {
            summary_heading: Some(text.to_string().repeat(1000)),
            ..CallRow::default()
        };
        let rows: Vec<_> = texts.map(row).collect();
        let file = Bytes::from(write_calls(&Stamp::new(NumberMode::Omit, None), &rows).unwrap());
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).unwrap();
        let group = metadata.row_group(0);
        let name = |place: &usize| group.column(*place).column_descr().name() == "summary_heading";
        let place = (0..group.num_columns()).find(name).unwrap();
        Leaf::read(&file, group, place, &Arc::new(Budget::new(budget))).map(drop)
    }

    #[test]
    fn counts_pages_before_they_are_decompressed_and_repeated_texts() {
        let different = || ('a'..='z').chain('A'..='Z');
        read_headings(different(), 120_000).unwrap();
        let error = read_headings(different(), 50_000).unwrap_err();
        assert!(error.to_string().contains("larger than polyhook writes it"), "{error}");
        read_headings(std::iter::repeat_n('a', 100), 120_000).unwrap();
        assert!(read_headings(std::iter::repeat_n('a', 100), 99_000).is_err());
    }

    #[test]
    fn a_page_header_has_one_size() {
        // The type, the size 300, the compressed size 2, and a structure with a number.
        let header = [0x15, 0, 0x15, 0xd8, 0x04, 0x15, 4, 0x2c, 0x15, 2, 0, 0];
        assert_eq!(page_size(&header), Some(300));
        for end in 0..header.len() {
            assert_eq!(page_size(&header[..end]), None, "{end}");
        }
        // The size once more, with a whole field id.
        let twice = [&header[..header.len() - 1], &[0x05, 4, 0x7e, 0]].concat();
        assert_eq!(page_size(&twice), None);
        assert_eq!(page_size(&[0x25, 0xd8, 0x04, 0]), None, "no type");
    }
}
