//! Formats the fields of a line of the pretty log format, with text from outside escaped.
//!
//! A value that is empty is left out. The library escapes some control characters in messages, but not in other fields, and no marks of the writing
//! direction.

use std::fmt;

use jiff::tz::TimeZone;
use tracing::field::{Field, Visit};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{FormatFields, format::Writer, time::FormatTime},
};

use crate::{clock::Clock, terminal};

/// A formatter for a message and `name=value` pairs. It leaves empty values out.
#[derive(Debug)]
pub(super) struct EscapedFields;

impl<'w> FormatFields<'w> for EscapedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut line = FieldWriter { writer, is_first: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

/// A formatter for the message alone, with the error that it does not name: each message makes sense without its fields.
#[derive(Debug)]
pub(super) struct MessageOnly;

impl<'w> FormatFields<'w> for MessageOnly {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut texts = MessageAndError::default();
        fields.record(&mut texts);
        let MessageAndError { message, error } = texts;
        writer.write_str(&terminal::escape(&message))?;
        if error.is_empty() || message.contains(&error) {
            return Ok(());
        }
        write!(writer, ": {}", terminal::escape(&error))
    }
}

#[derive(Default)]
struct MessageAndError {
    message: String,
    error: String,
}

impl Visit for MessageAndError {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            "error" => self.error = format!("{value:?}"),
            _ => {}
        }
    }
}

/// The time of day in UTC.
#[derive(Debug)]
pub(super) struct ShortTime;

impl FormatTime for ShortTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let now = Clock::System.now().to_zoned(TimeZone::UTC);
        write!(writer, "{}", now.strftime("%H:%M:%S"))
    }
}

struct FieldWriter<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl FieldWriter<'_> {
    fn write(&mut self, name: &str, text: &str) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        let text = terminal::escape(text);
        match name {
            "message" => self.writer.write_str(&text),
            name if self.writer.has_ansi_escapes() => {
                write!(self.writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{text}")
            }
            name => write!(self.writer, "{name}={text}"),
        }
    }
}

impl Visit for FieldWriter<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !value.is_empty() {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        // The fields `log.…` say where a line of the `log` crate comes from.
        if self.result.is_ok() && !text.is_empty() && !field.name().starts_with("log.") {
            self.result = self.write(field.name(), &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{fmt, layer::SubscriberExt};

    use super::*;
    use crate::telemetry::line::tests::Lines;

    #[test]
    fn escapes_text_from_outside() {
        for ansi in [false, true] {
            let lines = Lines::default();
            let writer = lines.clone();
            let layer = fmt::layer()
                .fmt_fields(EscapedFields)
                .with_ansi(ansi)
                .with_target(false)
                .with_writer(move || writer.clone());
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                let id = "evt\u{202e}\u{1b}[8m\nWARN forged";
                let error = std::io::Error::other(id);
                tracing::info!(event.id = id, event.other = %id, %error, bytes = 7, none = "", no = %"", "message {id}");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains('\u{202e}') && !text.contains("\u{1b}[8m"), "{text:?}");
            assert_eq!(text.matches("evt\\u{202e}\\u{1b}[8m\\nWARN forged").count(), 4, "{text:?}");
            assert!(text.contains("bytes") && !text.contains("no"), "{text:?}");
            assert_eq!(text.contains("bytes=7"), !ansi, "{text:?}");
        }
    }
}
