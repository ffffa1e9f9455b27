//! The check of a single value, and what is wrong with it in plain words. No text shows the value: it may be a secret in the
//! wrong place.

use config::{ConfigError as MergeError, Value, ValueKind};

use super::{
    Config,
    keys::{Key, Keys, Section},
    layers::{Values, text_value, tree},
    origin::Origin,
};
use crate::secret::Secret;

const SIZE: &str = "this is not a size; write it as 1MiB";

/// Returns what is wrong with a value.
pub(super) fn wrong_value(keys: &Keys, key: &Key, value: &Value, origin: &Origin) -> Option<String> {
    // Variables and flags have only text.
    let is_text = matches!(origin, Origin::Variable(_) | Origin::Flag(_));
    if is_text && let Some(problem) = copy_mistake(key, value, origin) {
        return Some(format!("{problem}; give the value alone"));
    }
    let schema = keys.at(key)?;
    let has_type = accepts(keys, schema, &value.kind, is_text);
    let choices = keys.choices(key);
    // For a number instead of text, the value's own error has an example.
    let is_number = matches!(value.kind, ValueKind::I64(_) | ValueKind::Float(_));
    let is_number_for_text = is_number && choices.is_empty() && has(schema, "string");
    if !has_type && !is_number_for_text {
        return Some(expectation(keys, schema, &value.kind, &choices));
    }
    // A configuration of this value alone. An entry of a list also has what it needs.
    let required = keys.section(&key.section).into_iter().filter(|section| section.is_list);
    let required = required.flat_map(Section::required).map(|name| {
        let key = Key { section: key.section.clone(), entry: Some(0), name: name.to_owned() };
        (key, (text_value(""), Origin::Default))
    });
    let mut alone: Values = required.collect();
    alone.insert(Key { entry: key.entry.map(|_| 0), ..key.clone() }, (value.clone(), Origin::Default));
    match tree(&alone).try_deserialize::<Config>() {
        Err(error) => Some(explain(&error, &choices)),
        Ok(_) => (!has_type).then(|| expectation(keys, schema, &value.kind, &choices)),
    }
}

/// Returns whether the schema has this type, perhaps among others.
fn has(schema: &serde_json::Value, name: &str) -> bool {
    match schema.get("type") {
        Some(serde_json::Value::Array(types)) => types.iter().any(|kind| kind == name),
        kind => kind.is_some_and(|kind| kind == name),
    }
}

/// Returns the alternatives of a schema.
fn alternatives(schema: &serde_json::Value) -> Option<&Vec<serde_json::Value>> {
    schema.get("anyOf").or_else(|| schema.get("oneOf"))?.as_array()
}

/// Returns whether a value has a type of the schema. `is_text`: numbers and flags are written as text.
fn accepts(keys: &Keys, schema: &serde_json::Value, value: &ValueKind, is_text: bool) -> bool {
    let schema = keys.resolve(schema);
    if let Some(alternatives) = alternatives(schema) {
        return alternatives.iter().any(|schema| accepts(keys, schema, value, is_text));
    }
    match value {
        ValueKind::Boolean(_) => has(schema, "boolean"),
        ValueKind::I64(_) => has(schema, "integer") || has(schema, "number"),
        ValueKind::Float(_) => has(schema, "number"),
        ValueKind::Array(items) => {
            let item_schema = schema.get("items");
            let is_item =
                |item: &Value| item_schema.is_none_or(|schema| accepts(keys, schema, &item.kind, is_text));
            has(schema, "array") && items.iter().all(is_item)
        }
        ValueKind::String(text) => {
            has(schema, "string")
                || is_text
                    && (has(schema, "boolean") && is_flag(text)
                        || has(schema, "integer") && text.parse::<i128>().is_ok()
                        || has(schema, "number") && text.parse::<f64>().is_ok())
        }
        _ => false,
    }
}

fn is_flag(text: &str) -> bool {
    let words = ["true", "false", "on", "off", "yes", "no", "1", "0"];
    words.iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// Describes the values that a key accepts.
fn expectation(keys: &Keys, schema: &serde_json::Value, value: &ValueKind, choices: &[&str]) -> String {
    if choices.len() > 1 {
        return format!("this is not one of {}", choices.join(", "));
    }
    let schema = keys.resolve(schema);
    let is_any = |name| {
        has(schema, name)
            || alternatives(schema).into_iter().flatten().any(|schema| has(keys.resolve(schema), name))
    };
    let is_list = matches!(value, ValueKind::Array(_));
    match (is_any("string"), is_any("array")) {
        (true, false) if is_any("integer") => SIZE,
        (_, true) if is_list => "every item of this list must be text in quotes",
        (true, true) => "this must be text in quotes, or a list of such texts",
        (false, true) => "this must be a list, such as [\"a\", \"b\"]",
        (true, false) => "this must be text in quotes",
        _ if is_any("boolean") => "this must be true or false",
        _ if is_any("integer") => "this must be a whole number",
        _ => "this must be a number",
    }
    .to_owned()
}

/// Returns what was copied together with a value of a variable or a flag.
fn copy_mistake(key: &Key, value: &Value, origin: &Origin) -> Option<&'static str> {
    let is_quickstart = matches!(origin, Origin::Variable(name) if name.starts_with("POLYAI_"));
    // The ids and secrets that PolyAI issues contain no spaces. Other values may.
    let is_polyais = is_quickstart
        || matches!((&*key.section, &*key.name), ("signature", "secrets") | ("trigger" | "console", "token"))
        || key.name.ends_with("api_key");
    let problem_of = |item: &Value| {
        let ValueKind::String(text) = &item.kind else { return None };
        let secret = Secret::new(text.as_str());
        if is_polyais { secret.token_problem() } else { secret.password_problem() }
    };
    match &value.kind {
        ValueKind::Array(items) => items.iter().find_map(problem_of),
        _ => problem_of(value),
    }
}

/// Describes an invalid value without showing it.
pub(super) fn explain(error: &MergeError, choices: &[&str]) -> String {
    match error {
        MergeError::Type { expected, .. } => in_plain_words(expected),
        // The library's message would repeat the unknown word.
        MergeError::At { .. } if choices.len() > 1 => format!("this is not one of {}", choices.join(", ")),
        MergeError::At { error, .. } => explain(error, choices),
        other => without_value(&other.to_string()),
    }
}

/// Describes what serde and the types of the libraries expect.
fn in_plain_words(expected: &str) -> String {
    let is_integer_type = |text: &str| {
        text.strip_prefix(['u', 'i']).is_some_and(|bits| bits == "size" || bits.parse::<u8>().is_ok())
    };
    match expected {
        "a sequence" => "this must be a list".to_owned(),
        "a boolean" => "this must be true or false".to_owned(),
        "a duration" => "this is not a duration, such as 30s, 5m or 2h".to_owned(),
        _ if expected.contains("parsable string") => SIZE.to_owned(),
        _ if expected.contains("nonzero") => "this must be a whole number above 0".to_owned(),
        _ if expected.contains("signed") || is_integer_type(expected) => {
            "this must be a whole number that is neither negative nor too large".to_owned()
        }
        _ if expected.contains("integer") => "this must be a whole number".to_owned(),
        _ => format!("this is not {expected}"),
    }
}

/// Returns an error text without the text between double quotes, which is how serde shows a value.
fn without_value(text: &str) -> String {
    if text.contains("variant") {
        return "this word is not allowed here".to_owned();
    }
    if text.contains("relative URL without a base") {
        return "this is not a whole URL; write https://HOST".to_owned();
    }
    if text.contains("socket address") {
        return "this is not an address with a port, such as 127.0.0.1:8080".to_owned();
    }
    if text.contains("SI unit") {
        return SIZE.to_owned();
    }
    if let Some((_, expected)) = text.split_once(", expected ") {
        return in_plain_words(expected.split(['"', '`']).next().unwrap_or_default().trim_end());
    }
    text.split('"').enumerate().map(|(index, part)| if index % 2 == 0 { part } else { "…" }).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::keys::Keys, *};

    fn problem_of(path: &str, value: &str, origin: &Origin) -> Option<String> {
        let keys = Keys::new();
        let key = keys.parse(path).unwrap();
        let value = match origin {
            Origin::File(..) => {
                let file = tempfile::NamedTempFile::new().unwrap();
                let section = if key.entry.is_some() { "[[projects]]" } else { "" };
                let path = path.replace("projects[0].", "");
                std::fs::write(file.path(), format!("{section}\n{path} = {value}\n")).unwrap();
                super::super::file::FileLayer::read(&keys, file.path()).values.remove(0).1
            }
            _ => text_value(value),
        };
        wrong_value(&keys, &key, &value, origin)
    }

    #[test]
    fn a_value_of_another_type_is_an_error_in_plain_words() {
        let (file, flag) = (Origin::File("f".into(), None), Origin::Flag("k".into()));
        let (whole, flags) = ("a whole number", "true or false");
        for (path, value, origin, words) in [
            ("worker.concurrency", "8.5", &file, whole),
            ("worker.concurrency", "\"8\"", &file, whole),
            ("worker.concurrency", "true", &file, whole),
            ("worker.concurrency", "-1", &file, whole),
            ("worker.concurrency", "[8]", &file, whole),
            ("worker.concurrency", "8.5", &flag, whole),
            ("worker.concurrency", "yes", &flag, whole),
            ("worker.concurrency", "-1", &flag, whole),
            ("server.max_connections", "1.5", &file, whole),
            ("spool.drain_rate", "0", &file, "a whole number above 0"),
            ("spool.drain_rate", "9999999999", &file, "too large"),
            ("worker.redacted", "\"yes\"", &file, flags),
            ("worker.redacted", "1", &file, flags),
            ("worker.redacted", "0.5", &file, flags),
            ("worker.redacted", "maybe", &flag, flags),
            ("archive.allow_http", "\"false\"", &file, flags),
            ("retry.jitter", "\"0.5\"", &file, "a number"),
            ("retry.jitter", "true", &file, "a number"),
            ("retry.jitter", "much", &flag, "a number"),
            ("signature.secrets", "\"hunter2-hunter2-hunter2\"", &file, "this must be a list"),
            ("signature.secrets", "[1]", &file, "every item"),
            ("retry.delays", "[5]", &file, "every item"),
            ("worker.environments", "true", &file, "this must be a list"),
            ("queue.url", "5", &file, "text in quotes, or a list"),
            ("queue.url", "[5]", &file, "every item"),
            ("queue.prefix", "true", &file, "text in quotes"),
            ("projects[0].account_id", "12", &file, "text in quotes"),
            ("projects[0].api_key", "1.5", &file, "text in quotes"),
            ("server.ack_budget", "5", &file, "such as 30s"),
            ("server.listen", "8080", &file, "127.0.0.1:8080"),
            ("server.body_limit", "true", &file, "write it as 1MiB"),
            ("server.body_limit", "\"much\"", &file, "write it as 1MiB"),
            ("server.body_limit", "much", &flag, "write it as 1MiB"),
            ("signature.scheme", "5", &file, "one of auto, timestamped, body"),
            ("projects[0].region", "true", &file, "one of us, uk, eu, studio"),
            ("archive.file_mode", "600", &file, "in quotes"),
        ] {
            let problem = problem_of(path, value, origin).unwrap_or_else(|| panic!("{path} = {value}"));
            assert!(problem.contains(words) && !problem.contains("hunter2"), "{path} = {value}: {problem}");
        }
    }

    #[test]
    fn a_value_of_the_right_type_is_accepted() {
        let (file, flag) = (Origin::File("f".into(), None), Origin::Flag("k".into()));
        for (path, value, origin) in [
            ("worker.concurrency", "8", &file),
            ("worker.concurrency", "8", &flag),
            ("worker.redacted", "true", &file),
            ("worker.redacted", "yes", &flag),
            ("retry.jitter", "0", &file),
            ("retry.jitter", "0.5", &file),
            ("retry.jitter", "0.5", &flag),
            ("server.body_limit", "1048576", &file),
            ("server.body_limit", "\"1MiB\"", &file),
            ("server.body_limit", "1048576", &flag),
            ("queue.url", "\"amqp://a\"", &file),
            ("queue.url", "[\"amqp://a\", \"amqp://b\"]", &file),
            ("projects[0].api_key", "\"k\"", &file),
            ("projects[0].region", "\"uk\"", &file),
        ] {
            assert_eq!(problem_of(path, value, origin), None, "{path} = {value}");
        }
    }
}
