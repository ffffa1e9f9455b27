//! Files of the index as bytes: metadata, checks before a file is read, and a checksum.
//!
//! Parquet's own checks do not find a changed byte in a text, and its reader trusts sizes in the file. So each file carries the SHA-256
//! of all its bytes (those of the checksum itself count as zeros), and a file is read only if the checksum is right.

use std::sync::Arc;

use bytes::Bytes;
use parquet::{
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{
        metadata::{KeyValue, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData},
        properties::WriterProperties,
        writer::SerializedFileWriter,
    },
    schema::types::SchemaDescPtr,
};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{SCHEMA_VERSION, Stamp, TableError};
use crate::index::config::NumberMode;

const VERSION_KEY: &str = "polyhook.schema_version";
const NUMBERS_KEY: &str = "polyhook.numbers";
const NUMBERS_KEY_KEY: &str = "polyhook.numbers_key";
/// A random id, so that two files with the same rows differ.
const FILE_ID_KEY: &str = "polyhook.file_id";
const CHECKSUM_KEY: &str = "polyhook.sha256";
/// The length of a checksum in hexadecimal digits.
const CHECKSUM_LENGTH: usize = 64;

/// A file whose checksum is right.
pub(super) struct TableFile {
    pub(super) bytes: Bytes,
    pub(super) metadata: ParquetMetaData,
    pub(super) stamp: Stamp,
}

impl TableFile {
    /// Checks a file and reads its footer, with the page indexes if `indexes` says so.
    pub(super) fn open(bytes: &Bytes, indexes: PageIndexPolicy) -> Result<Self, TableError> {
        verify(bytes)?;
        let metadata =
            ParquetMetaDataReader::new().with_page_index_policy(indexes).parse_and_finish(bytes)?;
        for group in metadata.row_groups() {
            check_ranges(group, bytes.len())?;
        }
        let stamp = read_stamp(&metadata)?;
        Ok(Self { bytes: bytes.clone(), metadata, stamp })
    }

    pub(super) fn schema(&self) -> SchemaDescPtr {
        self.metadata.file_metadata().schema_descr_ptr()
    }

    /// Returns the place of a leaf of the schema.
    pub(super) fn leaf(&self, name: &str) -> Result<usize, TableError> {
        let leaves = self.metadata.file_metadata().schema_descr().columns();
        let place = leaves.iter().position(|leaf| leaf.path().parts() == [name]);
        place.ok_or_else(|| TableError::Damaged(format!("it has no column {name}")))
    }
}

/// Returns a writer of a new file in memory.
pub(super) fn writer(
    schema: &SchemaDescPtr,
    stamp: &Stamp,
    capacity: usize,
) -> Result<SerializedFileWriter<Vec<u8>>, ParquetError> {
    let mut entries = vec![
        KeyValue::new(VERSION_KEY.to_owned(), stamp.schema_version.to_string()),
        KeyValue::new(NUMBERS_KEY.to_owned(), number_word(stamp.numbers).to_owned()),
    ];
    entries.extend(stamp.numbers_key.clone().map(|key| KeyValue::new(NUMBERS_KEY_KEY.to_owned(), key)));
    // The archive takes files with equal bytes for the same version, and no version may come back.
    entries.push(KeyValue::new(FILE_ID_KEY.to_owned(), Uuid::new_v4().to_string()));
    entries.push(KeyValue::new(CHECKSUM_KEY.to_owned(), "0".repeat(CHECKSUM_LENGTH)));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3)?))
        .set_key_value_metadata(Some(entries))
        .build();
    SerializedFileWriter::new(Vec::with_capacity(capacity), schema.root_schema_ptr(), Arc::new(properties))
}

/// Completes a file and fills its checksum in.
pub(super) fn finish(writer: SerializedFileWriter<Vec<u8>>) -> Result<Vec<u8>, ParquetError> {
    let mut file = writer.into_inner()?;
    let place = checksum_place(&file)
        .ok_or_else(|| ParquetError::General("the footer has no place for the checksum".to_owned()))?;
    let checksum = checksum(&file, place);
    file[place..place + CHECKSUM_LENGTH].copy_from_slice(checksum.as_bytes());
    Ok(file)
}

fn verify(file: &[u8]) -> Result<(), TableError> {
    let place = checksum_place(file)
        .ok_or_else(|| TableError::Damaged("it has no checksum of polyhook".to_owned()))?;
    if checksum(file, place).as_bytes() != &file[place..place + CHECKSUM_LENGTH] {
        return Err(TableError::Damaged("its checksum differs".to_owned()));
    }
    Ok(())
}

/// Returns the place of the checksum's digits: the footer ends with the metadata, and they follow their key.
pub(super) fn checksum_place(file: &[u8]) -> Option<usize> {
    // Thrift writes the type of the next field and the length of its text between the two.
    let place = memchr::memmem::rfind(file, CHECKSUM_KEY.as_bytes())? + CHECKSUM_KEY.len() + 2;
    (place + CHECKSUM_LENGTH <= file.len()).then_some(place)
}

pub(super) fn checksum(file: &[u8], place: usize) -> String {
    let mut hash = Sha256::new();
    hash.update(&file[..place]);
    hash.update([b'0'; CHECKSUM_LENGTH]);
    hash.update(&file[place + CHECKSUM_LENGTH..]);
    hex::encode(hash.finalize())
}

/// Returns an error if a column is outside the file.
fn check_ranges(group: &RowGroupMetaData, length: usize) -> Result<(), ParquetError> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    for column in group.columns() {
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let end = start.checked_add(column.compressed_size());
        if start < 0 || column.compressed_size() < 0 || end.is_none_or(|end| end > length) {
            return Err(ParquetError::EOF("a column is outside the file".to_owned()));
        }
    }
    Ok(())
}

fn read_stamp(metadata: &ParquetMetaData) -> Result<Stamp, TableError> {
    let entries = metadata.file_metadata().key_value_metadata();
    let find = |key| entries.into_iter().flatten().find(|entry| entry.key == key)?.value.as_deref();
    let schema_version = find(VERSION_KEY).and_then(|version| version.parse().ok());
    let numbers = find(NUMBERS_KEY).and_then(number_mode);
    let (Some(schema_version), Some(numbers)) = (schema_version, numbers) else {
        return Err(TableError::Damaged("its metadata are not those of polyhook".to_owned()));
    };
    Ok(Stamp { schema_version, numbers, numbers_key: find(NUMBERS_KEY_KEY).map(str::to_owned) })
}

fn number_word(mode: NumberMode) -> &'static str {
    match mode {
        NumberMode::Omit => "omit",
        NumberMode::Hash => "hash",
        NumberMode::Plain => "plain",
    }
}

fn number_mode(word: &str) -> Option<NumberMode> {
    [NumberMode::Omit, NumberMode::Hash, NumberMode::Plain]
        .into_iter()
        .find(|mode| number_word(*mode) == word)
}

impl Stamp {
    /// Returns the stamp of files that this version of polyhook writes.
    pub(crate) fn new(numbers: NumberMode, numbers_key: Option<String>) -> Self {
        Self { schema_version: SCHEMA_VERSION, numbers, numbers_key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::table::{remove_rows, write_turns};

    #[test]
    fn two_files_with_the_same_rows_differ() {
        let stamp = Stamp::new(NumberMode::Omit, None);
        let [one, other] = [(); 2].map(|()| Bytes::from(write_turns(&stamp, &[]).unwrap()));
        assert_ne!(one, other);
        let rewritten = remove_rows(&one, &|_| true).unwrap();
        assert!(one != rewritten && other != rewritten);
    }
}
