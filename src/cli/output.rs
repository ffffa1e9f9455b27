//! What commands print: results on standard output, errors on standard error, colours only where a terminal
//! shows them and `NO_COLOR` does not forbid it. A reader that goes away ends nothing.

use std::{
    fmt::Display,
    io::{self, Write},
};

use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

/// One line on standard output.
pub fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// One line on standard output; false once nobody reads it any more.
pub fn try_line(text: impl Display) -> bool {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_ok()
}

/// Bytes on standard output, as they are.
pub fn raw(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// One JSON value on one line of standard output.
pub fn json(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        line(text);
    }
}

/// One JSON value, readable.
pub fn pretty_json(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        line(text);
    }
}

/// What went wrong, on standard error; nothing for an empty text.
pub fn error(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut stderr = io::stderr().lock();
    let label = "error:".if_supports_color(Stream::Stderr, |label| label.red()).to_string();
    for text in text.lines() {
        let _ = writeln!(stderr, "{label} {text}");
    }
}

/// Something to know that is no result, on standard error.
pub fn note(text: &str) {
    let text = text.if_supports_color(Stream::Stderr, |text| text.dimmed()).to_string();
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Good news.
pub fn good(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.green()).to_string()
}

/// News to think about.
pub fn caution(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.yellow()).to_string()
}

/// Bad news.
pub fn bad(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.red()).to_string()
}

/// What may become bad.
pub fn warn(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.yellow()).to_string()
}

/// What matters less.
pub fn dim(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.dimmed()).to_string()
}

/// What to look at.
pub fn strong(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.bold()).to_string()
}

/// A text from outside, which must not move a terminal's cursor.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
