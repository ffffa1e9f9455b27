//! Writes a log event as one JSON object per line: the event's fields next to its time, level and target.
//!
//! The result is the same as that of [`tracing_subscriber`]'s flattened JSON format without spans. Its formatter writes
//! through several adapters, a few bytes at a time, and was the largest cost of a delivery (27,000 instructions).

use std::{cell::RefCell, io::Write};

use serde::{Serializer, ser::SerializeMap};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent;
use tracing_serde::{AsSerde, SerdeMapVisitor};
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::Context};

use crate::clock::Clock;

/// Capacity that a thread's buffer keeps. Few lines are longer.
const RETAINED_LINE_BYTES: usize = 4 << 10;

/// The layer of the JSON log format.
#[derive(Debug)]
pub(super) struct JsonLines<W>(pub(super) W);

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        // Nothing can be reported from here: this is the log. A value that logs while it is formatted finds the buffer in
        // use, and a thread that ends has none any more; such a line is dropped.
        let _ = LINE.try_with(|line| {
            let Ok(mut line) = line.try_borrow_mut() else { return };
            if format(event, &mut line).is_ok() {
                let _ = self.0.make_writer().write_all(&line);
            }
            line.clear();
            line.shrink_to(RETAINED_LINE_BYTES);
        });
    }
}

fn format(event: &Event<'_>, line: &mut Vec<u8>) -> serde_json::Result<()> {
    // Events of the `log` crate carry their origin in fields.
    let normalized = event.normalized_metadata();
    let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
    let mut serializer = serde_json::Serializer::new(&mut *line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("timestamp", &format_args!("{:.6}", Clock::System.now()))?;
    map.serialize_entry("level", &metadata.level().as_serde())?;
    let mut fields = SerdeMapVisitor::new(map);
    event.record(&mut fields);
    let mut map = fields.take_serializer()?;
    map.serialize_entry("target", metadata.target())?;
    map.end()?;
    line.push(b'\n');
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::{Value, json};
    use tracing_subscriber::layer::SubscriberExt;

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
        let layer = JsonLines(move || writer.clone());
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
