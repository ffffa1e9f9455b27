//! Formats the fields of a line of the pretty log format, with text from outside escaped.
//!
//! The library escapes some control characters in messages, but not in other fields, and no marks of the writing
//! direction.

use std::fmt;

use tracing::field::Field;
use tracing_subscriber::{
    field::MakeExt,
    fmt::{
        FormatFields,
        format::{Writer, debug_fn},
    },
};

use crate::terminal;

/// Returns a formatter for a message and `name=value` pairs.
pub(super) fn escaped() -> impl for<'a> FormatFields<'a> {
    debug_fn(write_field).delimited(" ")
}

fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    let text = terminal::escape(&text);
    match field.name() {
        "message" => writer.write_str(&text),
        // Where a line of the `log` crate comes from.
        name if name.starts_with("log.") => Ok(()),
        name if writer.has_ansi_escapes() => {
            write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m{text}")
        }
        name => write!(writer, "{name}={text}"),
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
                .fmt_fields(escaped())
                .with_ansi(ansi)
                .with_target(false)
                .with_writer(move || writer.clone());
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                let id = "evt\u{202e}\u{1b}[8m\nWARN forged";
                let error = std::io::Error::other(id);
                tracing::info!(event.id = id, event.other = %id, %error, bytes = 7, "message {id}");
            });
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains('\u{202e}') && !text.contains("\u{1b}[8m"), "{text:?}");
            assert_eq!(text.matches("evt\\u{202e}\\u{1b}[8m\\nWARN forged").count(), 4, "{text:?}");
            assert_eq!(text.contains("bytes=7"), !ansi, "{text:?}");
        }
    }
}
