//! The TOML file: its values with their lines, and its errors.

use std::{collections::BTreeSet, ops::Range, path::Path};

use config::{Map, Value, ValueKind};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    error::LocatedProblem,
    keys::{Key, Keys},
    origin::Origin,
};
use crate::bounded_file;

/// The parser's error for a key or section that is there twice.
const DUPLICATE: &str = "duplicate key";

/// The contents of the file.
#[derive(Debug, Default)]
pub(super) struct FileLayer {
    pub(super) values: Vec<(Key, Value, Origin)>,
    /// The entries of lists of tables.
    pub(super) entries: Vec<(String, usize, Origin)>,
    pub(super) problems: Vec<LocatedProblem>,
    /// The sections that are not sections.
    pub(super) broken: BTreeSet<String>,
    /// True if a part of the file could not be read, so that a missing key may be there.
    pub(super) is_partial: bool,
}

impl FileLayer {
    /// Reads a file. The text of an error never shows a value: it may be a secret in the wrong place.
    pub(super) fn read(keys: &Keys, path: &Path) -> Self {
        let text = match bounded_file::read_text_or_pipe(path) {
            Ok(text) => text,
            Err(error) => {
                let message = format!("the configuration file cannot be read: {error}");
                let origin = Origin::File(path.to_owned(), None);
                let problems = vec![LocatedProblem::new(origin, None, message)];
                return Self { problems, is_partial: true, ..Self::default() };
            }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        let spans = errors.iter().map(|error| error.span().unwrap_or_default());
        let mut reader =
            Reader { keys, path, text: &text, end: text.len(), faults: Vec::new(), layer: Self::default() };
        for (error, span) in errors.iter().zip(spans) {
            // One mistake may have several errors in its line.
            if !reader.faults.iter().any(|fault| reader.origin(*fault) == reader.origin(span.start)) {
                let message = reader.duplicate(error.message(), &span);
                reader.problem(span.start, None, message.as_deref().unwrap_or(error.message()));
                reader.faults.push(span.start);
            }
            // What follows a broken header would count to the section before it. The parts of a section that is there
            // twice count to this section.
            if reader.is_header(span.start) && error.message() != DUPLICATE {
                reader.end = reader.end.min(span.start);
            }
        }
        reader.layer.is_partial = !errors.is_empty();
        for (name, value) in table.get_ref() {
            reader.section(name, value);
        }
        reader.layer
    }
}

struct Reader<'a> {
    keys: &'a Keys,
    path: &'a Path,
    text: &'a str,
    /// The end of the part of the file whose keys are certain.
    end: usize,
    /// The places of syntax errors.
    faults: Vec<usize>,
    layer: FileLayer,
}

impl Reader<'_> {
    /// Returns the line at a byte, counted from 1.
    fn origin(&self, at: usize) -> Origin {
        let at = self.text.floor_char_boundary(at.min(self.text.len()));
        Origin::File(self.path.to_owned(), Some(self.text[..at].matches('\n').count() + 1))
    }

    /// Returns whether the byte is in a line that begins like the header of a section.
    fn is_header(&self, at: usize) -> bool {
        let before = &self.text[..self.text.floor_char_boundary(at.min(self.text.len()))];
        let start = before.rfind('\n').map_or(0, |end| end + 1);
        self.text[start..].trim_start().starts_with('[')
    }

    /// Returns the text about a key or section that is there twice, if the parser's error is about one.
    fn duplicate(&self, error: &str, span: &Range<usize>) -> Option<String> {
        let name = self.text.get(span.clone()).filter(|_| error == DUPLICATE)?;
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let name = if is_plain { name } else { "this key" };
        Some(if self.is_header(span.start) {
            format!("{name} is there twice; put all its keys below one header")
        } else {
            format!("{name} is set twice in this section; remove one of the two")
        })
    }

    /// Returns whether a syntax error is in the lines of a key and its value, or may have moved them to another section.
    fn is_doubtful(&self, key: usize, value: &Range<usize>) -> bool {
        let lines = self.origin(key)..=self.origin(value.end.saturating_sub(1).max(key));
        key >= self.end || self.faults.iter().any(|fault| lines.contains(&self.origin(*fault)))
    }

    fn problem(&mut self, at: usize, key: Option<String>, message: impl Into<String>) {
        let problem = LocatedProblem::new(self.origin(at), key, message);
        self.layer.problems.push(problem);
    }

    fn section(&mut self, name: &Spanned<toml::de::DeString<'_>>, value: &Spanned<DeValue<'_>>) {
        let (at, name) = (name.span().start, name.get_ref());
        let is_table = matches!(value.get_ref(), DeValue::Table(_) | DeValue::Array(_));
        if at >= self.end || !is_table && self.is_doubtful(at, &value.span()) {
            return;
        }
        let keys = self.keys;
        let Some(section) = keys.section(name) else {
            let nearest = match keys.nearest_section(name) {
                Some(nearest) => Some(nearest.to_owned()),
                None => keys.nearest(name).map(without_entry),
            };
            return self.unknown(at, name, nearest.as_deref(), nearest.clone());
        };
        match (section.is_list, value.get_ref()) {
            (false, DeValue::Table(table)) => self.table(name, None, table),
            (true, DeValue::Array(entries)) => {
                for (entry, value) in entries.iter().enumerate() {
                    match value.get_ref() {
                        DeValue::Table(table) => {
                            let origin = self.origin(value.span().start);
                            self.layer.entries.push((name.to_string(), entry, origin));
                            self.table(name, Some(entry), table);
                        }
                        _ => self.not_a_section(value.span().start, name, true),
                    }
                }
            }
            (is_list, _) => self.not_a_section(at, name, is_list),
        }
    }

    fn not_a_section(&mut self, at: usize, name: &str, is_list: bool) {
        let message = if is_list {
            format!("{name} is a list of tables; write [[{name}]] and its keys below")
        } else {
            format!("{name} is a section; write [{name}] and its keys below")
        };
        self.problem(at, None, message);
        self.layer.broken.insert(name.to_owned());
    }

    fn table(&mut self, section: &str, entry: Option<usize>, table: &DeTable<'_>) {
        for (name, value) in table {
            let at = name.span().start;
            if self.is_doubtful(at, &value.span()) {
                continue;
            }
            let key = Key { section: section.to_owned(), entry, name: name.get_ref().to_string() };
            if self.keys.section(section).is_some_and(|section| section.contains(&key.name)) {
                let origin = self.origin(at);
                self.layer.values.push((key, convert(value.get_ref()), origin));
            } else {
                let nearest = self.keys.nearest(&key.to_string());
                let meant = nearest.clone().map(|nearest| {
                    let entry = entry.filter(|_| nearest.section == section);
                    Key { entry, ..nearest }.to_string()
                });
                self.unknown(at, &without_entry(key), nearest.map(without_entry).as_deref(), meant);
            }
        }
    }

    fn unknown(&mut self, at: usize, path: &str, nearest: Option<&str>, meant: Option<String>) {
        let problem =
            LocatedProblem::new(self.origin(at), None, unknown_key(path, nearest)).suggesting(meant);
        self.layer.problems.push(problem);
    }
}

/// Returns the path of a key as it is in a file, where entries have no numbers.
fn without_entry(key: Key) -> String {
    Key { entry: None, ..key }.to_string()
}

/// Returns the text about a key that does not exist.
pub(super) fn unknown_key(path: &str, nearest: Option<&str>) -> String {
    match nearest {
        Some(nearest) => format!("there is no key {path}; did you mean {nearest}?"),
        None => format!("there is no key {path}; `polyhook config schema` lists all keys"),
    }
}

fn convert(value: &DeValue<'_>) -> Value {
    let kind = match value {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        // A number that no integer can hold stays text, and no key accepts it.
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => ValueKind::I64(number),
            Err(_) => ValueKind::String(number.to_string()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => ValueKind::Float(number),
            Err(_) => ValueKind::String(number.to_string()),
        },
        DeValue::Boolean(value) => ValueKind::Boolean(*value),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(items) => ValueKind::Array(items.iter().map(|item| convert(item.get_ref())).collect()),
        DeValue::Table(table) => {
            let fields =
                table.iter().map(|(name, value)| (name.get_ref().to_string(), convert(value.get_ref())));
            ValueKind::Table(fields.collect::<Map<_, _>>())
        }
    };
    Value::new(None, kind)
}
