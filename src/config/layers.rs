//! Merges the layers into one configuration, and finds everything that is wrong with their values.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::PathBuf,
};

use config::{Map, Value, ValueKind};

use super::{
    Config, environment,
    error::LocatedProblem,
    file::{self, FileLayer},
    keys::{Key, Keys, Section},
    origin::Origin,
    quickstart::Quickstart,
    value_check::{explain, wrong_value},
};
use crate::secret;

/// The sources of a configuration, in addition to the built-in defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config` or `POLYHOOK_CONFIG`.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub env: Vec<(String, String)>,
    /// `--set section.key=value`, in order.
    pub set: Vec<(String, String)>,
}

impl Sources {
    /// Uses the process's environment, a file, and settings from the command line. Without a file, uses the one that
    /// `POLYHOOK_CONFIG` names.
    pub fn new(file: Option<PathBuf>, set: Vec<(String, String)>) -> Self {
        let named = || std::env::var_os("POLYHOOK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        let file = file.or_else(named);
        // Text that is not UTF-8 is reported where it matters.
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Self { file, env, set }
    }
}

/// The merged layers.
#[derive(Debug)]
pub(super) struct Layers {
    /// The configuration of all usable values.
    pub(super) config: Config,
    pub(super) problems: Vec<LocatedProblem>,
    /// The keys whose values are not usable, so that the configuration has their defaults.
    pub(super) broken: BTreeSet<String>,
    /// True if a part of the file could not be read, so that a missing key may be there.
    pub(super) is_partial: bool,
}

/// The effect of a variable or a flag.
#[derive(Debug)]
enum Setting {
    Value(Key, Value, Origin),
    /// Adds an entry to a list of tables. It may set no key.
    Entry(String, usize, Origin),
    /// Removes the entries of a list of tables that earlier layers set.
    Clear(String),
}

/// The values that are set. Later layers replace those of earlier ones.
pub(super) type Values = BTreeMap<Key, (Value, Origin)>;

impl Layers {
    pub(super) fn merge(sources: &Sources) -> Self {
        let keys = Keys::new();
        let mut problems = Vec::new();
        let FileLayer {
            values: file,
            entries: file_entries,
            problems: file_problems,
            mut broken,
            is_partial,
        } = sources.file.as_deref().map(|path| FileLayer::read(&keys, path)).unwrap_or_default();
        problems.extend(file_problems);
        let own = variables(&keys, &sources.env, &mut problems);
        let set = flags(&keys, &sources.set, &mut problems);

        let entries =
            file_entries.into_iter().map(|(section, entry, origin)| Setting::Entry(section, entry, origin));
        let file = file.into_iter().map(|(key, value, origin)| Setting::Value(key, value, origin));
        let file = entries.chain(file);
        let later: Vec<_> = file.chain(own).chain(set).collect();
        let is_set_later = |name: &str| {
            let file = format!("{name}_file");
            later.iter().any(|setting| match setting {
                Setting::Value(key, ..) => {
                    key.section == "projects"
                        && key.entry == Some(0)
                        && (key.name == name || key.name == file)
                }
                Setting::Entry(..) | Setting::Clear(_) => false,
            })
        };
        let quickstart = Quickstart::new(&sources.env, is_set_later);
        let first = quickstart.settings.into_iter().filter_map(|setting| {
            let key = keys.parse(setting.path)?;
            let value = value(&keys, &key, setting.text);
            Some(Setting::Value(key, value, Origin::Variable(setting.variable.to_owned())))
        });
        let (mut values, entries) = fold(first.chain(later));
        values.retain(|key, (value, origin)| {
            let Some(message) = wrong_value(&keys, key, value, origin) else { return true };
            problems.push(LocatedProblem::new(origin.clone(), Some(key.to_string()), message));
            broken.insert(key.to_string());
            false
        });
        complete_entries(&keys, entries, &mut values, &mut problems, &mut broken);
        let origins = values.iter().map(|(key, (_, origin))| (key.to_string(), origin.clone())).collect();
        let config = match tree(&values).try_deserialize::<Config>() {
            Ok(config) => config,
            // Each value was checked alone, so this cannot happen.
            Err(error) => {
                problems.push(LocatedProblem::new(Origin::Default, None, explain(&error, &[])));
                Config::default()
            }
        };
        let config = Config {
            names_no_webhook: quickstart.names_no_webhook,
            file: sources.file.clone(),
            origins,
            ..config
        };
        Self { config, problems, broken, is_partial }
    }
}

/// Applies the settings in their order. Returns the values, and the entries of lists of tables with their places.
fn fold(settings: impl Iterator<Item = Setting>) -> (Values, BTreeMap<(String, usize), Origin>) {
    let mut values = Values::new();
    let mut entries: BTreeMap<(String, usize), Origin> = BTreeMap::new();
    for setting in settings {
        match setting {
            Setting::Value(key, value, origin) => drop(values.insert(key, (value, origin))),
            Setting::Entry(section, entry, origin) => drop(entries.insert((section, entry), origin)),
            Setting::Clear(section) => {
                values.retain(|key, _| key.section != section);
                entries.retain(|(other, _), _| *other != section);
            }
        }
    }
    for (key, (_, origin)) in &values {
        if let Some(entry) = key.entry {
            entries.entry((key.section.clone(), entry)).or_insert_with(|| origin.clone());
        }
    }
    (values, entries)
}

fn variables(keys: &Keys, env: &[(String, String)], problems: &mut Vec<LocatedProblem>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (name, text) in env {
        let text = secret::unwrapped(text);
        let section = name.strip_prefix("POLYHOOK__").map(str::to_lowercase).unwrap_or_default();
        match environment::key_of(keys, name, text) {
            Some(Ok(key)) => {
                let value = value(keys, &key, text);
                settings.push(Setting::Value(key, value, Origin::Variable(name.clone())));
            }
            Some(Err(_)) if clears(keys, &section, text) => settings.push(Setting::Clear(section)),
            Some(Err(problem)) => problems.push(problem),
            None => {}
        }
    }
    settings
}

fn flags(keys: &Keys, set: &[(String, String)], problems: &mut Vec<LocatedProblem>) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (path, text) in set {
        let (origin, text) = (Origin::Flag(path.clone()), secret::unwrapped(text));
        if let Some(key) = keys.parse(path) {
            let value = value(keys, &key, text);
            settings.push(Setting::Value(key, value, origin));
        } else if clears(keys, path, text) {
            settings.push(Setting::Clear(path.clone()));
        } else {
            let nearest = keys.nearest(path).map(|key| key.to_string());
            let message = file::unknown_key(path, nearest.as_deref());
            problems.push(LocatedProblem::new(origin, None, message).suggesting(nearest));
        }
    }
    settings
}

/// Returns whether this sets a list of tables to an empty one.
fn clears(keys: &Keys, section: &str, text: &str) -> bool {
    keys.section(section).is_some_and(|section| section.is_list) && matches!(text, "" | "[]")
}

/// Checks that the entries of lists are numbered without gaps and have the keys that they need.
fn complete_entries(
    keys: &Keys,
    entries: BTreeMap<(String, usize), Origin>,
    values: &mut Values,
    problems: &mut Vec<LocatedProblem>,
    broken: &mut BTreeSet<String>,
) {
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let mut gaps: BTreeMap<String, usize> = BTreeMap::new();
    for ((section, entry), origin) in entries {
        let expected = next.entry(section.clone()).or_default();
        if entry != *expected {
            let message =
                format!("there is no {section}[{expected}]; number the entries from 0, without gaps");
            problems.push(LocatedProblem::new(origin.clone(), Some(format!("{section}[{entry}]")), message));
            broken.insert(format!("{section}[{entry}]"));
            gaps.entry(section.clone()).or_insert(entry);
        }
        *expected = entry + 1;
        for name in keys.section(&section).into_iter().flat_map(Section::required) {
            let key = Key { section: section.clone(), entry: Some(entry), name: name.to_owned() };
            let (path, variable) = (key.to_string(), key.variable());
            values.entry(key).or_insert_with(|| {
                if broken.insert(path.clone()) {
                    let message = format!("this entry has no {name}; set it here or as {variable}");
                    problems.push(LocatedProblem::new(origin.clone(), Some(path), message));
                }
                (text_value(""), origin.clone())
            });
        }
    }
    // The entries of the configuration have no gaps.
    values.retain(|key, _| gaps.get(&key.section).is_none_or(|gap| key.entry < Some(*gap)));
}

/// Returns the values as a tree. The entries of lists are in order.
pub(super) fn tree(values: &Values) -> Value {
    let mut root: Map<String, Value> = Map::new();
    let table = |value: &mut Value, name: &str, field: &Value| {
        if let ValueKind::Table(table) = &mut value.kind {
            table.insert(name.to_owned(), field.clone());
        }
    };
    let new_table = || Value::new(None, ValueKind::Table(Map::new()));
    for (key, (value, _)) in values {
        let section = root.entry(key.section.clone());
        match key.entry {
            None => table(section.or_insert_with(new_table), &key.name, value),
            Some(entry) => {
                let list = section.or_insert_with(|| Value::new(None, ValueKind::Array(Vec::new())));
                if let ValueKind::Array(entries) = &mut list.kind {
                    if entries.len() <= entry {
                        entries.push(new_table());
                    }
                    entries.iter_mut().last().into_iter().for_each(|last| table(last, &key.name, value));
                }
            }
        }
    }
    Value::new(None, ValueKind::Table(root))
}

/// Converts text to a value. Text stays text: the typed configuration parses numbers and durations from it. A list is
/// written `a,b` or, if an item contains a comma, `["a", "b"]`.
fn value(keys: &Keys, key: &Key, text: &str) -> Value {
    let list = |items: Vec<&str>| {
        let items = items.into_iter().map(text_value).collect();
        Value::new(None, ValueKind::Array(items))
    };
    if text.starts_with('[')
        && let Ok(items) = serde_json::from_str::<Vec<String>>(text)
    {
        return list(items.iter().map(|item| secret::unwrapped(item)).collect());
    }
    let several_urls = key.section == "queue"
        && key.name == "url"
        && text.split(',').skip(1).any(|part| part.trim_start().starts_with("amqp"));
    if keys.is_list(key) || several_urls {
        return list(text.split(',').map(secret::unwrapped).filter(|item| !item.is_empty()).collect());
    }
    text_value(text)
}

pub(super) fn text_value(text: &str) -> Value {
    Value::new(None, ValueKind::String(text.to_owned()))
}

#[cfg(test)]
mod tests;
