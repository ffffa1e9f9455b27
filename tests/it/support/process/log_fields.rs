//! The check of every line of a JSON log that a test causes.

use serde_json::{Map, Value};

/// Panics if a field of a log line is empty, or is a number that is written as a text.
#[track_caller]
pub(super) fn assert_log_fields(log: &str) {
    for line in log.lines() {
        let Ok(fields) = serde_json::from_str::<Map<String, Value>>(line) else { continue };
        for (name, value) in &fields {
            let is_number = |text: &str| text.parse::<f64>().is_ok() && !name.ends_with("id");
            let is_bad = match value {
                Value::Null => true,
                Value::String(text) => text.is_empty() || is_number(text),
                _ => false,
            };
            assert!(!is_bad, "{name} is empty, or a number as a text: {line}");
        }
    }
}
