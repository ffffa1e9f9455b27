//! The values of members that are not simply a scalar.

use std::{collections::HashMap, io};

use super::{
    document::{MAX_JSON_BYTES, Taken, is_empty, scalar, value_bytes},
    scrubber::Scrubber,
};
use crate::json::{JsonFilter, JsonReader, Scalar, copy_json};

/// The longest name of a metric that is kept whole.
const MAX_NAME_BYTES: usize = 1024;
/// The maximum metrics of a conversation, and the maximum names in a list. What is beyond is in the rest only.
const MAX_ENTRIES: usize = 10_000;
/// Written at the end of a text that is cut.
const CUT: &str = "… (cut)";

/// Returns any scalar as text, or `None` if it is absent or empty.
pub(super) fn text(scalar: Scalar) -> Option<String> {
    let text = match scalar {
        Scalar::DamagedText(mut text) if text.len() >= MAX_JSON_BYTES => {
            text.push_str(CUT);
            text
        }
        Scalar::Text(text) | Scalar::DamagedText(text) | Scalar::Number(text) => text,
        Scalar::Bool(flag) => flag.to_string(),
        Scalar::Null | Scalar::Unusable => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

/// Returns a finite number, also one in quotes.
pub(super) fn number(scalar: &Scalar) -> Option<f64> {
    let (Scalar::Number(text) | Scalar::Text(text)) = scalar else { return None };
    text.trim().parse().ok().filter(|number: &f64| number.is_finite())
}

/// Returns the heading and the content of a summary, which is a text or an object.
pub(super) fn summary(json: &[u8]) -> Option<Taken<[Option<String>; 2]>> {
    let mut reader = JsonReader::new(json);
    if reader.peek().ok()? != Some(b'{') {
        let value = [None, Some(text(scalar(json))?)];
        return Some(Taken { value, is_whole: true });
    }
    let (mut value, mut is_whole) = ([None, None], true);
    reader
        .object(
            |name| Some(["heading", "content"].iter().position(|known| *known == name)),
            |reader, position| {
                let json = value_bytes(reader)?;
                let found = position.and_then(|position| Some((position, text(scalar(json))?)));
                match found {
                    Some((position, text)) => value[position] = Some(text),
                    None => is_whole &= is_empty(json),
                }
                Ok(())
            },
        )
        .ok()?;
    value.iter().any(Option::is_some).then_some(Taken { value, is_whole })
}

/// Returns the seconds of a latency, which is a number or an object.
pub(super) fn latency(json: &[u8]) -> Option<f64> {
    let mut reader = JsonReader::new(json);
    if reader.peek().ok()? != Some(b'{') {
        return reader.scalar().ok()?.seconds();
    }
    let mut seconds = None;
    let name = |name: &str| (name == "perceived_latency").then_some(());
    reader
        .object(name, |reader, ()| {
            seconds = reader.scalar()?.seconds().or(seconds);
            Ok(())
        })
        .ok()?;
    seconds
}

/// Returns the names in a list of texts, or of objects with a `name`. A single text is a list of one.
pub(super) fn names(json: &[u8], scrubber: &Scrubber<'_>) -> Taken<Vec<String>> {
    let mut names = Taken { value: Vec::new(), is_whole: true };
    // Reading from memory does not fail.
    read_names(json, scrubber, &mut names).unwrap_or_default();
    names
}

fn read_names(json: &[u8], scrubber: &Scrubber<'_>, names: &mut Taken<Vec<String>>) -> io::Result<()> {
    let mut reader = JsonReader::new(json);
    if reader.peek()? != Some(b'[') {
        add_name(json, scrubber, names);
        return Ok(());
    }
    reader.array(|reader| {
        let json = value_bytes(reader)?;
        if names.value.len() < MAX_ENTRIES {
            add_name(json, scrubber, names);
        } else {
            names.is_whole = false;
        }
        Ok(())
    })
}

fn add_name(json: &[u8], scrubber: &Scrubber<'_>, names: &mut Taken<Vec<String>>) {
    let (value, is_whole) = member(json, "name", &[]);
    names.is_whole &= is_whole;
    match value.map_or(Scalar::Null, scalar) {
        Scalar::Unusable => names.is_whole &= is_empty(json),
        value => names.value.extend(text(scrubber.scalar(value, false))),
    }
}

/// Names of metrics, each with a value.
pub(super) type Metrics = Vec<(String, Option<String>)>;

/// Returns the last value of each metric. v3 has a text or a list of texts for a name, the Data API a list of objects with a time.
pub(super) fn metrics(json: &[u8], scrubber: &Scrubber<'_>) -> Option<Taken<Metrics>> {
    let mut reader = JsonReader::with_limits(json, MAX_NAME_BYTES, 0);
    if reader.peek().ok()? != Some(b'{') {
        return None;
    }
    let mut metrics = Taken { value: Metrics::new(), is_whole: true };
    let mut positions: HashMap<String, usize> = HashMap::new();
    reader
        .object(
            |name| Some(name.to_owned()),
            |reader, name| {
                let is_marked = scrubber.marks(&name);
                let (value, is_whole) = last_value(value_bytes(reader)?, scrubber, is_marked)?;
                metrics.is_whole &= is_whole;
                let name = scrubber.name(name);
                if let Some(position) = positions.get(&name) {
                    metrics.value[*position].1 = value;
                } else if metrics.value.len() < MAX_ENTRIES {
                    positions.insert(name.clone(), metrics.value.len());
                    metrics.value.push((name, value));
                } else {
                    metrics.is_whole = false;
                }
                Ok(())
            },
        )
        .ok()?;
    Some(metrics)
}

/// Returns the last value of a metric, and whether it is all that the metric has, apart from the time.
fn last_value(json: &[u8], scrubber: &Scrubber<'_>, is_marked: bool) -> io::Result<(Option<String>, bool)> {
    let mut reader = JsonReader::new(json);
    let (mut last, mut count) = (json, 1);
    if reader.peek()? == Some(b'[') {
        (last, count) = (b"null".as_slice(), 0);
        reader.array(|reader| {
            last = value_bytes(reader)?;
            count += 1;
            Ok(())
        })?;
    }
    let (value, is_whole) = member(last, "value", &["timestamp"]);
    let value = match scalar(value.unwrap_or(last)) {
        // A list or an object.
        Scalar::Unusable => copy_json(value.unwrap_or(last), MAX_JSON_BYTES, scrubber, is_marked),
        value => text(scrubber.scalar(value, is_marked)),
    };
    Ok((value.filter(|value| value != "null"), is_whole && count <= 1))
}

/// Returns the member `name` of an object, and whether the object has nothing else apart from `others`. Returns any other value as it
/// is.
fn member<'a>(json: &'a [u8], name: &str, others: &[&str]) -> (Option<&'a [u8]>, bool) {
    let mut reader = JsonReader::new(json);
    if !matches!(reader.peek(), Ok(Some(b'{'))) {
        return (Some(json), true);
    }
    let (mut value, mut is_whole) = (None, true);
    let read = reader.object(
        |found| Some((found == name, others.contains(&found))),
        |reader, (is_value, is_other)| {
            let json = value_bytes(reader)?;
            if is_value {
                value = Some(json);
            } else if !is_other {
                is_whole &= is_empty(json);
            }
            Ok(())
        },
    );
    (value, is_whole && read.is_ok())
}
