//! Formats a log event as one JSON object per line: the event's fields next to its time, level and target.
//!
//! The result is the same as that of [`tracing_subscriber`]'s flattened JSON format without spans. Its formatter writes
//! through several adapters, a few bytes at a time, and was the largest cost of a delivery (27,000 instructions).

use std::fmt;

use serde::{Serializer, ser::SerializeMap};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_serde::{AsSerde, SerdeMapVisitor};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::clock::Clock;

/// Initial capacity of a line; few lines are longer.
const INITIAL_LINE_BYTES: usize = 640;

/// The event formatter of the JSON log format.
#[derive(Debug)]
pub(super) struct JsonLine;

impl JsonLine {
    fn format(event: &Event<'_>) -> serde_json::Result<Vec<u8>> {
        // Events of the `log` crate carry their origin in fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut line = Vec::with_capacity(INITIAL_LINE_BYTES);
        let mut serializer = serde_json::Serializer::new(&mut line);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("timestamp", &format!("{:.6}", Clock::System.now()))?;
        map.serialize_entry("level", &metadata.level().as_serde())?;
        let mut fields = SerdeMapVisitor::new(map);
        event.record(&mut fields);
        let mut map = fields.take_serializer()?;
        map.serialize_entry("target", metadata.target())?;
        map.end()?;
        line.push(b'\n');
        Ok(line)
    }
}

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let line = Self::format(event).map_err(|_| fmt::Error)?;
        writer.write_str(str::from_utf8(&line).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing_subscriber::{fmt, layer::SubscriberExt};

    use super::*;

    /// Collects what a subscriber writes.
    #[derive(Clone, Default)]
    pub(in crate::telemetry) struct Lines(pub(in crate::telemetry) Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn formats_every_field_into_one_json_object() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = fmt::layer().event_format(JsonLine).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let error = std::io::Error::other("a \"quoted\"\nreason");
            tracing::warn!(event.id = "é\u{1}", body_bytes = 7, ratio = 0.5, ok = true, %error, "message {}", 1);
            tracing::info!(target: "elsewhere", "second");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let mut objects = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut first = objects.next().unwrap();
        let time = first.as_object_mut().unwrap().remove("timestamp").unwrap();
        let time = time.as_str().unwrap();
        assert!(time.len() == 27 && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
        assert_eq!(
            first,
            json!({
                "level": "WARN", "message": "message 1", "event.id": "é\u{1}", "body_bytes": 7, "ratio": 0.5, "ok": true,
                "error": "a \"quoted\"\nreason", "target": "polyhook::telemetry::line::tests",
            })
        );
        assert_eq!(objects.next().unwrap()["target"], "elsewhere");
        assert_eq!(objects.next(), None);
    }
}
