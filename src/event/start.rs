//! The start of the conversation that an event is about.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// The fields of an event that may name the start.
#[derive(Default, Deserialize)]
#[serde(default)]
struct StartFields {
    #[serde(alias = "startedAt")]
    started_at: Value,
    data: Value,
}

/// Reads the start of the conversation. Returns `None` if the event does not state it in a form that polyhook knows.
pub fn started_at(body: &[u8]) -> Option<Timestamp> {
    let event: StartFields = serde_json::from_slice(body).ok()?;
    let inner = event.data.get("started_at").or_else(|| event.data.get("startedAt"));
    [inner, Some(&event.started_at)].into_iter().flatten().find_map(|value| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_start_where_the_event_names_it() {
        let start = "2026-11-03T23:59:58.5Z".parse().ok();
        for body in [
            r#"{"data":{"started_at":"2026-11-03T23:59:58.500Z"}}"#,
            r#"{"data":{"startedAt":"2026-11-03T23:59:58.500000+00:00"}}"#,
            r#"{"started_at":"2026-11-03T23:59:58.5Z","data":{"started_at":7}}"#,
            r#"{"startedAt":"2026-11-03T23:59:58.5Z","data":[1]}"#,
        ] {
            assert_eq!(started_at(body.as_bytes()), start, "{body}");
        }
        for body in [r#"{"data":{"started_at":"yesterday"}}"#, r#"{"data":null}"#, "[]", "no JSON"] {
            assert_eq!(started_at(body.as_bytes()), None, "{body}");
        }
    }
}
