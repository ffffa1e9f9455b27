//! Reading of the few columns that checks of a day need.

use std::collections::HashMap;

use bytes::Bytes;
use jiff::Timestamp;
use parquet::{
    errors::{ParquetError, Result},
    file::metadata::PageIndexPolicy,
};

use super::{CallsSummary, IndexedCall, TableError, columns::Leaf, file::TableFile, schema::ID};

pub(super) fn read_calls(file: &Bytes) -> Result<CallsSummary, TableError> {
    let file = TableFile::open(file, PageIndexPolicy::Skip)?;
    let mut calls = Vec::new();
    let (ids, times, hashes) = (file.leaf(ID)?, file.leaf("stored_at")?, file.leaf("manifest_sha256")?);
    for group in file.metadata.row_groups() {
        let read = |column| Leaf::read(&file.bytes, group, column);
        append_calls(&read(ids)?, &read(times)?, &read(hashes)?, &mut calls)?;
    }
    Ok(CallsSummary { stamp: file.stamp, calls })
}

fn append_calls(ids: &Leaf, times: &Leaf, hashes: &Leaf, calls: &mut Vec<IndexedCall>) -> Result<()> {
    for ((id, stored_at), sha256) in ids.texts()?.zip(times.int64s()?).zip(hashes.texts()?) {
        let stored_at = Timestamp::from_microsecond(*stored_at)
            .map_err(|error| ParquetError::General(error.to_string()))?;
        calls.push(IndexedCall {
            conversation_id: id?.to_owned(),
            stored_at,
            manifest_sha256: sha256?.to_owned(),
        });
    }
    Ok(())
}

pub(super) fn count_turns(file: &Bytes) -> Result<HashMap<String, u64>, TableError> {
    let file = TableFile::open(file, PageIndexPolicy::Skip)?;
    let column = file.leaf(ID)?;
    let mut counts: HashMap<String, u64> = HashMap::new();
    for group in file.metadata.row_groups() {
        for id in Leaf::read(&file.bytes, group, column)?.texts()? {
            let id = id?;
            match counts.get_mut(id) {
                Some(count) => *count += 1,
                None => _ = counts.insert(id.to_owned(), 1),
            }
        }
    }
    Ok(counts)
}
