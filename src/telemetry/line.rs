//! Writes a log event as one JSON object per line: the event's fields next to its time, level and target.
//!
//! A field without a value, or with an empty text, is left out. Numbers of every size are JSON numbers.
//!
//! The formatter of [`tracing_subscriber`] writes through several adapters, a few bytes at a time, and was the largest
//! cost of a delivery (27,000 instructions).

use std::{cell::RefCell, fmt, io::Write};

use jiff::Timestamp;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent;
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::Context};

use super::ecs;
use crate::clock::Clock;

/// Capacity that a thread's buffer keeps. Few lines are longer.
const RETAINED_LINE_BYTES: usize = 4 << 10;

/// The names of the fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FieldNames {
    /// As in the program.
    #[default]
    Own,
    /// Those of the Elastic Common Schema.
    Ecs,
}

/// The layer of the log formats in JSON.
#[derive(Debug)]
pub(super) struct JsonLines<W> {
    pub(super) writer: W,
    pub(super) names: FieldNames,
}

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
            line.format(event, self.names, Clock::System.now());
            let _ = self.writer.make_writer().write_all(&line.bytes);
        });
    }
}

/// The buffer of a line, and of what the next line may need again.
#[derive(Default)]
struct Line {
    bytes: Vec<u8>,
    names: FieldNames,
    /// The text of a value that is only known by its `Debug` form.
    value: String,
    /// A second, and its text without the fraction. Most lines have the same as the one before.
    second: i64,
    second_text: String,
}

impl Line {
    /// Replaces the content by the line of an event at the time `now`.
    fn format(&mut self, event: &Event<'_>, names: FieldNames, now: Timestamp) {
        self.bytes.clear();
        self.bytes.shrink_to(RETAINED_LINE_BYTES);
        self.value.shrink_to(RETAINED_LINE_BYTES);
        self.names = names;
        // Events of the `log` crate carry their origin in fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        match names {
            FieldNames::Own => {
                self.bytes.extend_from_slice(b"{\"timestamp\":\"");
                self.push_time(now);
                self.bytes.extend_from_slice(b"\",\"level\":\"");
                self.bytes.extend_from_slice(metadata.level().as_str().as_bytes());
                self.bytes.push(b'"');
                event.record(self);
                self.push_member("", "target", metadata.target());
            }
            FieldNames::Ecs => {
                self.bytes.extend_from_slice(b"{\"@timestamp\":\"");
                self.push_time(now);
                self.bytes.push(b'"');
                self.push_member("", "log.level", metadata.level().as_str().to_ascii_lowercase());
                event.record(self);
                self.push_member("", "log.logger", metadata.target());
                self.push_member("", "service.name", "polyhook");
                self.push_member("", "service.version", env!("CARGO_PKG_VERSION"));
                self.push_member("", "ecs.version", ecs::VERSION);
            }
        }
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
    fn push_member(&mut self, prefix: &str, name: &str, value: impl serde::Serialize) {
        self.bytes.extend_from_slice(b",\"");
        self.bytes.extend_from_slice(prefix.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut self.bytes, &value);
    }

    /// Adds a field of the event.
    fn push_field(&mut self, field: &Field, value: impl serde::Serialize) {
        let (prefix, name) = match self.names {
            FieldNames::Own => ("", field.name()),
            FieldNames::Ecs => ecs::name(field.name()),
        };
        self.push_member(prefix, name, value);
    }
}

/// Returns true if a field belongs to the origin of a line of the `log` crate, which is in the metadata, too.
fn is_origin(field: &Field) -> bool {
    field.name().starts_with("log.")
}

impl Visit for Line {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no other numbers.
        if value.is_finite() {
            self.push_field(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push_field(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if !is_origin(field) {
            self.push_field(field, value);
        }
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.push_field(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.push_field(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push_field(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if !value.is_empty() && !is_origin(field) {
            self.push_field(field, value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = std::mem::take(&mut self.value);
        text.clear();
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{value:?}"));
        self.record_str(field, &text);
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

    /// Returns the lines that `log` causes.
    fn written(names: FieldNames, log: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = JsonLines { writer: move || writer.clone(), names };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), log);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    #[track_caller]
    fn take_time(line: &mut Value, name: &str) {
        let time = line.as_object_mut().unwrap().remove(name).unwrap();
        let time = time.as_str().unwrap();
        assert!(time.len() == 27 && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    }

    #[test]
    fn formats_every_field_into_one_json_object() {
        let mut lines = written(FieldNames::Own, || {
            let error = std::io::Error::other("a \"quoted\"\nreason");
            tracing::warn!(event.id = "é\u{1}", body_bytes = 7, ratio = 0.5, ok = true, %error, "message {}", 1);
            tracing::info!(target: "elsewhere", "second");
        });
        take_time(&mut lines[0], "timestamp");
        assert_eq!(
            lines[0],
            json!({
                "level": "WARN", "message": "message 1", "event.id": "é\u{1}", "body_bytes": 7, "ratio": 0.5, "ok": true,
                "error": "a \"quoted\"\nreason", "target": "polyhook::telemetry::line::tests",
            })
        );
        assert_eq!((lines.len(), &lines[1]["target"]), (2, &json!("elsewhere")));
    }

    #[test]
    fn leaves_empty_fields_out_and_keeps_numbers() {
        let mut lines = written(FieldNames::Own, || {
            let (none, nothing): (Option<u16>, Option<&str>) = (None, None);
            let milliseconds = std::time::Duration::from_millis(1500).as_millis();
            tracing::info!(none, nothing, empty = "", shown = %"", ratio = f64::NAN, milliseconds, below = -1_i128, some = Some(404_u16), "said");
        });
        take_time(&mut lines[0], "timestamp");
        let target = "polyhook::telemetry::line::tests";
        assert_eq!(
            lines[0],
            json!({"level": "INFO", "message": "said", "milliseconds": 1500, "below": -1, "some": 404, "target": target})
        );
    }

    #[test]
    fn names_fields_as_ecs_does() {
        let mut lines = written(FieldNames::Ecs, || {
            tracing::error!(
                event.id = "evt-1",
                status = 401_u16,
                trace_id = "4bf9",
                span_id = "",
                error = "no",
                conversation.id = "CA1",
                outcome = "dead",
                elapsed_ms = 7_u64,
                "job"
            );
        });
        take_time(&mut lines[0], "@timestamp");
        assert_eq!(
            lines[0],
            json!({
                "log.level": "error", "log.logger": "polyhook::telemetry::line::tests", "message": "job",
                "ecs.version": "8.11.0", "service.name": "polyhook", "service.version": env!("CARGO_PKG_VERSION"),
                "event.id": "evt-1", "http.response.status_code": 401, "trace.id": "4bf9", "error.message": "no",
                "polyhook.conversation.id": "CA1", "polyhook.outcome": "dead", "polyhook.elapsed_ms": 7,
            })
        );
    }
}
