//! Adds rows to [`Columns`].

use std::{slice::IterMut, sync::LazyLock};

use jiff::{Timestamp, civil, tz::TimeZone};

use super::{
    columns::{Columns, Leaf, Value},
    schema::{Get, Table},
};

/// The years that all common readers of Parquet can show.
static TIMES: LazyLock<(Timestamp, Timestamp)> = LazyLock::new(|| {
    let at = |year, month, day| {
        civil::date(year, month, day).to_zoned(TimeZone::UTC).expect("the date is valid").timestamp()
    };
    (at(1, 1, 1), at(9999, 12, 30))
});

/// Adds a row to the columns of its table.
pub(super) fn push_row<R>(table: &Table<R>, columns: &mut Columns, row: &R) {
    let mut leaves = columns.leaves.iter_mut();
    for column in table.columns {
        push_column(&column.get, row, &mut leaves);
    }
    columns.rows += 1;
}

fn push_column<R>(get: &Get<R>, row: &R, leaves: &mut IterMut<'_, Leaf>) {
    let mut next = || leaves.next().expect("each column has its leaves");
    let leaf = next();
    match get {
        Get::Text(get) => leaf.push(0, &Value::Text(get(row))),
        Get::OptionalText(get) | Get::OptionalJson(get) => push_optional(leaf, get(row).map(Value::Text)),
        Get::Time(get) => leaf.push(0, &Value::Int64(get(row).clamp(TIMES.0, TIMES.1).as_microsecond())),
        Get::OptionalTime(get) => {
            let time = get(row).filter(|time| (TIMES.0..=TIMES.1).contains(time));
            push_optional(leaf, time.map(|time| Value::Int64(time.as_microsecond())));
        }
        Get::Flag(get) => leaf.push(0, &Value::Bool(get(row))),
        Get::OptionalFlag(get) => push_optional(leaf, get(row).map(Value::Bool)),
        Get::SmallCount(get) => leaf.push(0, &Value::Int32(get(row))),
        Get::Count(get) => leaf.push(0, &Value::Int64(get(row))),
        Get::OptionalCount(get) => push_optional(leaf, get(row).map(Value::Int64)),
        Get::OptionalNumber(get) => {
            let number = get(row).filter(|number| number.is_finite());
            push_optional(leaf, number.map(Value::Double));
        }
        Get::Texts(get) => push_list(leaf, get(row).iter().map(|text| Some(text.as_str()))),
        Get::TextMap(get) => {
            push_list(leaf, get(row).iter().map(|(key, _)| Some(key.as_str())));
            push_list(next(), get(row).iter().map(|(_, value)| value.as_deref()));
        }
    }
}

fn push_optional(leaf: &mut Leaf, value: Option<Value<'_>>) {
    match value {
        Some(value) => leaf.push(0, &value),
        None => leaf.push_absent(0, 0),
    }
}

/// Adds a list of texts, whose definition levels are 0 for an empty list and 1 for a null.
fn push_list<'a>(leaf: &mut Leaf, texts: impl Iterator<Item = Option<&'a str>>) {
    let mut repetition = 0;
    for text in texts {
        match text {
            Some(text) => leaf.push(repetition, &Value::Text(text)),
            None => leaf.push_absent(repetition, 1),
        }
        repetition = 1;
    }
    if repetition == 0 {
        leaf.push_absent(0, 0);
    }
}
