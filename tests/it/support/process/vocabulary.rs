//! A check that every `--json` output uses the names and types of the table in docs/cli.md.

use std::{collections::HashMap, sync::LazyLock};

use serde_json::Value;

/// The type of each name.
static TYPES: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| {
    let page = include_str!("../../../../docs/cli.md");
    let (_, section) = page.split_once("\n## JSON\n").expect("a section about JSON");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?, cells.next()?))
    });
    let types: HashMap<_, _> = rows
        .flat_map(|(names, kind)| names.split(", ").map(move |name| (name.trim_matches('`'), kind)))
        .collect();
    assert!(types.len() > 50, "the table was not found");
    types
});

/// Panics if a line of a `--json` output has a name that the table lacks, or a value of another type.
#[track_caller]
pub(super) fn assert_documented(arguments: &[String], stdout: &str) {
    // The configuration has its own schema.
    let is_configuration = arguments.starts_with(&["config".to_owned(), "show".to_owned()]);
    if is_configuration || !arguments.iter().any(|argument| argument == "--json") {
        return;
    }
    for object in stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        assert_names(&object, &|| arguments.join(" "));
    }
}

#[track_caller]
fn assert_names(value: &Value, place: &dyn Fn() -> String) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| assert_names(value, place)),
        Value::Object(members) => {
            for (name, value) in members {
                let expected = TYPES.get(&**name).unwrap_or_else(|| {
                    panic!(
                        "docs/cli.md does not have the name {name:?}; add it, or use one that it has: {}",
                        place()
                    )
                });
                let actual = match value {
                    Value::Null => continue,
                    Value::Bool(_) => "boolean",
                    Value::Number(_) => "number",
                    Value::String(_) => "text",
                    Value::Array(_) => "list",
                    Value::Object(_) => "object",
                };
                // The members of a map are not names, and those of a document are documented elsewhere.
                let is_map = actual == "object" && ["map", "document"].contains(expected);
                let is_time = *expected == "time"
                    && value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok());
                assert!(
                    is_map || is_time || *expected == actual,
                    "{name:?} is not a {expected}: {}",
                    place()
                );
                if !is_map {
                    assert_names(value, place);
                }
            }
        }
        _ => {}
    }
}
