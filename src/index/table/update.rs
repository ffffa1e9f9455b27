//! The update of a file.

use std::sync::Arc;

use bytes::Bytes;
use parquet::{
    column::writer::ColumnCloseResult,
    errors::Result,
    file::{
        metadata::{PageIndexPolicy, ParquetMetaData},
        writer::SerializedFileWriter,
    },
    schema::types::SchemaDescPtr,
};

use super::{
    Stamp, TableError,
    columns::{self, Columns, Leaf},
    encode::push_row,
    file::{self, TableFile},
    schema::{CALLS, ID, Table},
};

/// The bytes of texts at which a row group ends.
const MAX_BYTES: usize = 4 << 20;

/// Writes a file: row groups that stay as they are, and others from records in memory.
pub(super) struct Update {
    writer: SerializedFileWriter<Vec<u8>>,
    pending: Columns,
    max_rows: usize,
}

impl Update {
    pub(super) fn new(
        schema: &SchemaDescPtr,
        stamp: &Stamp,
        max_rows: usize,
        capacity: usize,
    ) -> Result<Self> {
        Ok(Self { writer: file::writer(schema, stamp, capacity)?, pending: Columns::new(schema)?, max_rows })
    }

    /// Adds the records of `old` that are not of a changed conversation.
    pub(super) fn keep(
        &mut self,
        old: &TableFile,
        is_changed: &dyn Fn(&str) -> bool,
    ) -> Result<(), TableError> {
        let ids = old.leaf(ID)?;
        for (index, group) in old.metadata.row_groups().iter().enumerate() {
            let keep = kept_rows(&Leaf::read(&old.bytes, group, ids, &Arc::default())?, is_changed)?;
            if keep.iter().all(|keep| *keep)
                && !self.is_small(columns::row_count(group)?, columns::stored_bytes(group))
            {
                self.copy(old, index)?;
            } else if keep.contains(&true) {
                let mut kept = Columns::new(&old.schema())?;
                kept.append(Columns::read(&old.bytes, &old.schema(), group)?, &keep);
                self.write_or_collect(kept).map_err(TableError::Write)?;
            }
        }
        Ok(())
    }

    /// Writes the rest of a row group as a row group, or puts it with other small ones.
    fn write_or_collect(&mut self, kept: Columns) -> Result<()> {
        if !self.is_small(kept.rows, kept.bytes()) {
            return kept.write(self.writer.next_row_group()?);
        }
        let all = vec![true; kept.rows];
        self.pending.append(kept, &all);
        self.write_full_group()
    }

    /// Adds rows.
    pub(super) fn add<R>(&mut self, table: &Table<R>, rows: &[R]) -> Result<()> {
        for row in rows {
            push_row(table, &mut self.pending, row);
            self.write_full_group()?;
        }
        Ok(())
    }

    /// Completes the file.
    pub(super) fn finish(mut self) -> Result<Vec<u8>> {
        self.write_group()?;
        file::finish(self.writer)
    }

    /// Returns true for a row group that is less than half full. Small ones are put together, so that a file of many updates does not
    /// consist of many small groups.
    fn is_small(&self, rows: usize, bytes: usize) -> bool {
        rows < self.max_rows / 2 && bytes < MAX_BYTES / 2
    }

    /// Copies a row group as it is, with its statistics and page indexes.
    fn copy(&mut self, old: &TableFile, index: usize) -> Result<()> {
        let mut group = self.writer.next_row_group()?;
        for close in chunks(&old.metadata, index)? {
            group.append_column(&old.bytes, close)?;
        }
        group.close()?;
        Ok(())
    }

    fn write_full_group(&mut self) -> Result<()> {
        if self.pending.rows >= self.max_rows || self.pending.bytes() >= MAX_BYTES {
            self.write_group()
        } else {
            Ok(())
        }
    }

    fn write_group(&mut self) -> Result<()> {
        if self.pending.rows > 0 {
            let records = self.pending.take()?;
            records.write(self.writer.next_row_group()?)?;
        }
        Ok(())
    }
}

/// Returns true for each row that is not of a changed conversation.
fn kept_rows(ids: &Leaf, is_changed: &dyn Fn(&str) -> bool) -> Result<Vec<bool>> {
    let mut keep = Vec::new();
    let mut last: Option<(&str, bool)> = None;
    for id in ids.texts()? {
        let id = id?;
        // The turns of a conversation follow each other.
        let kept = match last {
            Some((last, kept)) if last == id => kept,
            _ => !is_changed(id),
        };
        last = Some((id, kept));
        keep.push(kept);
    }
    Ok(keep)
}

/// Returns the columns of a row group, ready to be copied.
fn chunks(metadata: &ParquetMetaData, index: usize) -> Result<Vec<ColumnCloseResult>> {
    let group = metadata.row_group(index);
    let indexes = metadata.page_index_for_row_group(index);
    let rows = columns::row_count(group)? as u64;
    let chunks = group.columns().iter().enumerate().map(|(column, chunk)| ColumnCloseResult {
        bytes_written: u64::try_from(chunk.compressed_size()).unwrap_or(0),
        rows_written: rows,
        metadata: chunk.clone(),
        bloom_filter: None,
        column_index: indexes.column_index(column).cloned(),
        offset_index: indexes.offset_index(column).cloned(),
    });
    Ok(chunks.collect())
}

/// Returns a file with these rows.
pub(super) fn write<R>(table: &Table<R>, stamp: &Stamp, rows: &[R]) -> Result<Vec<u8>, TableError> {
    let written = Update::new(&table.schema, stamp, table.max_rows, 0).and_then(|mut update| {
        update.add(table, rows)?;
        update.finish()
    });
    written.map_err(TableError::Write)
}

/// Returns a file with the rows of `old`, without those of changed conversations, and of the `new` files.
pub(super) fn merge<R>(
    table: &Table<R>,
    old: Option<Bytes>,
    new: Vec<Bytes>,
    stamp: &Stamp,
    is_changed: &dyn Fn(&str) -> bool,
) -> Result<Vec<u8>, TableError> {
    let capacity = old.iter().chain(&new).map(Bytes::len).sum();
    let mut update =
        Update::new(&table.schema, stamp, table.max_rows, capacity).map_err(TableError::Write)?;
    if let Some(old) = old {
        update.keep(&open_current(table, &old, stamp)?, is_changed)?;
    }
    // Each file is dropped when its rows are in the new one.
    for new in new {
        update.keep(&open_current(table, &new, stamp)?, &|_| false)?;
    }
    update.finish().map_err(TableError::Write)
}

/// Opens a file to which rows can be added.
fn open_current<R>(table: &Table<R>, file: &Bytes, stamp: &Stamp) -> Result<TableFile, TableError> {
    let file = TableFile::open(file, PageIndexPolicy::Optional)?;
    if file.stamp != *stamp {
        return Err(TableError::OtherStamp);
    }
    if file.schema().root_schema() != table.schema.root_schema() {
        return Err(TableError::Damaged("it has other columns than its schema version says".to_owned()));
    }
    Ok(file)
}

/// Returns a file with the schema, the stamp and the rows of `old`, without those of some conversations.
pub(super) fn remove(old: &Bytes, is_removed: &dyn Fn(&str) -> bool) -> Result<Vec<u8>, TableError> {
    let old = TableFile::open(old, PageIndexPolicy::Optional)?;
    let mut update =
        Update::new(&old.schema(), &old.stamp, CALLS.max_rows, old.bytes.len()).map_err(TableError::Write)?;
    update.keep(&old, is_removed)?;
    update.finish().map_err(TableError::Write)
}
