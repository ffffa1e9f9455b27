//! Records of a table in memory, column by column, as Parquet stores them. Nothing here knows the columns of a table.

use std::{io::Write, sync::Arc};

use bytes::{Bytes, buf::Reader};
use parquet::{
    column::{
        page::PageReader,
        reader::{ColumnReader, ColumnReaderImpl, get_column_reader},
        writer::ColumnWriter,
    },
    data_type::{ByteArray, DataType},
    errors::{ParquetError, Result},
    file::{
        metadata::RowGroupMetaData, reader::ChunkReader, serialized_reader::SerializedPageReader,
        writer::SerializedRowGroupWriter,
    },
    schema::types::{ColumnDescPtr, SchemaDescPtr},
};

use super::budget::{Budget, LimitedFile};

/// Bytes that each value of a list or a map takes besides its text.
const LIST_VALUE_BYTES: usize = 32;
/// More rows than a row group ever has. A limit for files that were not written by polyhook.
const MAX_ROWS: usize = 1 << 18;

/// Records, column by column.
pub(super) struct Columns {
    schema: SchemaDescPtr,
    pub(super) leaves: Vec<Leaf>,
    pub(super) rows: usize,
}

/// A leaf of the schema: its definition levels, its repetition levels (both are empty if the schema needs none) and its values that
/// are not null.
pub(super) struct Leaf {
    max_definition: i16,
    max_repetition: i16,
    definition: Vec<i16>,
    repetition: Vec<i16>,
    values: Values,
    bytes: usize,
}

enum Values {
    Bool(Vec<bool>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Double(Vec<f64>),
    Text(Vec<ByteArray>),
}

/// A value of a leaf.
pub(super) enum Value<'a> {
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Double(f64),
    Text(&'a str),
}

impl Columns {
    /// Returns no records.
    pub(super) fn new(schema: &SchemaDescPtr) -> Result<Self> {
        let leaves = schema.columns().iter().map(Leaf::new).collect::<Result<_>>()?;
        Ok(Self { schema: Arc::clone(schema), leaves, rows: 0 })
    }

    /// Reads a row group.
    pub(super) fn read(file: &Bytes, schema: &SchemaDescPtr, group: &RowGroupMetaData) -> Result<Self> {
        let mut columns = Self::new(schema)?;
        columns.rows = row_count(group)?;
        let budget = Arc::default();
        for (index, leaf) in columns.leaves.iter_mut().enumerate() {
            *leaf = Leaf::read(file, group, index, &budget)?;
        }
        Ok(columns)
    }

    /// Returns the bytes of the texts, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.bytes).sum()
    }

    /// Adds those records of `other`, which has the same schema, whose place in `keep` says so.
    pub(super) fn append(&mut self, other: Self, keep: &[bool]) {
        for (leaf, other) in self.leaves.iter_mut().zip(other.leaves) {
            leaf.append(other, keep);
        }
        self.rows += keep.iter().filter(|keep| **keep).count();
    }

    /// Writes the records as a row group.
    pub(super) fn write<W: Write + Send>(self, mut group: SerializedRowGroupWriter<'_, W>) -> Result<()> {
        for leaf in self.leaves {
            let mut column = group.next_column()?.ok_or_else(unexpected_type)?;
            leaf.write(column.untyped())?;
            column.close()?;
        }
        group.close()?;
        Ok(())
    }

    /// Removes all records.
    pub(super) fn take(&mut self) -> Result<Self> {
        let empty = Self::new(&self.schema)?;
        Ok(std::mem::replace(self, empty))
    }
}

/// Returns the bytes that [`Columns::bytes`] would return for a row group.
pub(super) fn stored_bytes(group: &RowGroupMetaData) -> usize {
    let columns = group.columns().iter();
    let bytes = columns.map(|column| {
        let texts = usize::try_from(column.unencoded_byte_array_data_bytes().unwrap_or(0)).unwrap_or(0);
        let values = if column.column_descr().max_rep_level() > 0 {
            usize::try_from(column.num_values()).unwrap_or(0)
        } else {
            0
        };
        texts.saturating_add(values.saturating_mul(LIST_VALUE_BYTES))
    });
    bytes.fold(0, usize::saturating_add)
}

/// Returns the number of rows of a row group.
pub(super) fn row_count(group: &RowGroupMetaData) -> Result<usize> {
    let rows = usize::try_from(group.num_rows()).ok().filter(|rows| *rows <= MAX_ROWS);
    rows.ok_or_else(|| ParquetError::General("a row group has an impossible number of rows".to_owned()))
}

impl Leaf {
    fn new(column: &ColumnDescPtr) -> Result<Self> {
        use parquet::basic::Type;
        let values = match column.physical_type() {
            Type::BOOLEAN => Values::Bool(Vec::new()),
            Type::INT32 => Values::Int32(Vec::new()),
            Type::INT64 => Values::Int64(Vec::new()),
            Type::DOUBLE => Values::Double(Vec::new()),
            Type::BYTE_ARRAY => Values::Text(Vec::new()),
            _ => return Err(unexpected_type()),
        };
        let (max_definition, max_repetition) = (column.max_def_level(), column.max_rep_level());
        Ok(Self {
            max_definition,
            max_repetition,
            definition: Vec::new(),
            repetition: Vec::new(),
            values,
            bytes: 0,
        })
    }

    /// Adds a value that is not null. It begins a record if `repetition` is 0.
    pub(super) fn push(&mut self, repetition: i16, value: &Value<'_>) {
        self.push_levels(repetition, self.max_definition);
        match (&mut self.values, value) {
            (Values::Bool(values), Value::Bool(value)) => values.push(*value),
            (Values::Int32(values), Value::Int32(value)) => values.push(*value),
            (Values::Int64(values), Value::Int64(value)) => values.push(*value),
            (Values::Double(values), Value::Double(value)) => values.push(*value),
            (Values::Text(values), Value::Text(value)) => {
                values.push(ByteArray::from(*value));
                self.bytes += value.len();
            }
            _ => unreachable!("the schema is made from the types of the values"),
        }
    }

    /// Adds a place without a value: a null or an empty list, as `definition` says.
    pub(super) fn push_absent(&mut self, repetition: i16, definition: i16) {
        debug_assert!(definition < self.max_definition, "a required value is absent");
        self.push_levels(repetition, definition);
    }

    fn push_levels(&mut self, repetition: i16, definition: i16) {
        if self.max_definition > 0 {
            self.definition.push(definition);
        }
        if self.max_repetition > 0 {
            self.repetition.push(repetition);
            self.bytes += LIST_VALUE_BYTES;
        }
    }

    /// Reads the column `index` of a row group.
    pub(super) fn read(
        file: &Bytes,
        group: &RowGroupMetaData,
        index: usize,
        budget: &Arc<Budget>,
    ) -> Result<Self> {
        Self::read_from(&Arc::new(file.clone()), group, index, None, budget)
    }

    /// Reads the column `index` of a row group from something that has at least this column. With `wanted`, reads only these rows,
    /// which are in ascending order.
    pub(super) fn read_from<R: ChunkReader<T = Reader<Bytes>> + 'static>(
        file: &Arc<R>,
        group: &RowGroupMetaData,
        index: usize,
        wanted: Option<&[usize]>,
        budget: &Arc<Budget>,
    ) -> Result<Self> {
        let (rows, chunk) = (row_count(group)?, group.column(index));
        let mut leaf = Self::new(&chunk.column_descr_ptr())?;
        let file = LimitedFile { file: Arc::clone(file), budget: Arc::clone(budget) };
        let pages: Box<dyn PageReader> =
            Box::new(SerializedPageReader::new(Arc::new(file), chunk, rows, None)?);
        let selection = Selection { rows, wanted };
        match (&mut leaf.values, get_column_reader(chunk.column_descr_ptr(), pages)) {
            (Values::Bool(values), ColumnReader::BoolColumnReader(reader)) => {
                read_values(reader, selection, &mut leaf.definition, &mut leaf.repetition, values)?;
            }
            (Values::Int32(values), ColumnReader::Int32ColumnReader(reader)) => {
                read_values(reader, selection, &mut leaf.definition, &mut leaf.repetition, values)?;
            }
            (Values::Int64(values), ColumnReader::Int64ColumnReader(reader)) => {
                read_values(reader, selection, &mut leaf.definition, &mut leaf.repetition, values)?;
            }
            (Values::Double(values), ColumnReader::DoubleColumnReader(reader)) => {
                read_values(reader, selection, &mut leaf.definition, &mut leaf.repetition, values)?;
            }
            (Values::Text(values), ColumnReader::ByteArrayColumnReader(reader)) => {
                read_values(reader, selection, &mut leaf.definition, &mut leaf.repetition, values)?;
                leaf.bytes = values.iter().map(ByteArray::len).sum();
            }
            _ => return Err(unexpected_type()),
        }
        leaf.bytes += leaf.repetition.len() * LIST_VALUE_BYTES;
        budget.take(leaf.bytes as u64)?;
        leaf.check_levels(wanted.map_or(rows, <[usize]>::len))?;
        Ok(leaf)
    }

    /// Returns an error if the levels do not make `rows` records. The reader has matched the number of values with them.
    fn check_levels(&self, rows: usize) -> Result<()> {
        let records = match self.max_repetition {
            0 => rows,
            _ => self.repetition.iter().filter(|level| **level == 0).count(),
        };
        let begins_a_record = self.repetition.first().is_none_or(|level| *level == 0);
        let in_range = |levels: &[i16], max| levels.iter().all(|level| (0..=max).contains(level));
        if records == rows
            && begins_a_record
            && in_range(&self.definition, self.max_definition)
            && in_range(&self.repetition, self.max_repetition)
        {
            return Ok(());
        }
        Err(ParquetError::General("the levels of a column do not fit its row group".to_owned()))
    }

    /// Returns the texts, in order and without nulls.
    pub(super) fn texts(&self) -> Result<impl Iterator<Item = Result<&str>>> {
        match &self.values {
            Values::Text(values) => Ok(values.iter().map(ByteArray::as_utf8)),
            _ => Err(unexpected_type()),
        }
    }

    /// Returns the texts as bytes, in order and without nulls.
    pub(super) fn byte_texts(&self) -> Result<impl Iterator<Item = &[u8]>> {
        match &self.values {
            Values::Text(values) => Ok(values.iter().map(ByteArray::data)),
            _ => Err(unexpected_type()),
        }
    }

    /// Returns the numbers of a column of 64-bit integers, in order and without nulls.
    pub(super) fn int64s(&self) -> Result<&[i64]> {
        match &self.values {
            Values::Int64(values) => Ok(values),
            _ => Err(unexpected_type()),
        }
    }

    /// Returns the numbers of a column of 32-bit integers, in order and without nulls.
    pub(super) fn int32s(&self) -> Result<&[i32]> {
        match &self.values {
            Values::Int32(values) => Ok(values),
            _ => Err(unexpected_type()),
        }
    }

    /// Returns the numbers of a column of doubles, in order and without nulls.
    pub(super) fn doubles(&self) -> Result<&[f64]> {
        match &self.values {
            Values::Double(values) => Ok(values),
            _ => Err(unexpected_type()),
        }
    }

    /// Returns the values of a column of booleans, in order and without nulls.
    pub(super) fn bools(&self) -> Result<&[bool]> {
        match &self.values {
            Values::Bool(values) => Ok(values),
            _ => Err(unexpected_type()),
        }
    }

    /// Returns `values`, which are those of this leaf, with a `None` for each null. The leaf is no list.
    pub(super) fn with_nulls<T>(&self, values: impl Iterator<Item = T>) -> impl Iterator<Item = Option<T>> {
        let mut values = values;
        let has_levels = self.max_definition > 0;
        let rows = if has_levels { self.definition.len() } else { usize::MAX };
        (0..rows).map_while(move |row| {
            if has_levels && self.definition[row] < self.max_definition {
                return Some(None);
            }
            values.next().map(Some)
        })
    }

    fn append(&mut self, other: Self, keep: &[bool]) {
        // For each value of `other`, true if it is kept.
        let mut kept = Vec::new();
        if self.max_definition == 0 {
            kept.extend_from_slice(keep);
        } else {
            let mut record = 0;
            for (place, definition) in other.definition.iter().enumerate() {
                let repetition = other.repetition.get(place).copied().unwrap_or(0);
                record += usize::from(repetition == 0);
                let keep = keep[record - 1];
                if keep {
                    self.push_levels(repetition, *definition);
                }
                if *definition == self.max_definition {
                    kept.push(keep);
                }
            }
        }
        match (&mut self.values, other.values) {
            (Values::Bool(values), Values::Bool(other)) => append_kept(values, other, &kept),
            (Values::Int32(values), Values::Int32(other)) => append_kept(values, other, &kept),
            (Values::Int64(values), Values::Int64(other)) => append_kept(values, other, &kept),
            (Values::Double(values), Values::Double(other)) => append_kept(values, other, &kept),
            (Values::Text(values), Values::Text(other)) => {
                let first = values.len();
                append_kept(values, other, &kept);
                self.bytes += values[first..].iter().map(ByteArray::len).sum::<usize>();
            }
            _ => unreachable!("both have the same schema"),
        }
    }

    fn write(&self, writer: &mut ColumnWriter<'_>) -> Result<()> {
        let definition = (self.max_definition > 0).then_some(self.definition.as_slice());
        let repetition = (self.max_repetition > 0).then_some(self.repetition.as_slice());
        match (writer, &self.values) {
            (ColumnWriter::BoolColumnWriter(writer), Values::Bool(values)) => {
                writer.write_batch(values, definition, repetition)?
            }
            (ColumnWriter::Int32ColumnWriter(writer), Values::Int32(values)) => {
                writer.write_batch(values, definition, repetition)?
            }
            (ColumnWriter::Int64ColumnWriter(writer), Values::Int64(values)) => {
                writer.write_batch(values, definition, repetition)?
            }
            (ColumnWriter::DoubleColumnWriter(writer), Values::Double(values)) => {
                writer.write_batch(values, definition, repetition)?
            }
            (ColumnWriter::ByteArrayColumnWriter(writer), Values::Text(values)) => {
                writer.write_batch(values, definition, repetition)?
            }
            _ => return Err(unexpected_type()),
        };
        Ok(())
    }
}

fn append_kept<T>(values: &mut Vec<T>, other: Vec<T>, kept: &[bool]) {
    values.extend(other.into_iter().zip(kept).filter_map(|(value, kept)| kept.then_some(value)));
}

/// The rows of a row group that are read.
#[derive(Clone, Copy)]
struct Selection<'a> {
    /// The rows of the group.
    rows: usize,
    wanted: Option<&'a [usize]>,
}

/// Reads exactly the selected records, and checks that the levels and values belong together.
fn read_values<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    Selection { rows, wanted }: Selection<'_>,
    definition: &mut Vec<i16>,
    repetition: &mut Vec<i16>,
    values: &mut Vec<T::T>,
) -> Result<()> {
    let too_few = || ParquetError::EOF("a column has fewer rows than its row group".to_owned());
    if let Some(wanted) = wanted {
        let mut next = 0;
        for row in wanted {
            let gap = row - next;
            let is_skipped = gap == 0 || reader.skip_records(gap)? == gap;
            if !is_skipped || reader.read_records(1, Some(definition), Some(repetition), values)?.0 == 0 {
                return Err(too_few());
            }
            next = row + 1;
        }
        return Ok(());
    }
    let mut read = 0;
    while read < rows {
        let (records, _, _) = reader.read_records(rows - read, Some(definition), Some(repetition), values)?;
        if records == 0 {
            return Err(too_few());
        }
        read += records;
    }
    if reader.read_records(1, Some(definition), Some(repetition), values)?.0 > 0 {
        return Err(ParquetError::General("a column has more rows than its row group".to_owned()));
    }
    Ok(())
}

fn unexpected_type() -> ParquetError {
    ParquetError::General("a column has an unexpected type".to_owned())
}
