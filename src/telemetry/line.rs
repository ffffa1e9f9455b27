//! Writes a log event as one JSON object per line: the event's fields next to its time, level and target.
//!
//! The result is the same as that of [`tracing_subscriber`]'s flattened JSON format without spans. Its formatter writes
//! through several adapters, a few bytes at a time, and was the largest cost of a delivery (27,000 instructions).

use std::{cell::RefCell, fmt, io::Write};

use jiff::Timestamp;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent;
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
            static LINE: RefCell<Line> = RefCell::default();
        }
        // Nothing can be reported from here: this is the log. A value that logs while it is formatted finds the buffer in
        // use, and a thread that ends has none any more; such a line is dropped.
        let _ = LINE.try_with(|line| {
            let Ok(mut line) = line.try_borrow_mut() else { return };
            line.format(event, Clock::System.now());
            let _ = self.0.make_writer().write_all(&line.bytes);
        });
    }
}

/// The buffer of a line, and of what the next line may need again.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    /// The text of a value that is only known by its `Debug` form.
    value: String,
    /// A second, and its text without the fraction. Most lines have the same as the one before.
    second: i64,
    second_text: String,
}

impl Line {
    /// Replaces the content by the line of an event at the time `now`.
    fn format(&mut self, event: &Event<'_>, now: Timestamp) {
        self.bytes.clear();
        self.bytes.shrink_to(RETAINED_LINE_BYTES);
        self.value.shrink_to(RETAINED_LINE_BYTES);
        // Events of the `log` crate carry their origin in fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        self.bytes.extend_from_slice(b"{\"timestamp\":\"");
        self.push_time(now);
        self.bytes.extend_from_slice(b"\",\"level\":\"");
        self.bytes.extend_from_slice(metadata.level().as_str().as_bytes());
        self.bytes.push(b'"');
        event.record(self);
        self.push_member("target", metadata.target());
        self.bytes.extend_from_slice(b"}\n");
    }

    /// Adds a time with microseconds.
    fn push_time(&mut self, now: Timestamp) {
        if self.second != now.as_second() || self.second_text.is_empty() {
            self.second = now.as_second();
            let whole = Timestamp::from_second(self.second).unwrap_or(now).to_string();
            whole.trim_end_matches('Z').clone_into(&mut self.second_text);
        }
        self.bytes.extend_from_slice(self.second_text.as_bytes());
        let _ = write!(self.bytes, ".{:06}Z", now.subsec_microsecond());
    }

    /// Adds a member. The name is a constant of the program and needs no escapes.
    fn push_member(&mut self, name: &str, value: impl serde::Serialize) {
        self.bytes.extend_from_slice(b",\"");
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut self.bytes, &value);
    }
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push_member(field.name(), value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push_member(field.name(), value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push_member(field.name(), value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push_member(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push_member(field.name(), value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.value);
        text.clear();
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{value:?}"));
        self.push_member(field.name(), &text);
        self.value = text;
    }
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
