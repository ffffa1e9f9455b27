//! Prints results on standard output and errors on standard error.
//!
//! Everything that is printed passes [`terminal`], because ids, reasons and names may come from anybody. Only this module's
//! own colours pass it; they are used only on a terminal and not if `NO_COLOR` is set. A closed pipe is not an error: the
//! command continues without output. After any other failed write the command exits with code 1, see [`failure`].

use std::{
    fmt::Display,
    io::{self, Write},
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use console::{Term, measure_text_width, truncate_str};
use owo_colors::{OwoColorize, Stream};
use serde::Serialize;

use crate::terminal;
pub use crate::wording::{counted, plural};

/// Time that the end of a process, and a service, wait for the reader of standard output. A terminal that was stopped with
/// Ctrl-S, or a pager, takes no text until it continues.
const READER_TIMEOUT: Duration = Duration::from_millis(500);

/// The first error of a write to standard output, other than a closed pipe.
static FAILURE: OnceLock<String> = OnceLock::new();

/// Returns why a part of the output is lost. A closed pipe is not a failure: its reader has seen enough.
pub fn failure() -> Option<&'static str> {
    // Only what a failed write has left is still to be written. Another thread may hang in a write, and then this would, too.
    let _ = detached(|| written(&io::stdout().flush())).recv_timeout(READER_TIMEOUT);
    FAILURE.get().map(String::as_str)
}

/// Prints lines on standard output, for a service. If their reader does not take them in time, returns, and a thread continues
/// to wait for it.
pub async fn lines_without_waiting(lines: Vec<String>) {
    let printed = detached(move || line(lines.join("\n")));
    let _ = tokio::task::spawn_blocking(move || printed.recv_timeout(READER_TIMEOUT)).await;
}

/// Runs `write` on a thread that does not keep the process from ending, and sends its result.
fn detached<T: Send + 'static>(write: impl FnOnce() -> T + Send + 'static) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    // Without a thread there is nothing to wait for: the sender is dropped.
    let _ = thread::Builder::new().name("output".to_owned()).spawn(move || sender.send(write()));
    receiver
}

/// Keeps the error of a write to standard output. Returns false if it failed.
fn written(result: &io::Result<()>) -> bool {
    if let Err(error) = result
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        FAILURE.get_or_init(|| error.to_string());
    }
    result.is_ok()
}

/// Prints a line on standard output.
pub fn line(text: impl Display) {
    written(&write_line(text));
}

/// Prints a line on standard output and returns false if the output is closed or full.
pub fn try_line(text: impl Display) -> bool {
    written(&write_line(text).and_then(|()| io::stdout().flush()))
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
    written(&stdout.write_all(bytes).and_then(|()| stdout.flush()));
}

/// Prints a help text or the version on standard output, as clap lays it out.
pub fn help(text: &clap::Error) {
    written(&text.print().and_then(|()| io::stdout().flush()));
}

/// Prints a JSON value on one line of standard output.
pub fn json(value: &impl Serialize) {
    try_json(value);
}

/// Prints a JSON value on one line of standard output and returns false if the output is closed or full.
pub fn try_json(value: &impl Serialize) -> bool {
    write_json(serde_json::to_string(value))
}

/// Prints an indented JSON value on standard output.
pub fn pretty_json(value: &impl Serialize) {
    write_json(serde_json::to_string_pretty(value));
}

fn write_json(json: serde_json::Result<String>) -> bool {
    let mut stdout = io::stdout().lock();
    let result = json.map_err(io::Error::from);
    written(
        &result.and_then(|json| {
            writeln!(stdout, "{}", terminal::escape_json(&json)).and_then(|()| stdout.flush())
        }),
    )
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

/// Returns the width of the lines that standard output shows; `None` if it is not a terminal, or does not say.
pub fn terminal_width() -> Option<usize> {
    Term::stdout().size_checked().map(|(_, columns)| usize::from(columns))
}

/// Prints a remark that is not a result on standard error.
pub fn note(text: &str) {
    let text = terminal::escape_lines(text, false);
    let text = text.if_supports_color(Stream::Stderr, |text| text.dimmed()).to_string();
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Wraps a text between words into lines of at most `width` columns, which must not be 0. A command in backticks stays in
/// one piece, and a word that is too long is cut.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words(text, width) {
        match lines.last_mut() {
            Some(line) if measure_text_width(line) + 1 + measure_text_width(&word) <= width => {
                line.push(' ');
                line.push_str(&word);
            }
            _ => lines.push(word),
        }
    }
    lines
}

/// Splits a text at spaces. A command in backticks stays in one piece. A word that is too long is cut into several.
fn words(text: &str, width: usize) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    for word in text.split(' ') {
        let is_open = |last: &String| last.matches('`').count() % 2 == 1;
        match words.last_mut().filter(|last| is_open(last)) {
            Some(last) if measure_text_width(last) + 1 + measure_text_width(word) <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => {
                let mut rest = word;
                while measure_text_width(rest) > width {
                    let (start, end) = rest.split_at(truncate_str(rest, width, "").len());
                    words.push(start.to_owned());
                    rest = end;
                }
                words.push(rest.to_owned());
            }
        }
    }
    words
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
