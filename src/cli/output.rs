//! Prints results on standard output and errors on standard error.
//!
//! Colours are used only on a terminal and not if `NO_COLOR` is set. A closed pipe is not an error: the command
//! continues without output.

use std::{
    fmt::Display,
    io::{self, Write},
};

use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

/// Prints a line on standard output.
pub fn line(text: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{text}");
}

/// Prints a line on standard output and returns false if the reader has closed it.
pub fn try_line(text: impl Display) -> bool {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).is_ok()
}

/// Writes bytes to standard output without changing them.
pub fn raw(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}

/// Prints a JSON value on one line of standard output.
pub fn json(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        line(text);
    }
}

/// Prints an indented JSON value on standard output.
pub fn pretty_json(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        line(text);
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
        let _ = writeln!(stderr, "{label} {text}");
    }
}

/// Prints a remark that is not a result on standard error.
pub fn note(text: &str) {
    let text = text.if_supports_color(Stream::Stderr, |text| text.dimmed()).to_string();
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Colours a success.
pub fn green(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.green()).to_string()
}

/// Colours a warning.
pub fn yellow(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.yellow()).to_string()
}

/// Colours a failure.
pub fn red(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.red()).to_string()
}

/// Dims text of minor importance.
pub fn dimmed(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.dimmed()).to_string()
}

/// Emphasizes text.
pub fn bold(text: impl Display) -> String {
    text.to_string().if_supports_color(Stream::Stdout, |text| text.bold()).to_string()
}

/// Replaces control characters except tabs. Text from outside could otherwise change the terminal.
pub fn sanitize(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}
