//! Reading of a file in parts: its footer, then those columns of those row groups that a search needs.
//!
//! The checksum covers the whole file, so it is not checked here. A damaged file gives an error or wrong values, and never a panic.
//! Sizes are limited before a column is read.

use std::{ops::Range, sync::Arc};

use bytes::{Buf as _, Bytes};
use parquet::{
    errors::{ParquetError, Result as ParquetResult},
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
        reader::{ChunkReader, Length},
        statistics::Statistics,
    },
};

use super::{
    TableError,
    budget::{Budget, MAX_GROUP_BYTES},
    columns::{Leaf, row_count},
    guard,
};

/// The largest footer that is read. Those of polyhook have a few MiB.
const MAX_FOOTER_BYTES: u64 = 64 << 20;
/// Columns with less than this between them are read together.
const MAX_GAP_BYTES: u64 = 128 << 10;

/// The footer of a file: where its columns are, and their statistics.
#[derive(Debug)]
pub(crate) struct Footer {
    metadata: ParquetMetaData,
    size: u64,
}

/// The result of [`Footer::parse`].
#[derive(Debug)]
pub(crate) enum ParsedFooter {
    /// The footer.
    Complete(Footer),
    /// The end of the file is too short. So many bytes are needed.
    Needs(u64),
}

impl Footer {
    /// Reads the footer from the end of a file of `size` bytes.
    pub(crate) fn parse(end: &Bytes, size: u64) -> Result<ParsedFooter, TableError> {
        guard(|| {
            let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Skip);
            match reader.try_parse_sized(end, size) {
                Ok(()) => Ok(ParsedFooter::Complete(Self { metadata: reader.finish()?, size })),
                Err(ParquetError::NeedMoreData(needed)) if needed as u64 <= size.min(MAX_FOOTER_BYTES) => {
                    Ok(ParsedFooter::Needs(needed as u64))
                }
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Returns the number of row groups.
    pub(crate) fn groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// Returns the smallest and the largest number of a column in a row group, if they are known.
    pub(crate) fn number_range(&self, group: usize, column: &str) -> Option<(i64, i64)> {
        match self.statistics(group, column)? {
            Statistics::Int64(values) => Some((*values.min_opt()?, *values.max_opt()?)),
            _ => None,
        }
    }

    /// Returns a lower and an upper limit of the texts of a column in a row group, if they are known.
    pub(crate) fn text_range(&self, group: usize, column: &str) -> Option<(&[u8], &[u8])> {
        match self.statistics(group, column)? {
            Statistics::ByteArray(values) => Some((values.min_bytes_opt()?, values.max_bytes_opt()?)),
            _ => None,
        }
    }

    fn statistics(&self, group: usize, column: &str) -> Option<&Statistics> {
        self.metadata.row_group(group).column(self.place(column).ok()?).statistics()
    }

    fn place(&self, column: &str) -> Result<usize, TableError> {
        let leaves = self.metadata.file_metadata().schema_descr().columns();
        let place = leaves.iter().position(|leaf| leaf.path().parts() == [column]);
        place.ok_or_else(|| TableError::Damaged(format!("it has no column {column}")))
    }

    /// Returns the ranges of the file that contain some columns of a row group.
    pub(crate) fn ranges(&self, group: usize, columns: &[&str]) -> Result<Vec<Range<u64>>, TableError> {
        guard(|| {
            let group = self.metadata.row_group(group);
            row_count(group)?;
            let places = columns.iter().map(|column| self.place(column)).collect::<Result<Vec<_>, _>>()?;
            let ranges = places.iter().map(|place| column_range(group, *place, self.size));
            let mut ranges = ranges.collect::<ParquetResult<Vec<_>>>()?;
            Budget::default().take(ranges.iter().map(|range| range.end - range.start).sum())?;
            ranges.sort_by_key(|range| range.start);
            let mut joined: Vec<Range<u64>> = Vec::new();
            for range in ranges {
                match joined.last_mut() {
                    Some(last) if range.start <= last.end + MAX_GAP_BYTES => {
                        last.end = last.end.max(range.end);
                    }
                    _ => joined.push(range),
                }
            }
            Ok(joined)
        })
    }
}

fn column_range(group: &RowGroupMetaData, place: usize, size: u64) -> ParquetResult<Range<u64>> {
    let column = group.column(place);
    let sizes = [column.compressed_size(), column.uncompressed_size()];
    if !sizes.iter().all(|size| u64::try_from(*size).is_ok_and(|size| size <= MAX_GROUP_BYTES)) {
        return Err(ParquetError::General("a column has an impossible size".to_owned()));
    }
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let range = u64::try_from(start).ok().and_then(|start| {
        let end = start.checked_add(column.compressed_size().unsigned_abs())?;
        (end <= size).then_some(start..end)
    });
    range.ok_or_else(|| ParquetError::EOF("a column is outside the file".to_owned()))
}

/// Some columns of a row group, as they are in the file.
#[derive(Clone, Debug)]
pub(crate) struct RowGroup {
    footer: Arc<Footer>,
    group: usize,
    parts: Arc<FileParts>,
    /// The rows that are read, in ascending order. `None`: all.
    wanted: Option<Arc<[usize]>>,
    /// Shared by all columns.
    budget: Arc<Budget>,
}

impl RowGroup {
    /// `parts` are the bytes of [`Footer::ranges`] with their places in the file.
    pub(crate) fn new(footer: Arc<Footer>, group: usize, parts: Vec<(u64, Bytes)>) -> Self {
        let parts = Arc::new(FileParts { size: footer.size, parts });
        Self { footer, group, parts, wanted: None, budget: Arc::default() }
    }

    /// Restricts it to these rows, in ascending order.
    pub(crate) fn with_rows(self, wanted: &[usize]) -> Self {
        Self { wanted: Some(wanted.into()), ..self }
    }

    /// Reads a column of texts.
    pub(crate) fn texts(&self, column: &str) -> Result<TextColumn, TableError> {
        let leaf = self.leaf(column)?;
        // Shows that it is a column of texts.
        drop(leaf.byte_texts()?);
        Ok(TextColumn(leaf))
    }

    /// Reads a column of 64-bit integers or of times in microseconds that has a value in each row.
    pub(crate) fn int64s(&self, column: &str) -> Result<Vec<i64>, TableError> {
        Ok(self.leaf(column)?.int64s()?.to_vec())
    }

    /// Reads a column of 32-bit integers that has a value in each row.
    pub(crate) fn int32s(&self, column: &str) -> Result<Vec<i32>, TableError> {
        Ok(self.leaf(column)?.int32s()?.to_vec())
    }

    /// Reads a column of doubles.
    pub(crate) fn doubles(&self, column: &str) -> Result<Vec<Option<f64>>, TableError> {
        let leaf = self.leaf(column)?;
        let values = leaf.with_nulls(leaf.doubles()?.iter().copied()).collect();
        Ok(values)
    }

    /// Reads a column of booleans that has a value in each row.
    pub(crate) fn bools(&self, column: &str) -> Result<Vec<bool>, TableError> {
        Ok(self.leaf(column)?.bools()?.to_vec())
    }

    fn leaf(&self, column: &str) -> Result<Leaf, TableError> {
        guard(|| {
            let place = self.footer.place(column)?;
            let group = self.footer.metadata.row_group(self.group);
            if group.column(place).column_descr().max_rep_level() > 0 {
                return Err(TableError::Damaged(format!("the column {column} is a list")));
            }
            Ok(Leaf::read_from(&self.parts, group, place, self.wanted.as_deref(), &self.budget)?)
        })
    }
}

/// A column of texts, with nulls.
pub(crate) struct TextColumn(Leaf);

impl TextColumn {
    /// Returns the bytes of each row's text. They are UTF-8 unless the file is damaged.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = Option<&[u8]>> {
        self.0.with_nulls(self.0.byte_texts().into_iter().flatten())
    }

    /// Returns the text of each row. A text that is not UTF-8 counts as absent.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Option<&str>> {
        self.bytes().map(|bytes| std::str::from_utf8(bytes?).ok())
    }
}

/// Parts of a file with their places.
#[derive(Debug)]
struct FileParts {
    size: u64,
    parts: Vec<(u64, Bytes)>,
}

impl FileParts {
    /// Returns the bytes from `start` to the end of the part that contains it.
    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let found = self.parts.iter().find_map(|(place, bytes)| {
            let skipped = usize::try_from(start.checked_sub(*place)?).ok()?;
            (skipped < bytes.len()).then(|| bytes.slice(skipped..))
        });
        found.ok_or_else(|| ParquetError::EOF("a page is outside its column".to_owned()))
    }
}

impl Length for FileParts {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for FileParts {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let bytes = self.from(start)?;
        if length > bytes.len() {
            return Err(ParquetError::EOF("a page is outside its column".to_owned()));
        }
        Ok(bytes.slice(..length))
    }
}
