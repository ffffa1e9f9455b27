//! Reading of the few columns that checks of a day need.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use parquet::{
    errors::{ParquetError, Result},
    file::metadata::PageIndexPolicy,
};

use super::{
    CallsSummary, IndexedCall, TableError, TurnsSummary, columns::Leaf, file::TableFile, schema::ID,
};

pub(super) fn read_calls(file: &Bytes) -> Result<CallsSummary, TableError> {
    let file = TableFile::open(file, PageIndexPolicy::Skip)?;
    let mut calls = Vec::new();
    let columns =
        [file.leaf(ID)?, file.leaf("stored_at")?, file.leaf("manifest_sha256")?, file.leaf("turn_rows")?];
    for group in file.metadata.row_groups() {
        let budget = Arc::default();
        let [ids, times, hashes, turns] =
            columns.map(|column| Leaf::read(&file.bytes, group, column, &budget));
        append_calls(&ids?, &times?, &hashes?, &turns?, &mut calls)?;
    }
    Ok(CallsSummary { stamp: file.stamp, calls })
}

fn append_calls(
    ids: &Leaf,
    times: &Leaf,
    hashes: &Leaf,
    turns: &Leaf,
    calls: &mut Vec<IndexedCall>,
) -> Result<()> {
    let rows = ids.texts()?.zip(times.int64s()?).zip(hashes.texts()?).zip(turns.int64s()?);
    for (((id, stored_at), sha256), turn_rows) in rows {
        let stored_at = Timestamp::from_microsecond(*stored_at)
            .map_err(|error| ParquetError::General(error.to_string()))?;
        calls.push(IndexedCall {
            conversation_id: id?.to_owned(),
            stored_at,
            manifest_sha256: sha256?.to_owned(),
            turn_rows: *turn_rows,
        });
    }
    Ok(())
}

pub(super) fn read_turns(file: &Bytes) -> Result<TurnsSummary, TableError> {
    let file = TableFile::open(file, PageIndexPolicy::Skip)?;
    let column = file.leaf(ID)?;
    let mut rows: HashMap<String, i64> = HashMap::new();
    for group in file.metadata.row_groups() {
        for id in Leaf::read(&file.bytes, group, column, &Arc::default())?.texts()? {
            let id = id?;
            match rows.get_mut(id) {
                Some(count) => *count += 1,
                None => _ = rows.insert(id.to_owned(), 1),
            }
        }
    }
    Ok(TurnsSummary { stamp: file.stamp, rows })
}
