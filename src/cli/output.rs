//! Prints results on standard output and errors on standard error.
//!
//! Everything that is printed passes [`terminal`], because ids, reasons and names may come from anybody. Only this module's
//! own colours pass it; they are used only on a terminal and not if `NO_COLOR` is set. A closed pipe is not an error: the
//! command continues without output.

use std::{
    fmt::Display,
    io::{self, Write},
};

use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

use crate::terminal;

/// Prints a line on standard output.
pub fn line(text: impl Display) {
    let _ = write_line(text);
}

/// Prints a line on standard output and returns false if the reader has closed it.
pub fn try_line(text: impl Display) -> bool {
    write_line(text).and_then(|()| io::stdout().flush()).is_ok()
}

fn write_line(text: impl Display) -> io::Result<()> {
    let text = text.to_string();
    writeln!(io::stdout().lock(), "{}", terminal::escape_lines(&text, has_colours(Stream::Stdout)))
}

/// Returns true if the colour functions change a text.
fn has_colours(stream: Stream) -> bool {
    "x".if_supports_color(stream, |text| text.red()).to_string() != "x"
}

/// Writes bytes to standard output without changing them.
pub fn raw(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Prints a JSON value on one line of standard output.
pub fn json(value: &impl Serialize) {
    let _ = try_json(value);
}

/// Prints a JSON value on one line of standard output and returns false if the reader has closed it.
pub fn try_json(value: &impl Serialize) -> bool {
    let mut stdout = io::stdout().lock();
    serde_json::to_string(value).is_ok_and(|json| {
        writeln!(stdout, "{}", terminal::escape_json(&json)).and_then(|()| stdout.flush()).is_ok()
    })
}

/// Prints an indented JSON value on standard output.
pub fn pretty_json(value: &impl Serialize) {
    if let Ok(json) = serde_json::to_string_pretty(value) {
        let _ = writeln!(io::stdout().lock(), "{}", terminal::escape_json(&json));
    }
}

/// Prints each line of an error message on standard error; nothing if the message is empty.
pub fn error(text: &str) {
    if text.is_empty() {
        return;
    }
    let mut stderr = io::stderr().lock();
    let label = "error:".if_supports_color(Stream::Stderr, |label| label.red()).to_string();
    for text in text.lines() {
        let _ = writeln!(stderr, "{label} {}", terminal::escape(text));
    }
}

/// Prints a remark that is not a result on standard error.
pub fn note(text: &str) {
    let text = terminal::escape_lines(text, false);
    let text = text.if_supports_color(Stream::Stderr, |text| text.dimmed()).to_string();
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Colours a success.
pub fn green(text: impl Display) -> String {
    sanitize(&text.to_string()).if_supports_color(Stream::Stdout, |text| text.green()).to_string()
}

/// Colours a warning.
pub fn yellow(text: impl Display) -> String {
    sanitize(&text.to_string()).if_supports_color(Stream::Stdout, |text| text.yellow()).to_string()
}

/// Colours a failure.
pub fn red(text: impl Display) -> String {
    sanitize(&text.to_string()).if_supports_color(Stream::Stdout, |text| text.red()).to_string()
}

/// Dims text of minor importance.
pub fn dimmed(text: impl Display) -> String {
    sanitize(&text.to_string()).if_supports_color(Stream::Stdout, |text| text.dimmed()).to_string()
}

/// Emphasizes text.
pub fn bold(text: impl Display) -> String {
    sanitize(&text.to_string()).if_supports_color(Stream::Stdout, |text| text.bold()).to_string()
}

/// Escapes text from outside that must stay on one line and must not look like polyhook's own colours.
pub fn sanitize(text: &str) -> String {
    terminal::escape(text).into_owned()
}
